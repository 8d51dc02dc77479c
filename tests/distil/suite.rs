//! One property suite: random problems against the oracle, on every executor.

use crate::case::{Case, Distilled, FORMS};
use crate::common::runs::{each_kernel_has_met_many, wanted};
use crate::common::{Counts, Emulator, TestExecutor, for_all, rounding, same};
use crate::oracle::{self, Sum};
use crate::squarehead::check as check_squarehead;
use crate::top_k::check as check_top_k;
use proptest::prelude::any;
use rayon::prelude::*;
use twofour::{Float, bf16, f16};

const COUNTS: Counts = Counts { cpu: 600, emulator: 300, gpu: 300 };

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
pub(crate) use of_type;

fn rows(on: &mut impl TestExecutor, seed: &u64) {
    of_type!(*seed, check(on, *seed, seed.is_multiple_of(4)));
}

/// `alone`: its loss alone, too, which is the same to the bit.
fn check<L: Float>(on: &mut impl TestExecutor, seed: u64, alone: bool) {
    let case = Case::<L>::new(seed, seed / 3 % FORMS, seed.is_multiple_of(7));
    let got = case.run(on, true);
    compare(&case, &got);
    if alone {
        let alone = case.run(on, false).loss;
        assert!(alone.iter().zip(&got.loss).all(|(&alone, &loss)| same(alone, loss)), "seed {seed}: {alone:?}");
    }
}

#[test]
fn losses_and_gradients_are_those_of_the_formulas() {
    for_all!(rows, COUNTS, any::<u64>());
}

/// Rounding of `f32` and of the hardware's exponentials, relative to what is added up.
const ROUNDING: f64 = 4e-6;

pub(crate) fn compare<L: Float>(case: &Case<L>, got: &Distilled<L>) {
    for row in 0..case.rows {
        let (loss, gradient) = oracle::row(case, row, &oracle::student(case, row));
        assert!(is_near::<f32>(got.loss[row], loss), "loss of row {row}: {} for {loss:?}\n{case:?}", got.loss[row]);
        let Some(all) = &got.gradient else { continue };
        for (v, (got, expected)) in all[row * case.vocab..].iter().zip(gradient).enumerate() {
            assert!(is_near::<L>(got.to_f32(), expected), "gradient [{row}, {v}]: {got:?} for {expected:?}\n{case:?}");
        }
    }
}

fn is_near<L: Float>(got: f32, expected: Sum) -> bool {
    let Sum { value, size } = expected;
    // In the type that it is written in.
    let written = L::from_f32(value as f32).to_f32();
    if value.is_nan() || written.is_infinite() {
        return (value.is_nan() && got.is_nan()) || got == written;
    }
    (f64::from(got) - value).abs() <= ROUNDING * size + rounding::<L>(value) + 1e-35
}

/// The oracle's gradients, with which executors' are compared, by finite differences of its losses.
#[test]
fn gradients_are_slopes_of_losses() {
    let mut compared = 0;
    for seed in 0..20 * FORMS {
        let case = Case::<f32>::new(seed, seed % FORMS, false);
        for row in 0..case.rows {
            let mut student = oracle::student(&case, row);
            let (loss, gradient) = oracle::row(&case, row, &student);
            let finite = |v: &usize| loss.value.is_finite() && student[*v].is_finite();
            for v in (0..case.vocab).filter(finite).step_by(5).collect::<Vec<_>>() {
                let logit = student[v];
                let mut loss_at = |by: f64| {
                    student[v] = logit + by;
                    oracle::row(&case, row, &student).0.value
                };
                let slope = (loss_at(1e-5) - loss_at(-1e-5)) / 2e-5 * f64::from(case.scale);
                student[v] = logit;
                let size = gradient[v].size + loss.size * f64::from(case.scale.abs()) * 1e-3;
                assert!((slope - gradient[v].value).abs() <= 1e-5 * size, "{slope} for {:?}: {case:?}", gradient[v]);
                compared += 1;
            }
        }
    }
    assert!(compared > 1000, "{compared}");
}

#[test]
fn every_kernel_meets_many_problems() {
    // Each form of each type, as often as is wanted.
    (0..3 * FORMS * wanted()).into_par_iter().for_each(|seed| {
        let mut emulator = Emulator::numbered(seed / 3);
        of_type!(seed, check(&mut emulator, seed, false));
        if seed < 3 * wanted() {
            of_type!(seed, check_top_k(&mut emulator, seed));
            of_type!(seed, check_squarehead(&mut emulator, seed));
        }
    });
    each_kernel_has_met_many("twofour_distil_", 25);
}
