//! The backward pass.

use super::layer::nowhere;
use super::{Layer, Plan, Saved, cpu, launch};
use crate::check::length;
use crate::element::{Float, Logit};
use crate::error::{Error, Result};
use crate::mask;
use crate::pass::{self, Binder, Checked, DeviceSpace, Pass, Queue};
use crate::sample::{GradientOf, Source, WideOrOwn};
use crate::space::{HostSpace, Input, Output, Raw, RawSlice, Space};

/// The operands of [`Backward::logit_gradient`].
pub(super) struct ToLogits<'a, S: Space, W: Float> {
    pub(super) x: S::Ref<'a, W>,
    pub(super) logit_gradient: S::Mut<'a, f32>,
    pub(super) accumulate: bool,
}

/// The operands of [`Backward::weight_gradient`].
pub(super) struct ToWeight<'a, S: Space, W: Float> {
    pub(super) x: S::Ref<'a, W>,
    pub(super) weight_gradient: WideOrOwn<S::Mut<'a, f32>, S::Mut<'a, W>>,
}

/// Arguments of the backward pass: `dy`, and which gradients are wanted.
///
/// Shapes: `dy [T, N]`, `dx` and `x [T, K]`, `weight_gradient [N, K]`, `logit_gradient [N, K/4, 6]`. The layer must be that of the forward pass.
/// On a device every operand starts on a 16-byte boundary.
///
/// # Errors
/// When run: as [`Forward`](super::Forward); and [`Error::Missing`] if nothing is to be written, or for the logits'
/// gradient of argmax or frozen masks, which have none.
pub struct Backward<'a, S: Space, L: Logit, W: Float> {
    pub(super) plan: Plan<L, W>,
    pub(super) layer: Layer<'a, S, L, W>,
    pub(super) dy: S::Ref<'a, W>,
    pub(super) regulariser: f32,
    pub(super) saved: Saved<S::Ref<'a, W>, S::Ref<'a, u8>>,
    pub(super) dx: Option<S::Mut<'a, W>>,
    pub(super) to_weight: Option<ToWeight<'a, S, W>>,
    pub(super) to_logits: Option<ToLogits<'a, S, W>>,
    pub(super) workspace: Option<S::Mut<'a, u8>>,
}

impl<'a, S: Space, L: Logit, W: Float> Backward<'a, S, L, W> {
    /// A backward pass that as yet writes nothing, with memory of the caller's: [`Plan::backward`] takes a
    /// [`Scratch`](super::Scratch) instead.
    #[must_use]
    pub fn new(plan: &Plan<L, W>, layer: &'a Layer<'_, S, L, W>, dy: impl Input<'a, Space = S, Element = W>) -> Self {
        let (saved, dx, to_weight, to_logits, workspace) = (Saved::Nothing, None, None, None, None);
        let (plan, layer, dy) = (*plan, layer.share(), dy.input());
        Self { plan, layer, dy, regulariser: 0.0, saved, dx, to_weight, to_logits, workspace }
    }

    /// Overwrites `dx` with `dY (W∘M)`. Unless the forward pass saved something, the mask is sampled again.
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

    /// Overwrites `weight_gradient` with `G = dYᵀ X`, which is `dL/d(W∘M)` whatever the masks are: in `f32`, or rounded
    /// once to the weight's type. (`G∘M`, for a weight that learns too, [`mask::Backward::weight_gradient`] makes of it.)
    #[must_use]
    pub fn weight_gradient<G: GradientOf<W>>(
        mut self,
        x: impl Input<'a, Space = S, Element = W>,
        weight_gradient: impl Output<'a, Space = S, Element = G>,
    ) -> Self {
        let (x, weight_gradient) = (x.input(), G::wide_or_own::<S>(weight_gradient.output()));
        self.to_weight = Some(ToWeight { x, weight_gradient });
        self
    }

    /// Overwrites `logit_gradient` with `dL/dlogits`.
    #[must_use]
    pub fn logit_gradient(
        mut self,
        x: impl Input<'a, Space = S, Element = W>,
        logit_gradient: impl Output<'a, Space = S, Element = f32>,
    ) -> Self {
        let (x, logit_gradient) = (x.input(), logit_gradient.output());
        self.to_logits = Some(ToLogits { x, logit_gradient, accumulate: false });
        self
    }

    /// Adds `dL/dlogits` to `logit_gradient`.
    #[must_use]
    pub fn accumulate_logit_gradient(
        mut self,
        x: impl Input<'a, Space = S, Element = W>,
        logit_gradient: impl Output<'a, Space = S, Element = f32>,
    ) -> Self {
        let (x, logit_gradient) = (x.input(), logit_gradient.output());
        self.to_logits = Some(ToLogits { x, logit_gradient, accumulate: true });
        self
    }

    /// The coefficient λ of `−λ Σ (W∘M)²` in the loss, finite; 0 unless given. It acts on the logits alone.
    #[must_use]
    pub fn regulariser(mut self, lambda: f32) -> Self {
        self.regulariser = lambda;
        self
    }

    /// Memory to work in, at least [`Plan::workspace_bytes`]; its content is lost. The CPU executor needs none.
    #[must_use]
    pub fn workspace(mut self, workspace: impl Output<'a, Space = S, Element = u8>) -> Self {
        self.workspace = Some(workspace.output());
        self
    }

    /// Checks what the mask's backward pass needs, as [`mask`] does.
    fn check_mask_backward(&self, logit_gradient: &S::Mut<'a, f32>) -> Result<()> {
        let Layer { shape, shard, source, weight } = &self.layer;
        let Source::Sampled { kind, sampling, logits } = source else {
            return Err(Error::Missing { what: "a gradient", missing: "a frozen layer has no logits" });
        };
        let (logits, weight, gradient) = (nowhere(logits), nowhere(weight), RawSlice::nowhere(shape.weights()));
        let pass = mask::Backward::<Raw, L, W, f32>::new(*shape, *kind, *sampling, logits, weight, gradient);
        pass.shard(*shard).regulariser(self.regulariser).logit_gradient(nowhere(logit_gradient)).check()
    }
}

impl<S: Space, L: Logit, W: Float> pass::Sealed for Backward<'_, S, L, W> {}
impl<S: Space, L: Logit, W: Float> Pass<S> for Backward<'_, S, L, W> {
    fn check(&self) -> Result<()> {
        let problem = self.plan.problem();
        self.layer.check()?;
        self.saved.check(self.layer.shape, self.layer.masks())?;
        self.plan.check(self.layer.shape, self.layer.masks(), self.saved.keep())?;
        length("dy", Some(&self.dy), problem.outputs())?;
        length("dx", self.dx.as_ref(), problem.inputs())?;
        if let Some(ToWeight { x, weight_gradient }) = &self.to_weight {
            length("x", Some(x), problem.inputs())?;
            match weight_gradient {
                WideOrOwn::Wide(g) => length("weight_gradient", Some(g), problem.shape.weights())?,
                WideOrOwn::Own(g) => length("weight_gradient", Some(g), problem.shape.weights())?,
            }
        }
        match &self.to_logits {
            Some(ToLogits { x, logit_gradient, .. }) => {
                length("x", Some(x), problem.inputs())?;
                self.check_mask_backward(logit_gradient)
            }
            None if self.dx.is_none() && self.to_weight.is_none() => {
                Err(Error::Missing { what: "a gradient", missing: "no output was given to write it to" })
            }
            None => Ok(()),
        }
    }

    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace,
    {
        cpu::backward(pass.into_inner())
    }

    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        launch::backward(pass.inner(), binder, queue)
    }
}
