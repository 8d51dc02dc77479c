//! The properties, for any executor.

use crate::case::{Bits, FusedCase, InitialCase, Moments, PriorCase, Stepped, UpdateCase, all_same};
use crate::executor::Executor;
use crate::oracle;
use twofour::learn::Statistics;
use twofour::mask::GradientOf;
use twofour::{Float, Logit, Shape, Shard, bf16, f16};

pub(crate) use crate::edges::edge_cases;

const CASES: u64 = 120;

/// Calls `$function::<L>($arguments)` for one of the two types of logits, and a number of bits of the moments.
macro_rules! of_state {
    ($number:expr, $function:ident($($argument:expr),*)) => {
        match $number % 4 {
            0 => $function::<f32>($($argument,)* crate::case::Bits::Full),
            1 => $function::<bf16>($($argument,)* crate::case::Bits::Eight),
            2 => $function::<f32>($($argument,)* crate::case::Bits::Eight),
            _ => $function::<bf16>($($argument,)* crate::case::Bits::Full),
        }
    };
}

pub(crate) fn initial_logits_are_their_definition(executor: &Executor) {
    for seed in 0..CASES / 2 {
        let case = InitialCase::random(seed);
        all_same(&executor.initial::<f32>(&case), &oracle::initial(&case), &format!("seed {seed}"));
        all_same(&executor.initial::<bf16>(&case), &oracle::initial(&case), &format!("seed {seed}"));
    }
}

pub(crate) fn priors_are_their_definition(executor: &Executor) {
    for seed in 0..CASES / 2 {
        let case = PriorCase::<f32>::random(seed);
        all_same(&executor.prior(&case), &oracle::prior(&case), &format!("seed {seed}"));
        let case = PriorCase::<bf16>::random(seed);
        all_same(&executor.prior(&case), &oracle::prior(&case), &format!("seed {seed}"));
    }
}

pub(crate) fn updates_are_their_definition(executor: &Executor) {
    for seed in 0..2 * CASES {
        of_state!(seed, check_update(executor, seed));
    }
}

pub(crate) fn check_update<L: Logit>(executor: &Executor, seed: u64, bits: Bits) {
    let case = UpdateCase::<L>::random(seed, bits);
    let got = executor.update(&case);
    compare(&got, &oracle::update(&case), &format!("{} {bits:?} seed {seed}", L::DTYPE));
    all_same(&got.gradient, &oracle::update(&case).gradient, "gradient");
}

/// Logits and moments to the bit, sums over groups to `f64`'s rounding.
pub(crate) fn compare<L: Logit>(got: &Stepped<L>, expected: &Stepped<L>, what: &str) {
    all_same(&got.logits, &expected.logits, &format!("{what}: logits"));
    match (&got.moments, &expected.moments) {
        (Moments::Full { m, v }, Moments::Full { m: of_m, v: of_v }) => {
            all_same(m, of_m, &format!("{what}: m"));
            all_same(v, of_v, &format!("{what}: v"));
        }
        (Moments::Eight { m, v, scales }, Moments::Eight { m: of_m, v: of_v, scales: of_scales }) => {
            all_same(scales, of_scales, &format!("{what}: scales"));
            for (at, (got, expected)) in m.iter().zip(of_m).enumerate() {
                assert_eq!(got, expected, "{what}: m {at}");
            }
            for (at, (got, expected)) in v.iter().zip(of_v).enumerate() {
                assert_eq!(got, expected, "{what}: v {at}");
            }
        }
        _ => panic!("{what}: other moments"),
    }
    match (got.norm_squares, expected.norm_squares) {
        (Some(got), Some(expected)) => close(got, expected, what),
        (got, expected) => assert_eq!(got, expected, "{what}"),
    }
    let (Some(got), Some(expected)) = (got.statistics, expected.statistics) else {
        return assert_eq!(got.statistics.is_some(), expected.statistics.is_some(), "{what}");
    };
    let counts = |of: &Statistics| [of.moved, of.skipped, of.groups];
    assert_eq!(counts(&got), counts(&expected), "{what}: moved, skipped, groups");
    close(got.gradient_squares, expected.gradient_squares, what);
}

#[track_caller]
fn close(got: f64, expected: f64, what: &str) {
    assert!((got - expected).abs() <= 1e-12 * expected.abs(), "{what}: {got:e} is not {expected:e}");
}

pub(crate) fn fused_steps_are_gradients_and_updates(executor: &Executor) {
    for seed in 0..2 * CASES {
        match seed / 4 % 5 {
            0 => of_state!(seed, check_fused_f32_f32(executor, seed)),
            1 => of_state!(seed, check_fused_f16_f16(executor, seed)),
            2 => of_state!(seed, check_fused_f16_f32(executor, seed)),
            3 => of_state!(seed, check_fused_bf16_f32(executor, seed)),
            _ => of_state!(seed, check_fused_bf16_bf16(executor, seed)),
        }
    }
}

/// Each pair of types of weight and gradient, by name, so that the type of logits is the only parameter.
macro_rules! of_weights {
    ($($name:ident: $w:ty, $g:ty;)*) => {
        $(pub(crate) fn $name<L: Logit>(executor: &Executor, seed: u64, bits: Bits) {
            check_fused::<L, $w, $g>(executor, seed, bits);
        })*
    };
}
of_weights! {
    check_fused_f32_f32: f32, f32;
    check_fused_f16_f16: f16, f16;
    check_fused_f16_f32: f16, f32;
    check_fused_bf16_f32: bf16, f32;
    check_fused_bf16_bf16: bf16, bf16;
}

