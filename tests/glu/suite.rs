//! Random problems, against the oracle.

use crate::case::{Case, Made};
use crate::common::runs::{each_kernel_has_met_many, wanted};
use crate::common::{Counts, Emulator, TestExecutor, for_all, rounding, same_on_every_path};
use crate::oracle::{Neuron, neuron};
use proptest::prelude::any;
use rayon::prelude::*;
use twofour::glu::{Activation, words};
use twofour::{Cpu, Float, bf16, f16};

const COUNTS: Counts = Counts { cpu: 2000, emulator: 500, gpu: 500 };

/// Calls a function with the number's type.
macro_rules! of_type {
    ($number:expr, $function:ident($($argument:expr),*)) => {
        match $number % 3 {
            0 => $function::<f32>($($argument),*),
            1 => $function::<f16>($($argument),*),
            _ => $function::<bf16>($($argument),*),
        }
    };
}

/// What a result may be off by: of products rounding alone, of SiLU a share besides; and what underflows.
pub(crate) fn assert_near<L: Float>(got: L, expected: f64, size: f64, smooth: bool, what: &dyn Fn() -> String) {
    let written = L::from_f32(expected as f32).to_f32();
    let got = got.to_f32();
    if expected.is_nan() || written.is_infinite() || got.is_infinite() {
        // At the edge of a type, rounding decides.
        let edge = got.is_infinite() != written.is_infinite();
        let close = edge && smooth && L::from_f32((expected * (1.0 - 1e-5)) as f32).to_f32().is_finite();
        assert!((expected.is_nan() && got.is_nan()) || got == written || close, "{got} for {expected}: {}", what());
        return;
    }
    let share = if smooth { 4e-6 } else { 2e-7 };
    let slack = share * size + rounding::<L>(expected) + 1e-37;
    assert!((f64::from(got) - expected).abs() <= slack, "{got} for {expected}: {}", what());
}

pub(crate) fn compare<L: Float>(case: &Case<L>, made: &Made<L>, [dgate, dup]: &[Vec<L>; 2]) {
    let smooth = matches!(case.activation, Activation::SwiGlu | Activation::Cats(_));
    for row in 0..case.tokens {
        let (mut active, mut lost, mut bits) = (0, 0, vec![0u32; words(case.neurons)]);
        for i in 0..case.neurons {
            let at = row * case.neurons + i;
            let all = [&case.gate, &case.up, &case.dh].map(|of| f64::from(of[at].to_f32()));
            let Neuron { on, lost: is_lost, h, dgate: of_gate, size, dup: of_up } =
                neuron(case.activation, case.l1.into(), all);
            let what = &|| format!("{all:?} in row {row}: {case:?}");
            bits[i / 32] |= u32::from(on) << (i % 32);
            (active, lost) = (active + u32::from(on), lost + u32::from(is_lost));
            assert_near(made.h[at], h, h.abs(), smooth, what);
            assert_near(dgate[at], of_gate, size, smooth, what);
            assert_near(dup[at], of_up, of_up.abs(), smooth, what);
            assert!(on || [made.h[at], dgate[at], dup[at]].iter().all(|x| x.to_f32().to_bits() == 0), "{}", what());
        }
        assert_eq!(made.mask[row * bits.len()..][..bits.len()], bits, "{case:?}");
        assert_eq!((made.active[row], made.lost[row]), (active, lost), "{case:?}");
    }
}

fn neurons(on: &mut impl TestExecutor, seed: &u64) {
    of_type!(*seed, check(on, *seed));
}

fn check<L: Float>(on: &mut impl TestExecutor, seed: u64) {
    let case = Case::<L>::new(seed, seed.is_multiple_of(7));
    let made = case.forward(on);
    let gradients = case.backward(on, case.masked.then_some(&made.mask));
    compare(&case, &made, &gradients);
}

#[test]
fn neurons_and_their_gradients_are_those_of_the_formulas() {
    for_all!(neurons, COUNTS, any::<u64>());
}

