//! Decode: a feed-forward of few tokens, of which rows of neurons that are off are not read. Arguments and checks.

use super::{Activation, FeedForward, Plan, cpu, launch, mask};
use crate::check::length;
use crate::element::{Factor, Float};
use crate::error::{Error, Result};
use crate::pass::{self, Binder, Checked, DeviceSpace, Pass, Queue};
use crate::space::{HostSpace, Input, Output, Space};
use std::fmt;

/// Arguments of `Y = h down`, `h = a(X gateᵀ) ⊙ b(X upᵀ)` for 1 to [`MAX_TOKENS`](super::MAX_TOKENS) tokens; with
/// memory that an executor has allocated, [`Plan::decode`] makes them.
///
/// Shapes, row-major: x and y `[T, d]`, weights as [`FeedForward`] has them; given and mask `[T, ⌈f/32⌉]`, lost `[T]`, rows
/// `[3]`. y is overwritten, or added to; masks and counts are overwritten. T = 0 is nothing to do, and f = 0 makes
/// zeros. On a device every operand starts on a 16-byte boundary; accesses are of 16 bytes where d is a multiple of
/// 8 (of 16, where gate and up are 2:4), else of an element.
///
/// # Errors
/// When run: [`Error::Overflow`]; [`Error::NotGrouped`] for 2:4 weights if d is no multiple of 4; [`Error::Length`];
/// [`Error::Scalar`] for a threshold as [`Forward`](super::Forward) has it; [`Error::Unsupported`] for more tokens, for a
/// weight that is 2:4 along its neurons, and for `f32` that is compressed; [`Error::Unplanned`] unless they are what their
/// plan is for. On the CPU [`Error::IllegalCode`] for a weight with a code in a row that was read which is not legal; y,
/// masks and counts are as before then. On a device [`Error::Missing`] without a plan, [`Error::Workspace`],
/// [`Error::Unsupported`] for `f32`, and [`Error::Overflow`] for more than [`MAX_NEURONS`](super::MAX_NEURONS) neurons.
pub struct Decode<'a, S: Space, L: Float + Factor> {
    pub(super) tokens: usize,
    pub(super) activation: Activation,
    pub(super) weights: FeedForward<'a, S, L>,
    pub(super) x: S::Ref<'a, L>,
    pub(super) y: S::Mut<'a, L>,
    pub(super) accumulate: bool,
    pub(super) given: Option<S::Ref<'a, u32>>,
    pub(super) mask: Option<S::Mut<'a, u32>>,
    pub(super) lost: Option<S::Mut<'a, u32>>,
    pub(super) rows: Option<S::Mut<'a, u32>>,
    pub(super) plan: Option<Plan<L>>,
    pub(super) workspace: Option<S::Mut<'a, u8>>,
}

impl<'a, S: Space, L: Float + Factor> Decode<'a, S, L> {
    /// `tokens` rows of `x` through the weights.
    #[must_use]
    pub fn new(
        weights: &'a FeedForward<'_, S, L>,
        tokens: usize,
        activation: Activation,
        x: impl Input<'a, Space = S, Element = L>,
        y: impl Output<'a, Space = S, Element = L>,
    ) -> Self {
        let (weights, x, y) = (weights.share(), x.input(), y.output());
        let (given, mask, lost, rows) = (None, None, None, None);
        Self {
            tokens,
            activation,
            weights,
            x,
            y,
            accumulate: false,
            given,
            mask,
            lost,
            rows,
            plan: None,
            workspace: None,
        }
    }

    /// Adds to y, which is then read: for a residual, and for one of several experts. One rounding, of the sum.
    #[must_use]
    pub const fn accumulate(mut self) -> Self {
        self.accumulate = true;
        self
    }

    /// No neuron is on but these, a predictor's choice: gate rows are read of those alone that some token has. What the
    /// activation makes of their gates still decides.
    #[must_use]
    pub fn given(mut self, given: impl Input<'a, Space = S, Element = u32>) -> Self {
        self.given = Some(given.input());
        self
    }

    /// Writes which neurons were on.
    #[must_use]
    pub fn mask(mut self, mask: impl Output<'a, Space = S, Element = u32>) -> Self {
        self.mask = Some(mask.output());
        self
    }

    /// Writes of how many neurons of each token gate or product was no number, and so off.
    #[must_use]
    pub fn lost(mut self, lost: impl Output<'a, Space = S, Element = u32>) -> Self {
        self.lost = Some(lost.output());
        self
    }

    /// Writes of how many neurons the rows of gate, up and down were read.
    #[must_use]
    pub fn rows(mut self, rows: impl Output<'a, Space = S, Element = u32>) -> Self {
        self.rows = Some(rows.output());
        self
    }

    /// How it is done. The CPU skips without one.
    #[must_use]
    pub const fn plan(mut self, plan: Plan<L>) -> Self {
        self.plan = Some(plan);
        self
    }

    /// Memory to work in, at least [`Plan::workspace_bytes`]; its content is lost. The CPU needs none.
    #[must_use]
    pub fn workspace(mut self, workspace: impl Output<'a, Space = S, Element = u8>) -> Self {
        self.workspace = Some(workspace.output());
        self
    }
}

impl<S: Space, L: Float + Factor> fmt::Debug for Decode<'_, S, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tokens, weights, activation) = (&self.tokens, &self.weights, &self.activation);
        let mut to = f.debug_struct("Decode");
        to.field("tokens", tokens).field("activation", activation).field("weights", weights).finish_non_exhaustive()
    }
}

impl<S: Space, L: Float + Factor> pass::Sealed for Decode<'_, S, L> {}
impl<S: Space, L: Float + Factor> Pass<S> for Decode<'_, S, L> {
    fn check(&self) -> Result<()> {
        let [width, neurons] = self.weights.size;
        super::tokens(self.tokens)?;
        self.activation.check()?;
        self.weights.check()?;
        let elements = super::elements::<L>(self.tokens, width)?;
        length("x", Some(&self.x), elements)?;
        length("y", Some(&self.y), elements)?;
        mask("given", self.given.as_ref(), self.tokens, neurons)?;
        mask("mask", self.mask.as_ref(), self.tokens, neurons)?;
        length("lost", self.lost.as_ref(), self.tokens)?;
        length("rows", self.rows.as_ref(), 3)?;
        match self.plan {
            Some(plan) if (plan.tokens(), plan.size()) != (self.tokens, self.weights.size) => {
                let say = |tokens, [width, neurons]: [usize; 2]| format!("{tokens} tokens, [{width}, {neurons}]");
                let planned = say(plan.tokens(), plan.size());
                Err(Error::Unplanned { planned, given: say(self.tokens, self.weights.size) })
            }
            _ => Ok(()),
        }
    }

    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace,
    {
        cpu::decode(pass.into_inner())
    }

    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        launch::decode(pass.inner(), binder, queue)
    }
}
