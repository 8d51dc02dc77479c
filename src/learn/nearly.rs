//! A root and an inverse to a part in a million, for steps beside moments in 8 bits, which are no better known. On a GPU
//! they are half the instructions of IEEE's. A first guess comes from the bits of the float, and two of Newton's steps
//! follow, with constants that make the largest error least: 8e-7 of the root, 1.1e-6 of the inverse. Made of
//! products, sums and integers alone, the bits are those of `cuda/common/adamw.cuh` everywhere.

use crate::sample::vector::{Vector, Words};

/// The square root of `v`, which is not negative: 0 of 0; of numbers below 2⁻¹²⁶, whose bits say less, down to nothing.
#[inline(always)]
pub(super) fn root<V: Vector>(v: V) -> V {
    let minus_half = V::splat(-0.5) * v;
    let y = V::from_bits(V::Words::splat(0x5f37_4540) - v.to_bits().shr::<1>());
    let y = y * (minus_half * y).mul_add(y, V::splat(1.500_908_4));
    let y = y * (minus_half * y).mul_add(y, V::splat(1.500_000_6));
    v * y
}

/// `1/x`, of `x` from 2⁻¹²⁶ to 2¹²⁵.
#[inline(always)]
pub(super) fn inverse<V: Vector>(x: V) -> V {
    let minus = V::splat(-0.0) - x;
    let y = V::from_bits(V::Words::splat(0x7ef3_343c) - x.to_bits());
    let y = y * minus.mul_add(y, V::splat(2.001_282_2));
    y * minus.mul_add(y, V::splat(2.000_000_8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::vector::{LANES, Portable};

    /// Sixteen at a time, of every so many of the floats from one to another.
    fn every(step: usize, range: std::ops::Range<f32>, check: impl Fn(f32, [f32; 2])) {
        let bits = range.start.to_bits()..range.end.to_bits();
        for first in bits.step_by(step) {
            let x: [f32; LANES] = std::array::from_fn(|i| f32::from_bits(first + i as u32));
            let v = Portable::from_array(x);
            let [root, inverse] = [root(v).to_array(), inverse(v).to_array()];
            (0..LANES).for_each(|i| check(x[i], [root[i], inverse[i]]));
        }
    }

    #[test]
    fn a_root_and_an_inverse_are_right_to_a_part_in_a_million() {
        let off = |found: f32, right: f64| (f64::from(found) / right - 1.0).abs();
        let check = |x: f32, [root, inverse]: [f32; 2]| {
            let [by_root, by_inverse] = [off(root, f64::from(x).sqrt()), off(inverse, 1.0 / f64::from(x))];
            assert!(by_root < 8e-7 && by_inverse < 1.1e-6, "{x:e}: {by_root:e} {by_inverse:e}");
        };
        every(509, 1.0..4.0, check);
        every(1 << 17, f32::MIN_POSITIVE..2f32.powi(125), check);
    }

    #[test]
    fn nothing_and_what_is_no_number_stay_what_they_are() {
        let of = |x: f32| [root(Portable::splat(x)).to_array()[0], inverse(Portable::splat(x)).to_array()[0]];
        assert_eq!(of(0.0)[0], 0.0);
        assert!(of(f32::NAN).iter().all(|y| y.is_nan()));
        // The smallest there is, and what has few bits: less than the root, and not negative.
        for x in [f32::from_bits(1), 1e-40, 1e-38] {
            let root = of(x)[0];
            assert!((0.0..=1.0001 * x.sqrt()).contains(&root), "{x:e}: {root:e}");
        }
    }
}
