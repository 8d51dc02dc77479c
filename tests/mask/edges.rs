//! `mask` at its edges, by name: special values, slices of a weight, sizes beyond 32 bits, statistics.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::data::normal;
use common::executor::{Executor, SMALL, forward_emulated, gpu};
use common::{BackwardCase, ForwardCase, Wants, convert};
use rand::SeedableRng;
use rand::rngs::StdRng;
use twofour::device::Limits;
use twofour::mask::{self, Kind, Sampling, Statistics, cpu};
use twofour::space::{Raw, RawSlice};
use twofour::{Pattern, Shape, Shard, bf16, noise};
use twofour_emulator::{Buffer, Kernel, Options, Schedule};

const SAMPLING: Sampling = Sampling { seed: 5, draw: 6, kappa: 100.0, tau: 1.0 };
const KINDS: [Kind; 3] = [Kind::Soft, Kind::Hard, Kind::Argmax];

/// The CPU, the emulator, and the GPU if there is one.
fn executors() -> Vec<Executor> {
    let mut all = vec![Executor::Cpu, Executor::Emulator(Schedule::RoundRobin), Executor::Emulator(Schedule::Solo(1))];
    all.extend(gpu());
    all
}

fn random(shape: Shape, kind: Kind, seed: u64) -> ForwardCase<f32, f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    let logits = normal(&mut rng, shape.logits(), 0.02, &[]);
    let weight = normal(&mut rng, shape.weights(), 1.0, &[]);
    ForwardCase::new(shape, kind, SAMPLING, &logits, &weight)
}

// ---- special values -------------------------------------------------------------------------------------------------

/// One group's masked weight and pattern index on an executor.
fn one_group(executor: &Executor, kind: Kind, logits: [f32; 6], weight: [f32; 4]) -> ([f32; 4], [f32; 4], u8, u8) {
    let case = ForwardCase::<f32, f32>::new(Shape::new(1, 4), kind, SAMPLING, &logits, &weight);
    let got = executor.forward(&case);
    let four = |values: Vec<f32>| values.try_into().unwrap();
    (four(got.masked.unwrap()), four(got.mask.unwrap()), got.patterns.unwrap()[0], got.codes.unwrap()[0])
}

#[test]
fn a_group_without_a_finite_largest_score_is_poisoned() {
    let nan = [0.0, f32::NAN, 0.0, 0.0, 0.0, 0.0];
    let infinite = [0.0, 0.0, 0.0, f32::INFINITY, 0.0, 0.0];
    let overflowing = [0.0, 0.0, 3e38, 0.0, 0.0, 0.0];
    for executor in executors() {
        for kind in KINDS {
            for logits in [nan, infinite, overflowing, [f32::NEG_INFINITY; 6]] {
                if kind == Kind::Argmax && logits == overflowing {
                    continue;
                }
                let (masked, mask, pattern, code) = one_group(&executor, kind, logits, [1.0, 2.0, 3.0, 4.0]);
                assert!(masked.iter().chain(&mask).all(|v| v.is_nan()), "{executor:?} {kind:?} {logits:?}: {masked:?}");
                assert_eq!((pattern, code), (Pattern::POISON, Pattern::POISON_CODE), "{kind:?} {logits:?}");
            }
        }
    }
}

#[test]
fn a_logit_of_minus_infinity_forbids_its_pattern() {
    let only = |allowed: usize| std::array::from_fn(|i| if i == allowed { 0.25 } else { f32::NEG_INFINITY });
    for executor in executors() {
        for kind in KINDS {
            for pattern in Pattern::ALL {
                let (masked, mask, index, code) = one_group(&executor, kind, only(pattern.index() as usize), [1.0; 4]);
                let kept = std::array::from_fn(|j| f32::from(u8::from(pattern.keeps(j))));
                assert_eq!((masked, mask), (kept, kept), "{executor:?} {kind:?}");
                assert_eq!((index, code), (pattern.index(), pattern.code()));
            }
        }
    }
}

