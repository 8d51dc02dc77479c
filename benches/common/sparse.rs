//! The `sparse` op as it is timed.

use super::{Result, Run, Timed, data};
use twofour::compress::{Compressed, Layout};
use twofour::mask::{Kind, Sampling};
use twofour::matmul::{self, Problem};
use twofour::sparse::cpu;
use twofour::{DType, Factor, Float, Shape, bf16, f16};

/// A product of a compressed weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    pub values: DType,
    pub tokens: usize,
    pub shape: Shape,
}

impl Case {
    pub fn problem(&self) -> Problem {
        Problem::new(self.tokens, self.shape)
    }

    /// Floating-point operations of the dense product.
    pub fn operations(&self) -> u64 {
        self.problem().operations() as u64
    }

    /// `bf16/16x4096x4096`: tokens, out and in features.
    pub fn name(&self) -> String {
        format!("{}/{}x{}x{}", self.values, self.tokens, self.shape.rows, self.shape.cols)
    }
}

/// A type that is timed.
pub trait Number: Factor {
    /// Normal-distributed, around so many of the last places of 8 bits for integers.
    fn normal(len: usize, deviation: f32, stream: usize) -> Vec<Self>;
}

macro_rules! numbers {
    ($($type:ty),*) => {$(
        impl Number for $type {
            fn normal(len: usize, deviation: f32, stream: usize) -> Vec<Self> {
                data::normal(len, deviation, stream)
            }
        }
    )*};
}
numbers!(f32, f16, bf16);

impl Number for i8 {
    fn normal(len: usize, _: f32, stream: usize) -> Vec<Self> {
        data::normal::<f32>(len, 40.0, stream).into_iter().map(|x| x.to_f32() as i8).collect()
    }
}

/// Weight and activations; others for another `stream`.
pub struct Inputs<T> {
    pub weight: Compressed<T>,
    pub x: Vec<T>,
}

impl<T: Number> Inputs<T> {
    pub fn new(problem: Problem, stream: usize) -> Result<Self> {
        let dense = T::normal(problem.shape.weights(), 0.02, 2 * stream);
        let weight = Compressed::by_magnitude(problem.shape, &dense)?;
        Ok(Self { weight, x: T::normal(problem.inputs(), 1.0, 2 * stream + 1) })
    }
}

/// Calls a function for the case's type.
macro_rules! for_values {
    ($case:expr, $function:ident($($argument:expr),*)) => {
        match $case.values {
            twofour::DType::F32 => $function::<f32>($($argument),*),
            twofour::DType::F16 => $function::<twofour::f16>($($argument),*),
            twofour::DType::Bf16 => $function::<twofour::bf16>($($argument),*),
            twofour::DType::I8 => $function::<i8>($($argument),*),
            _ => Err("this type is not timed".into()),
        }
    };
}
#[cfg(feature = "cuda")]
pub(crate) use for_values;

/// A case on the CPU, on the threads of rayon's current pool.
pub fn on_cpu(case: Case) -> Result<Box<dyn Timed>> {
    fn boxed<T: Number>(case: Case) -> Result<Box<dyn Timed>> {
        let Inputs { weight, x } = Inputs::<T>::new(case.problem(), 0)?;
        let mut y = vec![bytemuck::Zeroable::zeroed(); case.problem().outputs()];
        Ok(Box::new(Run(move || {
            let weight = cpu::Weight::new(case.shape, Layout::Plain, weight.values(), weight.codes());
            cpu::multiply_into(cpu::Multiply::new(weight, case.tokens, &x, &mut y))
        })))
    }
    for_values!(case, boxed(case))
}

/// The dense product of the same shape, as [`matmul`] makes it.
pub fn dense_on_cpu(case: Case) -> Result<Box<dyn Timed>> {
    fn boxed<W: Float>(case: Case) -> Result<Box<dyn Timed>> {
        let (problem, shape) = (case.problem(), case.shape);
        let masked: Vec<W> = data::normal(shape.weights(), 0.02, 0);
        let x: Vec<W> = data::normal(problem.inputs(), 1.0, 1);
        let (logits, mut y) = (vec![0.0_f32; shape.logits()], vec![W::zeroed(); problem.outputs()]);
        let sampling = Sampling { seed: 0, draw: 0, kappa: 1.0, tau: 1.0 };
        Ok(Box::new(Run(move || {
            // The masked weight is there: no mask is made.
            let layer = matmul::cpu::Layer::new(shape, Kind::Argmax, sampling, &logits, &masked);
            let args = matmul::cpu::Forward::new(layer, case.tokens, &x, &mut y);
            matmul::cpu::forward_into(args.kept_masked(&masked))
        })))
    }
    match case.values {
        DType::F32 => boxed::<f32>(case),
        DType::F16 => boxed::<f16>(case),
        DType::Bf16 => boxed::<bf16>(case),
        _ => Err("there is no dense product of this type".into()),
    }
}
