//! The step of the logits, from the operands of the backward pass.

use super::layer::nowhere;
use super::{Layer, Masks, Plan, Saved, cpu, launch};
use crate::check::{self, length};
use crate::element::{Float, Logit};
use crate::error::{Error, Result};
use crate::learn::{self, Statistics};
use crate::pass::{self, Binder, Checked, DeviceSpace, Pass, Queue};
use crate::sample::{self, Kind, Sampling, Source};
use crate::shape::Shard;
use crate::space::{HostSpace, Input, Output, Raw, Space};

/// Arguments of a training step in one pass: from `dy` and `x` to `dL/d(W∘M)`, from that to the gradient of the logits,
/// and by it a step of AdamW. Neither gradient is kept, and where the plan says so neither reaches memory.
///
/// Shapes: `logits` and moments `[N, K/4, 6]`, updated in place; `weight [N, K]`, `dy [T, N]`, `x [T, K]`, `dx [T, K]`,
/// which is overwritten. Masks are of the plan's kind, soft or hard. Stochastic rounding takes the seed and the draw of
/// the sampling, as in [`learn::Fused`]. On a device every operand starts on a 16-byte boundary.
///
/// On one executor logits and moments become, to the bit, what [`Backward::logit_gradient`](super::Backward) by the same
/// route and [`learn::Update`] make of them; by panels also what [`Backward::weight_gradient`](super::Backward) in `f32`
/// and [`learn::Fused`] do, if the same kernel makes `G` in as many parts. Groups are skipped as in [`learn`].
///
/// A step takes the place of the backward pass, so nothing else may need the logits as they were: the gradient of the
/// input comes from here too.
///
/// # Errors
/// When run: [`Error::Scalar`], [`Error::Shard`], [`Error::Length`]; [`Error::Missing`] for a plan of argmax or frozen
/// masks, which have no gradient, and for codes that masks do not have; [`Error::Unplanned`] for what is saved or
/// moments, where the plan was made for others ([`Plan::with_moments_of_eight_bits`]). On a device, [`Error::Workspace`] too.
pub struct Step<'a, S: Space, L: Logit, W: Float> {
    pub(super) plan: Plan<L, W>,
    pub(super) shard: Shard,
    pub(super) sampling: Sampling,
    pub(super) logits: S::Mut<'a, L>,
    pub(super) weight: S::Ref<'a, W>,
    pub(super) dy: S::Ref<'a, W>,
    pub(super) x: S::Ref<'a, W>,
    pub(super) step: learn::Step<'a, S>,
    pub(super) regulariser: f32,
    pub(super) saved: Saved<S::Ref<'a, W>, S::Ref<'a, u8>>,
    pub(super) dx: Option<S::Mut<'a, W>>,
    pub(super) norm_squares: Option<S::Mut<'a, f64>>,
    pub(super) statistics: Option<S::Mut<'a, Statistics>>,
    pub(super) workspace: Option<S::Mut<'a, u8>>,
}

impl<'a, S: Space, L: Logit, W: Float> Step<'a, S, L, W> {
    /// A step of the logits that the forward pass sampled so, with memory of the caller's: [`Plan::step`] takes a
    /// [`Scratch`](super::Scratch) instead.
    #[must_use]
    pub fn new(
        plan: &Plan<L, W>,
        sampling: Sampling,
        logits: impl Output<'a, Space = S, Element = L>,
        weight: impl Input<'a, Space = S, Element = W>,
        dy: impl Input<'a, Space = S, Element = W>,
        x: impl Input<'a, Space = S, Element = W>,
        step: learn::Step<'a, S>,
    ) -> Self {
        Self {
            plan: *plan,
            shard: Shard::whole(plan.problem().shape.cols as u64),
            sampling,
            logits: logits.output(),
            weight: weight.input(),
            dy: dy.input(),
            x: x.input(),
            step,
            regulariser: 0.0,
            saved: Saved::Nothing,
            dx: None,
            norm_squares: None,
            statistics: None,
            workspace: None,
        }
    }

    /// Says that the weight is a slice of a larger one, as in [`Layer::shard`].
    #[must_use]
    pub fn shard(mut self, shard: Shard) -> Self {
        self.shard = shard;
        self
    }

