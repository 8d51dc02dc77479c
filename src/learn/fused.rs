//! The step that makes its own gradient, and the pass that only measures it.

use super::{Elements, NORM_SLOTS, Statistics, Step, check_sums};
use crate::check::{length, sampled, scalar};
use crate::element::{Float, Logit};
use crate::error::{Error, Result};
use crate::sample::{GradientOf, Kind, Sampling};
use crate::shape::{Shape, Shard};
use crate::space::Space;

/// Arguments of a step from the gradient of the masked weight, `dL/d(W∘M)`.
///
/// Shapes: logits and moments `[N, K/4, 6]`, updated in place; weight and gradient `[N, K]`. Sampling, shard, kind and
/// regulariser mean what they do in [`mask::Backward`](crate::mask::Backward), whose gradient of the logits it is, to
/// the bit. Stochastic rounding takes the seed and the draw of the sampling. On a device every operand starts on a
/// 16-byte boundary.
pub struct Fused<'a, S: Space, L: Logit, W: Float, G: GradientOf<W>> {
    pub(crate) shape: Shape,
    pub(crate) shard: Shard,
    pub(crate) kind: Kind,
    pub(crate) sampling: Sampling,
    pub(crate) logits: S::Mut<'a, L>,
    pub(crate) weight: S::Ref<'a, W>,
    pub(crate) gradient: S::Ref<'a, G>,
    pub(crate) regulariser: f32,
    pub(crate) step: Step<'a, S>,
    pub(crate) norm_squares: Option<S::Mut<'a, f64>>,
    pub(crate) statistics: Option<S::Mut<'a, Statistics>>,
}

impl<'a, S: Space, L: Logit, W: Float, G: GradientOf<W>> Fused<'a, S, L, W, G> {
    /// A step by `gradient`, which is `dL/d(W∘M)`.
    #[must_use]
    pub fn new(
        shape: Shape,
        kind: Kind,
        sampling: Sampling,
        logits: S::Mut<'a, L>,
        weight: S::Ref<'a, W>,
        gradient: S::Ref<'a, G>,
        step: Step<'a, S>,
    ) -> Self {
        Self {
            shape,
            shard: Shard::whole(shape.cols as u64),
            kind,
            sampling,
            logits,
            weight,
            gradient,
            regulariser: 0.0,
            step,
            norm_squares: None,
            statistics: None,
        }
    }

    /// Says that the weight is a slice of a larger one, as in [`mask::Forward::shard`](crate::mask::Forward::shard).
    #[must_use]
    pub fn shard(mut self, shard: Shard) -> Self {
        self.shard = shard;
        self
    }

    /// The coefficient λ of `−λ Σ (W∘M)²` in the loss; finite.
    #[must_use]
    pub fn regulariser(mut self, lambda: f32) -> Self {
        self.regulariser = lambda;
        self
    }

    /// Adds the squares of the logits' gradient, not clipped, to the first of [`NORM_SLOTS`] elements, using the others
    /// as work space.
    #[must_use]
    pub fn norm_squares(mut self, norm_squares: S::Mut<'a, f64>) -> Self {
        self.norm_squares = Some(norm_squares);
        self
    }

    /// Writes [`Statistics`] into the first of [`Statistics::SLOTS`] elements, using the others as work space.
    #[must_use]
    pub fn statistics(mut self, statistics: S::Mut<'a, Statistics>) -> Self {
        self.statistics = Some(statistics);
        self
    }

    /// Checks shapes, lengths and scalars; every executor does it first.
    ///
    /// # Errors
    /// [`Error::NotGrouped`], [`Error::Overflow`], [`Error::Shard`], [`Error::Scalar`], [`Error::Length`], and
    /// [`Error::Missing`] for `Kind::Argmax`, which has no gradient.
    pub fn check(&self) -> Result<()> {
        let Self { shape, .. } = self;
        check_sampled(*shape, &self.shard, self.kind, &self.sampling, self.regulariser)?;
        length("logits", Some(&self.logits), shape.logits())?;
        length("weight", Some(&self.weight), shape.weights())?;
        length("gradient", Some(&self.gradient), shape.weights())?;
        self.step.check(*shape)?;
        check_sums::<S>(self.norm_squares.as_ref(), self.statistics.as_ref())
    }
}

