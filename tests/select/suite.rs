//! One property suite: random problems against the oracles, on every executor.

use crate::case::{By, ScoreCase, Scored, SquaresCase, SweepCase, Swept, all_same, close, is_refused, normal, rng};
use crate::common::runs::{each_kernel_has_met_many, wanted};
use crate::common::{Counts, Emulator, TestExecutor, everywhere_tests, for_all};
use crate::{oracle, swaps};
use proptest::prelude::any;
use rand::Rng;
use rayon::prelude::*;
use std::any::TypeId;
use twofour::space::Host;
use twofour::{Cpu, Error, Executor, Float, Pattern, Shape, bf16, f16};

everywhere_tests!(sums_choose_the_same, wanda_is_its_formula);

const COUNTS: Counts = Counts { cpu: 150, emulator: 150, gpu: 150 };

/// Calls `$function::<T>($arguments)` for one of the three types.
macro_rules! of_type {
    ($number:expr, $function:ident($($argument:expr),*)) => {
        match $number % 3 {
            0 => $function::<f32>($($argument),*),
            1 => $function::<f16>($($argument),*),
            _ => $function::<bf16>($($argument),*),
        }
    };
}
fn scores(on: &mut impl TestExecutor, seed: &u64) {
    of_type!(*seed, check_score(on, *seed));
}

fn check_score<W: Float>(on: &mut impl TestExecutor, seed: u64) {
    let case = ScoreCase::<W>::new(seed);
    let refused = matches!(&case.by, By::Scaled(scale) if is_refused(on, scale));
    match case.try_run(on) {
        Err(Error::Column { .. } | Error::NoInput { .. }) => assert!(refused, "{:?}", case.by),
        got => {
            assert!(!refused, "{:?}", case.by);
            compare_scored(&case, &got.unwrap());
        }
    }
}

#[test]
fn the_two_largest_scores_are_kept() {
    for_all!(scores, COUNTS, any::<u64>());
}

/// Every output that was wanted, to the bit, and sums to `f64`'s rounding.
pub(crate) fn compare_scored<W: Float>(case: &ScoreCase<W>, got: &Scored<W>) {
    let scores = case.scores();
    let (mut sums, mut counts) = ([0.0, 0.0], [0, 0]);
    for (g, four) in scores.chunks(4).enumerate() {
        let (expected, place) = (oracle::choose(four), oracle::place(case.shape, g));
        if let Some(patterns) = &got.patterns {
            assert_eq!(patterns[g], expected.map_or(Pattern::POISON, Pattern::index), "{place}: {four:?}");
        }
        if let Some(codes) = &got.codes {
            let expected = expected.map_or(Pattern::POISON_CODE, Pattern::code);
            assert_eq!(oracle::code(codes, g), expected, "{place}: {four:?}");
        }
        if let Some(masked) = &got.masked {
            let range = 4 * g..4 * g + 4;
            all_same(&masked[range.clone()], &oracle::masked(expected, &case.weight[range]), &place);
        }
        counts[usize::from(expected.is_none())] += 1;
        let Some(pattern) = expected else { continue };
        sums[0] += pattern.kept().map(|j| f64::from(four[usize::from(j)])).iter().sum::<f64>();
        sums[1] += four.iter().map(|&score| f64::from(score)).sum::<f64>();
    }
    if let (Some(codes), 1) = (&got.codes, scores.len() / 4 % 2) {
        assert_eq!(codes.last().unwrap() >> 4, 0, "the last byte's unused half");
    }
    let Some(statistics) = got.statistics else { return };
    assert_eq!([statistics.groups, statistics.poisoned], counts);
    // Given scores have signs, so that what is lost is a share of their sizes.
    let size: f64 = scores.iter().map(|score| f64::from(score.abs())).filter(|score| score.is_finite()).sum();
    for (got, expected) in [statistics.kept, statistics.total].into_iter().zip(sums) {
        let equal = got == expected || (got.is_nan() && expected.is_nan());
        assert!(equal || (got - expected).abs() <= 1e-12 * size, "{got:e} for {expected:e}");
    }
}

/// Scores whose sums are exact, many of them equal: the choice is that of the largest sum of two, of equal ones the
/// lowest index.
fn sums_choose_the_same(on: &mut impl TestExecutor) {
    let mut rng = rng(77);
    let shape = Shape::new(6, 4 * 216);
    let scores: Vec<f32> = (0..shape.weights()).map(|_| rng.random_range(-2..3) as f32).collect();
    let wants = [false, true, false, false];
    let case = ScoreCase::<f32> { shape, by: By::Given(scores.clone()), weight: vec![0.0; shape.weights()], wants };
    let patterns = case.run(on).patterns.unwrap();
    for (index, four) in patterns.into_iter().zip(scores.chunks(4)) {
        assert_eq!(index, oracle::best_of_six(four).index(), "{four:?}");
    }
}

