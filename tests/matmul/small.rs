//! `Y` of few tokens, in one kernel that makes masks in registers: by logits or by codes, in one part or several.

use crate::case::{Adds, Case, Routes, Spec, Values};
use crate::common::{Counts, Emulator, everywhere_tests, for_all, same};
use crate::oracle::Sums;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use twofour::mask::{Kind, Sampling};
use twofour::matmul::{Forward, Layer, OutputRoute};
use twofour::{Cpu, Float, Logit, Pattern, Shard, bf16, f16};
use twofour_emulator::Schedule;

/// Runs a generic function for each pair of types that the kernels take.
macro_rules! for_all_types {
    ($function:ident($($argument:expr),*)) => {
        $function::<f32, f16, _>($($argument),*);
        $function::<f32, bf16, _>($($argument),*);
        $function::<bf16, f16, _>($($argument),*);
        $function::<bf16, bf16, _>($($argument),*);
    };
}

/// Where the mask comes from: with the types of logits and weights it names the kernel, but for the number of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mask {
    Soft,
    Hard,
    Argmax,
    Codes,
}

impl Mask {
    const ALL: [Self; 4] = [Self::Soft, Self::Hard, Self::Argmax, Self::Codes];

    fn kind(self) -> Kind {
        match self {
            Self::Soft => Kind::Soft,
            Self::Hard => Kind::Hard,
            Self::Argmax | Self::Codes => Kind::Argmax,
        }
    }
}

fn spec(tokens: usize, rows: usize, cols: usize, mask: Mask) -> Spec {
    split(tokens, rows, cols, mask, 1)
}

/// With the sum over K in so many parts.
pub(crate) fn split(tokens: usize, rows: usize, cols: usize, mask: Mask, splits: u32) -> Spec {
    let route = if mask == Mask::Codes { OutputRoute::Codes } else { OutputRoute::Sampled };
    let routes = Routes { output: Some(route), output_splits: Some(splits), ..Routes::default() };
    let wants = [true, false, false];
    Spec { frozen: mask == Mask::Codes, routes, wants, ..Spec::new(tokens, rows, cols, mask.kind()) }
}

/// With codes of any patterns where they are given.
pub(crate) fn case<L: Logit, W: Float>(spec: Spec) -> Case<L, W> {
    let mut case = Case::new(spec);
    if spec.frozen {
        let mut rng = StdRng::seed_from_u64(spec.seed.wrapping_add(1));
        let mut code = || Pattern::ALL[rng.random_range(0..6)].code();
        case.codes.iter_mut().for_each(|codes| *codes = code() | code() << 4);
    }
    case
}

/// `Y`, and on devices its parts `[splits, T, N]` where there are several.
#[derive(Debug, PartialEq)]
pub(crate) struct Outputs<W> {
    pub(crate) y: Vec<W>,
    pub(crate) parts: Vec<f32>,
}

pub(crate) fn run<L: Logit, W: Float, E: Adds>(on: &mut E, case: &Case<L, W>) -> Outputs<W> {
    let (spec, codes) = (&case.spec, on.upload(&case.codes).unwrap());
    let (logits, weight) = (on.upload(&case.logits).unwrap(), on.upload(&case.weight).unwrap());
    let weight = E::input(&weight);
    if spec.frozen {
        return pass(on, case, &Layer::frozen(spec.shape, E::input(&codes), weight));
    }
    let layer = Layer::sampled(spec.shape, spec.kind, spec.sampling, E::input(&logits), weight);
    pass(on, case, &layer.shard(case.shard))
}

fn pass<L: Logit, W: Float, M: Logit, E: Adds>(
    on: &mut E,
    case: &Case<L, W>,
    layer: &Layer<'_, E::Space, M, W>,
) -> Outputs<W> {
    let spec = &case.spec;
    let plan = spec.plan::<M, W>(&on.limits(), on.libraries());
    assert_eq!(
        (Some(plan.output().route), Some(plan.output().splits)),
        (spec.routes.output, spec.routes.output_splits)
    );
    let x = on.upload(&case.x).unwrap();
    let mut y = on.poisoned(spec.problem().outputs());
    let mut workspace = on.poisoned::<u8>(plan.workspace_bytes());
    let pass = Forward::new(&plan, layer, E::input(&x), E::output(&mut y)).workspace(E::output(&mut workspace));
    on.run(pass).unwrap();
    let parts = if E::TENSOR_CORES && splits(spec) > 1 {
        let bytes = on.download(&workspace).unwrap();
        let parts = splits(spec) * spec.problem().outputs();
        bytes.chunks_exact(4).take(parts).map(bytemuck::pod_read_unaligned).collect()
    } else {
        Vec::new()
    };
    Outputs { y: on.download(&y).unwrap(), parts }
}

