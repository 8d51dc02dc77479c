//! From hidden states to how likely each next token is.

use super::fused;
use crate::Failure;
use candle_core::{D, Tensor};
use candle_nn::ops::rms_norm;

/// Bytes of logits at a time.
const LOGITS: usize = 128 << 20;

/// The last norm and the matrix of the vocabulary.
#[derive(Debug, Clone)]
pub struct Head {
    pub(super) norm: Tensor,
    /// `[vocabulary, d]`.
    pub(super) weight: Tensor,
    pub(super) eps: f64,
}

impl Head {
    pub(super) fn new(norm: Tensor, weight: Tensor, eps: f64) -> Self {
        Self { norm, weight, eps }
    }

    /// Logits `[R, vocabulary]` of rows of hidden states `[R, d]`.
    ///
    /// # Errors
    /// The hidden states are of another width.
    pub fn logits(&self, x: &Tensor) -> Result<Tensor, Failure> {
        let x = rms_norm(&x.contiguous()?, &self.norm, self.eps as f32)?;
        Ok(x.matmul(&self.weight.t()?)?)
    }

    /// Negative log-likelihoods, in nats, of the token that follows each row of hidden states `[R, d]`. Few rows of
    /// logits are in memory at a time.
    ///
    /// # Errors
    /// There are not as many targets as rows, or one is not of the vocabulary.
    pub fn losses(&self, x: &Tensor, targets: &[u32]) -> Result<Vec<f32>, Failure> {
        let chunk = self.rows_at_a_time(x, targets, LOGITS)?;
        let mut losses = Vec::with_capacity(targets.len());
        for (i, targets) in targets.chunks(chunk).enumerate() {
            let logits = self.logits(&x.narrow(0, i * chunk, targets.len())?)?;
            if logits.device().is_cpu() {
                losses.extend(fused::losses(&logits, targets)?);
                continue;
            }
            let picked = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
            let picked = logits.gather(&picked, D::Minus1)?.squeeze(1)?;
            let largest = logits.max_keepdim(D::Minus1)?;
            let sums = logits.broadcast_sub(&largest)?.exp()?.sum(D::Minus1)?;
            let loss = ((sums.log()? + largest.squeeze(1)?)? - picked)?;
            losses.extend(loss.to_vec1::<f32>()?);
        }
        Ok(losses)
    }

    /// Of equal parts, nearly, how many rows' logits take no more than so many bytes.
    pub(super) fn rows_at_a_time(&self, x: &Tensor, targets: &[u32], bytes: usize) -> Result<usize, Failure> {
        let (rows, vocabulary) = (x.dim(0)?, self.weight.dim(0)?);
        if rows != targets.len() || targets.iter().any(|&target| target as usize >= vocabulary) {
            let count = targets.len();
            return Err(format!("{rows} hidden states have {count} targets, or one is not below {vocabulary}").into());
        }
        let parts = rows.div_ceil((bytes / 4 / vocabulary).clamp(16, 1024)).max(1);
        Ok(rows.div_ceil(parts).max(1))
    }
}
