//! The `learn` op as it is timed.

use super::mask::Inputs;
use super::{Result, Timed, data};
use std::time::{Duration, Instant};
use twofour::learn::{AdamW, Rounding, State, cpu};
use twofour::mask::{self, GradientOf, Kind, Sampling};
use twofour::space::{Host, Space};
use twofour::{DType, Float, Logit, Shape};

/// What a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
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
    pub op: Op,
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
        let scales = 4 * State::<Host>::scales(self.shape) as u64;
        logits * self.logits.size() as u64 + if self.eight { 2 * logits + scales } else { 8 * logits }
    }

    /// The least number of bytes a run moves: each operand once, what is updated twice.
    pub fn bytes(&self) -> u64 {
        let (gradient, weights) = (4 * self.shape.logits() as u64, self.shape.weights() as u64);
        let weights = weights * self.weights.size() as u64;
        let logits = (self.shape.logits() * self.logits.size()) as u64;
        let step = 2 * self.kept();
        match self.op {
            Op::Update => step + gradient,
            Op::Fused => step + 2 * weights,
            Op::Unfused => step + 2 * weights + logits + 2 * gradient,
            Op::Train => step + 2 * weights + logits + 2 * weights,
        }
    }

    /// `fused/bf16_8bit_bf16/2048x4096`: logits, moments, weights.
    pub fn name(&self) -> String {
        let Shape { rows, cols, .. } = self.shape;
        let moments = if self.eight { "8bit" } else { "f32" };
        format!("{:?}/{}_{moments}_{}/{rows}x{cols}", self.op, self.logits, self.weights).to_lowercase()
    }

    /// The script's temperature and logit scale at the start of training; a fresh draw a run.
    pub fn sampling(&self, draw: u64) -> Sampling {
        Sampling { seed: 24, draw, kappa: 100.0, tau: 4.0 }
    }

    pub fn rounding(&self, draw: u64) -> Rounding {
        Rounding { seed: 24, draw }
    }

    /// A gradient of the logits, as large as the mask's backward pass makes it.
    pub fn gradient(&self, stream: usize) -> Vec<f32> {
        data::normal(self.shape.logits(), 1e-4, 3 * stream + 2)
    }

    /// Bytes, or values, of each moment and scales, for the kind that is not used none.
    pub fn lengths(&self) -> Lengths {
        let logits = self.shape.logits();
        if self.eight {
            Lengths { wide: 0, narrow: logits, scales: State::<Host>::scales(self.shape) }
        } else {
            Lengths { wide: logits, narrow: 0, scales: 0 }
        }
    }
}

/// Elements of each moment.
#[derive(Debug, Clone, Copy)]
pub struct Lengths {
    pub wide: usize,
    pub narrow: usize,
    pub scales: usize,
}

/// The moments that a case has, of both kinds' operands.
pub fn state<'a, S: Space>(
    eight: bool,
    wide: (S::Mut<'a, f32>, S::Mut<'a, f32>),
    narrow: (S::Mut<'a, u8>, S::Mut<'a, u8>, S::Mut<'a, f32>),
) -> State<'a, S> {
    if eight { State::eight(narrow.0, narrow.1, narrow.2) } else { State::f32(wide.0, wide.1) }
}

/// Calls `$function::<L, W>($arguments)` for the element types that are timed.
macro_rules! for_types {
    ($case:expr, $function:ident($($argument:expr),*)) => {
        match ($case.logits, $case.weights) {
            (twofour::DType::F32, twofour::DType::F32) => $function::<f32, f32>($($argument),*),
            (twofour::DType::F32, twofour::DType::Bf16) => $function::<f32, twofour::bf16>($($argument),*),
            (twofour::DType::Bf16, twofour::DType::Bf16) => $function::<twofour::bf16, twofour::bf16>($($argument),*),
            (logits, weights) => Err(format!("{logits} logits with {weights} weights are not timed").into()),
        }
    };
}
#[cfg(feature = "cuda")]
pub(super) use for_types;

/// A case on the CPU, on the threads of rayon's current pool.
pub fn on_cpu(case: Case) -> Result<Box<dyn Timed>> {
    for_types!(case, boxed(case))
}

fn boxed<L: Logit, W: Float + GradientOf<W>>(case: Case) -> Result<Box<dyn Timed>> {
    Ok(Box::new(OnCpu::<L, W>::new(case)))
}

struct OnCpu<L, W> {
    case: Case,
    draw: u64,
    inputs: Inputs<L, W>,
    masked: Vec<W>,
    gradient: Vec<f32>,
    wide: [Vec<f32>; 2],
    narrow: [Vec<u8>; 2],
    scales: Vec<f32>,
}

impl<L: Logit, W: Float + GradientOf<W>> OnCpu<L, W> {
    fn new(case: Case) -> Self {
        let lengths = case.lengths();
        Self {
            case,
            draw: 0,
            inputs: Inputs::new(case.shape, 0),
            masked: vec![W::zeroed(); if case.op == Op::Train { case.shape.weights() } else { 0 }],
            gradient: if matches!(case.op, Op::Update | Op::Unfused) { case.gradient(0) } else { vec![] },
            wide: [0; 2].map(|_| vec![0.0; lengths.wide]),
            narrow: [0; 2].map(|_| vec![0; lengths.narrow]),
            scales: vec![0.0; lengths.scales],
        }
    }

    fn run(&mut self) -> twofour::Result<()> {
        let Case { op, eight, shape, .. } = self.case;
        let (sampling, rounding) = (self.case.sampling(self.draw), self.case.rounding(self.draw));
        let Inputs { logits, weight, gradient } = &mut self.inputs;
        if op == Op::Train {
            let args = mask::cpu::Forward::new(shape, Kind::Soft, sampling, logits).weight(weight);
            mask::cpu::forward_into(args.masked(&mut self.masked))?;
        }
        if op == Op::Unfused {
            let args = mask::cpu::Backward::new(shape, Kind::Soft, sampling, logits, weight, gradient);
            mask::cpu::backward_into(args.regulariser(LAMBDA).logit_gradient(&mut self.gradient))?;
        }
        let ([m, v], [narrow_m, narrow_v]) = (&mut self.wide, &mut self.narrow);
        let state = state::<Host>(eight, (m, v), (narrow_m, narrow_v, &mut self.scales));
        let step = cpu::Step::new(BY, state);
        if matches!(op, Op::Fused | Op::Train) {
            let args = cpu::Fused::new(shape, Kind::Soft, sampling, logits, weight, gradient, step);
            return cpu::fused_into(args.regulariser(LAMBDA));
        }
        let of_memory = cpu::Gradient::Read(&self.gradient);
        cpu::update_into(cpu::Update::new(shape, of_memory, logits, step).rounding(rounding))
    }
}

impl<L: Logit, W: Float + GradientOf<W>> Timed for OnCpu<L, W> {
    fn time(&mut self, iterations: u64) -> Result<Duration> {
        let begun = Instant::now();
        for _ in 0..iterations {
            self.draw += 1;
            self.run()?;
        }
        Ok(begun.elapsed())
    }
}
