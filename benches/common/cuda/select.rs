//! `select` on the first GPU.

use super::{Cache, Result, Timed, data, replayed, sets, stream};
use criterion::Throughput;
use std::sync::Arc;
use twofour::cudarc::driver::{CudaSlice, CudaStream};
use twofour::select::cuda;
use twofour::{Shape, bf16};

/// What a run does, in bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Weight to codes.
    Magnitude,
    /// Weight and column scale to codes and masked weight.
    ScaledMasked,
    /// Activations to sums of squares and norms.
    Squares,
    /// Weight and factor to codes and updated weight.
    Sweep,
}

impl Op {
    /// Bytes of a run, each operand once; of a sweep the multiply-adds of the weights that are dropped.
    pub fn throughput(self, shape: Shape) -> Throughput {
        let (weights, codes) = (2 * shape.weights() as u64, shape.packed_codes() as u64);
        match self {
            Self::Magnitude => Throughput::Bytes(weights + codes),
            Self::ScaledMasked => Throughput::Bytes(2 * weights + codes),
            Self::Squares => Throughput::Bytes(weights),
            Self::Sweep => Throughput::Elements((shape.weights() * shape.cols / 4) as u64),
        }
    }
}

/// Makes a factor and its scale for so many columns.
pub type Factor = fn(usize) -> (Vec<f32>, Vec<f32>);

struct Operands {
    weight: CudaSlice<bf16>,
    masked: CudaSlice<bf16>,
    codes: CudaSlice<u8>,
    scale: CudaSlice<f32>,
    upper: CudaSlice<f32>,
    sums: CudaSlice<f64>,
    norms: CudaSlice<f32>,
    partial: CudaSlice<f64>,
    work: CudaSlice<f32>,
}

impl Operands {
    fn new(stream: &Arc<CudaStream>, op: Op, shape: Shape, set: usize, factor: Factor) -> Result<Self> {
        let of = |wanted: Op, elements: usize| if op == wanted { elements.max(1) } else { 1 };
        let (upper, scale) = match op {
            Op::Sweep => factor(shape.cols),
            _ => (vec![0.0], data::normal::<f32>(shape.cols, 1.0, 1)),
        };
        Ok(Self {
            weight: stream.clone_htod(&data::normal::<bf16>(shape.weights(), 0.02, set))?,
            masked: stream.alloc_zeros(shape.weights())?,
            codes: stream.alloc_zeros(shape.packed_codes())?,
            scale: stream.clone_htod(&scale)?,
            upper: stream.clone_htod(&upper)?,
            sums: stream.alloc_zeros(shape.cols)?,
            norms: stream.alloc_zeros(shape.cols)?,
            partial: stream
                .alloc_zeros(of(Op::Squares, cuda::Squares::<bf16>::workspace_len(shape.rows, shape.cols)))?,
            work: stream.alloc_zeros(of(Op::Sweep, cuda::Sweep::<bf16>::workspace_len(shape)))?,
        })
    }

    fn run(&mut self, stream: &Arc<CudaStream>, op: Op, shape: Shape) -> twofour::Result<()> {
        let Self { weight, masked, codes, scale, upper, sums, norms, partial, work } = self;
        match op {
            Op::Magnitude => {
                let args = cuda::ByScore::magnitude(shape, weight.as_view());
                cuda::by_score_into(stream, args.codes(codes.as_view_mut()))
            }
            Op::ScaledMasked => {
                let args = cuda::ByScore::scaled(shape, weight.as_view(), scale.as_view());
                cuda::by_score_into(stream, args.codes(codes.as_view_mut()).masked(masked.as_view_mut()))
            }
            Op::Squares => {
                let args = cuda::Squares::new(shape.rows, shape.cols, weight.as_view(), sums.as_view_mut());
                cuda::squares_into(stream, args.norms(norms.as_view_mut()).workspace(partial.as_view_mut()))
            }
            Op::Sweep => {
                let args = cuda::Sweep::new(shape, weight.as_view(), upper.as_view(), scale.as_view());
                let args = args.codes(codes.as_view_mut()).updated(masked.as_view_mut());
                cuda::sweep_into(stream, args.workspace(work.as_view_mut()))
            }
        }
    }
}

/// An op on the first GPU, with a factor of any Hessian for a sweep.
pub fn on_cuda(op: Op, shape: Shape, cache: Cache, factor: Factor) -> Result<Box<dyn Timed>> {
    let stream = stream()?;
    let bytes = 4 * shape.weights() as u64;
    let operands: Result<Vec<_>> =
        (0..sets(cache, bytes)).map(|set| Operands::new(&stream, op, shape, set, factor)).collect();
    replayed(&stream, operands?, |set, _| Ok(set.run(&stream, op, shape)?))
}