fn squares(on: &mut impl TestExecutor, seed: &u64) {
    of_type!(seed / 3, check_squares(on, *seed));
}

/// The CPU against a sum in `f64`; the others against the CPU, to the bit.
fn check_squares<X: Float>(on: &mut impl TestExecutor, seed: u64) {
    let case = SquaresCase::<X>::new(seed);
    let (sums, norms) = case.run(on);
    let (expected, expected_norms) = case.run(&mut Cpu);
    for (column, (&got, &of_cpu)) in sums.iter().zip(&expected).enumerate() {
        let same = got.to_bits() == of_cpu.to_bits() || (got.is_nan() && of_cpu.is_nan());
        assert!(same, "column {column}: {got:e}, on the CPU {of_cpu:e}");
        let squares = case.x.iter().skip(column).step_by(case.cols).map(|x| f64::from(x.to_f32()).powi(2));
        let exact = case.sums[column] + squares.sum::<f64>();
        // A run of 16 in f32, whose squares may leave its range.
        let wild = !exact.is_finite() || exact > 1e38;
        assert!(wild || (got - exact).abs() <= 17.0 * 2f64.powi(-24) * exact + 1e-37, "{got:e} for {exact:e}");
    }
    if let (Some(norms), Some(expected)) = (&norms, &expected_norms) {
        all_same(norms, expected, "norms");
        for (norm, sum) in norms.iter().zip(&sums) {
            let root = sum.sqrt();
            assert!(
                (f64::from(*norm) - root).abs() <= 1.2e-7 * root || root.is_nan() || root > 1e19,
                "{norm} for {root}"
            );
        }
    }
}

#[test]
fn squares_are_added_up() {
    for_all!(squares, COUNTS, any::<u64>());
}

fn sweeps(on: &mut impl TestExecutor, seed: &u64) {
    of_type!(*seed, check_sweep(on, *seed, seed.is_multiple_of(4)));
}

/// Choices and updated weights to the bit.
fn check_sweep<W: Float>(on: &mut impl TestExecutor, seed: u64, wide: bool) {
    let case = SweepCase::<W>::new(seed, wide);
    let (got, expected) = (case.run(on), naive(&case));
    compare_swept(&got, &expected, &format!("seed {seed}"));
    let (cpu, wanted) = (is_cpu(on), case.wants[0]);
    assert_eq!(got.lost, if wanted && cpu { expected.lost } else { 0 }, "seed {seed}");
    assert_eq!(got.faults, if wanted && !cpu { expected.faults } else { 0 }, "seed {seed}");
}

/// The CPU says how many updated weights left their range in an error, others count.
fn is_cpu<E: Executor>(_: &E) -> bool {
    TypeId::of::<E::Space>() == TypeId::of::<Host>()
}

#[test]
fn sweeps_are_the_contracts() {
    for_all!(sweeps, COUNTS, any::<u64>());
}

#[test]
fn every_kernel_meets_many_problems() {
    // A few more: those without tokens have no slabs, and one swap in six wants neither weights nor codes.
    (0..3 * wanted() * 14 / 10).into_par_iter().for_each(|round| {
        let mut emulator = Emulator::numbered(round / 3);
        of_type!(round, check_score(&mut emulator, round));
        of_type!(round, check_squares(&mut emulator, round));
        of_type!(round, check_sweep(&mut emulator, round, round % 30 < 11));
        swaps::contract(&mut emulator, &round);
    });
    each_kernel_has_met_many("twofour_select_", 26);
}

