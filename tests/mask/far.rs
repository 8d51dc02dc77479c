//! Offsets that 32 bits do not hold, in every operand: weights of which only the end is in memory, and the last block
//! alone. It must do what the same groups do as a slice that begins at nothing.

use crate::case::{BackwardCase, ForwardCase, Wants, frozen};
use crate::common::emulator::{Array, launches};
use crate::common::{Emulator, SMALL, TestExecutor, convert, normal};
use crate::oracle::CODE;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use twofour::mask::{Backward, Forward, GradientOf, Kind, Sampling, Statistics};
use twofour::space::{Output, Raw, RawSlice};
use twofour::{Float, Logit, Shape, Shard, bf16, f16};
use twofour_emulator::Schedule;

/// 2³⁴ groups: 32 bits hold no numbers of groups, nor of bytes of two groups' codes.
const SHAPE: Shape = Shape::new(1 << 19, 1 << 17);
const SAMPLING: Sampling = Sampling { seed: 5, draw: 6, kappa: 100.0, tau: 1.0 };

fn on() -> Emulator {
    Emulator::new(Schedule::RoundRobin)
}

/// Groups of a block that takes one step.
fn of_block<L: Logit>() -> usize {
    256 * 8 / size_of::<L>()
}

/// The last block's groups as a shape of their own, and where they lie.
fn end(groups: usize) -> (Shape, Shard) {
    let (rows, cols) = (SHAPE.rows as u64, SHAPE.cols as u64);
    (Shape::new(1, 4 * groups), Shard { row_offset: rows - 1, col_offset: cols - 4 * groups as u64, global_cols: cols })
}

fn codes(rng: &mut StdRng, groups: usize) -> Vec<u8> {
    (0..groups / 2).map(|_| CODE[rng.random_range(0..6)] | CODE[rng.random_range(0..6)] << 4).collect()
}

fn forward<L: Logit, W: Float>(kind: Kind, wants: Wants) {
    let (rng, groups) = (&mut StdRng::seed_from_u64(1), of_block::<L>());
    let (shape, shard) = end(groups);
    let (logits, weight) = (normal(rng, shape.logits(), 0.02, &[]), normal(rng, shape.weights(), 1.0, &[]));
    let mut case = ForwardCase::<L, W>::new(shape, kind, SAMPLING, &logits, &weight);
    (case.shard, case.wants) = (shard, wants);
    case.previous_codes = wants.statistics.then(|| codes(rng, groups));
    let expected = case.run(&mut on());

    let weights = SHAPE.weights();
    let logits = Array::ending(SHAPE.logits(), &case.logits);
    let weight = Array::ending(weights, case.weight.as_ref().unwrap());
    let previous = Array::ending(SHAPE.packed_codes(), case.previous_codes.as_deref().unwrap_or_default());
    let (mut masked, mut mask) = (Array::<W>::reserved(weights), Array::<W>::reserved(weights));
    let (mut patterns, mut codes) =
        (Array::<u8>::reserved(SHAPE.groups()), Array::<u8>::reserved(SHAPE.packed_codes()));
    let blocks = SHAPE.groups() / groups;
    let mut statistics = Array::<Statistics>::reserved(1 + blocks);
    let mut pass = Forward::new(SHAPE, kind, SAMPLING, &logits).weight(&weight).masked(&mut masked);
    if wants.mask {
        pass = pass.mask(&mut mask).patterns(&mut patterns).codes(&mut codes).previous_codes(&previous);
        pass = pass.statistics(RawSlice::new(statistics.output().address, Statistics::SLOTS));
    }
    on().launch_last(&launches(SMALL, pass).unwrap()[0], blocks);
    assert_eq!(masked.read_end(shape.weights()), expected.masked.unwrap(), "{kind:?}");
    if wants.mask {
        assert_eq!(mask.read_end(shape.weights()), expected.mask.unwrap());
        assert_eq!(patterns.read_end(groups), expected.patterns.unwrap());
        assert_eq!(codes.read_end(groups / 2), expected.codes.unwrap());
        let (share, all) = (statistics.read_end(1)[0], expected.statistics.unwrap());
        assert!(
            all.moved > 0 && (share.moved, share.groups, share.kept_energy) == (all.moved, all.groups, all.kept_energy)
        );
        assert!((share.confidence / groups as f64 - all.confidence).abs() < 1e-12);
    }
}

/// Every kernel of a type of logits.
fn masks<L: Logit>() {
    fn of<L: Logit, W: Float>() {
        for kind in [Kind::Soft, Kind::Hard] {
            forward::<L, W>(kind, Wants::MASKED);
            forward::<L, W>(kind, Wants::ALL);
        }
    }
    of::<L, f32>();
    of::<L, bf16>();
    of::<L, f16>();
}

