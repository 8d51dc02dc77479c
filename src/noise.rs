//! One noise, bit for bit, on the CPU, in the emulator and on every GPU.
//!
//! A Gumbel variate is a pure function of `(seed, draw, global group, pattern)`, so it is never stored: the backward pass
//! makes it again, and a shard of a weight sees the noise of the whole. How it is made:
//!
//! 1. **Philox4x32-10** (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): key = seed, counter =
//!    (global group number, draw), each 64 bits with the low word first. One call gives 128 bits, enough for a group.
//! 2. **Six uniforms** of 21 bits. The words `x0 x1` and `x2 x3` are each taken as one 64-bit number, turned right by
//!    two bits and cut, from the low end, into three fields `k`; `u = (k + ½)·2⁻²¹` lies strictly between 0 and 1. The
//!    first number serves the patterns 0, 1, 2, the second 3, 4, 5. (Turned by two, a field needs no shift or one to land
//!    in the mantissa of a float.)
//! 3. **The Gumbel variate** `g = −ln(−ln u)`, from a line per segment: with `t = min(u, 1−u)`, exact in `f32`,
//!    `g = fma(slope, t, offset)`. A segment is an exponent of `t` and six mantissa bits, on either side of ½. The largest
//!    error over all 2²¹ values is 1.53e-5 (`tests/noise.rs` tries each).
//!
//! Everything is integer arithmetic, exact float arithmetic or one IEEE fma, so every executor agrees to the last bit.
//! The device twins are `cuda/common/philox.cuh` and `cuda/common/gumbel.cuh`.

use crate::error::{Error, Result};

mod table;

/// Philox4x32-10: ten rounds over a 128-bit counter under a 64-bit key.
#[inline(always)]
#[must_use]
pub const fn philox(seed: u64, counter: [u32; 4]) -> [u32; 4] {
    let mut key = [seed as u32, (seed >> 32) as u32];
    let mut x = counter;
    let mut round = 0;
    while round < 10 {
        let a = x[0] as u64 * 0xd251_1f53;
        let b = x[2] as u64 * 0xcd9e_8d57;
        x = [(b >> 32) as u32 ^ x[1] ^ key[0], b as u32, (a >> 32) as u32 ^ x[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
        round += 1;
    }
    x
}

/// The six 21-bit fields of a group, one a pattern.
#[inline(always)]
#[must_use]
pub const fn fields(seed: u64, draw: u64, group: u64) -> [u32; 6] {
    let x = philox(seed, [group as u32, (group >> 32) as u32, draw as u32, (draw >> 32) as u32]);
    let low = (x[0] as u64 | (x[1] as u64) << 32).rotate_right(2);
    let high = (x[2] as u64 | (x[3] as u64) << 32).rotate_right(2);
    const MASK: u64 = (1 << 21) - 1;
    [
        (low & MASK) as u32,
        (low >> 21 & MASK) as u32,
        (low >> 42 & MASK) as u32,
        (high & MASK) as u32,
        (high >> 21 & MASK) as u32,
        (high >> 42 & MASK) as u32,
    ]
}

/// The uniform of a field: `(k + ½)·2⁻²¹`, exact.
///
/// Only the low 21 bits of `k` count.
#[inline(always)]
#[must_use]
pub const fn uniform(k: u32) -> f32 {
    f32::from_bits(0x3f80_0002 | (k & 0x1f_ffff) << 2) - 1.0
}

/// `t.to_bits() >> 17` of the smallest `t`, 2⁻²².
const FIRST_SEGMENT: u32 = 105 << 6;

/// The Gumbel variate `−ln(−ln u)` of a field, to 1.53e-5, from -2.73 to 15.2.
///
/// Only the low 21 bits of `k` count.
#[inline(always)]
#[must_use]
pub fn gumbel(k: u32) -> f32 {
    let from_half = uniform(k) - 0.5;
    let t = 0.5 - from_half.abs();
    let below = from_half.to_bits() >> 31;
    let line = ((t.to_bits() >> 17) - FIRST_SEGMENT) << 1 | below;
    // t lies in [2⁻²², ½), so its segment lies in the table; `get` keeps that promise out of `unsafe`.
    let [slope, offset] = table::LINES.get(line as usize).copied().unwrap_or([0; 2]);
    f32::from_bits(slope).mul_add(t, f32::from_bits(offset))
}

/// The six Gumbel variates of a group, one a pattern.
#[inline(always)]
#[must_use]
pub fn gumbels(seed: u64, draw: u64, group: u64) -> [f32; 6] {
    fields(seed, draw, group).map(gumbel)
}

/// Packs the usual origin of a mask into a `draw`: 16 bits of layer, 32 of step, 16 of micro-batch. Any other injective
/// packing serves as well; what matters is that no two masks of a run share `(seed, draw)`.
#[inline]
#[must_use]
pub const fn draw(layer: u16, step: u32, micro_batch: u16) -> u64 {
    (layer as u64) << 48 | (step as u64) << 16 | micro_batch as u64
}

/// Where a slice of a weight lies in the whole, so that its groups see the noise of the whole (tensor or data
/// parallelism does not change a mask).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Shard {
    /// Rows of the whole weight before the slice.
    pub row_offset: u64,
    /// Columns of the whole weight before the slice; a multiple of 4.
    pub col_offset: u64,
    /// Columns of the whole weight; a multiple of 4.
    pub global_cols: u64,
}

impl Shard {
    /// The whole weight as its own only shard.
    #[must_use]
    pub const fn whole(cols: u64) -> Self {
        Self { row_offset: 0, col_offset: 0, global_cols: cols }
    }

    /// The global number of the group at `group` of row `row` of the slice.
    #[inline]
    #[must_use]
    pub const fn group(&self, row: u64, group: u64) -> u64 {
        (self.row_offset + row) * (self.global_cols / 4) + self.col_offset / 4 + group
    }

    /// Checks that a slice of `[rows, cols]` lies on group boundaries inside the whole.
    ///
    /// # Errors
    /// [`Error::Shard`] if it does not, or if a global group number would not fit 64 bits.
    pub fn check(&self, rows: u64, cols: u64) -> Result<()> {
        let fits = || {
            let end = self.col_offset.checked_add(cols)?;
            let last = self.row_offset.checked_add(rows)?.checked_mul(self.global_cols / 4)?;
            let grouped = self.col_offset % 4 == 0 && self.global_cols % 4 == 0;
            (grouped && end <= self.global_cols && last < 1 << 62).then_some(())
        };
        fits().ok_or(Error::Shard {
            row_offset: self.row_offset,
            col_offset: self.col_offset,
            col_end: self.col_offset.saturating_add(cols),
            global_cols: self.global_cols,
        })
    }
}
