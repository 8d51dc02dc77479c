//! The properties, over any executor.

use crate::case::{Adds, Case, Outputs, Routes, Spec, Values};
use crate::common::{Counts, everywhere_tests, for_all, same};
use crate::oracle::{compare, loss};
use proptest::prelude::*;
use twofour::mask::{Kind, Sampling};
use twofour::matmul::{Dense, InputRoute, Keep, Layer, LogitRoute, OutputRoute};
use twofour::{Cpu, Float, Logit, Shape, Shard, bf16, f16};

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
pub(crate) use for_all_types;

fn check<L: Logit, W: Float, E: Adds>(on: &mut E, spec: Spec) {
    let case = Case::<L, W>::new(spec);
    compare(&case, &case.run(on), E::UNIT);
}

/// Problems smaller than a tile, with every route and everything that can be kept.
pub(crate) fn specs() -> impl Strategy<Value = Spec> {
    // Boxed, as what they are made of is too large for the stack of a test.
    let sizes = (0..40usize, 0..24usize, 0..20usize).boxed();
    let kind = prop_oneof![Just(Kind::Soft), Just(Kind::Hard), Just(Kind::Argmax)].boxed();
    let kappa = prop_oneof![Just(0.0f32), Just(1.0), Just(20.0), Just(500.0)].boxed();
    let tau = prop_oneof![Just(0.05f32), Just(1.0), Just(4.0)].boxed();
    let lambda = prop_oneof![Just(0.0f32), Just(0.01), Just(-3.0)].boxed();
    let sampling = (any::<u64>(), any::<u64>(), kappa, tau);
    let sampling = sampling.prop_map(|(seed, draw, kappa, tau)| Sampling { seed, draw, kappa, tau }).boxed();
    let keep = prop_oneof![Just(Keep::Nothing), Just(Keep::Masked), Just(Keep::Codes)].boxed();
    let frozen = prop::bool::weighted(0.2);
    (sizes, kind, sampling, lambda, any::<bool>(), (keep, frozen, routes().boxed()).boxed(), any::<u64>()).prop_map(
        |((tokens, rows, groups), kind, sampling, regulariser, accumulate, (keep, frozen, routes), seed)| Spec {
            tokens,
            shape: Shape::new(rows, 4 * groups),
            kind,
            sampling,
            regulariser,
            accumulate,
            keep,
            frozen,
            routes,
            wants: [true; 3],
            values: Values::Normal,
            seed,
        },
    )
}

fn routes() -> impl Strategy<Value = Routes> {
    use prop::sample::select;
    let denses = [Dense::Cublaslt, Dense::Own];
    let output = [OutputRoute::Sampled, OutputRoute::Codes].into_iter().chain(denses.map(OutputRoute::Masked));
    let input = [InputRoute::Codes].into_iter().chain(denses.map(InputRoute::Masked));
    let logits = [LogitRoute::Fused].into_iter().chain(denses.map(LogitRoute::Panels));
    let output = prop::option::of(select(output.collect::<Vec<_>>()));
    let input = prop::option::of(select(input.collect::<Vec<_>>()));
    let logits = prop::option::of(select(logits.collect::<Vec<_>>()));
    let panel_rows = prop::option::of(1..20usize);
    (output, input, logits, panel_rows).prop_map(|(output, input, logits, panel_rows)| Routes {
        output,
        output_splits: None,
        input,
        logits,
        panel_rows,
    })
}

fn is_within_its_bound<E: Adds>(on: &mut E, spec: &Spec) {
    for_all_types!(check(on, *spec));
}

#[test]
fn any_problem_is_within_its_bound() {
    for_all!(is_within_its_bound, Counts { cpu: 128, emulator: 128, gpu: 128 }, specs());
}

everywhere_tests!(
    sizes_at_the_edges,
    nothing_to_multiply,
    sizes_no_tile_divides,
    small_integers_are_exact,
    gradient_is_the_derivative_of_the_loss,
    shard_is_the_slice_of_the_whole,
    rows_of_many_groups_have_their_own_noise,
    dropped_weights_do_no_harm,
    specials_go_through_as_in_a_dense_product,
    scratch_is_as_good_as_memory_of_ones_own,
);

fn sizes_at_the_edges<E: Adds>(on: &mut E) {
    for tokens in [0, 1, 7, 129] {
        for (rows, cols) in [(1, 4), (1, 260), (33, 4), (65, 68)] {
            for kind in [Kind::Soft, Kind::Hard] {
                for_all_types!(check(on, Spec::new(tokens, rows, cols, kind)));
            }
        }
    }
}

fn nothing_to_multiply<E: Adds>(on: &mut E) {
    for (tokens, rows, cols) in [(0, 0, 0), (3, 0, 8), (3, 5, 0), (0, 5, 8)] {
        for kind in [Kind::Soft, Kind::Hard, Kind::Argmax] {
            for accumulate in [false, true] {
                let keep = if accumulate { Keep::Masked } else { Keep::Nothing };
                let spec = Spec { accumulate, keep, ..Spec::new(tokens, rows, cols, kind) };
                for_all_types!(check(on, spec));
            }
        }
    }
}

