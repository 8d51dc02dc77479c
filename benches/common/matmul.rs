//! The `matmul` op as it is timed.

use super::mask::{Inputs, for_types};
use super::{Result, Timed, data};
use std::time::{Duration, Instant};
use twofour::mask::{Kind, Sampling};
use twofour::matmul::{Problem, cpu};
use twofour::{DType, Element, Logit, Shape};

/// What a run does, the mask's part included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Logits and weight to `W∘M`, and `Y`.
    Forward,
    /// `dX` with the `W∘M` of the forward pass, `G`, and the logits' gradient.
    Backward,
}

#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub op: Op,
    pub logits: DType,
    pub weights: DType,
    pub tokens: usize,
    pub shape: Shape,
}

impl Case {
    /// Floating-point operations of the dense products.
    pub fn operations(&self) -> u64 {
        let products = if self.op == Op::Forward { 1.0 } else { 2.0 };
        (products * Problem::new(self.tokens, self.shape).operations()) as u64
    }

    /// The least number of bytes a run moves, each operand once.
    pub fn bytes(&self) -> u64 {
        let problem = Problem::new(self.tokens, self.shape);
        let activations = (problem.inputs() + problem.outputs()) * self.weights.size();
        let weights = 2 * self.shape.weights() * self.weights.size() + self.shape.logits() * self.logits.size();
        (activations + weights) as u64
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

/// A case on the CPU, on the threads of rayon's current pool.
pub fn on_cpu(case: Case) -> Result<Box<dyn Timed>> {
    for_types!(case, boxed(case))
}

fn boxed<L: Logit, W: Element>(case: Case) -> Result<Box<dyn Timed>> {
    Ok(Box::new(OnCpu::<L, W>::new(case)))
}

struct OnCpu<L, W> {
    case: Case,
    inputs: Inputs<L, W>,
    x: Vec<W>,
    dy: Vec<W>,
    masked: Vec<W>,
    y: Vec<W>,
    dx: Vec<W>,
    gradient: Vec<f32>,
    logit_gradient: Vec<f32>,
}

impl<L: Logit, W: Element> OnCpu<L, W> {
    fn new(case: Case) -> Self {
        let problem = Problem::new(case.tokens, case.shape);
        Self {
            case,
            inputs: Inputs::new(case.shape, 0),
            x: data::normal(problem.inputs(), 1.0, 3),
            dy: data::normal(problem.outputs(), 0.001, 4),
            masked: data::normal(case.shape.weights(), 0.01, 5),
            y: vec![W::zeroed(); problem.outputs()],
            dx: vec![W::zeroed(); problem.inputs()],
            gradient: vec![0.0; case.shape.weights()],
            logit_gradient: vec![0.0; case.shape.logits()],
        }
    }

    fn run(&mut self) -> twofour::Result<()> {
        let Case { op, tokens, shape, .. } = self.case;
        let Inputs { logits, weight, .. } = &self.inputs;
        let layer = cpu::Layer::new(shape, Kind::Soft, self.case.sampling(), logits, weight);
        match op {
            Op::Forward => cpu::forward_into(cpu::Forward::new(layer, tokens, &self.x, &mut self.masked, &mut self.y)),
            Op::Backward => {
                let args = cpu::Backward::new(layer, tokens, &self.dy);
                let args = args.input_gradient(&self.masked, &mut self.dx);
                cpu::backward_into(args.logit_gradient(&self.x, &mut self.gradient, &mut self.logit_gradient))
            }
        }
    }
}

impl<L: Logit, W: Element> Timed for OnCpu<L, W> {
    fn time(&mut self, iterations: u64) -> Result<Duration> {
        let begun = Instant::now();
        for _ in 0..iterations {
            self.run()?;
        }
        Ok(begun.elapsed())
    }
}
