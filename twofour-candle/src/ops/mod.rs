//! twofour's operations on candle's tensors, with autograd: what the layers are made of.
//!
//! | operation | takes | gives | gradients to |
//! | --- | --- | --- | --- |
//! | [`masked_linear`] | `x [.., K]`, frozen `weight [N, K]`, `logits [N, K/4, 6]` | `x (W∘M)ᵀ`, `[.., N]` | `x`, `logits` |
//! | [`masked_weight`] | `weight`, `logits` | `W∘M`, `[N, K]` | `weight`, `logits` |
//! | [`codes`] | `logits` | packed codes, `[⌈N·K/8⌉]`, `u8` | |
//! | [`frozen_linear`] | `x`, `weight`, packed codes | `x (W∘M)ᵀ` under a mask that does not move | `x`, `weight` |
//! | [`frozen_weight`] | `weight`, packed codes | `W∘M` | `weight` |
//! | [`compressed_linear`] | `x`, kept values and codes, bias | `x Wᵀ + b` | |
//! | [`glu`] | `gate [.., f]`, `up [.., f]` | `a(gate) ⊙ b(up)` of dReLU and its kin | `gate`, `up` |
//! | [`relu_decode`] | `x`, three weights of a row a neuron | `Y`, reading no row of neurons that are off | |
//! | [`loss`] | logits `[R, V]`, a teacher's, the next tokens | losses `[R]`, and the gradient in place of the logits | |
//!
//! `x` and `weight` are of one type, `f32`, `f16` or `bf16`, and logits are `f32` or `bf16`; all are on one device, the
//! CPU or a CUDA device, where work is queued on candle's stream and nothing waits for it. Tensors may have any
//! strides: those that are not contiguous are copied first.
//!
//! **Nothing but its arguments is kept from the forward pass to the backward pass**: masks, and the noise in them, are
//! made again. So logits must not change in between. Only the gradients that the graph asks for are computed.
//!
//! Gradients are of the type of what they belong to, which candle demands: those of `bf16` logits are rounded to
//! `bf16`.

use candle_core::{Result, Tensor};
use candle_nn::{Linear, VarBuilder};
use twofour::mask::{Kind, Sampling};
use twofour::matmul::{Layer, Problem};
use twofour::{Shape, Shard};

use crate::engine::Engine;
use crate::number::{Number, Score, ready, wrap};
use crate::place::{Operand, Place};

mod codes;
mod compressed;
pub(crate) mod custom;
mod decode;
mod frozen;
mod glu;
pub(crate) mod linear;
mod loss;
mod weight;

pub use compressed::{Compressed, compressed_linear};
use custom::Custom;
pub use decode::{Neurons, relu_decode};
pub use frozen::{frozen_linear, frozen_weight};
pub use glu::glu;
pub use loss::{Loss, loss};

/// How the masks of one weight are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Masks {
    pub(crate) kind: Kind,
    pub(crate) sampling: Sampling,
    pub(crate) shard: Option<Shard>,
    pub(crate) regulariser: f32,
}

impl Masks {
    /// Masks of this kind, of a whole weight, without a regulariser.
    #[must_use]
    pub fn new(kind: Kind, sampling: Sampling) -> Self {
        Self { kind, sampling, shard: None, regulariser: 0.0 }
    }

    /// Says that the weight is a slice of a larger one; its masks are then the slice of the larger one's.
    #[must_use]
    pub fn shard(mut self, shard: Shard) -> Self {
        self.shard = Some(shard);
        self
    }

    /// The coefficient λ of `−λ Σ (W∘M)²` in the loss, finite. It enters the gradient of the logits alone.
    #[must_use]
    pub fn regulariser(mut self, lambda: f32) -> Self {
        self.regulariser = lambda;
        self
    }

    pub(crate) fn shard_of(&self, shape: Shape) -> Shard {
        self.shard.unwrap_or(Shard::whole(shape.cols as u64))
    }

