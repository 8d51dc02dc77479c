//! What candle does in several passes, most of them on one thread, in one on all threads. On the CPU; elsewhere
//! candle's passes do.

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Result, Tensor, bail};
use rayon::prelude::*;
use std::ops::Range;

/// Elements that are summed side by side, so that they are in a vector register.
pub(super) const LANES: usize = 16;
/// Elements of a row that are summed in f32.
pub(super) const BLOCK: usize = 1024;
/// Elements that are worth a thread's while.
pub(super) const PIECE: usize = 1 << 14;

/// e to the power of x ≤ 0, to 2 units in the last place, without a branch or a call; 0 below -87 is 1.6e-38.
#[inline]
pub(super) fn exp(x: f32) -> f32 {
    // Rounds to an integer, which is then in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    const TERMS: [f32; 6] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0];
    // Not `max`, which takes NaN for -87.
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let power = shifted - ROUND;
    let r = x - power * LN2[0] - power * LN2[1];
    let terms = TERMS.iter().fold(0.0, |sum, term| sum * r + term);
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    (terms * r + 1.0) * scale
}

pub(super) fn largest(row: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, x);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger)
}

pub(super) fn sum(row: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += x;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// Softmax of the scores of tokens against keys, `[.., tokens, keys]`, in place; a token sees itself and those before,
/// at most `window` in all, and weighs others 0.
pub(super) struct CausalSoftmax {
    pub(super) tokens: Range<usize>,
    /// The token that the first key is of.
    pub(super) first: usize,
    pub(super) window: Option<usize>,
}

impl CausalSoftmax {
    /// The keys that a token sees.
    pub(super) fn sees(&self, token: usize) -> Range<usize> {
        let first = self.window.map_or(0, |window| (token + 1).saturating_sub(window));
        first.saturating_sub(self.first)..token + 1 - self.first
    }
}

impl InplaceOp1 for CausalSoftmax {
    fn name(&self) -> &'static str {
        "causal-softmax"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let keys = layout.dims().last().copied().unwrap_or(1);
        let scores = slice_mut(storage, layout)?;
        let rows = (PIECE / keys).max(1);
        scores.par_chunks_mut(rows * keys).enumerate().for_each(|(piece, scores)| {
            for (i, row) in scores.chunks_mut(keys).enumerate() {
                let seen = self.sees(self.tokens.start + (piece * rows + i) % self.tokens.len());
                row[..seen.start].fill(0.0);
                row[seen.end..].fill(0.0);
                let row = &mut row[seen];
                let most = largest(row);
                row.iter_mut().for_each(|x| *x = exp(*x - most));
                let share = 1.0 / sum(row);
                row.iter_mut().for_each(|x| *x *= share);
            }
        });
        Ok(())
    }
}

/// `silu(gate) · up`, in the place of the gate.
pub(super) struct Gated;

impl InplaceOp2 for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn cpu_fwd(&self, gate: &mut CpuStorage, layout: &Layout, up: &CpuStorage, of: &Layout) -> Result<()> {
        let up = slice(up, of)?;
        slice_mut(gate, layout)?.par_chunks_mut(PIECE).zip(up.par_chunks(PIECE)).for_each(|(gate, up)| {
            for (g, &u) in gate.iter_mut().zip(up) {
                // Of -|g|, which does not overflow.
                let e = exp(-g.abs());
                let upper = if *g < 0.0 { e } else { 1.0 };
                *g = *g * upper / (1.0 + e) * u;
            }
        });
        Ok(())
    }
}

/// `ln Σ exp(row) - row[target]` of rows of logits.
pub(super) fn losses(logits: &Tensor, targets: &[u32]) -> Result<Vec<f32>> {
    let (storage, layout) = logits.storage_and_layout();
    let candle_core::Storage::Cpu(storage) = &*storage else { bail!("logits are not on the CPU") };
    let logits = slice(storage, layout)?;
    let loss = |(row, &target): (&[f32], &u32)| {
        let most = largest(row);
        let mut powers = [0.0; BLOCK];
        let sums = row.chunks(BLOCK).map(|block| {
            let powers = &mut powers[..block.len()];
            powers.iter_mut().zip(block).for_each(|(power, &x)| *power = exp(x - most));
            f64::from(sum(powers))
        });
        (f64::from(most) + sums.sum::<f64>().ln() - f64::from(row[target as usize])) as f32
    };
    Ok(logits.par_chunks(logits.len() / targets.len().max(1)).zip(targets).map(loss).collect())
}

pub(super) fn slice<'s>(storage: &'s CpuStorage, layout: &Layout) -> Result<&'s [f32]> {
    let CpuStorage::F32(values) = storage else { bail!("only f32 is computed with") };
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("a tensor is not contiguous") };
    Ok(&values[start..end])
}

pub(super) fn slice_mut<'s>(storage: &'s mut CpuStorage, layout: &Layout) -> Result<&'s mut [f32]> {
    let CpuStorage::F32(values) = storage else { bail!("only f32 is computed with") };
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("a tensor is not contiguous") };
    Ok(&mut values[start..end])
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn powers_are_near() {
        for i in 0..=87_000 {
            let x = -(i as f32) / 1000.0;
            let error = (f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs();
            assert!(error < 2.5e-7, "exp({x}) is off by {error}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 2e-38 && exp(f32::NAN).is_nan());
    }
}
