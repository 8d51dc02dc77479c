//! The model's row by row operations: on the CPU one pass over memory each, forward and backward; elsewhere candle's
//! own.
//!
//! candle's gradients of softmax, norm and SwiGLU are chains of a dozen elementary operations. On two cores those
//! take longer than the products of a small model, and mask learning is mostly the waiting for them.

use crate::rows::Pass;
use candle_core::{D, Result, Tensor};
use std::sync::Arc;

/// Of a root mean square, so that a row of zeros has a norm.
const EPSILON: f32 = 1e-5;

/// `x / rms(x)` of each row, without a weight.
pub(crate) fn normalised(x: &Tensor) -> Result<Tensor> {
    if !x.device().is_cpu() {
        let mean = (x.sqr()?.sum_keepdim(D::Minus1)? / width(x)? as f64)?;
        return x.broadcast_div(&(mean + f64::from(EPSILON))?.sqrt()?);
    }
    let backward = |x: &Tensor, _: &Tensor, grad: &Tensor| {
        Pass::new("normalised'", |_, [x, grad], out| {
            let (inverse, width) = (inverse_rms(x), x.len() as f32);
            let along = dot(x, grad) * inverse * inverse / width;
            for ((out, x), grad) in out.iter_mut().zip(x).zip(grad) {
                *out = inverse * (grad - x * along);
            }
        })
        .of_two(x, grad)
    };
    Pass::new("normalised", inverse_rms_times).differentiable(x, backward)
}

fn inverse_rms(x: &[f32]) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + EPSILON).sqrt()
}

fn inverse_rms_times(_: usize, [x]: [&[f32]; 1], out: &mut [f32]) {
    let inverse = inverse_rms(x);
    for (out, x) in out.iter_mut().zip(x) {
        *out = inverse * x;
    }
}

/// Probabilities `softmax(scale · scores)` over the positions up to the row's own; scores `[.., T, T]`.
pub(crate) fn causal_softmax(scores: &Tensor, scale: f32) -> Result<Tensor> {
    let context = width(scores)?;
    if !scores.device().is_cpu() {
        let hidden: Vec<f32> =
            (0..context * context).map(|i| if i % context > i / context { f32::NEG_INFINITY } else { 0.0 }).collect();
        let hidden = Tensor::from_vec(hidden, (context, context), scores.device())?;
        let scores = (scores * f64::from(scale))?.broadcast_add(&hidden)?;
        return candle_nn::ops::softmax(&scores, D::Minus1);
    }
    let forward = move |row: usize, [x]: [&[f32]; 1], out: &mut [f32]| {
        let (seen, hidden) = out.split_at_mut(row % context + 1);
        let largest = x[..seen.len()].iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for (out, x) in seen.iter_mut().zip(x) {
            *out = exp(scale * (x - largest));
            sum += *out;
        }
        seen.iter_mut().for_each(|p| *p /= sum);
        hidden.fill(0.0);
    };
    let backward = move |_: &Tensor, p: &Tensor, grad: &Tensor| {
        Pass::new("causal_softmax'", |row, [p, grad], out| {
            let (seen, hidden) = out.split_at_mut(row % context + 1);
            let mean = dot(&p[..seen.len()], &grad[..seen.len()]);
            for ((out, p), grad) in seen.iter_mut().zip(p).zip(grad) {
                *out = scale * p * (grad - mean);
            }
            hidden.fill(0.0);
        })
        .of_two(p, grad)
    };
    Pass::new("causal_softmax", forward).differentiable(scores, backward)
}

/// `silu(gate) · up`.
pub(crate) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if !gate.device().is_cpu() {
        return gate.silu()? * up;
    }
    let forward = |_: usize, [gate, up]: [&[f32]; 2], out: &mut [f32]| {
        for ((out, &gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate * sigmoid(gate) * up;
        }
    };
    let backward = |gate: &Tensor, up: &Tensor, grad: &Tensor| {
        let to_gate = Pass::new("swiglu'", |_, [gate, up, grad], out| {
            for (((out, &gate), up), grad) in out.iter_mut().zip(gate).zip(up).zip(grad) {
                let s = sigmoid(gate);
                *out = grad * up * s * (1.0 + gate * (1.0 - s));
            }
        });
        let to_up = Pass::new("swiglu'", |_, [gate, grad], out| {
            for ((out, &gate), grad) in out.iter_mut().zip(gate).zip(grad) {
                *out = grad * gate * sigmoid(gate);
            }
        });
        Ok((to_gate.of_three(gate, up, grad)?, to_up.of_two(gate, grad)?))
    };
    Pass::new("swiglu", forward).differentiable_in_two(gate, up, backward)
}