    /// The weight under these masks, wherever it is.
    fn layer<'s, P: Place, L: Score, W: Number>(
        &self,
        shape: Shape,
        logits: Operand<'s, P>,
        weight: Operand<'s, P>,
    ) -> Result<Layer<'s, P::Space, L, W>> {
        let (logits, weight) = (logits.elements::<L>()?, weight.elements::<W>()?);
        Ok(Layer::sampled(shape, self.kind, self.sampling, logits, weight).shard(self.shard_of(shape)))
    }

    /// Logits that get no gradient from these masks are left out of the graph.
    fn tracked(&self, logits: &Tensor) -> Result<Tensor> {
        if self.kind == Kind::Argmax { ready(&logits.detach()) } else { ready(logits) }
    }
}

/// `x (W∘M)ᵀ`: `x [.., K]`, `weight [N, K]` and `logits [N, K/4, 6]` to `[.., N]`.
///
/// # Errors
/// Shapes, types or devices that do not fit; a weight that has a gradient ([`masked_weight`] serves those); what making
/// masks or the product may give.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use twofour::mask::{Kind, Sampling};
/// use twofour_candle::{Engine, ops};
///
/// # fn main() -> candle_core::Result<()> {
/// let weight = Tensor::new(&[[1_f32, 2., 3., 4.]], &Device::Cpu)?;
/// let logits = Var::new(&[[[0_f32, 0.1, 0., 0., 0., 0.]]], &Device::Cpu)?;
/// let masks = ops::Masks::new(Kind::Hard, Sampling { seed: 1, draw: 0, kappa: 1000.0, tau: 100.0 });
/// let x = Tensor::new(&[1_f32, 10., 100., 1000.], &Device::Cpu)?;
/// let y = ops::masked_linear(&x, &weight, &logits, masks, &Engine::default())?;
/// assert_eq!(y.to_vec1::<f32>()?, [301.0]);
/// assert_eq!(y.backward()?.get(&logits).unwrap().dims(), [1, 1, 6]);
/// # Ok(())
/// # }
/// ```
pub fn masked_linear(x: &Tensor, weight: &Tensor, logits: &Tensor, masks: Masks, engine: &Engine) -> Result<Tensor> {
    let shape = shape_of(weight)?;
    check_logits(shape, logits)?;
    same_device([x, weight, logits])?;
    if weight.track_op() {
        candle_core::bail!("the weight of a masked linear layer is frozen: detach it, or use ops::masked_weight")
    }
    over_tokens(x, weight.dtype(), shape, |x, tokens| {
        let problem = Problem::new(tokens, shape);
        let op = linear::Product { masks, problem, engine: engine.clone() };
        x.apply_op3(&masks.tracked(logits)?, &ready(weight)?, Custom(op))
    })
}

/// `W∘M`, `[N, K]`, rounded once, for whatever is to be done with it.
///
/// # Errors
/// As [`masked_linear`], but the weight may have a gradient: `G∘M` for `G` that of `W∘M`.
pub fn masked_weight(weight: &Tensor, logits: &Tensor, masks: Masks) -> Result<Tensor> {
    let shape = shape_of(weight)?;
    check_logits(shape, logits)?;
    same_device([weight, logits, logits])?;
    ready(weight)?.apply_op2(&masks.tracked(logits)?, Custom(weight::MaskedWeight { masks, shape }))
}

/// The packed codes of masks that are drawn of `logits [N, K/4, 6]`, `u8 [⌈N·K/8⌉]`: two groups a byte, the even one in
/// the low half. A group without a choice (its logits have no finite maximum) has a code that is none of the six.
///
/// # Errors
/// Logits of another shape or type; what making masks may give.
pub fn codes(logits: &Tensor, masks: Masks) -> Result<Tensor> {
    let (rows, groups, patterns) = logits.dims3()?;
    let shape = Shape::new(rows, groups.saturating_mul(4));
    shape.check().map_err(wrap)?;
    if patterns != 6 {
        candle_core::bail!("logits are {:?}, and must be [N, K/4, 6]", logits.dims())
    }
    ready(&logits.detach())?.apply_op1_no_bwd(&Custom(codes::Codes { masks, shape }))
}

