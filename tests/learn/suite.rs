//! One property suite: random problems against the oracle, on every executor.

use crate::case::{Bits, FusedCase, InitialCase, Moments, PriorCase, Stepped, UpdateCase, all_same, clip, rng};
use crate::common::runs::{each_kernel_has_met_many, wanted};
use crate::common::{Counts, Emulator, TestExecutor, everywhere_tests, for_all};
use crate::oracle;
use proptest::prelude::any;
use rand::Rng;
use rayon::prelude::*;
use std::any::TypeId;
use twofour::learn::Statistics;
use twofour::mask::GradientOf;
use twofour::space::Host;
use twofour::{Cpu, Error, Float, Logit, Pattern, Result, Shape, Shard, bf16, f16};

/// So many random problems.
const fn counts(each: u32) -> Counts {
    Counts { cpu: each, emulator: each, gpu: each }
}

/// Sums of the same terms in another order.
const REORDERED: f64 = 1e-12;

/// Calls `$function::<L>($arguments)` for one of the two types of logits.
macro_rules! of_logits {
    ($number:expr, $function:ident($($argument:expr),*)) => {
        match $number % 2 {
            0 => $function::<f32>($($argument),*),
            _ => $function::<bf16>($($argument),*),
        }
    };
}

/// Calls `$function::<L, W, G>($arguments)` for one of the ten triples of types.
macro_rules! of_types {
    ($number:expr, $function:ident($($argument:expr),*)) => {
        match $number % 10 {
            0 => $function::<f32, f32, f32>($($argument),*),
            1 => $function::<f32, f16, f16>($($argument),*),
            2 => $function::<f32, bf16, bf16>($($argument),*),
            3 => $function::<f32, f16, f32>($($argument),*),
            4 => $function::<f32, bf16, f32>($($argument),*),
            5 => $function::<bf16, f32, f32>($($argument),*),
            6 => $function::<bf16, f16, f16>($($argument),*),
            7 => $function::<bf16, bf16, bf16>($($argument),*),
            8 => $function::<bf16, f16, f32>($($argument),*),
            _ => $function::<bf16, bf16, f32>($($argument),*),
        }
    };
}

/// Moments of both kinds, by a number.
fn bits(number: u64) -> Bits {
    if number.is_multiple_of(2) { Bits::Full } else { Bits::Eight }
}

fn starts(on: &mut impl TestExecutor, seed: &u64) {
    for case in [InitialCase::random(*seed), InitialCase::wild(*seed)] {
        check_initial::<f32>(on, &case);
        check_initial::<bf16>(on, &case);
    }
}

fn check_initial<L: Logit>(on: &mut impl TestExecutor, case: &InitialCase) {
    let got = case.run::<L, _>(on);
    let (codes, alpha) = case.prior.clone().unwrap_or_default();
    let expected = |codes: Vec<u8>| {
        let prior = (!codes.is_empty()).then_some((codes, alpha));
        oracle::initial(&InitialCase { prior, ..case.clone() })
    };
    compare_starts(on, case.shape, got, codes, expected, "initial logits");
}

fn priors(on: &mut impl TestExecutor, seed: &u64) {
    check_prior(on, &PriorCase::<f32>::random(*seed));
    check_prior(on, &PriorCase::<bf16>::random(*seed));
    check_prior(on, &PriorCase::<f32>::wild(*seed));
    check_prior(on, &PriorCase::<bf16>::wild(*seed));
}

fn check_prior<L: Logit>(on: &mut impl TestExecutor, case: &PriorCase<L>) {
    let got = case.run(on);
    let expected = |codes| oracle::prior(&PriorCase { codes, ..case.clone() });
    compare_starts(on, case.shape, got, case.codes.clone(), expected, "logits with a prior");
}

