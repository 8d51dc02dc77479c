//! `mask` at its edges, by name: special values, slices of a weight, sizes beyond 32 bits, statistics.

use crate::case::{BackwardCase, ForwardCase, Wants, frozen};
use crate::common::emulator::launches;
use crate::common::{Emulator, SMALL, TestExecutor, convert, everywhere_tests, normal};
use crate::oracle::{self, CODE};
use crate::suite::compare_forward;
use rand::SeedableRng;
use rand::rngs::StdRng;
use twofour::device::Limits;
use twofour::mask::{Forward, Kind, Sampling, Statistics};
use twofour::space::{Raw, RawSlice};
use twofour::{Cpu, Executor, Logit, Pattern, Shape, Shard, bf16, f16, noise};
use twofour_emulator::Schedule;

const SAMPLING: Sampling = Sampling { seed: 5, draw: 6, kappa: 100.0, tau: 1.0 };
const KINDS: [Kind; 3] = [Kind::Soft, Kind::Hard, Kind::Argmax];

fn random(shape: Shape, kind: Kind, seed: u64) -> ForwardCase<f32, f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    let logits = normal(&mut rng, shape.logits(), 0.02, &[]);
    let weight = normal(&mut rng, shape.weights(), 1.0, &[]);
    ForwardCase::new(shape, kind, SAMPLING, &logits, &weight)
}

// ---- special values -------------------------------------------------------------------------------------------------

/// One group's masked weight and pattern index on an executor.
fn one_group<E: TestExecutor>(
    on: &mut E,
    kind: Kind,
    logits: [f32; 6],
    weight: [f32; 4],
) -> ([f32; 4], [f32; 4], u8, u8) {
    let case = ForwardCase::<f32, f32>::new(Shape::new(1, 4), kind, SAMPLING, &logits, &weight);
    let got = case.run(on);
    let four = |values: Vec<f32>| values.try_into().unwrap();
    (four(got.masked.unwrap()), four(got.mask.unwrap()), got.patterns.unwrap()[0], got.codes.unwrap()[0])
}

fn a_group_without_a_finite_largest_score_is_poisoned<E: TestExecutor>(on: &mut E) {
    let nan = [0.0, f32::NAN, 0.0, 0.0, 0.0, 0.0];
    let infinite = [0.0, 0.0, 0.0, f32::INFINITY, 0.0, 0.0];
    let overflowing = [0.0, 0.0, 3e38, 0.0, 0.0, 0.0];
    for kind in KINDS {
        for logits in [nan, infinite, overflowing, [f32::NEG_INFINITY; 6]] {
            if kind == Kind::Argmax && logits == overflowing {
                continue;
            }
            let (masked, mask, pattern, code) = one_group(on, kind, logits, [1.0, 2.0, 3.0, 4.0]);
            assert!(masked.iter().chain(&mask).all(|v| v.is_nan()), "{on:?} {kind:?} {logits:?}: {masked:?}");
            assert_eq!((pattern, code), (Pattern::POISON, Pattern::POISON_CODE), "{kind:?} {logits:?}");
        }
    }
}

fn a_logit_of_minus_infinity_forbids_its_pattern<E: TestExecutor>(on: &mut E) {
    let only = |allowed: usize| std::array::from_fn(|i| if i == allowed { 0.25 } else { f32::NEG_INFINITY });
    for kind in KINDS {
        for pattern in Pattern::ALL {
            let (masked, mask, index, code) = one_group(on, kind, only(pattern.index() as usize), [1.0; 4]);
            let kept = std::array::from_fn(|j| f32::from(u8::from(pattern.keeps(j))));
            assert_eq!((masked, mask), (kept, kept), "{on:?} {kind:?}");
            assert_eq!((index, code), (pattern.index(), pattern.code()));
        }
    }
}

