//! The step that makes its own gradient, and the pass that only measures it.

use super::{Elements, NORM_SLOTS, Statistics, Step, check_sums, cpu, launch};
use crate::check::{self, length};
use crate::element::{Float, Logit};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::pass::{self, Binder, Checked, DeviceSpace, Pass, Queue};
use crate::sample::{self, GradientOf, Kind, Sampling};
use crate::shape::{Shape, Shard};
use crate::space::{HostSpace, Input, Output, Space};

/// Arguments of a step from the gradient of the masked weight, `dL/d(W∘M)`.
///
/// Shapes: logits and moments `[N, K/4, 6]`, updated in place; weight and gradient `[N, K]`. Sampling, shard, kind and
/// regulariser mean what they do in [`mask::Backward`](crate::mask::Backward), whose gradient of the logits it is, to
/// the bit. Stochastic rounding takes the seed and the draw of the sampling. On a device every operand starts on a
/// 16-byte boundary.
///
/// # Errors
/// When run: [`Error::NotGrouped`], [`Error::Overflow`], [`Error::Shard`], [`Error::Scalar`], [`Error::Length`], and
/// [`Error::Missing`] for `Kind::Argmax`, which has no gradient.
pub struct Fused<'a, S: Space, L: Logit, W: Float, G: GradientOf<W>> {
    pub(super) shape: Shape,
    pub(super) shard: Shard,
    pub(super) kind: Kind,
    pub(super) sampling: Sampling,
    pub(super) logits: S::Mut<'a, L>,
    pub(super) weight: S::Ref<'a, W>,
    pub(super) gradient: S::Ref<'a, G>,
    pub(super) regulariser: f32,
    pub(super) step: Step<'a, S>,
    pub(super) norm_squares: Option<S::Mut<'a, f64>>,
    pub(super) statistics: Option<S::Mut<'a, Statistics>>,
}

impl<'a, S: Space, L: Logit, W: Float, G: GradientOf<W>> Fused<'a, S, L, W, G> {
    /// A step by `gradient`, which is `dL/d(W∘M)`.
    #[must_use]
    pub fn new(
        shape: Shape,
        kind: Kind,
        sampling: Sampling,
        logits: impl Output<'a, Space = S, Element = L>,
        weight: impl Input<'a, Space = S, Element = W>,
        gradient: impl Input<'a, Space = S, Element = G>,
        step: Step<'a, S>,
    ) -> Self {
        Self {
            shape,
            shard: Shard::whole(shape.cols as u64),
            kind,
            sampling,
            logits: logits.output(),
            weight: weight.input(),
            gradient: gradient.input(),
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
    /// as workspace.
    #[must_use]
    pub fn norm_squares(mut self, norm_squares: impl Output<'a, Space = S, Element = f64>) -> Self {
        self.norm_squares = Some(norm_squares.output());
        self
    }

    /// Writes [`Statistics`] into the first of [`Statistics::SLOTS`] elements, using the others as workspace.
    #[must_use]
    pub fn statistics(mut self, statistics: impl Output<'a, Space = S, Element = Statistics>) -> Self {
        self.statistics = Some(statistics.output());
        self
    }
}

impl<S: Space, L: Logit, W: Float, G: GradientOf<W>> pass::Sealed for Fused<'_, S, L, W, G> {}
impl<S: Space, L: Logit, W: Float, G: GradientOf<W>> Pass<S> for Fused<'_, S, L, W, G> {
    fn check(&self) -> Result<()> {
        let Self { shape, .. } = self;
        sample::check(*shape, &self.shard, &self.sampling)?;
        check::finite("regulariser", self.regulariser)?;
        sample::has_gradient(self.kind)?;
        length("logits", Some(&self.logits), shape.logits())?;
        length("weight", Some(&self.weight), shape.weights())?;
        length("gradient", Some(&self.gradient), shape.weights())?;
        self.step.check(*shape)?;
        check_sums::<S>(self.norm_squares.as_ref(), self.statistics.as_ref())
    }

    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace,
    {
        cpu::fused(pass.into_inner());
        Ok(())
    }

    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        launch::fused(pass.inner(), binder, queue)
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

/// Arguments of a pass that makes the gradient of [`Fused`] and adds its squares to the running sum, for clipping that
/// is exact. Nothing else is written.
///
/// Shapes: logits `[N, K/4, 6]`; weight and gradient `[N, K]`.
///
/// # Errors
/// When run: as [`Fused`].
#[derive(Debug)]
pub struct Measure<'a, S: Space, L: Logit, W: Float, G: GradientOf<W>> {
    pub(super) shape: Shape,
    pub(super) shard: Shard,
    pub(super) kind: Kind,
    pub(super) sampling: Sampling,
    pub(super) logits: S::Ref<'a, L>,
    pub(super) weight: S::Ref<'a, W>,
    pub(super) gradient: S::Ref<'a, G>,
    pub(super) regulariser: f32,
    pub(super) norm_squares: S::Mut<'a, f64>,
}

impl<'a, S: Space, L: Logit, W: Float, G: GradientOf<W>> Measure<'a, S, L, W, G> {
    /// Adds to the first of [`NORM_SLOTS`] elements, using the others as workspace.
    #[must_use]
    pub fn new(
        shape: Shape,
        kind: Kind,
        sampling: Sampling,
        logits: impl Input<'a, Space = S, Element = L>,
        weight: impl Input<'a, Space = S, Element = W>,
        gradient: impl Input<'a, Space = S, Element = G>,
        norm_squares: impl Output<'a, Space = S, Element = f64>,
    ) -> Self {
        Self {
            shape,
            shard: Shard::whole(shape.cols as u64),
            kind,
            sampling,
            logits: logits.input(),
            weight: weight.input(),
            gradient: gradient.input(),
            regulariser: 0.0,
            norm_squares: norm_squares.output(),
        }
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
}

impl<S: Space, L: Logit, W: Float, G: GradientOf<W>> pass::Sealed for Measure<'_, S, L, W, G> {}
impl<S: Space, L: Logit, W: Float, G: GradientOf<W>> Pass<S> for Measure<'_, S, L, W, G> {
    fn check(&self) -> Result<()> {
        let Self { shape, .. } = self;
        sample::check(*shape, &self.shard, &self.sampling)?;
        check::finite("regulariser", self.regulariser)?;
        sample::has_gradient(self.kind)?;
        length("logits", Some(&self.logits), shape.logits())?;
        length("weight", Some(&self.weight), shape.weights())?;
        length("gradient", Some(&self.gradient), shape.weights())?;
        length("norm_squares", Some(&self.norm_squares), NORM_SLOTS)
    }

    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace,
    {
        cpu::measure(pass.into_inner());
        Ok(())
    }

    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        launch::measure(pass.inner(), binder, queue)
    }
}
