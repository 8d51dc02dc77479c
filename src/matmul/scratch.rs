//! What a plan's passes work in, and the passes with it.

use super::backward::ToWeight;
use super::{Backward, Forward, Keep, Layer, Masks, Plan, Saved, Step};
use crate::element::{DType, Float, Logit};
use crate::error::Result;
use crate::learn::{self, AdamW, Moments};
use crate::pass::{self, Executor, Queue};
use crate::sample::{Kind, Sampling, Source, WideOrOwn};
use crate::space::{Input, Output, Raw, RawSlice, Space};

/// Of passes that are not run.
const SAMPLING: Sampling = Sampling { seed: 0, draw: 0, kappa: 1.0, tau: 1.0 };
/// An address that is not 0, which says that nothing is wanted.
const ANYWHERE: u64 = 1 << 40;

/// What the forward pass leaves for the backward pass ([`Keep`]), and the workspace of both, each where the plan needs
/// it. It serves a layer from a forward pass to its backward pass; a workspace alone can serve many layers
/// ([`Forward::workspace`]).
pub struct Scratch<E: Executor, W: Float> {
    saved: Saved<E::Buffer<W>, E::Buffer<u8>>,
    workspace: Option<E::Buffer<u8>>,
}

impl<E: Executor, W: Float> Scratch<E, W> {
    /// `W∘M` as the last forward pass left it, for a plan with [`Keep::Masked`].
    #[must_use]
    pub fn masked(&self) -> Option<&E::Buffer<W>> {
        if let Saved::Masked(masked) = &self.saved { Some(masked) } else { None }
    }

    /// The codes as the last forward pass left them, for a plan with [`Keep::Codes`].
    #[must_use]
    pub fn codes(&self) -> Option<&E::Buffer<u8>> {
        if let Saved::Codes(codes) = &self.saved { Some(codes) } else { None }
    }
}

/// What is saved, and the workspace, for a pass after the forward pass.
type Lent<'a, S, W> = (Saved<<S as Space>::Ref<'a, W>, <S as Space>::Ref<'a, u8>>, Option<<S as Space>::Mut<'a, u8>>);

impl<E: Executor, W: Float> Scratch<E, W> {
    fn lend(&mut self) -> Lent<'_, E::Space, W> {
        let saved = match &self.saved {
            Saved::Nothing => Saved::Nothing,
            Saved::Masked(masked) => Saved::Masked(E::input(masked)),
            Saved::Codes(codes) => Saved::Codes(E::input(codes)),
        };
        (saved, self.workspace.as_mut().map(E::output))
    }
}

impl<L: Logit, W: Float> Plan<L, W> {
    /// The forward pass of a layer, which leaves in `scratch` what the plan keeps.
    #[must_use]
    pub fn forward<'a, E: Executor>(
        &self,
        layer: &'a Layer<'_, E::Space, L, W>,
        x: impl Input<'a, Space = E::Space, Element = W>,
        y: impl Output<'a, Space = E::Space, Element = W>,
        scratch: &'a mut Scratch<E, W>,
    ) -> Forward<'a, E::Space, L, W> {
        let pass = Forward::new(self, layer, x, y);
        let pass = match &mut scratch.saved {
            Saved::Nothing => pass,
            Saved::Masked(masked) => pass.save_masked(E::output(masked)),
            Saved::Codes(codes) => pass.save_codes(E::output(codes)),
        };
        match &mut scratch.workspace {
            Some(workspace) => pass.workspace(E::output(workspace)),
            None => pass,
        }
    }

    /// The backward pass of a layer, after its forward pass with the same `scratch`: as yet it writes nothing. It uses
    /// what that forward pass left there; whoever gave it a masked weight gives this one the same
    /// ([`Backward::use_masked`]).
    #[must_use]
    pub fn backward<'a, E: Executor>(
        &self,
        layer: &'a Layer<'_, E::Space, L, W>,
        dy: impl Input<'a, Space = E::Space, Element = W>,
        scratch: &'a mut Scratch<E, W>,
    ) -> Backward<'a, E::Space, L, W> {
        let (saved, workspace) = scratch.lend();
        Backward { saved, workspace, ..Backward::new(self, layer, dy) }
    }

    /// The backward pass that moves the logits ([`Step`]), after a forward pass with the same `scratch`, and instead of
    /// [`Plan::backward`]. It uses what that forward pass left there.
    #[must_use]
    #[allow(clippy::too_many_arguments, reason = "each is another thing, and told apart by its type or its length")]
    pub fn step<'a, E: Executor>(
        &self,
        sampling: Sampling,
        logits: impl Output<'a, Space = E::Space, Element = L>,
        weight: impl Input<'a, Space = E::Space, Element = W>,
        dy: impl Input<'a, Space = E::Space, Element = W>,
        x: impl Input<'a, Space = E::Space, Element = W>,
        step: learn::Step<'a, E::Space>,
        scratch: &'a mut Scratch<E, W>,
    ) -> Step<'a, E::Space, L, W> {
        let (saved, workspace) = scratch.lend();
        Step { saved, workspace, ..Step::new(self, sampling, logits, weight, dy, x, step) }
    }
}

