//! Swaps of kept and dropped weights after a one-shot choice: arguments and checks.

use super::activations::square;
use super::{cpu, launch};
use crate::check::length;
use crate::element::Float;
use crate::error::{Error, Result};
use crate::pass::{self, Binder, Checked, DeviceSpace, Pass, Queue};
use crate::shape::Shape;
use crate::space::{Host, HostSpace, Input, Output, Space};

/// A swap lowers a row's loss by more than this share of its loss before the first, which is above what rounding makes
/// of a change: so no row goes round in circles.
pub(crate) const LEAST: f32 = 1.0 / (1 << 20) as f32;
/// Sums that a row's loss is made of: group g adds to number g modulo this. The threads of a block.
pub(crate) const SUMS: usize = 256;

/// Arguments of swaps in a mask; see the [module](super).
///
/// Shapes: weight and masked `[N, K]`; hessian `[K, K]`, a [`Hessian`](super::Hessian) or any multiple of `XᵀX`;
/// patterns `[N, K/4]`; codes, before and after, as in [`ByScore`](super::ByScore); losses and the number of swaps
/// `[N]`; all row-major. All outputs are overwritten. On a device every operand starts on a 16-byte boundary.
///
/// The workspace holds `H r` of each row while it changes: [`Swaps::workspace_bytes`], needed on a device; the CPU uses
/// what a few rows take, and allocates that itself.
///
/// # Errors
/// When run: [`Error::NotGrouped`], [`Error::Overflow`], [`Error::Length`], and [`Error::Missing`] if nothing is to be
/// written; on a device [`Error::Workspace`]; on the CPU what [`check_hessian`](super::check_hessian) finds, and
/// [`Error::Memory`].
#[derive(Debug)]
pub struct Swaps<'a, S: Space, W: Float> {
    pub(super) shape: Shape,
    pub(super) weight: S::Ref<'a, W>,
    pub(super) hessian: S::Ref<'a, f32>,
    pub(super) before: S::Ref<'a, u8>,
    pub(super) limit: u32,
    pub(super) masked: Option<S::Mut<'a, W>>,
    pub(super) patterns: Option<S::Mut<'a, u8>>,
    pub(super) codes: Option<S::Mut<'a, u8>>,
    pub(super) losses_before: Option<S::Mut<'a, f64>>,
    pub(super) losses: Option<S::Mut<'a, f64>>,
    pub(super) swaps: Option<S::Mut<'a, u32>>,
    pub(super) workspace: Option<S::Mut<'a, u8>>,
}

impl<'a, S: Space, W: Float> Swaps<'a, S, W> {
    /// Swaps in the mask that these codes are, to a local optimum.
    #[must_use]
    pub fn new(
        shape: Shape,
        weight: impl Input<'a, Space = S, Element = W>,
        hessian: impl Input<'a, Space = S, Element = f32>,
        codes: impl Input<'a, Space = S, Element = u8>,
    ) -> Self {
        Self {
            shape,
            weight: weight.input(),
            hessian: hessian.input(),
            before: codes.input(),
            limit: u32::try_from(shape.cols).unwrap_or(u32::MAX),
            masked: None,
            patterns: None,
            codes: None,
            losses_before: None,
            losses: None,
            swaps: None,
            workspace: None,
        }
    }

    /// At most so many swaps a row, 0 for none. Else as many as the row has weights, which none has been seen to need:
    /// a tenth of that is common.
    #[must_use]
    pub const fn limit(mut self, swaps: u32) -> Self {
        self.limit = swaps;
        self
    }

    /// Writes `W∘M`.
    #[must_use]
    pub fn masked(mut self, masked: impl Output<'a, Space = S, Element = W>) -> Self {
        self.masked = Some(masked.output());
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

    /// Writes the loss of each row as it was, `½ rᵀHr` with r the dropped weights, in `f64`. NaN where a group of the
    /// row has no mask.
    #[must_use]
    pub fn losses_before(mut self, losses: impl Output<'a, Space = S, Element = f64>) -> Self {
        self.losses_before = Some(losses.output());
        self
    }

    /// Writes the loss of each row after the swaps.
    #[must_use]
    pub fn losses(mut self, losses: impl Output<'a, Space = S, Element = f64>) -> Self {
        self.losses = Some(losses.output());
        self
    }

    /// Writes how many swaps each row had.
    #[must_use]
    pub fn swaps(mut self, swaps: impl Output<'a, Space = S, Element = u32>) -> Self {
        self.swaps = Some(swaps.output());
        self
    }

    /// Memory for what is kept of a row while it changes.
    #[must_use]
    pub fn workspace(mut self, workspace: impl Output<'a, Space = S, Element = u8>) -> Self {
        self.workspace = Some(workspace.output());
        self
    }
}

impl Swaps<'_, Host, f32> {
    /// Bytes of the workspace that a device needs for such a weight, of any type: `H r` of each row in `f32`, the
    /// Hessian's groups, and pattern indices.
    #[must_use]
    pub const fn workspace_bytes(shape: Shape) -> usize {
        let [products, groups, patterns] = Self::workspace_parts(shape);
        products.saturating_add(groups).saturating_add(patterns)
    }

    /// The parts of the workspace, in bytes; the first two are multiples of 16.
    pub(super) const fn workspace_parts(shape: Shape) -> [usize; 3] {
        const EACH: usize = size_of::<f32>();
        [shape.weights().saturating_mul(EACH), shape.cols.saturating_mul(3 * EACH), shape.groups()]
    }
}

impl<S: Space, W: Float> pass::Sealed for Swaps<'_, S, W> {}
impl<S: Space, W: Float> Pass<S> for Swaps<'_, S, W> {
    fn check(&self) -> Result<()> {
        let Self { shape, .. } = self;
        shape.check()?;
        length("weight", Some(&self.weight), shape.weights())?;
        length("hessian", Some(&self.hessian), square("the Hessian", shape.cols)?)?;
        length("codes before", Some(&self.before), shape.packed_codes())?;
        length("masked", self.masked.as_ref(), shape.weights())?;
        length("patterns", self.patterns.as_ref(), shape.groups())?;
        length("codes", self.codes.as_ref(), shape.packed_codes())?;
        length("losses before", self.losses_before.as_ref(), shape.rows)?;
        length("losses", self.losses.as_ref(), shape.rows)?;
        length("swaps", self.swaps.as_ref(), shape.rows)?;
        let no_mask = self.masked.is_none() && self.patterns.is_none() && self.codes.is_none();
        if no_mask && self.losses_before.is_none() && self.losses.is_none() && self.swaps.is_none() {
            return Err(Error::Missing { what: "a mask", missing: "no output was given to write it to" });
        }
        Ok(())
    }

    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace,
    {
        cpu::swaps(pass.into_inner())
    }

    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        launch::swaps(pass.inner(), binder, queue)
    }
}
