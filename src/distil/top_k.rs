//! Top-k teachers made of logits: arguments and checks.

use super::{cpu, known, launch, logits};
use crate::check::length;
use crate::element::Float;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::pass::{self, Binder, Checked, DeviceSpace, Pass, Queue};
use crate::sample::temperature;
use crate::space::{HostSpace, Input, Output, Space};

/// Arguments of making a top-k teacher: of each row the k largest logits' tokens, in ascending order of tokens, and
/// their log-probabilities `ln softmax(t/T)` among all V.
///
/// Of equal logits those of the lowest tokens are taken; `-0.0` equals `0.0`. Tokens of probability 0 have −∞. A row
/// with NaN or +∞, or of −∞ alone, gives its first k tokens and NaN. The choice is the same on every executor,
/// log-probabilities are to 1e-5.
///
/// Shapes: teacher `[R, V]`, tokens and log-probabilities `[R, k]`, row-major; both are overwritten. On a device every
/// operand starts on a 16-byte boundary.
///
/// # Errors
/// When run: [`Error::Overflow`], [`Error::Length`]; [`Error::Scalar`] for a temperature as of
/// [`Distil`](super::Distil), and a k outside of [1, V].
#[derive(Debug)]
pub struct TopK<'a, S: Space, L: Float> {
    pub(super) rows: usize,
    pub(super) vocab: usize,
    pub(super) k: usize,
    pub(super) temperature: f32,
    pub(super) teacher: S::Ref<'a, L>,
    pub(super) tokens: S::Mut<'a, u32>,
    pub(super) log_probs: S::Mut<'a, f32>,
}

impl<'a, S: Space, L: Float> TopK<'a, S, L> {
    /// Of so many rows, at temperature 1.
    #[must_use]
    pub fn new(
        rows: usize,
        vocab: usize,
        k: usize,
        teacher: impl Input<'a, Space = S, Element = L>,
        tokens: impl Output<'a, Space = S, Element = u32>,
        log_probs: impl Output<'a, Space = S, Element = f32>,
    ) -> Self {
        let (tokens, log_probs) = (tokens.output(), log_probs.output());
        Self { rows, vocab, k, temperature: 1.0, teacher: teacher.input(), tokens, log_probs }
    }

    /// At the temperature of the loss.
    #[must_use]
    pub fn temperature(mut self, temperature: f32) -> Self {
        self.temperature = temperature;
        self
    }
}

impl<S: Space, L: Float> pass::Sealed for TopK<'_, S, L> {}
impl<S: Space, L: Float> Pass<S> for TopK<'_, S, L> {
    fn check(&self) -> Result<()> {
        let logits = logits(self.rows, self.vocab)?;
        temperature("temperature", self.temperature)?;
        let known = known(self.rows, self.vocab, self.k)?;
        length("teacher", Some(&self.teacher), logits)?;
        length("tokens", Some(&self.tokens), known)?;
        length("log_probs", Some(&self.log_probs), known)
    }

    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace,
    {
        cpu::top_k(pass.into_inner());
        Ok(())
    }

    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        launch::top_k(pass.inner(), binder, queue)
    }
}