/// The numbers of a row's groups, and so of rows, do not fit 32 bits; nor do those that a slice skips.
fn rows_of_many_groups_have_their_own_noise<E: Adds>(on: &mut E) {
    fn check<L: Logit, W: Float, E: Adds>(on: &mut E, spec: Spec, shard: Shard) {
        let mut case = Case::<L, W>::new(spec);
        case.shard = shard;
        case.update_codes();
        compare(&case, &case.run(on), E::UNIT);
    }
    for global_cols in [1 << 36, (1 << 34) + 40, 1 << 40] {
        let shard = Shard { row_offset: 3, col_offset: global_cols - 44, global_cols };
        for kind in [Kind::Soft, Kind::Hard] {
            let routes = Routes { logits: Some(LogitRoute::Fused), ..Routes::default() };
            for_all_types!(check(on, Spec { routes, ..Spec::new(9, 21, 40, kind) }, shard));
        }
    }
}

/// Beyond a tile in every direction, and beyond a slab of the contraction in each product.
fn sizes_no_tile_divides<E: Adds>(on: &mut E) {
    check::<f32, f32, _>(on, Spec::new(257, 259, 516, Kind::Soft));
    check::<bf16, bf16, _>(on, Spec::new(261, 513, 260, Kind::Hard));
    for (tokens, rows, cols) in [(3, 7, 2052), (5, 2051, 8), (2053, 3, 12)] {
        check::<f32, f32, _>(on, Spec::new(tokens, rows, cols, Kind::Soft));
        check::<f32, bf16, _>(on, Spec::new(tokens, rows, cols, Kind::Soft));
        check::<bf16, f16, _>(on, Spec::new(tokens, rows, cols, Kind::Hard));
    }
}

/// Sums of so few small integers are exact in every type, in any order.
fn small_integers_are_exact<E: Adds>(on: &mut E) {
    for kind in [Kind::Hard, Kind::Argmax] {
        for keep in [Keep::Nothing, Keep::Masked, Keep::Codes] {
            let spec = Spec { values: Values::Integers, keep, ..Spec::new(29, 37, 52, kind) };
            for_all_types!(exact(on, spec));
        }
    }
}

