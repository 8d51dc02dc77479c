//! Sixteen groups side by side. What a line means is in [`crate::mask`] and [`crate::noise`]; nothing here branches, and
//! everything is inlined into a caller that [`by_processor!`](super::vector::by_processor) compiled for the processor.

use super::vector::{LANES, Vector, Words};
use crate::element::{DType, Float};
use crate::noise;
use crate::pattern::Pattern;

/// `PER` values of each of sixteen groups.
#[derive(Clone, Copy)]
pub(crate) struct Block<V, const PER: usize>(pub(crate) [V; PER]);

/// The pattern of each lane.
pub(crate) struct Choice<V: Vector> {
    /// Its index; [`NO_PATTERN`] where the scores have no finite maximum.
    index: V::Words,
    /// A bit for each position kept.
    kept: V::Words,
    /// The bits of a NaN where there is no pattern, else 0.
    poison: V::Words,
}

const NO_PATTERN: u32 = 6;

/// Bits kept and code by index, with a last entry for [`NO_PATTERN`].
const BITS: u32 = 0x0ca6953;
const CODES: u32 = 0x0ed9c84;

/// A soft mask and what its gradient needs.
pub(crate) struct Soft<V> {
    /// `exp((z − max)/τ)`.
    exponentials: Block<V, 6>,
    pub(crate) mask: Block<V, 4>,
    /// The largest `y`, which is 1 over the sum of the exponentials.
    pub(crate) confidence: V,
}

impl<V: Vector, const PER: usize> Block<V, PER> {
    #[inline(always)]
    pub(crate) fn splat(value: f32) -> Self {
        Self([V::splat(value); PER])
    }

    /// Reads up to sixteen groups; missing ones are zero.
    #[inline(always)]
    pub(crate) fn read<T: Float>(from: &[T]) -> Self {
        // All sixteen are read where they lie if they can be.
        if T::DTYPE == DType::F32
            && let Some(groups) = bytemuck::cast_slice(from).as_chunks().0.first_chunk()
        {
            return Self(V::turn(groups));
        }
        let mut groups = [[0.0; PER]; LANES];
        let flat = groups.as_flattened_mut();
        match from.get(..PER * LANES) {
            // A length that the compiler knows.
            Some(all) => T::widen(all, flat),
            None => T::widen(from, flat),
        }
        Self(V::turn(&groups))
    }

    /// Writes as many groups as there is room for.
    #[inline(always)]
    pub(crate) fn write<T: Float>(&self, to: &mut [T]) {
        let mut groups = [[0.0; PER]; LANES];
        V::turn_back(&self.0, &mut groups);
        let flat = groups.as_flattened();
        match to.get_mut(..PER * LANES) {
            Some(all) => T::narrow(flat, all),
            None => T::narrow(flat, to),
        }
    }

    /// `self = factor·self + addend`, with one rounding.
    #[inline(always)]
    pub(crate) fn mul_add(&mut self, factor: f32, addend: &Self) {
        for (values, addend) in self.0.iter_mut().zip(&addend.0) {
            *values = values.mul_add(V::splat(factor), *addend);
        }
    }

    #[inline(always)]
    pub(crate) fn to_arrays(self) -> [[f32; LANES]; PER] {
        let mut arrays = [[0.0; LANES]; PER];
        for (array, values) in arrays.iter_mut().zip(self.0) {
            *array = values.to_array();
        }
        arrays
    }

    /// The sum of each group's squares.
    #[inline(always)]
    pub(crate) fn squares(&self) -> V {
        let mut squares = V::splat(0.0);
        for values in self.0 {
            squares = values.mul_add(values, squares);
        }
        squares
    }

    #[inline(always)]
    pub(crate) fn add(&mut self, other: &Self) {
        for (values, others) in self.0.iter_mut().zip(&other.0) {
            *values = *values + *others;
        }
    }
}

impl<V: Vector> Block<V, 6> {
    /// The largest score, NaN if any is.
    #[inline(always)]
    pub(crate) fn largest(&self) -> V {
        let [a, b, c, d, e, f] = self.0;
        let top = a.max(b).max(c.max(d)).max(e.max(f));
        let lost = a.is_unordered(b) | c.is_unordered(d) | e.is_unordered(f);
        V::select(lost, V::splat(f32::NAN), top)
    }

