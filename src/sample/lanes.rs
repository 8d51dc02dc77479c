//! Sixteen groups side by side. Every function is a loop over lanes without branches, inlined into a caller that was
//! compiled for the processor at hand; what a line means is in [`crate::mask`] and [`crate::noise`].

// A lane's number indexes several arrays at once; iterators over all of them would hide what is done.
#![allow(clippy::needless_range_loop)]

use crate::element::Float;
use crate::noise;
use crate::pattern::Pattern;

/// Groups worked on at once.
pub(crate) const LANES: usize = 16;

pub(crate) type Lane = [f32; LANES];

/// `PER` values of each of sixteen groups: `self.0[i][lane]`.
#[derive(Clone, Copy)]
pub(crate) struct Block<const PER: usize>(pub(crate) [Lane; PER]);

/// The pattern of each lane.
pub(crate) struct Choice {
    /// Its index; [`NO_PATTERN`] where the scores have no finite maximum.
    index: [u32; LANES],
    /// A bit for each position kept.
    kept: [u32; LANES],
    /// The bits of a NaN where there is no pattern, else 0.
    poison: [u32; LANES],
}

const NO_PATTERN: u32 = 6;

/// Bits kept and code by index, with a last entry for [`NO_PATTERN`].
const BITS: u32 = 0x0ca6953;
const CODES: u32 = 0x0ed9c84;

/// A soft mask and what its gradient needs.
pub(crate) struct Soft {
    /// `exp((z − max)/τ)`.
    exponentials: Block<6>,
    pub(crate) mask: Block<4>,
    /// The largest `y`, which is 1 over the sum of the exponentials.
    pub(crate) confidence: Lane,
}

impl<const PER: usize> Block<PER> {
    /// Reads up to sixteen groups; missing ones are zero.
    #[inline(always)]
    pub(crate) fn read<T: Float>(from: &[T]) -> Self {
        let mut flat = [[0.0; PER]; LANES];
        T::widen(from, flat.as_flattened_mut());
        let mut block = Self([[0.0; LANES]; PER]);
        for lane in 0..LANES {
            for i in 0..PER {
                block.0[i][lane] = flat[lane][i];
            }
        }
        block
    }

    /// Writes as many groups as there is room for.
    #[inline(always)]
    pub(crate) fn write<T: Float>(&self, to: &mut [T]) {
        let mut flat = [[0.0; PER]; LANES];
        for lane in 0..LANES {
            for i in 0..PER {
                flat[lane][i] = self.0[i][lane];
            }
        }
        T::narrow(flat.as_flattened(), to);
    }

    /// `self = κ·self + noise`, with one rounding.
    #[inline(always)]
    pub(crate) fn mul_add(&mut self, factor: f32, addend: &Self) {
        for (values, addends) in self.0.iter_mut().zip(&addend.0) {
            for lane in 0..LANES {
                values[lane] = factor.mul_add(values[lane], addends[lane]);
            }
        }
    }

    /// The sum of each group's squares.
    #[inline(always)]
    pub(crate) fn squares(&self) -> Lane {
        let mut squares = [0.0; LANES];
        for values in &self.0 {
            for lane in 0..LANES {
                squares[lane] = values[lane].mul_add(values[lane], squares[lane]);
            }
        }
        squares
    }

    #[inline(always)]
    pub(crate) fn add(&mut self, other: &Self) {
        for (values, others) in self.0.iter_mut().zip(&other.0) {
            for lane in 0..LANES {
                values[lane] += others[lane];
            }
        }
    }
}

impl Block<6> {
    /// The largest score, NaN if any is.
    #[inline(always)]
    pub(crate) fn largest(&self) -> Lane {
        let mut top = self.0[0];
        for z in &self.0[1..] {
            for lane in 0..LANES {
                let greater = z[lane] > top[lane] || z[lane].is_nan();
                top[lane] = if greater { z[lane] } else { top[lane] };
            }
        }
        top
    }

