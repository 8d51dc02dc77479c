//! The linear layer under a mask that does not move, as candle's operations: the product, its gradients to the input and
//! to the weight, and the masked weight.

use candle_core::{DType, Result, Tensor};
use twofour::Shape;
use twofour::mask;
use twofour::matmul::{Backward, Keep, Layer, Problem};
use twofour::space::Space;

use super::custom::{Custom, Op};
use super::linear::{input_gradient, output};
use crate::engine::Engine;
use crate::number::{Number, ready, with_weight};
use crate::place::{Operand, Place};

/// `x (W∘M)ᵀ` under a mask that does not move: `x [.., K]`, `weight [N, K]` and packed `codes`, `u8 [⌈N·K/8⌉]` as
/// [`codes`](super::codes) gives them, to `[.., N]`. The gradient of the weight is `(dYᵀ X)∘M`, which is 0 where a
/// weight was dropped. A code that is none of the six makes its group NaN.
///
/// # Errors
/// Shapes, types or devices that do not fit; what the product may give.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use twofour_candle::{Engine, ops};
///
/// # fn main() -> candle_core::Result<()> {
/// let weight = Var::new(&[[1_f32, 2., 3., 4.]], &Device::Cpu)?;
/// let codes = Tensor::new(&[0x8_u8], &Device::Cpu)?; // keeps 0 and 2
/// let x = Tensor::new(&[1_f32, 10., 100., 1000.], &Device::Cpu)?;
/// let y = ops::frozen_linear(&x, &weight, &codes, &Engine::default())?;
/// assert_eq!(y.to_vec1::<f32>()?, [301.0]);
/// assert_eq!(y.backward()?.get(&weight).unwrap().to_vec2::<f32>()?, [[1.0, 0.0, 100.0, 0.0]]);
/// # Ok(())
/// # }
/// ```
pub fn frozen_linear(x: &Tensor, weight: &Tensor, codes: &Tensor, engine: &Engine) -> Result<Tensor> {
    let shape = checked(weight, codes)?;
    super::same_device([x, weight, codes])?;
    super::over_tokens(x, weight.dtype(), shape, |x, tokens| {
        let op = Product { problem: Problem::new(tokens, shape), engine: engine.clone() };
        x.apply_op3(&ready(codes)?, &ready(weight)?, Custom(op))
    })
}

/// `W∘M`, `[N, K]`, under a mask that does not move, given by its packed codes. The gradient of the weight is `G∘M` for
/// `G` that of `W∘M`.
///
/// # Errors
/// Shapes, types or devices that do not fit.
pub fn frozen_weight(weight: &Tensor, codes: &Tensor) -> Result<Tensor> {
    let shape = checked(weight, codes)?;
    super::same_device([weight, codes, codes])?;
    ready(weight)?.apply_op2(&ready(codes)?, Custom(MaskedWeight(shape)))
}

/// The weight's shape, if the codes are those of its groups.
fn checked(weight: &Tensor, codes: &Tensor) -> Result<Shape> {
    let shape = super::shape_of(weight)?;
    if codes.dims() != [shape.packed_codes()] || codes.dtype() != DType::U8 {
        let (dims, dtype, Shape { rows, cols }) = (codes.dims(), codes.dtype().as_str(), shape);
        let wanted = shape.packed_codes();
        candle_core::bail!("codes are {dims:?} {dtype}, and those of a weight [{rows}, {cols}] must be [{wanted}] u8")
    }
    Ok(shape)
}

/// `W∘M` of `(weight, codes)`.
struct MaskedWeight(Shape);

impl Op<2> for MaskedWeight {
    const NAME: &'static str = "twofour weight under a frozen mask";

    fn forward<P: Place>(&self, [weight, codes]: [Operand<'_, P>; 2]) -> Result<(P::Storage, candle_core::Shape)> {
        let codes = codes.elements::<u8>()?;
        let masked = with_weight!(weight.dtype(), <W> {
            let from = weight.elements::<W>()?;
            // An engine for the call: it needs none of the libraries that are shared.
            P::made::<W>(&Engine::default(), weight.device(), self.0.weights(), |on, masked| {
                let pass = mask::Forward::frozen(self.0, P::Space::share(&codes), P::Space::share(&from));
                on.run(pass.masked(P::output(masked)))
            })
        })?;
        Ok((masked, (self.0.rows, self.0.cols).into()))
    }

    fn backward(&self, [weight, codes]: [&Tensor; 2], gradient: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let of_weight = || ready(gradient)?.apply_op2_no_bwd(codes, &Custom(Self(self.0)));
        Ok([if weight.track_op() { Some(of_weight()?) } else { None }, None])
    }
}

/// `Y = X (W∘M)ᵀ` of `(x [T, K], codes, weight)`. Nothing is kept for the backward pass.
struct Product {
    problem: Problem,
    engine: Engine,
}

impl Op<3> for Product {
    const NAME: &'static str = "twofour linear under a frozen mask";

