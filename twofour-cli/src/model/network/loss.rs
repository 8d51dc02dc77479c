//! The loss and its gradient to the last hidden states, some rows at a time: logits of all rows are never in memory.

use super::super::Head;
use super::super::rows::norm_backward;
use crate::Failure;
use candle_core::Tensor;
use twofour::distil::Divergence;
use twofour_candle::{Engine, ops};

/// Bytes of logits at a time, of a student or of a teacher.
const LOGITS: usize = 64 << 20;

/// What a model is to say beside the token that comes next, or instead of it: what another says of the same tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Teaching {
    /// How far from the teacher is counted.
    pub by: Divergence,
    /// At which temperature T; the divergence counts T².
    pub temperature: f32,
    /// How much the loss of the token that came next counts beside it.
    pub labels: f32,
}

impl Head {
    /// The mean loss of rows of hidden states `[R, d]`, in nats, and its gradient to them: the negative log-likelihood
    /// of the token that follows each, or what is taught by the hidden states of a teacher with the same head.
    pub(super) fn gradient(
        &self,
        x: &Tensor,
        targets: &[u32],
        teacher: Option<(&Tensor, Teaching)>,
    ) -> Result<(f64, Tensor), Failure> {
        let rows = targets.len();
        let chunk = self.rows_at_a_time(x, targets, LOGITS)?;
        let (engine, mut sum, mut gradients) = (Engine::default(), 0.0, Vec::new());
        for (i, targets) in targets.chunks(chunk).enumerate() {
            let part = |x: &Tensor| x.narrow(0, i * chunk, targets.len());
            let logits = self.logits(&part(x)?)?;
            let taught = teacher.map(|(x, _)| self.logits(&part(x)?)).transpose()?;
            let next = Tensor::from_slice(targets, targets.len(), x.device())?;
            let loss = ops::Loss {
                teacher: taught.as_ref().zip(teacher).map(|(logits, (_, of))| (logits, of.by, of.temperature)),
                labels: Some((&next, teacher.map_or(1.0, |(_, of)| of.labels))),
                scale: 1.0 / rows as f32,
            };
            let losses = ops::loss(&logits, &loss, &engine)?.to_vec1::<f32>()?;
            sum += losses.into_iter().map(f64::from).sum::<f64>();
            gradients.push(norm_backward(&part(x)?, &self.norm, self.eps, logits.matmul(&self.weight)?)?);
        }
        Ok((sum / rows as f64, Tensor::cat(&gradients, 0)?))
    }
}
