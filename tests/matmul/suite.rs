//! The properties, over any executor.

use crate::case::{Case, Outputs, Spec, Values, Ways};
use crate::executor::{Executor, same};
use crate::oracle::{compare, loss};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
use twofour::mask::{Kind, Sampling};
use twofour::matmul::{Dense, InputPath, Keep, LogitPath, OutputPath};
use twofour::{Float, Logit, Shape, Shard, bf16, f16};

/// Runs a generic function for each pair of types.
macro_rules! for_all_types {
    ($function:ident($($argument:expr),*)) => {
        $function::<f32, f32, _>($($argument),*);
        $function::<f32, f16, _>($($argument),*);
        $function::<f32, bf16, _>($($argument),*);
        $function::<bf16, f32, _>($($argument),*);
        $function::<bf16, f16, _>($($argument),*);
        $function::<bf16, bf16, _>($($argument),*);
    };
}

fn check<L: Logit, W: Float, E: Executor>(executor: &E, spec: Spec) {
    let case = Case::<L, W>::new(spec);
    compare(&case, &executor.run(&case), E::UNIT);
}

/// Problems smaller than a tile, with every way and everything that can be kept.
pub(crate) fn specs() -> impl Strategy<Value = Spec> {
    let sizes = (0..40usize, 0..24usize, 0..20usize);
    let kind = prop_oneof![Just(Kind::Soft), Just(Kind::Hard), Just(Kind::Argmax)];
    let kappa = prop_oneof![Just(0.0f32), Just(1.0), Just(20.0), Just(500.0)];
    let tau = prop_oneof![Just(0.05f32), Just(1.0), Just(4.0)];
    let lambda = prop_oneof![Just(0.0f32), Just(0.01), Just(-3.0)];
    let sampling = (any::<u64>(), any::<u64>(), kappa, tau);
    let sampling = sampling.prop_map(|(seed, draw, kappa, tau)| Sampling { seed, draw, kappa, tau });
    let keep = prop_oneof![Just(Keep::Nothing), Just(Keep::Masked), Just(Keep::Codes)];
    let frozen = prop::bool::weighted(0.2);
    (sizes, kind, sampling, lambda, any::<bool>(), (keep, frozen, ways()), any::<u64>()).prop_map(
        |((tokens, rows, groups), kind, sampling, regulariser, accumulate, (keep, frozen, ways), seed)| Spec {
            tokens,
            shape: Shape::new(rows, 4 * groups),
            kind,
            sampling,
            regulariser,
            accumulate,
            keep,
            frozen,
            ways,
            wants: [true; 3],
            values: Values::Normal,
            seed,
        },
    )
}

fn ways() -> impl Strategy<Value = Ways> {
    use prop::sample::select;
    let denses = [Dense::BlasLt, Dense::Own];
    let output = [OutputPath::Sampled, OutputPath::Codes].into_iter().chain(denses.map(OutputPath::Masked));
    let input = [InputPath::Codes].into_iter().chain(denses.map(InputPath::Masked));
    let logits = [LogitPath::Fused].into_iter().chain(denses.map(LogitPath::Panels));
    let output = prop::option::of(select(output.collect::<Vec<_>>()));
    let input = prop::option::of(select(input.collect::<Vec<_>>()));
    let logits = prop::option::of(select(logits.collect::<Vec<_>>()));
    let panel_rows = prop::option::of(1..20usize);
    (output, input, logits, panel_rows).prop_map(|(output, input, logits, panel_rows)| Ways {
        output,
        input,
        logits,
        panel_rows,
    })
}

pub(crate) fn any_problem_is_within_its_bound<E: Executor>(executor: &E) {
    let config = Config {
        cases: 128,
        source_file: Some("tests/matmul.rs"),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..Config::default()
    };
    let property = |spec| {
        for_all_types!(check(executor, spec));
        Ok(())
    };
    TestRunner::new(config).run(&specs(), property).unwrap();
}

pub(crate) fn sizes_at_the_edges<E: Executor>(executor: &E) {
    for tokens in [0, 1, 7, 129] {
        for (rows, cols) in [(1, 4), (1, 260), (33, 4), (65, 68)] {
            for kind in [Kind::Soft, Kind::Hard] {
                for_all_types!(check(executor, Spec::new(tokens, rows, cols, kind)));
            }
        }
    }
}

pub(crate) fn nothing_to_multiply<E: Executor>(executor: &E) {
    for (tokens, rows, cols) in [(0, 0, 0), (3, 0, 8), (3, 5, 0), (0, 5, 8)] {
        for kind in [Kind::Soft, Kind::Hard, Kind::Argmax] {
            for accumulate in [false, true] {
                let keep = if accumulate { Keep::Masked } else { Keep::Nothing };
                let spec = Spec { accumulate, keep, ..Spec::new(tokens, rows, cols, kind) };
                for_all_types!(check(executor, spec));
            }
        }
    }
}

