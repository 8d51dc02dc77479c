//! The masked linear layer as candle's operations: the product, and both of its gradients.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Tensor};
use twofour::mask::Kind;
use twofour::matmul::{Problem, cpu};

use super::Masks;
use crate::engine::Engine;
use crate::number::{Number, Score, elements, owned, ready, with_types, wrap, zeros};

/// `Y = X (W∘M)ᵀ` of `(x [T, K], logits, weight)`.
#[derive(Debug, Clone)]
pub(crate) struct Product {
    pub(crate) masks: Masks,
    pub(crate) problem: Problem,
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "the CPU shares nothing"))]
    pub(crate) engine: Engine,
}

impl CustomOp3 for Product {
    fn name(&self) -> &'static str {
        "twofour masked linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        logits: &CpuStorage,
        logits_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, candle_core::Shape)> {
        let Problem { tokens, shape } = self.problem;
        let y = with_types!(logits.dtype(), weight.dtype(), <L, W> {
            let weight = elements::<W>(weight, weight_layout)?;
            let layer = self.masks.layer(shape, elements::<L>(logits, logits_layout)?, weight);
            let y = cpu::forward(layer, tokens, elements(x, x_layout)?).map_err(wrap)?;
            Ok(owned(y))
        })?;
        Ok((y, (tokens, shape.rows).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        logits: &CudaStorage,
        logits_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, candle_core::Shape)> {
        let y = with_types!(logits.dtype(), weight.dtype(), <L, W> {
            super::cuda::product::<L, W>(self, (x, x_layout), (logits, logits_layout), (weight, weight_layout))
        })?;
        Ok((y, (self.problem.tokens, self.problem.shape.rows).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        logits: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = ready(dy)?;
        let dx = if x.track_op() { Some(self.input_gradient(&dy, logits, weight)?) } else { None };
        let to_logits = logits.track_op() && self.masks.kind != Kind::Argmax;
        let dlogits =
            if to_logits { Some(self.logit_gradient(&dy, x, logits, weight)?.to_dtype(logits.dtype())?) } else { None };
        Ok((dx, dlogits, None))
    }
}

impl Product {
    /// `dX = dY (W∘M)`, `[T, K]`.
    pub(crate) fn input_gradient(&self, dy: &Tensor, logits: &Tensor, weight: &Tensor) -> Result<Tensor> {
        dy.apply_op3_no_bwd(logits, weight, &InputGradient(self.clone()))
    }

    /// `dL/dlogits`, `f32 [N, K/4, 6]`.
    pub(crate) fn logit_gradient(&self, dy: &Tensor, x: &Tensor, logits: &Tensor, weight: &Tensor) -> Result<Tensor> {
        dy.apply_op3_no_bwd(x, logits, &LogitGradient { of: self.clone(), weight: weight.clone() })
    }
}

/// `dX = dY (W∘M)` of `(dy [T, N], logits, weight)`.
struct InputGradient(Product);

impl CustomOp3 for InputGradient {
    fn name(&self) -> &'static str {
        "gradient of twofour masked linear to its input"
    }

    fn cpu_fwd(
        &self,
        dy: &CpuStorage,
        dy_layout: &Layout,
        logits: &CpuStorage,
        logits_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, candle_core::Shape)> {
        let Problem { tokens, shape } = self.0.problem;
        let dx = with_types!(logits.dtype(), weight.dtype(), <L, W> {
            let weight = elements::<W>(weight, weight_layout)?;
            let layer = self.0.masks.layer(shape, elements::<L>(logits, logits_layout)?, weight);
            let mut dx = zeros::<W>(self.0.problem.inputs());
            let args = cpu::Backward::new(layer, tokens, elements(dy, dy_layout)?).input_gradient(&mut dx);
            cpu::backward_into(args).map_err(wrap)?;
            Ok(owned(dx))
        })?;
        Ok((dx, (tokens, shape.cols).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        dy: &CudaStorage,
        dy_layout: &Layout,
        logits: &CudaStorage,
        logits_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, candle_core::Shape)> {
        let dx = with_types!(logits.dtype(), weight.dtype(), <L, W> {
            let layer = ((logits, logits_layout), (weight, weight_layout));
            super::cuda::input_gradient::<L, W>(&self.0, (dy, dy_layout), layer)
        })?;
        Ok((dx, (self.0.problem.tokens, self.0.problem.shape.cols).into()))
    }
}

/// `dL/dlogits`, `f32`, of `(dy [T, N], x [T, K], logits)`.
struct LogitGradient {
    of: Product,
    weight: Tensor,
}

impl CustomOp3 for LogitGradient {
    fn name(&self) -> &'static str {
        "gradient of twofour masked linear to its logits"
    }

    fn cpu_fwd(
        &self,
        dy: &CpuStorage,
        dy_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
        logits: &CpuStorage,
        logits_layout: &Layout,
    ) -> Result<(CpuStorage, candle_core::Shape)> {
        let (weight, weight_layout) = self.weight.storage_and_layout();
        let candle_core::Storage::Cpu(weight) = &*weight else { return Err(elsewhere()) };
        let dlogits = with_types!(logits.dtype(), weight.dtype(), <L, W> {
            let arrays = (elements::<L>(logits, logits_layout)?, elements::<W>(weight, weight_layout)?);
            self.on_cpu(elements(dy, dy_layout)?, elements(x, x_layout)?, arrays)
        })?;
        let shape = self.of.problem.shape;
        Ok((CpuStorage::F32(dlogits), (shape.rows, shape.cols / 4, 6).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        dy: &CudaStorage,
        dy_layout: &Layout,
        x: &CudaStorage,
        x_layout: &Layout,
        logits: &CudaStorage,
        logits_layout: &Layout,
    ) -> Result<(CudaStorage, candle_core::Shape)> {
        let (weight, weight_layout) = self.weight.storage_and_layout();
        let candle_core::Storage::Cuda(weight) = &*weight else { return Err(elsewhere()) };
        let dlogits = with_types!(logits.dtype(), weight.dtype(), <L, W> {
            let layer = ((logits, logits_layout), (weight, weight_layout));
            super::cuda::logit_gradient::<L, W>(&self.of, (dy, dy_layout), (x, x_layout), layer)
        })?;
        let shape = self.of.problem.shape;
        Ok((dlogits, (shape.rows, shape.cols / 4, 6).into()))
    }
}

impl LogitGradient {
    fn on_cpu<L: Score, W: Number>(&self, dy: &[W], x: &[W], (logits, weight): (&[L], &[W])) -> Result<Vec<f32>> {
        let Problem { tokens, shape } = self.of.problem;
        let mut dlogits = vec![0.0; shape.logits()];
        let layer = self.of.masks.layer(shape, logits, weight);
        let args = cpu::Backward::new(layer, tokens, dy).logit_gradient(x, &mut dlogits);
        cpu::backward_into(args.regulariser(self.of.masks.regulariser)).map_err(wrap)?;
        Ok(dlogits)
    }
}

/// Of a weight that was on the same device when the forward pass looked.
fn elsewhere() -> candle_core::Error {
    candle_core::Error::Msg("the weight is on another device than its logits".to_owned()).bt()
}