/// Logits at the start, to the bit what is `expected` of legal codes. An illegal one is an error on the CPU, and makes
/// its group NaN on a device.
fn compare_starts<E: TestExecutor, L: Logit>(
    on: &E,
    shape: Shape,
    got: Result<Vec<L>>,
    mut codes: Vec<u8>,
    expected: impl Fn(Vec<u8>) -> Vec<L>,
    what: &str,
) {
    let mut illegal = vec![];
    for group in 0..shape.groups().min(2 * codes.len()) {
        let shift = 4 * (group % 2);
        if Pattern::from_code(codes[group / 2] >> shift & 15).is_none() {
            illegal.push(group);
            codes[group / 2] = codes[group / 2] & !(15 << shift) | 4 << shift;
        }
    }
    if !illegal.is_empty() && TypeId::of::<E::Space>() == TypeId::of::<Host>() {
        return assert!(matches!(got, Err(Error::IllegalCode { .. })), "{what}: {got:?}");
    }
    let mut expected = expected(codes);
    illegal.into_iter().for_each(|group| expected[6 * group..6 * group + 6].fill(L::from_f32(f32::NAN)));
    all_same(&got.unwrap(), &expected, &format!("{on:?}: {what}"));
}

#[test]
fn initial_logits_are_their_definition() {
    for_all!(starts, counts(60), any::<u64>());
}

#[test]
fn priors_are_their_definition() {
    for_all!(priors, counts(60), any::<u64>());
}

fn updates(on: &mut impl TestExecutor, seed: &u64) {
    of_logits!(seed / 2, check_updates(on, *seed, bits(*seed)));
}

fn check_updates<L: Logit>(on: &mut impl TestExecutor, seed: u64, bits: Bits) {
    for case in [UpdateCase::<L>::random(seed, bits), UpdateCase::wild(seed, bits)] {
        check_update(on, &case);
    }
}

fn check_update<L: Logit>(on: &mut impl TestExecutor, case: &UpdateCase<L>) {
    let what = format!("{on:?}: update of {} logits, {:?}", L::DTYPE, case.shape);
    let got = case.run(on);
    compare(&got, &oracle::update(case), &what);
    if let Some(statistics) = got.statistics {
        // A gradient in memory says nothing of masks.
        assert_eq!((statistics.confidence, statistics.kept_energy), (0.0, 0.0), "{what}");
    }
}

#[test]
fn updates_are_their_definition() {
    for_all!(updates, counts(240), any::<u64>());
}

/// Logits, moments and gradients to the bit, sums over groups to `f64`'s rounding.
pub(crate) fn compare<L: Logit>(got: &Stepped<L>, expected: &Stepped<L>, what: &str) {
    all_same(&got.logits, &expected.logits, &format!("{what}: logits"));
    all_same(&got.gradient, &expected.gradient, &format!("{what}: gradient"));
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
        (Some(got), Some(expected)) => close(got, expected, REORDERED, &format!("{what}: running sum")),
        (got, expected) => assert_eq!(got, expected, "{what}"),
    }
    let (Some(got), Some(expected)) = (got.statistics, expected.statistics) else {
        return assert_eq!(got.statistics.is_some(), expected.statistics.is_some(), "{what}");
    };
    let counts = |of: &Statistics| [of.moved, of.skipped, of.groups];
    assert_eq!(counts(&got), counts(&expected), "{what}: moved, skipped, groups");
    close(got.gradient_squares, expected.gradient_squares, REORDERED, &format!("{what}: gradient_squares"));
}

/// Sums of what is not negative, in any order.
#[track_caller]
fn close(got: f64, expected: f64, within: f64, what: &str) {
    let equal = got == expected || (got.is_nan() && expected.is_nan());
    assert!(equal || (got - expected).abs() <= within * expected.abs(), "{what}: {got:e} is not {expected:e}");
}

fn fused_steps(on: &mut impl TestExecutor, seed: &u64) {
    of_types!(*seed, check_fused_steps(on, *seed, bits(seed / 10)));
}

fn check_fused_steps<L: Logit, W: Float, G: GradientOf<W>>(on: &mut impl TestExecutor, seed: u64, bits: Bits) {
    for case in [FusedCase::<L, W, G>::random(seed, bits), FusedCase::wild(seed, bits)] {
        check_fused(on, &case);
    }
}

