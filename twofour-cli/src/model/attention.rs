//! Causal attention, and where tokens stand.

use super::config::{Config, Scaling};
use super::fused::CausalSoftmax;
use super::rows::softmax_backward;
use crate::Failure;
use candle_core::{D, Device, Tensor};
use candle_nn::ops::softmax_last_dim;
use std::f64::consts::TAU;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Rows of q at a time: what a chunk does not look at is not multiplied, and scores need not fit the memory at once.
const CHUNK: usize = 128;

/// Rotary positions and masks, made for a length when it is first met.
#[derive(Debug)]
pub(super) struct Positions {
    frequencies: Vec<f64>,
    device: Device,
    last: Mutex<Option<Arc<Length>>>,
}

/// What all blocks need of windows of a length.
#[derive(Debug)]
pub(super) struct Length {
    /// `[T, head / 2]`.
    pub(super) cos: Tensor,
    pub(super) sin: Tensor,
    tokens: usize,
}

impl Length {
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Of the first so many.
    pub(super) fn to(&self, tokens: usize) -> Result<Self, Failure> {
        let first = |table: &Tensor| table.narrow(0, 0, tokens)?.contiguous();
        Ok(Self { cos: first(&self.cos)?, sin: first(&self.sin)?, tokens })
    }

    /// Of the token at a place alone.
    pub(super) fn at(&self, token: usize) -> Result<Self, Failure> {
        let one = |table: &Tensor| table.narrow(0, token, 1)?.contiguous();
        Ok(Self { cos: one(&self.cos)?, sin: one(&self.sin)?, tokens: 1 })
    }
}

impl Positions {
    pub(super) fn new(config: &Config, device: &Device) -> Self {
        Self { frequencies: frequencies(config), device: device.clone(), last: Mutex::new(None) }
    }

    pub(super) fn of_length(&self, tokens: usize) -> Result<Arc<Length>, Failure> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(length) = last.as_ref().filter(|length| length.tokens == tokens) {
            return Ok(Arc::clone(length));
        }
        let angles = || (0..tokens).flat_map(|t| self.frequencies.iter().map(move |f| t as f64 * f));
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = angles().map(|angle| f(angle) as f32).collect();
            Tensor::from_vec(values, (tokens, self.frequencies.len()), &self.device)
        };
        let length = Arc::new(Length { cos: table(f64::cos)?, sin: table(f64::sin)?, tokens });
        *last = Some(Arc::clone(&length));
        Ok(length)
    }
}

/// Radians a token of each pair, `[head / 2]`, as `transformers`' `modeling_rope_utils.py` has them.
pub(super) fn frequencies(config: &Config) -> Vec<f64> {
    let base = |i: usize| config.rope_theta.powf(-((2 * i) as f64) / config.head as f64);
    let scaled = |(i, frequency): (usize, f64)| match &config.scaling {
        Scaling::None => frequency,
        Scaling::Linear(factor) => frequency / factor,
        Scaling::Divided(by) => frequency / by.get(i).copied().unwrap_or(1.0),
        &Scaling::Llama3 { factor, low, high, original } => {
            let waves = original * frequency / TAU;
            let fast = ((waves - low) / (high - low)).clamp(0.0, 1.0);
            fast * frequency + (1.0 - fast) * frequency / factor
        }
    };
    (0..config.head / 2).map(base).enumerate().map(scaled).collect()
}

/// Attention of one token's q `[H, head]` to the keys and values before it and its own, `[KV, n, head]`: `[1, H·head]`.
pub(super) fn attend_one(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor, Failure> {
    let ((heads, head), kv) = (q.dims2()?, k.dim(0)?);
    let q = (q.reshape((kv, heads / kv, head))? * scale(head))?;
    let weights = softmax_last_dim(&q.matmul(&k.t()?)?)?;
    Ok(weights.matmul(v)?.reshape((1, heads * head))?)
}

/// Some rows of q in attention: what each key weighs for each of them.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Tokens of q, and of the keys that they look at.
    tokens: Range<usize>,
    keys: Range<usize>,
    /// `[B, H, tokens, keys]`.
    weights: Tensor,
}

