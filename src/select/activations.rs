//! What activations say of a weight's columns: arguments and checks.

use crate::check::length;
use crate::element::Float;
use crate::error::{Error, Result};
use crate::shape::Shape;
use crate::space::Space;

/// Tokens whose squares are summed in `f32`.
pub(crate) const RUN: usize = 16;
/// Runs that are summed before the running sum sees them.
pub(crate) const RUNS: usize = 8;
/// Tokens of a slab.
pub(crate) const SLAB: usize = RUN * RUNS;

/// Arguments of summing the squares of columns, for Wanda's norms.
///
/// Shapes: `x [T, K]` row-major; sums and norms `[K]`. The squares are **added** to `sums` (start from zeros, and give
/// every batch of the calibration data); norms, `sqrt(sums)` after that, are overwritten. The work space is used on a
/// device alone, which needs [`Squares::workspace_len`] elements of it.
#[derive(Debug)]
pub struct Squares<'a, S: Space, X: Float> {
    pub(crate) tokens: usize,
    pub(crate) cols: usize,
    pub(crate) x: S::Ref<'a, X>,
    pub(crate) sums: S::Mut<'a, f64>,
    pub(crate) norms: Option<S::Mut<'a, f32>>,
    pub(crate) workspace: Option<S::Mut<'a, f64>>,
}

impl<'a, S: Space, X: Float> Squares<'a, S, X> {
    /// Of a batch of `tokens` activations with `cols` columns.
    #[must_use]
    pub fn new(tokens: usize, cols: usize, x: S::Ref<'a, X>, sums: S::Mut<'a, f64>) -> Self {
        Self { tokens, cols, x, sums, norms: None, workspace: None }
    }

    /// Writes the norms too, in `f32`.
    #[must_use]
    pub fn norms(mut self, norms: S::Mut<'a, f32>) -> Self {
        self.norms = Some(norms);
        self
    }

    /// Memory for the sums of parts of the batch.
    #[must_use]
    pub fn workspace(mut self, workspace: S::Mut<'a, f64>) -> Self {
        self.workspace = Some(workspace);
        self
    }

    /// Elements of the work space that a device needs for such a batch.
    #[must_use]
    pub const fn workspace_len(tokens: usize, cols: usize) -> usize {
        tokens.div_ceil(SLAB).saturating_mul(cols)
    }

    /// Checks shapes and lengths; every executor does it first.
    ///
    /// # Errors
    /// [`Error::NotGrouped`], [`Error::Overflow`], [`Error::Length`].
    pub fn check(&self) -> Result<()> {
        let shape = activations(self.tokens, self.cols)?;
        length("x", Some(&self.x), shape.weights())?;
        length("sums", Some(&self.sums), self.cols)?;
        length("norms", self.norms.as_ref(), self.cols)
    }
}

/// Arguments of accumulating the Hessian of SparseGPT's layer-wise loss, `H = 2/n Σ x xᵀ` over all n tokens seen.
///
/// Shapes: `x [T, K]` and `hessian [K, K]`, row-major. After the call, `hessian` is that of `before + T` tokens: what
/// it held counts as the Hessian of the `before` tokens of earlier batches, and with `before` 0 is overwritten. It is
/// exactly symmetric; with no tokens at all it is zero.
#[derive(Debug)]
pub struct Hessian<'a, S: Space, X: Float> {
    pub(crate) tokens: usize,
    pub(crate) cols: usize,
    pub(crate) x: S::Ref<'a, X>,
    pub(crate) before: u64,
    pub(crate) hessian: S::Mut<'a, f32>,
}

impl<'a, S: Space, X: Float> Hessian<'a, S, X> {
    /// Adds a batch of `tokens` activations with `cols` columns to those `before`.
    #[must_use]
    pub fn new(tokens: usize, cols: usize, x: S::Ref<'a, X>, before: u64, hessian: S::Mut<'a, f32>) -> Self {
        Self { tokens, cols, x, before, hessian }
    }

    /// Checks shapes and lengths; every executor does it first.
    ///
    /// # Errors
    /// [`Error::NotGrouped`], [`Error::Overflow`], [`Error::Length`].
    pub fn check(&self) -> Result<()> {
        let shape = activations(self.tokens, self.cols)?;
        length("x", Some(&self.x), shape.weights())?;
        length("hessian", Some(&self.hessian), square("the Hessian", self.cols)?)
    }
}

/// The shape of a batch, checked.
fn activations(tokens: usize, cols: usize) -> Result<Shape> {
    let shape = Shape::new(tokens, cols);
    match shape.check() {
        Err(Error::NotGrouped { cols, .. }) => Err(Error::NotGrouped { what: "the batch of activations", cols }),
        Err(Error::Overflow { rows, cols, .. }) => Err(Error::Overflow { what: "x", rows, cols }),
        _ => Ok(shape),
    }
}

/// Elements of a `[K, K]` matrix whose size in `f64` fits the address space.
pub(crate) fn square(what: &'static str, cols: usize) -> Result<usize> {
    match cols.checked_mul(cols) {
        Some(elements) if elements <= isize::MAX as usize / 8 => Ok(elements),
        _ => Err(Error::Overflow { what, rows: cols as u64, cols: cols as u64 }),
    }
}