/// `[N, K]`, checked.
pub(crate) fn shape_of(weight: &Tensor) -> Result<Shape> {
    let (rows, cols) = weight.dims2()?;
    let shape = Shape::new(rows, cols);
    shape.check().map_err(wrap)?;
    Ok(shape)
}

pub(crate) fn check_logits(shape: Shape, logits: &Tensor) -> Result<()> {
    let expected = [shape.rows, shape.cols / 4, 6];
    if logits.dims() == expected {
        return Ok(());
    }
    let (rows, cols, got) = (shape.rows, shape.cols, logits.dims());
    candle_core::bail!("logits are {got:?}, and those of a weight [{rows}, {cols}] must be {expected:?}")
}

/// Whether a bias, if there is one, is `[N]` of the weight's type.
pub(crate) fn check_bias(shape: Shape, bias: Option<&Tensor>, weight: candle_core::DType) -> Result<()> {
    match bias {
        Some(bias) if bias.dims() != [shape.rows] || bias.dtype() != weight => {
            let (dims, dtype, wanted) = (bias.dims(), bias.dtype().as_str(), weight.as_str());
            candle_core::bail!("the bias is {dims:?} {dtype}, and must be [{}] {wanted}", shape.rows)
        }
        _ => Ok(()),
    }
}

/// The product with its bias, if there is one.
pub(crate) fn biased(y: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    if let Some(bias) = bias { y.broadcast_add(bias) } else { Ok(y) }
}

/// `weight [out_dim, in_dim]` and `bias` of a builder, made there if it makes what it does not have.
pub(crate) fn load_linear(in_dim: usize, out_dim: usize, bias: bool, vb: VarBuilder<'_>) -> Result<Linear> {
    // First, for a builder may make a weight that is then refused.
    Shape::new(out_dim, in_dim).check().map_err(wrap)?;
    candle_nn::linear_b(in_dim, out_dim, bias, vb)
}

pub(crate) fn same_device(tensors: [&Tensor; 3]) -> Result<()> {
    let [first, rest @ ..] = tensors;
    for other in rest {
        if !first.device().same_device(other.device()) {
            let (lhs, rhs) = (first.device().location(), other.device().location());
            return Err(candle_core::Error::DeviceMismatchBinaryOp { lhs, rhs, op: "twofour" }.bt());
        }
    }
    Ok(())
}

/// Takes leading dimensions of `x [.., K]` for tokens, and gives them to what comes out, `[T, N]`.
pub(crate) fn over_tokens(
    x: &Tensor,
    dtype: candle_core::DType,
    shape: Shape,
    product: impl FnOnce(&Tensor, usize) -> Result<Tensor>,
) -> Result<Tensor> {
    let Some((&cols, leading)) = x.dims().split_last() else {
        candle_core::bail!("x is a scalar, and must be [.., {}]", shape.cols)
    };
    if cols != shape.cols {
        candle_core::bail!("x is {:?}, and must be [.., {}] for a weight with that many columns", x.dims(), shape.cols)
    }
    if x.dtype() != dtype {
        let (lhs, rhs) = (x.dtype(), dtype);
        return Err(candle_core::Error::DTypeMismatchBinaryOp { lhs, rhs, op: "twofour" }.bt());
    }
    // A matrix is one already: views of it would be nodes of the graph, each with a gradient to be added up.
    if let &[tokens] = leading {
        return product(&ready(x)?, tokens);
    }
    let tokens = leading.iter().product();
    let y = product(&ready(&ready(x)?.reshape((tokens, cols))?)?, tokens)?;
    y.reshape([leading, &[shape.rows]].concat())
}