fn check_fused<L, W, G>(executor: &Executor, seed: u64, bits: Bits)
where
    L: Logit,
    W: Float,
    G: GradientOf<W>,
{
    let case = FusedCase::<L, W, G>::random(seed, bits);
    let what = format!("{} {} {} {bits:?} seed {seed}", L::DTYPE, W::DTYPE, G::DTYPE);
    let gradient = executor.backward(&case);
    let got = executor.fused(&case);
    let update = case.update(gradient);
    compare(&got, &oracle::update(&update), &what);
    let Some(statistics) = got.statistics else { return };
    let [confidence, energy] = oracle::masks(&case, &update);
    assert!((statistics.confidence - confidence).abs() <= 2e-5 * confidence, "{what}: {statistics:?}, {confidence}");
    let infinite = !energy.is_finite() || energy > 1e37;
    assert!(infinite || (statistics.kept_energy - energy).abs() <= 1e-4 * energy, "{what}: {statistics:?}, {energy}");
}

pub(crate) fn measures_are_norms(executor: &Executor) {
    for seed in 0..CASES / 2 {
        let case = FusedCase::<f32, bf16, bf16>::random(seed, Bits::Full);
        let mut update = case.update(executor.backward(&case));
        update.norm_squares = Some(0.25);
        let expected = oracle::update(&update).norm_squares.unwrap();
        close(executor.measure(&case, 0.25), expected, "measure");
        close(executor.norm(&update, 0.25), expected, "norm");
        update.scale = 0.3;
        close(executor.norm(&update, 0.25), oracle::update(&update).norm_squares.unwrap(), "scaled");
    }
}

pub(crate) fn factors_are_their_definition(executor: &Executor) {
    for (max_norm, sum) in [(1.0, 4.0), (1.0, 0.25), (1.0, 0.0), (0.5, 1e30), (3e38, 1e-12), (1e-6, 1.0), (1.0, 1.0)] {
        let factor = (max_norm / (f64::sqrt(sum) + 1e-6)).min(1.0);
        assert_eq!(executor.clip(max_norm, sum), [factor as f32, sum.sqrt() as f32], "{max_norm} {sum}");
    }
    // Nothing steps by such a factor.
    assert!(executor.clip(1.0, f64::NAN).iter().all(|value| value.is_nan()));
    assert_eq!(executor.clip(1.0, f64::INFINITY), [0.0, f32::INFINITY]);
}

/// Tensor parallelism changes nothing: slices of rows and columns of a fused step, with `bf16` logits that are rounded
/// by the numbers of their groups, and of initial logits.
pub(crate) fn shards_are_slices(executor: &Executor) {
    for seed in 0..12 {
        let mut whole = FusedCase::<bf16, f32, f32>::random(seed, Bits::Full);
        let Shape { rows, cols } = whole.shape;
        whole.shard = Shard::whole(cols as u64);
        let stepped = executor.fused(&whole);
        let initial = InitialCase { shape: whole.shape, shard: whole.shard, seed, sigma: 0.01, prior: None };
        let at_start = executor.initial::<bf16>(&initial);
        let cut = 4 * (cols / 8);
        for (top, left, shape) in [
            (rows / 2, 0, Shape::new(rows - rows / 2, cols)),
            (0, cut, Shape::new(rows, cols - cut)),
            (rows / 2, 0, Shape::new(rows - rows / 2, cut)),
        ] {
            let slice = Slice { whole: whole.shape, top, left, shape };
            let shard = Shard { row_offset: top as u64, col_offset: left as u64, global_cols: cols as u64 };
            let (m, v) = whole.moments.full().unwrap();
            let part = FusedCase {
                shape,
                shard,
                logits: slice.of(&whole.logits, 6),
                weight: slice.of(&whole.weight, 4),
                gradient: slice.of(&whole.gradient, 4),
                moments: Moments::Full { m: slice.of(m, 6), v: slice.of(v, 6) },
                norm_squares: None,
                statistics: false,
                ..whole.clone()
            };
            let got = executor.fused(&part);
            all_same(&got.logits, &slice.of(&stepped.logits, 6), "logits of a slice");
            let ((m, v), (of_m, of_v)) = (got.moments.full().unwrap(), stepped.moments.full().unwrap());
            all_same(m, &slice.of(of_m, 6), "m of a slice");
            all_same(v, &slice.of(of_v, 6), "v of a slice");
            let part = InitialCase { shape, shard, ..initial.clone() };
            all_same(&executor.initial::<bf16>(&part), &slice.of(&at_start, 6), "initial logits of a slice");
        }
    }
}

/// A rectangle of a weight.
struct Slice {
    whole: Shape,
    top: usize,
    left: usize,
    shape: Shape,
}

impl Slice {
    /// Its part of an array that has `each` elements a group.
    fn of<T: Copy>(&self, array: &[T], each: usize) -> Vec<T> {
        let [width, from, to] = [self.whole.cols, self.left, self.left + self.shape.cols].map(|cols| cols / 4 * each);
        let rows = array.chunks_exact(width.max(1)).skip(self.top).take(self.shape.rows);
        rows.flat_map(|row| row[from..to].to_vec()).collect()
    }
}
