//! The kernels for few tokens, in the emulator, against products in `f64`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "matmul_small/case.rs"]
mod case;
mod common;

use case::{Case, Mask, Outputs, Spec};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
use twofour::device::Limits;
use twofour::mask::{Kind, Sampling};
use twofour::matmul::Problem;
use twofour::matmul::small::{MAX_TOKENS, Small, Source, partial_bytes, splits};
use twofour::{DType, Error, Float, Logit, Pattern, Shape, Shard, bf16, f16};
use twofour_emulator::Schedule;

/// Runs a generic function for each pair of types.
macro_rules! for_all_types {
    ($function:ident($($argument:expr),*)) => {
        $function::<f32, f16>($($argument),*);
        $function::<f32, bf16>($($argument),*);
        $function::<bf16, f16>($($argument),*);
        $function::<bf16, bf16>($($argument),*);
    };
}

fn specs() -> impl Strategy<Value = Spec> {
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
        |((tokens, rows, groups), mask, sampling, offsets, splits, data)| {
            let cols = 4 * groups as u64;
            let shard = offsets.map_or(Shard::whole(cols), |(row_offset, before, after)| Shard {
                row_offset,
                col_offset: 4 * before,
                global_cols: 4 * (before + after) + cols,
            });
            let spec = Spec::new(tokens, rows, 4 * groups, mask);
            Spec { shard, sampling, splits, data, ..spec }
        },
    )
}

fn schedules() -> impl Strategy<Value = Schedule> {
    let seeded = any::<u64>();
    prop_oneof![Just(Schedule::RoundRobin), seeded.prop_map(Schedule::Random), any::<u64>().prop_map(Schedule::Solo)]
}

fn any_problem<L: Logit, W: Float>() {
    let config = Config {
        source_file: Some("tests/matmul_small.rs"),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..Config::default()
    };
    let property = |(spec, schedule)| {
        Case::<L, W>::new(spec).check(schedule);
        Ok(())
    };
    TestRunner::new(config).run(&(specs(), schedules()), property).unwrap();
}

#[test]
fn any_problem_f32_f16() {
    any_problem::<f32, f16>();
}

#[test]
fn any_problem_f32_bf16() {
    any_problem::<f32, bf16>();
}

#[test]
fn any_problem_bf16_f16() {
    any_problem::<bf16, f16>();
}

#[test]
fn any_problem_bf16_bf16() {
    any_problem::<bf16, bf16>();
}

#[test]
fn sizes_at_the_edges() {
    fn check<L: Logit, W: Float>(spec: Spec) {
        Case::<L, W>::new(spec).check(Schedule::Solo(3));
    }
    for tokens in [1, 7, 16, 17, 128] {
        for (rows, cols) in [(1, 4), (17, 12), (16, 36), (65, 8), (3, 260), (2, 1024 + 4), (18, 1312), (7, 2048 + 40)] {
            for mask in Mask::ALL {
                for_all_types!(check(Spec::new(tokens, rows, cols, mask)));
            }
        }
    }
}

#[test]
fn more_splits_than_columns_are_sums_of_nothing() {
    fn check<L: Logit, W: Float>(spec: Spec) {
        let case = Case::<L, W>::new(spec);
        let parts = case.run(Schedule::RoundRobin);
        case.compare(&parts);
        let Outputs::Parts(parts) = parts else { panic!("more than one split") };
        let shares = spec.shape.cols.div_ceil(32);
        assert!(parts[shares * spec.problem().outputs()..].iter().all(|&sum| sum == 0.0));
    }
    for tokens in [5, 20] {
        for mask in Mask::ALL {
            for_all_types!(check(Spec { splits: 7, ..Spec::new(tokens, 9, 100, mask) }));
        }
    }
}

#[test]
fn the_schedule_does_not_change_a_bit() {
    fn check<L: Logit, W: Float>(spec: Spec) {
        let case = Case::<L, W>::new(spec);
        let first = case.run(Schedule::RoundRobin);
        for schedule in Schedule::several(2).skip(1) {
            assert!(case.run(schedule) == first, "{schedule:?}: {spec:?}");
        }
    }
    for (tokens, splits) in [(3, 1), (16, 2), (40, 1), (128, 3)] {
        for mask in Mask::ALL {
            for_all_types!(check(Spec { splits, ..Spec::new(tokens, 70, 1600, mask) }));
        }
    }
}

#[test]
fn small_integers_are_exact() {
    fn check<L: Logit, W: Float>(spec: Spec) {
        let case = Case::<L, W>::integers(spec);
        let Outputs::Whole(y) = case.run(Schedule::Random(1)) else { panic!("one split") };
        let (masked, cols, rows) = (case.masked(), spec.shape.cols, spec.shape.rows);
        for (at, y) in y.iter().enumerate() {
            let terms =
                (0..cols).map(|k| case.x[at / rows * cols + k].to_f32() * masked[at % rows * cols + k].to_f32());
            assert_eq!(y.to_f32(), terms.sum::<f32>(), "y[{}, {}]: {spec:?}", at / rows, at % rows);
        }
    }
    // Sums of 32 kept products of up to 4 are at most 128, which bf16 holds.
    for tokens in [11, 90] {
        for mask in [Mask::Hard, Mask::Argmax, Mask::Codes] {
            for_all_types!(check(Spec::new(tokens, 37, 64, mask)));
        }
    }
}

