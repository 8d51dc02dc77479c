//! Blocks of 8-bit moments and units of kernels: their last ones, those in which nothing is stepped, and many of them.

use crate::case::{Bits, FusedCase, Moments, Stepped, UpdateCase, normal, rng};
use crate::common::{TestExecutor, everywhere_tests};
use crate::oracle;
use crate::suite::compare;
use twofour::learn::{self, AdamW, Rounding};
use twofour::mask::{Kind, Sampling};
use twofour::{Shape, Shard, bf16};

everywhere_tests!(
    short_blocks_have_their_own_scales,
    a_block_without_a_step_stays,
    a_wild_group_stays_and_is_counted,
    a_factor_that_is_none_steps_nothing,
    sums_over_blocks_are_all_there,
    long_walks_end_where_they_should,
);

const BY: AdamW = AdamW { rate: 0.01, beta1: 0.9, beta2: 0.95, epsilon: 1e-5, decay: 0.1, step: 3 };

/// A step of `bf16` logits with moments of either kind that wants everything.
fn case(shape: Shape, bits: Bits, seed: u64) -> UpdateCase<bf16> {
    let rng = &mut rng(seed);
    UpdateCase {
        shape,
        shard: Shard::whole(shape.cols as u64),
        by: BY,
        factor: Some(0.5),
        scale: 1.0,
        rounding: Rounding { seed: 5, draw: seed },
        logits: normal(rng, shape.logits(), 0.02, &[]),
        gradient: normal(rng, shape.logits(), 1.0, &[]),
        zero: false,
        moments: Moments::wild(rng, bits, shape, 1.0),
        norm_squares: Some(2.0),
        statistics: true,
    }
}

/// Every length of the last block, with the largest numbers in it or before it.
fn short_blocks_have_their_own_scales(on: &mut impl TestExecutor) {
    for groups in (1..=67).chain([127, 128, 129]) {
        let mut case = case(Shape::new(1, 4 * groups), Bits::Eight, groups as u64);
        let last = (groups - 1) / 64 * 64 * 6;
        let by = if groups % 2 == 0 { 1e3 } else { 1e-3 };
        case.gradient[last..].iter_mut().for_each(|g| *g *= by);
        let got = case.run(on);
        compare(&got, &oracle::update(&case), &format!("{groups} groups"));
        let Moments::Eight { scales, .. } = got.moments else { panic!("8-bit moments stay such") };
        assert_eq!(scales.len(), learn::Moments::scales(case.shape));
    }
}

fn a_block_without_a_step_stays(on: &mut impl TestExecutor) {
    let mut case = case(Shape::new(3, 4 * 64), Bits::Eight, 7);
    case.gradient[384..768].fill(f32::INFINITY);
    let got = case.run(on);
    compare(&got, &oracle::update(&case), "a block without a step");
    let (Moments::Eight { m, v, scales }, Moments::Eight { m: m0, v: v0, scales: scales0 }) =
        (&got.moments, &case.moments)
    else {
        panic!("8-bit moments stay such")
    };
    assert_eq!((&m[384..768], &v[384..768], &scales[2..4]), (&m0[384..768], &v0[384..768], &scales0[2..4]));
    assert_ne!((&m[..384], scales[0]), (&m0[..384], scales0[0]));
    assert_eq!(got.statistics.unwrap().skipped, 64);
}

fn a_wild_group_stays_and_is_counted(on: &mut impl TestExecutor) {
    for (bits, wild) in [(Bits::Full, f32::NAN), (Bits::Full, 2e18), (Bits::Eight, f32::NEG_INFINITY)] {
        let mut case = case(Shape::new(1, 4 * 70), bits, 9);
        case.gradient[6 * 66 + 5] = wild;
        let got = case.run(on);
        compare(&got, &oracle::update(&case), "a wild group");
        let range = 6 * 66..6 * 67;
        assert_eq!(got.logits[range.clone()], case.logits[range.clone()], "{wild}");
        if let (Moments::Full { m, v }, Moments::Full { m: m0, v: v0 }) = (&got.moments, &case.moments) {
            assert_eq!((&m[range.clone()], &v[range.clone()]), (&m0[range.clone()], &v0[range]));
        }
        assert_eq!((got.statistics.unwrap().skipped, got.statistics.unwrap().groups), (1, 70));
    }
}

fn a_factor_that_is_none_steps_nothing(on: &mut impl TestExecutor) {
    for factor in [f32::NAN, -0.1, 1.1, f32::INFINITY] {
        for bits in [Bits::Full, Bits::Eight] {
            let mut case = case(Shape::new(2, 4 * 40), bits, 11);
            case.factor = Some(factor);
            let got = case.run(on);
            assert_eq!((&got.logits, &got.moments), (&case.logits, &case.moments), "{factor}");
            assert_eq!((got.statistics.unwrap().skipped, got.statistics.unwrap().moved), (80, 0));
            assert!(got.norm_squares.unwrap() > 2.0, "the norm does not depend on it");
        }
    }
}

/// Every block leaves a share, and every thread has something for it. (Of more blocks than a block has threads,
/// `many.rs`.)
fn sums_over_blocks_are_all_there(on: &mut impl TestExecutor) {
    let case = case(Shape::new(40, 4 * 512), Bits::Full, 13);
    let (got, expected) = (case.run(on), oracle::update(&case));
    compare(&got, &expected, "many blocks");
    assert_eq!(got.statistics.unwrap().groups, 40 * 512);
    assert!(got.statistics.unwrap().moved > 100);
}

/// Many steps of a small device's grid, and rows of a shard that end anywhere in a unit.
fn long_walks_end_where_they_should(on: &mut impl TestExecutor) {
    for (rows, groups) in [(37, 321), (1500, 5), (1, 7003)] {
        let shape = Shape::new(rows, 4 * groups);
        for bits in [Bits::Full, Bits::Eight] {
            let mut case = case(shape, bits, groups as u64);
            (case.norm_squares, case.statistics) = (None, false);
            let before = 4 * 11;
            let global_cols = before + shape.cols as u64 + 4;
            case.shard = Shard { row_offset: 1 << 33, col_offset: before, global_cols };
            compare(&case.run(on), &oracle::update(&case), &format!("{rows} x {groups} groups"));
            let rng = &mut rng(3);
            let fused = FusedCase {
                shape,
                shard: case.shard,
                kind: Kind::Hard,
                sampling: Sampling { seed: 5, draw: groups as u64, kappa: 100.0, tau: 4.0 },
                regulariser: 1e-5,
                by: BY,
                logits: case.logits,
                weight: normal::<bf16>(rng, shape.weights(), 0.5, &[]),
                gradient: normal::<bf16>(rng, shape.weights(), 1e-3, &[]),
                moments: case.moments,
                factor: case.factor,
                norm_squares: None,
                statistics: false,
            };
            let gradient = fused.backward(on);
            let expected = Stepped { gradient: vec![], ..oracle::update(&fused.update(gradient)) };
            compare(&fused.run(on), &expected, &format!("fused, {rows} x {groups} groups"));
        }
    }
}
