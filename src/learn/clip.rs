//! Clipping by global norm: the sum of a gradient's squares, and the factor that is made of the sum.

use super::{cpu, launch};
use crate::check::{finite, length, scalar};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::pass::{self, Binder, Checked, DeviceSpace, Pass, Queue};
use crate::sample::statistics;
use crate::shape::Shape;
use crate::space::{HostSpace, Input, Output, Space};

/// Elements of the array in which squares are added up: the first is the running sum, the rest is workspace. One array
/// serves all layers of a model, zeroed once.
pub const NORM_SLOTS: usize = statistics::SLOTS;

/// Arguments of a pass that adds the squares of a gradient `[N, K/4, 6]` to the running sum, and writes nothing else.
/// Groups that a step would skip do not enter it.
///
/// # Errors
/// When run: [`Error::NotGrouped`], [`Error::Overflow`], [`Error::Length`], [`Error::Scalar`].
#[derive(Debug)]
pub struct Norm<'a, S: Space> {
    pub(super) shape: Shape,
    pub(super) gradient: S::Ref<'a, f32>,
    pub(super) scale: f32,
    pub(super) norm_squares: S::Mut<'a, f64>,
}

impl<'a, S: Space> Norm<'a, S> {
    /// Adds to the first of [`NORM_SLOTS`] elements.
    #[must_use]
    pub fn new(
        shape: Shape,
        gradient: impl Input<'a, Space = S, Element = f32>,
        norm_squares: impl Output<'a, Space = S, Element = f64>,
    ) -> Self {
        Self { shape, gradient: gradient.input(), scale: 1.0, norm_squares: norm_squares.output() }
    }

    /// Multiplies the gradient, as [`Update::scale`](super::Update::scale) does; finite.
    #[must_use]
    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = scale;
        self
    }
}

impl<S: Space> pass::Sealed for Norm<'_, S> {}
impl<S: Space> Pass<S> for Norm<'_, S> {
    fn check(&self) -> Result<()> {
        self.shape.check()?;
        finite("scale", self.scale)?;
        length("gradient", Some(&self.gradient), self.shape.logits())?;
        length("norm_squares", Some(&self.norm_squares), NORM_SLOTS)
    }

    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace,
    {
        cpu::norm(pass.into_inner());
        Ok(())
    }

    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        launch::norm(pass.inner(), binder, queue)
    }
}

/// Arguments of the end of clipping: reads the running sum, writes `factor = min(1, max_norm/(√sum + 1e-6))`, made in
/// `f64` and rounded, and sets the sum to 0. (The 1e-6 is that of PyTorch and Megatron.) A NaN sum makes a NaN factor,
/// with which a step skips everything.
///
/// # Errors
/// When run: [`Error::Length`], and [`Error::Scalar`] unless `max_norm` is positive and finite.
#[derive(Debug)]
pub struct Clip<'a, S: Space> {
    pub(super) max_norm: f64,
    pub(super) norm_squares: S::Mut<'a, f64>,
    pub(super) factor: S::Mut<'a, f32>,
    pub(super) norm: Option<S::Mut<'a, f32>>,
}

impl<'a, S: Space> Clip<'a, S> {
    /// Reads and resets the first of [`NORM_SLOTS`] elements; overwrites the one element of `factor`.
    #[must_use]
    pub fn new(
        max_norm: f64,
        norm_squares: impl Output<'a, Space = S, Element = f64>,
        factor: impl Output<'a, Space = S, Element = f32>,
    ) -> Self {
        Self { max_norm, norm_squares: norm_squares.output(), factor: factor.output(), norm: None }
    }

    /// Writes the norm `√sum` too, to one element.
    #[must_use]
    pub fn norm(mut self, norm: impl Output<'a, Space = S, Element = f32>) -> Self {
        self.norm = Some(norm.output());
        self
    }
}

impl<S: Space> pass::Sealed for Clip<'_, S> {}
impl<S: Space> Pass<S> for Clip<'_, S> {
    fn check(&self) -> Result<()> {
        if !(self.max_norm.is_finite() && self.max_norm > 0.0) {
            return scalar("max_norm", self.max_norm, "positive and finite; without clipping, give steps no factor");
        }
        length("norm_squares", Some(&self.norm_squares), NORM_SLOTS)?;
        length("factor", Some(&self.factor), 1)?;
        length("norm", self.norm.as_ref(), 1)
    }

    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace,
    {
        cpu::clip(pass.into_inner());
        Ok(())
    }

    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        launch::clip(pass.inner(), binder, queue)
    }
}
