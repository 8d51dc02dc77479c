//! Special values and sizes, by name, on any executor.

use crate::case::{FusedCase, Moments, UpdateCase, normal, rng};
use crate::memory::{Cpu, Memory};
use crate::ops;
use crate::suite::compare_steps;
use twofour::learn::{AdamW, Rounding, State};
use twofour::space::Host;
use twofour::{Shape, Shard, bf16};

pub(crate) fn edge_cases<M: Memory>(memory: &M) {
    short_blocks_have_their_own_scales(memory);
    a_block_without_a_step_stays(memory);
    a_wild_group_stays_and_is_counted(memory);
    a_factor_that_is_none_steps_nothing(memory);
    sums_over_many_blocks_are_all_there(memory);
    long_walks_end_where_they_should(memory);
}

const BY: AdamW = AdamW { rate: 0.01, beta1: 0.9, beta2: 0.95, epsilon: 1e-5, decay: 0.1, step: 3 };

/// A step of `bf16` logits with moments of either kind that wants everything.
fn case(shape: Shape, eight: bool, seed: u64) -> UpdateCase<bf16> {
    let mut rng = rng(seed);
    UpdateCase {
        shape,
        shard: Shard::whole(shape.cols as u64),
        by: BY,
        factor: Some(0.5),
        scale: 1.0,
        rounding: Rounding { seed: 5, draw: seed },
        logits: normal(&mut rng, shape.logits(), 0.02, false),
        gradient: normal(&mut rng, shape.logits(), 1.0, false),
        zero: false,
        moments: Moments::new(&mut rng, shape, eight, 1.0),
        norm: Some(2.0),
        statistics: true,
    }
}

/// Every length of the last block, with the largest numbers in it or before it.
fn short_blocks_have_their_own_scales<M: Memory>(memory: &M) {
    for groups in (1..=67).chain([127, 128, 129]) {
        let mut case = case(Shape::new(1, 4 * groups), true, groups as u64);
        let last = (groups - 1) / 64 * 64 * 6;
        let by = if groups % 2 == 0 { 1e3 } else { 1e-3 };
        case.gradient[last..].iter_mut().for_each(|g| *g *= by);
        let got = ops::update(memory, &case);
        compare_steps(&got, &ops::update(&Cpu, &case), &format!("{groups} groups"));
        let Moments::Eight { scales, .. } = got.moments else { panic!("8-bit moments stay such") };
        assert_eq!(scales.len(), State::<Host>::scales(case.shape));
    }
}

fn a_block_without_a_step_stays<M: Memory>(memory: &M) {
    let mut case = case(Shape::new(3, 4 * 64), true, 7);
    case.gradient[384..768].fill(f32::INFINITY);
    let got = ops::update(memory, &case);
    compare_steps(&got, &ops::update(&Cpu, &case), "a block without a step");
    let (Moments::Eight { m, v, scales }, Moments::Eight { m: m0, v: v0, scales: scales0 }) =
        (&got.moments, &case.moments)
    else {
        panic!("8-bit moments stay such")
    };
    assert_eq!((&m[384..768], &v[384..768], &scales[2..4]), (&m0[384..768], &v0[384..768], &scales0[2..4]));
    assert_ne!((&m[..384], scales[0]), (&m0[..384], scales0[0]));
    assert_eq!(got.statistics.unwrap().skipped, 64);
}

fn a_wild_group_stays_and_is_counted<M: Memory>(memory: &M) {
    for (eight, wild) in [(false, f32::NAN), (false, 2e18), (true, f32::NEG_INFINITY)] {
        let mut case = case(Shape::new(1, 4 * 70), eight, 9);
        case.gradient[6 * 66 + 5] = wild;
        let got = ops::update(memory, &case);
        compare_steps(&got, &ops::update(&Cpu, &case), "a wild group");
        let range = 6 * 66..6 * 67;
        assert_eq!(got.logits[range.clone()], case.logits[range.clone()], "{wild}");
        if let (Moments::F32 { m, v }, Moments::F32 { m: m0, v: v0 }) = (&got.moments, &case.moments) {
            assert_eq!((&m[range.clone()], &v[range.clone()]), (&m0[range.clone()], &v0[range]));
        }
        assert_eq!((got.statistics.unwrap().skipped, got.statistics.unwrap().groups), (1, 70));
    }
}

fn a_factor_that_is_none_steps_nothing<M: Memory>(memory: &M) {
    for factor in [f32::NAN, -0.1, 1.1, f32::INFINITY] {
        for eight in [false, true] {
            let mut case = case(Shape::new(2, 4 * 40), eight, 11);
            case.factor = Some(factor);
            let got = ops::update(memory, &case);
            assert_eq!((&got.logits, &got.moments), (&case.logits, &case.moments), "{factor}");
            assert_eq!((got.statistics.unwrap().skipped, got.statistics.unwrap().moved), (80, 0));
            assert!(got.norm.unwrap() > 2.0, "the norm does not depend on it");
        }
    }
}

/// Every block leaves a share, and every thread has something for it.
fn sums_over_many_blocks_are_all_there<M: Memory>(memory: &M) {
    let case = case(Shape::new(40, 4 * 512), false, 13);
    let (got, expected) = (ops::update(memory, &case), ops::update(&Cpu, &case));
    compare_steps(&got, &expected, "many blocks");
    assert_eq!(got.statistics.unwrap().groups, 40 * 512);
    assert!(got.statistics.unwrap().moved > 100);
}

/// Many steps of a small device's grid, and rows of a shard that end anywhere in a unit.
fn long_walks_end_where_they_should<M: Memory>(memory: &M) {
    for (rows, groups) in [(37, 321), (1500, 5), (1, 7003)] {
        let shape = Shape::new(rows, 4 * groups);
        for eight in [false, true] {
            let mut case = case(shape, eight, groups as u64);
            (case.norm, case.statistics) = (None, false);
            let before = 4 * 11;
            let global_cols = before + shape.cols as u64 + 4;
            case.shard = Shard { row_offset: 1 << 33, col_offset: before, global_cols };
            compare_steps(&ops::update(memory, &case), &ops::update(&Cpu, &case), &format!("{rows} x {groups} groups"));
            let mut rng = rng(3);
            let fused = FusedCase {
                kind: twofour::mask::Kind::Hard,
                sampling: twofour::mask::Sampling { seed: 5, draw: groups as u64, kappa: 100.0, tau: 4.0 },
                regulariser: 1e-5,
                weight: normal::<bf16>(&mut rng, shape.weights(), 0.5, false),
                gradient: normal::<bf16>(&mut rng, shape.weights(), 1e-3, false),
                update: UpdateCase { gradient: vec![], ..case },
            };
            let gradient = ops::backward(memory, &fused);
            let mut expected = ops::update(&Cpu, &UpdateCase { gradient, ..fused.update.clone() });
            expected.gradient = vec![];
            compare_steps(&ops::fused(memory, &fused), &expected, &format!("fused, {rows} x {groups} groups"));
        }
    }
}
