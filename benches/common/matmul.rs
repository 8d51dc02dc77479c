//! The `matmul` op as it is timed.

use super::learn::BY;
use super::mask::for_types;
use super::{At, Op, Place, Result, Run, Timed, data};
use std::marker::PhantomData;
use twofour::learn::{self, Moments, Rounding, Update};
use twofour::mask::{self, Kind, Sampling};
use twofour::matmul::{Backward, Forward, Keep, Layer, Plan, Problem, Step};
use twofour::{DType, Executor, Float, Logit, Shape};

/// λ of the regulariser, as MaskLLM begins.
pub const LAMBDA: f32 = 1e-5;

/// What a run makes: a product with the mask's part of it, all three, or the backward pass with the step of the logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// `Y` from logits and weight.
    Y,
    /// `dX`, for which the mask is sampled again.
    Dx,
    /// The logits' gradient, likewise.
    Dlogits,
    /// All of them, with what the forward pass leaves.
    Step,
    /// `dX`, and a step of AdamW on the logits in one pass, the gradient never in memory.
    Learn,
    /// The same in two passes, by a gradient in memory. (On a GPU a rival of `Learn`.)
    LearnApart,
}

impl Part {
    pub const ALL: [Self; 5] = [Self::Y, Self::Dx, Self::Dlogits, Self::Step, Self::Learn];

    /// How many dense products it is.
    pub const fn products(self) -> f64 {
        match self {
            Self::Step => 3.0,
            Self::Learn | Self::LearnApart => 2.0,
            _ => 1.0,
        }
    }

    /// Which gradients it asks a backward pass for, if any.
    pub const fn gradients(self) -> Option<Gradients> {
        match self {
            Self::Y | Self::Learn => None,
            Self::Dx => Some(Gradients { of_input: true, of_logits: false }),
            Self::Dlogits => Some(Gradients { of_input: false, of_logits: true }),
            Self::Step | Self::LearnApart => Some(Gradients::BOTH),
        }
    }

    /// Whether it needs moments. (On a GPU the operands of a `Step` serve every part.)
    const fn learns(self) -> bool {
        matches!(self, Self::Step | Self::Learn | Self::LearnApart)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    pub part: Part,
    pub kind: Kind,
    pub logits: DType,
    pub weights: DType,
    pub tokens: usize,
    pub shape: Shape,
}

impl Case {
    pub fn problem(&self) -> Problem {
        Problem::new(self.tokens, self.shape)
    }

    /// Floating-point operations of the dense products.
    pub fn operations(&self) -> u64 {
        (self.part.products() * self.problem().operations()) as u64
    }

    /// What a forward pass leaves. (On the CPU `W∘M`, whatever the masks are: it has no other use for codes.)
    pub fn keep(&self, place: Place) -> Keep {
        match (self.part, self.kind) {
            (Part::Dx | Part::Dlogits, _) => Keep::Nothing,
            _ if place == Place::Cpu => Keep::Masked,
            (Part::Y, _) => Keep::Nothing,
            (_, Kind::Soft) => Keep::Masked,
            _ => Keep::Codes,
        }
    }

    /// `step/soft_f32_bf16/16x4096x4096`: masks, logits and weights, then tokens, out and in features.
    pub fn name(&self) -> String {
        let Self { part, kind, logits, weights, tokens, shape: Shape { rows, cols, .. } } = self;
        format!("{part:?}/{kind:?}_{logits}_{weights}/{tokens}x{rows}x{cols}").to_lowercase()
    }

    /// Bytes that a dense product of the sizes reads and writes, the least there is.
    pub fn least_bytes(&self) -> u64 {
        let problem = self.problem();
        let elements = self.shape.weights() + problem.inputs() + problem.outputs();
        elements as u64 * self.weights.size() as u64
    }

