//! Masks from logits, and the gradient back to the logits.
//!
//! A weight `W [N, K]` has logits `[N, K/4, 6]`: for each group of four consecutive weights a score of each of the six
//! 2:4 patterns. [`Forward`] samples a mask `M` and writes any of the masked weight `W∘M`, the mask, pattern indices,
//! packed codes and statistics; [`Backward`] takes `G = dL/d(W∘M)` to the logits. Neither stores noise, softmax or
//! mask: the noise is made again from `(seed, draw)` ([`crate::noise`]).
//!
//! With `z_i = fma(κ, logit_i, noise_i)` and `P_ij = 1` where pattern `i` keeps position `j`:
//!
//! | [`Kind`] | mask |
//! | --- | --- |
//! | `Soft` | `m_j = Σ_i y_i P_ij`, `y = softmax(z/τ)`: what MaskLLM trains with (arXiv 2409.17481) |
//! | `Hard` | the pattern of the largest `z`, ties to the lowest index; the gradient is the soft one (straight-through) |
//! | `Argmax` | the pattern of the largest logit, no noise, ties to the lowest index: evaluation and export |
//!
//! The gradient, with the weight regulariser `−λ Σ (W∘M)²` of the paper folded in:
//! `dm_j = G_j W_j − 2λ W_j² m_j`, `u_i = Σ_j P_ij dm_j`, `dlogit_i = (κ/τ) y_i (v_i − Σ_k y_k v_k)` with
//! `v_i = u_i − Σ_{m_j > ½} dm_j`, which is exactly 0 for a pattern whose `y` is nearly 1. (`u_i − Σ_j m_j dm_j`, the
//! same in exact arithmetic, would cancel there.) The `m` of the regulariser is the mask that was used.
//!
//! # Numerics
//!
//! Arithmetic is in `f32`; an output is rounded once. Choices (hard and argmax) are the same bits on every executor;
//! soft values agree to a few units in the last place, for the exponential is the hardware's.
//!
//! - For the same noise, each gradient of a group is within `1e-4 (κ/τ) (1 − y_top) Σ_j (|G_j W_j| + 2|λ| W_j² m_j)` of
//!   the exact one, for any κ, logits, weights and gradients and τ from 0.05 on, if no number leaves the range of
//!   normal `f32`; a `y` below 2⁻¹²⁶ `y_top` counts as 0. The factor `1 − y_top` says that it is right where masks are
//!   nearly decided too. The bound is what tests hold, not proven. For this the `y` of [`Backward`], and of every step
//!   that has this gradient in it, are softmax of `r/τ` with `r_i = fma(κ, logit_i − max_k logit_k, noise_i)`: `z_i`
//!   less the same number for all, and rounded on the scale of the noise. The soft mask of [`Forward`] is made of `z`,
//!   which is cheaper: its `y` are off by up to `2⁻²³ |z|/τ` of themselves, and the `G∘M` of a soft [`Backward`]
//!   differs from [`Forward`]'s by as much.
//! - A group whose largest `z` is not finite (a NaN or `+inf` logit, six `-inf`, overflow of `κ·logit`) has no mask:
//!   its mask, masked weight and gradients are NaN, its pattern index is [`Pattern::POISON`](crate::Pattern::POISON),
//!   its code [`Pattern::POISON_CODE`](crate::Pattern::POISON_CODE). A `-inf` logit beside finite ones only means that
//!   its pattern is never chosen (unless κ is 0: then `κ·logit` is NaN).
//! - A soft mask multiplies as IEEE does: `±inf · 0` is NaN. A hard mask selects: a kept weight is copied, `-0.0` and
//!   NaN included, a dropped one becomes `+0.0` whatever it was.
//!
//! # Executors
//!
//! [`Cpu`](crate::Cpu) and, with the feature `cuda`, `Gpu` take the same arguments in their own memory. Both write only
//! what was asked for. The gradient of the weight itself, for those who train it, is `G∘M`: ask [`Backward`] for it, or
//! run [`Forward`] on `G` in place of the weight.