    /// Logits to [`crate::mask`]'s `r` and the largest `r`, which is NaN where the largest score is not finite.
    #[inline(always)]
    pub(crate) fn relative_scores(&self, kappa: f32, noise: &Self) -> (Self, V) {
        let (mut scores, largest) = (*self, self.largest());
        for values in &mut scores.0 {
            *values = *values - largest;
        }
        scores.mul_add(kappa, noise);
        let top = scores.largest();
        (scores, (V::splat(kappa) * largest).mul_add(V::splat(0.0), top))
    }

    /// The lowest index whose score is the largest.
    #[inline(always)]
    pub(crate) fn choose(&self, top: V) -> Choice<V> {
        let word = V::Words::splat;
        let mut index = word(NO_PATTERN);
        for (i, z) in self.0.into_iter().enumerate().rev() {
            index = V::Words::select(z.equals(top), word(i as u32), index);
        }
        let finite = top.is_finite();
        let index = V::Words::select(finite, index, word(NO_PATTERN));
        let poison = V::Words::select(finite, word(0), word(f32::NAN.to_bits()));
        Choice { index, kept: word(BITS).shr_each(index.shl::<2>()), poison }
    }

    #[inline(always)]
    pub(crate) fn soft_mask(&self, top: V, scale: f32) -> Soft<V> {
        let mut exponentials = *self;
        for values in &mut exponentials.0 {
            *values = exp2((*values - top) * V::splat(scale));
        }
        let [a, b, c, d, e, f] = exponentials.0;
        let inverse = V::splat(1.0) / ((a + b) + (c + d) + (e + f));
        let inverse = V::select(top.is_finite(), inverse, V::splat(f32::NAN));
        let mask = [(a + b + c) * inverse, (a + d + e) * inverse, (b + d + f) * inverse, (e + f + c) * inverse];
        Soft { exponentials, mask: Block(mask), confidence: inverse }
    }
}

impl<V: Vector> Block<V, 4> {
    #[inline(always)]
    pub(crate) fn times(&self, mask: &Self) -> Self {
        let mut product = *self;
        for (values, factors) in product.0.iter_mut().zip(&mask.0) {
            *values = *values * *factors;
        }
        product
    }

    /// The values at kept positions, +0 elsewhere, NaN where there is no pattern.
    #[inline(always)]
    pub(crate) fn keep(&self, choice: &Choice<V>) -> Self {
        let (mut values, mut kept) = (*self, choice.kept);
        for value in &mut values.0 {
            let keeps = V::Words::splat(0) - (kept & V::Words::splat(1));
            *value = V::from_bits(value.to_bits() & keeps | choice.poison);
            kept = kept.shr::<1>();
        }
        values
    }

    /// `dm_j = W_j (G_j − 2λ W_j m_j)`.
    #[inline(always)]
    pub(crate) fn mask_gradient(&self, gradient: &Self, used: &Self, minus_2_lambda: f32) -> Self {
        let mut d = *self;
        for (j, values) in d.0.iter_mut().enumerate() {
            let w = *values;
            *values = w * (V::splat(minus_2_lambda) * w).mul_add(used.0[j], gradient.0[j]);
        }
        d
    }
}

impl<V: Vector> Soft<V> {
    /// `dlogit_i = (κ/τ) y_i (v_i − Σ_k y_k v_k)` with `v_i = u_i − Σ_{m_j > ½} dm_j`, which is exactly 0 where `y_i` is
    /// nearly 1.
    #[inline(always)]
    pub(crate) fn logit_gradient(&self, of_mask: &Block<V, 4>, logit_scale: f32) -> Block<V, 6> {
        let ([a, b, c, d], e) = (of_mask.0, self.exponentials.0);
        let (mut kept, mut mean) = (V::splat(0.0), V::splat(0.0));
        for (d, m) in of_mask.0.into_iter().zip(self.mask.0) {
            kept = kept + V::select(V::splat(0.5).is_below(m), d, V::splat(0.0));
        }
        let mut v = [a + b, a + c, a + d, b + c, b + d, c + d];
        for (v, e) in v.iter_mut().zip(e) {
            *v = *v - kept;
            mean = e.mul_add(*v, mean);
        }
        let scale = V::splat(logit_scale) * self.confidence;
        let less = V::splat(-0.0) - mean * (self.confidence * scale);
        for (v, e) in v.iter_mut().zip(e) {
            *v = e * scale.mul_add(*v, less);
        }
        Block(v)
    }
}

