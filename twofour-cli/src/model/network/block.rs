//! A block of a network: forward, and backward by what was kept.
//!
//! Layers make their own gradients by candle's autograd, each in a graph of its own; what lies between them is a pass
//! over memory each, by hand.

use super::super::attention::{Chunk, Length, Positions, attend, attend_backward};
use super::super::config::Config;
use super::super::rows::{gated, gated_backward, norm_backward};
use super::Gradients;
use crate::Failure;
use candle_core::{CpuStorage, CustomOp1, Layout, Result as CandleResult, Shape, Tensor, Var};
use candle_nn::ops::rms_norm;
use candle_nn::rotary_emb::rope;
use candle_nn::{Linear, Module};
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Block<L> {
    pub(super) config: Arc<Config>,
    pub(super) window: Option<usize>,
    pub(super) input_norm: Tensor,
    pub(super) middle_norm: Tensor,
    /// Of heads of q and of k.
    head_norms: Option<[Tensor; 2]>,
    /// q, k, v, o, gate, up, down.
    pub(super) linears: Vec<(String, L)>,
}

/// What a backward pass needs of its forward pass. What layers read is the end of their graphs.
pub(super) struct Trace {
    x: Tensor,
    input: Tensor,
    /// q, k and v as the layers made them.
    made: [Tensor; 3],
    /// The same as heads `[B, H, T, head]`, normalised and turned.
    heads: [Tensor; 3],
    chunks: Vec<Chunk>,
    mixed: Tensor,
    o: Tensor,
    middle: Tensor,
    second: Tensor,
    gate: Tensor,
    up: Tensor,
    wide: Tensor,
    down: Tensor,
}

impl<L: Module> Block<L> {
    pub(super) fn new(
        block: super::super::Block,
        config: &Arc<Config>,
        layer: &mut impl FnMut(&str, Linear) -> Result<L, Failure>,
    ) -> Result<Self, Failure> {
        let window = config.windows[block.index()];
        let super::super::Block { input_norm, middle_norm, head_norms, linears, .. } = block;
        let linears = linears.into_iter().map(|linear| {
            let made = layer(&linear.name, Linear::new(linear.weight, linear.bias))?;
            Ok((linear.name, made))
        });
        let linears = linears.collect::<Result<_, Failure>>()?;
        Ok(Self { config: Arc::clone(config), window, input_norm, middle_norm, head_norms, linears })
    }

    /// Of hidden states, and of heads.
    pub(super) fn norms(&self) -> impl Iterator<Item = &Tensor> {
        [&self.input_norm, &self.middle_norm].into_iter().chain(self.head_norms.iter().flatten())
    }