use crate::check::{self, length};
use crate::element::{Float, Logit};
use crate::error::{Error, Result};
use crate::pass::{self, Binder, Checked, DeviceSpace, Pass, Queue};
use crate::sample::{self, Source, statistics};
use crate::shape::{Shape, Shard};
use crate::space::{HostSpace, Input, Output, Space};

mod cpu;
mod launch;

pub use crate::sample::{GradientOf, Kind, Sampling};

/// Sums over the groups of one mask, made in the same pass. The layout is that of the device.
#[derive(Debug, Clone, Copy, PartialEq, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Statistics {
    /// Σ (W∘M)², before rounding; 0 without a weight.
    pub kept_energy: f64,
    /// Mean over groups of the largest `y` (for `Argmax`: of `softmax(κ·logit/τ)`); 0 without groups.
    pub confidence: f64,
    /// Groups whose code differs from the one given in `previous_codes`; 0 without those.
    pub moved: u64,
    /// Groups counted.
    pub groups: u64,
}

impl Statistics {
    /// Elements of the array that receives statistics: the first is the result, the rest is workspace.
    pub const SLOTS: usize = statistics::SLOTS;
}
statistics::on_a_device!(Statistics);

/// Arguments of the forward pass: what is read, and which outputs are wanted.
///
/// Shapes: logits `[N, K/4, 6]`; weight, masked and mask `[N, K]`; patterns `[N, K/4]`; codes ⌈N·K/8⌉ bytes, two groups
/// a byte, the even group in the low nibble; all row-major. All outputs are overwritten. On a device every operand
/// starts on a 16-byte boundary.
///
/// # Errors
/// When run: [`Error::NotGrouped`], [`Error::Overflow`], [`Error::Shard`], [`Error::Scalar`], [`Error::Length`], and
/// [`Error::Missing`] for an output that needs an input, or if nothing is to be written.
#[derive(Debug)]
pub struct Forward<'a, S: Space, L: Logit, W: Float> {
    shape: Shape,
    shard: Shard,
    source: Source<S::Ref<'a, L>, S::Ref<'a, u8>>,
    weight: Option<S::Ref<'a, W>>,
    masked: Option<S::Mut<'a, W>>,
    mask: Option<S::Mut<'a, W>>,
    patterns: Option<S::Mut<'a, u8>>,
    codes: Option<S::Mut<'a, u8>>,
    previous_codes: Option<S::Ref<'a, u8>>,
    statistics: Option<S::Mut<'a, Statistics>>,
}

impl<'a, S: Space, W: Float> Forward<'a, S, f32, W> {
    /// A mask that no longer changes, given by its codes as [`codes`](Forward::codes) writes them, on a weight. It has
    /// the masked weight for its only output. Any code but the six of [`Pattern`](crate::Pattern) makes its group NaN.
    #[must_use]
    pub fn frozen(
        shape: Shape,
        codes: impl Input<'a, Space = S, Element = u8>,
        weight: impl Input<'a, Space = S, Element = W>,
    ) -> Self {
        Self::of(shape, Source::Frozen { codes: codes.input() }).weight(weight)
    }
}

impl<'a, S: Space, L: Logit, W: Float> Forward<'a, S, L, W> {
    /// A forward pass that as yet writes nothing.
    #[must_use]
    pub fn new(shape: Shape, kind: Kind, sampling: Sampling, logits: impl Input<'a, Space = S, Element = L>) -> Self {
        Self::of(shape, Source::Sampled { kind, sampling, logits: logits.input() })
    }

    /// With logits or codes as they come.
    pub(crate) fn of(shape: Shape, source: Source<S::Ref<'a, L>, S::Ref<'a, u8>>) -> Self {
        Self {
            shape,
            shard: Shard::whole(shape.cols as u64),
            source,
            weight: None,
            masked: None,
            mask: None,
            patterns: None,
            codes: None,
            previous_codes: None,
            statistics: None,
        }
    }

