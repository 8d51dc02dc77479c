//! Sums over more blocks than there are threads to add them up, where a group is too large to be stepped, and numbers
//! that nothing but this crate defines.

use crate::case::{Bits, FusedCase, Moments, USUAL, UpdateCase, normal, rng};
use crate::common::{Emulator, TestExecutor, everywhere_tests};
use crate::oracle;
use crate::suite::compare;
use twofour::learn::{AdamW, Statistics};
use twofour::mask::{GradientOf, Kind, Sampling};
use twofour::{Float, Logit, Shape, Shard, bf16, f16};
use twofour_emulator::Schedule;

everywhere_tests!(
    sums_of_steps_over_many_blocks_are_all_there,
    norms_over_many_blocks_are_all_there,
    sums_of_fused_steps_over_many_blocks_are_all_there,
    a_group_is_skipped_from_its_limit_on,
    rows_of_many_groups_have_their_own_random_bits,
    bias_corrections_are_their_definition,
    blocks_of_next_to_nothing_are_zero,
);

/// 258 blocks, whose shares one block of 256 threads adds up.
const MANY: Shape = Shape::new(1, 526_340);

/// Squares of six a group; the last group is skipped.
fn updates<L: Logit>(on: &mut impl TestExecutor, bits: Bits) {
    let mut gradient = vec![1.0; MANY.logits()];
    gradient[MANY.logits() - 1] = f32::NAN;
    let mut case = UpdateCase::<L>::plain(MANY, bits, gradient, vec![L::zeroed(); MANY.logits()]);
    case.logits.iter_mut().step_by(6).for_each(|logit| *logit = L::from_f32(1e-4));
    // Steps of a half, and of two thirds for the first of six, which was the largest.
    case.gradient.chunks_mut(6).for_each(|six| six[0] *= 2.0);
    case.by = AdamW { rate: 1.0, beta1: 0.0, beta2: 0.0, epsilon: 1.0, decay: 0.0, step: 1 };
    (case.norm_squares, case.statistics) = (Some(0.5), true);
    let got = case.run(on);
    let squares = 9.0 * (MANY.groups() - 1) as f64;
    assert_eq!(got.norm_squares, Some(squares + 0.5), "{on:?}");
    let moved = (MANY.groups() - 1) as u64;
    let expected = Statistics { gradient_squares: squares, moved, skipped: 1, groups: moved + 1, ..Default::default() };
    assert_eq!(got.statistics, Some(expected));
}

fn sums_of_steps_over_many_blocks_are_all_there(on: &mut impl TestExecutor) {
    updates::<f32>(on, Bits::Full);
}

fn norms_over_many_blocks_are_all_there(on: &mut impl TestExecutor) {
    let case = UpdateCase::<f32>::plain(MANY, Bits::Full, vec![2.0; MANY.logits()], vec![]);
    assert_eq!(case.norm(on, 1.0), 24.0 * MANY.groups() as f64 + 1.0, "{on:?}");
}

/// Energies and confidences too: without noise to speak of, all weights are kept by halves.
fn fused<L: Logit, W: Float, G: GradientOf<W>>(on: &mut impl TestExecutor, bits: Bits) {
    let case = FusedCase::<L, W, G> {
        shape: MANY,
        shard: Shard::whole(MANY.cols as u64),
        kind: Kind::Soft,
        sampling: Sampling { seed: 1, draw: 2, kappa: 0.0, tau: 1e6 },
        regulariser: 0.0,
        by: AdamW { rate: 0.0, ..USUAL },
        logits: vec![L::zeroed(); MANY.logits()],
        weight: vec![W::from_f32(1.0); MANY.weights()],
        gradient: vec![G::from_f32(1.0); MANY.weights()],
        moments: Moments::zero(bits, MANY),
        factor: None,
        norm_squares: Some(3.0),
        statistics: true,
    };
    let got = case.run(on);
    let (groups, statistics) = (MANY.groups() as f64, got.statistics.unwrap());
    assert_eq!((statistics.groups, statistics.skipped, statistics.moved), (MANY.groups() as u64, 0, 0), "{on:?}");
    assert!((statistics.kept_energy - groups).abs() < 1e-4 * groups, "{statistics:?}");
    assert!((statistics.confidence - 1.0 / 6.0).abs() < 1e-4, "{statistics:?}");
    assert_eq!(got.norm_squares.unwrap(), 3.0 + statistics.gradient_squares);
    // Each weight keeps a half whatever the pattern, so nothing has a gradient but for rounding.
    assert!(statistics.gradient_squares < 1e-6);
}