fn exact<L: Logit, W: Float, E: Adds>(on: &mut E, spec: Spec) {
    let case = Case::<L, W>::new(spec);
    let out = case.run(on);
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
fn gradient_is_the_derivative_of_the_loss<E: Adds>(on: &mut E) {
    let case = Case::<f32, f32>::new(Spec::new(3, 2, 12, Kind::Soft));
    let out = case.run(on);
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
fn shard_is_the_slice_of_the_whole<E: Adds>(on: &mut E) {
    for kind in [Kind::Soft, Kind::Hard] {
        for_all_types!(slice(on, Spec::new(5, 12, 40, kind)));
    }
}

fn slice<L: Logit, W: Float, E: Adds>(on: &mut E, spec: Spec) {
    let whole = Case::<L, W>::new(spec);
    let all = whole.run(on);
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
    let out = part.run(on);
    compare(&part, &out, E::UNIT);
    let expected = lines(&all.masked, 40, rows, &cols);
    assert!(out.masked.iter().zip(&expected).all(|(a, b)| same(*a, *b)));
    assert_eq!(out.masked.len(), expected.len());
}

/// What a hard mask drops does no harm, whatever it is; what it keeps goes through.
fn dropped_weights_do_no_harm<E: Adds>(on: &mut E) {
    for kind in [Kind::Hard, Kind::Argmax] {
        for keep in [Keep::Nothing, Keep::Masked, Keep::Codes] {
            let spec = Spec { values: Values::Integers, keep, ..Spec::new(9, 6, 24, kind) };
            for_all_types!(dropped(on, spec));
            for_all_types!(dropped(on, Spec { frozen: true, ..spec }));
        }
    }
}

fn dropped<L: Logit, W: Float, E: Adds>(on: &mut E, spec: Spec) {
    let mut case = Case::<L, W>::new(spec);
    // Ones, so that what is dropped can be read off the masked weight.
    case.weight.fill(W::from_f32(1.0));
    let clean = case.run(on);
    let specials = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    let mut dirty = case.clone();
    for (i, weight) in dirty.weight.iter_mut().enumerate().filter(|(i, _)| clean.masked[*i].to_f32() == 0.0) {
        *weight = W::from_f32(specials[i % 3]);
    }
    let out = dirty.run(on);
    let equal = |a: &[W], b: &[W]| a.iter().zip(b).all(|(a, b)| same(*a, *b));
    assert!(equal(&out.masked, &clean.masked) && equal(&out.y, &clean.y) && equal(&out.dx, &clean.dx));

    let kept = clean.masked.iter().position(|masked| masked.to_f32() == 1.0).unwrap();
    case.weight[kept] = W::from_f32(f32::NAN);
    case.x.fill(W::from_f32(1.0));
    let out = case.run(on);
    for (i, y) in out.y.iter().enumerate() {
        assert_eq!(y.to_f32().is_nan(), i % 6 == kept / 24, "y[{i}]");
    }
}

/// A NaN or an infinity reaches what a dense product lets it reach, and nothing else.
fn specials_go_through_as_in_a_dense_product<E: Adds>(on: &mut E) {
    for keep in [Keep::Nothing, Keep::Masked, Keep::Codes] {
        for_all_types!(special(on, keep, f32::NAN));
        for_all_types!(special(on, keep, f32::INFINITY));
    }
}

fn special<L: Logit, W: Float, E: Adds>(on: &mut E, keep: Keep, value: f32) {
    let (t, n, k) = (7, 9, 20);
    let clean = Case::<L, W>::new(Spec { keep, ..Spec::new(t, n, k, Kind::Hard) });
    let mut case = clean.clone();
    case.x[2 * k + 5] = W::from_f32(value);
    let Outputs { y, dx, logit_gradient, .. } = case.run(on);
    // A hard mask keeps position 5 in some rows of the weight and has a zero there in others: infinite or NaN either
    // way.
    assert_where("y", &y, |i| i / n == 2);
    assert_where("dx", &dx, |_| false);
    assert_where("logit_gradient", &logit_gradient, |i| i / 6 % (k / 4) == 1);

    let mut case = clean.clone();
    case.dy[4 * n + 1] = W::from_f32(value);
    let Outputs { y, dx, logit_gradient, .. } = case.run(on);
    assert_where("y", &y, |_| false);
    assert_where("dx", &dx, |i| i / k == 4);
    assert_where("logit_gradient", &logit_gradient, |i| i / 6 / (k / 4) == 1);

    let mut case = clean;
    case.logits[(3 * k / 4 + 2) * 6 + 1] = L::from_f32(f32::NAN);
    case.update_codes();
    let Outputs { masked, y, dx, logit_gradient, .. } = case.run(on);
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

/// The plan's own forms of the passes, with what they leave and work in allocated for them.
fn scratch_is_as_good_as_memory_of_ones_own<E: Adds>(on: &mut E) {
    for keep in [Keep::Nothing, Keep::Masked, Keep::Codes] {
        for tokens in [5, 150] {
            for_all_types!(scratch(on, Spec { keep, ..Spec::new(tokens, 24, 64, Kind::Hard) }));
        }
    }
}

fn scratch<L: Logit, W: Float, E: Adds>(on: &mut E, spec: Spec) {
    let case = Case::<L, W>::new(spec);
    let expected = case.run(on);
    let (logits, weight) = (on.upload(&case.logits).unwrap(), on.upload(&case.weight).unwrap());
    let (x, dy) = (on.upload(&case.x).unwrap(), on.upload(&case.dy).unwrap());
    let (mut y, mut dx) = (on.poisoned(case.dy.len()), on.poisoned(case.x.len()));
    let mut logit_gradient = on.poisoned(case.logits.len());
    let layer = Layer::sampled(spec.shape, spec.kind, spec.sampling, E::input(&logits), E::input(&weight));
    let plan = layer.plan(on, spec.tokens, spec.keep).unwrap();
    assert_eq!(plan, spec.plan(&on.limits(), on.libraries()));
    let mut scratch = on.scratch(&plan).unwrap();
    on.run(plan.forward(&layer, E::input(&x), E::output(&mut y), &mut scratch)).unwrap();
    let saved = (on.read(scratch.masked()), on.read(scratch.codes()));
    assert_eq!(saved, (expected.saved_masked, expected.saved_codes), "{on:?}");
    let pass = plan.backward(&layer, E::input(&dy), &mut scratch).regulariser(spec.regulariser);
    let pass = pass.input_gradient(E::output(&mut dx));
    on.run(pass.logit_gradient(E::input(&x), E::output(&mut logit_gradient))).unwrap();
    assert_eq!(on.download(&y).unwrap(), expected.y, "{on:?}");
    assert_eq!(on.download(&dx).unwrap(), expected.dx, "{on:?}");
    assert_eq!(on.download(&logit_gradient).unwrap(), expected.logit_gradient, "{on:?}");
}

#[test]
fn threads_do_not_change_the_cpu_s_results() {
    let case = Case::<f32, f32>::new(Spec::new(300, 270, 1200, Kind::Soft));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| case.run(&mut Cpu))
    };
    let (one, five) = (run(1), run(5));
    assert!(one.y == five.y && one.dx == five.dx && one.logit_gradient == five.logit_gradient);
}

/// The CPU takes the weight's gradient 4 MiB of rows at a time: 256 rows here.
#[test]
fn panels_of_the_cpu_meet() {
    check::<f32, f32, _>(&mut Cpu, Spec::new(2, 270, 4096, Kind::Soft));
}
