//! What each operation makes of one lane's numbers, as the PTX ISA has it.
//!
//! - A NaN that single precision makes is the canonical one, 0x7FFFFFFF. Of double precision the ISA promises no bits:
//!   here they are those of the processor.
//! - `ex2.approx` and `rcp.approx` may be off by 2 and 1 units in the last place. Taken are the C library's `exp2f`
//!   (within 1) and the correctly rounded reciprocal, both with subnormal operands and results flushed to zero.
//! - An integer divided by zero gives all ones, and a remainder the dividend: the ISA leaves it open, and a compiler
//!   may divide where the result is not used, so it is no fault.

pub(super) const NAN: u32 = 0x7FFF_FFFF;

/// A result of single precision.
#[inline(always)]
pub(super) fn canonical(value: f32) -> u32 {
    if value.is_nan() { NAN } else { value.to_bits() }
}

/// A function of floats as one of bits.
#[inline(always)]
pub(super) fn float2(a: u32, b: u32, f: impl Fn(f32, f32) -> f32) -> u32 {
    canonical(f(f32::from_bits(a), f32::from_bits(b)))
}

#[inline(always)]
pub(super) fn double2(a: u64, b: u64, f: impl Fn(f64, f64) -> f64) -> u64 {
    f(f64::from_bits(a), f64::from_bits(b)).to_bits()
}

/// A subnormal becomes a zero of its sign.
#[inline(always)]
pub(super) fn flushed(value: f32) -> f32 {
    let bits = value.to_bits();
    if bits & 0x7F80_0000 == 0 { f32::from_bits(bits & 0x8000_0000) } else { value }
}

#[inline(always)]
pub(super) fn exp2_approx(a: u32) -> u32 {
    canonical(flushed(flushed(f32::from_bits(a)).exp2()))
}

#[inline(always)]
pub(super) fn reciprocal_approx(a: u32) -> u32 {
    canonical(flushed(1.0 / flushed(f32::from_bits(a))))
}

/// The smaller; without `nan`, a number wins over a NaN. -0 is less than +0.
#[inline(always)]
pub(super) fn min_f(a: u32, b: u32, nan: bool) -> u32 {
    let (x, y) = (f32::from_bits(a), f32::from_bits(b));
    match (x.is_nan(), y.is_nan()) {
        (true, true) => NAN,
        (true, false) => {
            if nan {
                NAN
            } else {
                b
            }
        }
        (false, true) => {
            if nan {
                NAN
            } else {
                a
            }
        }
        _ if x == y => a | b,
        _ => {
            if x < y {
                a
            } else {
                b
            }
        }
    }
}

/// The larger, as [`min_f`].
#[inline(always)]
pub(super) fn max_f(a: u32, b: u32, nan: bool) -> u32 {
    let (x, y) = (f32::from_bits(a), f32::from_bits(b));
    match (x.is_nan(), y.is_nan()) {
        (true, true) => NAN,
        (true, false) => {
            if nan {
                NAN
            } else {
                b
            }
        }
        (false, true) => {
            if nan {
                NAN
            } else {
                a
            }
        }
        _ if x == y => a & b,
        _ => {
            if x > y {
                a
            } else {
                b
            }
        }
    }
}

/// The smaller or larger of doubles; a number wins over a NaN.
#[inline(always)]
pub(super) fn extreme_d(a: u64, b: u64, largest: bool) -> u64 {
    let (x, y) = (f64::from_bits(a), f64::from_bits(b));
    match (x.is_nan(), y.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ if x == y => {
            if largest {
                a & b
            } else {
                a | b
            }
        }
        _ => {
            if (x > y) == largest {
                a
            } else {
                b
            }
        }
    }
}

/// 16 bits of half precision as a float; a NaN becomes the canonical one.
#[inline(always)]
pub(super) fn float_of_half(half: u32) -> u32 {
    let (sign, exponent, fraction) = ((half & 0x8000) << 16, half >> 10 & 31, half & 0x3FF);
    match (exponent, fraction) {
        (31, 0) => sign | 0x7F80_0000,
        (31, _) => NAN,
        // The fraction counts units of 2^-24.
        (0, _) => sign | (fraction as f32 * (1.0 / 16_777_216.0)).to_bits(),
        _ => sign | (exponent + 112) << 23 | fraction << 13,
    }
}

