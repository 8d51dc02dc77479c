//! The `mask` op as it is timed.

use super::{At, Op, Result, Run, Timed, data};
use std::marker::PhantomData;
use twofour::mask::{Backward, Forward, GradientOf, Kind, Sampling, Statistics};
use twofour::{DType, Executor, Float, Logit, Shape};

/// What a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    /// Logits and weight to the masked weight.
    Forward,
    /// The gradient of the masked weight to the logits' (f32).
    Backward,
    /// One, then the other.
    Train,
}

#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub does: Does,
    pub kind: Kind,
    pub logits: DType,
    /// Of the weight, the masked weight and its gradient.
    pub weights: DType,
    pub shape: Shape,
    /// With what MaskLLM logs and regularises: statistics forward, the regulariser backward.
    pub metrics: bool,
}

impl Case {
    /// The least number of bytes a run moves, each operand once.
    pub fn bytes(&self) -> u64 {
        let (logits, weights) = (self.shape.logits() as u64, self.shape.weights() as u64);
        let inputs = logits * self.logits.size() as u64 + weights * self.weights.size() as u64;
        let forward = inputs + weights * self.weights.size() as u64;
        let backward = forward + logits * 4;
        match self.does {
            Does::Forward => forward,
            Does::Backward => backward,
            Does::Train => forward + backward,
        }
    }

    /// `soft_forward/f32_bf16/2048x4096`.
    pub fn name(&self) -> String {
        let Shape { rows, cols, .. } = self.shape;
        format!("{:?}_{:?}/{}_{}/{rows}x{cols}", self.kind, self.does, self.logits, self.weights).to_lowercase()
    }

    /// The script's temperature and logit scale at the start of training; a fresh draw a run.
    pub fn sampling(&self, draw: u64) -> Sampling {
        Sampling { seed: 24, draw, kappa: 100.0, tau: 4.0 }
    }

    /// λ of the regulariser.
    pub fn regulariser(&self) -> f32 {
        if self.metrics { 1e-5 } else { 0.0 }
    }
}

/// Calls `$function::<L, W>($arguments)` for the element types of a case.
macro_rules! for_types {
    ($case:expr, $function:ident($($argument:expr),*)) => {
        match ($case.logits, $case.weights) {
            (twofour::DType::F32, twofour::DType::F32) => $function::<f32, f32>($($argument),*),
            (twofour::DType::F32, twofour::DType::F16) => $function::<f32, twofour::f16>($($argument),*),
            (twofour::DType::F32, twofour::DType::Bf16) => $function::<f32, twofour::bf16>($($argument),*),
            (twofour::DType::Bf16, twofour::DType::F32) => $function::<twofour::bf16, f32>($($argument),*),
            (twofour::DType::Bf16, twofour::DType::F16) => $function::<twofour::bf16, twofour::f16>($($argument),*),
            (twofour::DType::Bf16, twofour::DType::Bf16) => $function::<twofour::bf16, twofour::bf16>($($argument),*),
            (logits, weights) => Err(format!("there is no mask op for {logits} logits and {weights} weights").into()),
        }
    };
}
#[allow(unused_imports, reason = "other ops have the same types")]
pub(super) use for_types;

/// A case, ready to run.
pub fn ready(case: Case, at: impl At) -> Result<Box<dyn Timed>> {
    for_types!(case, of_types(case, at))
}

fn of_types<L: Logit, W: Float + GradientOf<W>>(case: Case, at: impl At) -> Result<Box<dyn Timed>> {
    at.ready(&Typed::<L, W>(case, PhantomData))
}

/// A case with its types.
struct Typed<L, W>(Case, PhantomData<(L, W)>);

/// Inputs: what every executor reads.
pub struct Inputs<L, W> {
    pub logits: Vec<L>,
    pub weight: Vec<W>,
    pub gradient: Vec<W>,
}

impl<L: Logit, W: Float> Inputs<L, W> {
    /// The sizes of numbers that training starts from; other numbers for another `stream`.
    pub fn new(shape: Shape, stream: usize) -> Self {
        Self {
            logits: data::normal(shape.logits(), 0.02, 3 * stream),
            weight: data::normal(shape.weights(), 0.02, 3 * stream + 1),
            gradient: data::normal(shape.weights(), 0.001, 3 * stream + 2),
        }
    }
}

impl<L: Logit, W: Float + GradientOf<W>> Op for Typed<L, W> {
    type On<E: Executor + 'static> = Operands<E, L, W>;

    fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    fn ready<E: Executor + 'static>(&self, on: &mut E, set: usize) -> Result<Operands<E, L, W>> {
        let (case, shape) = (self.0, self.0.shape);
        let inputs = Inputs::<L, W>::new(shape, set);
        let codes = || on.zeros(if case.metrics { shape.packed_codes() } else { 0 });
        Ok(Operands {
            case,
            logits: on.upload(&inputs.logits)?,
            weight: on.upload(&inputs.weight)?,
            gradient: on.upload(&inputs.gradient)?,
            masked: on.zeros(shape.weights())?,
            logit_gradient: on.zeros(shape.logits())?,
            codes: [codes()?, codes()?],
            statistics: on.zeros(Statistics::SLOTS)?,
        })
    }
}

struct Operands<E: Executor, L: Logit, W: Float> {
    case: Case,
    logits: E::Buffer<L>,
    weight: E::Buffer<W>,
    gradient: E::Buffer<W>,
    masked: E::Buffer<W>,
    logit_gradient: E::Buffer<f32>,
    /// Those of this run and of the one before.
    codes: [E::Buffer<u8>; 2],
    statistics: E::Buffer<Statistics>,
}

impl<E: Executor, L: Logit, W: Float + GradientOf<W>> Run<E> for Operands<E, L, W> {
    fn run(&mut self, on: &mut E, number: u64) -> twofour::Result<()> {
        if self.case.does != Does::Backward {
            self.forward(on, number)?;
        }
        if self.case.does != Does::Forward {
            self.backward(on, number)?;
        }
        Ok(())
    }
}

impl<E: Executor, L: Logit, W: Float + GradientOf<W>> Operands<E, L, W> {
    fn forward(&mut self, on: &mut E, draw: u64) -> twofour::Result<()> {
        let Case { shape, kind, metrics, .. } = self.case;
        let pass = Forward::new(shape, kind, self.case.sampling(draw), E::input(&self.logits));
        let mut pass = pass.weight(E::input(&self.weight)).masked(E::output(&mut self.masked));
        if metrics {
            let [now, before] = &mut self.codes;
            pass = pass.codes(E::output(now)).previous_codes(E::input(before));
            pass = pass.statistics(E::output(&mut self.statistics));
        }
        on.run(pass)?;
        self.codes.swap(0, 1);
        Ok(())
    }

    fn backward(&mut self, on: &mut E, draw: u64) -> twofour::Result<()> {
        let Case { shape, kind, .. } = self.case;
        let (logits, weight, gradient) = (E::input(&self.logits), E::input(&self.weight), E::input(&self.gradient));
        let pass = Backward::new(shape, kind, self.case.sampling(draw), logits, weight, gradient);
        let pass = pass.regulariser(self.case.regulariser());
        on.run(pass.logit_gradient(E::output(&mut self.logit_gradient)))
    }
}
