//! What activations say of a weight's columns: arguments and checks.

use super::{cpu, launch};
use crate::check::{length, zeros};
use crate::element::Float;
use crate::error::{Error, Result};
use crate::pass::{self, Binder, Checked, DeviceSpace, Pass, Queue};
use crate::shape::Shape;
use crate::space::{Host, HostSpace, Input, Output, Space};

/// Tokens whose squares are summed in `f32`.
pub(crate) const RUN: usize = 16;
/// Runs that are summed before the running sum sees them.
pub(crate) const RUNS: usize = 8;
/// Tokens of a slab.
pub(crate) const SLAB: usize = RUN * RUNS;

/// Arguments of summing the squares of columns, for Wanda's norms.
///
/// Shapes: `x [T, K]` row-major; sums and norms `[K]`. The squares are **added** to `sums` (start from zeros, and give
/// every batch of the calibration data); norms, `sqrt(sums)` after that, are overwritten. Squares and norms are of `f32`
/// and leave its range where activations are beyond 1e19: such a norm is infinite, and
/// [`ColumnScale`](super::ColumnScale) refuses it. The workspace is used on a device alone, which needs
/// [`Squares::workspace_bytes`] of it.
///
/// # Errors
/// When run: [`Error::NotGrouped`], [`Error::Overflow`], [`Error::Length`]; on a device [`Error::Workspace`].
#[derive(Debug)]
pub struct Squares<'a, S: Space, X: Float> {
    pub(super) tokens: usize,
    pub(super) cols: usize,
    pub(super) x: S::Ref<'a, X>,
    pub(super) sums: S::Mut<'a, f64>,
    pub(super) norms: Option<S::Mut<'a, f32>>,
    pub(super) workspace: Option<S::Mut<'a, u8>>,
}

impl<'a, S: Space, X: Float> Squares<'a, S, X> {
    /// Of a batch of `tokens` activations with `cols` columns.
    #[must_use]
    pub fn new(
        tokens: usize,
        cols: usize,
        x: impl Input<'a, Space = S, Element = X>,
        sums: impl Output<'a, Space = S, Element = f64>,
    ) -> Self {
        Self { tokens, cols, x: x.input(), sums: sums.output(), norms: None, workspace: None }
    }

    /// Writes the norms too, in `f32`.
    #[must_use]
    pub fn norms(mut self, norms: impl Output<'a, Space = S, Element = f32>) -> Self {
        self.norms = Some(norms.output());
        self
    }

    /// Memory for the sums of parts of the batch.
    #[must_use]
    pub fn workspace(mut self, workspace: impl Output<'a, Space = S, Element = u8>) -> Self {
        self.workspace = Some(workspace.output());
        self
    }
}

impl Squares<'_, Host, f32> {
    /// Bytes of the workspace that a device needs for such a batch, of any type.
    #[must_use]
    pub const fn workspace_bytes(tokens: usize, cols: usize) -> usize {
        tokens.div_ceil(SLAB).saturating_mul(cols).saturating_mul(size_of::<f64>())
    }
}

impl<S: Space, X: Float> pass::Sealed for Squares<'_, S, X> {}
impl<S: Space, X: Float> Pass<S> for Squares<'_, S, X> {
    fn check(&self) -> Result<()> {
        let shape = activations(self.tokens, self.cols)?;
        length("x", Some(&self.x), shape.weights())?;
        length("sums", Some(&self.sums), self.cols)?;
        length("norms", self.norms.as_ref(), self.cols)
    }

    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace,
    {
        cpu::squares(pass.into_inner());
        Ok(())
    }

    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        launch::squares(pass.inner(), binder, queue)
    }
}

/// Arguments of accumulating the Hessian of SparseGPT's layer-wise loss, `H = 2/n Σ x xᵀ` over all n tokens seen.
///
/// Shapes: `x [T, K]` and `hessian [K, K]`, row-major. After the call, `hessian` is that of `before + T` tokens: what
/// it held counts as the Hessian of the `before` tokens of earlier batches, and with `before` 0 is overwritten. It is
/// exactly symmetric; with no tokens at all it is zero. It takes memory for up to 512 tokens in `f32`. On the CPU
/// alone.
///
/// # Errors
/// When run: [`Error::NotGrouped`], [`Error::Overflow`], [`Error::Length`], [`Error::Memory`].
#[derive(Debug)]
pub struct Hessian<'a, S: Space, X: Float> {
    pub(super) tokens: usize,
    pub(super) cols: usize,
    pub(super) x: S::Ref<'a, X>,
    pub(super) before: u64,
    pub(super) hessian: S::Mut<'a, f32>,
}

impl<'a, S: Space, X: Float> Hessian<'a, S, X> {
    /// Adds a batch of `tokens` activations with `cols` columns to those `before`.
    #[must_use]
    pub fn new(
        tokens: usize,
        cols: usize,
        x: impl Input<'a, Space = S, Element = X>,
        before: u64,
        hessian: impl Output<'a, Space = S, Element = f32>,
    ) -> Self {
        Self { tokens, cols, x: x.input(), before, hessian: hessian.output() }
    }
}

impl Hessian<'_, Host, f32> {
    /// A Hessian `[K, K]` of zeros to begin with, which for a wide layer may be more than there is memory for.
    ///
    /// # Errors
    /// [`Error::Overflow`], [`Error::Memory`].
    pub fn zeros(cols: usize) -> Result<Vec<f32>> {
        zeros("the Hessian", square("the Hessian", cols)?)
    }
}

impl<S: HostSpace, X: Float> pass::Sealed for Hessian<'_, S, X> {}
impl<S: HostSpace, X: Float> Pass<S> for Hessian<'_, S, X> {
    fn check(&self) -> Result<()> {
        let shape = activations(self.tokens, self.cols)?;
        length("x", Some(&self.x), shape.weights())?;
        length("hessian", Some(&self.hessian), square("the Hessian", self.cols)?)
    }

    fn execute(pass: Checked<Self>) -> Result<()> {
        cpu::hessian(pass.into_inner())
    }

    /// No space is both the host's and a device's.
    fn queue<'g>(_: &'g mut Checked<Self>, _: &mut Binder<'g, S>, _: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        Ok(())
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
