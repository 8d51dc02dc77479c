//! The `learn` op as it is timed.

use super::mask::Inputs;
use super::{At, Op, Result, Run, Timed, data};
use std::marker::PhantomData;
use twofour::learn::{AdamW, Fused, Moments, Rounding, Step, Update};
use twofour::mask::{Backward, Forward, GradientOf, Kind, Sampling};
use twofour::{DType, Executor, Float, Logit, Shape};

/// What a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    /// A step by a gradient in memory.
    Update,
    /// The gradient of the masked weight to a step, in one pass.
    Fused,
    /// The same in two: the mask's backward pass, then a step by what it wrote.
    Unfused,
    /// Logits and weight to the masked weight, then as `Fused`: all that a training step does but the products.
    Train,
}

#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub does: Does,
    /// Whether moments have eight bits.
    pub eight: bool,
    pub logits: DType,
    /// Of the weight, the masked weight and its gradient.
    pub weights: DType,
    pub shape: Shape,
}

/// MaskLLM's numbers at the start of training.
pub const BY: AdamW = AdamW { rate: 5e-4, beta1: 0.9, beta2: 0.95, epsilon: 1e-5, decay: 0.1, step: 1000 };
/// And its regulariser.
pub const LAMBDA: f32 = 1e-5;

impl Case {
    /// Bytes of logits and moments, which a training run keeps for this weight.
    pub fn kept(&self) -> u64 {
        let logits = self.shape.logits() as u64;
        let scales = 4 * Moments::scales(self.shape) as u64;
        logits * self.logits.size() as u64 + if self.eight { 2 * logits + scales } else { 8 * logits }
    }

    /// The least number of bytes a run moves: each operand once, what is updated twice.
    pub fn bytes(&self) -> u64 {
        let (gradient, weights) = (4 * self.shape.logits() as u64, self.shape.weights() as u64);
        let weights = weights * self.weights.size() as u64;
        let logits = (self.shape.logits() * self.logits.size()) as u64;
        let step = 2 * self.kept();
        match self.does {
            Does::Update => step + gradient,
            Does::Fused => step + 2 * weights,
            Does::Unfused => step + 2 * weights + logits + 2 * gradient,
            Does::Train => step + 2 * weights + logits + 2 * weights,
        }
    }

    /// `fused/bf16_8bit_bf16/2048x4096`: logits, moments, weights.
    pub fn name(&self) -> String {
        let Shape { rows, cols, .. } = self.shape;
        let moments = if self.eight { "8bit" } else { "f32" };
        format!("{:?}/{}_{moments}_{}/{rows}x{cols}", self.does, self.logits, self.weights).to_lowercase()
    }
}

/// A case, ready to run.
pub fn ready(case: Case, at: impl At) -> Result<Box<dyn Timed>> {
    match (case.logits, case.weights) {
        (DType::F32, DType::F32) => of_types::<f32, f32>(case, at),
        (DType::F32, DType::Bf16) => of_types::<f32, twofour::bf16>(case, at),
        (DType::Bf16, DType::Bf16) => of_types::<twofour::bf16, twofour::bf16>(case, at),
        (logits, weights) => Err(format!("{logits} logits with {weights} weights are not timed").into()),
    }
}

fn of_types<L: Logit, W: Float + GradientOf<W>>(case: Case, at: impl At) -> Result<Box<dyn Timed>> {
    at.ready(&Typed::<L, W>(case, PhantomData))
}

/// A case with its types.
struct Typed<L, W>(Case, PhantomData<(L, W)>);

impl<L: Logit, W: Float + GradientOf<W>> Op for Typed<L, W> {
    type On<E: Executor + 'static> = Operands<E, L, W>;

    fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    fn ready<E: Executor + 'static>(&self, on: &mut E, set: usize) -> Result<Operands<E, L, W>> {
        let Case { does, eight, shape, .. } = self.0;
        let inputs = Inputs::<L, W>::new(shape, set);
        let masked = if does == Does::Train { shape.weights() } else { 0 };
        // As large as the mask's backward pass makes it.
        let in_memory = matches!(does, Does::Update | Does::Unfused);
        let gradient = if in_memory { data::normal(shape.logits(), 1e-4, 3 * set + 2) } else { vec![] };
        let logits = shape.logits();
        let moments = if eight {
            Held::Eight { m: on.zeros(logits)?, v: on.zeros(logits)?, scales: on.zeros(Moments::scales(shape))? }
        } else {
            Held::Full { m: on.zeros(logits)?, v: on.zeros(logits)? }
        };
        Ok(Operands {
            case: self.0,
            logits: on.upload(&inputs.logits)?,
            weight: on.upload(&inputs.weight)?,
            of_masked: on.upload(&inputs.gradient)?,
            masked: on.zeros(masked)?,
            gradient: on.upload(&gradient)?,
            moments,
        })
    }
}

enum Held<E: Executor> {
    Full { m: E::Buffer<f32>, v: E::Buffer<f32> },
    Eight { m: E::Buffer<u8>, v: E::Buffer<u8>, scales: E::Buffer<f32> },
}

struct Operands<E: Executor, L: Logit, W: Float> {
    case: Case,
    logits: E::Buffer<L>,
    weight: E::Buffer<W>,
    /// The gradient of the masked weight.
    of_masked: E::Buffer<W>,
    masked: E::Buffer<W>,
    /// That of the logits, where it is in memory.
    gradient: E::Buffer<f32>,
    moments: Held<E>,
}

impl<E: Executor, L: Logit, W: Float + GradientOf<W>> Run<E> for Operands<E, L, W> {
    fn run(&mut self, on: &mut E, number: u64) -> twofour::Result<()> {
        let Case { does, shape, .. } = self.case;
        // The script's temperature and logit scale at the start of training; a fresh draw a run.
        let sampling = Sampling { seed: 24, draw: number, kappa: 100.0, tau: 4.0 };
        let (weight, of_masked) = (&self.weight, &self.of_masked);
        if does == Does::Train {
            let pass = Forward::new(shape, Kind::Soft, sampling, E::input(&self.logits)).weight(E::input(weight));
            on.run(pass.masked(E::output(&mut self.masked)))?;
        }
        if does == Does::Unfused {
            let (logits, weight, of_masked) = (E::input(&self.logits), E::input(weight), E::input(of_masked));
            let pass = Backward::new(shape, Kind::Soft, sampling, logits, weight, of_masked);
            on.run(pass.regulariser(LAMBDA).logit_gradient(E::output(&mut self.gradient)))?;
        }
        let moments = match &mut self.moments {
            Held::Full { m, v } => Moments::f32(E::output(m), E::output(v)),
            Held::Eight { m, v, scales } => Moments::eight(E::output(m), E::output(v), E::output(scales)),
        };
        let (step, logits) = (Step::new(BY, moments), E::output(&mut self.logits));
        if matches!(does, Does::Fused | Does::Train) {
            let (weight, of_masked) = (E::input(weight), E::input(of_masked));
            let pass = Fused::new(shape, Kind::Soft, sampling, logits, weight, of_masked, step);
            return on.run(pass.regulariser(LAMBDA));
        }
        let rounding = Rounding { seed: 24, draw: number };
        on.run(Update::new(shape, E::input(&self.gradient), logits, step).rounding(rounding))
    }
}