/// The contract's own words: row by row, each column's error to each column on its right, no blocks.
pub(crate) fn naive<W: Float>(case: &SweepCase<W>) -> Swept<W> {
    let (shape, cols) = (case.shape, case.shape.cols);
    let (mut updated, mut patterns) = (Vec::new(), Vec::new());
    let (mut codes, mut losses) = (vec![0; shape.packed_codes()], Vec::new());
    let (mut lost, mut faults) = (0, 0);
    for row in case.weight.chunks(cols) {
        let (mut w, mut loss) = (row.iter().map(|w| w.to_f32()).collect::<Vec<_>>(), 0.0);
        for j in 0..cols {
            if j % 4 == 0 {
                let scores: Vec<f32> = (j..j + 4).map(|i| (w[i] * case.scale[i]).abs()).collect();
                patterns.push(oracle::choose(&scores));
            }
            let pattern = patterns[patterns.len() - 1];
            let error = match pattern {
                None => f32::NAN,
                Some(pattern) if pattern.keeps(j % 4) => 0.0,
                Some(_) => w[j] * case.scale[j],
            };
            let kept = pattern.is_some_and(|pattern| pattern.keeps(j % 4)) && case.scale[j] != 0.0;
            w[j] = if pattern.is_none() {
                f32::NAN
            } else if kept {
                w[j]
            } else {
                0.0
            };
            loss += 0.5 * f64::from(error).powi(2);
            if error != 0.0 {
                let right = case.upper[j * cols..(j + 1) * cols].iter().zip(&mut w).skip(j + 1);
                right.for_each(|(u, w)| *w = (-error).mul_add(*u, *w));
            }
        }
        let new: Vec<W> = w.iter().map(|w| W::from_f32(w + 0.0)).collect();
        let wild = |w: &&W| !w.to_f32().is_finite();
        lost += if row.iter().any(|w| wild(&w)) { 0 } else { new.iter().filter(wild).count() as u64 };
        faults += new.iter().filter(wild).count() as u32;
        updated.extend(new);
        losses.push(loss);
    }
    for (g, pattern) in patterns.iter().enumerate() {
        codes[g / 2] |= pattern.map_or(Pattern::POISON_CODE, Pattern::code) << (4 * (g % 2));
    }
    let indices = patterns.iter().map(|pattern| pattern.map_or(Pattern::POISON, Pattern::index)).collect();
    Swept { updated: Some(updated), patterns: Some(indices), codes: Some(codes), losses: Some(losses), lost, faults }
}

fn compare_swept<W: Float>(got: &Swept<W>, expected: &Swept<W>, what: &str) {
    if let (Some(got), Some(expected)) = (&got.patterns, &expected.patterns) {
        assert_eq!(got, expected, "{what}: patterns");
    }
    if let (Some(got), Some(expected)) = (&got.codes, &expected.codes) {
        assert_eq!(got, expected, "{what}: codes");
    }
    if let (Some(got), Some(expected)) = (&got.updated, &expected.updated) {
        all_same(got, expected, what);
    }
    for (got, &expected) in got.losses.iter().flatten().zip(expected.losses.iter().flatten()) {
        close(*got, expected, what);
    }
}

/// Squares, norms and scaled scores together, against `abs(W) · ‖X‖₂` in `f64`, where two scores are not as good as
/// equal.
fn wanda_is_its_formula(on: &mut impl TestExecutor) {
    let (shape, tokens) = (Shape::new(40, 48), 70);
    let mut rng = rng(5);
    let weight = normal::<bf16>(&mut rng, shape.weights(), &[]);
    let spread: Vec<f32> = (0..shape.cols).map(|_| rng.random_range(0.1..4.0)).collect();
    let x: Vec<bf16> = normal::<f32>(&mut rng, tokens * shape.cols, &[])
        .into_iter()
        .enumerate()
        .map(|(i, x)| bf16::from_f32(x * spread[i % shape.cols]))
        .collect();
    let sums = vec![0.0; shape.cols];
    let (_, norms) = SquaresCase { tokens, cols: shape.cols, x: x.clone(), sums, norms: true }.run(on);
    let case = ScoreCase { shape, by: By::Scaled(norms.unwrap()), weight, wants: [false, true, false, false] };
    let patterns = case.run(on).patterns.unwrap();
    let norm = |j: usize| x.iter().skip(j).step_by(shape.cols).map(|x| x.to_f64().powi(2)).sum::<f64>().sqrt();
    let norms: Vec<f64> = (0..shape.cols).map(norm).collect();
    let mut compared = 0;
    for (g, index) in patterns.into_iter().enumerate() {
        let score = |j: usize| case.weight[4 * g + j].to_f64().abs() * norms[(4 * g + j) % shape.cols];
        let kept = Pattern::from_index(index).unwrap();
        for (j, i) in (0..16).map(|pair| (pair / 4, pair % 4)).filter(|&(j, i)| kept.keeps(j) && !kept.keeps(i)) {
            assert!(score(j) >= score(i) * (1.0 - 1e-6), "group {g}: {} before {}", score(j), score(i));
            compared += 1;
        }
    }
    assert_eq!(compared, 4 * shape.groups());
}
