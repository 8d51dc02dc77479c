//! The `select` op as it is timed, on every executor.

use super::{Op, Result, Run, data};
use criterion::Throughput;
use std::marker::PhantomData;
use twofour::select::{ByScore, Squares, Swaps, Sweep};
use twofour::{Cpu, Executor, Float, Shape};

/// What a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    /// Weight to codes.
    Magnitude,
    /// Weight and column scale to codes and masked weight.
    ScaledMasked,
    /// Activations to sums of squares and norms.
    Squares,
    /// Weight and factor to codes and updated weight.
    Sweep,
    /// Weight, Hessian and codes by magnitude to codes.
    Swaps,
}

/// One of these on a weight, or a batch, of this type and shape.
#[derive(Debug, Clone, Copy)]
pub struct Case<T> {
    pub does: Does,
    pub shape: Shape,
    of: PhantomData<T>,
}

impl<T: Float> Case<T> {
    pub const fn new(does: Does, shape: Shape) -> Self {
        Self { does, shape, of: PhantomData }
    }

    /// `scaled_masked/bf16/4096x4096`.
    pub fn name(&self) -> String {
        let does = match self.does {
            Does::Magnitude => "magnitude",
            Does::ScaledMasked => "scaled_masked",
            Does::Squares => "squares",
            Does::Sweep => "sweep",
            Does::Swaps => "swaps",
        };
        format!("{does}/{}/{}x{}", T::DTYPE, self.shape.rows, self.shape.cols)
    }

    /// Bytes of a run, each operand once; of a sweep and of swaps the multiply-adds of the weights that are dropped, with
    /// what lies to their right and with all of a row.
    pub fn throughput(&self) -> Throughput {
        match self.does {
            Does::Sweep => Throughput::Elements((self.shape.weights() * self.shape.cols / 4) as u64),
            Does::Swaps => Throughput::Elements((self.shape.weights() * self.shape.cols / 2) as u64),
            _ => Throughput::Bytes(self.bytes()),
        }
    }
}

/// A factor of the right form and size, of no Hessian, and its scale.
pub fn factor(cols: usize) -> (Vec<f32>, Vec<f32>) {
    let mut upper = data::normal::<f32>(cols * cols, 0.02, 3);
    for row in 0..cols {
        upper[row * cols..][..row].fill(0.0);
        upper[row * cols + row] = 1.0;
    }
    (upper, vec![1.0; cols])
}

/// A Hessian of a few sources and of noise in each column.
pub fn hessian(cols: usize) -> Vec<f32> {
    let sources = data::normal::<f32>(4 * cols, 0.5, 3);
    let product = |i: usize, j: usize| (0..4).map(|s| sources[s * cols + i] * sources[s * cols + j]).sum::<f32>();
    let noise = |i, j| if i == j { 1.0 } else { 0.0 };
    (0..cols * cols).map(|at| (at / cols, at % cols)).map(|(i, j)| product(i, j) + noise(i, j)).collect()
}

impl<T: Float> Op for Case<T> {
    type On<E: Executor + 'static> = Operands<E, T>;

    fn bytes(&self) -> u64 {
        let (weights, codes) = ((self.shape.weights() * T::DTYPE.size()) as u64, self.shape.packed_codes() as u64);
        match self.does {
            Does::Magnitude => weights + codes,
            Does::ScaledMasked | Does::Sweep => 2 * weights + codes,
            Does::Swaps => weights + 2 * codes,
            Does::Squares => weights,
        }
    }

    fn ready<E: Executor + 'static>(&self, on: &mut E, set: usize) -> Result<Operands<E, T>> {
        let Self { does, shape, .. } = *self;
        let (upper, scale) = match does {
            Does::Sweep => factor(shape.cols),
            Does::Swaps => (hessian(shape.cols), vec![]),
            _ => (vec![], data::normal::<f32>(shape.cols, 1.0, 1).into_iter().map(f32::abs).collect()),
        };
        let workspace = match does {
            Does::Squares => Squares::workspace_bytes(shape.rows, shape.cols),
            Does::Sweep => Sweep::workspace_bytes(shape),
            Does::Swaps => Swaps::workspace_bytes(shape),
            _ => 0,
        };
        let weight = data::normal::<T>(shape.weights(), 0.02, set);
        let mut before = vec![0; if does == Does::Swaps { shape.packed_codes() } else { 0 }];
        if does == Does::Swaps {
            Cpu.run(ByScore::magnitude(shape, &weight).codes(&mut before))?;
        }
        Ok(Operands {
            does,
            shape,
            weight: on.upload(&weight)?,
            before: on.upload(&before)?,
            masked: on.zeros(if does == Does::Squares { 0 } else { shape.weights() })?,
            codes: on.zeros(shape.packed_codes())?,
            scale: on.upload(&scale)?,
            upper: on.upload(&upper)?,
            sums: on.zeros(shape.cols)?,
            norms: on.zeros(shape.cols)?,
            workspace: on.workspace(workspace)?,
        })
    }
}

pub struct Operands<E: Executor, T: Float> {
    does: Does,
    shape: Shape,
    weight: E::Buffer<T>,
    before: E::Buffer<u8>,
    masked: E::Buffer<T>,
    codes: E::Buffer<u8>,
    scale: E::Buffer<f32>,
    upper: E::Buffer<f32>,
    sums: E::Buffer<f64>,
    norms: E::Buffer<f32>,
    workspace: Option<E::Buffer<u8>>,
}

impl<E: Executor, T: Float> Run<E> for Operands<E, T> {
    fn run(&mut self, on: &mut E, _: u64) -> twofour::Result<()> {
        let (shape, weight, codes) = (self.shape, E::input(&self.weight), E::output(&mut self.codes));
        let (scale, workspace) = (E::input(&self.scale), self.workspace.as_mut().map(E::output));
        match self.does {
            Does::Magnitude => on.run(ByScore::magnitude(shape, weight).codes(codes)),
            Does::ScaledMasked => {
                let pass = ByScore::scaled(shape, weight, scale).codes(codes);
                on.run(pass.masked(E::output(&mut self.masked)))
            }
            Does::Squares => {
                let pass = Squares::new(shape.rows, shape.cols, weight, E::output(&mut self.sums));
                let pass = pass.norms(E::output(&mut self.norms));
                match workspace {
                    Some(workspace) => on.run(pass.workspace(workspace)),
                    None => on.run(pass),
                }
            }
            Does::Sweep => {
                let pass = Sweep::new(shape, weight, E::input(&self.upper), scale);
                let pass = pass.codes(codes).updated(E::output(&mut self.masked));
                match workspace {
                    Some(workspace) => on.run(pass.workspace(workspace)),
                    None => on.run(pass),
                }
            }
            Does::Swaps => {
                let pass = Swaps::new(shape, weight, E::input(&self.upper), E::input(&self.before)).codes(codes);
                match workspace {
                    Some(workspace) => on.run(pass.workspace(workspace)),
                    None => on.run(pass),
                }
            }
        }
    }
}
