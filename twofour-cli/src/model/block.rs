//! A block of the transformer.

use super::Model;
use super::attention::{Positions, attend};
use super::config::{Config, bias_of};
use super::rows::gated;
use crate::Failure;
use candle_core::{D, Tensor};
use candle_nn::ops::rms_norm;
use candle_nn::rotary_emb::rope;
use std::sync::Arc;
use twofour::Shape;

/// A linear layer: `Y = X Wᵀ + b`.
#[derive(Debug, Clone)]
pub struct Linear {
    pub(super) name: String,
    /// `[N, K]`.
    pub(super) weight: Tensor,
    /// `[N]`.
    pub(super) bias: Option<Tensor>,
}

impl Linear {
    /// Hugging Face's name of the weight, such as `model.layers.0.self_attn.q_proj.weight`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The weight `[N, K]`, f32.
    #[must_use]
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Its shape.
    #[must_use]
    pub fn shape(&self) -> Shape {
        let dims = self.weight.dims();
        Shape::new(dims[0], dims[1])
    }

    /// `[B, T, K]` to `[B, T, N]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor, Failure> {
        let (b, t, k) = x.dims3()?;
        // One product of matrices, not one of each window.
        let y = x.reshape((b * t, k))?.matmul(&self.weight.t()?)?;
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        Ok(y.reshape((b, t, self.weight.dim(0)?))?)
    }
}

/// Hands out the input of linear layers: their names, and `[B, T, K]`.
pub type Inputs<'f> = dyn FnMut(&[&str], &Tensor) -> Result<(), Failure> + 'f;

/// A block with its weights. Its seven linear layers can be read and replaced by name.
#[derive(Debug, Clone)]
pub struct Block {
    index: usize,
    config: Arc<Config>,
    positions: Arc<Positions>,
    pub(super) input_norm: Tensor,
    pub(super) middle_norm: Tensor,
    /// Of heads of q and of k.
    pub(super) head_norms: Option<[Tensor; 2]>,
    /// q, k, v, o, gate, up, down.
    pub(super) linears: Vec<Linear>,
}

impl Block {
    pub(super) fn load(model: &Model, index: usize) -> Result<Self, Failure> {
        let config = &model.config;
        let norm = |name: &str| model.tensor(&format!("model.layers.{index}.{name}.weight"));
        let linear = |(i, (name, _)): (usize, (String, Shape))| {
            let bias = config.has_bias(i).then(|| model.tensor(&bias_of(&name))).transpose()?;
            Ok(Linear { weight: model.tensor(&name)?, bias, name })
        };
        Ok(Self {
            index,
            config: Arc::clone(config),
            positions: Arc::clone(&model.positions),
            input_norm: norm("input_layernorm")?,
            middle_norm: norm("post_attention_layernorm")?,
            head_norms: match config.qk_norm {
                true => Some([norm("self_attn.q_norm")?, norm("self_attn.k_norm")?]),
                false => None,
            },
            linears: config.linears(index).into_iter().enumerate().map(linear).collect::<Result<_, Failure>>()?,
        })
    }

    /// Which block it is.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Its linear layers: q, k, v, o, gate, up, down.
    #[must_use]
    pub fn linears(&self) -> &[Linear] {
        &self.linears
    }

    /// Puts a weight `[N, K]` in the place of another. It is made f32, and put on the other's device.
    ///
    /// # Errors
    /// There is no linear layer of this name in the block, or the weight is of another shape.
    pub fn set(&mut self, name: &str, weight: &Tensor) -> Result<(), Failure> {
        let index = self.index;
        let Some(linear) = self.linears.iter_mut().find(|linear| linear.name == name) else {
            return Err(format!("block {index} has no linear layer `{name}`").into());
        };
        if weight.dims() != linear.weight.dims() {
            let (got, old) = (weight.dims(), linear.weight.dims());
            return Err(format!("`{name}` is of {old:?}, and a weight of {got:?} cannot take its place").into());
        }
        linear.weight = weight.to_device(linear.weight.device())?.to_dtype(linear.weight.dtype())?.contiguous()?;
        Ok(())
    }

    /// Hidden states `[B, T, d]` behind the block of those before it; positions are 0 to T. `inputs` gets what the
    /// linear layers read, before they do: of q, k and v `[B, T, d]`, of o `[B, T, heads · head]`, of gate and up
    /// `[B, T, d]`, of down `[B, T, wide]`.
    ///
    /// # Errors
    /// The hidden states are of another width; what `inputs` returns.
    pub fn forward(&self, x: &Tensor, inputs: &mut Inputs<'_>) -> Result<Tensor, Failure> {
        let x = (self.attention(x, inputs)? + x)?;
        Ok((self.mlp(&x, inputs)? + x)?)
    }

    /// The same, where nobody looks.
    ///
    /// # Errors
    /// The same.
    pub fn run(&self, x: &Tensor) -> Result<Tensor, Failure> {
        self.forward(x, &mut |_, _| Ok(()))
    }

    fn names<const N: usize>(&self, of: [usize; N]) -> [&str; N] {
        of.map(|i| self.linears[i].name.as_str())
    }

    fn attention(&self, x: &Tensor, inputs: &mut Inputs<'_>) -> Result<Tensor, Failure> {
        let config = &self.config;
        let (b, t, _) = x.dims3()?;
        let x = rms_norm(&x.contiguous()?, &self.input_norm, config.eps as f32)?;
        inputs(&self.names([0, 1, 2]), &x)?;
        // Of a head that is normalised by itself and turned to its position.
        let heads = |i: usize, heads: usize| {
            self.linears[i].forward(&x).and_then(|y| Ok(y.reshape((b, t, heads, config.head))?))
        };
        let length = self.positions.of_length(t)?;
        let turned = |y: Tensor, norm: usize| -> Result<Tensor, Failure> {
            let y = match &self.head_norms {
                Some(norms) => rms_norm(&y, &norms[norm], config.eps as f32)?,
                None => y,
            };
            Ok(rope(&y.transpose(1, 2)?.contiguous()?, &length.cos, &length.sin)?)
        };
        let q = turned(heads(0, config.heads)?, 0)?;
        let k = turned(heads(1, config.kv_heads)?, 1)?;
        let v = heads(2, config.kv_heads)?.transpose(1, 2)?.contiguous()?;
        let mixed = attend([&q, &k, &v], config.windows[self.index], &mut drop)?;
        inputs(&self.names([3]), &mixed)?;
        self.linears[3].forward(&mixed)
    }

    fn mlp(&self, x: &Tensor, inputs: &mut Inputs<'_>) -> Result<Tensor, Failure> {
        let x = rms_norm(x, &self.middle_norm, self.config.eps as f32)?;
        inputs(&self.names([4, 5]), &x)?;
        let wide = gated(self.linears[4].forward(&x)?, &self.linears[5].forward(&x)?)?;
        debug_assert_eq!(wide.dim(D::Minus1).ok(), Some(self.config.intermediate));
        inputs(&self.names([6]), &wide)?;
        self.linears[6].forward(&wide)
    }
}
