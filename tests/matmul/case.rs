//! A masked layer with its operands, made from a seed.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use twofour::device::Limits;
use twofour::mask::{self, Kind, Sampling};
use twofour::matmul::{InputPath, Keep, LogitPath, Masks, OutputPath, Plan, Problem};
use twofour::{DType, Error, Float, Logit, Shape, Shard};

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
    /// What the forward pass keeps; codes only if the masks have any to keep.
    pub(crate) keep: Keep,
    /// Whether the masks are given as codes: those that hard masks have.
    pub(crate) frozen: bool,
    pub(crate) ways: Ways,
    /// Which of `Y`, `dX` and `dlogits` matter; an executor may leave out the others.
    pub(crate) wants: [bool; 3],
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
            keep: Keep::Nothing,
            frozen: false,
            ways: Ways::default(),
            wants: [true; 3],
            values: Values::Normal,
            seed: 1,
        }
    }

    pub(crate) fn problem(&self) -> Problem {
        Problem::new(self.tokens, self.shape)
    }

    pub(crate) fn masks(&self) -> Masks {
        if self.frozen { Masks::Frozen } else { Masks::Sampled(self.kind) }
    }

    /// What is kept: nothing instead of codes that there are not.
    pub(crate) fn keep(&self) -> Keep {
        match (self.keep, self.masks()) {
            (Keep::Codes, Masks::Frozen | Masks::Sampled(Kind::Soft)) => Keep::Nothing,
            (keep, _) => keep,
        }
    }

    /// Whether logits have a gradient.
    pub(crate) fn has_logit_gradient(&self) -> bool {
        !self.frozen && self.kind != Kind::Argmax
    }

    pub(crate) fn plan<L: Logit, W: Float>(&self, limits: &Limits) -> Plan {
        /// The plan with another way, or as it was where that way is not possible.
        fn turned(plan: Plan, other: Option<Result<Plan, Error>>) -> Plan {
            match other {
                None => plan,
                Some(Ok(other)) => other,
                Some(Err(error)) => {
                    assert!(matches!(error, Error::Path { .. }), "{error}");
                    plan
                }
            }
        }
        let plan = Plan::new::<L, W>(limits, self.problem(), self.masks(), self.keep()).unwrap();
        let plan = turned(plan, self.ways.output.map(|path| plan.with_output(path)));
        let plan = turned(plan, self.ways.input.map(|path| plan.with_input_gradient(path)));
        let plan = turned(plan, self.ways.logits.map(|path| plan.with_logit_gradient(path)));
        self.ways.panel_rows.map_or(plan, |rows| plan.with_panel_rows(rows))
    }
}

/// Ways that a device is to take where they are possible, instead of its plan's own.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ways {
    pub(crate) output: Option<OutputPath>,
    pub(crate) input: Option<InputPath>,
    pub(crate) logits: Option<LogitPath>,
    pub(crate) panel_rows: Option<usize>,
}

/// A layer and the operands of both passes.
#[derive(Debug, Clone)]
pub(crate) struct Case<L, W> {
    pub(crate) spec: Spec,
    pub(crate) shard: Shard,
    pub(crate) logits: Vec<L>,
    /// Of the hard masks.
    pub(crate) codes: Vec<u8>,
    pub(crate) weight: Vec<W>,
    pub(crate) x: Vec<W>,
    pub(crate) dy: Vec<W>,
    /// What the logits' gradient is added to.
    pub(crate) before: Vec<f32>,
}

/// Everything the two passes write, beside `W∘M` as the executor's `mask` writes it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outputs<W> {
    pub(crate) masked: Vec<W>,
    /// What was kept of it.
    pub(crate) kept_masked: Option<Vec<W>>,
    pub(crate) kept_codes: Option<Vec<u8>>,
    pub(crate) y: Vec<W>,
    pub(crate) dx: Vec<W>,
    /// As before where there is none to write.
    pub(crate) logit_gradient: Vec<f32>,
}

impl<L: Logit, W: Float> Case<L, W> {
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
        let shard = Shard::whole(shape.cols as u64);
        let mut case = Self { spec, shard, logits, codes: Vec::new(), weight, x, dy, before };
        case.update_codes();
        case
    }

    /// Makes the codes anew, for other logits.
    pub(crate) fn update_codes(&mut self) {
        let Spec { shape, kind, sampling, .. } = self.spec;
        self.codes = vec![0; shape.packed_codes()];
        let kind = if kind == Kind::Soft { Kind::Hard } else { kind };
        let args = mask::cpu::Forward::<L, W>::new(shape, kind, sampling, &self.logits).shard(self.shard);
        mask::cpu::forward_into(args.codes(&mut self.codes)).unwrap();
    }
}

pub(crate) fn normal<T: Float>(rng: &mut StdRng, count: usize, spread: f32) -> Vec<T> {
    (0..count).map(|_| T::from_f32(rng.sample::<f32, _>(StandardNormal) * spread)).collect()
}

/// Unit roundoff of a type, and half its smallest number: `|round(v) − v| ≤ u·|v| + tiny`.
pub(crate) fn roundoff<T: Float>() -> (f64, f64) {
    match T::DTYPE {
        DType::F32 => (2f64.powi(-24), 2f64.powi(-150)),
        DType::F16 => (2f64.powi(-11), 2f64.powi(-25)),
        _ => (2f64.powi(-8), 2f64.powi(-134)),
    }
}
