//! A masked layer with its operands, made from a seed, and its run on an executor.

use crate::common::{self, Emulator, TestExecutor, convert};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use twofour::device::Limits;
use twofour::mask::{self, Kind, Sampling};
use twofour::matmul::{Backward, Forward, InputRoute, Keep, Layer, LogitRoute, Masks, OutputRoute, Plan, Problem};
use twofour::{Cpu, DType, Error, Executor, Float, Libraries, Logit, Shape, Shard};

/// How an executor adds.
pub(crate) trait Adds: TestExecutor {
    /// A bound on the relative error of an addition.
    const UNIT: f64 = 1.0 / (1 << 24) as f64;
}

impl Adds for Cpu {}
impl Adds for Emulator {}
#[cfg(feature = "cuda")]
impl Adds for twofour::Gpu {
    /// Tensor cores truncate.
    const UNIT: f64 = 1.0 / (1 << 23) as f64;
}

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
    /// What the forward pass leaves; codes only if the masks have any to leave.
    pub(crate) keep: Keep,
    /// Whether the masks are given as codes: those that hard masks have.
    pub(crate) frozen: bool,
    pub(crate) routes: Routes,
    /// Which of `Y`, `dX` and `dlogits` are asked for.
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
            routes: Routes::default(),
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

    pub(crate) fn plan<L: Logit, W: Float>(&self, limits: &Limits, libraries: Libraries) -> Plan<L, W> {
        /// The plan with another route, or as it was where that is not possible.
        fn turned<P>(plan: P, other: Option<Result<P, Error>>) -> P {
            match other {
                None => plan,
                Some(Ok(other)) => other,
                Some(Err(error)) => {
                    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
                    plan
                }
            }
        }
        let plan = Plan::new(limits, libraries, self.problem(), self.masks(), self.keep()).unwrap();
        let Routes { output, output_splits, input, logits, panel_rows } = self.routes;
        let plan = turned(plan, output.map(|route| plan.with_output(route)));
        let plan = turned(plan, output_splits.map(|splits| plan.with_output_splits(splits)));
        let plan = turned(plan, input.map(|route| plan.with_input_gradient(route)));
        let plan = turned(plan, logits.map(|route| plan.with_logit_gradient(route)));
        let plan = turned(plan, logits.map(|route| plan.with_step(route)));
        panel_rows.map_or(plan, |rows| plan.with_panel_rows(rows))
    }
}

