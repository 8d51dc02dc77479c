//! The `matmul` op as it is timed.

use super::mask::for_types;
use super::{Result, Timed, data};
use std::time::{Duration, Instant};
use twofour::mask::{Kind, Sampling};
use twofour::matmul::{Keep, Problem, cpu};
use twofour::{DType, Float, Logit, Shape};

/// λ of the regulariser, as MaskLLM begins.
pub const LAMBDA: f32 = 1e-5;

/// What a run does, the mask's part included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Logits and weight to `Y`, and to `W∘M` on the CPU.
    Forward,
    /// `dX` with what the forward pass kept, and the logits' gradient.
    Backward,
    /// One, then the other.
    Step,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    pub op: Op,
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
        let products = match self.op {
            Op::Forward => 1.0,
            Op::Backward => 2.0,
            Op::Step => 3.0,
        };
        (products * self.problem().operations()) as u64
    }

    /// What a forward pass by itself keeps, and one before a backward pass.
    pub fn keep(&self) -> Keep {
        match (self.op, self.kind) {
            (Op::Forward, _) => Keep::Nothing,
            (_, Kind::Soft) => Keep::Masked,
            _ => Keep::Codes,
        }
    }

    /// `forward/f32_bf16/128x2048x2048`: tokens, out and in features.
    pub fn name(&self) -> String {
        let Shape { rows, cols, .. } = self.shape;
        format!("{:?}/{}_{}/{}x{rows}x{cols}", self.op, self.logits, self.weights, self.tokens).to_lowercase()
    }

    /// The same draw always: the mask is a small part, and `benches/mask.rs` times it.
    pub fn sampling(&self) -> Sampling {
        Sampling { seed: 24, draw: 0, kappa: 100.0, tau: 4.0 }
    }
}

/// What every executor reads.
pub struct Inputs<L, W> {
    pub logits: Vec<L>,
    pub weight: Vec<W>,
    pub x: Vec<W>,
    pub dy: Vec<W>,
}

impl<L: Logit, W: Float> Inputs<L, W> {
    /// The sizes of numbers that training starts from; other numbers for another `stream`.
    pub fn new(problem: Problem, stream: usize) -> Self {
        Self {
            logits: data::normal(problem.shape.logits(), 0.02, 4 * stream),
            weight: data::normal(problem.shape.weights(), 0.02, 4 * stream + 1),
            x: data::normal(problem.inputs(), 1.0, 4 * stream + 2),
            dy: data::normal(problem.outputs(), 0.001, 4 * stream + 3),
        }
    }
}

/// A case on the CPU, on the threads of rayon's current pool.
pub fn on_cpu(case: Case) -> Result<Box<dyn Timed>> {
    for_types!(case, boxed(case))
}

fn boxed<L: Logit, W: Float>(case: Case) -> Result<Box<dyn Timed>> {
    Ok(Box::new(OnCpu::<L, W>::new(case)))
}

struct OnCpu<L, W> {
    case: Case,
    inputs: Inputs<L, W>,
    masked: Vec<W>,
    y: Vec<W>,
    dx: Vec<W>,
    logit_gradient: Vec<f32>,
}

impl<L: Logit, W: Float> OnCpu<L, W> {
    fn new(case: Case) -> Self {
        let problem = case.problem();
        Self {
            case,
            inputs: Inputs::new(problem, 0),
            masked: data::normal(case.shape.weights(), 0.01, 5),
            y: vec![W::zeroed(); problem.outputs()],
            dx: vec![W::zeroed(); problem.inputs()],
            logit_gradient: vec![0.0; case.shape.logits()],
        }
    }

    /// `W∘M` is kept whatever the masks are: the CPU has no other use for codes.
    fn run(&mut self) -> twofour::Result<()> {
        let Case { op, kind, tokens, shape, .. } = self.case;
        let Inputs { logits, weight, x, dy } = &self.inputs;
        let layer = cpu::Layer::new(shape, kind, self.case.sampling(), logits, weight);
        if op != Op::Backward {
            cpu::forward_into(cpu::Forward::new(layer, tokens, x, &mut self.y).keep_masked(&mut self.masked))?;
        }
        if op != Op::Forward {
            let args = cpu::Backward::new(layer, tokens, dy).regulariser(LAMBDA).kept_masked(&self.masked);
            cpu::backward_into(args.input_gradient(&mut self.dx).logit_gradient(x, &mut self.logit_gradient))?;
        }
        Ok(())
    }
}

impl<L: Logit, W: Float> Timed for OnCpu<L, W> {
    fn time(&mut self, iterations: u64) -> Result<Duration> {
        let begun = Instant::now();
        for _ in 0..iterations {
            self.run()?;
        }
        Ok(begun.elapsed())
    }
}
