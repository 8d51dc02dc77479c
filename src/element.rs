//! The element types kernels read and write: `f32`, `f16` and `bf16`. Arithmetic is always in `f32`; a 16-bit value is
//! widened exactly when read and rounded once, to nearest even, when written. [`E4m3`] and [`E5m2`] are only stored, in
//! compressed weights.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::space::Plain;

mod fp8;

pub use fp8::{E4m3, E5m2};

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// The number formats of operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of binary32.
    Bf16,
}

impl DType {
    /// Bytes of one element.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The name used in kernel symbols, files and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A type of weights, activations and gradients: `f32`, [`struct@f16`] or [`bf16`]. Sealed.
pub trait Element: sealed::Sealed + Plain + PartialEq + std::fmt::Debug + 'static {
    /// The format's name as a value.
    const DTYPE: DType;
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
pub trait Logit: Element {}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::Bf16;
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

impl Element for f16 {
    const DTYPE: DType = DType::F16;
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
