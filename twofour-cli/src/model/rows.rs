//! Gradients of functions of rows: on the CPU one pass over memory on all threads each; elsewhere candle's passes.
//!
//! candle's own gradients of norm, softmax and SwiGLU are chains of a dozen passes on one thread.

use super::fused::{Gated, LANES, PIECE, exp, slice, slice_mut};
use candle_core::{CpuStorage, D, InplaceOp2, InplaceOp3, Layout, Result, Tensor};
use candle_nn::ops::{sigmoid, silu};
use rayon::prelude::*;

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// The gradient of `x` `[.., d]`, of that of `x / √(mean x² + ε) · weight`, in whose place it is put.
pub(super) fn norm_backward(x: &Tensor, weight: &Tensor, eps: f64, gradient: Tensor) -> Result<Tensor> {
    let gradient = gradient.contiguous()?;
    if gradient.device().is_cpu() {
        gradient.inplace_op3(&x.contiguous()?, weight, &Norm { eps: eps as f32 })?;
        return Ok(gradient);
    }
    norm_backward_anywhere(x, weight, eps, &gradient)
}

fn norm_backward_anywhere(x: &Tensor, weight: &Tensor, eps: f64, gradient: &Tensor) -> Result<Tensor> {
    let inverse = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.powf(-0.5)?;
    let gradient = gradient.broadcast_mul(weight)?;
    let along = ((x * &gradient)?.mean_keepdim(D::Minus1)? * inverse.sqr()?)?;
    (&gradient - x.broadcast_mul(&along)?)?.broadcast_mul(&inverse)
}

struct Norm {
    eps: f32,
}

impl InplaceOp3 for Norm {
    fn name(&self) -> &'static str {
        "norm-backward"
    }

    fn cpu_fwd(
        &self,
        gradient: &mut CpuStorage,
        layout: &Layout,
        x: &CpuStorage,
        of_x: &Layout,
        weight: &CpuStorage,
        of_weight: &Layout,
    ) -> Result<()> {
        let (x, weight) = (slice(x, of_x)?, slice(weight, of_weight)?);
        let width = weight.len().max(1);
        let rows = (PIECE / width).max(1) * width;
        slice_mut(gradient, layout)?.par_chunks_mut(rows).zip(x.par_chunks(rows)).for_each(|(gradient, x)| {
            for (gradient, x) in gradient.chunks_mut(width).zip(x.chunks(width)) {
                gradient.iter_mut().zip(weight).for_each(|(gradient, weight)| *gradient *= weight);
                let inverse = 1.0 / (dot(x, x) / width as f32 + self.eps).sqrt();
                let along = dot(x, gradient) * inverse * inverse / width as f32;
                gradient.iter_mut().zip(x).for_each(|(gradient, x)| *gradient = inverse * (*gradient - x * along));
            }
        });
        Ok(())
    }
}

/// The gradient of scores, of that of their softmax `weights` `[.., keys]`, in whose place it is put.
pub(super) fn softmax_backward(weights: &Tensor, gradient: Tensor) -> Result<Tensor> {
    if gradient.device().is_cpu() {
        gradient.inplace_op2(&weights.contiguous()?, &Softmax)?;
        return Ok(gradient);
    }
    softmax_backward_anywhere(weights, &gradient)
}

fn softmax_backward_anywhere(weights: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    let mean = (weights * gradient)?.sum_keepdim(D::Minus1)?;
    weights * gradient.broadcast_sub(&mean)?
}

struct Softmax;

impl InplaceOp2 for Softmax {
    fn name(&self) -> &'static str {
        "softmax-backward"
    }

    fn cpu_fwd(&self, gradient: &mut CpuStorage, layout: &Layout, weights: &CpuStorage, of: &Layout) -> Result<()> {
        let keys = layout.dims().last().copied().unwrap_or(1).max(1);
        let (rows, weights) = ((PIECE / keys).max(1) * keys, slice(weights, of)?);
        slice_mut(gradient, layout)?.par_chunks_mut(rows).zip(weights.par_chunks(rows)).for_each(
            |(gradient, weights)| {
                for (gradient, weights) in gradient.chunks_mut(keys).zip(weights.chunks(keys)) {
                    let mean = dot(gradient, weights);
                    gradient
                        .iter_mut()
                        .zip(weights)
                        .for_each(|(gradient, weight)| *gradient = weight * (*gradient - mean));
                }
            },
        );
        Ok(())
    }
}

/// `silu(gate) · up`; on the CPU in the place of the gate.
pub(super) fn gated(gate: Tensor, up: &Tensor) -> Result<Tensor> {
    if !gate.device().is_cpu() {
        return silu(&gate)? * up;
    }
    gate.inplace_op2(up, &Gated)?;
    Ok(gate)
}

/// Gradients of gate and up, of that of [`gated`].
pub(super) fn gated_backward(gate: &Tensor, up: &Tensor, gradient: Tensor) -> Result<[Tensor; 2]> {
    if !gate.device().is_cpu() {
        return gated_backward_anywhere(gate, up, &gradient);
    }
    let to_gate = gradient.copy()?;
    to_gate.inplace_op3(gate, up, &ToGate)?;
    gradient.inplace_op2(gate, &ToUp)?;
    Ok([to_gate, gradient])
}

