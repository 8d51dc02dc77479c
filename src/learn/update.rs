//! The step from a gradient in memory.

use super::{AdamW, Elements, Moments, Statistics, check_sums, cpu, launch};
use crate::check::{finite, length};
use crate::element::{DType, Logit};
use crate::error::{Error, Result};
use crate::pass::{self, Binder, Checked, DeviceSpace, Pass, Queue};
use crate::shape::{Shape, Shard};
use crate::space::{Cut, Host, HostSpace, Input, Output, Space};
use std::ops::Range;

/// The optimiser's part of a step: hyper-parameters, moments, and the clip factor if there is one.
pub struct Step<'a, S: Space> {
    pub(super) by: AdamW,
    pub(super) moments: Moments<'a, S>,
    pub(super) factor: Option<S::Ref<'a, f32>>,
}

impl<'a, S: Space> Step<'a, S> {
    /// A step without clipping.
    #[must_use]
    pub fn new(by: AdamW, moments: Moments<'a, S>) -> Self {
        Self { by, moments, factor: None }
    }

    /// Multiplies the gradient by this one element, from 0 to 1: what [`Clip`](super::Clip) writes.
    #[must_use]
    pub fn factor(mut self, factor: impl Input<'a, Space = S, Element = f32>) -> Self {
        self.factor = Some(factor.input());
        self
    }

    pub(crate) fn check(&self, shape: Shape) -> Result<()> {
        self.by.check()?;
        self.moments.check(shape)?;
        length("factor", self.factor.as_ref(), 1)
    }

    /// Whether its moments have eight bits.
    pub(crate) fn has_eight_bits(&self) -> bool {
        matches!(self.moments, Moments::Eight { .. })
    }

    pub(crate) fn on_host(self) -> Step<'a, Host>
    where
        S: HostSpace,
    {
        Step { by: self.by, moments: self.moments.on_host(), factor: self.factor.map(S::slice) }
    }

    /// That of some groups, which with moments of eight bits begin with a block.
    pub(crate) fn part(&mut self, groups: Range<usize>) -> Step<'_, S>
    where
        S: Cut,
    {
        let Self { by, moments, factor } = self;
        Step { by: *by, moments: moments.part(groups), factor: factor.as_ref().map(S::share) }
    }

    /// Whether a step of such logits needs random numbers.
    fn is_rounded(&self, logits: DType) -> bool {
        logits != DType::F32 || self.has_eight_bits()
    }
}

impl<S: Space> std::fmt::Debug for Step<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let factor = self.factor.as_ref().map(Elements);
        f.debug_struct("Step").field("by", &self.by).field("moments", &self.moments).field("factor", &factor).finish()
    }
}

/// A gradient that is read, or that is read and set to zero.
pub(super) enum Gradient<'a, S: Space> {
    Read(S::Ref<'a, f32>),
    Zero(S::Mut<'a, f32>),
}

impl<S: Space> std::fmt::Debug for Gradient<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Read(gradient) => f.debug_tuple("Read").field(&Elements(gradient)).finish(),
            Self::Zero(gradient) => f.debug_tuple("Zero").field(&Elements(gradient)).finish(),
        }
    }
}

/// Key and counter of the random bits of stochastic rounding. No two steps of a tensor share both; they may be those of
/// a mask, whose noise is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rounding {
    /// Key, one a run.
    pub seed: u64,
    /// Counter ([`crate::noise::draw`] makes one).
    pub draw: u64,
}

/// Arguments of a step from a gradient in memory.
///
/// Shapes: gradient, logits and moments `[N, K/4, 6]`. Logits and moments are updated in place. On a device every
/// operand starts on a 16-byte boundary.
///
/// # Errors
/// When run: [`Error::NotGrouped`], [`Error::Overflow`], [`Error::Shard`], [`Error::Scalar`], [`Error::Length`], and
/// [`Error::Missing`] where something is rounded and there is no [`rounding`](Self::rounding).
pub struct Update<'a, S: Space, L: Logit> {
    pub(super) shape: Shape,
    pub(super) shard: Shard,
    pub(super) gradient: Gradient<'a, S>,
    pub(super) scale: f32,
    pub(super) logits: S::Mut<'a, L>,
    pub(super) step: Step<'a, S>,
    pub(super) rounding: Option<Rounding>,
    pub(super) norm_squares: Option<S::Mut<'a, f64>>,
    pub(super) statistics: Option<S::Mut<'a, Statistics>>,
}