    /// The same draw always: the mask is a small part, and `benches/mask.rs` times it.
    pub fn sampling(&self) -> Sampling {
        Sampling { seed: 24, draw: 0, kappa: 100.0, tau: 4.0 }
    }
}

/// A case, ready to run.
pub fn ready(case: Case, place: Place) -> Result<Box<dyn Timed>> {
    match place {
        Place::Cpu => planned(case, place, place),
        // There operands that take turns share a workspace, as layers do.
        #[cfg(feature = "cuda")]
        Place::Gpu(cache) => super::cuda::matmul::ready(case, cache),
        #[cfg(not(feature = "cuda"))]
        Place::Gpu(_) => Err("built without the feature `cuda`".into()),
    }
}

/// A case on operands of its own, as plans are made for a place.
pub fn planned(case: Case, place: Place, at: impl At) -> Result<Box<dyn Timed>> {
    for_types!(case, of_types(case, place, at))
}

fn of_types<L: Logit, W: Float>(case: Case, place: Place, at: impl At) -> Result<Box<dyn Timed>> {
    at.ready(&Typed::<L, W> { case, keep: case.keep(place), of: PhantomData })
}

/// A case with its types.
struct Typed<L, W> {
    case: Case,
    keep: Keep,
    of: PhantomData<(L, W)>,
}

impl<L: Logit, W: Float> Op for Typed<L, W> {
    type On<E: Executor + 'static> = Planned<E, L, W>;

    fn bytes(&self) -> u64 {
        self.case.least_bytes()
    }

    fn ready<E: Executor + 'static>(&self, on: &mut E, set: usize) -> Result<Planned<E, L, W>> {
        let operands = Operands::new(on, self.case, set)?;
        let plan = operands.layer().plan(on, self.case.tokens, self.keep)?;
        let workspace = on.workspace(plan.workspace_bytes())?;
        Ok(Planned { operands, plan, workspace })
    }
}

/// Operands, and how passes over them are made.
struct Planned<E: Executor, L: Logit, W: Float> {
    operands: Operands<E, L, W>,
    plan: Plan<L, W>,
    workspace: Option<E::Buffer<u8>>,
}

impl<E: Executor, L: Logit, W: Float> Run<E> for Planned<E, L, W> {
    fn run(&mut self, on: &mut E, _: u64) -> twofour::Result<()> {
        let Self { operands, plan, workspace } = self;
        let part = operands.case.part;
        if matches!(part, Part::Y | Part::Step) {
            operands.forward(on, plan, workspace.as_mut(), false)?;
        }
        if let Some(gradients) = part.gradients() {
            operands.backward(on, plan, workspace.as_mut(), gradients)?;
        }
        match part {
            Part::Learn => operands.step(on, plan, workspace.as_mut())?,
            Part::LearnApart => operands.update(on)?,
            _ => {}
        }
        Ok(())
    }
}

/// Which gradients a backward pass is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Gradients {
    pub of_input: bool,
    pub of_logits: bool,
}

impl Gradients {
    pub const BOTH: Self = Self { of_input: true, of_logits: true };
}

/// What passes read and write, on any executor.
pub struct Operands<E: Executor, L: Logit, W: Float> {
    pub case: Case,
    pub logits: E::Buffer<L>,
    pub weight: E::Buffer<W>,
    pub x: E::Buffer<W>,
    pub dy: E::Buffer<W>,
    /// As a forward pass would have left them.
    pub masked: E::Buffer<W>,
    pub codes: E::Buffer<u8>,
    pub y: E::Buffer<W>,
    pub dx: E::Buffer<W>,
    pub logit_gradient: E::Buffer<f32>,
    /// Moments, for a case that learns.
    m: E::Buffer<f32>,
    v: E::Buffer<f32>,
}

impl<E: Executor, L: Logit, W: Float> Operands<E, L, W> {
    /// The sizes of numbers that training starts from; other numbers for another `set`.
    pub fn new(on: &mut E, case: Case, set: usize) -> Result<Self> {
        let (problem, shape) = (case.problem(), case.shape);
        let moments = if case.part.learns() { shape.logits() } else { 0 };
        let mut operands = Self {
            case,
            logits: on.upload(&data::normal(shape.logits(), 0.02, 4 * set))?,
            weight: on.upload(&data::normal(shape.weights(), 0.02, 4 * set + 1))?,
            x: on.upload(&data::normal(problem.inputs(), 1.0, 4 * set + 2))?,
            dy: on.upload(&data::normal(problem.outputs(), 0.001, 4 * set + 3))?,
            masked: on.zeros(shape.weights())?,
            codes: on.zeros(shape.packed_codes())?,
            y: on.zeros(problem.outputs())?,
            dx: on.zeros(problem.inputs())?,
            logit_gradient: on.zeros(shape.logits())?,
            m: on.zeros(moments)?,
            v: on.zeros(moments)?,
        };
        let Self { logits, weight, masked, codes, .. } = &mut operands;
        let pass = mask::Forward::new(shape, case.kind, case.sampling(), E::input(logits));
        let pass = pass.weight(E::input(weight)).masked(E::output(masked));
        on.run(if case.kind == Kind::Soft { pass } else { pass.codes(E::output(codes)) })?;
        Ok(operands)
    }