/// The gradient is that of the executor's own backward pass, which other tests compare with its definition; from it on
/// every bit is that of a step from memory. Means and energies are the definition's and the CPU's, but for rounding.
fn check_fused<L: Logit, W: Float, G: GradientOf<W>>(on: &mut impl TestExecutor, case: &FusedCase<L, W, G>) {
    let what = format!("{on:?}: {} {} {}, {:?}", L::DTYPE, W::DTYPE, G::DTYPE, case.shape);
    let (got, update) = (case.run(on), case.update(case.backward(on)));
    let expected = Stepped { gradient: vec![], ..oracle::update(&update) };
    compare(&got, &expected, &what);
    close(case.measure(on, 0.5), 0.5 + oracle::squares(&update.gradient), REORDERED, &format!("{what}: measured"));
    let Some(statistics) = got.statistics else { return };
    let [confidence, energy, flushed] = oracle::masks(case, &update);
    assert!((statistics.confidence - confidence).abs() <= 2e-5 * confidence, "{what}: {statistics:?}, {confidence}");
    let infinite = !energy.is_finite() || energy > 1e37;
    let slack = 1e-4 * energy + flushed;
    assert!(infinite || (statistics.kept_energy - energy).abs() <= slack, "{what}: {statistics:?}, {energy}");
    let of_cpu = case.run(&mut Cpu).statistics.unwrap();
    // Where rounding decides whether a group is too large to be stepped, means are not comparable.
    if of_cpu.skipped == statistics.skipped {
        close(statistics.confidence, of_cpu.confidence, 1e-5, &format!("{what}: confidence"));
        let flushes = (statistics.kept_energy - of_cpu.kept_energy).abs() <= flushed;
        if !flushes {
            close(statistics.kept_energy, of_cpu.kept_energy, 1e-5, &format!("{what}: kept_energy"));
        }
    }
}

#[test]
fn fused_steps_are_gradients_and_updates() {
    for_all!(fused_steps, counts(240), any::<u64>());
}

fn measures(on: &mut impl TestExecutor, seed: &u64) {
    let case = FusedCase::<f32, bf16, bf16>::random(*seed, Bits::Full);
    let mut update = case.update(case.backward(on));
    update.norm_squares = Some(0.25);
    let expected = oracle::update(&update).norm_squares.unwrap();
    close(case.measure(on, 0.25), expected, REORDERED, "measure");
    close(update.norm(on, 0.25), expected, REORDERED, "norm");
    update.scale = 0.3;
    close(update.norm(on, 0.25), oracle::update(&update).norm_squares.unwrap(), REORDERED, "scaled");
}

#[test]
fn measures_are_norms() {
    for_all!(measures, counts(60), any::<u64>());
}

fn norms(on: &mut impl TestExecutor, seed: &u64) {
    check_norm(on, *seed);
}

fn check_norm(on: &mut impl TestExecutor, seed: u64) {
    let mut case = UpdateCase::<f32>::wild(seed, Bits::Full);
    let before = *case.norm_squares.get_or_insert_default();
    let (got, expected) = (case.norm(on, before), oracle::update(&case).norm_squares.unwrap());
    close(got, expected, REORDERED, &format!("{on:?}: norm"));
}

#[test]
fn norms_are_sums_of_squares() {
    for_all!(norms, counts(120), any::<u64>());
}

fn factors_are_their_definition(on: &mut impl TestExecutor) {
    for (max_norm, sum) in [(1.0, 4.0), (1.0, 0.25), (1.0, 0.0), (0.5, 1e30), (3e38, 1e-12), (1e-6, 1.0), (1.0, 1.0)] {
        let factor = (max_norm / (f64::sqrt(sum) + 1e-6)).min(1.0);
        assert_eq!(clip(on, max_norm, sum), [factor as f32, sum.sqrt() as f32], "{max_norm} {sum}");
    }
    // Nothing steps by such a factor.
    assert!(clip(on, 1.0, f64::NAN).iter().all(|value| value.is_nan()));
    assert_eq!(clip(on, 1.0, f64::INFINITY), [0.0, f32::INFINITY]);
}

everywhere_tests!(factors_are_their_definition);