    /// Says that the weight is a slice of a larger one; its masks are then the slice of the larger one's.
    #[must_use]
    pub fn shard(mut self, shard: Shard) -> Self {
        self.shard = shard;
        self
    }

    /// Reads the weight `W`.
    #[must_use]
    pub fn weight(mut self, weight: impl Input<'a, Space = S, Element = W>) -> Self {
        self.weight = Some(weight.input());
        self
    }

    /// Writes `W∘M`; needs the weight.
    #[must_use]
    pub fn masked(mut self, masked: impl Output<'a, Space = S, Element = W>) -> Self {
        self.masked = Some(masked.output());
        self
    }

    /// Writes `M`.
    #[must_use]
    pub fn mask(mut self, mask: impl Output<'a, Space = S, Element = W>) -> Self {
        self.mask = Some(mask.output());
        self
    }

    /// Writes a byte a group: the index 0 to 5 of the pattern with the largest score (for `Soft` too).
    #[must_use]
    pub fn patterns(mut self, patterns: impl Output<'a, Space = S, Element = u8>) -> Self {
        self.patterns = Some(patterns.output());
        self
    }

    /// Writes the packed codes of the same patterns.
    #[must_use]
    pub fn codes(mut self, codes: impl Output<'a, Space = S, Element = u8>) -> Self {
        self.codes = Some(codes.output());
        self
    }

    /// Writes [`Statistics`] into the first of [`Statistics::SLOTS`] elements, using the others as workspace.
    #[must_use]
    pub fn statistics(mut self, statistics: impl Output<'a, Space = S, Element = Statistics>) -> Self {
        self.statistics = Some(statistics.output());
        self
    }

    /// Reads the packed codes that [`Statistics::moved`] compares with.
    #[must_use]
    pub fn previous_codes(mut self, codes: impl Input<'a, Space = S, Element = u8>) -> Self {
        self.previous_codes = Some(codes.input());
        self
    }

    /// Whether the masked weight is all that is written.
    fn only_masked(&self) -> bool {
        self.masked.is_some() && !self.wants_more()
    }

    fn wants_more(&self) -> bool {
        self.mask.is_some() || self.patterns.is_some() || self.codes.is_some() || self.statistics.is_some()
    }
}

impl<S: Space, L: Logit, W: Float> pass::Sealed for Forward<'_, S, L, W> {}
impl<S: Space, L: Logit, W: Float> Pass<S> for Forward<'_, S, L, W> {
    fn check(&self) -> Result<()> {
        let Self { shape, .. } = self;
        match &self.source {
            Source::Sampled { sampling, logits, .. } => {
                sample::check(*shape, &self.shard, sampling)?;
                length("logits", Some(logits), shape.logits())?;
            }
            Source::Frozen { codes } => {
                shape.check()?;
                length("codes", Some(codes), shape.packed_codes())?;
                if self.wants_more() {
                    let missing = "a frozen mask gives the masked weight alone: its codes are there";
                    return Err(Error::Missing { what: "a mask", missing });
                }
            }
        }
        length("weight", self.weight.as_ref(), shape.weights())?;
        length("masked", self.masked.as_ref(), shape.weights())?;
        length("mask", self.mask.as_ref(), shape.weights())?;
        length("patterns", self.patterns.as_ref(), shape.groups())?;
        length("codes", self.codes.as_ref(), shape.packed_codes())?;
        length("previous_codes", self.previous_codes.as_ref(), shape.packed_codes())?;
        length("statistics", self.statistics.as_ref(), Statistics::SLOTS)?;
        if self.masked.is_some() && self.weight.is_none() {
            return Err(Error::Missing { what: "masked", missing: "no weight was given to mask" });
        }
        if self.previous_codes.is_some() && self.statistics.is_none() {
            return Err(Error::Missing { what: "previous_codes", missing: "nothing is counted without `statistics`" });
        }
        if self.only_masked() || self.wants_more() {
            return Ok(());
        }
        Err(Error::Missing { what: "a mask", missing: "no output was given to write it to" })
    }

    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace,
    {
        cpu::forward(pass.into_inner());
        Ok(())
    }

    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        launch::forward(pass.inner(), binder, queue)
    }
}