/// Rows of `Y` that are not finite.
fn spoilt<W: Float>(y: &[W], rows: usize) -> Vec<(usize, usize)> {
    let spoilt = y.iter().enumerate().filter(|(_, y)| !y.to_f32().is_finite());
    spoilt.map(|(at, _)| (at / rows, at % rows)).collect()
}

#[test]
fn a_group_without_a_mask_is_nan_in_its_row_alone() {
    fn check<L: Logit, W: Float>(spec: Spec, cols: usize) {
        // The first and the last group of a row, of logits that are NaN and of codes that are none.
        for group in [0, cols / 4 - 1] {
            let mut case = Case::<L, W>::new(spec);
            let number = 2 * cols / 4 + group;
            case.logits[6 * number + 4] = L::from_f32(f32::NAN);
            let shift = number % 2 * 4;
            case.codes[number / 2] = case.codes[number / 2] & !(15 << shift) | 0x6 << shift;
            let outputs = case.run(Schedule::Solo(1));
            case.compare(&outputs);
            let Outputs::Whole(y) = outputs else { panic!("one split") };
            let row: Vec<_> = (0..spec.tokens).map(|token| (token, 2)).collect();
            assert_eq!(spoilt(&y, spec.shape.rows), row, "{spec:?}");
        }
    }
    for tokens in [9, 33] {
        for cols in [36, 40, 160] {
            for mask in Mask::ALL {
                for_all_types!(check(Spec::new(tokens, 4, cols, mask), cols));
            }
        }
    }
}

#[test]
fn each_code_keeps_its_pattern_or_is_nan() {
    fn check<L: Logit, W: Float>() {
        for code in 0..16u8 {
            let mut case = Case::<L, W>::new(Spec::new(2, 1, 8, Mask::Codes));
            case.codes[0] = code << 4 | Pattern::ALL[0].code();
            let outputs = case.run(Schedule::RoundRobin);
            case.compare(&outputs);
            let Outputs::Whole(y) = outputs else { panic!("one split") };
            let known = Pattern::ALL.iter().any(|pattern| pattern.code() == code);
            assert_eq!(spoilt(&y, 1).is_empty(), known, "{code:x}");
        }
    }
    check::<f32, f16>();
    check::<f32, bf16>();
}

#[test]
fn dropped_weights_do_no_harm() {
    fn check<L: Logit, W: Float>(spec: Spec) {
        let mut case = Case::<L, W>::new(spec);
        let masked = case.masked();
        for (i, (weight, masked)) in case.weight.iter_mut().zip(&masked).enumerate() {
            if masked.to_f32() == 0.0 {
                *weight = W::from_f32([f32::NAN, f32::INFINITY, f32::NEG_INFINITY][i % 3]);
            }
        }
        let outputs = case.run(Schedule::RoundRobin);
        case.compare(&outputs);
        let Outputs::Whole(y) = outputs else { panic!("one split") };
        assert_eq!(spoilt(&y, spec.shape.rows), []);
    }
    for tokens in [4, 50] {
        for cols in [44, 96] {
            for mask in [Mask::Hard, Mask::Argmax, Mask::Codes] {
                for_all_types!(check(Spec::new(tokens, 19, cols, mask)));
            }
        }
    }
}

#[test]
fn specials_stay_in_their_token_and_row() {
    fn check<L: Logit, W: Float>(spec: Spec) {
        let (cols, rows) = (spec.shape.cols, spec.shape.rows);
        let mut case = Case::<L, W>::new(spec);
        case.x[cols..2 * cols].fill(W::from_f32(f32::INFINITY));
        case.weight[cols..2 * cols].fill(W::from_f32(f32::NAN));
        let outputs = case.run(Schedule::Solo(2));
        case.compare(&outputs);
        let Outputs::Whole(y) = outputs else { panic!("one split") };
        for (token, row) in spoilt(&y, rows) {
            assert!(token == 1 || row == 1, "y[{token}, {row}]: {spec:?}");
        }
    }
    for tokens in [3, 10, 18, 127] {
        for cols in [4, 12, 36, 72] {
            for mask in Mask::ALL {
                for_all_types!(check(Spec::new(tokens, 3, cols, mask)));
            }
        }
    }
}

#[test]
fn nothing_to_sum_is_zero_and_nothing_to_write_is_no_block() {
    fn check<L: Logit, W: Float>(mask: Mask) {
        for (tokens, splits) in [(3, 1), (30, 1), (3, 2)] {
            Case::<L, W>::new(Spec { splits, ..Spec::new(tokens, 5, 0, mask) }).check(Schedule::RoundRobin);
        }
        for (tokens, rows) in [(0, 5), (5, 0)] {
            let grid = launch(|small| small.problem = Problem::new(tokens, Shape::new(rows, 8))).unwrap();
            assert_eq!(grid[0], 0);
        }
    }
    for mask in Mask::ALL {
        for_all_types!(check(mask));
    }
}

