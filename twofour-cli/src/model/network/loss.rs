//! The loss and its gradient to the last hidden states, some rows at a time: logits of all rows are never in memory.

use super::super::Head;
use super::super::fused::{BLOCK, exp, largest, slice_mut, sum};
use super::super::rows::norm_backward;
use crate::Failure;
use candle_core::{CpuStorage, D, InplaceOp1, Layout, Result as CandleResult, Tensor};
use candle_nn::ops::{rms_norm, softmax_last_dim};
use rayon::prelude::*;
use std::sync::Mutex;

/// Bytes of logits at a time.
const LOGITS: usize = 64 << 20;

impl Head {
    /// The mean negative log-likelihood, in nats, of the token that follows each row of hidden states `[R, d]`, and its
    /// gradient to them.
    pub(super) fn gradient(&self, x: &Tensor, targets: &[u32]) -> Result<(f64, Tensor), Failure> {
        let (rows, vocabulary) = (x.dim(0)?, self.weight.dim(0)?);
        if rows != targets.len() || targets.iter().any(|&target| target as usize >= vocabulary) {
            let count = targets.len();
            return Err(format!("{rows} hidden states have {count} targets, or one is not below {vocabulary}").into());
        }
        // Of equal length, nearly.
        let chunks = rows.div_ceil((LOGITS / 4 / vocabulary).clamp(16, 1024)).max(1);
        let chunk = rows.div_ceil(chunks).max(1);
        let (mut sum, mut gradients) = (0.0, Vec::new());
        for (i, targets) in targets.chunks(chunk).enumerate() {
            let x = x.narrow(0, i * chunk, targets.len())?;
            let logits = rms_norm(&x, &self.norm, self.eps as f32)?.matmul(&self.weight.t()?)?;
            let (losses, gradient) = cross_entropy(logits, targets, 1.0 / rows as f32)?;
            sum += losses;
            gradients.push(norm_backward(&x, &self.norm, self.eps, gradient.matmul(&self.weight)?)?);
        }
        Ok((sum / rows as f64, Tensor::cat(&gradients, 0)?))
    }
}

/// The sum of losses of rows of logits, and the gradient of it times `scale`, in the place of the logits.
fn cross_entropy(logits: Tensor, targets: &[u32], scale: f32) -> Result<(f64, Tensor), Failure> {
    if logits.device().is_cpu() {
        let op = CrossEntropy { targets, scale, losses: Mutex::new(0.0) };
        logits.inplace_op1(&op)?;
        let sum = op.losses.into_inner().map_err(|_| "a thread that made losses panicked")?;
        return Ok((sum, logits));
    }
    let ids = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
    let shares = softmax_last_dim(&logits)?;
    let sum = shares.gather(&ids, D::Minus1)?.log()?.sum_all()?.neg()?.to_scalar::<f32>()?;
    let minus = Tensor::full(-1f32, ids.dims(), logits.device())?;
    Ok((f64::from(sum), (shares.scatter_add(&ids, &minus, D::Minus1)? * f64::from(scale))?))
}

struct CrossEntropy<'t> {
    targets: &'t [u32],
    scale: f32,
    losses: Mutex<f64>,
}

impl InplaceOp1 for CrossEntropy<'_> {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, logits: &mut CpuStorage, layout: &Layout) -> CandleResult<()> {
        let width = layout.dims().last().copied().unwrap_or(1).max(1);
        let rows = slice_mut(logits, layout)?.par_chunks_mut(width).zip(self.targets);
        let losses: Vec<f64> = rows.map(|(row, &target)| self.row(row, target as usize)).collect();
        // In the order of rows, whatever the threads did.
        if let Ok(mut sum) = self.losses.lock() {
            *sum += losses.iter().sum::<f64>();
        }
        Ok(())
    }
}

impl CrossEntropy<'_> {
    fn row(&self, row: &mut [f32], target: usize) -> f64 {
        let most = largest(row);
        let mut all = 0.0;
        let at_target = row[target];
        for block in row.chunks_mut(BLOCK) {
            block.iter_mut().for_each(|x| *x = exp(*x - most));
            all += f64::from(sum(block));
        }
        let share = self.scale / all as f32;
        row.iter_mut().for_each(|x| *x *= share);
        row[target] -= self.scale;
        f64::from(most) + all.ln() - f64::from(at_target)
    }
}
