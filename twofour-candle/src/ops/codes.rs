//! The packed codes of masks as candle's operation.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result};
use twofour::Shape;
use twofour::mask::cpu;

use super::Masks;
use crate::number::{elements, with_types, wrap};

/// Packed codes of `(logits)`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Codes {
    pub(super) masks: Masks,
    pub(super) shape: Shape,
}

impl CustomOp1 for Codes {
    fn name(&self) -> &'static str {
        "twofour codes"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, candle_core::Shape)> {
        let Self { masks, shape } = *self;
        let mut codes = vec![0; shape.packed_codes()];
        with_types!(logits.dtype(), DType::F32, <L, W> {
            let logits = elements::<L>(logits, layout)?;
            let args = cpu::Forward::<L, W>::new(shape, masks.kind, masks.sampling, logits);
            cpu::forward_into(args.shard(masks.shard_of(shape)).codes(&mut codes)).map_err(wrap)
        })?;
        let bytes = codes.len();
        Ok((CpuStorage::U8(codes), bytes.into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, logits: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, candle_core::Shape)> {
        let codes = with_types!(logits.dtype(), DType::F32, <L, W> {
            super::cuda::codes::<L, W>(self, (logits, layout))
        })?;
        Ok((codes, self.shape.packed_codes().into()))
    }
}
