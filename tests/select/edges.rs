//! Special values and sizes, by name.

use crate::case::{By, ScoreCase, SquaresCase, SweepCase, all_same, close, is_refused, normal, rng};
use crate::common::{TestExecutor, everywhere_tests, same};
use crate::suite::{compare_scored, naive};
use twofour::{Cpu, Error, Pattern, Shape, bf16};

everywhere_tests!(
    special_scores,
    a_nan_is_counted_and_shows,
    kept_weights_are_copied,
    small_scores_count_beside_large_ones,
    wanda_with_dead_and_infinite_columns,
    no_tokens_and_no_columns,
    a_sweep_without_correlations_is_magnitude,
    what_is_not_finite_spoils_its_row_alone,
    many_rows_and_odd_groups,
    long_walks_end_where_they_should,
);

fn one_group(on: &mut impl TestExecutor, weight: [f32; 4]) -> (Vec<f32>, u8, u8) {
    let case =
        ScoreCase::<f32> { shape: Shape::new(1, 4), by: By::Magnitude, weight: weight.to_vec(), wants: [true; 4] };
    let got = case.run(on);
    (got.masked.unwrap(), got.patterns.unwrap()[0], got.codes.unwrap()[0])
}

fn special_scores(on: &mut impl TestExecutor) {
    let inf = f32::INFINITY;
    for (weight, index) in [
        ([0.0; 4], 0),
        ([-0.0, 0.0, -0.0, 0.0], 0),
        ([1.0, -1.0, 1.0, -1.0], 0),
        ([1.0, 2.0, 2.0, 2.0], 3),
        ([1.0, 2.0, 1.0, 1.0], 0),
        ([1.0, 1.0, 1.0, -2.0], 2),
        ([inf, -inf, inf, 1.0], 0),
        ([1.0, inf, 2.0, 3.0], 4),
        ([1.0, 0.5, -inf, inf], 5),
        ([1.0e-45, 0.0, 1.0e-44, 0.0], 1),
    ] {
        let (_, pattern, code) = one_group(on, weight);
        assert_eq!((pattern, code), (index, Pattern::ALL[usize::from(index)].code()), "special scores {weight:?}");
    }
}

fn a_nan_is_counted_and_shows(on: &mut impl TestExecutor) {
    for at in 0..4 {
        let mut weight = vec![1.0; 8];
        weight[at] = f32::NAN;
        let case = ScoreCase::<f32> { shape: Shape::new(2, 4), by: By::Magnitude, weight, wants: [true; 4] };
        let got = case.run(on);
        assert!(got.masked.as_ref().unwrap()[..4].iter().all(|w| w.is_nan()), "NaN at {at}");
        assert_eq!(got.masked.unwrap()[4..], [1.0, 1.0, 0.0, 0.0]);
        assert_eq!(got.patterns.unwrap(), [Pattern::POISON, 0]);
        assert_eq!(got.codes.unwrap(), [0x40]);
        let kept = got.statistics.unwrap();
        assert_eq!((kept.poisoned, kept.groups, kept.kept, kept.total), (1, 1, 2.0, 4.0));
        assert_eq!(kept.fraction(), 0.5);
    }
}

fn kept_weights_are_copied(on: &mut impl TestExecutor) {
    let weight = vec![-0.0, f32::NAN, 1.0e-40, f32::INFINITY];
    let by = By::Given(vec![5.0, 1.0, -1.0, 2.0]);
    let got = ScoreCase::<f32> { shape: Shape::new(1, 4), by, weight, wants: [true; 4] }.run(on);
    let masked = got.masked.unwrap();
    assert_eq!(masked.iter().map(|w| w.to_bits()).collect::<Vec<_>>(), [1 << 31, 0, 0, 0x7f80_0000]);
    assert_eq!((got.statistics.unwrap().kept, got.statistics.unwrap().total), (7.0, 7.0));
}

/// In `f32`, 1e8 + 1 = 1e8 + 3: sums would keep the first two.
fn small_scores_count_beside_large_ones(on: &mut impl TestExecutor) {
    assert_eq!(one_group(on, [1.0e8, 1.0, 2.0, 3.0]).1, 2);
    assert_eq!(one_group(on, [3.0e38, 3.0e38, 3.3e38, 1.0]).1, 1);
}

fn wanda_with_dead_and_infinite_columns(on: &mut impl TestExecutor) {
    let cpu = is_refused(on, &[0.0]);
    let mut run = |scale: [f32; 4], weight: [f32; 4]| {
        let by = By::Scaled(scale.to_vec());
        let case = ScoreCase::<f32> { shape: Shape::new(1, 4), by, weight: weight.to_vec(), wants: [true; 4] };
        case.try_run(on).map(|got| got.patterns.unwrap()[0])
    };
    assert_eq!(run([0.0, 0.0, 1.0, 1.0], [9.0, 9.0, 1.0, 1.0]), Ok(5), "dead columns are dropped");
    assert_eq!(run([1.0; 4], [f32::INFINITY, 1.0, 3.0, 2.0]), Ok(1));
    // What the CPU refuses, devices take as it is.
    let no_input = Error::NoInput { what: "the scale", cols: 4 };
    let all_dead = if cpu { Err(no_input) } else { Ok(0) };
    assert_eq!(run([0.0; 4], [9.0, 1.0, 2.0, 3.0]), all_dead, "all dead: the lowest");
    for (wild, on_a_device) in [(f32::INFINITY, Pattern::POISON), (-1.0, 3)] {
        let (what, value, must) = ("the scale", f64::from(wild), "finite and not negative");
        let expected = if cpu { Err(Error::Column { what, column: 0, value, must }) } else { Ok(on_a_device) };
        let first = if wild > 0.0 { 0.0 } else { 9.0 };
        assert_eq!(run([wild, 1.0, 1.0, 1.0], [first, 1.0, 1.0, 1.0]), expected, "{wild}");
    }
}