impl<S: Space, L: Logit, W: Float, G: GradientOf<W>> std::fmt::Debug for Fused<'_, S, L, W, G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fused")
            .field("shape", &self.shape)
            .field("shard", &self.shard)
            .field("kind", &self.kind)
            .field("sampling", &self.sampling)
            .field("logits", &Elements(&self.logits))
            .field("weight", &Elements(&self.weight))
            .field("gradient", &Elements(&self.gradient))
            .field("regulariser", &self.regulariser)
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}

/// Arguments of a pass that makes the gradient of [`Fused`] and adds its squares to the running sum, for clipping that is
/// exact. Nothing else is written.
///
/// Shapes: logits `[N, K/4, 6]`; weight and gradient `[N, K]`.
#[derive(Debug)]
pub struct Measure<'a, S: Space, L: Logit, W: Float, G: GradientOf<W>> {
    pub(crate) shape: Shape,
    pub(crate) shard: Shard,
    pub(crate) kind: Kind,
    pub(crate) sampling: Sampling,
    pub(crate) logits: S::Ref<'a, L>,
    pub(crate) weight: S::Ref<'a, W>,
    pub(crate) gradient: S::Ref<'a, G>,
    pub(crate) regulariser: f32,
    pub(crate) norm_squares: S::Mut<'a, f64>,
}

impl<'a, S: Space, L: Logit, W: Float, G: GradientOf<W>> Measure<'a, S, L, W, G> {
    /// Adds to the first of [`NORM_SLOTS`] elements, using the others as work space.
    #[must_use]
    pub fn new(
        shape: Shape,
        kind: Kind,
        sampling: Sampling,
        logits: S::Ref<'a, L>,
        weight: S::Ref<'a, W>,
        gradient: S::Ref<'a, G>,
        norm_squares: S::Mut<'a, f64>,
    ) -> Self {
        let shard = Shard::whole(shape.cols as u64);
        Self { shape, shard, kind, sampling, logits, weight, gradient, regulariser: 0.0, norm_squares }
    }

    /// Says that the weight is a slice of a larger one, as in [`Fused::shard`].
    #[must_use]
    pub fn shard(mut self, shard: Shard) -> Self {
        self.shard = shard;
        self
    }

    /// The coefficient λ of `−λ Σ (W∘M)²` in the loss; finite.
    #[must_use]
    pub fn regulariser(mut self, lambda: f32) -> Self {
        self.regulariser = lambda;
        self
    }

    /// Checks shapes, lengths and scalars; every executor does it first.
    ///
    /// # Errors
    /// As [`Fused::check`].
    pub fn check(&self) -> Result<()> {
        let Self { shape, .. } = self;
        check_sampled(*shape, &self.shard, self.kind, &self.sampling, self.regulariser)?;
        length("logits", Some(&self.logits), shape.logits())?;
        length("weight", Some(&self.weight), shape.weights())?;
        length("gradient", Some(&self.gradient), shape.weights())?;
        length("norm_squares", Some(&self.norm_squares), NORM_SLOTS)
    }
}

/// What a gradient that is made on the way needs besides operands.
fn check_sampled(shape: Shape, shard: &Shard, kind: Kind, sampling: &Sampling, regulariser: f32) -> Result<()> {
    sampled(shape, shard, sampling)?;
    if !regulariser.is_finite() {
        return scalar("regulariser", f64::from(regulariser), "finite");
    }
    if kind == Kind::Argmax {
        return Err(Error::Missing { what: "a gradient", missing: "argmax masks have none: use Soft or Hard" });
    }
    Ok(())
}
