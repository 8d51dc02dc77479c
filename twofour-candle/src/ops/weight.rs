//! The masked weight as candle's operation.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Tensor};
use twofour::Shape;
use twofour::mask::{Kind, cpu};

use super::Masks;
use crate::number::{elements, owned, ready, with_types, wrap, zeros};

/// `W∘M` of `(weight, logits)`.
#[derive(Debug, Clone, Copy)]
pub(super) struct MaskedWeight {
    pub(super) masks: Masks,
    pub(super) shape: Shape,
}

impl CustomOp2 for MaskedWeight {
    fn name(&self) -> &'static str {
        "twofour masked weight"
    }

    fn cpu_fwd(
        &self,
        weight: &CpuStorage,
        weight_layout: &Layout,
        logits: &CpuStorage,
        logits_layout: &Layout,
    ) -> Result<(CpuStorage, candle_core::Shape)> {
        let Self { masks, shape } = *self;
        let masked = with_types!(logits.dtype(), weight.dtype(), <L, W> {
            let mut masked = zeros::<W>(shape.weights());
            let logits = elements::<L>(logits, logits_layout)?;
            let args = cpu::Forward::new(shape, masks.kind, masks.sampling, logits).shard(masks.shard_of(shape));
            let args = args.weight(elements::<W>(weight, weight_layout)?).masked(&mut masked);
            cpu::forward_into(args).map_err(wrap)?;
            Ok(owned(masked))
        })?;
        Ok((masked, (shape.rows, shape.cols).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        weight: &CudaStorage,
        weight_layout: &Layout,
        logits: &CudaStorage,
        logits_layout: &Layout,
    ) -> Result<(CudaStorage, candle_core::Shape)> {
        let masked = with_types!(logits.dtype(), weight.dtype(), <L, W> {
            super::cuda::masked_weight::<L, W>(self, (logits, logits_layout), (weight, weight_layout))
        })?;
        Ok((masked, (self.shape.rows, self.shape.cols).into()))
    }

    fn bwd(
        &self,
        weight: &Tensor,
        logits: &Tensor,
        _masked: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = ready(gradient)?;
        // The gradient of the weight is G∘M: G under the same masks.
        let to_weight = if weight.track_op() { Some(gradient.apply_op2_no_bwd(logits, self)?) } else { None };
        let to_logits = if logits.track_op() && self.masks.kind != Kind::Argmax {
            Some(gradient.apply_op3_no_bwd(logits, weight, &LogitGradient(*self))?.to_dtype(logits.dtype())?)
        } else {
            None
        };
        Ok((to_weight, to_logits))
    }
}

/// `dL/dlogits`, `f32`, of `(G = dL/d(W∘M), logits, weight)`.
pub(super) struct LogitGradient(pub(super) MaskedWeight);

impl CustomOp3 for LogitGradient {
    fn name(&self) -> &'static str {
        "gradient of twofour masked weight to its logits"
    }

    fn cpu_fwd(
        &self,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
        logits: &CpuStorage,
        logits_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, candle_core::Shape)> {
        let MaskedWeight { masks, shape } = self.0;
        let mut dlogits = vec![0.0; shape.logits()];
        with_types!(logits.dtype(), weight.dtype(), <L, W> {
            let logits = elements::<L>(logits, logits_layout)?;
            let gradient = elements::<W>(gradient, gradient_layout)?;
            let weight = elements::<W>(weight, weight_layout)?;
            let args = cpu::Backward::new(shape, masks.kind, masks.sampling, logits, weight, gradient);
            let args = args.shard(masks.shard_of(shape)).regulariser(masks.regulariser);
            cpu::backward_into(args.logit_gradient(&mut dlogits)).map_err(wrap)
        })?;
        Ok((CpuStorage::F32(dlogits), (shape.rows, shape.cols / 4, 6).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        gradient: &CudaStorage,
        gradient_layout: &Layout,
        logits: &CudaStorage,
        logits_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, candle_core::Shape)> {
        let dlogits = with_types!(logits.dtype(), weight.dtype(), <L, W> {
            let layer = ((logits, logits_layout), (weight, weight_layout));
            super::cuda::mask_gradient::<L, W>(&self.0, (gradient, gradient_layout), layer)
        })?;
        Ok((dlogits, (self.0.shape.rows, self.0.shape.cols / 4, 6).into()))
    }
}