/// The grid of a sound launch, after a change to it.
fn launch(change: impl FnOnce(&mut Small)) -> twofour::Result<[u32; 3]> {
    let sampling = Sampling { seed: 0, draw: 0, kappa: 1.0, tau: 1.0 };
    let mut small = Small {
        problem: Problem::new(5, Shape::new(20, 64)),
        shard: Shard::whole(64),
        source: Source::Sampled { kind: Kind::Soft, sampling, logits: DType::F32, address: 16 },
        dtype: DType::F16,
        x: 32,
        weight: 48,
        y: 64,
        partial: 80,
        splits: 1,
    };
    change(&mut small);
    small.launch().map(|launch| launch.grid)
}

#[test]
fn unsound_launches_are_errors() {
    let sampled = |kind, tau, logits, address| {
        let sampling = Sampling { seed: 0, draw: 0, kappa: 1.0, tau };
        move |small: &mut Small| small.source = Source::Sampled { kind, sampling, logits, address }
    };
    let problem = |tokens, rows, cols| {
        move |small: &mut Small| {
            small.problem = Problem::new(tokens, Shape::new(rows, cols));
            small.shard = Shard::whole(cols as u64);
        }
    };
    assert_eq!(launch(|_| {}), Ok([2, 1, 1]));
    assert_eq!(launch(|small| (small.splits, small.y) = (3, 1)), Ok([2, 3, 1]));
    assert_eq!(launch(problem(128, 65, 64)), Ok([2, 1, 1]));
    assert_eq!(
        launch(|small| (small.source, small.shard) = (Source::Codes { address: 0 }, Shard::default())),
        Ok([2, 1, 1])
    );
    assert!(matches!(launch(problem(MAX_TOKENS + 1, 20, 64)), Err(Error::Scalar { what: "tokens", .. })));
    assert!(matches!(launch(problem(5, 20, 62)), Err(Error::NotGrouped { .. })));
    assert!(matches!(launch(problem(1, 1, 1 << 24)), Err(Error::Overflow { what: "a row of the weight", .. })));
    assert!(matches!(launch(problem(1, 1 << 31, 4)), Err(Error::Overflow { what: "a column of the weight", .. })));
    assert!(matches!(launch(problem(128, 1 << 24, 1 << 10)), Err(Error::Overflow { what: "weight", .. })));
    assert!(launch(problem(128, (1 << 24) - 1, 1 << 10)).is_ok());
    assert!(matches!(launch(|small| small.shard.global_cols = 60), Err(Error::Shard { .. })));
    assert!(matches!(launch(|small| small.splits = 0), Err(Error::Scalar { what: "splits", .. })));
    assert!(matches!(launch(|small| small.splits = 65_536), Err(Error::Scalar { what: "splits", .. })));
    assert!(matches!(launch(|small| small.dtype = DType::F32), Err(Error::Missing { .. })));
    assert!(matches!(launch(sampled(Kind::Soft, 1.0, DType::F16, 16)), Err(Error::Missing { .. })));
    assert!(matches!(launch(sampled(Kind::Soft, 0.0, DType::F32, 16)), Err(Error::Scalar { what: "tau", .. })));
    assert!(matches!(launch(sampled(Kind::Hard, 1.0, DType::F32, 8)), Err(Error::Misaligned { what: "logits", .. })));
    let codes = Source::Codes { address: 4 };
    assert!(matches!(launch(|small| small.source = codes), Err(Error::Misaligned { what: "codes", .. })));
    assert!(matches!(launch(|small| small.x = 8), Err(Error::Misaligned { what: "x", .. })));
    assert!(matches!(launch(|small| small.weight = 8), Err(Error::Misaligned { what: "weight", .. })));
    assert!(matches!(launch(|small| small.y = 2), Err(Error::Misaligned { what: "y", .. })));
    let split = |small: &mut Small| (small.splits, small.partial) = (2, 4);
    assert!(matches!(launch(split), Err(Error::Misaligned { what: "partial", .. })));
}

#[test]
fn splits_fill_the_device_and_no_more() {
    let of = |tokens, rows, cols| splits(Problem::new(tokens, Shape::new(rows, cols)), &Limits::H200);
    // 264 blocks at a time: 256 of 16 rows are enough; of 64 rows there are 64, so four shares.
    assert_eq!((of(16, 4096, 4096), of(17, 4096, 4096)), (1, 4));
    assert_eq!((of(1, 1024, 4096), of(128, 1024, 4096)), (4, 16));
    // No share below four steps of each warp: 1024 columns, or 256.
    assert_eq!((of(1, 16, 4096), of(128, 16, 4096)), (4, 16));
    assert_eq!((of(1, 0, 0), of(1, 16, 64), of(128, 1 << 20, 1 << 20)), (1, 1, 1));
    let problem = Problem::new(3, Shape::new(7, 4096));
    assert_eq!((partial_bytes(problem, 1), partial_bytes(problem, 5)), (0, 3 * 7 * 5 * 4));
}
