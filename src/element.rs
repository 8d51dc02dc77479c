//! The number types kernels read and write, one [`DType`] and four traits, each of types that the one before it has
//! too:
//!
//! | trait | is a type of | types |
//! | --- | --- | --- |
//! | [`Element`] | whatever is stored | `f32`, [`struct@f16`], [`bf16`], `i8`, [`E4m3`], [`E5m2`], `i32` |
//! | [`Factor`] | the operands of a product | all of them but [`E5m2`] and `i32` |
//! | [`Float`] | weights, activations and gradients of masked layers | `f32`, [`struct@f16`], [`bf16`] |
//! | [`Logit`] | logits | `f32`, [`bf16`] |
//!
//! Arithmetic on floats is always in `f32`; a 16-bit value is widened exactly when read and rounded once, to nearest
//! even, when written. [`E5m2`] is only stored, in compressed weights.

use crate::space::Plain;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

pub(crate) mod factor;
mod fp8;

pub use factor::Factor;
pub use fp8::{E4m3, E5m2};

/// The number formats of operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE binary32. As an operand of sparse tensor cores, its upper 19 bits (tf32).
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of binary32.
    Bf16,
    /// Two's complement, eight bits.
    I8,
    /// [`E4m3`].
    E4m3,
    /// [`E5m2`].
    E5m2,
    /// Two's complement, 32 bits: what products of [`I8`](Self::I8) give, and nothing else.
    I32,
}

impl DType {
    /// Bytes of one element.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::I8 | Self::E4m3 | Self::E5m2 => 1,
        }
    }

    /// The name used in kernel symbols, files and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::I8 => "i8",
            Self::E4m3 => "e4m3",
            Self::E5m2 => "e5m2",
            Self::I32 => "i32",
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

mod sealed {
    /// What every stored type has beside its name.
    pub trait Stored {
        /// A number that orders values as their magnitudes do, 0 for zeros (of both signs) alone. A NaN is above
        /// infinity, and of two NaN the one with the larger payload.
        fn magnitude(self) -> u32;
    }
}

#[cfg(feature = "cuda")]
mod device {
    use super::{E4m3, E5m2};
    use cudarc::driver::{DeviceRepr, ValidAsZeroBits};

    // SAFETY: one byte, every value of which is one.
    unsafe impl DeviceRepr for E4m3 {}
    // SAFETY: as above; zero bits are the number zero.
    unsafe impl ValidAsZeroBits for E4m3 {}
    // SAFETY: one byte, every value of which is one.
    unsafe impl DeviceRepr for E5m2 {}
    // SAFETY: as above; zero bits are the number zero.
    unsafe impl ValidAsZeroBits for E5m2 {}
}

/// A type that is stored: `f32`, [`struct@f16`], [`bf16`], `i8`, [`E4m3`], [`E5m2`] or `i32`. Sealed.
pub trait Element: sealed::Stored + Plain + PartialEq + std::fmt::Debug {
    /// The format's name as a value.
    const DTYPE: DType;
}

/// A format, and which of its bits order magnitudes.
macro_rules! element {
    ($type:ident, $variant:ident, $magnitude:expr) => {
        impl sealed::Stored for $type {
            #[inline(always)]
            fn magnitude(self) -> u32 {
                let magnitude: fn(Self) -> u32 = $magnitude;
                magnitude(self)
            }
        }
        impl Element for $type {
            const DTYPE: DType = DType::$variant;
        }
    };
}
element!(f16, F16, |x| u32::from(x.to_bits() & 0x7fff));
element!(bf16, Bf16, |x| u32::from(x.to_bits() & 0x7fff));
element!(f32, F32, |x| x.to_bits() & 0x7fff_ffff);
element!(i8, I8, |x| u32::from(x.unsigned_abs()));
element!(E4m3, E4m3, |x| u32::from(x.to_bits() & 0x7f));
element!(E5m2, E5m2, |x| u32::from(x.to_bits() & 0x7f));
element!(i32, I32, |x| x.unsigned_abs());

/// A type of weights, activations and gradients: `f32`, [`struct@f16`] or [`bf16`]. Sealed.
pub trait Float: Element {
    /// Widens exactly.
    fn to_f32(self) -> f32;
    /// Rounds to nearest even; a NaN stays a NaN.
    fn from_f32(value: f32) -> Self;

    /// Widens as many elements as both slices have.
    #[inline(always)]
    fn widen(from: &[Self], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = from.to_f32();
        }
    }

    /// Rounds as many elements as both slices have.
    #[inline(always)]
    fn narrow(from: &[f32], to: &mut [Self]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = Self::from_f32(*from);
        }
    }
}

/// A type of logits: `f32` or [`bf16`]. Sealed.
pub trait Logit: Float {}

impl Float for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Float for bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    // Branch-free, so that loops over it vectorise; a NaN becomes the canonical 0x7fff, as `cvt.rn.bf16` makes it.
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        Self::from_bits(if value.is_nan() { 0x7fff } else { rounded as u16 })
    }
}

impl Float for f16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        if value.is_nan() { Self::from_bits(0x7fff) } else { Self::from_f32(value) }
    }
    // Whole slices go through the processor's own conversions where it has them.
    #[inline(always)]
    fn widen(from: &[Self], to: &mut [f32]) {
        let len = from.len().min(to.len());
        from[..len].convert_to_f32_slice(&mut to[..len]);
    }
    #[inline(always)]
    fn narrow(from: &[f32], to: &mut [Self]) {
        let len = from.len().min(to.len());
        to[..len].convert_from_f32_slice(&from[..len]);
    }
}

impl Logit for f32 {}
impl Logit for bf16 {}
