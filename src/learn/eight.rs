//! The number formats of 8-bit moments ([`super::Moments`]), without a table: a code is the upper bits of a float whose
//! exponent starts at the format's. What is below the format's normal range is lifted by that range's first value,
//! where the float's spacing is the format's, and lowered again.
//!
//! Rounding adds ten random bits, centred, below the last mantissa bit that is kept, and cuts: a value between two
//! codes goes to the upper one as often as it is near to it, and a value that has a code always gets it.

use super::nearly;
use crate::sample::vector::Vector;

/// A format with `MANTISSA` bits of mantissa and four of exponent, without sign. Values are counted in units of the
/// smallest.
pub(super) struct Format<const MANTISSA: u32>;

/// Of `m`, beside its sign.
pub(super) type OfM = Format<3>;
/// Of `√v`.
pub(super) type OfV = Format<4>;

/// The sign bit of the codes of `m`.
pub(super) const SIGN: u8 = 0x80;

/// A largest value below this counts as 0: its inverse would not be finite.
pub(super) const LEAST: f32 = f32::from_bits((127 - 100) << 23);

impl<const MANTISSA: u32> Format<MANTISSA> {
    /// The first value with an exponent, and how many there are to an exponent.
    const NORMAL: u32 = 1 << MANTISSA;
    /// Mantissa bits of a float that the format has not.
    const DROPPED: u32 = 23 - MANTISSA;
    /// What the upper bits of a float are ahead of the code.
    const AHEAD: u32 = (127 + MANTISSA - 1) << MANTISSA;
    /// The top code.
    const LAST: u32 = (16 << MANTISSA) - 1;
    /// The top value.
    pub(super) const TOP: f32 = ((2 * Self::NORMAL - 1) << 14) as f32;

    /// The value of a code.
    #[inline(always)]
    pub(super) fn decode(code: u8) -> f32 {
        let code = u32::from(code) & Self::LAST;
        let lift = if code < Self::NORMAL { Self::NORMAL } else { 0 };
        f32::from_bits((code + lift + Self::AHEAD) << Self::DROPPED) - lift as f32
    }

    /// A neighbouring code of a value that is not negative; the top one from [`Self::TOP`] on. `random` has ten bits.
    #[inline(always)]
    pub(super) fn encode(value: f32, random: u32) -> u8 {
        // Written so that a NaN is the top, as on a device.
        let value = if value < Self::TOP { value } else { Self::TOP };
        let lift = if value < Self::NORMAL as f32 { Self::NORMAL } else { 0 };
        let random = (random << (Self::DROPPED - 10)) + (1 << (Self::DROPPED - 11));
        let upper = ((value + lift as f32).to_bits() + random) >> Self::DROPPED;
        (upper - Self::AHEAD - lift).min(Self::LAST) as u8
    }
}

/// What values are multiplied by to become units of a format: 0 where the largest counts as 0. What is beyond 2¹²⁵, which
/// no step makes, counts as that.
#[inline(always)]
pub(super) fn inverse<V: Vector>(top: f32, largest: f32) -> f32 {
    const MOST: f32 = f32::from_bits((127 + 125) << 23);
    let within = if largest < MOST { largest } else { MOST };
    let [inverse, ..] = nearly::inverse(V::splat(within)).to_array();
    if largest < LEAST { 0.0 } else { top * inverse }
}
