//! What is known of the inputs of layers.

use super::super::{Args, Method};
use crate::Failure;
use candle_core::{D, DType, Device, Tensor};
use twofour::select::{Cholesky, ColumnScale, Hessian};
use twofour::{Cpu, Executor, Shape};

/// The Hessian of all inputs so far.
pub(super) struct Inputs {
    tokens: u64,
    cols: usize,
    hessian: Vec<f32>,
}

/// What masks are chosen by.
pub(super) struct Known {
    pub(super) hessian: Vec<f32>,
    /// For Wanda.
    pub(super) norms: Option<ColumnScale>,
    /// For SparseGPT.
    pub(super) factor: Option<Cholesky>,
}

impl Inputs {
    /// Of inputs `[B, T, K]` like these.
    pub(super) fn new(x: &Tensor) -> Result<Self, Failure> {
        let cols = x.dim(D::Minus1)?;
        Ok(Self { tokens: 0, cols, hessian: Hessian::zeros(cols)? })
    }

    /// Adds inputs `[B, T, K]`.
    pub(super) fn add(&mut self, x: &Tensor) -> Result<(), Failure> {
        let x = x.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let tokens = x.len() / self.cols.max(1);
        Cpu.run(Hessian::new(tokens, self.cols, &x, self.tokens, &mut self.hessian))?;
        self.tokens += tokens as u64;
        Ok(())
    }

    pub(super) fn known(self, args: &Args) -> Result<Known, Failure> {
        let Self { cols, hessian, .. } = self;
        twofour::select::check_hessian(cols, &hessian)?;
        // The roots of its diagonal are the norms of Wanda, times a number that all columns share.
        let norms = || ColumnScale::new(&(0..cols).map(|j| hessian[j * cols + j].sqrt()).collect::<Vec<_>>());
        let norms = (args.method == Method::Wanda).then(norms).transpose()?;
        let factor = (args.method == Method::Sparsegpt).then(|| Cholesky::new(cols, &hessian, args.damping));
        let factor = factor.transpose()?;
        Ok(Known { hessian, norms, factor })
    }
}

impl Known {
    /// The share of a layer's output that is lost: `‖(W − Ŵ)X‖² / ‖WX‖²`.
    pub(super) fn error(&self, shape: Shape, weight: &[f32], pruned: &[f32]) -> Result<f64, Failure> {
        let lost: Vec<f32> = weight.iter().zip(pruned).map(|(weight, pruned)| weight - pruned).collect();
        self.share(shape, weight, self.loss(shape, &lost)?)
    }

    /// A loss `½ Σ rᵀHr` over that of all weights.
    pub(super) fn share(&self, shape: Shape, weight: &[f32], loss: f64) -> Result<f64, Failure> {
        Ok(loss / self.loss(shape, weight)?)
    }

    /// `½ Σ rᵀHr` over the rows.
    fn loss(&self, Shape { rows, cols }: Shape, values: &[f32]) -> Result<f64, Failure> {
        let values = Tensor::from_slice(values, (rows, cols), &Device::Cpu)?;
        let hessian = Tensor::from_slice(&self.hessian, (cols, cols), &Device::Cpu)?;
        let terms = (values.matmul(&hessian)? * values)?.sum(1)?.to_vec1::<f32>()?;
        Ok(terms.into_iter().map(f64::from).sum::<f64>() / 2.0)
    }
}
