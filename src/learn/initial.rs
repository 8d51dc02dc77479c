//! Logits at the start: normal noise, and a push towards a mask that is known.

use super::{cpu, launch};
use crate::check::{finite, length, scalar};
use crate::element::Logit;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::pass::{self, Binder, Checked, DeviceSpace, Pass, Queue};
use crate::shape::{Shape, Shard};
use crate::space::{HostSpace, Input, Output, Space};

/// Where the sum of eight 16-bit numbers has its mean.
pub(super) const CENTRE: i32 = 4 * 65535;
/// Variance of that sum: eight times that of a number from 0 to 65535.
const VARIANCE: f64 = 8.0 * (65536.0 * 65536.0 - 1.0) / 12.0;

/// Arguments of initial logits.
///
/// `logit_i = round(σ·n_i + α·σ·(sim_i − 1))`, overwritten. `sim_i`, 0 to 2, is how many positions pattern `i` shares
/// with the mask of the given codes; without codes the second term is absent. MaskLLM measures σ again before it adds
/// the second term (arXiv 2409.17481, 3.3); here it is the σ that was asked for, so that a shard is a slice of the
/// whole.
///
/// `n_i` is a sum of eight uniform 16-bit numbers, one call of Philox a logit, centred and divided by its deviation: a
/// normal number but for its tails (no excess over 4.9, kurtosis −0.15), made without a logarithm and so the same bits
/// on every executor.
///
/// Shapes: logits `[N, K/4, 6]`; codes ⌈N·K/8⌉ bytes, two groups a byte, the even group in the low nibble. A group
/// whose code is none is an error on the CPU, before anything is written; a device writes NaN logits for it.
///
/// # Errors
/// When run: [`Error::NotGrouped`], [`Error::Overflow`], [`Error::Shard`], [`Error::Length`], and [`Error::Scalar`]
/// unless σ is finite and not negative and α finite; on the CPU [`Error::IllegalCode`].
#[derive(Debug)]
pub struct Initial<'a, S: Space, L: Logit> {
    pub(super) shape: Shape,
    pub(super) shard: Shard,
    pub(super) seed: u64,
    pub(super) sigma: f64,
    pub(super) alpha: f64,
    pub(super) codes: Option<S::Ref<'a, u8>>,
    pub(super) logits: S::Mut<'a, L>,
}

impl<'a, S: Space, L: Logit> Initial<'a, S, L> {
    /// Normal logits of standard deviation `sigma`; `seed` is the run's, and other for every layer.
    #[must_use]
    pub fn new(shape: Shape, seed: u64, sigma: f64, logits: impl Output<'a, Space = S, Element = L>) -> Self {
        let shard = Shard::whole(shape.cols as u64);
        Self { shape, shard, seed, sigma, alpha: 0.0, codes: None, logits: logits.output() }
    }

    /// Says that the weight is a slice of a larger one, whose logits these are a slice of. Codes are the slice's own.
    #[must_use]
    pub fn shard(mut self, shard: Shard) -> Self {
        self.shard = shard;
        self
    }

    /// Pushes logits towards the mask of these packed codes, by `alpha` deviations.
    #[must_use]
    pub fn prior(mut self, codes: impl Input<'a, Space = S, Element = u8>, alpha: f64) -> Self {
        self.codes = Some(codes.input());
        self.alpha = alpha;
        self
    }

    /// What a centred sum is multiplied by.
    pub(super) fn spread(&self) -> f32 {
        (self.sigma / VARIANCE.sqrt()) as f32
    }

    /// What a logit gains a position shared.
    pub(super) fn shift(&self) -> f32 {
        (self.alpha * self.sigma) as f32
    }
}

impl<S: Space, L: Logit> pass::Sealed for Initial<'_, S, L> {}
impl<S: Space, L: Logit> Pass<S> for Initial<'_, S, L> {
    fn check(&self) -> Result<()> {
        let Self { shape, .. } = self;
        shape.check()?;
        self.shard.check(shape.rows as u64, shape.cols as u64)?;
        // So that no logit is beyond f32: sums reach 4.9 deviations.
        if !(self.sigma >= 0.0 && self.sigma <= f64::from(f32::MAX) / 16.0) {
            return scalar("sigma", self.sigma, "finite, not negative, and far inside f32");
        }
        if !(self.alpha.is_finite() && (self.alpha * self.sigma).abs() <= f64::from(f32::MAX) / 16.0) {
            return scalar("alpha", self.alpha, "finite, and alpha * sigma far inside f32");
        }
        length("logits", Some(&self.logits), shape.logits())?;
        length("codes", self.codes.as_ref(), shape.packed_codes())
    }

    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace,
    {
        cpu::initial(pass.into_inner())
    }

    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        launch::initial(pass.inner(), binder, queue)
    }
}

/// Arguments of a prior on logits that exist: `logit_i = round(logit_i + strength·(sim_i − 1))`, in place. `strength`
/// is α times the deviation of the logits, which for MaskLLM is that of the layer.
///
/// Shapes and codes as in [`Initial`].
///
/// # Errors
/// When run: [`Error::NotGrouped`], [`Error::Overflow`], [`Error::Length`], and [`Error::Scalar`] unless the strength
/// is finite; on the CPU [`Error::IllegalCode`].
#[derive(Debug)]
pub struct Prior<'a, S: Space, L: Logit> {
    pub(super) shape: Shape,
    pub(super) codes: S::Ref<'a, u8>,
    pub(super) strength: f32,
    pub(super) logits: S::Mut<'a, L>,
}

impl<'a, S: Space, L: Logit> Prior<'a, S, L> {
    /// A push of logits towards the mask of packed codes.
    #[must_use]
    pub fn new(
        shape: Shape,
        codes: impl Input<'a, Space = S, Element = u8>,
        strength: f32,
        logits: impl Output<'a, Space = S, Element = L>,
    ) -> Self {
        Self { shape, codes: codes.input(), strength, logits: logits.output() }
    }
}

impl<S: Space, L: Logit> pass::Sealed for Prior<'_, S, L> {}
impl<S: Space, L: Logit> Pass<S> for Prior<'_, S, L> {
    fn check(&self) -> Result<()> {
        let Self { shape, .. } = self;
        shape.check()?;
        finite("strength", self.strength)?;
        length("logits", Some(&self.logits), shape.logits())?;
        length("codes", Some(&self.codes), shape.packed_codes())
    }

    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace,
    {
        cpu::prior(pass.into_inner())
    }

    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        launch::prior(pass.inner(), binder, queue)
    }
}