    /// Logits to [`crate::mask`]'s `r` and the largest `r`, which is not finite where the largest score is not.
    #[inline(always)]
    pub(crate) fn relative_scores(&self, kappa: f32, noise: &Self) -> (Self, Lane) {
        let (mut scores, largest) = (*self, self.largest());
        for (values, noise) in scores.0.iter_mut().zip(&noise.0) {
            for lane in 0..LANES {
                values[lane] = kappa.mul_add(values[lane], -(kappa * largest[lane])) + noise[lane];
            }
        }
        let top = scores.largest();
        (scores, top)
    }

    /// The lowest index whose score is the largest.
    #[inline(always)]
    pub(crate) fn choose(&self, top: &Lane) -> Choice {
        let mut choice = Choice { index: [NO_PATTERN; LANES], kept: [0; LANES], poison: [0; LANES] };
        for (index, z) in self.0.iter().enumerate().rev() {
            for lane in 0..LANES {
                choice.index[lane] = if z[lane] == top[lane] { index as u32 } else { choice.index[lane] };
            }
        }
        for lane in 0..LANES {
            let finite = top[lane].is_finite();
            choice.index[lane] = if finite { choice.index[lane] } else { NO_PATTERN };
            choice.poison[lane] = if finite { 0 } else { f32::NAN.to_bits() };
            choice.kept[lane] = BITS >> (4 * choice.index[lane]);
        }
        choice
    }

    #[inline(always)]
    pub(crate) fn soft_mask(&self, top: &Lane, scale: f32) -> Soft {
        let mut e = *self;
        for values in &mut e.0 {
            for lane in 0..LANES {
                values[lane] = exp2((values[lane] - top[lane]) * scale);
            }
        }
        let mut mask = [[0.0; LANES]; 4];
        let mut confidence = [0.0; LANES];
        let [e0, e1, e2, e3, e4, e5] = &e.0;
        for lane in 0..LANES {
            let (e0, e1, e2) = (e0[lane], e1[lane], e2[lane]);
            let (e3, e4, e5) = (e3[lane], e4[lane], e5[lane]);
            let inverse = 1.0 / ((e0 + e1) + (e2 + e3) + (e4 + e5));
            confidence[lane] = inverse;
            mask[0][lane] = (e0 + e1 + e2) * inverse;
            mask[1][lane] = (e0 + e3 + e4) * inverse;
            mask[2][lane] = (e1 + e3 + e5) * inverse;
            mask[3][lane] = (e4 + e5 + e2) * inverse;
        }
        Soft { exponentials: e, mask: Block(mask), confidence }
    }
}

impl Block<4> {
    #[inline(always)]
    pub(crate) fn ones() -> Self {
        Self([[1.0; LANES]; 4])
    }

    #[inline(always)]
    pub(crate) fn times(&self, mask: &Self) -> Self {
        let mut product = *self;
        for (values, factors) in product.0.iter_mut().zip(&mask.0) {
            for lane in 0..LANES {
                values[lane] *= factors[lane];
            }
        }
        product
    }

    /// The values at kept positions, +0 elsewhere, NaN where there is no pattern.
    #[inline(always)]
    pub(crate) fn keep(&self, choice: &Choice) -> Self {
        let mut kept = *self;
        for (j, values) in kept.0.iter_mut().enumerate() {
            for lane in 0..LANES {
                let keeps = 0_u32.wrapping_sub((choice.kept[lane] >> j) & 1);
                values[lane] = f32::from_bits(values[lane].to_bits() & keeps | choice.poison[lane]);
            }
        }
        kept
    }

    /// `dm_j = W_j (G_j − 2λ W_j m_j)`.
    #[inline(always)]
    pub(crate) fn mask_gradient(&self, gradient: &Self, used: &Self, minus_2_lambda: f32) -> Self {
        let mut d = *self;
        for (j, values) in d.0.iter_mut().enumerate() {
            for lane in 0..LANES {
                let w = values[lane];
                values[lane] = w * (minus_2_lambda * w).mul_add(used.0[j][lane], gradient.0[j][lane]);
            }
        }
        d
    }
}