#[test]
fn hard_masks_select_whatever_the_weight_is() {
    let keep_outer = [0.0, 0.0, 1e6, 0.0, 0.0, 0.0];
    for executor in executors() {
        for kind in [Kind::Hard, Kind::Argmax] {
            let (masked, ..) =
                one_group(&executor, kind, keep_outer, [-0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
            let bits = masked.map(f32::to_bits);
            let expected = [-0.0f32, 0.0, 0.0, f32::NEG_INFINITY].map(f32::to_bits);
            assert_eq!(bits, expected, "{executor:?}: dropped weights are +0, kept ones are copied");
            let (masked, ..) = one_group(&executor, kind, keep_outer, [f32::NAN, 1.0, 1.0, f32::from_bits(1)]);
            assert!(masked[0].is_nan() && masked[3] == f32::from_bits(1), "{executor:?}: {masked:?}");
        }
    }
}

#[test]
fn soft_masks_multiply_as_ieee_does() {
    let keep_outer = [0.0, 0.0, 1e6, 0.0, 0.0, 0.0];
    for executor in executors() {
        let (masked, ..) = one_group(&executor, Kind::Soft, keep_outer, [-0.0, f32::INFINITY, -1.0, f32::INFINITY]);
        assert_eq!(masked[0].to_bits(), (-0.0f32).to_bits());
        assert!(masked[1].is_nan(), "inf * 0 is NaN: {masked:?}");
        assert_eq!(masked[2].to_bits(), (-0.0f32).to_bits());
        assert_eq!(masked[3], f32::INFINITY);
    }
}

#[test]
fn ties_go_to_the_lowest_index() {
    for executor in executors() {
        for (logits, index) in
            [([0.5; 6], 0), ([0.0, 0.0, 1.0, 0.0, 1.0, 1.0], 2), ([-0.0, 0.0, -0.0, 0.0, -0.0, 0.0], 0)]
        {
            assert_eq!(one_group(&executor, Kind::Argmax, logits, [1.0; 4]).2, index, "{executor:?} {logits:?}");
        }
    }
}

// ---- shapes ---------------------------------------------------------------------------------------------------------

#[test]
fn a_shard_has_the_masks_of_the_whole() {
    let whole = random(Shape::new(9, 100), Kind::Hard, 3);
    for executor in executors() {
        for kind in KINDS {
            let whole = ForwardCase { kind, ..whole.clone() };
            let all = executor.forward(&whole);
            for (rows, cols) in [(0..9, 0..100), (2..7, 0..100), (0..9, 12..48), (3..4, 96..100), (5..9, 4..92)] {
                let cut = |values: &[f32], per: usize| -> Vec<f32> {
                    let row =
                        |r: usize| values[(r * 100 + cols.start) * per / 4..(r * 100 + cols.end) * per / 4].to_vec();
                    rows.clone().flat_map(row).collect()
                };
                let (logits, weight) = (cut(&whole.logits, 6), cut(whole.weight.as_ref().unwrap(), 4));
                let mut part =
                    ForwardCase::<f32, f32>::new(Shape::new(rows.len(), cols.len()), kind, SAMPLING, &logits, &weight);
                part.shard = Shard { row_offset: rows.start as u64, col_offset: cols.start as u64, global_cols: 100 };
                let got = executor.forward(&part);
                let expected = cut(all.masked.as_ref().unwrap(), 4);
                assert_eq!(got.masked.unwrap(), expected, "{executor:?} {kind:?} {rows:?} {cols:?}");
            }
        }
    }
}

#[test]
fn empty_weights_are_nothing_to_do() {
    for shape in [Shape::new(0, 8), Shape::new(3, 0), Shape::new(0, 0)] {
        let mut statistics = vec![Statistics { moved: 9, ..Statistics::default() }; Statistics::SLOTS];
        let args = cpu::Forward::<f32, f32>::new(shape, Kind::Soft, SAMPLING, &[]).statistics(&mut statistics);
        cpu::forward_into(args.weight(&[]).masked(&mut [])).unwrap();
        assert_eq!(statistics[0], Statistics::default());
        let none = RawSlice { address: 0, elements: 0 };
        let args = mask::Forward::<Raw, f32, f32>::new(shape, Kind::Soft, SAMPLING, none).weight(none).masked(none);
        assert_eq!(args.launch(&Limits::H200).unwrap().pass.grid, [1, 1, 1]);
    }
}

/// Many steps of the grid, every remainder of a chunk, and column shards whose rows wrap in the middle of a step.
#[test]
fn long_walks_end_where_they_should() {
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
            agree(&case);
        } else {
            agree(&case);
        }
    }
}

fn agree<L: twofour::Logit + twofour::cudarc::driver::DeviceRepr>(case: &ForwardCase<L, f32>) {
    let expected = Executor::Cpu.forward(case);
    for executor in &executors()[1..] {
        let got = executor.forward(case);
        assert_eq!(got.patterns, expected.patterns, "{executor:?} {:?}", case.shape);
        assert_eq!(got.codes, expected.codes);
        assert_eq!(got.masked, expected.masked);
        let lean = executor.forward(&ForwardCase { wants: Wants::MASKED, ..case.clone() });
        assert_eq!(lean.masked, expected.masked);
    }
}

