//! The properties that every executor has.

use crate::case::{Case, Executor, Spec, Values};
use crate::number::{Number, for_all_types};
use crate::oracle::{columns, compare};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use twofour::compress::{Compressed, Layout, Sparsity};
use twofour::sparse::Path;
use twofour::{E4m3, Shape, bf16, f16};

/// A case of any type, as a number.
fn check_type<E: Executor>(types: usize, spec: Spec, executor: &E) {
    match types {
        0 => check::<f16, E>(executor, spec),
        1 => check::<bf16, E>(executor, spec),
        2 => check::<f32, E>(executor, spec),
        3 => check::<i8, E>(executor, spec),
        _ => check::<E4m3, E>(executor, spec),
    }
}

fn check<T: Number, E: Executor>(executor: &E, spec: Spec) {
    let case = Case::<T>::new(spec);
    if let Some(y) = executor.run(&case) {
        compare(&case, &y, executor);
    }
}

const PATHS: [Option<Path>; 4] = [None, Some(Path::Small), Some(Path::Tile), Some(Path::Dense)];

pub(crate) fn specs() -> impl Strategy<Value = Spec> {
    let tokens = prop_oneof![4 => 0..=20usize, 2 => 20..=70usize, 1 => 120..=140usize];
    let groups = prop_oneof![4 => 1..=24usize, 1 => 25..=150usize];
    let shape = (1..=50usize, groups).prop_map(|(rows, groups)| Shape::new(rows, 4 * groups));
    let layout = prop_oneof![4 => Just(Layout::CutlassSm80), 1 => (0..Layout::ALL.len()).prop_map(|i| Layout::ALL[i])];
    let paths = [&PATHS[..], &[Some(Path::Cusparselt)]].concat();
    let path = (0..paths.len()).prop_map(move |i| paths[i]);
    (tokens, shape, any::<bool>(), layout, path, any::<bool>(), any::<u64>()).prop_map(
        |(tokens, shape, bias, layout, path, dense, seed)| Spec {
            tokens,
            shape,
            bias,
            layout,
            path,
            dense,
            values: Values::Normal,
            seed,
        },
    )
}

pub(crate) fn any_problem_is_within_its_bound<E: Executor>(executor: &E) {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(400) });
    let problems = (specs(), 0..5usize);
    let run = |(spec, types)| {
        check_type(types, spec, executor);
        Ok(())
    };
    runner.run(&problems, run).unwrap();
}

pub(crate) fn tokens_at_the_edges<E: Executor>(executor: &E) {
    for tokens in [0, 1, 7, 8, 9, 16, 17, 127, 128, 129] {
        for path in PATHS {
            for_all_types!(check(executor, Spec { path, ..Spec::new(tokens, 20, 68) }));
        }
    }
}

/// Around tiles of metadata, and of own kernels.
pub(crate) fn sizes_at_the_edges<E: Executor>(executor: &E) {
    for (rows, cols) in [(1, 4), (3, 8), (15, 12), (16, 32), (17, 36), (33, 64), (64, 128), (129, 132), (130, 260)] {
        for path in PATHS {
            for_all_types!(check(executor, Spec { path, ..Spec::new(5, rows, cols) }));
            for_all_types!(check(executor, Spec { path, bias: false, ..Spec::new(31, rows, cols) }));
        }
    }
    // Where cuSPARSELt serves, its layouts included.
    for (rows, cols) in [(32, 64), (96, 32), (256, 128), (320, 96), (384, 192)] {
        for bias in [false, true] {
            let spec = Spec { path: Some(Path::Cusparselt), bias, ..Spec::new(32, rows, cols) };
            for_all_types!(check(executor, spec));
        }
    }
}

/// Empty sums leave the bias, or zero; and nothing is nothing.
pub(crate) fn nothing_to_multiply<E: Executor>(executor: &E) {
    for (tokens, rows, cols) in [(0, 8, 16), (3, 0, 16), (3, 8, 0), (40, 8, 0), (0, 0, 0)] {
        for bias in [false, true] {
            for path in PATHS {
                for_all_types!(check(executor, Spec { path, bias, ..Spec::new(tokens, rows, cols) }));
            }
        }
    }
}