impl Soft {
    /// `dlogit_i = (κ/τ) y_i (v_i − Σ_k y_k v_k)` with `v_i = u_i − Σ_{m_j > ½} dm_j`, which is exactly 0 where `y_i` is
    /// nearly 1.
    #[inline(always)]
    pub(crate) fn logit_gradient(&self, of_mask: &Block<4>, logit_scale: f32) -> Block<6> {
        let (d, m, e) = (&of_mask.0, &self.mask.0, &self.exponentials.0);
        let mut v: [Lane; 6] = Pattern::ALL.map(|pattern| {
            let [first, second] = pattern.kept();
            std::array::from_fn(|lane| d[first as usize][lane] + d[second as usize][lane])
        });
        let (mut kept, mut mean) = ([0.0; LANES], [0.0; LANES]);
        for (d, m) in d.iter().zip(m) {
            for lane in 0..LANES {
                kept[lane] += if m[lane] > 0.5 { d[lane] } else { 0.0 };
            }
        }
        for (v, e) in v.iter_mut().zip(e) {
            for lane in 0..LANES {
                v[lane] -= kept[lane];
                mean[lane] = e[lane].mul_add(v[lane], mean[lane]);
            }
        }
        for (v, e) in v.iter_mut().zip(e) {
            for lane in 0..LANES {
                let scale = logit_scale * self.confidence[lane];
                let mean = mean[lane] * (self.confidence[lane] * scale);
                v[lane] = e[lane] * scale.mul_add(v[lane], -mean);
            }
        }
        Block(v)
    }
}

impl Choice {
    #[inline(always)]
    pub(crate) fn write_indices(&self, to: &mut [u8]) {
        for (out, &index) in to.iter_mut().zip(&self.index) {
            *out = if index == NO_PATTERN { Pattern::POISON } else { index as u8 };
        }
    }

    /// Two codes a byte; the high nibble of a last odd group's byte is zero.
    #[inline(always)]
    fn packed(&self, count: usize) -> [u8; LANES / 2] {
        let mut packed = [0; LANES / 2];
        for lane in 0..count {
            packed[lane / 2] |= (((CODES >> (4 * self.index[lane])) & 15) << (4 * (lane % 2))) as u8;
        }
        packed
    }

    #[inline(always)]
    pub(crate) fn write_codes(&self, count: usize, to: &mut [u8]) {
        to.copy_from_slice(&self.packed(count)[..to.len()]);
    }

    /// How many of the first `count` groups have another pattern.
    #[inline(always)]
    pub(crate) fn differing(&self, other: &Self, count: usize) -> u64 {
        (0..count).filter(|&lane| self.index[lane] != other.index[lane]).count() as u64
    }

    /// How many of the first `count` groups have another code.
    #[inline(always)]
    pub(crate) fn moved(&self, count: usize, codes: &[u8]) -> u64 {
        let packed = self.packed(count);
        let differs = |lane: usize| ((packed[lane / 2] ^ codes[lane / 2]) >> (4 * (lane % 2))) & 15 != 0;
        (0..count).filter(|&lane| differs(lane)).count() as u64
    }
}

/// The Gumbel noise of sixteen groups.
#[inline(always)]
pub(crate) fn gumbels(round_keys: &[u32; 20], draw: u64, groups: &[u64; LANES]) -> Block<6> {
    let x = words(round_keys, draw, groups);
    let mut fields = [[0; LANES]; 6];
    for i in 0..6 {
        // One field at a time, so that each is vector code; what `split` makes of the others is left out.
        for lane in 0..LANES {
            fields[i][lane] = noise::split([x[0][lane], x[1][lane], x[2][lane], x[3][lane]])[i];
        }
    }
    let mut noise = Block([[0.0; LANES]; 6]);
    for i in 0..6 {
        noise.0[i] = gumbel(&fields[i]);
    }
    noise
}