fn hard_masks_select_whatever_the_weight_is<E: TestExecutor>(on: &mut E) {
    let keep_outer = [0.0, 0.0, 1e6, 0.0, 0.0, 0.0];
    for kind in [Kind::Hard, Kind::Argmax] {
        let (masked, ..) = one_group(on, kind, keep_outer, [-0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
        let bits = masked.map(f32::to_bits);
        let expected = [-0.0f32, 0.0, 0.0, f32::NEG_INFINITY].map(f32::to_bits);
        assert_eq!(bits, expected, "{on:?}: dropped weights are +0, kept ones are copied");
        let (masked, ..) = one_group(on, kind, keep_outer, [f32::NAN, 1.0, 1.0, f32::from_bits(1)]);
        assert!(masked[0].is_nan() && masked[3] == f32::from_bits(1), "{on:?}: {masked:?}");
    }
}

fn soft_masks_multiply_as_ieee_does<E: TestExecutor>(on: &mut E) {
    let keep_outer = [0.0, 0.0, 1e6, 0.0, 0.0, 0.0];
    let (masked, ..) = one_group(on, Kind::Soft, keep_outer, [-0.0, f32::INFINITY, -1.0, f32::INFINITY]);
    assert_eq!(masked[0].to_bits(), (-0.0f32).to_bits());
    assert!(masked[1].is_nan(), "inf * 0 is NaN: {masked:?}");
    assert_eq!(masked[2].to_bits(), (-0.0f32).to_bits());
    assert_eq!(masked[3], f32::INFINITY);
}

fn ties_go_to_the_lowest_index<E: TestExecutor>(on: &mut E) {
    for (logits, index) in [([0.5; 6], 0), ([0.0, 0.0, 1.0, 0.0, 1.0, 1.0], 2), ([-0.0, 0.0, -0.0, 0.0, -0.0, 0.0], 0)]
    {
        assert_eq!(one_group(on, Kind::Argmax, logits, [1.0; 4]).2, index, "{on:?} {logits:?}");
    }
}

// ---- shapes ---------------------------------------------------------------------------------------------------------

fn a_shard_has_the_masks_of_the_whole<E: TestExecutor>(on: &mut E) {
    let whole = random(Shape::new(9, 100), Kind::Hard, 3);
    for kind in KINDS {
        let whole = ForwardCase { kind, ..whole.clone() };
        let all = whole.run(on);
        for (rows, cols) in [(0..9, 0..100), (2..7, 0..100), (0..9, 12..48), (3..4, 96..100), (5..9, 4..92)] {
            let cut = |values: &[f32], per: usize| -> Vec<f32> {
                let row = |r: usize| values[(r * 100 + cols.start) * per / 4..(r * 100 + cols.end) * per / 4].to_vec();
                rows.clone().flat_map(row).collect()
            };
            let (logits, weight) = (cut(&whole.logits, 6), cut(whole.weight.as_ref().unwrap(), 4));
            let mut part =
                ForwardCase::<f32, f32>::new(Shape::new(rows.len(), cols.len()), kind, SAMPLING, &logits, &weight);
            part.shard = Shard { row_offset: rows.start as u64, col_offset: cols.start as u64, global_cols: 100 };
            let got = part.run(on);
            let expected = cut(all.masked.as_ref().unwrap(), 4);
            assert_eq!(got.masked.unwrap(), expected, "{on:?} {kind:?} {rows:?} {cols:?}");
        }
    }
}

fn empty_weights_are_nothing_to_do<E: TestExecutor>(on: &mut E) {
    for shape in [Shape::new(0, 8), Shape::new(3, 0), Shape::new(0, 0)] {
        let (logits, weight) = (on.upload::<f32>(&[]).unwrap(), on.upload::<f32>(&[]).unwrap());
        let mut masked = on.poisoned(0);
        let mut statistics = on.upload(&[Statistics { moved: 9, ..Statistics::default() }; Statistics::SLOTS]).unwrap();
        let pass = Forward::new(shape, Kind::Soft, SAMPLING, E::input(&logits)).weight(E::input(&weight));
        on.run(pass.masked(E::output(&mut masked)).statistics(E::output(&mut statistics))).unwrap();
        assert_eq!(on.download(&statistics).unwrap()[0], Statistics::default(), "{on:?}");
        assert!(frozen::<_, bf16>(on, shape, &[], &[]).is_empty());
    }
}

/// Many steps of the grid, every remainder of a chunk, and column shards whose rows wrap in the middle of a step.
fn long_walks_end_where_they_should<E: TestExecutor>(on: &mut E) {
    for (rows, cols, bf16_logits) in
        [(1, 20_004, false), (37, 324, false), (3, 20_012, true), (601, 36, true), (5001, 4, true)]
    {
        let shape = Shape::new(rows, cols);
        let mut case = random(shape, Kind::Hard, rows as u64);
        // With statistics the grid would be as large as the weight.
        case.wants.statistics = false;
        case.shard = Shard { row_offset: 7, col_offset: 40, global_cols: cols as u64 + 444 };
        if bf16_logits {
            let case = ForwardCase::<bf16, f32> {
                logits: convert(&case.logits),
                weight: case.weight,
                shape,
                shard: case.shard,
                kind: case.kind,
                sampling: case.sampling,
                previous_codes: None,
                wants: case.wants,
            };
            agree(on, &case);
        } else {
            agree(on, &case);
        }
    }
}

/// With the oracle, whichever kernel it takes.
fn agree<E: TestExecutor, L: Logit>(on: &mut E, case: &ForwardCase<L, f32>) {
    compare_forward(case, &case.run(on));
    let lean = ForwardCase { wants: Wants::MASKED, ..case.clone() };
    compare_forward(&lean, &lean.run(on));
}

// ---- gradients ------------------------------------------------------------------------------------------------------

/// Central differences, in f64, of `L = Σ A·(W∘M) − λ Σ (W∘M)²` for soft masks, against every executor.
fn gradients_are_those_of_central_differences<E: TestExecutor>(on: &mut E) {
    let shape = Shape::new(2, 12);
    let sampling = Sampling { seed: 3, draw: 4, kappa: 3.0, tau: 0.7 };
    let lambda = 0.05f32;
    let mut rng = StdRng::seed_from_u64(8);
    let case = BackwardCase::<f32, f32, f32> {
        shape,
        shard: Shard::whole(12),
        kind: Kind::Soft,
        sampling,
        logits: normal(&mut rng, shape.logits(), 0.3, &[]),
        weight: normal(&mut rng, shape.weights(), 1.0, &[]),
        gradient: normal(&mut rng, shape.weights(), 1.0, &[]),
        regulariser: lambda,
        before: None,
    };
    let loss = |group: usize, logits: &[f64]| -> f64 {
        let noise = noise::gumbels(sampling.seed, sampling.draw, group as u64);
        let e: Vec<f64> = (0..6)
            .map(|i| ((f64::from(sampling.kappa) * logits[i] + f64::from(noise[i])) / f64::from(sampling.tau)).exp())
            .collect();
        let total: f64 = e.iter().sum();
        (0..4)
            .map(|j| {
                let m: f64 = (0..6).filter(|&i| Pattern::ALL[i].keeps(j)).map(|i| e[i] / total).sum();
                let wm = f64::from(case.weight[4 * group + j]) * m;
                f64::from(case.gradient[4 * group + j]) * wm - f64::from(lambda) * wm * wm
            })
            .sum()
    };
    let got = case.run(on).logit_gradient;
    for (at, &got) in got.iter().enumerate() {
        let (group, i) = (at / 6, at % 6);
        let at_offset = |offset: f64| {
            let mut logits: Vec<f64> = case.logits[6 * group..][..6].iter().map(|&l| f64::from(l)).collect();
            logits[i] += offset;
            loss(group, &logits)
        };
        let h = 1e-5;
        let difference = (at_offset(h) - at_offset(-h)) / (2.0 * h);
        assert!((f64::from(got) - difference).abs() < 1e-4, "{on:?} {at}: {got} for {difference}");
    }
}

/// Both gradients of one group at κ = 500 and τ = 0.05.
fn one_gradient<E: TestExecutor>(on: &mut E, kind: Kind, logits: [f32; 6]) -> (Vec<f32>, Vec<f32>) {
    let got = BackwardCase::<f32, f32, f32> {
        shape: Shape::new(1, 4),
        shard: Shard::whole(4),
        kind,
        sampling: Sampling { kappa: 500.0, tau: 0.05, ..SAMPLING },
        logits: logits.to_vec(),
        weight: vec![1.0, 2.0, 3.0, 4.0],
        gradient: vec![1.0; 4],
        regulariser: 0.0,
        before: None,
    }
    .run(on);
    (got.logit_gradient, got.weight_gradient)
}

/// A saturated softmax has no gradient, to the bit.
fn saturated_groups_have_zero_gradient<E: TestExecutor>(on: &mut E) {
    let infinite = f32::NEG_INFINITY;
    for other in [0.0, -3e38, infinite] {
        let (of_logits, of_weight) = one_gradient(on, Kind::Hard, [other, 3.0, other, other, other, other]);
        assert_eq!(of_logits, [0.0; 6], "{on:?} {other}");
        assert_eq!(of_weight, [1.0, 0.0, 1.0, 0.0]);
    }
    // Between two patterns that share a position, what one gains the other loses.
    let (of_logits, _) = one_gradient(on, Kind::Soft, [infinite, 1e30, infinite, 1e30, infinite, infinite]);
    assert!((of_logits[1] + of_logits[3]).abs() <= 1e-5 * of_logits[1].abs(), "{on:?}: {of_logits:?}");
    assert!([0, 2, 4, 5].map(|i| of_logits[i]) == [0.0; 4], "{on:?}: {of_logits:?}");
}

fn a_group_without_a_finite_largest_score_has_no_gradient<E: TestExecutor>(on: &mut E) {
    let (nan, infinite) = (f32::NAN, f32::INFINITY);
    let one = |other: f32| [0.0, 0.0, 0.0, other, 0.0, 0.0];
    for logits in [one(nan), one(infinite), one(3e38), [-infinite; 6], [3e38; 6], [-3e38; 6]] {
        for kind in [Kind::Soft, Kind::Hard] {
            let (of_logits, of_weight) = one_gradient(on, kind, logits);
            let all = of_logits.iter().chain(&of_weight);
            assert!(all.clone().all(|value| value.is_nan()), "{on:?} {kind:?} {logits:?}: {of_logits:?} {of_weight:?}");
        }
    }
}

// ---- statistics -----------------------------------------------------------------------------------------------------

/// To the bit, for they come of so many blocks on every device; and of the size that they are.
#[test]
fn statistics_do_not_depend_on_the_device() {
    let mut case = random(Shape::new(64, 512), Kind::Soft, 4);
    case.previous_codes = Some(vec![0x44; case.shape.packed_codes()]);
    let run = |on: &mut Emulator| case.run(on).statistics.unwrap();
    let small = run(&mut Emulator::new(Schedule::RoundRobin));
    let one = Limits { multiprocessors: 0, ..Limits::H200 };
    for limits in [one, Limits::A100, Limits::H200] {
        assert_eq!(small, run(&mut Emulator::new(Schedule::Random(3)).limits(limits)), "{limits:?}");
    }
    let (groups, code) = (oracle::groups(&case), |group: &oracle::Group| CODE[group.chosen.unwrap()]);
    let mean =
        groups.iter().map(|group| group.y.iter().copied().fold(0.0, f64::max)).sum::<f64>() / groups.len() as f64;
    let weights = case.weight.as_ref().unwrap().iter().enumerate();
    let kept: f64 = weights.map(|(at, &w)| groups[at / 4].masked(case.kind, at % 4, f64::from(w)).powi(2)).sum();
    let moved = groups.iter().filter(|group| code(group) != 4).count() as u64;
    for got in [small, case.run(&mut Cpu).statistics.unwrap()] {
        assert_eq!((got.moved, got.groups), (moved, groups.len() as u64));
        assert!((got.confidence - mean).abs() < 1e-6 && (got.kept_energy - kept).abs() < 1e-6 * kept, "{got:?}");
    }
    assert!(moved > small.groups / 2 && moved < small.groups);
    // A weight of more steps than any device's own grid takes at once.
    let shape = Shape::new(32_768, 32_768);
    let grid = |limits| {
        let pass = Forward::<Raw, f32, f32>::new(shape, Kind::Soft, SAMPLING, RawSlice::nowhere(shape.logits()));
        launches(limits, pass.statistics(RawSlice::nowhere(Statistics::SLOTS))).unwrap()[0].grid
    };
    assert_eq!([one, SMALL, Limits::A100, Limits::H200].map(grid), [[Statistics::SLOTS as u32 - 1, 1, 1]; 4]);
}

// ---- codes ----------------------------------------------------------------------------------------------------------

/// Every code on weights that show what is done with them: copied, dropped whatever they are, or made NaN.
fn codes_select_whatever_the_weight_is<E: TestExecutor>(on: &mut E) {
    for weight in [[-0.0, f32::NAN, f32::INFINITY, 2.5], [f32::NAN, -0.0, -3.0, f32::NEG_INFINITY]] {
        for code in 0..16 {
            let masked = frozen(on, Shape::new(1, 4), &[code], &weight);
            match CODE.iter().position(|&legal| legal == code) {
                None => assert!(masked.iter().all(|value| value.is_nan()), "{on:?} {code:x}: {masked:?}"),
                Some(pattern) => {
                    for (j, value) in masked.iter().enumerate() {
                        let expected = if Pattern::ALL[pattern].keeps(j) { weight[j] } else { 0.0 };
                        let same = value.to_bits() == expected.to_bits() || (value.is_nan() && expected.is_nan());
                        assert!(same, "{on:?} {code:x}.{j}: {value} for {expected}");
                    }
                }
            }
        }
    }
}

/// An odd number of groups ends in half a byte, whose other half may be anything.
fn codes_of_odd_groups_end_in_half_a_byte<E: TestExecutor>(on: &mut E) {
    let weight: Vec<f16> = convert(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0]);
    for other in [0x00, 0x40, 0xf0] {
        for shape in [Shape::new(3, 4), Shape::new(1, 12)] {
            let masked = frozen(on, shape, &[0xe4, 0x09 | other], &weight);
            let expected: Vec<f16> = convert(&[1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 7.0, 8.0, 0.0, 10.0, 11.0, 0.0]);
            assert_eq!(masked, expected, "{on:?} {shape:?} {other:x}");
        }
    }
}

/// The mask of the codes that a sampled mask has.
fn codes_give_the_mask_that_they_were_written_of<E: TestExecutor>(on: &mut E) {
    for (rows, cols) in [(1, 4), (3, 20), (7, 324), (1, 20_004)] {
        for kind in [Kind::Hard, Kind::Argmax] {
            let case = random(Shape::new(rows, cols), kind, 11);
            let sampled = case.run(on);
            let masked = frozen(on, case.shape, &sampled.codes.unwrap(), case.weight.as_ref().unwrap());
            assert_eq!(Some(masked), sampled.masked, "{on:?} {:?} {kind:?}", case.shape);
        }
    }
}

#[test]
fn operands_go_in_as_they_are() {
    let (logits, weight) = ([0.0f32, 1.0, 0.0, 0.0, 0.0, 0.0], vec![1.0f32, 2.0, 3.0, 4.0]);
    let (mut array, mut vector, mut slice) = ([0.0f32; 4], vec![0.0f32; 4], vec![0.0f32; 4]);
    let pass = |logits| Forward::new(Shape::new(1, 4), Kind::Argmax, SAMPLING, logits);
    Cpu.run(pass(&logits[..]).weight(&weight).masked(&mut array)).unwrap();
    Cpu.run(pass(&logits[..]).weight(&weight[..]).masked(&mut vector)).unwrap();
    Cpu.run(pass(&logits.to_vec()[..]).weight(weight.as_slice()).masked(&mut slice[..])).unwrap();
    assert_eq!((&array[..], &vector[..], &slice[..]), (&[1.0, 0.0, 3.0, 0.0][..], &array[..], &array[..]));
}

everywhere_tests! {
    a_group_without_a_finite_largest_score_is_poisoned,
    a_logit_of_minus_infinity_forbids_its_pattern,
    hard_masks_select_whatever_the_weight_is,
    soft_masks_multiply_as_ieee_does,
    ties_go_to_the_lowest_index,
    a_shard_has_the_masks_of_the_whole,
    empty_weights_are_nothing_to_do,
    long_walks_end_where_they_should,
    gradients_are_those_of_central_differences,
    saturated_groups_have_zero_gradient,
    a_group_without_a_finite_largest_score_has_no_gradient,
    codes_select_whatever_the_weight_is,
    codes_of_odd_groups_end_in_half_a_byte,
    codes_give_the_mask_that_they_were_written_of,
}
