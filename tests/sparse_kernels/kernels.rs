//! Each kernel on many random problems, on its tiles' edges, with its rings going round, on several schedules.

use crate::case::{Case, RUNS, Spec};
use crate::number::{Number, for_all_types};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rayon::prelude::*;
use twofour::sparse::launch::{Kernel, MAX_SMALL_TOKENS};
use twofour::{Shape, bf16, f16};
use twofour_emulator::Schedule;

const KERNELS: [Kernel; 2] = [Kernel::Small, Kernel::Tile];

fn check<T: Number>(spec: Spec, schedule: Schedule) {
    Case::<T>::new(spec).check(schedule);
}

/// For one of the three types of values.
fn check_type(number: u64, spec: Spec, schedule: Schedule) {
    match number % 3 {
        0 => check::<f16>(spec, schedule),
        1 => check::<bf16>(spec, schedule),
        _ => check::<i8>(spec, schedule),
    }
}

fn schedule(number: u64) -> Schedule {
    [Schedule::RoundRobin, Schedule::Solo(number), Schedule::Random(number)][number as usize % 3]
}

/// As many problems as each kernel is to meet.
fn wanted() -> u64 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1000)
}

/// A small problem; now and then rows that start on 16 bytes, so that what is copied whole is met as often as what is not.
fn random(kind: usize, round: u64) -> Spec {
    let mut rng = StdRng::seed_from_u64(round << 2 | kind as u64);
    let groups = match rng.random_range(0..4) {
        0 => 8 * rng.random_range(1..=12),
        1 => 8 * rng.random_range(1..=40),
        _ => rng.random_range(1..=60),
    };
    let (kernel, tokens, rows) = match kind {
        0 => (Kernel::Small, rng.random_range(1..=16), rng.random_range(1..=100)),
        1 => (Kernel::Small, rng.random_range(17..=MAX_SMALL_TOKENS), rng.random_range(1..=140)),
        // Of a tile, and now and then of two.
        _ => (Kernel::Tile, rng.random_range(1..=140), rng.random_range(1..=140)),
    };
    let splits = if rng.random_ratio(1, 3) { rng.random_range(2..=4) } else { 1 };
    let groups = groups.min([320, 100, 40][kind]);
    Spec { splits, bias: rng.random(), data: rng.random(), ..Spec::new(kernel, tokens, rows, 4 * groups) }
}

#[test]
fn every_kernel_meets_many_problems() {
    let problems: Vec<(usize, u64)> =
        (0..3).flat_map(|kind| (0..3 * wanted() * 11 / 10).map(move |round| (kind, round))).collect();
    problems.into_par_iter().for_each(|(kind, round)| check_type(round, random(kind, round / 3), schedule(round / 9)));
    let runs = RUNS.lock().unwrap().clone();
    let names = twofour_emulator::kernels().iter().map(twofour_emulator::Kernel::name);
    let names = names.filter(|name| name.starts_with("twofour_sparse_"));
    let mut report: Vec<_> = names.map(|name| (runs.get(name.as_str()).copied().unwrap_or(0), name)).collect();
    report.sort_unstable();
    println!("{report:#?}");
    assert_eq!(report.len(), 12);
    assert!(report.first().is_some_and(|(least, _)| *least as u64 >= wanted()), "{:?}", report.first());
}

#[test]
fn tiles_have_edges() {
    let mut specs = Vec::new();
    for tokens in [1, 7, 8, 9, 16, 17, 63, 64, 65, 127, 128, 129] {
        for (rows, cols) in [(1, 4), (31, 28), (32, 32), (33, 64), (127, 100), (128, 128), (129, 132), (65, 260)] {
            for kernel in KERNELS {
                let bias = (tokens + rows) % 2 == 0;
                specs.push(Spec { bias, ..Spec::new(kernel, tokens, rows, cols) });
            }
        }
    }
    specs.retain(|spec| spec.kernel == Kernel::Tile || spec.tokens <= MAX_SMALL_TOKENS);
    specs.into_par_iter().for_each(|spec| {
        for_all_types!(check(spec, Schedule::Solo(spec.tokens as u64)));
    });
}

