//! The properties that every executor has.

use crate::case::{Case, Packs, Spec, Values};
use crate::common::{Counts, everywhere_tests, for_all};
use crate::number::{Number, for_all_types};
use crate::oracle::{columns, compare};
use proptest::prelude::*;
use twofour::compress::{Compressed, Layout, Sparsity};
use twofour::sparse::Route;
use twofour::{E4m3, Shape, bf16, f16};

/// A case of any type, as a number.
fn check_type(on: &mut impl Packs, (spec, types): &(Spec, usize)) {
    match types {
        0 => check::<f16>(on, *spec),
        1 => check::<bf16>(on, *spec),
        2 => check::<f32>(on, *spec),
        3 => check::<i8>(on, *spec),
        _ => check::<E4m3>(on, *spec),
    }
}

fn check<T: Number>(on: &mut impl Packs, spec: Spec) {
    let case = Case::<T>::new(spec);
    if let Some(y) = case.run(on) {
        compare(&case, &y, on);
    }
}

const ROUTES: [Option<Route>; 4] = [None, Some(Route::Small), Some(Route::Tile), Some(Route::Dense)];

fn specs() -> impl Strategy<Value = Spec> {
    let tokens = prop_oneof![4 => 0..=20usize, 2 => 20..=70usize, 1 => 120..=140usize];
    let groups = prop_oneof![4 => 1..=24usize, 1 => 25..=150usize];
    let shape = (1..=50usize, groups).prop_map(|(rows, groups)| Shape::new(rows, 4 * groups));
    let layout = prop_oneof![4 => Just(Layout::CutlassSm80), 1 => (0..Layout::ALL.len()).prop_map(|i| Layout::ALL[i])];
    let routes = [&ROUTES[..], &[Some(Route::Cusparselt)]].concat();
    let route = (0..routes.len()).prop_map(move |i| routes[i]);
    (tokens, shape, any::<bool>(), layout, route, any::<bool>(), any::<u64>()).prop_map(
        |(tokens, shape, bias, layout, route, dense, seed)| Spec {
            tokens,
            shape,
            bias,
            layout,
            route,
            dense,
            values: Values::Normal,
            seed,
        },
    )
}

#[test]
fn any_problem_is_within_its_bound() {
    for_all!(check_type, Counts { cpu: 400, emulator: 400, gpu: 400 }, (specs(), 0..5usize));
}

fn tokens_at_the_edges(on: &mut impl Packs) {
    for tokens in [0, 1, 7, 8, 9, 16, 17, 127, 128, 129] {
        for route in ROUTES {
            for_all_types!(check(on, Spec { route, ..Spec::new(tokens, 20, 68) }));
        }
    }
}

/// Around tiles of metadata, and of own kernels.
fn sizes_at_the_edges(on: &mut impl Packs) {
    for (rows, cols) in [(1, 4), (3, 8), (15, 12), (16, 32), (17, 36), (33, 64), (64, 128), (129, 132), (130, 260)] {
        for route in ROUTES {
            for_all_types!(check(on, Spec { route, ..Spec::new(5, rows, cols) }));
            for_all_types!(check(on, Spec { route, bias: false, ..Spec::new(31, rows, cols) }));
        }
    }
    // Where cuSPARSELt serves, its layouts included.
    for (rows, cols) in [(32, 64), (96, 32), (256, 128), (320, 96), (384, 192)] {
        for bias in [false, true] {
            let spec = Spec { route: Some(Route::Cusparselt), bias, ..Spec::new(32, rows, cols) };
            for_all_types!(check(on, spec));
        }
    }
}

/// Empty sums leave the bias, or zero; and nothing is nothing.
fn nothing_to_multiply(on: &mut impl Packs) {
    for (tokens, rows, cols) in [(0, 8, 16), (3, 0, 16), (3, 8, 0), (40, 8, 0), (0, 0, 0)] {
        for bias in [false, true] {
            for route in ROUTES {
                for_all_types!(check(on, Spec { route, bias, ..Spec::new(tokens, rows, cols) }));
            }
        }
    }
}