fn sums_of_fused_steps_over_many_blocks_are_all_there(on: &mut impl TestExecutor) {
    fused::<f32, bf16, bf16>(on, Bits::Full);
}

/// Of every kernel, on one executor.
#[test]
fn sums_of_all_types_over_many_blocks_are_all_there() {
    fn of<L: Logit>(on: &mut impl TestExecutor) {
        for bits in [Bits::Full, Bits::Eight] {
            updates::<L>(on, bits);
            fused::<L, f32, f32>(on, bits);
            fused::<L, f16, f32>(on, bits);
            fused::<L, f16, f16>(on, bits);
            fused::<L, bf16, f32>(on, bits);
            fused::<L, bf16, bf16>(on, bits);
        }
    }
    let on = &mut Emulator::new(Schedule::RoundRobin);
    of::<f32>(on);
    of::<bf16>(on);
}

/// 2^60 squared is the limit: skipped once, and counted; the next float below is stepped.
fn a_group_is_skipped_from_its_limit_on(on: &mut impl TestExecutor) {
    let shape = Shape::new(1, 12);
    let limit = 2f32.powi(60);
    for (largest, skipped) in [(limit, 1), (limit.next_down(), 0), (-limit, 1), (-limit.next_down(), 0)] {
        for at in 0..6 {
            let mut gradient = vec![1.0; shape.logits()];
            gradient[6..12].fill(0.0);
            gradient[6 + at] = largest;
            let mut case = UpdateCase::<f32>::plain(shape, Bits::Full, gradient, vec![0.5; shape.logits()]);
            (case.norm_squares, case.statistics) = (Some(0.0), true);
            let (got, statistics) = (case.run(on), case.run(on).statistics.unwrap());
            assert_eq!((statistics.skipped, statistics.groups), (skipped, 3), "{on:?} {largest:e} at {at}");
            assert_eq!(got.logits[6 + at] == 0.5, skipped == 1);
            let square = if skipped == 1 { 0.0 } else { f64::from(largest * largest) };
            assert_eq!(statistics.gradient_squares, 12.0 + square);
            assert_eq!((got.norm_squares.unwrap(), case.norm(on, 0.0)), (12.0 + square, 12.0 + square));
        }
    }
}

/// The numbers of a row's groups, and so of rows, do not fit 32 bits: rounding's random bits are theirs.
fn rows_of_many_groups_have_their_own_random_bits(on: &mut impl TestExecutor) {
    let (rng, shape) = (&mut rng(5), Shape::new(5, 24));
    let gradient = normal(rng, shape.logits(), 1.0, &[]);
    for global_cols in [1 << 36, (1 << 34) + 24, 1 << 40] {
        for bits in [Bits::Full, Bits::Eight] {
            let logits = normal(rng, shape.logits(), 1.0, &[]);
            let mut case = UpdateCase::<bf16>::plain(shape, bits, gradient.clone(), logits);
            case.shard = Shard { row_offset: 3, col_offset: global_cols - 28, global_cols };
            compare(&case.run(on), &oracle::update(&case), &format!("{on:?} {global_cols:#x}"));
        }
        let case = crate::case::InitialCase {
            shape,
            shard: Shard { row_offset: 3, col_offset: global_cols - 28, global_cols },
            seed: 7,
            sigma: 1.0,
            prior: None,
        };
        assert_eq!(case.run::<f32, _>(on).unwrap(), oracle::initial::<f32>(&case), "{on:?} {global_cols:#x}");
    }
}