/// Beyond a tile in every direction, and beyond a slab of the contraction in each product.
pub(crate) fn sizes_no_tile_divides<E: Executor>(executor: &E) {
    check::<f32, f32, _>(executor, Spec::new(257, 259, 516, Kind::Soft));
    check::<bf16, bf16, _>(executor, Spec::new(261, 513, 260, Kind::Hard));
    for (tokens, rows, cols) in [(3, 7, 2052), (5, 2051, 8), (2053, 3, 12)] {
        check::<f32, f32, _>(executor, Spec::new(tokens, rows, cols, Kind::Soft));
        check::<f32, bf16, _>(executor, Spec::new(tokens, rows, cols, Kind::Soft));
        check::<bf16, f16, _>(executor, Spec::new(tokens, rows, cols, Kind::Hard));
    }
}

/// Sums of so few small integers are exact in every type, in any order.
pub(crate) fn small_integers_are_exact<E: Executor>(executor: &E) {
    for kind in [Kind::Hard, Kind::Argmax] {
        for keep in [Keep::Nothing, Keep::Masked, Keep::Codes] {
            let spec = Spec { values: Values::Integers, keep, ..Spec::new(29, 37, 52, kind) };
            for_all_types!(exact(executor, spec));
        }
    }
}

fn exact<L: Logit, W: Float, E: Executor>(executor: &E, spec: Spec) {
    let case = Case::<L, W>::new(spec);
    let out = executor.run(&case);
    compare(&case, &out, E::UNIT);
    let [t, n, k] = [spec.tokens, spec.shape.rows, spec.shape.cols];
    let int = |values: &[W], at: usize| values[at].to_f32() as i64;
    let product =
        |depth, a: &dyn Fn(usize) -> i64, b: &dyn Fn(usize) -> i64| (0..depth).map(|d| a(d) * b(d)).sum::<i64>();
    for i in 0..t * n {
        let (row, col) = (i / n, i % n);
        let expected = product(k, &|d| int(&case.x, row * k + d), &|d| int(&out.masked, col * k + d));
        assert_eq!(out.y[i].to_f32(), expected as f32);
    }
    for i in 0..t * k {
        let (row, col) = (i / k, i % k);
        let expected = product(n, &|d| int(&case.dy, row * n + d), &|d| int(&out.masked, d * k + col));
        assert_eq!(out.dx[i].to_f32(), expected as f32);
    }
}

/// The logits' gradient against central differences of the loss in `f64`.
pub(crate) fn gradient_is_the_derivative_of_the_loss<E: Executor>(executor: &E) {
    let case = Case::<f32, f32>::new(Spec::new(3, 2, 12, Kind::Soft));
    let out = executor.run(&case);
    let logits: Vec<f64> = case.logits.iter().map(|&logit| f64::from(logit)).collect();
    let step = 1e-5;
    for (i, &got) in out.logit_gradient.iter().enumerate() {
        let moved = |by: f64| {
            let mut logits = logits.clone();
            logits[i] += by;
            loss(&case, &logits)
        };
        let slope = (moved(step) - moved(-step)) / (2.0 * step);
        let error = (f64::from(got) - slope).abs();
        // Scores here are f64, the executors' f32: the slope may differ by their rounding, 2^-24 of about 10.
        assert!(error <= 2e-5, "logit {i}: {got}, but the loss has slope {slope}");
    }
}

/// A slice of a layer has the mask of the whole.
pub(crate) fn shard_is_the_slice_of_the_whole<E: Executor>(executor: &E) {
    for kind in [Kind::Soft, Kind::Hard] {
        for_all_types!(slice(executor, Spec::new(5, 12, 40, kind)));
    }
}

fn slice<L: Logit, W: Float, E: Executor>(executor: &E, spec: Spec) {
    let whole = Case::<L, W>::new(spec);
    let all = executor.run(&whole);
    let (rows, cols) = (3..10, 8..28);
    let shape = Shape::new(rows.len(), cols.len());
    let mut part = Case::<L, W>::new(Spec { shape, ..spec });
    let lines = |from: &[W], width: usize, rows: std::ops::Range<usize>, cols: &std::ops::Range<usize>| -> Vec<W> {
        rows.flat_map(|row| from[row * width..][cols.clone()].to_vec()).collect()
    };
    part.shard = Shard { row_offset: 3, col_offset: 8, global_cols: 40 };
    part.weight = lines(&whole.weight, 40, rows.clone(), &cols);
    part.x = lines(&whole.x, 40, 0..spec.tokens, &cols);
    part.dy = lines(&whole.dy, 12, 0..spec.tokens, &rows);
    part.logits = rows.clone().flat_map(|row| whole.logits[row * 60 + 12..row * 60 + 42].to_vec()).collect();
    part.update_codes();
    let out = executor.run(&part);
    compare(&part, &out, E::UNIT);
    let expected = lines(&all.masked, 40, rows, &cols);
    assert!(out.masked.iter().zip(&expected).all(|(a, b)| same(*a, *b)));
    assert_eq!(out.masked.len(), expected.len());
}

