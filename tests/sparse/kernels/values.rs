//! Exact sums, extremes, and what is no number.

use super::case::{Case, Spec, emulator};
use crate::number::{Number, for_kernel_types};
use rayon::prelude::*;
use twofour::sparse::Route;
use twofour::{bf16, f16};
use twofour_emulator::Schedule;

/// One for each kernel, but for the type of values.
fn specs(rows: usize, cols: usize) -> [Spec; 4] {
    let of = |route, tokens| Spec::new(route, tokens, rows, cols);
    [of(Route::Small, 7), of(Route::Small, 13), of(Route::Small, 70), of(Route::Tile, 66)]
}

#[test]
fn small_integers_are_exact() {
    fn check<T: Number>(spec: Spec) {
        let case = Case::<T>::integers(spec);
        let y = case.run(&mut emulator(Schedule::Random(1)));
        let (rows, cols) = (spec.shape.rows, spec.shape.cols);
        for (at, &y) in y.iter().enumerate() {
            let (token, row) = (at / rows, at % rows);
            let terms = (0..cols).map(|k| case.x[token * cols + k].number() * case.dense[row * cols + k].number());
            let bias = if spec.bias { T::result(case.bias[row]) } else { 0.0 };
            assert_eq!(T::result(y), terms.sum::<f64>() + bias, "y[{token}, {row}]: {spec:?}");
        }
    }
    // Sums of 32 kept products of up to 4 and a bias of up to 4 are at most 132 at worst, which bf16 holds.
    for spec in specs(37, 64) {
        for_kernel_types!(check(spec));
        for_kernel_types!(check(Spec { bias: true, ..spec }));
        for_kernel_types!(check(Spec { bias: true, splits: 2, ..spec }));
    }
}

#[test]
fn extremes_of_i8_are_exact() {
    for spec in specs(40, 516) {
        for bias in [i32::MAX, i32::MIN] {
            let mut case = Case::<i8>::new(Spec { bias: true, splits: 1 + spec.tokens as u32 % 2, ..spec });
            case.bias.fill(bias);
            for (i, x) in case.x.iter_mut().enumerate() {
                *x = if i / 516 % 3 == 0 { 127 } else { -128 };
            }
            for (group, kept) in case.kept.iter().enumerate() {
                kept.iter().for_each(|at| case.dense[4 * group + at] = if group % 5 == 4 { 127 } else { -128 });
            }
            case.check(&mut emulator(Schedule::RoundRobin));
        }
    }
}

/// 2¹⁷ products of -128 · -128 are 2³¹, one more than an i32 holds.
#[test]
fn sums_of_i8_wrap() {
    let specs = [Spec::new(Route::Small, 2, 1, (1 << 18) + 4), Spec::new(Route::Tile, 1, 2, (1 << 18) + 32)];
    specs.into_par_iter().for_each(|spec| {
        for splits in [1, 3] {
            let mut case = Case::<i8>::new(Spec { splits, ..spec });
            case.x.fill(-128);
            case.kept
                .iter()
                .enumerate()
                .for_each(|(group, kept)| kept.iter().for_each(|at| case.dense[4 * group + at] = -128));
            let y = case.run(&mut emulator(Schedule::RoundRobin));
            assert!(y.iter().all(|&y| y < 0));
            case.compare(&y);
        }
    });
}

/// The 16-bit types' own numbers.
trait Special: Number {
    const SPECIALS: [Self; 3];
    const MINUS_ZERO: Self;
    fn is_finite_sum(y: Self::Output) -> bool {
        Self::result(y).is_finite()
    }
}
impl Special for f16 {
    const SPECIALS: [Self; 3] = [Self::NAN, Self::INFINITY, Self::NEG_INFINITY];
    const MINUS_ZERO: Self = Self::NEG_ZERO;
}
impl Special for bf16 {
    const SPECIALS: [Self; 3] = [Self::NAN, Self::INFINITY, Self::NEG_INFINITY];
    const MINUS_ZERO: Self = Self::NEG_ZERO;
}

/// Tokens and rows of `Y` that are not finite.
fn spoilt<T: Special>(case: &Case<T>, y: &[T::Output]) -> Vec<(usize, usize)> {
    let rows = case.spec.shape.rows;
    y.iter().enumerate().filter(|(_, y)| !T::is_finite_sum(**y)).map(|(at, _)| (at / rows, at % rows)).collect()
}