fn small_integers_are_exact(on: &mut impl Packs) {
    fn exact<T: Number>(on: &mut impl Packs, spec: Spec) {
        let case = Case::<T>::new(spec);
        let Some(y) = case.run(on) else { return };
        let (n, k) = (spec.shape.rows, spec.shape.cols);
        for (i, y) in y.iter().enumerate() {
            let (token, row) = (i / n, i % n);
            let terms = columns(&case, row).into_iter().zip(&case.weight.values()[row * k / 2..]);
            let sum: f64 = terms.map(|(column, kept)| kept.number() * case.x[token * k + column].number()).sum();
            assert_eq!(T::result(*y), sum + T::result(case.bias[row]), "{spec:?}: y[{token}, {row}]");
        }
    }
    for tokens in [3, 29] {
        for route in ROUTES {
            // Sums stay below 256, which bf16 holds.
            for_all_types!(exact(on, Spec { route, values: Values::Integers, ..Spec::new(tokens, 37, 100) }));
        }
    }
}

/// A weight that keeps the first of every group, and the second of a group of four.
fn first_kept<T: Number>(spec: Spec, kept: &[f32]) -> Case<T> {
    let codes = vec![0x44; Sparsity::of(T::DTYPE).packed_codes(spec.shape)];
    let kept = kept.iter().cycle().take(spec.shape.weights() / 2).map(|&value| T::of(value)).collect();
    Case { weight: Compressed::new(spec.shape, kept, codes).unwrap(), ..Case::new(spec) }
}

/// One more than the type holds, and one more by the bias: together it holds them.
fn the_bias_is_added_before_rounding(on: &mut impl Packs) {
    fn rounded<T: Number>(on: &mut impl Packs, route: Option<Route>, at: f32) {
        for tokens in [2, 40] {
            let mut case = first_kept::<T>(Spec { route, ..Spec::new(tokens, 16, 32) }, &[1.0]);
            case.x.fill(T::of(0.0));
            for x in case.x.chunks_mut(32) {
                (x[0], x[4]) = (T::of(at), T::of(1.0));
            }
            case.bias.fill(T::output(1.0));
            if let Some(y) = case.run(on) {
                assert!(y.iter().all(|y| T::result(*y) == f64::from(at) + 2.0), "{route:?}: {:?}", y[0]);
            }
        }
    }
    for route in ROUTES {
        rounded::<f16>(on, route, 2048.0);
        rounded::<bf16>(on, route, 256.0);
    }
}

/// `-0.0` as a weight or an activation is a zero, and subnormal numbers are numbers.
fn signs_and_subnormals_come_through(on: &mut impl Packs) {
    fn tiny<T: Number>(on: &mut impl Packs, least: f32) {
        for route in ROUTES {
            for tokens in [1, 40] {
                let spec = Spec { route, bias: false, ..Spec::new(tokens, 16, 32) };
                let mut case = first_kept::<T>(spec, &[1.0, -0.0]);
                case.x.fill(T::of(-0.0));
                case.x.iter_mut().step_by(32).for_each(|x| *x = T::of(least));
                let Some(y) = case.run(on) else { continue };
                assert!(y.iter().all(|y| T::result(*y) == f64::from(least)), "{route:?} {tokens}: {:?}", y[0]);
            }
        }
    }
    tiny::<f16>(on, f32::powi(2.0, -24));
    tiny::<E4m3>(on, f32::powi(2.0, -9));
    // Of these two the least normal one: what tensor cores make of others is not documented.
    tiny::<bf16>(on, f32::powi(2.0, -126));
    tiny::<f32>(on, f32::powi(2.0, -126));
}