    /// The coefficient λ of `−λ Σ (W∘M)²` in the loss, finite; 0 unless given. It acts on the logits alone.
    #[must_use]
    pub fn regulariser(mut self, lambda: f32) -> Self {
        self.regulariser = lambda;
        self
    }

    /// Overwrites `dx` with `dY (W∘M)`, of the logits before they move. Unless the forward pass saved something, the
    /// mask is sampled again.
    #[must_use]
    pub fn input_gradient(mut self, dx: impl Output<'a, Space = S, Element = W>) -> Self {
        self.dx = Some(dx.output());
        self
    }

    /// `W∘M` as [`Forward::save_masked`](super::Forward::save_masked) left it.
    #[must_use]
    pub fn use_masked(mut self, masked: impl Input<'a, Space = S, Element = W>) -> Self {
        self.saved = Saved::Masked(masked.input());
        self
    }

    /// The codes as [`Forward::save_codes`](super::Forward::save_codes) left them.
    #[must_use]
    pub fn use_codes(mut self, codes: impl Input<'a, Space = S, Element = u8>) -> Self {
        self.saved = Saved::Codes(codes.input());
        self
    }

    /// Adds the squares of the logits' gradient, not clipped, to the first of [`learn::NORM_SLOTS`] elements; the others
    /// may be used as workspace.
    #[must_use]
    pub fn norm_squares(mut self, norm_squares: impl Output<'a, Space = S, Element = f64>) -> Self {
        self.norm_squares = Some(norm_squares.output());
        self
    }

    /// Writes [`Statistics`] into the first of [`Statistics::SLOTS`] elements; the others may be used as workspace.
    #[must_use]
    pub fn statistics(mut self, statistics: impl Output<'a, Space = S, Element = Statistics>) -> Self {
        self.statistics = Some(statistics.output());
        self
    }

    /// Memory to work in, at least [`Plan::workspace_bytes`]; its content is lost. The CPU executor needs none.
    #[must_use]
    pub fn workspace(mut self, workspace: impl Output<'a, Space = S, Element = u8>) -> Self {
        self.workspace = Some(workspace.output());
        self
    }
}

impl<L: Logit, W: Float> Plan<L, W> {
    /// The kind of masks whose logits can make a step.
    pub(super) fn step_kind(&self) -> Result<Kind> {
        let Masks::Sampled(kind) = self.masks() else {
            return Err(Error::Missing { what: "a step", missing: "frozen masks have no logits" });
        };
        sample::has_gradient(kind).map(|()| kind)
    }
}

impl<S: Space, L: Logit, W: Float> pass::Sealed for Step<'_, S, L, W> {}
impl<S: Space, L: Logit, W: Float> Pass<S> for Step<'_, S, L, W> {
    fn check(&self) -> Result<()> {
        let (problem, masks) = (self.plan.problem(), self.plan.masks());
        let (kind, sampling) = (self.plan.step_kind()?, self.sampling);
        let source = Source::Sampled { kind, sampling, logits: nowhere(&self.logits) };
        Layer::<Raw, L, W>::of(problem.shape, source, nowhere(&self.weight)).shard(self.shard).check()?;
        check::finite("regulariser", self.regulariser)?;
        self.saved.check(problem.shape, masks)?;
        self.plan.check(problem.shape, masks, self.saved.keep())?;
        length("dy", Some(&self.dy), problem.outputs())?;
        length("x", Some(&self.x), problem.inputs())?;
        length("dx", self.dx.as_ref(), problem.inputs())?;
        self.step.check(problem.shape)?;
        if self.step.has_eight_bits() != self.plan.has_eight_bits() {
            let moments = |eight| format!("a step with moments of {}", if eight { "eight bits" } else { "f32" });
            let [planned, given] = [self.plan.has_eight_bits(), self.step.has_eight_bits()].map(moments);
            return Err(Error::Unplanned { planned, given });
        }
        learn::check_sums::<S>(self.norm_squares.as_ref(), self.statistics.as_ref())
    }

    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace,
    {
        cpu::step(pass.into_inner())
    }

    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        launch::step(pass.inner(), binder, queue)
    }
}
