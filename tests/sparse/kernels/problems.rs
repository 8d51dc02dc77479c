//! Each kernel on many random problems, on its tiles' edges, with its rings going round, on several schedules.

use super::case::{Case, Spec, emulator};
use crate::common::runs::{each_kernel_has_met_many, wanted};
use crate::common::{TestExecutor, gpu};
use crate::number::{Number, for_kernel_types};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rayon::prelude::*;
use twofour::sparse::{MAX_SMALL_TOKENS, Route};
use twofour::{Cpu, Shape, bf16, f16};
use twofour_emulator::Schedule;

const ROUTES: [Route; 2] = [Route::Small, Route::Tile];

fn check<T: Number>(on: &mut impl TestExecutor, spec: Spec) {
    Case::<T>::new(spec).check(on);
}

/// Checks each of these for all types: in the emulator on its schedule, on the CPU, and on the GPU where there is one.
fn check_all(specs: Vec<(Spec, Schedule)>) {
    specs.par_iter().for_each(|&(spec, schedule)| {
        for_kernel_types!(check(&mut emulator(schedule), spec));
        for_kernel_types!(check(&mut Cpu, spec));
    });
    if let Some(mut gpu) = gpu() {
        specs.iter().for_each(|&(spec, _)| for_kernel_types!(check(&mut gpu, spec)));
    }
}

/// For one of the three types of values.
fn check_type(on: &mut impl TestExecutor, number: u64, spec: Spec) {
    match number % 3 {
        0 => check::<f16>(on, spec),
        1 => check::<bf16>(on, spec),
        _ => check::<i8>(on, spec),
    }
}

fn schedule(number: u64) -> Schedule {
    [Schedule::RoundRobin, Schedule::Solo(number), Schedule::Random(number)][number as usize % 3]
}

/// A small problem; now and then rows that start on 16 bytes, so that what is copied whole is met as often as what is not.
fn random(kind: usize, round: u64) -> Spec {
    let mut rng = StdRng::seed_from_u64(round << 2 | kind as u64);
    let groups = match rng.random_range(0..4) {
        0 => 8 * rng.random_range(1..=12),
        1 => 8 * rng.random_range(1..=40),
        _ => rng.random_range(1..=60),
    };
    let (route, tokens, rows) = match kind {
        0 => (Route::Small, rng.random_range(1..=16), rng.random_range(1..=100)),
        1 => (Route::Small, rng.random_range(17..=MAX_SMALL_TOKENS), rng.random_range(1..=140)),
        // Of a tile, and now and then of two.
        _ => (Route::Tile, rng.random_range(1..=140), rng.random_range(1..=140)),
    };
    let splits = if rng.random_ratio(1, 3) { rng.random_range(2..=4) } else { 1 };
    let groups = groups.min([320, 100, 40][kind]);
    Spec { splits, bias: rng.random(), data: rng.random(), ..Spec::new(route, tokens, rows, 4 * groups) }
}

#[test]
fn every_kernel_meets_many_problems() {
    let problems: Vec<(usize, u64)> =
        (0..3).flat_map(|kind| (0..3 * wanted() * 11 / 10).map(move |round| (kind, round))).collect();
    problems.par_iter().for_each(|&(kind, round)| {
        check_type(&mut emulator(schedule(round / 9)).random(), round, random(kind, round / 3));
    });
    each_kernel_has_met_many("twofour_sparse_", 12);
    let some = || problems.iter().step_by(9);
    some().for_each(|&(kind, round)| check_type(&mut Cpu, round, random(kind, round / 3)));
    if let Some(mut gpu) = gpu() {
        some().for_each(|&(kind, round)| check_type(&mut gpu, round, random(kind, round / 3)));
    }
}

#[test]
fn tiles_have_edges() {
    let mut specs = Vec::new();
    for tokens in [1, 7, 8, 9, 16, 17, 63, 64, 65, 127, 128, 129] {
        for (rows, cols) in [(1, 4), (31, 28), (32, 32), (33, 64), (127, 100), (128, 128), (129, 132), (65, 260)] {
            for route in ROUTES {
                let bias = (tokens + rows) % 2 == 0;
                specs.push(Spec { bias, ..Spec::new(route, tokens, rows, cols) });
            }
        }
    }
    specs.retain(|spec| spec.route == Route::Tile || spec.tokens <= MAX_SMALL_TOKENS);
    check_all(specs.into_iter().map(|spec| (spec, Schedule::Solo(spec.tokens as u64))).collect());
}