fn splits(spec: &Spec) -> usize {
    spec.routes.output_splits.map_or(1, |splits| splits as usize)
}

/// Compares outputs with the product in `f64` by the very `W∘M`: choices are the CPU's, to the bit; soft masks the
/// executor's own, whose exponentials are the same.
fn compare<L: Logit, W: Float, E: Adds>(on: &mut E, case: &Case<L, W>, outputs: &Outputs<W>) {
    let (spec, masked) = (&case.spec, masked(on, case));
    let sums = Sums { unit: E::UNIT, splits: splits(spec), case, masked: &masked };
    sums.compare(&outputs.y);
    if !outputs.parts.is_empty() {
        sums.compare_parts(&outputs.parts);
    }
}

fn masked<L: Logit, W: Float, E: Adds>(on: &mut E, case: &Case<L, W>) -> Vec<W> {
    let masked = case.masked(on);
    if case.spec.kind != Kind::Soft {
        assert!(masked.iter().zip(&case.masked(&mut Cpu)).all(|(a, b)| same(*a, *b)));
    }
    masked
}

fn check<L: Logit, W: Float, E: Adds>(on: &mut E, spec: Spec) {
    let case = case::<L, W>(spec);
    let outputs = run(on, &case);
    compare(on, &case, &outputs);
}

fn cases() -> impl Strategy<Value = (Spec, Option<Shard>)> {
    let tokens = prop_oneof![2 => 1..=16usize, 1 => 17..=128usize];
    // The longer ones go through the loop that takes whole steps alone.
    let groups = prop_oneof![3 => 1..=75usize, 1 => 100..=600usize];
    let size = (tokens, 1..=100usize, groups);
    let kappa = prop_oneof![Just(0.0f32), Just(1.0), Just(20.0), Just(500.0)];
    let tau = prop_oneof![Just(0.05f32), Just(1.0), Just(4.0)];
    let sampling = (any::<u64>(), any::<u64>(), kappa, tau);
    let sampling = sampling.prop_map(|(seed, draw, kappa, tau)| Sampling { seed, draw, kappa, tau });
    let offsets = proptest::option::of((0..1u64 << 33, 0..1u64 << 20, 0..3u64));
    let mask = proptest::sample::select(&Mask::ALL[..]);
    (size, mask, sampling, offsets, 1..=4u32, any::<u64>()).prop_map(
        |((tokens, rows, groups), mask, sampling, offsets, splits, seed)| {
            let cols = 4 * groups as u64;
            let shard = offsets.map(|(row_offset, before, after)| Shard {
                row_offset,
                col_offset: 4 * before,
                global_cols: 4 * (before + after) + cols,
            });
            let spec = split(tokens, rows, 4 * groups, mask, splits);
            (Spec { sampling, seed, ..spec }, shard)
        },
    )
}

fn is_within_its_bound<L: Logit, W: Float, E: Adds>(on: &mut E, (spec, shard): &(Spec, Option<Shard>)) {
    let mut case = case::<L, W>(*spec);
    case.shard = shard.unwrap_or(case.shard);
    let outputs = run(on, &case);
    compare(on, &case, &outputs);
}

const COUNTS: Counts = Counts { cpu: 64, emulator: 256, gpu: 256 };

#[test]
fn any_problem_f32_f16() {
    for_all!(is_within_its_bound::<f32, f16, _>, COUNTS, cases());
}

#[test]
fn any_problem_f32_bf16() {
    for_all!(is_within_its_bound::<f32, bf16, _>, COUNTS, cases());
}

#[test]
fn any_problem_bf16_f16() {
    for_all!(is_within_its_bound::<bf16, f16, _>, COUNTS, cases());
}

#[test]
fn any_problem_bf16_bf16() {
    for_all!(is_within_its_bound::<bf16, bf16, _>, COUNTS, cases());
}