/// Routes that a device is to take where they are possible, instead of its plan's own.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Routes {
    pub(crate) output: Option<OutputRoute>,
    pub(crate) output_splits: Option<u32>,
    pub(crate) input: Option<InputRoute>,
    pub(crate) logits: Option<LogitRoute>,
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
    /// What was saved of it.
    pub(crate) saved_masked: Option<Vec<W>>,
    pub(crate) saved_codes: Option<Vec<u8>>,
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
        let pass = mask::Forward::<_, L, W>::new(shape, kind, sampling, &self.logits).shard(self.shard);
        Cpu.run(pass.codes(&mut self.codes)).unwrap();
    }

    /// Runs both passes. Outputs hold NaN before, and so does the workspace, before each.
    pub(crate) fn run<E: TestExecutor>(&self, on: &mut E) -> Outputs<W> {
        let (spec, codes) = (&self.spec, on.upload(&self.codes).unwrap());
        let (logits, weight) = (on.upload(&self.logits).unwrap(), on.upload(&self.weight).unwrap());
        let (logits, weight) = (E::input(&logits), E::input(&weight));
        let out = match spec.frozen {
            true => self.passes(on, &Layer::frozen(spec.shape, E::input(&codes), weight).shard(self.shard)),
            false => {
                let layer = Layer::sampled(spec.shape, spec.kind, spec.sampling, logits, weight);
                self.passes(on, &layer.shard(self.shard))
            }
        };
        Outputs { masked: self.masked(on), ..out }
    }

    fn passes<E: TestExecutor, M: Logit>(&self, on: &mut E, layer: &Layer<'_, E::Space, M, W>) -> Outputs<W> {
        let spec = &self.spec;
        let (shape, problem) = (spec.shape, spec.problem());
        let plan = spec.plan::<M, W>(&on.limits(), on.libraries());
        on.prepare(&plan).unwrap();
        let (x, dy) = (on.upload(&self.x).unwrap(), on.upload(&self.dy).unwrap());
        let mut y = on.poisoned(problem.outputs());
        let mut masked = (spec.keep() == Keep::Masked).then(|| on.poisoned(shape.weights()));
        let mut codes = (spec.keep() == Keep::Codes).then(|| on.poisoned(shape.packed_codes()));
        let mut workspace = on.poisoned(plan.workspace_bytes());
        if spec.wants[0] || spec.keep() != Keep::Nothing {
            let pass = Forward::new(&plan, layer, E::input(&x), E::output(&mut y)).workspace(E::output(&mut workspace));
            on.run(common::given!(pass,
                save_masked: masked.as_mut().map(E::output),
                save_codes: codes.as_mut().map(E::output),
            ))
            .unwrap();
        }

        // Nothing may be left there for the backward pass to find.
        let mut workspace = on.poisoned(plan.workspace_bytes());
        let mut dx = on.poisoned(problem.inputs());
        let mut logit_gradient = on.started(spec.accumulate.then_some(&self.before), shape.logits());
        let to_logits = spec.wants[2] && spec.has_logit_gradient();
        if spec.wants[1] || to_logits {
            let pass = Backward::new(&plan, layer, E::input(&dy)).regulariser(spec.regulariser);
            let pass = common::given!(pass.workspace(E::output(&mut workspace)),
                use_masked: masked.as_ref().map(E::input),
                use_codes: codes.as_ref().map(E::input),
                input_gradient: spec.wants[1].then(|| E::output(&mut dx)),
            );
            on.run(match (to_logits, spec.accumulate) {
                (false, _) => pass,
                (_, true) => pass.accumulate_logit_gradient(E::input(&x), E::output(&mut logit_gradient)),
                (_, false) => pass.logit_gradient(E::input(&x), E::output(&mut logit_gradient)),
            })
            .unwrap();
        }
        Outputs {
            masked: Vec::new(),
            saved_masked: on.read(masked.as_ref()),
            saved_codes: on.read(codes.as_ref()),
            y: on.download(&y).unwrap(),
            dx: on.download(&dx).unwrap(),
            logit_gradient: on.download(&logit_gradient).unwrap(),
        }
    }

    /// `W∘M` as the executor's `mask` writes it, or as codes say.
    pub(crate) fn masked<E: TestExecutor>(&self, on: &mut E) -> Vec<W> {
        let spec = &self.spec;
        if spec.frozen {
            return self.by_codes();
        }
        let (logits, weight) = (on.upload(&self.logits).unwrap(), on.upload(&self.weight).unwrap());
        let mut masked = on.poisoned(spec.shape.weights());
        let pass = mask::Forward::new(spec.shape, spec.kind, spec.sampling, E::input(&logits)).shard(self.shard);
        on.run(pass.weight(E::input(&weight)).masked(E::output(&mut masked))).unwrap();
        on.download(&masked).unwrap()
    }

    /// What codes keep of the weight.
    fn by_codes(&self) -> Vec<W> {
        let kept = |i: usize| {
            let group = i / 4;
            let code = self.codes[group / 2] >> (4 * (group % 2)) & 15;
            let at = |code: u8| usize::from(code % 4) == i % 4 || usize::from(code / 4) == i % 4;
            match [0x4, 0x8, 0xc, 0x9, 0xd, 0xe].contains(&code) {
                true if at(code) => self.weight[i],
                true => W::from_f32(0.0),
                false => W::from_f32(f32::NAN),
            }
        };
        (0..self.weight.len()).map(kept).collect()
    }
}

fn normal<T: Float>(rng: &mut StdRng, count: usize, spread: f32) -> Vec<T> {
    convert(&common::normal(rng, count, spread, &[]))
}

/// Unit roundoff of a type, and half its smallest number: `|round(v) − v| ≤ u·|v| + tiny`.
pub(crate) fn roundoff<T: Float>() -> (f64, f64) {
    match T::DTYPE {
        DType::F32 => (2f64.powi(-24), 2f64.powi(-150)),
        DType::F16 => (2f64.powi(-11), 2f64.powi(-25)),
        _ => (2f64.powi(-8), 2f64.powi(-134)),
    }
}