/// Arguments of the backward pass.
///
/// Shapes: logits and their gradient `[N, K/4, 6]`; weight, gradient and weight gradient `[N, K]`. Sampling, shard and
/// kind must be those of the forward pass.
///
/// # Errors
/// When run: as [`Forward`]; and [`Error::Missing`] for `Kind::Argmax`, which has no gradient.
#[derive(Debug)]
pub struct Backward<'a, S: Space, L: Logit, W: Float, G: GradientOf<W>> {
    shape: Shape,
    shard: Shard,
    kind: Kind,
    sampling: Sampling,
    logits: S::Ref<'a, L>,
    weight: S::Ref<'a, W>,
    gradient: S::Ref<'a, G>,
    regulariser: f32,
    accumulate: bool,
    logit_gradient: Option<S::Mut<'a, f32>>,
    weight_gradient: Option<S::Mut<'a, G>>,
}

impl<'a, S: Space, L: Logit, W: Float, G: GradientOf<W>> Backward<'a, S, L, W, G> {
    /// A backward pass that as yet writes nothing; `gradient` is `dL/d(W∘M)`.
    #[must_use]
    pub fn new(
        shape: Shape,
        kind: Kind,
        sampling: Sampling,
        logits: impl Input<'a, Space = S, Element = L>,
        weight: impl Input<'a, Space = S, Element = W>,
        gradient: impl Input<'a, Space = S, Element = G>,
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
            accumulate: false,
            logit_gradient: None,
            weight_gradient: None,
        }
    }

    /// Says that the weight is a slice of a larger one, as in [`Forward::shard`].
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

    /// Overwrites `logit_gradient` with `dL/dlogits`.
    #[must_use]
    pub fn logit_gradient(mut self, logit_gradient: impl Output<'a, Space = S, Element = f32>) -> Self {
        self.logit_gradient = Some(logit_gradient.output());
        self.accumulate = false;
        self
    }

    /// Adds `dL/dlogits` to `logit_gradient`.
    #[must_use]
    pub fn accumulate_logit_gradient(mut self, logit_gradient: impl Output<'a, Space = S, Element = f32>) -> Self {
        self.logit_gradient = Some(logit_gradient.output());
        self.accumulate = true;
        self
    }

    /// Overwrites `weight_gradient` with `G∘M`, for those who train the weight (the regulariser is not in it).
    #[must_use]
    pub fn weight_gradient(mut self, weight_gradient: impl Output<'a, Space = S, Element = G>) -> Self {
        self.weight_gradient = Some(weight_gradient.output());
        self
    }
}

impl<S: Space, L: Logit, W: Float, G: GradientOf<W>> pass::Sealed for Backward<'_, S, L, W, G> {}
impl<S: Space, L: Logit, W: Float, G: GradientOf<W>> Pass<S> for Backward<'_, S, L, W, G> {
    fn check(&self) -> Result<()> {
        let Self { shape, .. } = self;
        sample::check(*shape, &self.shard, &self.sampling)?;
        check::finite("regulariser", self.regulariser)?;
        length("logits", Some(&self.logits), shape.logits())?;
        length("weight", Some(&self.weight), shape.weights())?;
        length("gradient", Some(&self.gradient), shape.weights())?;
        length("logit_gradient", self.logit_gradient.as_ref(), shape.logits())?;
        length("weight_gradient", self.weight_gradient.as_ref(), shape.weights())?;
        sample::has_gradient(self.kind)?;
        if self.logit_gradient.is_none() && self.weight_gradient.is_none() {
            return Err(Error::Missing { what: "a gradient", missing: "no output was given to write it to" });
        }
        Ok(())
    }

    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace,
    {
        cpu::backward(pass.into_inner());
        Ok(())
    }

    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        launch::backward(pass.inner(), binder, queue)
    }
}