everywhere_tests!(
    sizes_at_the_edges,
    more_splits_than_columns_are_sums_of_nothing,
    small_integers_are_exact,
    a_group_without_a_mask_is_nan_in_its_row_alone,
    each_code_keeps_its_pattern_or_is_nan,
    dropped_weights_do_no_harm,
    specials_stay_in_their_token_and_row,
    nothing_to_sum_is_zero,
    rows_of_many_groups_have_their_own_noise,
);

/// The numbers of a row's groups, and so of rows, do not fit 32 bits; nor do those that a slice skips.
fn rows_of_many_groups_have_their_own_noise<E: Adds>(on: &mut E) {
    fn check<L: Logit, W: Float, E: Adds>(on: &mut E, spec: Spec, shard: Shard) {
        let mut case = case::<L, W>(spec);
        case.shard = shard;
        let outputs = run(on, &case);
        compare(on, &case, &outputs);
    }
    for global_cols in [1 << 36, (1 << 34) + 40, 1 << 40] {
        let shard = Shard { row_offset: 3, col_offset: global_cols - 44, global_cols };
        for tokens in [5, 40] {
            for mask in [Mask::Soft, Mask::Hard] {
                for_all_types!(check(on, spec(tokens, 21, 40, mask), shard));
            }
        }
    }
}

fn sizes_at_the_edges<E: Adds>(on: &mut E) {
    for tokens in [1, 7, 16, 17, 128] {
        for (rows, cols) in [(1, 4), (17, 12), (16, 36), (65, 8), (3, 260), (2, 1024 + 4), (18, 1312), (7, 2048 + 40)] {
            for mask in Mask::ALL {
                for_all_types!(check(on, spec(tokens, rows, cols, mask)));
            }
        }
    }
}

fn more_splits_than_columns_are_sums_of_nothing<E: Adds>(on: &mut E) {
    fn check<L: Logit, W: Float, E: Adds>(on: &mut E, spec: Spec) {
        let case = case::<L, W>(spec);
        let outputs = run(on, &case);
        compare(on, &case, &outputs);
        let shares = spec.shape.cols.div_ceil(32);
        assert!(outputs.parts.iter().skip(shares * spec.problem().outputs()).all(|&sum| sum == 0.0));
    }
    for tokens in [5, 20] {
        for mask in Mask::ALL {
            for_all_types!(check(on, split(tokens, 9, 100, mask, 7)));
        }
    }
}

#[test]
fn the_schedule_does_not_change_a_bit() {
    fn check<L: Logit, W: Float, E>(_: &mut E, spec: Spec) {
        let case = case::<L, W>(spec);
        let first = run(&mut Emulator::new(Schedule::RoundRobin), &case);
        for schedule in Schedule::several(2).skip(1) {
            assert!(run(&mut Emulator::new(schedule), &case) == first, "{schedule:?}: {spec:?}");
        }
    }
    for (tokens, splits) in [(3, 1), (16, 2), (40, 1), (128, 3)] {
        for mask in Mask::ALL {
            for_all_types!(check(&mut (), split(tokens, 70, 1600, mask, splits)));
        }
    }
}

fn small_integers_are_exact<E: Adds>(on: &mut E) {
    fn check<L: Logit, W: Float, E: Adds>(on: &mut E, spec: Spec) {
        let case = case::<L, W>(Spec { values: Values::Integers, ..spec });
        let y = run(on, &case).y;
        let (masked, cols, rows) = (masked(on, &case), spec.shape.cols, spec.shape.rows);
        for (at, y) in y.iter().enumerate() {
            let terms =
                (0..cols).map(|k| case.x[at / rows * cols + k].to_f32() * masked[at % rows * cols + k].to_f32());
            assert_eq!(y.to_f32(), terms.sum::<f32>(), "y[{}, {}]: {spec:?}", at / rows, at % rows);
        }
    }
    // Sums of 32 kept products of up to 4 are at most 128, which bf16 holds.
    for tokens in [11, 90] {
        for mask in [Mask::Hard, Mask::Argmax, Mask::Codes] {
            for_all_types!(check(on, spec(tokens, 37, 64, mask)));
        }
    }
}

/// Rows of `Y` that are not finite.
fn spoilt<W: Float>(y: &[W], rows: usize) -> Vec<(usize, usize)> {
    let spoilt = y.iter().enumerate().filter(|(_, y)| !y.to_f32().is_finite());
    spoilt.map(|(at, _)| (at / rows, at % rows)).collect()
}