/// What a hard mask drops does no harm, whatever it is; what it keeps goes through.
pub(crate) fn dropped_weights_do_no_harm<E: Executor>(executor: &E) {
    for kind in [Kind::Hard, Kind::Argmax] {
        for keep in [Keep::Nothing, Keep::Masked, Keep::Codes] {
            let spec = Spec { values: Values::Integers, keep, ..Spec::new(9, 6, 24, kind) };
            for_all_types!(dropped(executor, spec));
            for_all_types!(dropped(executor, Spec { frozen: true, ..spec }));
        }
    }
}

fn dropped<L: Logit, W: Float, E: Executor>(executor: &E, spec: Spec) {
    let mut case = Case::<L, W>::new(spec);
    // Ones, so that what is dropped can be read off the masked weight.
    case.weight.fill(W::from_f32(1.0));
    let clean = executor.run(&case);
    let specials = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    let mut dirty = case.clone();
    for (i, weight) in dirty.weight.iter_mut().enumerate().filter(|(i, _)| clean.masked[*i].to_f32() == 0.0) {
        *weight = W::from_f32(specials[i % 3]);
    }
    let out = executor.run(&dirty);
    let equal = |a: &[W], b: &[W]| a.iter().zip(b).all(|(a, b)| same(*a, *b));
    assert!(equal(&out.masked, &clean.masked) && equal(&out.y, &clean.y) && equal(&out.dx, &clean.dx));

    let kept = clean.masked.iter().position(|masked| masked.to_f32() == 1.0).unwrap();
    case.weight[kept] = W::from_f32(f32::NAN);
    case.x.fill(W::from_f32(1.0));
    let out = executor.run(&case);
    for (i, y) in out.y.iter().enumerate() {
        assert_eq!(y.to_f32().is_nan(), i % 6 == kept / 24, "y[{i}]");
    }
}

/// A NaN or an infinity reaches what a dense product lets it reach, and nothing else.
pub(crate) fn specials_go_through_as_in_a_dense_product<E: Executor>(executor: &E) {
    for keep in [Keep::Nothing, Keep::Masked, Keep::Codes] {
        for_all_types!(special(executor, keep, f32::NAN));
        for_all_types!(special(executor, keep, f32::INFINITY));
    }
}

fn special<L: Logit, W: Float, E: Executor>(executor: &E, keep: Keep, value: f32) {
    let (t, n, k) = (7, 9, 20);
    let clean = Case::<L, W>::new(Spec { keep, ..Spec::new(t, n, k, Kind::Hard) });
    let mut case = clean.clone();
    case.x[2 * k + 5] = W::from_f32(value);
    let Outputs { y, dx, logit_gradient, .. } = executor.run(&case);
    // A hard mask keeps position 5 in some rows of the weight and has a zero there in others: infinite or NaN either
    // way.
    assert_where("y", &y, |i| i / n == 2);
    assert_where("dx", &dx, |_| false);
    assert_where("logit_gradient", &logit_gradient, |i| i / 6 % (k / 4) == 1);

    let mut case = clean.clone();
    case.dy[4 * n + 1] = W::from_f32(value);
    let Outputs { y, dx, logit_gradient, .. } = executor.run(&case);
    assert_where("y", &y, |_| false);
    assert_where("dx", &dx, |i| i / k == 4);
    assert_where("logit_gradient", &logit_gradient, |i| i / 6 / (k / 4) == 1);

    let mut case = clean;
    case.logits[(3 * k / 4 + 2) * 6 + 1] = L::from_f32(f32::NAN);
    case.update_codes();
    let Outputs { masked, y, dx, logit_gradient, .. } = executor.run(&case);
    assert_where("masked", &masked, |i| i / 4 == 3 * k / 4 + 2);
    assert_where("y", &y, |i| i % n == 3);
    assert_where("dx", &dx, |i| (8..12).contains(&(i % k)));
    assert_where("logit_gradient", &logit_gradient, |i| i / 6 == 3 * k / 4 + 2);
}

fn assert_where<T: Float>(what: &str, values: &[T], not_finite: impl Fn(usize) -> bool) {
    for (i, value) in values.iter().enumerate() {
        assert_eq!(!value.to_f32().is_finite(), not_finite(i), "{what}[{i}] is {value:?}");
    }
}