/// A float as 16 bits of half precision, to nearest, ties to even; a NaN becomes 0x7FFF.
#[inline(always)]
pub(super) fn half_of_float(bits: u32) -> u32 {
    let (sign, rest) = (bits >> 16 & 0x8000, bits & 0x7FFF_FFFF);
    if rest > 0x7F80_0000 {
        return 0x7FFF;
    }
    if rest >= 0x4780_0000 {
        // 2^16 and more.
        return sign | 0x7C00;
    }
    if rest < 0x3880_0000 {
        // Below 2^-14: a whole number of 2^-24, the tie to even by the rounding of integers near 2^23.
        let units = f32::from_bits(rest) * 16_777_216.0;
        let whole = (units + 8_388_608.0) - 8_388_608.0;
        return sign | whole as u32;
    }
    // Rounds the lowest 13 bits away; a carry goes into the exponent, and from the largest to infinity.
    let rounded = rest + 0xFFF + (rest >> 13 & 1);
    sign | ((rounded >> 13) - (112 << 10))
}

/// A float as 16 bits of bfloat, to nearest, ties to even; a NaN becomes 0x7FFF.
#[inline(always)]
pub(super) fn brain_of_float(bits: u32) -> u32 {
    let rounded = (u64::from(bits) + 0x7FFF + u64::from(bits >> 16 & 1)) >> 16;
    if bits & 0x7FFF_FFFF > 0x7F80_0000 { 0x7FFF } else { rounded as u32 }
}

/// A bfloat as a float; a NaN becomes the canonical one.
#[inline(always)]
pub(super) fn float_of_brain(half: u32) -> u32 {
    canonical(f32::from_bits(half << 16))
}

/// To TF32, ties away from zero: the lowest 13 bits are zero. A NaN becomes the canonical one, cut likewise.
#[inline(always)]
pub(super) fn tf32_of_float(bits: u32) -> u32 {
    match bits & 0x7FFF_FFFF {
        0x7F80_0001.. => NAN & !0x1FFF,
        0x7F80_0000 => bits,
        _ => (bits + 0x1000) & !0x1FFF,
    }
}

/// Selects bytes of `b:a`; a selector's highest bit repeats the byte's sign instead.
#[inline(always)]
pub(super) fn permute(a: u32, b: u32, selectors: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let mut result = 0;
    for i in 0..4 {
        let selector = selectors >> (4 * i) & 15;
        let byte = (bytes >> (8 * (selector & 7))) as u32 & 0xFF;
        let sign = if byte & 0x80 != 0 { 0xFF } else { 0 };
        result |= (if selector & 8 != 0 { sign } else { byte }) << (8 * i);
    }
    result
}

/// Shifts of `high:low` by up to 32; the upper word to the left, the lower to the right.
#[inline(always)]
pub(super) fn funnel_left(low: u32, high: u32, shift: u32) -> u32 {
    ((u64::from(high) << 32 | u64::from(low)) << shift >> 32) as u32
}

#[inline(always)]
pub(super) fn funnel_right(low: u32, high: u32, shift: u32) -> u32 {
    ((u64::from(high) << 32 | u64::from(low)) >> shift) as u32
}

/// The lowest `length` bits of `from` into `into` at `position`; both are cut to 8 bits, and what does not fit is lost.
#[inline(always)]
pub(super) fn insert(from: u64, into: u64, position: u32, length: u32, width: u32) -> u64 {
    let (position, length) = (position & 0xFF, length & 0xFF);
    if position >= width || length == 0 {
        return into;
    }
    let ones = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
    let mask = ones << position;
    into & !mask | from << position & mask
}

/// `length` bits of `a` from `position` on; both are cut to 8 bits.
#[inline(always)]
pub(super) fn extract(a: u32, position: u32, length: u32) -> u32 {
    let (position, length) = (position & 0xFF, length & 0xFF);
    let shifted = if position >= 32 { 0 } else { a >> position };
    if length >= 32 { shifted } else { shifted & ((1 << length) - 1) }
}

/// Shifts by 32 and more give what 32 would.
#[inline(always)]
pub(super) fn shift_left(a: u32, by: u32) -> u32 {
    if by > 31 { 0 } else { a << by }
}

#[inline(always)]
pub(super) fn shift_right(a: u32, by: u32) -> u32 {
    if by > 31 { 0 } else { a >> by }
}

/// To the nearest whole number, ties to even, cut to the range; a NaN gives 0.
#[inline(always)]
pub(super) fn signed_nearest(a: f32) -> i32 {
    a.round_ties_even() as i32
}

#[inline(always)]
pub(super) fn divide_s(a: u32, b: u32) -> u32 {
    if b == 0 { u32::MAX } else { (a as i32).wrapping_div(b as i32) as u32 }
}

#[inline(always)]
pub(super) fn remainder_s(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { (a as i32).wrapping_rem(b as i32) as u32 }
}
