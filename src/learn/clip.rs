//! Clipping by global norm: the sum of a gradient's squares, and the factor that is made of the sum.

use crate::check::length;
use crate::check::scalar;
use crate::error::Result;
use crate::shape::Shape;
use crate::space::Space;

/// Elements of the array in which squares are added up: the first is the running sum, the rest is work space. One array
/// serves all layers of a model, zeroed once.
pub const NORM_SLOTS: usize = 1 + super::Statistics::MAX_BLOCKS as usize;

/// Arguments of a pass that adds the squares of a gradient `[N, K/4, 6]` to the running sum, and writes nothing else.
/// Groups that a step would skip do not enter it.
#[derive(Debug)]
pub struct Norm<'a, S: Space> {
    pub(crate) shape: Shape,
    pub(crate) gradient: S::Ref<'a, f32>,
    pub(crate) scale: f32,
    pub(crate) norm_squares: S::Mut<'a, f64>,
}

impl<'a, S: Space> Norm<'a, S> {
    /// Adds to the first of [`NORM_SLOTS`] elements.
    #[must_use]
    pub fn new(shape: Shape, gradient: S::Ref<'a, f32>, norm_squares: S::Mut<'a, f64>) -> Self {
        Self { shape, gradient, scale: 1.0, norm_squares }
    }

    /// Multiplies the gradient, as [`Update::scale`](super::Update::scale) does; finite.
    #[must_use]
    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = scale;
        self
    }

    /// Checks shapes, lengths and scalars; every executor does it first.
    ///
    /// # Errors
    /// [`Error::NotGrouped`](crate::Error::NotGrouped), [`Error::Overflow`](crate::Error::Overflow),
    /// [`Error::Length`](crate::Error::Length), [`Error::Scalar`](crate::Error::Scalar).
    pub fn check(&self) -> Result<()> {
        self.shape.check()?;
        check_scale(self.scale)?;
        length("gradient", Some(&self.gradient), self.shape.logits())?;
        length("norm_squares", Some(&self.norm_squares), NORM_SLOTS)
    }
}

pub(super) fn check_scale(scale: f32) -> Result<()> {
    if scale.is_finite() { Ok(()) } else { scalar("scale", f64::from(scale), "finite") }
}

/// Arguments of the end of clipping: reads the running sum, writes `factor = min(1, max_norm/(√sum + 1e-6))`, made in
/// `f64` and rounded, and sets the sum to 0. (The 1e-6 is that of PyTorch and Megatron.) A NaN sum makes a NaN factor,
/// with which a step skips everything.
#[derive(Debug)]
pub struct Clip<'a, S: Space> {
    pub(crate) max_norm: f64,
    pub(crate) norm_squares: S::Mut<'a, f64>,
    pub(crate) factor: S::Mut<'a, f32>,
    pub(crate) norm: Option<S::Mut<'a, f32>>,
}

impl<'a, S: Space> Clip<'a, S> {
    /// Reads and resets the first of [`NORM_SLOTS`] elements; overwrites the one element of `factor`.
    #[must_use]
    pub fn new(max_norm: f64, norm_squares: S::Mut<'a, f64>, factor: S::Mut<'a, f32>) -> Self {
        Self { max_norm, norm_squares, factor, norm: None }
    }

    /// Writes the norm `√sum` too, to one element.
    #[must_use]
    pub fn norm(mut self, norm: S::Mut<'a, f32>) -> Self {
        self.norm = Some(norm);
        self
    }

    /// Checks lengths and the norm; every executor does it first.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length), and [`Error::Scalar`](crate::Error::Scalar) unless `max_norm` is
    /// positive and finite.
    pub fn check(&self) -> Result<()> {
        if !(self.max_norm.is_finite() && self.max_norm > 0.0) {
            return scalar("max_norm", self.max_norm, "positive and finite; without clipping, give steps no factor");
        }
        length("norm_squares", Some(&self.norm_squares), NORM_SLOTS)?;
        length("factor", Some(&self.factor), 1)?;
        length("norm", self.norm.as_ref(), 1)
    }
}
