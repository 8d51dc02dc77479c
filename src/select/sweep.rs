//! SparseGPT's pass over a weight: arguments and checks.

use super::activations::square;
use crate::check::length;
use crate::element::Float;
use crate::error::{Error, Result};
use crate::shape::Shape;
use crate::space::Space;

/// Columns of a block: what a row keeps at hand while it is swept.
pub(crate) const BLOCK: usize = 128;

/// Arguments of SparseGPT's sweep with weight update; see the [module](super).
///
/// Shapes: weight and updated `[N, K]`; upper `[K, K]`, of which the triangle from the diagonal on is read, and scale
/// `[K]`, both of a `Cholesky`; patterns `[N, K/4]`; codes as in [`ByScore`](super::ByScore); losses
/// `[N]`; all row-major. All outputs are overwritten. On a device every operand starts on a 16-byte boundary.
///
/// The factor must be finite; it is not looked at for that. Where it is not, neither are the weights that it meets.
///
/// The work space holds the weight in `f32` while it changes: [`Sweep::workspace_len`] elements, needed on a
/// device; the CPU uses what a few rows take, and allocates that itself.
#[derive(Debug)]
pub struct Sweep<'a, S: Space, W: Float> {
    pub(crate) shape: Shape,
    pub(crate) weight: S::Ref<'a, W>,
    pub(crate) upper: S::Ref<'a, f32>,
    pub(crate) scale: S::Ref<'a, f32>,
    pub(crate) updated: Option<S::Mut<'a, W>>,
    pub(crate) patterns: Option<S::Mut<'a, u8>>,
    pub(crate) codes: Option<S::Mut<'a, u8>>,
    pub(crate) losses: Option<S::Mut<'a, f64>>,
    pub(crate) workspace: Option<S::Mut<'a, f32>>,
}

impl<'a, S: Space, W: Float> Sweep<'a, S, W> {
    /// A sweep that as yet writes nothing.
    #[must_use]
    pub fn new(shape: Shape, weight: S::Ref<'a, W>, upper: S::Ref<'a, f32>, scale: S::Ref<'a, f32>) -> Self {
        Self { shape, weight, upper, scale, updated: None, patterns: None, codes: None, losses: None, workspace: None }
    }

    /// Writes the weight as updated, dropped values `+0.0`; the weight itself is never written.
    #[must_use]
    pub fn updated(mut self, updated: S::Mut<'a, W>) -> Self {
        self.updated = Some(updated);
        self
    }

    /// Writes a byte a group: the pattern's index 0 to 5.
    #[must_use]
    pub fn patterns(mut self, patterns: S::Mut<'a, u8>) -> Self {
        self.patterns = Some(patterns);
        self
    }

    /// Writes the packed codes.
    #[must_use]
    pub fn codes(mut self, codes: S::Mut<'a, u8>) -> Self {
        self.codes = Some(codes);
        self
    }

    /// Writes the loss of each row, `Σ e²/2`, in `f64`. NaN where a group of the row has no mask.
    #[must_use]
    pub fn losses(mut self, losses: S::Mut<'a, f64>) -> Self {
        self.losses = Some(losses);
        self
    }

    /// Memory for the weight while it changes.
    #[must_use]
    pub fn workspace(mut self, workspace: S::Mut<'a, f32>) -> Self {
        self.workspace = Some(workspace);
        self
    }

    /// Elements of the work space that a device needs for such a weight: the weight, a block's errors, and pattern
    /// indices.
    #[must_use]
    pub const fn workspace_len(shape: Shape) -> usize {
        let [weight, errors, patterns] = Self::workspace_parts(shape);
        weight.saturating_add(errors).saturating_add(patterns)
    }

    /// The parts of the work space, in elements of `f32`.
    pub(crate) const fn workspace_parts(shape: Shape) -> [usize; 3] {
        [shape.weights(), shape.rows.saturating_mul(BLOCK), shape.groups().div_ceil(4)]
    }

    /// Checks shapes and lengths; every executor does it first.
    ///
    /// # Errors
    /// [`Error::NotGrouped`], [`Error::Overflow`], [`Error::Length`], and [`Error::Missing`] if nothing is to be
    /// written.
    pub fn check(&self) -> Result<()> {
        let Self { shape, .. } = self;
        shape.check()?;
        length("weight", Some(&self.weight), shape.weights())?;
        length("upper", Some(&self.upper), square("upper", shape.cols)?)?;
        length("scale", Some(&self.scale), shape.cols)?;
        length("updated", self.updated.as_ref(), shape.weights())?;
        length("patterns", self.patterns.as_ref(), shape.groups())?;
        length("codes", self.codes.as_ref(), shape.packed_codes())?;
        length("losses", self.losses.as_ref(), shape.rows)?;
        if self.updated.is_none() && self.patterns.is_none() && self.codes.is_none() && self.losses.is_none() {
            return Err(Error::Missing { what: "a mask", missing: "no output was given to write it to" });
        }
        Ok(())
    }
}