pub(crate) fn small_integers_are_exact<E: Executor>(executor: &E) {
    fn exact<T: Number, E: Executor>(executor: &E, spec: Spec) {
        let case = Case::<T>::new(spec);
        let Some(y) = executor.run(&case) else { return };
        let (n, k) = (spec.shape.rows, spec.shape.cols);
        for (i, y) in y.iter().enumerate() {
            let (token, row) = (i / n, i % n);
            let terms = columns(&case, row).into_iter().zip(&case.weight.values()[row * k / 2..]);
            let sum: f64 = terms.map(|(column, kept)| kept.number() * case.x[token * k + column].number()).sum();
            assert_eq!(T::result(*y), sum + T::result(case.bias[row]), "{spec:?}: y[{token}, {row}]");
        }
    }
    for tokens in [3, 29] {
        for path in PATHS {
            // Sums stay below 256, which bf16 holds.
            for_all_types!(exact(executor, Spec { path, values: Values::Integers, ..Spec::new(tokens, 37, 100) }));
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
pub(crate) fn the_bias_is_added_before_rounding<E: Executor>(executor: &E) {
    fn rounded<T: Number, E: Executor>(executor: &E, path: Option<Path>, at: f32) {
        for tokens in [2, 40] {
            let mut case = first_kept::<T>(Spec { path, ..Spec::new(tokens, 16, 32) }, &[1.0]);
            case.x.fill(T::of(0.0));
            for x in case.x.chunks_mut(32) {
                (x[0], x[4]) = (T::of(at), T::of(1.0));
            }
            case.bias.fill(T::output(1.0));
            if let Some(y) = executor.run(&case) {
                assert!(y.iter().all(|y| T::result(*y) == f64::from(at) + 2.0), "{path:?}: {:?}", y[0]);
            }
        }
    }
    for path in PATHS {
        rounded::<f16, E>(executor, path, 2048.0);
        rounded::<bf16, E>(executor, path, 256.0);
    }
}

/// `-0.0` as a weight or an activation is a zero, and subnormal numbers are numbers.
pub(crate) fn signs_and_subnormals_come_through<E: Executor>(executor: &E) {
    fn tiny<T: Number, E: Executor>(executor: &E, least: f32) {
        for path in PATHS {
            for tokens in [1, 40] {
                let spec = Spec { path, bias: false, ..Spec::new(tokens, 16, 32) };
                let mut case = first_kept::<T>(spec, &[1.0, -0.0]);
                case.x.fill(T::of(-0.0));
                case.x.iter_mut().step_by(32).for_each(|x| *x = T::of(least));
                let Some(y) = executor.run(&case) else { continue };
                assert!(y.iter().all(|y| T::result(*y) == f64::from(least)), "{path:?} {tokens}: {:?}", y[0]);
            }
        }
    }
    tiny::<f16, E>(executor, f32::powi(2.0, -24));
    tiny::<E4m3, E>(executor, f32::powi(2.0, -9));
    // Of these two the least normal one: what tensor cores make of others is not documented.
    tiny::<bf16, E>(executor, f32::powi(2.0, -126));
    tiny::<f32, E>(executor, f32::powi(2.0, -126));
}

/// A NaN or an infinity beside a dropped weight reaches nothing, except through a dense product.
pub(crate) fn what_is_dropped_does_not_count<E: Executor>(executor: &E) {
    fn dropped<T: Number, E: Executor>(executor: &E, path: Option<Path>, tokens: usize, value: f32) {
        let clean = first_kept::<T>(Spec { path, values: Values::Integers, ..Spec::new(tokens, 18, 64) }, &[1.0, -1.0]);
        let mut case = clean.clone();
        // The last of its group.
        case.x[64 * (tokens - 1) + 7] = T::of(value);
        let (Some(before), Some(y)) = (executor.run(&clean), executor.run(&case)) else { return };
        let dense = executor.is_dense(&case);
        for (i, (y, before)) in y.iter().zip(&before).enumerate() {
            let (y, before) = (T::result(*y), T::result(*before));
            match dense && i / 18 == tokens - 1 {
                true => assert!(y.is_nan(), "{path:?} y[{i}] is {y}"),
                false => assert_eq!(y, before, "{path:?} y[{i}]"),
            }
        }
    }
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for tokens in [1, 3, 40, 130] {
            for path in PATHS {
                dropped::<f16, E>(executor, path, tokens, value);
                dropped::<bf16, E>(executor, path, tokens, value);
                dropped::<f32, E>(executor, path, tokens, value);
                dropped::<E4m3, E>(executor, path, tokens, value);
            }
        }
    }
}

/// Beside a kept weight it reaches that row of the weight, even if the weight is zero; and so does one in the weight.
pub(crate) fn what_is_kept_does<E: Executor>(executor: &E) {
    fn kept<T: Number, E: Executor>(executor: &E, path: Option<Path>, tokens: usize, value: f32) {
        let spec = Spec { path, values: Values::Integers, ..Spec::new(tokens, 18, 64) };
        let mut case = first_kept::<T>(spec, &[1.0]);
        let (token, mut values) = (tokens - 1, case.weight.values().to_vec());
        // The second kept value of row 3 is that of column 1 of a group of four, of column 2 of pairs.
        values[3 * 32 + 1] = T::of(0.0);
        case.weight = Compressed::new(spec.shape, values, case.weight.codes().to_vec()).unwrap();
        let column = columns(&case, 3)[1];
        case.x[64 * token + column] = T::of(value);
        let Some(y) = executor.run(&case) else { return };
        for (i, y) in y.iter().enumerate() {
            let y = T::result(*y);
            match (i / 18 == token, i % 18 == 3) {
                (false, _) => assert!(y.is_finite(), "{path:?} y[{i}] is {y}"),
                (true, true) => assert!(y.is_nan(), "{path:?} y[{i}] is {y}"),
                (true, false) if T::of(value).number().is_nan() => assert!(y.is_nan(), "{path:?} y[{i}] is {y}"),
                (true, false) => assert_eq!(y, f64::from(value), "{path:?} y[{i}]"),
            }
        }

        let mut case = first_kept::<T>(spec, &[1.0]);
        case.x.fill(T::of(1.0));
        let mut values = case.weight.values().to_vec();
        values[5 * 32 + 9] = T::of(value);
        case.weight = Compressed::new(spec.shape, values, case.weight.codes().to_vec()).unwrap();
        let y = executor.run(&case).unwrap();
        assert!(y.iter().enumerate().all(|(i, y)| T::result(*y).is_finite() == (i % 18 != 5)), "{path:?}");
    }
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for tokens in [1, 3, 40, 130] {
            for path in PATHS {
                kept::<f16, E>(executor, path, tokens, value);
                kept::<bf16, E>(executor, path, tokens, value);
                kept::<f32, E>(executor, path, tokens, value);
                kept::<E4m3, E>(executor, path, tokens, value);
            }
        }
    }
}

/// Beyond `i32`, modulo 2³².
pub(crate) fn integers_wrap<E: Executor>(executor: &E) {
    for tokens in [1, 9, 130] {
        for path in PATHS {
            let mut case = first_kept::<i8>(Spec { path, ..Spec::new(tokens, 16, 64) }, &[-128.0]);
            case.x.fill(-128);
            case.bias.fill(i32::MAX);
            let Some(y) = executor.run(&case) else { continue };
            assert!(y.iter().all(|y| *y == i32::MAX.wrapping_add(32 * 128 * 128)), "{path:?}: {}", y[0]);
            compare(&case, &y, executor);
        }
    }
}