fn no_tokens_and_no_columns(on: &mut impl TestExecutor) {
    let case = SquaresCase::<bf16> { tokens: 0, cols: 12, x: vec![], sums: vec![4.0; 12], norms: true };
    assert_eq!(case.run(on), (vec![4.0; 12], Some(vec![2.0; 12])), "no tokens");
    for shape in [Shape::new(0, 8), Shape::new(3, 0)] {
        let case = ScoreCase::<bf16> { shape, by: By::Magnitude, weight: vec![], wants: [true; 4] };
        let kept = case.run(on).statistics.unwrap();
        assert_eq!((kept.kept, kept.groups, kept.poisoned), (0.0, 0, 0), "{shape:?}");
        let square = vec![0.0; shape.cols * shape.cols];
        let scale = vec![0.0; shape.cols];
        let case = SweepCase::<bf16> { shape, weight: vec![], upper: square, scale, wants: [true; 4] };
        assert_eq!(case.run(on).losses.unwrap(), vec![0.0; shape.rows], "{shape:?}");
    }
}

fn identity(shape: Shape, weight: Vec<f32>) -> SweepCase<f32> {
    let upper = (0..shape.cols * shape.cols).map(|i| f32::from(u8::from(i % (shape.cols + 1) == 0))).collect();
    SweepCase { shape, weight, upper, scale: vec![1.0; shape.cols], wants: [true; 4] }
}

/// The identity's factor is the identity: the masks are those by magnitude, and what is kept stays as it is.
fn a_sweep_without_correlations_is_magnitude(on: &mut impl TestExecutor) {
    for cols in [4, 124, 128, 132, 260] {
        let shape = Shape::new(3, cols);
        let weight: Vec<f32> = normal(&mut rng(cols as u64), shape.weights(), &[]);
        let case = ScoreCase { shape, by: By::Magnitude, weight: weight.clone(), wants: [true; 4] };
        let (expected, got) = (case.run(&mut Cpu), identity(shape, weight.clone()).run(on));
        assert_eq!(got.patterns, expected.patterns, "{cols} columns");
        assert_eq!(got.codes, expected.codes, "{cols} columns");
        let masked = expected.masked.unwrap();
        assert_eq!(got.updated.unwrap(), masked, "{cols} columns");
        for (row, loss) in got.losses.unwrap().into_iter().enumerate() {
            let range = row * cols..(row + 1) * cols;
            let dropped = weight[range.clone()].iter().zip(&masked[range]).map(|(w, m)| f64::from(w - m).powi(2));
            close(loss, 0.5 * dropped.sum::<f64>(), "loss");
        }
    }
}

fn what_is_not_finite_spoils_its_row_alone(on: &mut impl TestExecutor) {
    let shape = Shape::new(3, 260);
    let mut weight: Vec<f32> = normal(&mut rng(9), shape.weights(), &[]);
    let mut case = identity(shape, weight.clone());
    case.upper.iter_mut().enumerate().for_each(|(i, u)| *u = if i / 260 < i % 260 { 0.01 } else { *u });
    let before = case.run(on);
    weight[260 + 130] = f32::NAN;
    case.weight = weight;
    let after = case.run(on);
    let (before, updated) = (before.updated.unwrap(), after.updated.unwrap());
    for (i, (&a, &b)) in updated.iter().zip(&before).enumerate() {
        let spoilt = (260 + 128..2 * 260).contains(&i);
        assert!(if spoilt { a.is_nan() } else { same(a, b) }, "weight {i}: {a} for {b}");
    }
    let patterns = after.patterns.unwrap();
    assert!(patterns[65 + 32..130].iter().all(|&index| index == Pattern::POISON));
    let losses = after.losses.unwrap();
    assert!(losses[0].is_finite() && losses[1].is_nan() && losses[2].is_finite());
}

/// More rows than a tile and a band have, and rows that share a byte of codes; more columns than are near.
fn many_rows_and_odd_groups(on: &mut impl TestExecutor) {
    for (seed, shape) in [(2, Shape::new(131, 140)), (3, Shape::new(5, 652))] {
        let mut case = SweepCase::<bf16>::of_shape(rng(seed), shape);
        case.weight = normal(&mut rng(4), shape.weights(), &[]);
        case.wants = [true; 4];
        let (got, expected) = (case.run(on), naive(&case));
        assert_eq!(got.codes, expected.codes, "{shape:?}");
        all_same(&got.updated.unwrap(), &expected.updated.unwrap(), "many rows");
    }
}

/// Many steps of the grid, several pieces of the CPU's, and rows that end anywhere in them.
fn long_walks_end_where_they_should(on: &mut impl TestExecutor) {
    for (seed, (rows, cols)) in [(37, 1284), (3001, 20), (1, 40_012)].into_iter().enumerate() {
        let (shape, mut rng) = (Shape::new(rows, cols), rng(seed as u64));
        let scale = normal::<f32>(&mut rng, cols, &[]).into_iter().map(f32::abs).collect();
        let (weight, by) = (normal::<f32>(&mut rng, shape.weights(), &[]), By::Scaled(scale));
        let mut narrow = weight.iter().map(|&w| bf16::from_f32(w)).collect();
        for wants in [[true, true, true, false], [true; 4]] {
            let case = ScoreCase { shape, by: by.clone(), weight: weight.clone(), wants };
            compare_scored(&case, &case.run(on));
            let case = ScoreCase::<bf16> { shape, by: by.clone(), weight: narrow, wants };
            compare_scored(&case, &case.run(on));
            narrow = case.weight;
        }
    }
}