    fn forward<P: Place>(&self, [x, codes, weight]: [Operand<'_, P>; 3]) -> Result<(P::Storage, candle_core::Shape)> {
        let Problem { tokens, shape } = self.problem;
        let y = with_weight!(weight.dtype(), <W> {
            output(&self.engine, self.problem, &layer::<P, W>(shape, codes, weight)?, x)
        })?;
        Ok((y, (tokens, shape.rows).into()))
    }

    fn backward(&self, [x, codes, weight]: [&Tensor; 3], dy: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let dy = ready(dy)?;
        let dx = || dy.apply_op3_no_bwd(codes, weight, &Custom(InputGradient(self)));
        let dx = if x.track_op() { Some(dx()?) } else { None };
        // G∘M is G under the same mask.
        let dw = || {
            let gradient = dy.apply_op3_no_bwd(x, codes, &Custom(Gradient { of: self, weight }))?;
            gradient.apply_op2_no_bwd(codes, &Custom(MaskedWeight(self.problem.shape)))
        };
        Ok([dx, None, if weight.track_op() { Some(dw()?) } else { None }])
    }
}

/// `dX = dY (W∘M)` of `(dy [T, N], codes, weight)`.
struct InputGradient<'p>(&'p Product);

impl Op<3> for InputGradient<'_> {
    const NAME: &'static str = "gradient of twofour linear under a frozen mask to its input";

    fn forward<P: Place>(&self, [dy, codes, weight]: [Operand<'_, P>; 3]) -> Result<(P::Storage, candle_core::Shape)> {
        let Problem { tokens, shape } = self.0.problem;
        let dx = with_weight!(weight.dtype(), <W> {
            input_gradient(&self.0.engine, self.0.problem, &layer::<P, W>(shape, codes, weight)?, dy)
        })?;
        Ok((dx, (tokens, shape.cols).into()))
    }
}

/// `G = dYᵀ X`, that of `W∘M`, rounded once to the weight's type, of `(dy [T, N], x [T, K], codes)`.
struct Gradient<'p> {
    of: &'p Product,
    weight: &'p Tensor,
}

impl Op<3> for Gradient<'_> {
    const NAME: &'static str = "gradient of twofour linear under a frozen mask to its weight";

    fn forward<P: Place>(&self, [dy, x, codes]: [Operand<'_, P>; 3]) -> Result<(P::Storage, candle_core::Shape)> {
        let Problem { tokens, shape } = self.of.problem;
        let (weight, weight_layout) = self.weight.storage_and_layout();
        let weight = Operand::of(&weight, weight_layout)?;
        let gradient = with_weight!(weight.dtype(), <W> {
            let (layer, from) = (layer::<P, W>(shape, codes, weight)?, (dy.elements::<W>()?, x.elements::<W>()?));
            P::made::<W>(&self.of.engine, dy.device(), shape.weights(), |on, gradient| {
                let plan = layer.plan(on, tokens, Keep::Nothing)?;
                let mut workspace = on.workspace(plan.weight_gradient().workspace_bytes)?;
                let pass = Backward::new(&plan, &layer, P::Space::share(&from.0));
                let pass = pass.weight_gradient(P::Space::share(&from.1), P::output(gradient));
                on.run(match &mut workspace {
                    Some(workspace) => pass.workspace(P::output(workspace)),
                    None => pass,
                })
            })
        })?;
        Ok((gradient, (shape.rows, shape.cols).into()))
    }
}

/// The weight under its mask, wherever it is.
fn layer<'s, P: Place, W: Number>(
    shape: Shape,
    codes: Operand<'s, P>,
    weight: Operand<'s, P>,
) -> Result<Layer<'s, P::Space, f32, W>> {
    Ok(Layer::frozen(shape, codes.elements::<u8>()?, weight.elements::<W>()?))
}