fn factors(on: &mut impl TestExecutor, seed: &u64) {
    check_clip(on, *seed);
}

fn check_clip(on: &mut impl TestExecutor, seed: u64) {
    let mut rng = rng(seed);
    let special = [0.0, f64::NAN, f64::INFINITY, 1.0, 1e-300, 1e300, 5e-324, -1.0];
    let sum = special.get(seed as usize % 16).copied().unwrap_or_else(|| 10f64.powf(rng.random_range(-12.0..12.0)));
    let max_norm = [1.0, 0.01, 3.5e4][rng.random_range(0..3)];
    // Rounded once; a NaN stays one.
    let norm = sum.sqrt();
    let factor = max_norm / (norm + 1e-6);
    let expected = [if factor >= 1.0 { 1.0 } else { factor as f32 }, norm as f32];
    all_same(&clip(on, max_norm, sum), &expected, &format!("{on:?}: clip of {sum}: factor, norm"));
}

#[test]
fn factors_are_their_formula() {
    for_all!(factors, counts(120), any::<u64>());
}

/// Tensor parallelism changes nothing: slices of rows and columns of a fused step, with `bf16` logits that are rounded
/// by the numbers of their groups, and of initial logits.
fn shards(on: &mut impl TestExecutor, seed: &u64) {
    let mut whole = FusedCase::<bf16, f32, f32>::random(*seed, Bits::Full);
    let Shape { rows, cols } = whole.shape;
    whole.shard = Shard::whole(cols as u64);
    let stepped = whole.run(on);
    let initial = InitialCase { shape: whole.shape, shard: whole.shard, seed: *seed, sigma: 0.01, prior: None };
    let at_start = initial.run::<bf16, _>(on).unwrap();
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
        let got = part.run(on);
        all_same(&got.logits, &slice.of(&stepped.logits, 6), "logits of a slice");
        let ((m, v), (of_m, of_v)) = (got.moments.full().unwrap(), stepped.moments.full().unwrap());
        all_same(m, &slice.of(of_m, 6), "m of a slice");
        all_same(v, &slice.of(of_v, 6), "v of a slice");
        let part = InitialCase { shape, shard, ..initial.clone() };
        all_same(&part.run::<bf16, _>(on).unwrap(), &slice.of(&at_start, 6), "initial logits of a slice");
    }
}

#[test]
fn shards_are_slices() {
    for_all!(shards, counts(12), any::<u64>());
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

#[test]
fn every_kernel_meets_many_problems() {
    // Sums are added up by a kernel of their own, which every measured norm brings too.
    (0..wanted()).into_par_iter().for_each(|round| {
        for types in 0..10 {
            let seed = round * 10 + types;
            let mut emulator = Emulator::numbered(seed);
            of_types!(types, check_wild_fused(&mut emulator, seed, Bits::Full));
            of_types!(types, check_wild_fused(&mut emulator, seed + 1, Bits::Eight));
        }
        for logits in 0..2 {
            let seed = round * 2 + logits;
            let mut emulator = Emulator::numbered(seed);
            of_logits!(logits, check_wild_update(&mut emulator, seed, Bits::Full));
            of_logits!(logits, check_wild_update(&mut emulator, seed + 1, Bits::Eight));
            of_logits!(logits, check_wild_start(&mut emulator, seed));
        }
        check_norm(&mut Emulator::numbered(round), round);
        check_clip(&mut Emulator::numbered(round), round);
    });
    each_kernel_has_met_many("twofour_learn_", 31);
}

fn check_wild_fused<L: Logit, W: Float, G: GradientOf<W>>(on: &mut Emulator, seed: u64, bits: Bits) {
    check_fused(on, &FusedCase::<L, W, G>::wild(seed, bits));
}

fn check_wild_update<L: Logit>(on: &mut Emulator, seed: u64, bits: Bits) {
    check_update(on, &UpdateCase::<L>::wild(seed, bits));
}

fn check_wild_start<L: Logit>(on: &mut Emulator, seed: u64) {
    check_initial::<L>(on, &InitialCase::wild(seed));
    check_prior(on, &PriorCase::<L>::wild(seed));
}