/// A weight of 2³³ elements: the last block of a launch reads logits that are zero, and writes, beyond 32-bit offsets.
#[test]
fn addresses_beyond_32_bits_are_right() {
    let shape = Shape::new(1 << 17, 1 << 16);
    let logits = Buffer::reserve("logits", shape.logits() * 4).unwrap();
    let mask = Buffer::reserve("mask", shape.weights() * 2).unwrap();
    let raw = |buffer: &Buffer, elements| RawSlice { address: buffer.address(), elements };
    // A device of so many processors that each thread takes one chunk.
    let wide = Limits { multiprocessors: 1 << 23, ..Limits::H200 };
    let args = mask::Forward::<Raw, f32, bf16>::new(shape, Kind::Hard, SAMPLING, raw(&logits, shape.logits()));
    let plan = args.mask(raw(&mask, shape.weights())).launch(&wide).unwrap().pass;
    let last = plan.grid[0] - 1;
    assert_eq!(u64::from(plan.grid[0]) * 256 * 2, shape.groups() as u64);
    let launch = twofour_emulator::Launch {
        kernel: Kernel::find(plan.symbol.name).unwrap(),
        grid: plan.grid,
        block: plan.block,
        shared_bytes: plan.shared_bytes,
        args: bytemuck::bytes_of(&plan.args),
    };
    let blocks = Some(u64::from(last)..u64::from(last) + 1);
    twofour_emulator::run(&launch, &Options { blocks, ..Options::default() }).unwrap();
    // 512 groups, whose masks end the weight.
    let got = mask.values_at::<u16>(2 * (shape.weights() - 4 * 512), 4 * 512);
    for (i, values) in got.chunks_exact(4).enumerate() {
        let z = noise::gumbels(SAMPLING.seed, SAMPLING.draw, (shape.groups() - 512 + i) as u64);
        let best = (0..6).fold(0, |best, p| if z[p] > z[best] { p } else { best });
        let expected = std::array::from_fn(|j| if Pattern::ALL[best].keeps(j) { bf16::ONE.to_bits() } else { 0 });
        assert_eq!(<[u16; 4]>::try_from(values).unwrap(), expected, "group {i} of the last block");
    }
}

#[test]
fn a_billion_weights_fit_one_launch() {
    let shape = Shape::new(32_768, 32_768);
    let at = |elements| RawSlice { address: 1 << 40, elements };
    let args = mask::Forward::<Raw, f32, bf16>::new(shape, Kind::Soft, SAMPLING, at(shape.logits()));
    let plan = args.weight(at(shape.weights())).masked(at(shape.weights())).launch(&Limits::H200).unwrap();
    assert_eq!(plan.pass.grid, [132 * 4, 1, 1]);
    assert_eq!(plan.pass.symbol.name, "twofour_mask_soft_f32_bf16");
}

// ---- gradients ------------------------------------------------------------------------------------------------------

/// Central differences, in f64, of `L = Σ A·(W∘M) − λ Σ (W∘M)²` for soft masks, against every executor.
#[test]
fn gradients_are_those_of_central_differences() {
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
    for executor in executors() {
        let got = executor.backward(&case).logit_gradient;
        for (at, &got) in got.iter().enumerate() {
            let (group, i) = (at / 6, at % 6);
            let at_offset = |offset: f64| {
                let mut logits: Vec<f64> = case.logits[6 * group..][..6].iter().map(|&l| f64::from(l)).collect();
                logits[i] += offset;
                loss(group, &logits)
            };
            let h = 1e-5;
            let difference = (at_offset(h) - at_offset(-h)) / (2.0 * h);
            assert!((f64::from(got) - difference).abs() < 1e-4, "{executor:?} {at}: {got} for {difference}");
        }
    }
}

/// A saturated softmax has no gradient, to the bit.
#[test]
fn saturated_groups_have_zero_gradient() {
    let shape = Shape::new(1, 4);
    for executor in executors() {
        let got = executor.backward(&BackwardCase::<f32, f32, f32> {
            shape,
            shard: Shard::whole(4),
            kind: Kind::Hard,
            sampling: Sampling { kappa: 500.0, tau: 0.05, ..SAMPLING },
            logits: vec![0.0, 3.0, 0.0, 0.0, 0.0, 0.0],
            weight: vec![1.0, 2.0, 3.0, 4.0],
            gradient: vec![1.0; 4],
            regulariser: 0.0,
            before: None,
        });
        assert_eq!(got.logit_gradient, [0.0; 6], "{executor:?}");
        assert_eq!(got.weight_gradient, [1.0, 0.0, 1.0, 0.0]);
    }
}

// ---- statistics -----------------------------------------------------------------------------------------------------

#[test]
fn statistics_do_not_depend_on_the_device() {
    let mut case = random(Shape::new(64, 512), Kind::Soft, 4);
    case.previous_codes = Some(vec![0x44; case.shape.packed_codes()]);
    let small = forward_emulated(&case, Schedule::RoundRobin, &SMALL).statistics.unwrap();
    let large = forward_emulated(&case, Schedule::Random(3), &Limits::H200).statistics.unwrap();
    assert_eq!(small, large, "to the bit");
    let cpu = Executor::Cpu.forward(&case).statistics.unwrap();
    assert_eq!((cpu.moved, cpu.groups), (small.moved, small.groups));
    assert!(cpu.moved > cpu.groups / 2 && cpu.moved < cpu.groups);
}

#[test]
fn allocating_forms_give_the_same() {
    let case = random(Shape::new(3, 16), Kind::Soft, 9);
    let weight = case.weight.as_ref().unwrap();
    let masked = cpu::masked_weight(case.shape, case.kind, SAMPLING, &case.logits, weight).unwrap();
    assert_eq!(Some(masked), Executor::Cpu.forward(&case).masked);
}
