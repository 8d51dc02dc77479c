//! The forward pass.

use super::{Keep, Layer, Plan, Saved, cpu, launch};
use crate::check::length;
use crate::element::{Float, Logit};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::pass::{self, Binder, Checked, DeviceSpace, Pass, Queue};
use crate::space::{HostSpace, Input, Output, Space};

/// Arguments of the forward pass.
///
/// Shapes: `x [T, K]`, `y [T, N]`, which is overwritten with `X (W∘M)ᵀ`. On a device every operand starts on a 16-byte
/// boundary.
///
/// # Errors
/// When run: [`Error::NotGrouped`], [`Error::Overflow`], [`Error::Shard`], [`Error::Scalar`] and [`Error::Length`];
/// [`Error::Missing`] for codes that the masks do not have; [`Error::Unplanned`] for a layer, or for what is saved,
/// that the plan was not made for. On a device, [`Error::Workspace`] too.
pub struct Forward<'a, S: Space, L: Logit, W: Float> {
    pub(super) plan: Plan<L, W>,
    pub(super) layer: Layer<'a, S, L, W>,
    pub(super) x: S::Ref<'a, W>,
    pub(super) y: S::Mut<'a, W>,
    pub(super) saved: Saved<S::Mut<'a, W>, S::Mut<'a, u8>>,
    /// `W∘M`, if it is there already.
    pub(super) made: Option<S::Ref<'a, W>>,
    pub(super) workspace: Option<S::Mut<'a, u8>>,
}

impl<'a, S: Space, L: Logit, W: Float> Forward<'a, S, L, W> {
    /// The plan's tokens, rows of `x`, through the layer, with memory of the caller's: [`Plan::forward`] takes a
    /// [`Scratch`](super::Scratch) instead.
    #[must_use]
    pub fn new(
        plan: &Plan<L, W>,
        layer: &'a Layer<'_, S, L, W>,
        x: impl Input<'a, Space = S, Element = W>,
        y: impl Output<'a, Space = S, Element = W>,
    ) -> Self {
        let (x, y) = (x.input(), y.output());
        Self { plan: *plan, layer: layer.share(), x, y, saved: Saved::Nothing, made: None, workspace: None }
    }

    /// Overwrites `masked [N, K]` with `W∘M`, rounded once: for the backward pass, or for anything else. For a plan
    /// with [`Keep::Masked`].
    #[must_use]
    pub fn save_masked(mut self, masked: impl Output<'a, Space = S, Element = W>) -> Self {
        (self.saved, self.made) = (Saved::Masked(masked.output()), None);
        self
    }

    /// Overwrites `codes` (two groups a byte) with the codes of a hard or argmax mask, for the backward pass. For a
    /// plan with [`Keep::Codes`].
    #[must_use]
    pub fn save_codes(mut self, codes: impl Output<'a, Space = S, Element = u8>) -> Self {
        (self.saved, self.made) = (Saved::Codes(codes.output()), None);
        self
    }

    /// Takes `masked [N, K]` for `W∘M`, as [`crate::mask`] has made it of the same layer before this pass, and makes no
    /// mask: it is read, and stays for the backward pass. For a plan with [`Keep::Masked`]; only if that was told to
    /// take [`OutputRoute::Codes`](super::OutputRoute::Codes), masks are made all the same, and this is not read.
    ///
    /// The backward pass must be given it too ([`Backward::use_masked`](super::Backward::use_masked)): a
    /// [`Scratch`](super::Scratch) has what the forward pass would have left, not this.
    ///
    /// So a mask can be made ahead of its product, on another stream too, or once for several products:
    ///
    /// ```
    /// use twofour::mask::{self, Kind, Sampling};
    /// use twofour::matmul::{Forward, Keep, Layer};
    /// use twofour::{Cpu, Executor, Shape};
    ///
    /// let shape = Shape::new(1, 4);
    /// let (logits, weight, x) = ([0.0, 0.1, 0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0], [1.0, 10.0, 100.0, 1000.0]);
    /// let sampling = Sampling { seed: 1, draw: 0, kappa: 1000.0, tau: 1.0 };
    ///
    /// let mut masked = [0.0_f32; 4];
    /// let ahead = mask::Forward::new(shape, Kind::Hard, sampling, &logits);
    /// Cpu.run(ahead.weight(&weight).masked(&mut masked))?;
    ///
    /// let layer = Layer::sampled(shape, Kind::Hard, sampling, &logits, &weight);
    /// let plan = layer.plan(&Cpu, 1, Keep::Masked)?;
    /// let mut y = [0.0];
    /// Cpu.run(Forward::new(&plan, &layer, &x, &mut y).use_masked(&masked))?;
    /// assert_eq!(y, [301.0]);
    /// # Ok::<(), twofour::Error>(())
    /// ```
    #[must_use]
    pub fn use_masked(mut self, masked: impl Input<'a, Space = S, Element = W>) -> Self {
        (self.saved, self.made) = (Saved::Nothing, Some(masked.input()));
        self
    }

    /// Memory to work in, at least [`Plan::workspace_bytes`]; its content is lost. The CPU executor needs none.
    #[must_use]
    pub fn workspace(mut self, workspace: impl Output<'a, Space = S, Element = u8>) -> Self {
        self.workspace = Some(workspace.output());
        self
    }

    /// What the backward pass will find, whoever made it.
    fn keep(&self) -> Keep {
        if self.made.is_some() { Keep::Masked } else { self.saved.keep() }
    }
}

impl<S: Space, L: Logit, W: Float> pass::Sealed for Forward<'_, S, L, W> {}
impl<S: Space, L: Logit, W: Float> Pass<S> for Forward<'_, S, L, W> {
    fn check(&self) -> Result<()> {
        let problem = self.plan.problem();
        self.layer.check()?;
        self.saved.check(self.layer.shape, self.layer.masks())?;
        length("masked", self.made.as_ref(), self.layer.shape.weights())?;
        self.plan.check(self.layer.shape, self.layer.masks(), self.keep())?;
        length("x", Some(&self.x), problem.inputs())?;
        length("y", Some(&self.y), problem.outputs())
    }

    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace,
    {
        cpu::forward(pass.into_inner())
    }

    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        launch::forward(pass.inner(), binder, queue)
    }
}