#[test]
fn masks_beyond_32_bits_are_right() {
    masks::<f32>();
    masks::<bf16>();
    forward::<f32, bf16>(Kind::Argmax, Wants::ALL);
}

fn backward<L: Logit, W: Float, G: GradientOf<W>>(kind: Kind, accumulate: bool) {
    let (rng, groups) = (&mut StdRng::seed_from_u64(2), of_block::<L>());
    let (shape, shard) = end(groups);
    let case = BackwardCase::<L, W, G> {
        shape,
        shard,
        kind,
        sampling: SAMPLING,
        logits: convert(&normal(rng, shape.logits(), 0.02, &[])),
        weight: convert(&normal(rng, shape.weights(), 1.0, &[])),
        gradient: convert(&normal(rng, shape.weights(), 1.0, &[])),
        regulariser: 0.1,
        before: accumulate.then(|| normal(rng, shape.logits(), 1.0, &[])),
    };
    let expected = case.run(&mut on());
    let (logits, weight) = (Array::ending(SHAPE.logits(), &case.logits), Array::ending(SHAPE.weights(), &case.weight));
    let gradient = Array::ending(SHAPE.weights(), &case.gradient);
    let mut logit_gradient = Array::ending(SHAPE.logits(), case.before.as_deref().unwrap_or_default());
    let mut weight_gradient = Array::<G>::reserved(SHAPE.weights());
    let pass = Backward::<Raw, L, W, G>::new(SHAPE, kind, SAMPLING, &logits, &weight, &gradient).regulariser(0.1);
    let pass = pass.weight_gradient(&mut weight_gradient);
    let pass = match accumulate {
        true => pass.accumulate_logit_gradient(&mut logit_gradient),
        false => pass.logit_gradient(&mut logit_gradient),
    };
    on().launch_last(&launches(SMALL, pass).unwrap()[0], SHAPE.groups() / groups);
    assert_eq!(logit_gradient.read_end(shape.logits()), expected.logit_gradient, "{kind:?}");
    assert_eq!(weight_gradient.read_end(shape.weights()), expected.weight_gradient, "{kind:?}");
}

/// Every kernel of a type of logits.
fn gradients<L: Logit>() {
    for (kind, accumulate) in [(Kind::Soft, false), (Kind::Soft, true), (Kind::Hard, true)] {
        backward::<L, bf16, f32>(kind, accumulate);
        backward::<L, f16, f16>(kind, accumulate);
        backward::<L, f16, f32>(kind, accumulate);
        backward::<L, bf16, bf16>(kind, accumulate);
        backward::<L, f32, f32>(kind, accumulate);
    }
}

#[test]
fn gradients_beyond_32_bits_are_right() {
    gradients::<f32>();
    gradients::<bf16>();
}

/// A thread has two groups, a byte of codes.
#[test]
fn frozen_masks_beyond_32_bits_are_right() {
    fn check<W: Float>() {
        let rng = &mut StdRng::seed_from_u64(3);
        let shape = Shape::new(1, 4 * 512);
        let of_end = codes(rng, 512);
        let weight: Vec<W> = convert(&normal(rng, shape.weights(), 1.0, &[]));
        let expected = frozen(&mut on(), shape, &of_end, &weight);
        let codes = Array::ending(SHAPE.packed_codes(), &of_end);
        let (weight, mut masked) = (Array::ending(SHAPE.weights(), &weight), Array::<W>::reserved(SHAPE.weights()));
        let pass = Forward::<Raw, f32, W>::frozen(SHAPE, &codes, &weight).masked(&mut masked);
        on().launch_last(&launches(SMALL, pass).unwrap()[0], SHAPE.groups() / 512);
        assert_eq!(masked.read_end(shape.weights()), expected);
    }
    check::<f32>();
    check::<bf16>();
    check::<f16>();
}

/// The numbers of a row's groups, and so of rows, do not fit 32 bits, on any executor; nor do those that a slice skips.
fn rows_of_many_groups_have_their_own_noise<E: TestExecutor>(on: &mut E) {
    let rng = &mut StdRng::seed_from_u64(4);
    let shape = Shape::new(5, 24);
    let logits = normal(rng, shape.logits(), 0.02, &[]);
    for global_cols in [1 << 36, (1 << 34) + 24, 1 << 40] {
        let mut case = ForwardCase::<f32, f32>::new(shape, Kind::Hard, SAMPLING, &logits, &vec![1.0; shape.weights()]);
        case.shard = Shard { row_offset: 3, col_offset: global_cols - 28, global_cols };
        let (got, groups) = (case.run(on).patterns.unwrap(), crate::oracle::groups(&case));
        let expected: Vec<u8> = groups.iter().map(|group| group.chosen.unwrap() as u8).collect();
        assert_eq!(got, expected, "{on:?} {global_cols:#x}");
    }
}

crate::common::everywhere_tests!(rows_of_many_groups_have_their_own_noise);