/// Angles of rotary positions: cosines and sines `[T, head/2]`.
#[derive(Debug, Clone)]
pub(crate) struct Rotary {
    context: usize,
    cos: Arc<[f32]>,
    sin: Arc<[f32]>,
}

impl Rotary {
    pub(crate) fn new(context: usize, head: usize) -> Self {
        const BASE: f64 = 10_000.0;
        let half = head / 2;
        let angle = |i: usize| (i / half) as f64 * BASE.powf(-((i % half) as f64) / half as f64);
        let table = |f: fn(f64) -> f64| (0..context * half).map(|i| f(angle(i)) as f32).collect();
        Self { context, cos: table(f64::cos), sin: table(f64::sin) }
    }

    /// Turns `x [B·T, heads·head]` by its positions.
    pub(crate) fn turn(&self, x: &Tensor) -> Result<Tensor> {
        let half = self.cos.len() / self.context;
        if !x.device().is_cpu() {
            let (rows, width) = x.dims2()?;
            let x = x.reshape((rows / self.context, self.context, width / (2 * half), 2 * half))?;
            let x = x.transpose(1, 2)?.contiguous()?;
            let table = |table: &[f32]| Tensor::from_slice(table, (self.context, half), x.device());
            let turned = candle_nn::rotary_emb::rope_slow(&x, &table(&self.cos)?, &table(&self.sin)?)?;
            return turned.transpose(1, 2)?.reshape((rows, width));
        }
        let (forward, backward) = (self.clone(), self.clone());
        let turn = move |row: usize, [x]: [&[f32]; 1], out: &mut [f32]| forward.turn_row(row, x, out, 1.0);
        Pass::new("rotary", turn).differentiable(x, move |_, _, grad| {
            Pass::new("rotary'", |row, [grad], out| backward.turn_row(row, grad, out, -1.0)).of_one(grad)
        })
    }

    fn turn_row(&self, row: usize, x: &[f32], out: &mut [f32], sign: f32) {
        let half = self.cos.len() / self.context;
        let at = row % self.context * half;
        let (cos, sin) = (&self.cos[at..][..half], &self.sin[at..][..half]);
        for (out, x) in out.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half)) {
            for i in 0..half {
                let (a, b, sin) = (x[i], x[half + i], sign * sin[i]);
                out[i] = a * cos[i] - b * sin;
                out[half + i] = a * sin + b * cos[i];
            }
        }
    }
}

/// Mean of `−ln softmax(logits)[target]` over rows, in nats; logits `[rows, classes]`.
pub(crate) fn cross_entropy(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    if !logits.device().is_cpu() {
        let targets = Tensor::from_slice(targets, targets.len(), logits.device())?;
        return candle_nn::loss::cross_entropy(logits, &targets);
    }
    let (forward, backward): (Arc<[u32]>, Arc<[u32]>) = (targets.into(), targets.into());
    let losses = move |row: usize, [x]: [&[f32]; 1], out: &mut [f32]| {
        let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = x.iter().map(|x| exp(x - largest)).sum();
        out[0] = sum.ln() + largest - x[forward[row] as usize];
    };
    let differentiated = move |x: &Tensor, _: &Tensor, grad: &Tensor| {
        Pass::new("cross_entropy'", |row, [x, grad], out| {
            let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            for (out, x) in out.iter_mut().zip(x) {
                *out = exp(x - largest);
                sum += *out;
            }
            out.iter_mut().for_each(|p| *p *= grad[0] / sum);
            out[backward[row] as usize] -= grad[0];
        })
        .of_two(x, grad)
    };
    Pass::new("cross_entropy", losses).with_one_column().differentiable(logits, differentiated)?.mean_all()
}

fn width(x: &Tensor) -> Result<usize> {
    x.dim(D::Minus1)
}

/// Eight sums side by side, for a single one would wait for itself at every addition.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `eˣ` to 2 units in the last place or so, as arithmetic that compilers make vector code of: `2ⁱ · 2ᶠ`, and a
/// polynomial for the latter.
fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0) * std::f32::consts::LOG2_E;
    // Adding and subtracting 1.5·2²³ rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    let whole = (x + ROUND) - ROUND;
    let f = (x - whole) * std::f32::consts::LN_2;
    let polynomial = 1.0 + f * (1.0 + f * (0.5 + f * (1.0 / 6.0 + f * (1.0 / 24.0 + f * (1.0 / 120.0 + f / 720.0)))));
    polynomial * f32::from_bits(((whole as i32 + 127) as u32) << 23)
}