    pub fn layer(&self) -> Layer<'_, E::Space, L, W> {
        let Case { kind, shape, .. } = self.case;
        Layer::sampled(shape, kind, self.case.sampling(), E::input(&self.logits), E::input(&self.weight))
    }

    /// As the plan has it, or by the masked weight that is there.
    pub fn forward(
        &mut self,
        on: &mut E,
        plan: &Plan<L, W>,
        workspace: Option<&mut E::Buffer<u8>>,
        by_masked: bool,
    ) -> twofour::Result<()> {
        let Self { case, logits, weight, x, y, masked, codes, .. } = self;
        let layer = Layer::sampled(case.shape, case.kind, case.sampling(), E::input(logits), E::input(weight));
        let pass = Forward::new(plan, &layer, E::input(x), E::output(y));
        let pass = match plan.keep() {
            Keep::Nothing => pass,
            Keep::Masked if by_masked => pass.use_masked(E::input(masked)),
            Keep::Masked => pass.save_masked(E::output(masked)),
            Keep::Codes => pass.save_codes(E::output(codes)),
        };
        on.run(match workspace {
            Some(workspace) => pass.workspace(E::output(workspace)),
            None => pass,
        })
    }

    pub fn backward(
        &mut self,
        on: &mut E,
        plan: &Plan<L, W>,
        workspace: Option<&mut E::Buffer<u8>>,
        gradients: Gradients,
    ) -> twofour::Result<()> {
        let Self { case, logits, weight, x, dy, masked, codes, dx, logit_gradient, .. } = self;
        let layer = Layer::sampled(case.shape, case.kind, case.sampling(), E::input(logits), E::input(weight));
        let pass = Backward::new(plan, &layer, E::input(dy)).regulariser(LAMBDA);
        let mut pass = match plan.keep() {
            Keep::Nothing => pass,
            Keep::Masked => pass.use_masked(E::input(masked)),
            Keep::Codes => pass.use_codes(E::input(codes)),
        };
        if gradients.of_input {
            pass = pass.input_gradient(E::output(dx));
        }
        if gradients.of_logits {
            pass = pass.logit_gradient(E::input(x), E::output(logit_gradient));
        }
        on.run(match workspace {
            Some(workspace) => pass.workspace(E::output(workspace)),
            None => pass,
        })
    }

    /// By the gradient that a backward pass left.
    pub fn update(&mut self, on: &mut E) -> twofour::Result<()> {
        let Self { case, logits, logit_gradient, m, v, .. } = self;
        let by = learn::Step::new(BY, Moments::f32(E::output(m), E::output(v)));
        let Sampling { seed, draw, .. } = case.sampling();
        let pass = Update::new(case.shape, E::input(logit_gradient), E::output(logits), by);
        on.run(pass.rounding(Rounding { seed, draw }))
    }

    pub fn step(
        &mut self,
        on: &mut E,
        plan: &Plan<L, W>,
        workspace: Option<&mut E::Buffer<u8>>,
    ) -> twofour::Result<()> {
        let Self { case, logits, weight, x, dy, masked, codes, dx, m, v, .. } = self;
        let by = learn::Step::new(BY, Moments::f32(E::output(m), E::output(v)));
        let [weight, dy, x] = [weight, dy, x].map(|operand| E::input(operand));
        let pass = Step::new(plan, case.sampling(), E::output(logits), weight, dy, x, by).regulariser(LAMBDA);
        let pass = match plan.keep() {
            Keep::Nothing => pass,
            Keep::Masked => pass.use_masked(E::input(masked)),
            Keep::Codes => pass.use_codes(E::input(codes)),
        };
        let pass = pass.input_gradient(E::output(dx));
        on.run(match workspace {
            Some(workspace) => pass.workspace(E::output(workspace)),
            None => pass,
        })
    }
}