fn gated_backward_anywhere(gate: &Tensor, up: &Tensor, gradient: &Tensor) -> Result<[Tensor; 2]> {
    let share = sigmoid(gate)?;
    let slope = (&share * ((gate * share.affine(-1.0, 1.0)?)? + 1.0)?)?;
    Ok([((slope * up)? * gradient)?, ((share * gate)? * gradient)?])
}

/// `1 / (1 + e⁻ˣ)`.
fn share(x: f32) -> f32 {
    // Of -|x|, which does not overflow.
    let e = exp(-x.abs());
    (if x < 0.0 { e } else { 1.0 }) / (1.0 + e)
}

struct ToGate;

impl InplaceOp3 for ToGate {
    fn name(&self) -> &'static str {
        "gated-backward"
    }

    fn cpu_fwd(
        &self,
        gradient: &mut CpuStorage,
        layout: &Layout,
        gate: &CpuStorage,
        of_gate: &Layout,
        up: &CpuStorage,
        of_up: &Layout,
    ) -> Result<()> {
        let (gate, up) = (slice(gate, of_gate)?, slice(up, of_up)?);
        let pieces = slice_mut(gradient, layout)?.par_chunks_mut(PIECE).zip(gate.par_chunks(PIECE));
        pieces.zip(up.par_chunks(PIECE)).for_each(|((gradient, gate), up)| {
            for ((gradient, &gate), up) in gradient.iter_mut().zip(gate).zip(up) {
                let share = share(gate);
                *gradient *= up * share * (1.0 + gate * (1.0 - share));
            }
        });
        Ok(())
    }
}

struct ToUp;

impl InplaceOp2 for ToUp {
    fn name(&self) -> &'static str {
        "gated-backward"
    }

    fn cpu_fwd(&self, gradient: &mut CpuStorage, layout: &Layout, gate: &CpuStorage, of: &Layout) -> Result<()> {
        let gate = slice(gate, of)?;
        slice_mut(gradient, layout)?.par_chunks_mut(PIECE).zip(gate.par_chunks(PIECE)).for_each(|(gradient, gate)| {
            gradient.iter_mut().zip(gate).for_each(|(gradient, &gate)| *gradient *= gate * share(gate));
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn normal(dims: &[usize]) -> Result<Var> {
        Var::from_tensor(&Tensor::randn(0_f32, 1.5, dims, &Device::Cpu)?)
    }

    /// Gradients by candle's autograd, of a function and of that of what it makes; both forms against those.
    #[track_caller]
    fn compare(
        inputs: &[&Var],
        made: Result<Tensor>,
        forms: impl Fn(&Tensor) -> Result<[Vec<Tensor>; 2]>,
    ) -> Result<()> {
        let made = made?;
        let gradient = Tensor::randn(0_f32, 1.0, made.dims(), &Device::Cpu)?;
        let by_candle = (&made * &gradient)?.sum_all()?.backward()?;
        for form in forms(&gradient)? {
            for (input, got) in inputs.iter().zip(form) {
                let want = by_candle.get(input).unwrap_or(input);
                let off = (want - &got)?.abs()?.max_all()?.to_scalar::<f32>()?;
                assert!(got.dims() == input.dims() && off < 3e-5, "they differ by {off}");
            }
        }
        Ok(())
    }

    #[test]
    fn norm() -> Result<()> {
        // Rows of no whole vector, and more than a thread is given.
        for dims in [[700, 24], [3, 37]] {
            let (x, weight) = (normal(&dims)?, normal(&dims[1..])?);
            let made = x.broadcast_div(&(x.sqr()?.mean_keepdim(D::Minus1)? + 1e-2)?.sqrt()?)?.broadcast_mul(&weight);
            compare(&[&x], made, |gradient| {
                let anywhere = norm_backward_anywhere(&x.detach(), &weight.detach(), 1e-2, gradient)?;
                let fused = norm_backward(&x.detach(), &weight.detach(), 1e-2, gradient.copy()?)?;
                Ok([vec![anywhere], vec![fused]])
            })?;
        }
        Ok(())
    }

    #[test]
    fn softmax() -> Result<()> {
        let scores = normal(&[2, 3, 50, 70])?;
        let weights = candle_nn::ops::softmax(&scores, D::Minus1)?;
        compare(&[&scores], Ok(weights.clone()), |gradient| {
            let weights = weights.detach();
            let fused = softmax_backward(&weights, gradient.copy()?)?;
            Ok([vec![softmax_backward_anywhere(&weights, gradient)?], vec![fused]])
        })
    }

    #[test]
    fn gated_units() -> Result<()> {
        let (gate, up) = (normal(&[311, 60])?, normal(&[311, 60])?);
        let made = silu(&gate)? * up.as_tensor();
        let fused = gated(gate.copy()?.detach(), &up.detach())?;
        let off = (made.as_ref().map_or(&fused, |made| made) - &fused)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(off < 1e-5, "they differ by {off}");
        compare(&[&gate, &up], made, |gradient| {
            let (gate, up) = (gate.detach(), up.detach());
            let anywhere = gated_backward_anywhere(&gate, &up, gradient)?;
            Ok([anywhere.into(), gated_backward(&gate, &up, gradient.copy()?)?.into()])
        })
    }
}
