//! `compress` on the first GPU, and a plain copy of as many bytes.

use super::{Cache, Result, Timed, data, replayed, sets, stream};
use std::sync::Arc;
use twofour::compress::{self, Compressed, Layout};
use twofour::cudarc::driver::{CudaSlice, CudaStream};
use twofour::mask::{Kind, Sampling};
use twofour::{DType, Shape, bf16};

/// What a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// A plain copy that moves as many bytes as this one.
    Copy(&'static Op),
    /// Dense weight and given codes to values and metadata.
    Codes,
    /// Dense weight to values and metadata of the largest.
    Magnitude,
    /// Dense weight that is 2:4 to values and metadata.
    Sparse,
    /// Dense weight and `f32` logits to values and metadata.
    Logits,
    /// The same from `bf16` logits.
    Bf16Logits,
    /// Values and metadata to the dense weight.
    Unpack,
    /// Canonical codes to metadata.
    Reorder,
}

#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub op: Op,
    pub layout: Layout,
    /// Of a weight in `bf16`.
    pub shape: Shape,
}

impl Case {
    /// The least number of bytes a run moves, each operand once.
    pub fn bytes(&self) -> u64 {
        let (weights, codes) = (self.shape.weights() as u64, self.shape.packed_codes() as u64);
        // Dense, kept, metadata.
        let both = 2 * weights + weights + codes;
        match self.op {
            Op::Copy(of) => Self { op: *of, ..*self }.bytes(),
            Op::Codes => both + codes,
            Op::Magnitude | Op::Sparse | Op::Unpack => both,
            Op::Logits => both + 4 * self.shape.logits() as u64,
            Op::Bf16Logits => both + 2 * self.shape.logits() as u64,
            Op::Reorder => 2 * codes,
        }
    }

    pub fn name(&self) -> String {
        let of = |op| format!("{op:?}").to_lowercase();
        let op = match self.op {
            Op::Copy(op) => format!("copy-as-{}", of(*op)),
            op => of(op),
        };
        format!("{op}/{}/{}x{}", self.layout, self.shape.rows, self.shape.cols)
    }
}

/// A case on the first GPU.
pub fn on_cuda(case: Case, cache: Cache) -> Result<Box<dyn Timed>> {
    let stream = stream()?;
    let count = sets(cache, case.bytes());
    if let Op::Copy(_) = case.op {
        let bytes = case.bytes() as usize / 2;
        let numbers = |set| stream.clone_htod(&data::normal::<bf16>(bytes / 2, 0.02, set));
        let operands: Result<Vec<_>> = (0..count).map(|set| Ok((numbers(2 * set)?, numbers(2 * set + 1)?))).collect();
        return replayed(&stream, operands?, |(from, to), _| Ok(stream.memcpy_dtod(from, to)?));
    }
    let operands: Result<Vec<_>> = (0..count).map(|set| Operands::new(&stream, &case, set)).collect();
    replayed(&stream, operands?, |set, draw| set.run(&stream, &case, draw))
}

/// A 2:4 weight to values and metadata on the first GPU, as [`compress::on_cpu`](super::super::compress::on_cpu).
pub fn sparse_on_cuda(case: super::super::compress::Case, cache: Cache) -> Result<Box<dyn Timed>> {
    if case.values != DType::Bf16 {
        return Err(format!("on a GPU packing is timed in bf16 alone, not in {}", case.values).into());
    }
    on_cuda(Case { op: Op::Sparse, layout: case.layout, shape: case.shape }, cache)
}

struct Operands {
    dense: CudaSlice<bf16>,
    logits: CudaSlice<f32>,
    bf16_logits: CudaSlice<bf16>,
    values: CudaSlice<bf16>,
    metadata: CudaSlice<u8>,
    codes: CudaSlice<u8>,
}

impl Operands {
    /// With values, metadata and codes of the largest; for [`Op::Sparse`] the dense weight has these alone.
    fn new(stream: &Arc<CudaStream>, case: &Case, set: usize) -> Result<Self> {
        let sizes = case.layout.sizes(case.shape, DType::Bf16)?;
        let mut dense = data::normal::<bf16>(case.shape.weights(), 0.02, set);
        if case.op == Op::Sparse {
            dense = Compressed::by_magnitude(case.shape, &dense)?.decompress();
        }
        let logits = |op| if case.op == op { case.shape.logits() } else { 8 };
        let mut this = Self {
            dense: stream.clone_htod(&dense)?,
            logits: stream.clone_htod(&data::normal::<f32>(logits(Op::Logits), 0.02, set + 1))?,
            bf16_logits: stream.clone_htod(&data::normal::<bf16>(logits(Op::Bf16Logits), 0.02, set + 1))?,
            values: stream.alloc_zeros(sizes.values)?,
            metadata: stream.alloc_zeros(sizes.metadata)?,
            codes: stream.alloc_zeros(case.shape.packed_codes())?,
        };
        let args = compress::cuda::Pack::by_magnitude(case.shape, this.dense.as_view()).layout(case.layout);
        let args = args.values(this.values.as_view_mut()).metadata(this.metadata.as_view_mut());
        compress::cuda::pack_into(stream, args.codes(this.codes.as_view_mut()))?;
        Ok(this)
    }

    fn run(&mut self, stream: &Arc<CudaStream>, case: &Case, draw: u64) -> Result<()> {
        use compress::cuda::{Pack, Reorder, Unpack, pack_into, reorder_into, unpack_into};
        let Case { op, layout, shape } = *case;
        let Self { dense, logits, bf16_logits, values, metadata, codes } = self;
        let sampling = Sampling { seed: 1, draw, kappa: 100.0, tau: 4.0 };
        match op {
            Op::Codes => {
                let args = Pack::with_codes(shape, dense.as_view(), codes.as_view()).layout(layout);
                pack_into(stream, args.values(values.as_view_mut()).metadata(metadata.as_view_mut()))?;
            }
            Op::Magnitude => {
                let args = Pack::by_magnitude(shape, dense.as_view()).layout(layout);
                pack_into(stream, args.values(values.as_view_mut()).metadata(metadata.as_view_mut()))?;
            }
            Op::Sparse => {
                let args = Pack::sparse(shape, dense.as_view()).layout(layout);
                pack_into(stream, args.values(values.as_view_mut()).metadata(metadata.as_view_mut()))?;
            }
            Op::Logits => {
                let args = Pack::from_logits(shape, Kind::Hard, sampling, logits.as_view(), dense.as_view());
                let args = args.layout(layout).values(values.as_view_mut());
                pack_into(stream, args.metadata(metadata.as_view_mut()))?;
            }
            Op::Bf16Logits => {
                let args = Pack::from_logits(shape, Kind::Hard, sampling, bf16_logits.as_view(), dense.as_view());
                let args = args.layout(layout).values(values.as_view_mut());
                pack_into(stream, args.metadata(metadata.as_view_mut()))?;
            }
            Op::Unpack => {
                let args = Unpack::new(shape, layout, values.as_view(), metadata.as_view(), dense.as_view_mut());
                unpack_into(stream, args)?;
            }
            Op::Reorder => {
                let (from, to) = ((Layout::Plain, codes.as_view()), (layout, metadata.as_view_mut()));
                reorder_into(stream, Reorder::new(shape, DType::Bf16, from, to))?;
            }
            Op::Copy(_) => {}
        }
        Ok(())
    }
}