    /// Hidden states `[B·T, d]` behind the block; `traced`, layers have a graph, and a backward pass can follow.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        length: usize,
        positions: &Positions,
        traced: bool,
    ) -> Result<(Tensor, Trace), Failure> {
        let eps = self.config.eps as f32;
        let layer = |i: usize, x: &Tensor| self.linears[i].1.forward(x);
        let input = end(rms_norm(x, &self.input_norm, eps)?, traced)?;
        let made = [layer(0, &input)?, layer(1, &input)?, layer(2, &input)?];
        let at = positions.of_length(length)?;
        let heads = [self.turned(&made[0], 0, &at)?, self.turned(&made[1], 1, &at)?, self.heads(&made[2], length)?];
        let mut chunks = Vec::new();
        let keep = &mut |chunk| {
            if traced {
                chunks.push(chunk);
            }
        };
        let mixed = attend(heads.each_ref(), self.window, keep)?;
        let mixed = end(mixed.reshape((x.dim(0)?, self.config.heads * self.config.head))?, traced)?;
        let o = layer(3, &mixed)?;
        let middle = (x + o.detach())?;
        let second = end(rms_norm(&middle, &self.middle_norm, eps)?, traced)?;
        let (gate, up) = (layer(4, &second)?, layer(5, &second)?);
        // A backward pass needs the gate as it was.
        let own = if traced { gate.detach().copy()? } else { gate.detach() };
        let wide = end(gated(own, &up.detach())?, traced)?;
        let down = layer(6, &wide)?;
        let out = (&middle + down.detach())?;
        let x = x.clone();
        Ok((out, Trace { x, input, made, heads, chunks, mixed, o, middle, second, gate, up, wide, down }))
    }

    /// The gradient of what the block read, of that of what it made.
    pub(super) fn backward(
        &self,
        trace: Trace,
        length: usize,
        positions: &Positions,
        gradient: Tensor,
        done: &mut Gradients<'_, L>,
    ) -> Result<Tensor, Failure> {
        let eps = self.config.eps;
        let mut through = |i: usize, x: &Tensor, y: Tensor, gradient: Tensor| -> Result<Tensor, Failure> {
            let mut gradients = y.apply_op1(Seed(gradient))?.backward()?;
            let to_x = gradients.remove(x);
            done(&self.linears[i].1, &mut gradients)?;
            to_x.ok_or_else(|| format!("no gradient comes through `{}`", self.linears[i].0).into())
        };
        let Trace { x, input, made, heads, chunks, mixed, o, middle, second, gate, up, wide, down } = trace;
        let to_wide = through(6, &wide, down, gradient.clone())?;
        let [to_gate, to_up] = gated_backward(&gate.detach(), &up.detach(), to_wide)?;
        let to_second = (through(4, &second, gate, to_gate)? + through(5, &second, up, to_up)?)?;
        let gradient = (norm_backward(&middle, &self.middle_norm, eps, to_second)? + gradient)?;

        let to_mixed = through(3, &mixed, o, gradient.clone())?;
        let b = x.dim(0)? / length;
        let to_mixed = to_mixed.reshape((b, length, self.config.heads * self.config.head))?;
        let [to_q, to_k, to_v] = attend_backward(heads.each_ref(), chunks, &to_mixed)?;
        let at = positions.of_length(length)?;
        let [q, k, v] = made;
        let to_q = self.turned_backward(&q, 0, &at, to_q)?;
        let to_k = self.turned_backward(&k, 1, &at, to_k)?;
        let to_v = to_v.transpose(1, 2)?.contiguous()?.reshape(v.shape())?;
        let to_input = (through(0, &input, q, to_q)? + through(1, &input, k, to_k)?)?;
        let to_input = (to_input + through(2, &input, v, to_v)?)?;
        Ok((norm_backward(&x, &self.input_norm, eps, to_input)? + gradient)?)
    }

    /// `[B·T, H·head]` to `[B, H, T, head]`.
    pub(super) fn heads(&self, y: &Tensor, length: usize) -> Result<Tensor, Failure> {
        Ok(self.split(&y.detach(), length)?.transpose(1, 2)?.contiguous()?)
    }

    fn split(&self, y: &Tensor, length: usize) -> Result<Tensor, Failure> {
        let (rows, width) = y.dims2()?;
        Ok(y.reshape((rows / length, length, width / self.config.head, self.config.head))?)
    }

    /// The same with heads normalised, if they are, and turned to their positions.
    pub(super) fn turned(&self, y: &Tensor, norm: usize, at: &Length) -> Result<Tensor, Failure> {
        let Some(norms) = &self.head_norms else {
            return Ok(rope(&self.heads(y, at.tokens())?, &at.cos, &at.sin)?);
        };
        let y = rms_norm(&self.split(&y.detach(), at.tokens())?, &norms[norm], self.config.eps as f32)?;
        Ok(rope(&y.transpose(1, 2)?.contiguous()?, &at.cos, &at.sin)?)
    }

    /// The gradient of `y`, of that of what [`turned`](Self::turned) made of it.
    fn turned_backward(&self, y: &Tensor, norm: usize, at: &Length, gradient: Tensor) -> Result<Tensor, Failure> {
        let gradient = rope(&gradient.contiguous()?, &at.cos, &at.sin.neg()?)?.transpose(1, 2)?.contiguous()?;
        let gradient = match &self.head_norms {
            Some(norms) => {
                let y = self.split(&y.detach(), at.tokens())?;
                norm_backward(&y, &norms[norm], self.config.eps, gradient)?
            }
            None => gradient,
        };
        Ok(gradient.reshape(y.shape())?)
    }
}

/// The end of a graph, or a tensor without one.
fn end(x: Tensor, traced: bool) -> Result<Tensor, Failure> {
    Ok(if traced { Var::from_tensor(&x)?.into_inner() } else { x })
}

/// A number whose gradient to a tensor is this one.
struct Seed(Tensor);

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "seed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(())))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        storage: &candle_core::CudaStorage,
        _: &Layout,
    ) -> CandleResult<(candle_core::CudaStorage, Shape)> {
        use candle_core::backend::{BackendDevice, BackendStorage};
        let shape = Shape::from(());
        Ok((storage.device().zeros_impl(&shape, candle_core::DType::F32)?, shape))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> CandleResult<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}