/// The four words of Philox of sixteen groups.
#[inline(always)]
pub(crate) fn words(round_keys: &[u32; 20], draw: u64, groups: &[u64; LANES]) -> [[u32; LANES]; 4] {
    let mut x = [[0; LANES]; 4];
    for first in (0..LANES).step_by(REGISTERS) {
        let wide = philox(round_keys, draw, &groups[first..first + REGISTERS]);
        for word in 0..4 {
            for lane in 0..REGISTERS {
                x[word][first + lane] = wide[word][lane] as u32;
            }
        }
    }
    x
}

/// Lanes whose four words of Philox fit the processor's registers.
const REGISTERS: usize = 8;

/// [`noise::philox`] of some groups, a word of 32 bits in 64, as the processor multiplies them; what gathers in the
/// upper half is never looked at.
#[inline(always)]
fn philox(round_keys: &[u32; 20], draw: u64, groups: &[u64]) -> [[u64; REGISTERS]; 4] {
    const LOW: u64 = 0xffff_ffff;
    let (mut x0, mut x1) = ([0; REGISTERS], [0; REGISTERS]);
    let (mut x2, mut x3) = ([draw & LOW; REGISTERS], [draw >> 32; REGISTERS]);
    for lane in 0..REGISTERS {
        x0[lane] = groups[lane];
        x1[lane] = groups[lane] >> 32;
    }
    for keys in round_keys.chunks_exact(2) {
        for lane in 0..REGISTERS {
            let a = (x0[lane] & LOW) * u64::from(noise::MULTIPLIERS[0]);
            let b = (x2[lane] & LOW) * u64::from(noise::MULTIPLIERS[1]);
            x0[lane] = (b >> 32) ^ x1[lane] ^ u64::from(keys[0]);
            x1[lane] = b;
            x2[lane] = (a >> 32) ^ x3[lane] ^ u64::from(keys[1]);
            x3[lane] = a;
        }
    }
    [x0, x1, x2, x3]
}

/// [`noise::gumbel`] in three loops, of which only the look-up in the middle goes lane by lane.
#[inline(always)]
fn gumbel(k: &[u32; LANES]) -> Lane {
    let (mut t, mut number, mut line) = ([0.0; LANES], [0; LANES], [[0; 2]; LANES]);
    for lane in 0..LANES {
        (t[lane], number[lane]) = noise::place(k[lane]);
    }
    for lane in 0..LANES {
        line[lane] = noise::LINES[(number[lane] & 4095) as usize];
    }
    for lane in 0..LANES {
        t[lane] = f32::from_bits(line[lane][0]).mul_add(t[lane], f32::from_bits(line[lane][1]));
    }
    t
}

/// `2^x` for `x ≤ 0`, to 2e-7 of the value; 0 below 2⁻¹²⁶, NaN for NaN.
#[inline(always)]
fn exp2(x: f32) -> f32 {
    // Adding 1.5·2²³ rounds to an integer, which then stands in the low mantissa bits.
    const ROUNDER: f32 = 12_582_912.0;
    let shifted = x + ROUNDER;
    let f = x - (shifted - ROUNDER);
    // Taylor's coefficients ln(2)^i / i!, on [-1/2, 1/2].
    let mut p = 1.540_353e-4_f32;
    for c in [1.333_355_8e-3, 9.618_129e-3, 5.550_411e-2, 2.402_265e-1, std::f32::consts::LN_2, 1.0] {
        p = p.mul_add(f, c);
    }
    let power = f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23));
    let flushed = if x < -126.0 { 0.0 } else { power };
    if x.is_nan() { x } else { flushed }
}

#[inline(always)]
pub(crate) fn sum(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value)).sum()
}
