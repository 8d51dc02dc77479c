//! One noise, bit for bit, on the CPU, in the emulator and on every GPU.
//!
//! A Gumbel variate is a pure function of `(seed, draw, global group, pattern)`, so it is never stored: the backward
//! pass makes it again, and a shard of a weight sees the noise of the whole. How it is made:
//!
//! 1. **Philox4x32-10** (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): key = seed, counter =
//!    (global group number, draw), each 64 bits with the low word first. One call gives 128 bits, enough for a group.
//! 2. **Six uniforms** of 21 bits. The words `x0 x1` and `x2 x3` are each taken as one 64-bit number, turned right by
//!    two bits and cut, from the low end, into three fields `k`; `u = (k + ½)·2⁻²¹` lies strictly between 0 and 1. The
//!    first number serves the patterns 0, 1, 2, the second 3, 4, 5. (Turned by two, a field needs no shift or one to
//!    land in the mantissa of a float.)
//! 3. **The Gumbel variate** `g = −ln(−ln u)`, from a line per segment: with `t = min(u, 1−u)`, exact in `f32`,
//!    `g = fma(slope, t, offset)`. A segment is an exponent of `t` and six mantissa bits, on either side of ½. The
//!    largest error over all 2²¹ values is 1.53e-5 (`tests/noise.rs` tries each).
//!
//! Everything is integer arithmetic, exact float arithmetic or one IEEE fma, so every executor agrees to the last bit.
//! The device twins are `cuda/common/philox.cuh` and `cuda/common/gumbel.cuh`.

mod table;

/// The keys of Philox' ten rounds, two words a round.
#[inline]
#[must_use]
pub const fn round_keys(seed: u64) -> [u32; 20] {
    let mut keys = [0; 20];
    let mut round = 0;
    while round < 10 {
        keys[2 * round] = (seed as u32).wrapping_add((round as u32).wrapping_mul(0x9e37_79b9));
        keys[2 * round + 1] = ((seed >> 32) as u32).wrapping_add((round as u32).wrapping_mul(0xbb67_ae85));
        round += 1;
    }
    keys
}

/// Philox4x32-10: ten rounds over a 128-bit counter under a 64-bit key, given as [`round_keys`].
#[inline(always)]
#[must_use]
pub const fn philox(keys: &[u32; 20], counter: [u32; 4]) -> [u32; 4] {
    let mut x = counter;
    let mut i = 0;
    while i < 10 {
        x = round(x, keys[2 * i], keys[2 * i + 1]);
        i += 1;
    }
    x
}

/// What Philox multiplies the first and the third word by.
pub(crate) const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];

/// One of the ten rounds.
const fn round(x: [u32; 4], key_0: u32, key_1: u32) -> [u32; 4] {
    let a = x[0] as u64 * MULTIPLIERS[0] as u64;
    let b = x[2] as u64 * MULTIPLIERS[1] as u64;
    [(b >> 32) as u32 ^ x[1] ^ key_0, b as u32, (a >> 32) as u32 ^ x[3] ^ key_1, a as u32]
}

/// The six 21-bit fields of a group, one a pattern.
#[inline(always)]
#[must_use]
pub const fn fields(seed: u64, draw: u64, group: u64) -> [u32; 6] {
    let x = philox(&round_keys(seed), [group as u32, (group >> 32) as u32, draw as u32, (draw >> 32) as u32]);
    split(x)
}

/// Cuts Philox' four words into six 21-bit fields.
#[inline(always)]
pub(crate) const fn split(x: [u32; 4]) -> [u32; 6] {
    const MASK: u32 = (1 << 21) - 1;
    [
        x[0] >> 2 & MASK,
        (x[0] >> 23 | x[1] << 9) & MASK,
        (x[1] >> 12 | x[0] << 20) & MASK,
        x[2] >> 2 & MASK,
        (x[2] >> 23 | x[3] << 9) & MASK,
        (x[3] >> 12 | x[2] << 20) & MASK,
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
pub(crate) const FIRST_SEGMENT: u32 = 105 << 6;

/// Bytes of the table as it is, in a block's shared memory.
pub(crate) const TABLE_BYTES: u32 = size_of_val(&table::LINES) as u32;

/// The table with its length raised to a power of two, so that a masked index needs no check.
pub(crate) static LINES: [[u32; 2]; 4096] = {
    let mut lines = [[0; 2]; 4096];
    let mut i = 0;
    while i < table::LINES.len() {
        lines[i] = table::LINES[i];
        i += 1;
    }
    lines
};

/// `t = min(u, 1−u)` of a field, and the number of its line.
#[inline(always)]
pub(crate) const fn place(k: u32) -> (f32, u32) {
    let from_half = uniform(k) - 0.5;
    let t = 0.5 - from_half.abs();
    (t, ((t.to_bits() >> 17) - FIRST_SEGMENT) << 1 | from_half.to_bits() >> 31)
}

/// The Gumbel variate `−ln(−ln u)` of a field, to 1.53e-5, from -2.73 to 15.2.
///
/// Only the low 21 bits of `k` count.
#[inline(always)]
#[must_use]
pub fn gumbel(k: u32) -> f32 {
    let (t, line) = place(k);
    let [slope, offset] = LINES[(line & 4095) as usize];
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
///
/// A layer's number may have up to 32 bits: those beyond the sixteenth take the place of the step's highest, which runs
/// do not reach. As long as layers are below `2^(16 + k)` and steps below `2^(32 - k)`, for one `k` from 0 to 16, no
/// two draws of a run are the same: 65,536 layers have 2³² steps, a million (2²⁰) have 2²⁸. [`steps`] says how many
/// there are. Beyond them draws repeat, and nothing here can tell.
#[inline]
#[must_use]
pub const fn draw(layer: u32, step: u32, micro_batch: u16) -> u64 {
    // The seventeenth bit of the layer flips the step's highest, the next one the next: they meet as late as can be.
    let step = step ^ (layer >> 16).reverse_bits();
    (layer as u64 & 0xffff) << 48 | (step as u64) << 16 | micro_batch as u64
}

/// How many steps, from 0 on, have [`draw`]s of their own in a run whose layers have numbers up to `last_layer`.
#[inline]
#[must_use]
pub const fn steps(last_layer: u32) -> u64 {
    1 << (last_layer >> 16).leading_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::constants::Cuda;

    #[test]
    fn constants_are_those_of_the_kernels() {
        let cuda = Cuda::read("common/gumbel.cuh");
        assert_eq!(u64::from(FIRST_SEGMENT), cuda.constant("kFirstSegment"));
        assert!(cuda.has(&format!("TWOFOUR_TABLE u32x2 kGumbelLines[{}] = {{", TABLE_BYTES / 8)));
    }
}
