//! The 8-bit floating-point formats of compressed weights (OCP "8-bit floating point specification", 1.0). Nothing here
//! computes in them: they are stored, compared by magnitude and widened.

use half::f16;

/// Four exponent bits (bias 7), three mantissa bits: no infinity, NaN is `0x7f` and `0xff`, the largest value 448. What
/// PyTorch calls `float8_e4m3fn`.
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct E4m3(u8);

/// Five exponent bits (bias 15), two mantissa bits: the upper half of an [`struct@f16`], with its infinities and NaN.
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct E5m2(u8);

impl E4m3 {
    /// Widens exactly.
    #[must_use]
    pub fn to_f32(self) -> f32 {
        if self.0 & 0x7f == 0x7f {
            return f32::from_bits(0x7fc0_0000 | u32::from(self.0 & 0x80) << 24);
        }
        // The same bits in an f16 mean 2^-8 of it, subnormals included, for that is the difference of the biases.
        let scaled = f16::from_bits(u16::from(self.0 & 0x80) << 8 | u16::from(self.0 & 0x7f) << 7);
        scaled.to_f32() * 256.0
    }
}

impl E5m2 {
    /// Widens exactly.
    #[must_use]
    pub fn to_f32(self) -> f32 {
        f16::from_bits(u16::from(self.0) << 8).to_f32()
    }
}

/// What both formats have.
macro_rules! byte_format {
    ($type:ident) => {
        impl $type {
            /// The value with these bits.
            #[must_use]
            pub const fn from_bits(bits: u8) -> Self {
                Self(bits)
            }

            /// Its bits.
            #[must_use]
            pub const fn to_bits(self) -> u8 {
                self.0
            }
        }

        /// As numbers compare: `-0` equals `0`, and a NaN nothing.
        impl PartialEq for $type {
            fn eq(&self, other: &Self) -> bool {
                self.to_f32() == other.to_f32()
            }
        }

        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(&self.to_f32(), f)
            }
        }
    };
}
byte_format!(E4m3);
byte_format!(E5m2);

#[cfg(test)]
mod tests {
    use super::*;

    /// A format's value from its definition: sign, exponent, mantissa.
    fn defined(bits: u8, exponent_bits: u32, bias: i32) -> f64 {
        let mantissa_bits = 7 - exponent_bits;
        let exponent = i32::from(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
        let fraction = f64::from(bits & ((1 << mantissa_bits) - 1)) / f64::from(1 << mantissa_bits);
        let magnitude = match exponent {
            0 => fraction * 2f64.powi(1 - bias),
            _ => (1.0 + fraction) * 2f64.powi(exponent - bias),
        };
        if bits & 0x80 == 0 { magnitude } else { -magnitude }
    }

    #[test]
    fn every_e4m3_is_what_its_bits_say() {
        for bits in 0..=255 {
            let got = E4m3::from_bits(bits).to_f32();
            if bits & 0x7f == 0x7f {
                assert!(got.is_nan());
            } else {
                assert_eq!(f64::from(got).to_bits(), defined(bits, 4, 7).to_bits(), "{bits:#x}");
            }
        }
        assert_eq!(E4m3::from_bits(0x7e).to_f32(), 448.0);
    }

    #[test]
    fn every_e5m2_is_what_its_bits_say() {
        for bits in 0..=255u8 {
            let got = E5m2::from_bits(bits).to_f32();
            match bits & 0x7f {
                0x7c => assert!(got.is_infinite() && (got < 0.0) == (bits >= 0x80)),
                0x7d.. => assert!(got.is_nan()),
                _ => assert_eq!(f64::from(got).to_bits(), defined(bits, 5, 15).to_bits(), "{bits:#x}"),
            }
        }
    }

    #[test]
    fn they_compare_as_numbers() {
        assert_eq!(E4m3::from_bits(0x80), E4m3::from_bits(0));
        assert_ne!(E4m3::from_bits(0x7f), E4m3::from_bits(0x7f));
        assert_ne!(E5m2::from_bits(0x3c), E5m2::from_bits(0xbc));
        assert_eq!(format!("{:?}", E5m2::from_bits(0x3c)), "1.0");
    }
}