impl<V: Vector> Choice<V> {
    #[inline(always)]
    pub(crate) fn write_indices(&self, to: &mut [u8]) {
        for (out, index) in to.iter_mut().zip(self.index.to_array()) {
            *out = if index == NO_PATTERN { Pattern::POISON } else { index as u8 };
        }
    }

    /// Two codes a byte; the high nibble of a last odd group's byte is zero.
    #[inline(always)]
    fn packed(&self, count: usize) -> [u8; LANES / 2] {
        let codes = V::Words::splat(CODES).shr_each(self.index.shl::<2>()) & V::Words::splat(15);
        let mut packed = [0; LANES / 2];
        for (packed, [low, high]) in packed.iter_mut().zip(codes.to_array().as_chunks().0) {
            *packed = (low | high << 4) as u8;
        }
        if !count.is_multiple_of(2) {
            packed[count / 2] &= 15;
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
        let pairs = self.index.to_array().into_iter().zip(other.index.to_array());
        pairs.take(count).filter(|(index, other)| index != other).count() as u64
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
pub(crate) fn gumbels<V: Vector>(round_keys: &[u32; 20], draw: u64, groups: &[u64; LANES]) -> Block<V, 6> {
    let [a, b, c, d] = V::Words::philox(round_keys, draw, groups);
    let ([k0, k1, k2], [k3, k4, k5]) = (split(a, b), split(c, d));
    Block([gumbel(k0), gumbel(k1), gumbel(k2), gumbel(k3), gumbel(k4), gumbel(k5)])
}

/// Three fields of two words, as [`noise::split`] cuts them, with bits above each that do not count.
#[inline(always)]
fn split<W: Words>(low: W, high: W) -> [W; 3] {
    [low.shr::<2>(), low.shr::<23>() | high.shl::<9>(), high.shr::<12>() | low.shl::<20>()]
}

/// [`noise::gumbel`]. Only the low 21 bits of `k` count.
#[inline(always)]
fn gumbel<V: Vector>(k: V::Words) -> V {
    let (word, half) = (V::Words::splat, V::splat(0.5));
    let field = (k & word(0x1f_ffff)).shl::<2>();
    let from_half = V::from_bits(word(0x3f80_0002) | field) - V::splat(1.0) - half;
    let t = half - from_half.abs();
    let segment = t.to_bits().shr::<17>() - word(noise::FIRST_SEGMENT);
    V::on_line(t, segment.shl::<1>() | from_half.to_bits().shr::<31>())
}

/// `2^x` for `x ≤ 0`, to 2e-7 of the value; 0 below 2⁻¹²⁶, anything for NaN.
#[inline(always)]
pub(crate) fn exp2<V: Vector>(x: V) -> V {
    // Adding 1.5·2²³ rounds to an integer, which then stands in the low mantissa bits.
    let rounder = V::splat(12_582_912.0);
    let shifted = x + rounder;
    let f = x - (shifted - rounder);
    // Taylor's coefficients ln(2)^i / i!, on [-1/2, 1/2].
    let mut p = V::splat(1.540_353e-4);
    for c in [1.333_355_8e-3, 9.618_129e-3, 5.550_411e-2, 2.402_265e-1, std::f32::consts::LN_2, 1.0] {
        p = p.mul_add(f, V::splat(c));
    }
    let power = V::from_bits(p.to_bits() + shifted.to_bits().shl::<23>());
    V::select(x.is_below(V::splat(-126.0)), V::splat(0.0), power)
}

#[inline(always)]
pub(crate) fn sum(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value)).sum()
}