/// Sizes whose rows are copied whole, or not; of which the last step is not all there.
const COLS: [usize; 3] = [176, 180, 72];

#[test]
fn what_is_dropped_of_x_does_no_harm() {
    fn check<T: Special>(spec: Spec) {
        let mut case = Case::<T>::new(spec);
        let (cols, groups) = (spec.shape.cols, spec.shape.cols / 4);
        // All rows keep the same, so that something is dropped by all.
        for at in 0..case.kept.len() {
            let (group, kept) = (at % groups, case.kept[at % groups]);
            let row = at / groups * cols;
            case.dense[row + 4 * group..][..4].fill(T::of(0.0));
            kept.iter().for_each(|k| case.dense[row + 4 * group + k] = T::of((at as i32 % 7 - 3) as f32));
            case.kept[at] = kept;
        }
        for token in 0..spec.tokens {
            for k in (0..cols).filter(|k| !case.kept[k / 4].contains(&(k % 4))) {
                case.x[token * cols + k] = T::SPECIALS[(token + k) % 3];
            }
        }
        let y = case.run(&mut emulator(Schedule::RoundRobin));
        case.compare(&y);
        assert_eq!(spoilt(&case, &y), []);
    }
    for spec in COLS.iter().flat_map(|&cols| specs(36, cols)) {
        check::<f16>(spec);
        check::<bf16>(spec);
    }
}

#[test]
fn specials_of_x_reach_those_who_keep_them() {
    fn check<T: Special>(spec: Spec) {
        let (rows, cols) = (spec.shape.rows, spec.shape.cols);
        for k in [0, 33, cols - 1] {
            let mut case = Case::<T>::new(spec);
            let token = spec.tokens - 2;
            case.x[token * cols + k] = T::SPECIALS[k % 3];
            // A zero that is kept is a term, whatever its sign.
            for row in 0..rows / 2 {
                case.dense[row * cols + k] = if row % 2 == 0 { T::of(0.0) } else { T::MINUS_ZERO };
            }
            for row in (0..rows).filter(|row| !case.kept[row * cols / 4 + k / 4].contains(&(k % 4))) {
                case.dense[row * cols + k] = T::of(0.0);
            }
            let y = case.run(&mut emulator(Schedule::Solo(1)));
            case.compare(&y);
            let keep = (0..rows).filter(|row| case.kept[row * cols / 4 + k / 4].contains(&(k % 4)));
            assert_eq!(spoilt(&case, &y), keep.map(|row| (token, row)).collect::<Vec<_>>(), "{spec:?} {k}");
        }
    }
    for spec in COLS.iter().flat_map(|&cols| specs(45, cols)) {
        check::<f16>(spec);
        check::<bf16>(spec);
    }
}

#[test]
fn specials_of_a_row_stay_in_it() {
    fn check<T: Special>(spec: Spec) {
        let cols = spec.shape.cols;
        // The last row: lanes whose rows are beyond the end have none of their own.
        for row in [3, spec.shape.rows - 1] {
            let mut case = Case::<T>::new(spec);
            let group = row * cols / 4 + cols / 4 - 1;
            case.dense[4 * group + case.kept[group][1]] = T::SPECIALS[0];
            let y = case.run(&mut emulator(Schedule::Random(3)));
            case.compare(&y);
            assert_eq!(spoilt(&case, &y), (0..spec.tokens).map(|token| (token, row)).collect::<Vec<_>>());
        }
    }
    for spec in COLS.iter().flat_map(|&cols| specs(41, cols)) {
        check::<f16>(spec);
        check::<bf16>(spec);
    }
}

/// Zeros of both signs keep their slots, and their sum is a zero.
#[test]
fn zeros_are_zeros() {
    fn check<T: Special>(spec: Spec) {
        let mut case = Case::<T>::new(spec);
        for (group, kept) in case.kept.iter().enumerate() {
            kept.iter()
                .for_each(|k| case.dense[4 * group + k] = if group % 3 == 0 { T::of(0.0) } else { T::MINUS_ZERO });
        }
        let y = case.run(&mut emulator(Schedule::RoundRobin));
        assert!(y.iter().all(|&y| T::result(y) == 0.0));
    }
    for spec in specs(33, 68) {
        check::<f16>(spec);
        check::<bf16>(spec);
    }
}