/// Without SiLU nothing is approximate.
#[test]
fn products_are_the_same_to_the_bit_on_every_executor() {
    fn check<L: Float>(on: &mut impl TestExecutor, seed: u64) {
        let mut case = Case::<L>::new(seed, false);
        if matches!(case.activation, Activation::SwiGlu | Activation::Cats(_)) {
            case.activation = Activation::DRelu;
        }
        let bits = |all: &[L]| all.iter().map(|x| x.to_f32().to_bits()).collect::<Vec<_>>();
        let [expected, got] = [case.forward(&mut Cpu), case.forward(on)];
        assert_eq!((bits(&expected.h), &expected.mask), (bits(&got.h), &got.mask), "{case:?}");
        let [expected, got] = [case.backward(&mut Cpu, None), case.backward(on, None)];
        assert_eq!(expected.map(|of| bits(&of)), got.map(|of| bits(&of)), "{case:?}");
    }
    fn both(on: &mut impl TestExecutor, seed: &u64) {
        of_type!(*seed, check(on, *seed));
    }
    for_all!(both, Counts { cpu: 1, emulator: 300, gpu: 300 }, any::<u64>());
}

/// The oracle's gradients by finite differences of its `h` and of `λ|h|`.
#[test]
fn gradients_are_slopes() {
    let mut compared = 0;
    for seed in 0..200 {
        let case = Case::<f32>::new(seed, false);
        for at in 0..case.gate.len() {
            let [g, u, dh] = [&case.gate, &case.up, &case.dh].map(|of| f64::from(of[at]));
            let loss = |g, u| {
                let h = neuron(case.activation, 0.0, [g, u, 0.0]).h;
                dh * h + f64::from(case.l1) * h.abs()
            };
            let here = neuron(case.activation, case.l1.into(), [g, u, dh]);
            // At an edge there is no slope.
            let by = 1e-5;
            let near = [[g - by, u], [g + by, u], [g, u - by], [g, u + by]];
            let inside = near.iter().all(|&[g, u]| neuron(case.activation, 0.0, [g, u, 0.0]).on == here.on);
            if !inside || ![g, u].iter().all(|x| x.is_finite() && x.abs() > by && x.abs() < 100.0) {
                continue;
            }
            let [of_gate, of_up] =
                [loss(g + by, u) - loss(g - by, u), loss(g, u + by) - loss(g, u - by)].map(|d| d / (2.0 * by));
            let size = (dh.abs() + f64::from(case.l1)) * (g.abs() + 1.0) * (u.abs() + 1.0);
            assert!((of_gate - here.dgate).abs() < 1e-6 * size, "{of_gate} for {here:?}: {g} {u} {dh}");
            assert!((of_up - here.dup).abs() < 1e-6 * size, "{of_up} for {here:?}: {g} {u} {dh}");
            compared += 1;
        }
    }
    assert!(compared > 5000, "{compared}");
}

fn made<L: Float>(seed: u64) -> String {
    let case = Case::<L>::new(seed, seed.is_multiple_of(5));
    let bits = |all: &[L]| all.iter().map(|x| x.to_f32().to_bits()).collect::<Vec<_>>();
    let made = case.forward(&mut Cpu);
    let gradients = case.backward(&mut Cpu, None).map(|of| bits(&of));
    format!("{:?} {:?} {:?} {:?} {gradients:?}", bits(&made.h), made.mask, made.active, made.lost)
}

#[test]
fn every_path_gives_the_same_bits() {
    same_on_every_path(|seed| of_type!(seed, made(seed)));
}

#[test]
fn every_kernel_meets_many_problems() {
    // A half lies apart or one behind the other, a third in pairs.
    (0..12 * wanted()).into_par_iter().for_each(|seed| {
        let mut emulator = Emulator::numbered(seed / 3);
        of_type!(seed, check(&mut emulator, seed));
    });
    each_kernel_has_met_many("twofour_glu_forward_", 6);
    each_kernel_has_met_many("twofour_glu_backward_", 6);
}
