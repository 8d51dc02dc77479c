//! Gradients where masks are nearly decided: the bound that `twofour::mask` states, against the formulas in `f64` with
//! the same noise.

use crate::case::BackwardCase;
use crate::common::data::{Pass, normal, passes};
use crate::common::{Counts, TestExecutor, convert, everywhere_tests, for_all};
use crate::oracle::{KEPT, numbers};
use proptest::prelude::*;
use twofour::mask::{GradientOf, Kind, Sampling};
use twofour::{Float, Logit, Shape, bf16, f16, noise};

/// Of the gradient, for any κ and logits, and τ from 0.05 on.
const BOUND: f64 = 1e-4;

/// A group's gradient, and what its error is relative to.
struct Exact {
    gradient: [f64; 6],
    scale: f64,
    /// What the exponentials that count as 0 may add.
    flushed: f64,
    /// `1 − y_top`.
    undecided: f64,
}

fn exact(kind: Kind, by: &Sampling, lambda: f64, number: u64, l: [f32; 6], w: [f64; 4], g: [f64; 4]) -> Exact {
    let noise = noise::gumbels(by.seed, by.draw, number);
    let (kappa, tau) = (f64::from(by.kappa), f64::from(by.tau));
    let z: [f64; 6] = std::array::from_fn(|i| kappa * f64::from(l[i]) + f64::from(noise[i]));
    let top = (0..6).max_by(|&a, &b| z[a].total_cmp(&z[b])).unwrap();
    let e = z.map(|score| ((score - z[top]) / tau).exp());
    let others: f64 = (0..6).filter(|&i| i != top).map(|i| e[i]).sum();
    let y = e.map(|e| e / (1.0 + others));
    let rounded: [f32; 6] = std::array::from_fn(|i| by.kappa.mul_add(l[i], noise[i]));
    let largest = rounded.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let chosen = rounded.iter().position(|&z| z == largest).unwrap();
    let used = |j: usize| match kind {
        Kind::Soft => (0..6).filter(|&i| KEPT[i].contains(&j)).map(|i| y[i]).sum(),
        _ => f64::from(u8::from(KEPT[chosen].contains(&j))),
    };
    let [from_masked, from_regulariser]: [[f64; 4]; 2] =
        [std::array::from_fn(|j| g[j] * w[j]), std::array::from_fn(|j| 2.0 * lambda * w[j] * w[j] * used(j))];
    let sum = |i: usize| KEPT[i].iter().map(|&j| from_masked[j] - from_regulariser[j]).sum::<f64>();
    let v: [f64; 6] = std::array::from_fn(|i| sum(i) - sum(top));
    let mean: f64 = (0..6).map(|k| y[k] * v[k]).sum();
    let size = (kappa / tau) * from_masked.iter().chain(&from_regulariser).map(|part| part.abs()).sum::<f64>();
    let undecided = others / (1.0 + others);
    Exact {
        gradient: std::array::from_fn(|i| (kappa / tau) * y[i] * (v[i] - mean)),
        scale: undecided * size,
        flushed: 2f64.powi(-120) * (size + 1.0),
        undecided,
    }
}

fn case<L: Logit, W: Float, G: GradientOf<W>>(pass: &Pass, spreads: Spreads) -> BackwardCase<L, W, G> {
    let mut rng = pass.rng();
    BackwardCase {
        shape: pass.shape,
        shard: pass.shard,
        kind: pass.kind,
        sampling: pass.sampling,
        logits: convert(&normal(&mut rng, pass.shape.logits(), spreads.logits, &[])),
        weight: convert(&normal(&mut rng, pass.shape.weights(), spreads.weight, &[])),
        gradient: convert(&normal(&mut rng, pass.shape.weights(), spreads.gradient, &[])),
        regulariser: spreads.regulariser,
        before: None,
    }
}

#[derive(Debug, Clone, Copy)]
struct Spreads {
    logits: f32,
    weight: f32,
    gradient: f32,
    regulariser: f32,
}

