//! The `mask` op as it is timed.

use super::{Result, Timed, data};
use std::time::{Duration, Instant};
use twofour::mask::{self, GradientOf, Kind, Sampling, Statistics};
use twofour::{DType, Float, Logit, Shape};

/// What a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Logits and weight to the masked weight.
    Forward,
    /// The gradient of the masked weight to the logits' (f32).
    Backward,
    /// One, then the other.
    Train,
}

#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub op: Op,
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
        match self.op {
            Op::Forward => forward,
            Op::Backward => backward,
            Op::Train => forward + backward,
        }
    }

    /// `soft_forward/f32_bf16/2048x4096`.
    pub fn name(&self) -> String {
        let Shape { rows, cols, .. } = self.shape;
        format!("{:?}_{:?}/{}_{}/{rows}x{cols}", self.kind, self.op, self.logits, self.weights).to_lowercase()
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
pub(super) use for_types;

/// A case on the CPU, on the threads of rayon's current pool.
pub fn on_cpu(case: Case) -> Result<Box<dyn Timed>> {
    for_types!(case, boxed(case))
}

fn boxed<L: Logit, W: Float + GradientOf<W>>(case: Case) -> Result<Box<dyn Timed>> {
    Ok(Box::new(OnCpu::<L, W>::new(case)))
}

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

struct OnCpu<L, W> {
    case: Case,
    draw: u64,
    inputs: Inputs<L, W>,
    masked: Vec<W>,
    logit_gradient: Vec<f32>,
    /// Those of this run and of the one before.
    codes: [Vec<u8>; 2],
    statistics: Vec<Statistics>,
}

impl<L: Logit, W: Float + GradientOf<W>> OnCpu<L, W> {
    fn new(case: Case) -> Self {
        let shape = case.shape;
        let code_bytes = if case.metrics { shape.packed_codes() } else { 0 };
        Self {
            case,
            draw: 0,
            inputs: Inputs::new(shape, 0),
            masked: vec![W::zeroed(); shape.weights()],
            logit_gradient: vec![0.0; shape.logits()],
            codes: [vec![0; code_bytes], vec![0; code_bytes]],
            statistics: vec![Statistics::default(); Statistics::SLOTS],
        }
    }

    fn forward(&mut self) -> twofour::Result<()> {
        let Case { shape, kind, .. } = self.case;
        let Inputs { logits, weight, .. } = &self.inputs;
        let mut args = mask::cpu::Forward::new(shape, kind, self.case.sampling(self.draw), logits).weight(weight);
        if self.case.metrics {
            let [now, before] = &mut self.codes;
            args = args.codes(now).previous_codes(before).statistics(&mut self.statistics);
        }
        mask::cpu::forward_into(args.masked(&mut self.masked))?;
        self.codes.swap(0, 1);
        Ok(())
    }

    fn backward(&mut self) -> twofour::Result<()> {
        let Case { shape, kind, .. } = self.case;
        let Inputs { logits, weight, gradient } = &self.inputs;
        let sampling = self.case.sampling(self.draw);
        let args = mask::cpu::Backward::new(shape, kind, sampling, logits, weight, gradient);
        mask::cpu::backward_into(args.regulariser(self.case.regulariser()).logit_gradient(&mut self.logit_gradient))
    }
}

impl<L: Logit, W: Float + GradientOf<W>> Timed for OnCpu<L, W> {
    fn time(&mut self, iterations: u64) -> Result<Duration> {
        let begun = Instant::now();
        for _ in 0..iterations {
            self.draw += 1;
            if self.case.op != Op::Backward {
                self.forward()?;
            }
            if self.case.op != Op::Forward {
                self.backward()?;
            }
        }
        Ok(begun.elapsed())
    }
}