/// Every place of the rings is taken several times, with rows that are copied whole and rows that are not.
#[test]
fn rings_go_round() {
    let mut specs = Vec::new();
    for cols in [1280, 1284, 1312, 2048 + 64, 2048 + 96] {
        specs.push(Spec::new(Kernel::Tile, 40, 50, cols));
        specs.push(Spec::new(Kernel::Small, 5, 40, 4 * cols));
        specs.push(Spec::new(Kernel::Small, 12, 40, 4 * cols));
        specs.push(Spec::new(Kernel::Small, 30, 140, cols));
    }
    let schedules = [Schedule::RoundRobin, Schedule::Solo(1), Schedule::Random(2)];
    let all: Vec<_> = specs.into_iter().flat_map(|spec| schedules.map(|schedule| (spec, schedule))).collect();
    all.into_par_iter().for_each(|(spec, schedule)| {
        for_all_types!(check(spec, schedule));
    });
}

/// Blocks beside and below one another, in the order in which they share what they read.
#[test]
fn grids_have_many_blocks() {
    let specs = [
        Spec::new(Kernel::Tile, 300, 1300, 32),
        Spec::new(Kernel::Tile, 1300, 300, 32),
        Spec::new(Kernel::Small, 100, 1000, 64),
        Spec::new(Kernel::Small, 3, 1000, 64),
    ];
    specs.into_par_iter().for_each(|spec| {
        for_all_types!(check(Spec { bias: true, ..spec }, Schedule::RoundRobin));
    });
}

#[test]
fn splits_are_added_up() {
    let mut specs = Vec::new();
    for splits in [2, 3, 5, 9] {
        for (tokens, rows, cols) in [(3, 40, 1024), (11, 40, 1060), (70, 136, 640), (5, 24, 64), (129, 20, 516)] {
            for kernel in KERNELS {
                specs.push(Spec { splits, bias: splits % 2 == 1, ..Spec::new(kernel, tokens, rows, cols) });
            }
        }
    }
    specs.retain(|spec| spec.kernel == Kernel::Tile || spec.tokens <= MAX_SMALL_TOKENS);
    specs.into_par_iter().for_each(|spec| {
        for_all_types!(check(spec, Schedule::Solo(u64::from(spec.splits))));
    });
}

/// A schedule decides in which order threads run and copies land, and nothing else.
#[test]
fn schedules_change_nothing() {
    fn same<T: Number>(spec: Spec) {
        let case = Case::<T>::new(spec);
        let first = case.run(Schedule::RoundRobin);
        case.compare(&first);
        for schedule in Schedule::several(2).skip(1) {
            assert!(case.run(schedule) == first, "{schedule:?}: {spec:?}");
        }
    }
    // The last stage of the contraction lies in a different place of the ring for each.
    let mut specs = Vec::new();
    for (number, stages) in (4..10).enumerate() {
        let cols = 128 * stages + 32;
        specs.push(Spec { bias: true, ..Spec::new(Kernel::Tile, 60 + number, 70, cols) });
        specs.push(Spec::new(Kernel::Small, 1 + 3 * number, 70, 8 * cols));
        specs.push(Spec { splits: 2, ..Spec::new(Kernel::Small, 20 + number, 70, 4 * cols) });
    }
    specs.into_par_iter().for_each(|spec| {
        for_all_types!(same(spec));
    });
}

#[test]
fn nothing_to_sum_is_the_bias_and_nothing_to_write_is_no_block() {
    for kernel in KERNELS {
        for tokens in [3, 30] {
            for splits in [1, 2] {
                for_all_types!(check(
                    Spec { splits, bias: true, ..Spec::new(kernel, tokens, 5, 0) },
                    Schedule::RoundRobin
                ));
            }
        }
        for (tokens, rows) in [(0, 5), (5, 0), (0, 0)] {
            let empty = Spec { shape: Shape::new(rows, 8), ..Spec::new(kernel, tokens, 1, 4) };
            for_all_types!(check(empty, Schedule::RoundRobin));
        }
    }
}