/// Every place of the rings is taken several times, with rows that are copied whole and rows that are not.
#[test]
fn rings_go_round() {
    let mut specs = Vec::new();
    for cols in [1280, 1284, 1312, 2048 + 64, 2048 + 96] {
        specs.push(Spec::new(Route::Tile, 40, 50, cols));
        specs.push(Spec::new(Route::Small, 5, 40, 4 * cols));
        specs.push(Spec::new(Route::Small, 12, 40, 4 * cols));
        specs.push(Spec::new(Route::Small, 30, 140, cols));
    }
    let schedules = [Schedule::RoundRobin, Schedule::Solo(1), Schedule::Random(2)];
    check_all(specs.into_iter().flat_map(|spec| schedules.map(|schedule| (spec, schedule))).collect());
}

/// Blocks beside and below one another, in the order in which they share what they read.
#[test]
fn grids_have_many_blocks() {
    let specs = [
        Spec::new(Route::Tile, 300, 1300, 32),
        Spec::new(Route::Tile, 1300, 300, 32),
        Spec::new(Route::Small, 100, 1000, 64),
        Spec::new(Route::Small, 3, 1000, 64),
    ];
    check_all(specs.map(|spec| (Spec { bias: true, ..spec }, Schedule::RoundRobin)).to_vec());
}

#[test]
fn splits_are_added_up() {
    let mut specs = Vec::new();
    for splits in [2, 3, 5, 9] {
        for (tokens, rows, cols) in [(3, 40, 1024), (11, 40, 1060), (70, 136, 640), (5, 24, 64), (129, 20, 516)] {
            for route in ROUTES {
                specs.push(Spec { splits, bias: splits % 2 == 1, ..Spec::new(route, tokens, rows, cols) });
            }
        }
    }
    specs.retain(|spec| spec.route == Route::Tile || spec.tokens <= MAX_SMALL_TOKENS);
    check_all(specs.into_iter().map(|spec| (spec, Schedule::Solo(u64::from(spec.splits)))).collect());
}

/// A schedule decides in which order threads run and copies land, and nothing else.
#[test]
fn schedules_change_nothing() {
    fn same<T: Number>(spec: Spec) {
        let case = Case::<T>::new(spec);
        let first = case.run(&mut emulator(Schedule::RoundRobin));
        case.compare(&first);
        for schedule in Schedule::several(2).skip(1) {
            assert!(case.run(&mut emulator(schedule)) == first, "{schedule:?}: {spec:?}");
        }
    }
    // The last stage of the contraction lies in a different place of the ring for each.
    let mut specs = Vec::new();
    for (number, stages) in (4..10).enumerate() {
        let cols = 128 * stages + 32;
        specs.push(Spec { bias: true, ..Spec::new(Route::Tile, 60 + number, 70, cols) });
        specs.push(Spec::new(Route::Small, 1 + 3 * number, 70, 8 * cols));
        specs.push(Spec { splits: 2, ..Spec::new(Route::Small, 20 + number, 70, 4 * cols) });
    }
    specs.into_par_iter().for_each(|spec| {
        for_kernel_types!(same(spec));
    });
}

#[test]
fn nothing_to_sum_is_the_bias_and_nothing_to_write_is_no_block() {
    let mut specs = Vec::new();
    for route in ROUTES {
        for tokens in [3, 30] {
            for splits in [1, 2] {
                specs.push(Spec { splits, bias: true, ..Spec::new(route, tokens, 5, 0) });
            }
        }
        for (tokens, rows) in [(0, 5), (5, 0), (0, 0)] {
            specs.push(Spec { shape: Shape::new(rows, 8), ..Spec::new(route, tokens, 1, 4) });
        }
    }
    check_all(specs.into_iter().map(|spec| (spec, Schedule::RoundRobin)).collect());
}