/// Attention of q `[B, H, T, head]` to k and v `[B, KV, T, head]`, whose heads are shared by H / KV of q; a token sees
/// itself and those before it, at most `window` in all. `[B, T, H·head]`. `keep` gets what a backward pass needs.
pub(super) fn attend(
    [q, k, v]: [&Tensor; 3],
    window: Option<usize>,
    keep: &mut dyn FnMut(Chunk),
) -> Result<Tensor, Failure> {
    let (b, heads, t, head) = q.dims4()?;
    let kv = k.dim(1)?;
    let q = (q.reshape((b, kv, heads / kv, t, head))? * scale(head))?;
    let mut rows = Vec::new();
    for start in (0..t).step_by(CHUNK) {
        let length = CHUNK.min(t - start);
        let first = window.map_or(0, |window| (start + 1).saturating_sub(window));
        let seen = start + length - first;
        let keys = k.narrow(2, first, seen)?.transpose(2, 3)?;
        let values = v.narrow(2, first, seen)?.contiguous()?;
        let q = q.narrow(3, start, length)?.contiguous()?.reshape((b, kv, heads / kv * length, head))?;
        let scores = q.matmul(&keys)?.reshape((b, heads, length, seen))?;
        let softmax = CausalSoftmax { tokens: start..start + length, first, window };
        let weights = if scores.device().is_cpu() {
            scores.inplace_op1(&softmax)?;
            scores
        } else {
            softmax_last_dim(&scores.broadcast_add(&mask(&softmax, seen, scores.device())?)?)?
        };
        let mixed = weights.reshape((b, kv, heads / kv * length, seen))?.matmul(&values)?;
        rows.push(mixed.reshape((b, heads, length, head))?);
        keep(Chunk { tokens: start..start + length, keys: first..first + seen, weights });
    }
    let all = Tensor::cat(&rows, D::Minus2)?;
    Ok(all.transpose(1, 2)?.reshape((b, t, heads * head))?)
}

/// Gradients of q, k and v, of that of what [`attend`] made of them, `[B, T, H·head]`.
pub(super) fn attend_backward(
    [q, k, v]: [&Tensor; 3],
    chunks: Vec<Chunk>,
    gradient: &Tensor,
) -> Result<[Tensor; 3], Failure> {
    let (b, heads, t, head) = q.dims4()?;
    let (kv, shared) = (k.dim(1)?, heads / k.dim(1)?);
    let of_heads = |x: Tensor| x.reshape((b, kv, shared, t, head));
    let gradient = of_heads(gradient.reshape((b, t, heads, head))?.transpose(1, 2)?.contiguous()?)?;
    let q = of_heads(q.clone())?;
    let (mut dq, mut dk, mut dv) = (Vec::new(), None, None);
    for Chunk { tokens, keys, weights } in chunks {
        let (length, seen) = (tokens.len(), keys.len());
        let of_chunk = |x: &Tensor| -> candle_core::Result<Tensor> {
            x.narrow(3, tokens.start, length)?.contiguous()?.reshape((b, kv, shared * length, head))
        };
        let of_keys = |x: &Tensor| x.narrow(2, keys.start, seen)?.contiguous();
        let all = |x: Tensor| x.pad_with_zeros(2, keys.start, t - keys.end);
        let (q, gradient) = (of_chunk(&q)?, of_chunk(&gradient)?);
        let weights = weights.reshape((b, kv, shared * length, seen))?;
        add(&mut dv, all(weights.t()?.matmul(&gradient)?)?)?;
        let scores = softmax_backward(&weights, gradient.matmul(&of_keys(v)?.t()?)?)?;
        add(&mut dk, all(scores.t()?.matmul(&q)?)?)?;
        dq.push(scores.matmul(&of_keys(k)?)?.reshape((b, heads, length, head))?);
    }
    let none = || Failure::from("attention of no tokens has no gradient");
    let (dk, dv) = (dk.ok_or_else(none)?, dv.ok_or_else(none)?);
    Ok([(Tensor::cat(&dq, 2)? * scale(head))?, (dk * scale(head))?, dv])
}

fn add(sum: &mut Option<Tensor>, term: Tensor) -> Result<(), Failure> {
    *sum = Some(match sum.take() {
        Some(sum) => (sum + term)?,
        None => term,
    });
    Ok(())
}

/// What products of q and k are multiplied by.
fn scale(head: usize) -> f64 {
    1.0 / (head as f64).sqrt()
}

/// What is added to the scores of tokens against so many keys: 0, or −∞ for what is not seen.
fn mask(softmax: &CausalSoftmax, keys: usize, device: &Device) -> Result<Tensor, Failure> {
    let row = |token: usize| {
        let seen = softmax.sees(token);
        (0..keys).map(move |key| if seen.contains(&key) { 0.0 } else { f32::NEG_INFINITY })
    };
    let values: Vec<f32> = softmax.tokens.clone().flat_map(row).collect();
    Ok(Tensor::from_vec(values, (softmax.tokens.len(), keys), device)?)
}
