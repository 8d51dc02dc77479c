//! The masked weight as candle's operation.

use candle_core::{Result, Tensor};
use twofour::Shape;
use twofour::mask::{Backward, Forward, Kind};
use twofour::space::Space;

use super::Masks;
use super::custom::{Custom, Op};
use crate::engine::Engine;
use crate::number::{ready, with_types};
use crate::place::{Operand, Place};
use crate::stepper::Stepper;

/// `W∘M` of `(weight, logits)`.
#[derive(Debug, Clone, Copy)]
pub(super) struct MaskedWeight {
    pub(super) masks: Masks,
    pub(super) shape: Shape,
}

impl Op<2> for MaskedWeight {
    const NAME: &'static str = "twofour masked weight";

    fn forward<P: Place>(&self, [weight, logits]: [Operand<'_, P>; 2]) -> Result<(P::Storage, candle_core::Shape)> {
        let Self { masks, shape } = *self;
        let masked = with_types!(logits.dtype(), weight.dtype(), <L, W> {
            let from = (weight.elements::<W>()?, logits.elements::<L>()?);
            // An engine for the call: it needs none of the libraries that are shared.
            P::made::<W>(&Engine::default(), weight.device(), shape.weights(), |on, masked| {
                let pass = Forward::new(shape, masks.kind, masks.sampling, P::Space::share(&from.1));
                on.run(pass.shard(masks.shard_of(shape)).weight(P::Space::share(&from.0)).masked(P::output(masked)))
            })
        })?;
        Ok((masked, (shape.rows, shape.cols).into()))
    }

    fn backward(&self, [weight, logits]: [&Tensor; 2], gradient: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let gradient = ready(gradient)?;
        // The gradient of the weight is G∘M: G under the same masks.
        let to_weight = if weight.track_op() { Some(gradient.apply_op2_no_bwd(logits, &Custom(*self))?) } else { None };
        let to_logits = if logits.track_op() && self.masks.kind != Kind::Argmax {
            Stepper::check_gradient(logits)?;
            let op = Custom(LogitGradient(*self));
            Some(gradient.apply_op3_no_bwd(logits, weight, &op)?.to_dtype(logits.dtype())?)
        } else {
            None
        };
        Ok([to_weight, to_logits])
    }
}

/// `dL/dlogits`, `f32`, of `(G = dL/d(W∘M), logits, weight)`.
struct LogitGradient(MaskedWeight);

impl Op<3> for LogitGradient {
    const NAME: &'static str = "gradient of twofour masked weight to its logits";

    fn forward<P: Place>(
        &self,
        [gradient, logits, weight]: [Operand<'_, P>; 3],
    ) -> Result<(P::Storage, candle_core::Shape)> {
        let MaskedWeight { masks, shape } = self.0;
        let dlogits = with_types!(logits.dtype(), weight.dtype(), <L, W> {
            let from = (logits.elements::<L>()?, weight.elements::<W>()?, gradient.elements::<W>()?);
            P::made::<f32>(&Engine::default(), logits.device(), shape.logits(), |on, dlogits| {
                let (logits, weight) = (P::Space::share(&from.0), P::Space::share(&from.1));
                let gradient = P::Space::share(&from.2);
                let pass = Backward::new(shape, masks.kind, masks.sampling, logits, weight, gradient);
                let pass = pass.shard(masks.shard_of(shape)).regulariser(masks.regulariser);
                on.run(pass.logit_gradient(P::output(dlogits)))
            })
        })?;
        Ok((dlogits, (shape.rows, shape.cols / 4, 6).into()))
    }
}
