//! AdamW over a run, against the textbook's in `f64`; and its hyper-parameters.

use crate::case::{Bits, Moments, USUAL, UpdateCase, normal, rng};
use crate::common::{TestExecutor, everywhere_tests};
use rand::Rng;
use rand_distr::StandardNormal;
use twofour::learn::{AdamW, Recipe};
use twofour::{Error, Shape};

everywhere_tests!(a_run_is_the_textbooks, the_first_step_is_a_rate_long, the_decay_is_decoupled);

/// Loshchilov and Hutter's algorithm 2, a logit at a time, with PyTorch's decay (the rate times the coefficient).
struct Textbook {
    theta: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
    /// How far each has gone, there and back.
    way: Vec<f64>,
}

impl Textbook {
    fn step(&mut self, by: &AdamW, gradient: &[f32]) {
        let t = by.step as i32;
        for (i, &g) in gradient.iter().enumerate() {
            let g = f64::from(g);
            self.m[i] = by.beta1 * self.m[i] + (1.0 - by.beta1) * g;
            self.v[i] = by.beta2 * self.v[i] + (1.0 - by.beta2) * g * g;
            let corrected_m = self.m[i] / (1.0 - by.beta1.powi(t));
            let corrected_v = self.v[i] / (1.0 - by.beta2.powi(t));
            let step = by.rate * corrected_m / (corrected_v.sqrt() + by.epsilon);
            self.theta[i] += -by.rate * by.decay * self.theta[i] - step;
            self.way[i] += step.abs();
        }
    }
}

/// A gradient whose size differs by so many powers of ten between logits, and by one over the run, with zeros.
pub(crate) fn gradient(rng: &mut impl Rng, logits: usize, powers: i32, step: u64) -> Vec<f32> {
    let mut value = |i: usize| {
        let size = 10f32.powi(i as i32 % (powers + 1) - 4) * (1.0 + 9.0 * ((step as f32) * 0.003).sin().abs());
        if rng.random_ratio(1, 20) { 0.0 } else { size * (rng.sample::<f32, _>(StandardNormal) + 0.2) }
    };
    (0..logits).map(&mut value).collect()
}

/// 4000 steps of MaskLLM's recipe, of which devices take the first 300. A step's own error is a few units of 2⁻²⁴; those of the logits' rounding add up.
fn a_run_is_the_textbooks<E: TestExecutor>(on: &mut E) {
    const STEPS: u64 = 4000;
    let (rng, shape, recipe) = (&mut rng(1), Shape::new(3, 24), Recipe::maskllm(STEPS));
    let logits: Vec<f32> = normal(rng, shape.logits(), 0.01, &[]);
    let zeros = vec![0.0f64; shape.logits()];
    let theta = logits.iter().map(|&l| f64::from(l)).collect();
    let mut book = Textbook { theta, m: zeros.clone(), v: zeros.clone(), way: zeros };
    let mut case = UpdateCase::plain(shape, Bits::Full, vec![], logits);
    let mut worst = 0.0f64;
    let steps = if E::TENSOR_CORES { 300 } else { STEPS };
    for step in 0..steps {
        case.by = recipe.at(step).adamw;
        case.gradient = gradient(rng, shape.logits(), 6, step);
        book.step(&case.by, &case.gradient);
        let stepped = case.run(on);
        (case.logits, case.moments) = (stepped.logits, stepped.moments);
        for (i, (&got, expected)) in case.logits.iter().zip(&book.theta).enumerate() {
            let error = (f64::from(got) - expected).abs();
            // Half a unit in the last place a step, and a few of each change.
            let bound = (step + 1) as f64 * 2f64.powi(-25) * 0.6 + 16.0 * 2f64.powi(-24) * book.way[i];
            assert!(error <= bound, "logit {i} after step {step}: {got}, {expected}, off by {error:e} of {bound:e}");
            worst = worst.max(error);
        }
    }
    let moved = book.way.iter().copied().fold(0.0, f64::max);
    println!("{steps} steps: logits off by {worst:.1e} at most, having moved {moved:.2}");
    assert!(moved > 2.5e-5 * steps as f64);
}

/// The first step is one rate long whatever the gradient's size: that is the bias correction.
fn the_first_step_is_a_rate_long<E: TestExecutor>(on: &mut E) {
    let shape = Shape::new(1, 64);
    for size in [1e-3f32, 1.0, 1e6] {
        let gradient = (0..shape.logits()).map(|i| if i % 2 == 0 { size } else { -size }).collect();
        let mut case = UpdateCase::plain(shape, Bits::Full, gradient, vec![0.0f32; shape.logits()]);
        case.by = AdamW { epsilon: 1e-8, ..USUAL };
        for (i, l) in case.run(on).logits.iter().enumerate() {
            let expected = if i % 2 == 0 { -5e-4 } else { 5e-4 };
            assert!((l - expected).abs() < 5e-4 * 2e-5, "{l} for {size}");
        }
    }
}

/// The decay is not part of the gradient: without one, a logit shrinks by `1 − rate·decay`, and moments stay zero.
fn the_decay_is_decoupled<E: TestExecutor>(on: &mut E) {
    let shape = Shape::new(1, 8);
    let mut case = UpdateCase::plain(shape, Bits::Full, vec![0.0; 12], vec![2.0f32; 12]);
    case.by = AdamW { rate: 0.125, decay: 0.5, ..USUAL };
    let got = case.run(on);
    assert_eq!(got.logits, [2.0 * (1.0 - 0.0625); 12]);
    assert_eq!(got.moments, Moments::zero(Bits::Full, shape));
}

#[test]
fn hyper_parameters_are_checked() {
    assert_eq!(USUAL.check(), Ok(()));
    let bad = |by: AdamW| match by.check().unwrap_err() {
        Error::Scalar { what, .. } => what,
        other => panic!("{other}"),
    };
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    for rate in [nan, inf, -1e-9] {
        assert_eq!(bad(AdamW { rate, ..USUAL }), "rate");
    }
    for beta in [nan, -0.1, 1.0, 1.5, 1.0 - 1e-12] {
        assert_eq!(bad(AdamW { beta1: beta, ..USUAL }), "beta1");
        assert_eq!(bad(AdamW { beta2: beta, ..USUAL }), "beta2");
    }
    for epsilon in [nan, inf, 0.0, -1e-8, 1e-50, 1e-21, 1e300] {
        assert_eq!(bad(AdamW { epsilon, ..USUAL }), "epsilon");
    }
    for decay in [nan, inf, -0.1] {
        assert_eq!(bad(AdamW { decay, ..USUAL }), "decay");
    }
    assert_eq!(bad(AdamW { rate: 0.5, decay: 2.0, ..USUAL }), "rate * decay");
    assert_eq!(bad(AdamW { step: 0, ..USUAL }), "step");
    assert_eq!(bad(AdamW { rate: 1e38, decay: 0.0, ..USUAL }), "rate / (1 - beta1^step)");
    let good = [
        AdamW { rate: 0.0, decay: 0.0, ..USUAL },
        AdamW { beta1: 0.0, beta2: 0.0, ..USUAL },
        AdamW { beta1: 0.9999, beta2: 0.999_999_9, ..USUAL },
        AdamW { step: u64::MAX, ..USUAL },
    ];
    assert!(good.iter().all(|by| by.check().is_ok()));
}