/// `1 − β^t` for the first and the second moment, by hand: with β of a half they are 1/2, 3/4, 7/8, ...
fn bias_corrections_are_their_definition(on: &mut impl TestExecutor) {
    let shape = Shape::new(1, 4);
    for (step, of_m, of_v) in [(1, 0.5, 0.25), (2, 0.75, 0.4375), (3, 0.875, 0.578_125), (u64::MAX, 1.0, 1.0)] {
        let mut case = UpdateCase::<f32>::plain(shape, Bits::Full, vec![4.0; 6], vec![0.0; 6]);
        // m = 4/2 and v = 16/4.
        case.by = AdamW { rate: 1.0, beta1: 0.5, beta2: 0.75, epsilon: 1e-8, decay: 0.0, step };
        let expected = -(2.0 / of_m) / (f64::sqrt(4.0 / of_v) + 1e-8);
        for got in case.run(on).logits {
            assert!((f64::from(got) - expected).abs() < 4e-7 * expected.abs(), "{on:?} {step}: {got} for {expected}");
        }
    }
}

/// A block of 8-bit moments whose largest number is below 2^-100 is zero; from there on it has a scale.
fn blocks_of_next_to_nothing_are_zero(on: &mut impl TestExecutor) {
    let (shape, least) = (Shape::new(1, 8), 2f32.powi(-100));
    for (largest, scale) in [(least, least), (least.next_down(), 0.0), (-least, least), (-least.next_down(), 0.0)] {
        let mut gradient = vec![0.0; shape.logits()];
        gradient[7] = largest;
        let mut case = UpdateCase::<f32>::plain(shape, Bits::Eight, gradient, vec![0.0; shape.logits()]);
        case.by = AdamW { beta1: 0.0, ..USUAL };
        let Moments::Eight { m, scales, .. } = case.run(on).moments else { panic!("8-bit moments stay such") };
        let top = if largest < 0.0 { 255 } else { 127 };
        assert_eq!((scales[0], m[7]), (scale, if scale > 0.0 { top } else { 0 }), "{on:?} {largest:e}");
    }
}

/// The values of 8-bit codes, by hand: a sign, four bits of exponent and three of mantissa for `m`; for the root of `v`
/// no sign and four of mantissa. (The suite compares what executors make of them with this list.)
#[test]
fn eight_bits_stand_for_small_floats() {
    let some =
        [(0, 0.0), (1, 1.0), (7, 7.0), (8, 8.0), (9, 9.0), (16, 16.0), (17, 18.0), (126, 229_376.0), (127, 245_760.0)];
    some.iter().for_each(|&(code, value)| assert_eq!(oracle::VALUES[0][code], value, "{code}"));
    let some =
        [(1, 1.0), (15, 15.0), (16, 16.0), (31, 31.0), (32, 32.0), (33, 34.0), (254, 491_520.0), (255, 507_904.0)];
    some.iter().for_each(|&(code, value)| assert_eq!(oracle::VALUES[1][code], value, "{code}"));
    assert_eq!(oracle::VALUES.each_ref().map(Vec::len), [128, 256]);
}

/// A grid decides nothing: every kernel, from the smallest device to one with a block for every step.
#[test]
fn the_grid_decides_nothing() {
    use twofour::device::Limits;
    let run = |multiprocessors, bits| {
        let on = &mut Emulator::new(Schedule::RoundRobin).limits(Limits { multiprocessors, ..Limits::A100 });
        let mut case = UpdateCase::<bf16>::random(11, bits);
        case.shape = Shape::new(3, 4 * 1701);
        case.shard = Shard { row_offset: 1, col_offset: 8, global_cols: 4 * 2000 };
        let (rng, logits) = (&mut rng(6), case.shape.logits());
        (case.gradient, case.logits) = (normal(rng, logits, 1.0, &[]), normal(rng, logits, 0.02, &[]));
        case.moments = Moments::wild(rng, bits, case.shape, 1.0);
        (case.norm_squares, case.statistics) = (None, false);
        let got = case.run(on);
        (got.logits, got.moments)
    };
    for bits in [Bits::Full, Bits::Eight] {
        let smallest = run(0, bits);
        assert_eq!(smallest, run(3, bits));
        assert_eq!(smallest, run(64, bits));
    }
}

/// Where each sum lies in memory, for those who read it from there.
#[test]
fn statistics_lie_as_they_are_declared() {
    let statistics =
        Statistics { gradient_squares: 1.0, kept_energy: 2.0, confidence: 3.0, moved: 4, skipped: 5, groups: 6 };
    let floats = [1.0f64, 2.0, 3.0].map(f64::to_le_bytes).concat();
    assert_eq!(bytemuck::bytes_of(&statistics), [floats, [4u64, 5, 6].map(u64::to_le_bytes).concat()].concat());
}