impl<'a, S: Space, L: Logit> Update<'a, S, L> {
    /// A step by a gradient that is only read.
    #[must_use]
    pub fn new(
        shape: Shape,
        gradient: impl Input<'a, Space = S, Element = f32>,
        logits: impl Output<'a, Space = S, Element = L>,
        step: Step<'a, S>,
    ) -> Self {
        Self::of(shape, Gradient::Read(gradient.input()), logits.output(), step)
    }

    /// A step by a gradient that is set to zero when it has been read, skipped groups' too, for the next step to add
    /// to.
    #[must_use]
    pub fn zeroing(
        shape: Shape,
        gradient: impl Output<'a, Space = S, Element = f32>,
        logits: impl Output<'a, Space = S, Element = L>,
        step: Step<'a, S>,
    ) -> Self {
        Self::of(shape, Gradient::Zero(gradient.output()), logits.output(), step)
    }

    fn of(shape: Shape, gradient: Gradient<'a, S>, logits: S::Mut<'a, L>, step: Step<'a, S>) -> Self {
        Self {
            shape,
            shard: Shard::whole(shape.cols as u64),
            gradient,
            scale: 1.0,
            logits,
            step,
            rounding: None,
            norm_squares: None,
            statistics: None,
        }
    }

    /// Says that the weight is a slice of a larger one: it numbers the groups whose logits are rounded stochastically.
    #[must_use]
    pub fn shard(mut self, shard: Shard) -> Self {
        self.shard = shard;
        self
    }

    /// Multiplies the gradient, by one over the number of micro-batches for instance; finite.
    #[must_use]
    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = scale;
        self
    }

    /// The random bits of stochastic rounding; needed where logits are `bf16` or moments have eight bits.
    #[must_use]
    pub fn rounding(mut self, rounding: Rounding) -> Self {
        self.rounding = Some(rounding);
        self
    }

    /// Adds the squares of the (scaled, not clipped) gradient to the first of [`NORM_SLOTS`](super::NORM_SLOTS)
    /// elements, using the others as workspace.
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

impl<S: Space, L: Logit> pass::Sealed for Update<'_, S, L> {}
impl<S: Space, L: Logit> Pass<S> for Update<'_, S, L> {
    fn check(&self) -> Result<()> {
        let Self { shape, .. } = self;
        shape.check()?;
        self.shard.check(shape.rows as u64, shape.cols as u64)?;
        finite("scale", self.scale)?;
        match &self.gradient {
            Gradient::Read(gradient) => length("gradient", Some(gradient), shape.logits())?,
            Gradient::Zero(gradient) => length("gradient", Some(gradient), shape.logits())?,
        }
        length("logits", Some(&self.logits), shape.logits())?;
        self.step.check(*shape)?;
        check_sums::<S>(self.norm_squares.as_ref(), self.statistics.as_ref())?;
        if self.rounding.is_none() && self.step.is_rounded(L::DTYPE) {
            let missing = "no `rounding` was given: bf16 logits and 8-bit moments are rounded with random bits";
            return Err(Error::Missing { what: "a step", missing });
        }
        Ok(())
    }

    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace,
    {
        cpu::update(pass.into_inner());
        Ok(())
    }

    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        launch::update(pass.inner(), binder, queue)
    }
}

impl<S: Space, L: Logit> std::fmt::Debug for Update<'_, S, L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Update")
            .field("shape", &self.shape)
            .field("shard", &self.shard)
            .field("gradient", &self.gradient)
            .field("scale", &self.scale)
            .field("logits", &Elements(&self.logits))
            .field("step", &self.step)
            .field("rounding", &self.rounding)
            .finish_non_exhaustive()
    }
}
