//! SparseGPT's pass over a weight: arguments and checks.

use super::activations::square;
use super::{cpu, launch};
use crate::check::length;
use crate::element::Float;
use crate::error::{Error, Result};
use crate::pass::{self, Binder, Checked, DeviceSpace, Pass, Queue};
use crate::shape::Shape;
use crate::space::{Host, HostSpace, Input, Output, Space};

/// Columns of a block: what a row keeps at hand while it is swept.
pub(crate) const BLOCK: usize = 128;

/// Arguments of SparseGPT's sweep with weight update; see the [module](super).
///
/// Shapes: weight and updated `[N, K]`; upper `[K, K]`, of which the triangle from the diagonal on is read, and scale
/// `[K]`, both of a `Cholesky`; patterns `[N, K/4]`; codes as in [`ByScore`](super::ByScore); losses
/// `[N]`; all row-major. All outputs are overwritten. On a device every operand starts on a 16-byte boundary.
///
/// The factor must be finite; it is not looked at for that, but for the scale on the CPU. Where it is not, neither are
/// the weights that it meets.
///
/// The workspace holds the weight in `f32` while it changes: [`Sweep::workspace_bytes`], needed on a device; the CPU
/// uses what a few rows take, and pattern indices where only codes are asked for, and allocates that itself.
///
/// # Errors
/// When run: [`Error::NotGrouped`], [`Error::Overflow`], [`Error::Length`], and [`Error::Missing`] if nothing is to be
/// written; on a device [`Error::Workspace`]; on the CPU [`Error::Memory`], of the scale [`Error::Column`] and
/// [`Error::NoInput`], and, **after all outputs have been written**, [`Error::LeftRange`] where values of `updated` are
/// not finite in a row whose weights are.
#[derive(Debug)]
pub struct Sweep<'a, S: Space, W: Float> {
    pub(super) shape: Shape,
    pub(super) weight: S::Ref<'a, W>,
    pub(super) upper: S::Ref<'a, f32>,
    pub(super) scale: S::Ref<'a, f32>,
    pub(super) updated: Option<S::Mut<'a, W>>,
    pub(super) patterns: Option<S::Mut<'a, u8>>,
    pub(super) codes: Option<S::Mut<'a, u8>>,
    pub(super) losses: Option<S::Mut<'a, f64>>,
    pub(super) faults: Option<S::Mut<'a, u32>>,
    pub(super) workspace: Option<S::Mut<'a, u8>>,
}

impl<'a, S: Space, W: Float> Sweep<'a, S, W> {
    /// A sweep that as yet writes nothing.
    #[must_use]
    pub fn new(
        shape: Shape,
        weight: impl Input<'a, Space = S, Element = W>,
        upper: impl Input<'a, Space = S, Element = f32>,
        scale: impl Input<'a, Space = S, Element = f32>,
    ) -> Self {
        let (weight, upper, scale) = (weight.input(), upper.input(), scale.input());
        let (updated, patterns, codes, losses, faults, workspace) = (None, None, None, None, None, None);
        Self { shape, weight, upper, scale, updated, patterns, codes, losses, faults, workspace }
    }

    /// Writes the weight as updated, dropped values `+0.0`; the weight itself is never written.
    #[must_use]
    pub fn updated(mut self, updated: impl Output<'a, Space = S, Element = W>) -> Self {
        self.updated = Some(updated.output());
        self
    }

    /// Writes a byte a group: the pattern's index 0 to 5.
    #[must_use]
    pub fn patterns(mut self, patterns: impl Output<'a, Space = S, Element = u8>) -> Self {
        self.patterns = Some(patterns.output());
        self
    }

    /// Writes the packed codes.
    #[must_use]
    pub fn codes(mut self, codes: impl Output<'a, Space = S, Element = u8>) -> Self {
        self.codes = Some(codes.output());
        self
    }

    /// Writes the loss of each row, `Σ e²/2`, in `f64`. NaN where a group of the row has no mask.
    #[must_use]
    pub fn losses(mut self, losses: impl Output<'a, Space = S, Element = f64>) -> Self {
        self.losses = Some(losses.output());
        self
    }

    /// Counts the values of `updated` that are not finite: their number is **added** to this one element, so that a
    /// count can go over many weights and be read once. The CPU's executor adds nothing: it returns an error.
    #[must_use]
    pub fn faults(mut self, faults: impl Output<'a, Space = S, Element = u32>) -> Self {
        self.faults = Some(faults.output());
        self
    }

    /// Memory for the weight while it changes.
    #[must_use]
    pub fn workspace(mut self, workspace: impl Output<'a, Space = S, Element = u8>) -> Self {
        self.workspace = Some(workspace.output());
        self
    }
}

impl Sweep<'_, Host, f32> {
    /// Bytes of the workspace that a device needs for such a weight, of any type: the weight, a block's errors, and
    /// pattern indices.
    #[must_use]
    pub const fn workspace_bytes(shape: Shape) -> usize {
        let [weight, errors, patterns] = Self::workspace_parts(shape);
        weight.saturating_add(errors).saturating_add(patterns)
    }

    /// The parts of the workspace, in bytes. Those of the weight's groups and of a block's errors are multiples of 16.
    pub(super) const fn workspace_parts(shape: Shape) -> [usize; 3] {
        const EACH: usize = size_of::<f32>();
        [shape.weights().saturating_mul(EACH), shape.rows.saturating_mul(BLOCK * EACH), shape.groups()]
    }
}

impl<S: Space, W: Float> pass::Sealed for Sweep<'_, S, W> {}
impl<S: Space, W: Float> Pass<S> for Sweep<'_, S, W> {
    fn check(&self) -> Result<()> {
        let Self { shape, .. } = self;
        shape.check()?;
        length("weight", Some(&self.weight), shape.weights())?;
        length("upper", Some(&self.upper), square("upper", shape.cols)?)?;
        length("scale", Some(&self.scale), shape.cols)?;
        length("updated", self.updated.as_ref(), shape.weights())?;
        length("patterns", self.patterns.as_ref(), shape.groups())?;
        length("codes", self.codes.as_ref(), shape.packed_codes())?;
        length("losses", self.losses.as_ref(), shape.rows)?;
        length("faults", self.faults.as_ref(), 1)?;
        if self.updated.is_none() && self.patterns.is_none() && self.codes.is_none() && self.losses.is_none() {
            return Err(Error::Missing { what: "a mask", missing: "no output was given to write it to" });
        }
        Ok(())
    }

    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace,
    {
        cpu::sweep(pass.into_inner())
    }

    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        launch::sweep(pass.inner(), binder, queue)
    }
}
