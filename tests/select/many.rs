//! Sums over more blocks than there are threads to add them up, and the same results on every grid.

use crate::case::{By, ScoreCase, SquaresCase, SweepCase, normal, rng};
use crate::common::{Emulator, TestExecutor, everywhere_tests};
use crate::swaps::SwapsCase;
use twofour::device::Limits;
use twofour::select::Statistics;
use twofour::{Float, Shape, bf16, f16};
use twofour_emulator::Schedule;

everywhere_tests!(kept_scores_of_many_blocks_are_all_there, squares_of_many_slabs_and_strips_are_all_there);

/// 258 blocks, whose shares one block of 256 threads adds up.
fn kept_scores_of_many_blocks_are_all_there(on: &mut impl TestExecutor) {
    fn check<W: Float>(on: &mut impl TestExecutor, groups: usize) {
        let shape = Shape::new(1, 4 * groups);
        let mut weight: Vec<W> = [4.0, 1.0, -3.0, 2.0].map(W::from_f32).repeat(groups);
        weight[shape.weights() - 1] = W::from_f32(f32::NAN);
        let case = ScoreCase { shape, by: By::Magnitude, weight, wants: [false, false, false, true] };
        let (kept, groups) = (7.0 * (groups - 1) as f64, (groups - 1) as u64);
        let expected = Statistics { kept, total: kept / 7.0 * 10.0, groups, poisoned: 1 };
        assert_eq!(case.run(on).statistics.unwrap(), expected, "{on:?}");
    }
    check::<f32>(on, 131_585);
    check::<bf16>(on, 263_170);
    check::<f16>(on, 263_170);
}

/// 258 slabs of 128 tokens; and 260 strips of columns, of which a block of the second kernel has but two.
fn squares_of_many_slabs_and_strips_are_all_there(on: &mut impl TestExecutor) {
    squares::<f32>(on);
    squares::<bf16>(on);
    squares::<f16>(on);
}

fn squares<X: Float>(on: &mut impl TestExecutor) {
    for (tokens, cols) in [(32_899, 4), (3, 33_284)] {
        let x = (0..tokens * cols).map(|i| X::from_f32((i % cols % 5 + 1) as f32)).collect();
        let sums = (0..cols).map(|column| column as f64).collect();
        let (sums, norms) = SquaresCase::<X> { tokens, cols, x, sums, norms: true }.run(on);
        for (column, (sum, norm)) in sums.into_iter().zip(norms.unwrap()).enumerate() {
            let expected = column as f64 + tokens as f64 * ((column % 5 + 1) as f64).powi(2);
            assert_eq!(sum, expected, "{on:?} column {column}");
            assert_eq!(norm, (expected as f32).sqrt());
        }
    }
}

/// From the smallest device to one with a block for every step: the same choices, sums and weights.
#[test]
fn the_grid_decides_nothing() {
    let on = |multiprocessors| Emulator::new(Schedule::RoundRobin).limits(Limits { multiprocessors, ..Limits::A100 });
    let (rng, shape) = (&mut rng(1), Shape::new(3, 4 * 5001));
    let scale = normal::<f32>(rng, shape.cols, &[]).into_iter().map(f32::abs).collect();
    let weight = normal::<bf16>(rng, shape.weights(), &[]);
    for wants in [[true, true, true, false], [true; 4]] {
        let case = ScoreCase { shape, by: By::Scaled(Clone::clone(&scale)), weight: weight.clone(), wants };
        let [a, b] = [0, 100].map(|multiprocessors| case.run(&mut on(multiprocessors)));
        assert_eq!((a.masked, a.patterns, a.codes, a.statistics), (b.masked, b.patterns, b.codes, b.statistics));
    }
    let mut case = SweepCase::<bf16>::of_shape(crate::case::rng(2), Shape::new(70, 268));
    case.weight = normal(rng, case.shape.weights(), &[]);
    case.wants = [true; 4];
    let [a, b] = [0, 100].map(|multiprocessors| case.run(&mut on(multiprocessors)));
    assert_eq!((a.updated, a.patterns, a.codes, a.losses), (b.updated, b.patterns, b.codes, b.losses));
    let case = SwapsCase::<f32>::tame(3, Shape::new(70, 268));
    let [a, b] = [0, 100].map(|multiprocessors| case.run(&mut on(multiprocessors)));
    assert_eq!((a.masked, a.patterns, a.codes, a.losses), (b.masked, b.patterns, b.codes, b.losses));
    assert_eq!(a.swaps, b.swaps);
}

/// Where each sum lies in memory, for those who read it from there.
#[test]
fn statistics_lie_as_they_are_declared() {
    let statistics = Statistics { kept: 1.0, total: 2.0, groups: 3, poisoned: 4 };
    let expected = [[1.0f64, 2.0].map(f64::to_le_bytes), [3u64, 4].map(u64::to_le_bytes)].concat().concat();
    assert_eq!(bytemuck::bytes_of(&statistics), expected);
}
