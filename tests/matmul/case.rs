//! A masked layer with its operands, made from a seed.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use twofour::mask::{Kind, Sampling};
use twofour::matmul::Problem;
use twofour::{DType, Element, Logit, Shape, Shard};

/// Which operands a case has: everything but their values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec {
    pub(crate) tokens: usize,
    pub(crate) shape: Shape,
    pub(crate) kind: Kind,
    pub(crate) sampling: Sampling,
    pub(crate) regulariser: f32,
    /// Whether the logits' gradient is added to.
    pub(crate) accumulate: bool,
    /// Whether the backward pass samples the mask again.
    pub(crate) resample: bool,
    pub(crate) values: Values,
    pub(crate) seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Values {
    Normal,
    /// -2 to 2: sums of few are exact in every type.
    Integers,
}

impl Spec {
    pub(crate) fn new(tokens: usize, rows: usize, cols: usize, kind: Kind) -> Self {
        Self {
            tokens,
            shape: Shape::new(rows, cols),
            kind,
            sampling: Sampling { seed: 42, draw: 7, kappa: 3.0, tau: 0.7 },
            regulariser: 0.01,
            accumulate: false,
            resample: false,
            values: Values::Normal,
            seed: 1,
        }
    }

    pub(crate) fn problem(&self) -> Problem {
        Problem::new(self.tokens, self.shape)
    }
}

/// A layer and the operands of both passes.
#[derive(Debug, Clone)]
pub(crate) struct Case<L, W> {
    pub(crate) spec: Spec,
    pub(crate) shard: Shard,
    pub(crate) logits: Vec<L>,
    pub(crate) weight: Vec<W>,
    pub(crate) x: Vec<W>,
    pub(crate) dy: Vec<W>,
    /// What the logits' gradient is added to.
    pub(crate) before: Vec<f32>,
}

/// Everything the two passes write. Backward without logits' gradient (`Kind::Argmax`) leaves the last two empty.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outputs<W> {
    pub(crate) masked: Vec<W>,
    pub(crate) y: Vec<W>,
    pub(crate) dx: Vec<W>,
    pub(crate) gradient: Vec<f32>,
    pub(crate) logit_gradient: Vec<f32>,
}

impl<L: Logit, W: Element> Case<L, W> {
    pub(crate) fn new(spec: Spec) -> Self {
        let mut rng = StdRng::seed_from_u64(spec.seed);
        let shape = spec.shape;
        let (inputs, outputs) = (spec.problem().inputs(), spec.problem().outputs());
        let logits = normal(&mut rng, shape.logits(), 1.0);
        let mut values = |count, spread| match spec.values {
            Values::Normal => normal(&mut rng, count, spread),
            Values::Integers => (0..count).map(|_| W::from_f32(rng.random_range(-2..=2) as f32)).collect(),
        };
        let (weight, x, dy) = (values(shape.weights(), 0.5), values(inputs, 1.0), values(outputs, 0.3));
        let before = normal(&mut rng, shape.logits(), 1.0);
        Self { spec, shard: Shard::whole(shape.cols as u64), logits, weight, x, dy, before }
    }
}

pub(crate) fn normal<T: Element>(rng: &mut StdRng, count: usize, spread: f32) -> Vec<T> {
    (0..count).map(|_| T::from_f32(rng.sample::<f32, _>(StandardNormal) * spread)).collect()
}

/// Unit roundoff of a type, and half its smallest number: `|round(v) − v| ≤ u·|v| + tiny`.
pub(crate) fn roundoff<T: Element>() -> (f64, f64) {
    match T::DTYPE {
        DType::F32 => (2f64.powi(-24), 2f64.powi(-150)),
        DType::F16 => (2f64.powi(-11), 2f64.powi(-25)),
        _ => (2f64.powi(-8), 2f64.powi(-134)),
    }
}