impl<L: Logit, W: Float> pass::Plan for Plan<L, W> {
    type Scratch<E: Executor> = Scratch<E, W>;

    fn scratch<E: Executor>(&self, on: &E) -> Result<Scratch<E, W>> {
        let shape = self.problem().shape;
        let saved = match self.keep() {
            Keep::Nothing => Saved::Nothing,
            Keep::Masked => Saved::Masked(on.zeros(shape.weights())?),
            Keep::Codes => Saved::Codes(on.zeros(shape.packed_codes())?),
        };
        Ok(Scratch { saved, workspace: on.workspace(self.workspace_bytes())? })
    }

    fn rehearse(&self, queue: &mut Queue) -> Result<()> {
        let (problem, masks) = (self.problem(), self.masks());
        let (shape, workspace) = (problem.shape, RawSlice::nowhere(self.workspace_bytes()));
        let (weight, codes) = (RawSlice::nowhere(shape.weights()), RawSlice::nowhere(shape.packed_codes()));
        let sampling = SAMPLING;
        let source = match masks {
            Masks::Sampled(kind) => Source::Sampled { kind, sampling, logits: RawSlice::nowhere(shape.logits()) },
            Masks::Frozen => Source::Frozen { codes },
        };
        let layer = Layer::<Raw, L, W>::of(shape, source, weight);
        let (inputs, outputs) = (RawSlice::nowhere(problem.inputs()), RawSlice::nowhere(problem.outputs()));
        let forward = Forward::new(self, &layer, inputs, outputs).workspace(workspace);
        let backward = Backward::new(self, &layer, outputs).input_gradient(inputs).workspace(workspace);
        let backward = match masks {
            Masks::Sampled(Kind::Soft | Kind::Hard) => {
                backward.logit_gradient(inputs, RawSlice::nowhere(shape.logits()))
            }
            _ => backward,
        };
        let (forward, backward) = match self.keep() {
            Keep::Nothing => (forward, backward),
            Keep::Masked => (forward.save_masked(weight), backward.use_masked(weight)),
            Keep::Codes => (forward.save_codes(codes), backward.use_codes(codes)),
        };
        queue.pass(forward)?;
        queue.pass(backward)?;
        let gradients = [WideOrOwn::Wide(RawSlice::nowhere(shape.weights())), WideOrOwn::Own(weight)];
        for weight_gradient in gradients.into_iter().take(if W::DTYPE == DType::F32 { 1 } else { 2 }) {
            let mut pass = Backward::new(self, &layer, outputs).workspace(workspace);
            pass.to_weight = Some(ToWeight { x: inputs, weight_gradient });
            queue.pass(pass)?;
        }
        match masks {
            Masks::Sampled(Kind::Soft | Kind::Hard) => self.rehearse_step(queue),
            _ => Ok(()),
        }
    }
}

impl<L: Logit, W: Float> Plan<L, W> {
    /// With sums.
    fn rehearse_step(&self, queue: &mut Queue) -> Result<()> {
        let (problem, shape) = (self.problem(), self.problem().shape);
        let (of_logits, codes) = (shape.logits(), RawSlice::nowhere(shape.logits()));
        let wide = || RawSlice::nowhere(of_logits);
        let moments = match self.has_eight_bits() {
            false => Moments::<Raw>::f32(wide(), wide()),
            true => Moments::eight(codes, codes, RawSlice::nowhere(Moments::scales(shape))),
        };
        let (logits, weight) = (RawSlice::nowhere(of_logits), RawSlice::nowhere(shape.weights()));
        let (dy, x) = (RawSlice::nowhere(problem.outputs()), RawSlice::nowhere(problem.inputs()));
        let norm_squares = RawSlice::new(ANYWHERE, learn::NORM_SLOTS);
        let adamw = AdamW { rate: 0.0, beta1: 0.0, beta2: 0.0, epsilon: 1.0, decay: 0.0, step: 1 };
        let step = learn::Step::new(adamw, moments);
        let pass = Step::new(self, SAMPLING, logits, weight, dy, x, step).norm_squares(norm_squares);
        queue.pass(pass.workspace(RawSlice::nowhere(self.workspace_bytes())))
    }
}
