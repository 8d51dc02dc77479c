//! The masked linear layer as candle's operations: the product, and both of its gradients.

use candle_core::{Result, Tensor};
use twofour::mask::Kind;
use twofour::matmul::{Backward, Forward, Keep, Layer, Problem};
use twofour::space::Space;

use super::Masks;
use super::custom::{Custom, Op};
use crate::engine::Engine;
use crate::number::{Number, Score, ready, with_types};
use crate::place::{Operand, Place};
use crate::stepper::Stepper;

/// `Y = X (W∘M)ᵀ` of `(x [T, K], logits, weight)`. Nothing is kept for the backward pass.
#[derive(Debug, Clone)]
pub(crate) struct Product {
    pub(crate) masks: Masks,
    pub(crate) problem: Problem,
    pub(crate) engine: Engine,
}

impl Op<3> for Product {
    const NAME: &'static str = "twofour masked linear";

    fn forward<P: Place>(&self, [x, logits, weight]: [Operand<'_, P>; 3]) -> Result<(P::Storage, candle_core::Shape)> {
        let Problem { tokens, shape } = self.problem;
        let y = with_types!(logits.dtype(), weight.dtype(), <L, W> {
            output(&self.engine, self.problem, &self.masks.layer::<P, L, W>(shape, logits, weight)?, x)
        })?;
        Ok((y, (tokens, shape.rows).into()))
    }

    fn backward(&self, [x, logits, weight]: [&Tensor; 3], dy: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let dy = ready(dy)?;
        let dx = if x.track_op() { Some(self.input_gradient(&dy, logits, weight)?) } else { None };
        let to_logits = logits.track_op() && self.masks.kind != Kind::Argmax;
        if to_logits {
            Stepper::check_gradient(logits)?;
        }
        let dlogits =
            if to_logits { Some(self.logit_gradient(&dy, x, logits, weight)?.to_dtype(logits.dtype())?) } else { None };
        Ok([dx, dlogits, None])
    }
}

impl Product {
    /// `dX = dY (W∘M)`, `[T, K]`.
    pub(crate) fn input_gradient(&self, dy: &Tensor, logits: &Tensor, weight: &Tensor) -> Result<Tensor> {
        dy.apply_op3_no_bwd(logits, weight, &Custom(InputGradient(self)))
    }

    /// `dL/dlogits`, `f32 [N, K/4, 6]`.
    pub(crate) fn logit_gradient(&self, dy: &Tensor, x: &Tensor, logits: &Tensor, weight: &Tensor) -> Result<Tensor> {
        dy.apply_op3_no_bwd(x, logits, &Custom(LogitGradient { of: self, weight }))
    }
}

/// `dX = dY (W∘M)` of `(dy [T, N], logits, weight)`.
struct InputGradient<'p>(&'p Product);

impl Op<3> for InputGradient<'_> {
    const NAME: &'static str = "gradient of twofour masked linear to its input";

    fn forward<P: Place>(&self, [dy, logits, weight]: [Operand<'_, P>; 3]) -> Result<(P::Storage, candle_core::Shape)> {
        let Product { masks, problem, engine } = self.0;
        let Problem { tokens, shape } = *problem;
        let dx = with_types!(logits.dtype(), weight.dtype(), <L, W> {
            input_gradient(engine, *problem, &masks.layer::<P, L, W>(shape, logits, weight)?, dy)
        })?;
        Ok((dx, (tokens, shape.cols).into()))
    }
}

/// `dL/dlogits`, `f32`, of `(dy [T, N], x [T, K], logits)`.
struct LogitGradient<'p> {
    of: &'p Product,
    weight: &'p Tensor,
}

impl Op<3> for LogitGradient<'_> {
    const NAME: &'static str = "gradient of twofour masked linear to its logits";

    fn forward<P: Place>(&self, [dy, x, logits]: [Operand<'_, P>; 3]) -> Result<(P::Storage, candle_core::Shape)> {
        let Product { masks, problem, engine } = self.of;
        let Problem { tokens, shape } = *problem;
        let (weight, weight_layout) = self.weight.storage_and_layout();
        let weight = Operand::of(&weight, weight_layout)?;
        let dlogits = with_types!(logits.dtype(), weight.dtype(), <L, W> {
            let layer = masks.layer::<P, L, W>(shape, logits, weight)?;
            let from = (dy.elements::<W>()?, x.elements::<W>()?);
            P::made::<f32>(engine, dy.device(), shape.logits(), |on, dlogits| {
                let plan = layer.plan(on, tokens, Keep::Nothing)?;
                let mut workspace = on.workspace(plan.logit_gradient().workspace_bytes)?;
                let pass = Backward::new(&plan, &layer, P::Space::share(&from.0)).regulariser(masks.regulariser);
                let pass = pass.logit_gradient(P::Space::share(&from.1), P::output(dlogits));
                on.run(match &mut workspace {
                    Some(workspace) => pass.workspace(P::output(workspace)),
                    None => pass,
                })
            })
        })?;
        Ok((dlogits, (shape.rows, shape.cols / 4, 6).into()))
    }
}

/// `Y = X (W∘M)ᵀ`, `[T, N]`, whatever masks the layer has.
pub(super) fn output<P: Place, L: Score, W: Number>(
    engine: &Engine,
    problem: Problem,
    layer: &Layer<'_, P::Space, L, W>,
    x: Operand<'_, P>,
) -> Result<P::Storage> {
    let from = x.elements::<W>()?;
    P::made::<W>(engine, x.device(), problem.outputs(), |on, y| {
        let plan = layer.plan(on, problem.tokens, Keep::Nothing)?;
        let mut workspace = on.workspace(plan.output().workspace_bytes)?;
        let pass = Forward::new(&plan, layer, P::Space::share(&from), P::output(y));
        on.run(match &mut workspace {
            Some(workspace) => pass.workspace(P::output(workspace)),
            None => pass,
        })
    })
}

/// `dX = dY (W∘M)`, `[T, K]`, whatever masks the layer has.
pub(super) fn input_gradient<P: Place, L: Score, W: Number>(
    engine: &Engine,
    problem: Problem,
    layer: &Layer<'_, P::Space, L, W>,
    dy: Operand<'_, P>,
) -> Result<P::Storage> {
    let from = dy.elements::<W>()?;
    P::made::<W>(engine, dy.device(), problem.inputs(), |on, dx| {
        let plan = layer.plan(on, problem.tokens, Keep::Nothing)?;
        let mut workspace = on.workspace(plan.input_gradient().workspace_bytes)?;
        let pass = Backward::new(&plan, layer, P::Space::share(&from)).input_gradient(P::output(dx));
        on.run(match &mut workspace {
            Some(workspace) => pass.workspace(P::output(workspace)),
            None => pass,
        })
    })
}