fn a_group_without_a_mask_is_nan_in_its_row_alone<E: Adds>(on: &mut E) {
    fn check<L: Logit, W: Float, E: Adds>(on: &mut E, spec: Spec) {
        let cols = spec.shape.cols;
        // The first and the last group of a row, of logits that are NaN and of codes that are none.
        for group in [0, cols / 4 - 1] {
            let mut case = case::<L, W>(spec);
            let number = 2 * cols / 4 + group;
            case.logits[6 * number + 4] = L::from_f32(f32::NAN);
            let shift = number % 2 * 4;
            case.codes[number / 2] = case.codes[number / 2] & !(15 << shift) | 0x6 << shift;
            let outputs = run(on, &case);
            compare(on, &case, &outputs);
            let row: Vec<_> = (0..spec.tokens).map(|token| (token, 2)).collect();
            assert_eq!(spoilt(&outputs.y, spec.shape.rows), row, "{spec:?}");
        }
    }
    for tokens in [9, 33] {
        for cols in [36, 40, 160] {
            for mask in Mask::ALL {
                for_all_types!(check(on, spec(tokens, 4, cols, mask)));
            }
        }
    }
}

fn each_code_keeps_its_pattern_or_is_nan<E: Adds>(on: &mut E) {
    fn check<W: Float, E: Adds>(on: &mut E) {
        for code in 0..16u8 {
            let mut case = case::<f32, W>(spec(2, 1, 8, Mask::Codes));
            case.codes[0] = code << 4 | Pattern::ALL[0].code();
            let outputs = run(on, &case);
            compare(on, &case, &outputs);
            let known = Pattern::ALL.iter().any(|pattern| pattern.code() == code);
            assert_eq!(spoilt(&outputs.y, 1).is_empty(), known, "{code:x}");
        }
    }
    check::<f16, E>(on);
    check::<bf16, E>(on);
}

fn dropped_weights_do_no_harm<E: Adds>(on: &mut E) {
    fn check<L: Logit, W: Float, E: Adds>(on: &mut E, spec: Spec) {
        let mut case = case::<L, W>(spec);
        let masked = masked(on, &case);
        for (i, (weight, masked)) in case.weight.iter_mut().zip(&masked).enumerate() {
            if masked.to_f32() == 0.0 {
                *weight = W::from_f32([f32::NAN, f32::INFINITY, f32::NEG_INFINITY][i % 3]);
            }
        }
        let outputs = run(on, &case);
        compare(on, &case, &outputs);
        assert_eq!(spoilt(&outputs.y, spec.shape.rows), []);
    }
    for tokens in [4, 50] {
        for cols in [44, 96] {
            for mask in [Mask::Hard, Mask::Argmax, Mask::Codes] {
                for_all_types!(check(on, spec(tokens, 19, cols, mask)));
            }
        }
    }
}

fn specials_stay_in_their_token_and_row<E: Adds>(on: &mut E) {
    fn check<L: Logit, W: Float, E: Adds>(on: &mut E, spec: Spec) {
        let (cols, rows) = (spec.shape.cols, spec.shape.rows);
        let mut case = case::<L, W>(spec);
        case.x[cols..2 * cols].fill(W::from_f32(f32::INFINITY));
        case.weight[cols..2 * cols].fill(W::from_f32(f32::NAN));
        let outputs = run(on, &case);
        compare(on, &case, &outputs);
        for (token, row) in spoilt(&outputs.y, rows) {
            assert!(token == 1 || row == 1, "y[{token}, {row}]: {spec:?}");
        }
    }
    for tokens in [3, 10, 18, 127] {
        for cols in [4, 12, 36, 72] {
            for mask in Mask::ALL {
                for_all_types!(check(on, spec(tokens, 3, cols, mask)));
            }
        }
    }
}

/// (Nothing to write is a grid without blocks: `launches.rs`.)
fn nothing_to_sum_is_zero<E: Adds>(on: &mut E) {
    for mask in Mask::ALL {
        for (tokens, splits) in [(3, 1), (30, 1), (3, 2)] {
            for_all_types!(check(on, split(tokens, 5, 0, mask, splits)));
        }
    }
}