/// A NaN or an infinity beside a dropped weight reaches nothing, except through a dense product.
fn what_is_dropped_does_not_count(on: &mut impl Packs) {
    fn dropped<T: Number>(on: &mut impl Packs, route: Option<Route>, tokens: usize, value: f32) {
        let clean =
            first_kept::<T>(Spec { route, values: Values::Integers, ..Spec::new(tokens, 18, 64) }, &[1.0, -1.0]);
        let mut case = clean.clone();
        // The last of its group.
        case.x[64 * (tokens - 1) + 7] = T::of(value);
        let (Some(before), Some(y)) = (clean.run(on), case.run(on)) else { return };
        let dense = case.is_dense(on);
        for (i, (y, before)) in y.iter().zip(&before).enumerate() {
            let (y, before) = (T::result(*y), T::result(*before));
            match dense && i / 18 == tokens - 1 {
                true => assert!(y.is_nan(), "{route:?} y[{i}] is {y}"),
                false => assert_eq!(y, before, "{route:?} y[{i}]"),
            }
        }
    }
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for tokens in [1, 3, 40, 130] {
            for route in ROUTES {
                dropped::<f16>(on, route, tokens, value);
                dropped::<bf16>(on, route, tokens, value);
                dropped::<f32>(on, route, tokens, value);
                dropped::<E4m3>(on, route, tokens, value);
            }
        }
    }
}

/// Beside a kept weight it reaches that row of the weight, even if the weight is zero; and so does one in the weight.
fn what_is_kept_does(on: &mut impl Packs) {
    fn kept<T: Number>(on: &mut impl Packs, route: Option<Route>, tokens: usize, value: f32) {
        let spec = Spec { route, values: Values::Integers, ..Spec::new(tokens, 18, 64) };
        let mut case = first_kept::<T>(spec, &[1.0]);
        let (token, mut values) = (tokens - 1, case.weight.values().to_vec());
        // The second kept value of row 3 is that of column 1 of a group of four, of column 2 of pairs.
        values[3 * 32 + 1] = T::of(0.0);
        case.weight = Compressed::new(spec.shape, values, case.weight.codes().to_vec()).unwrap();
        let column = columns(&case, 3)[1];
        case.x[64 * token + column] = T::of(value);
        let Some(y) = case.run(on) else { return };
        for (i, y) in y.iter().enumerate() {
            let y = T::result(*y);
            match (i / 18 == token, i % 18 == 3) {
                (false, _) => assert!(y.is_finite(), "{route:?} y[{i}] is {y}"),
                (true, true) => assert!(y.is_nan(), "{route:?} y[{i}] is {y}"),
                (true, false) if T::of(value).number().is_nan() => assert!(y.is_nan(), "{route:?} y[{i}] is {y}"),
                (true, false) => assert_eq!(y, f64::from(value), "{route:?} y[{i}]"),
            }
        }

        let mut case = first_kept::<T>(spec, &[1.0]);
        case.x.fill(T::of(1.0));
        let mut values = case.weight.values().to_vec();
        values[5 * 32 + 9] = T::of(value);
        case.weight = Compressed::new(spec.shape, values, case.weight.codes().to_vec()).unwrap();
        let y = case.run(on).unwrap();
        assert!(y.iter().enumerate().all(|(i, y)| T::result(*y).is_finite() == (i % 18 != 5)), "{route:?}");
    }
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for tokens in [1, 3, 40, 130] {
            for route in ROUTES {
                kept::<f16>(on, route, tokens, value);
                kept::<bf16>(on, route, tokens, value);
                kept::<f32>(on, route, tokens, value);
                kept::<E4m3>(on, route, tokens, value);
            }
        }
    }
}

/// Beyond `i32`, modulo 2³².
fn integers_wrap(on: &mut impl Packs) {
    for tokens in [1, 9, 130] {
        for route in ROUTES {
            let mut case = first_kept::<i8>(Spec { route, ..Spec::new(tokens, 16, 64) }, &[-128.0]);
            case.x.fill(-128);
            case.bias.fill(i32::MAX);
            let Some(y) = case.run(on) else { continue };
            assert!(y.iter().all(|y| *y == i32::MAX.wrapping_add(32 * 128 * 128)), "{route:?}: {}", y[0]);
            compare(&case, &y, on);
        }
    }
}

everywhere_tests!(
    tokens_at_the_edges,
    sizes_at_the_edges,
    nothing_to_multiply,
    small_integers_are_exact,
    the_bias_is_added_before_rounding,
    signs_and_subnormals_come_through,
    what_is_dropped_does_not_count,
    what_is_kept_does,
    integers_wrap,
);