/// Each group's gradient is within the bound; gives relative errors of the norm of all groups, and of decided ones.
fn holds<L: Logit, W: Float, G: GradientOf<W>>(on: &mut impl TestExecutor, pass: &Pass, spreads: Spreads) -> [f64; 2] {
    let case = case::<L, W, G>(pass, spreads);
    let got = case.run(on).logit_gradient;
    let lambda = f64::from(case.regulariser);
    let (mut errors, mut norms) = ([0.0; 2], [0.0; 2]);
    for (group, number) in numbers(case.shape.rows, case.shape.cols, &case.shard).enumerate() {
        let four = |j: usize| 4 * group + j;
        let exact = exact(
            case.kind,
            &case.sampling,
            lambda,
            number,
            std::array::from_fn(|i| case.logits[6 * group + i].to_f32()),
            std::array::from_fn(|j| f64::from(case.weight[four(j)].to_f32())),
            std::array::from_fn(|j| f64::from(case.gradient[four(j)].to_f32())),
        );
        for (i, &expected) in exact.gradient.iter().enumerate() {
            let off = (f64::from(got[6 * group + i]) - expected).abs();
            assert!(
                off <= BOUND * exact.scale + exact.flushed,
                "{on:?}: gradient {group}.{i} is off by {off:e} of {expected:e}, scale {:e}, 1 − y {:e}",
                exact.scale,
                exact.undecided,
            );
            for kind in 0..=usize::from(exact.undecided < 1e-3) {
                errors[kind] += off * off;
                norms[kind] += expected * expected;
            }
        }
    }
    std::array::from_fn(|kind| if norms[kind] > 0.0 { (errors[kind] / norms[kind]).sqrt() } else { 0.0 })
}

fn of_types(on: &mut impl TestExecutor, (pass, spreads): &(Pass, Spreads)) {
    let spreads = *spreads;
    match pass.types {
        0 => holds::<f32, f32, f32>(on, pass, spreads),
        1 => holds::<f32, f16, f16>(on, pass, spreads),
        2 => holds::<f32, bf16, bf16>(on, pass, spreads),
        3 => holds::<f32, f16, f32>(on, pass, spreads),
        4 => holds::<f32, bf16, f32>(on, pass, spreads),
        5 => holds::<bf16, f32, f32>(on, pass, spreads),
        6 => holds::<bf16, f16, f16>(on, pass, spreads),
        7 => holds::<bf16, bf16, bf16>(on, pass, spreads),
        8 => holds::<bf16, f16, f32>(on, pass, spreads),
        _ => holds::<bf16, bf16, f32>(on, pass, spreads),
    };
}

/// Masks from undecided to fully decided, logits from nothing to far beyond the noise.
fn decided() -> BoxedStrategy<(Pass, Spreads)> {
    let power = |low: f32, high: f32| (low..high).prop_map(|exponent| 10f32.powf(exponent));
    let kappa = prop_oneof![Just(500.0f32), 0.1f32..500.0];
    let tau = prop_oneof![Just(0.05f32), 0.05f32..4.0];
    let regulariser = prop_oneof![Just(0.0f32), power(-5.0, 0.0)];
    let spreads = (power(-3.5, 1.5), power(-3.0, 1.0), power(-4.0, 1.0), regulariser)
        .prop_map(|(logits, weight, gradient, regulariser)| Spreads { logits, weight, gradient, regulariser });
    let all = (passes(10).boxed(), kappa, tau, any::<bool>(), spreads.boxed());
    all.prop_map(|(pass, kappa, tau, hard, spreads)| {
        let sampling = Sampling { kappa, tau, ..pass.sampling };
        (Pass { kind: if hard { Kind::Hard } else { Kind::Soft }, sampling, ..pass }, spreads)
    })
    .boxed()
}

#[test]
fn gradients_of_decided_masks_are_within_their_bound() {
    for_all!(of_types, Counts { cpu: 600, emulator: 500, gpu: 500 }, decided());
}

/// MaskLLM's last steps: the whole gradient, and that of the groups with `1 − y_top` below 1e-3 alone.
fn the_last_steps_have_their_gradient<E: TestExecutor>(on: &mut E) {
    let shape = Shape::new(16, 1024);
    for (at, logits) in [0.001, 0.01, 0.05, 0.2, 1.0, 10.0].into_iter().enumerate() {
        for kind in [Kind::Soft, Kind::Hard] {
            for regulariser in [0.0, 1e-4] {
                let sampling = Sampling { seed: 1, draw: at as u64, kappa: 500.0, tau: 0.05 };
                let shard = twofour::Shard::whole(shape.cols as u64);
                let pass = Pass { shape, shard, kind, sampling, data: at as u64, types: 0, special: false };
                let spreads = Spreads { logits, weight: 0.02, gradient: 0.01, regulariser };
                let [all, decided] = holds::<f32, f32, f32>(on, &pass, spreads);
                println!("logits {logits} {kind:?} λ {regulariser}: {all:.1e}, decided {decided:.1e}");
                assert!(all <= BOUND && decided <= BOUND, "{on:?} {logits} {kind:?}: {all:e}, {decided:e}");
            }
        }
    }
}

everywhere_tests!(the_last_steps_have_their_gradient);
