//! Values of every type from random bits, and a call for each type.

use rand::Rng;
use rand::rngs::StdRng;

use twofour::{DType, E4m3, E5m2, Element, bf16, f16};

/// A value as the oracle sees it.
pub(crate) trait Wide: Element {
    /// As a number.
    fn to_f64(self) -> f64;
    /// From bits, of which the lowest count.
    fn from_bits(bits: u32) -> Self;
}

impl Wide for f32 {
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn from_bits(bits: u32) -> Self {
        f32::from_bits(bits)
    }
}

impl Wide for f16 {
    fn to_f64(self) -> f64 {
        f16::to_f64(self)
    }
    fn from_bits(bits: u32) -> Self {
        f16::from_bits(bits as u16)
    }
}

impl Wide for bf16 {
    fn to_f64(self) -> f64 {
        bf16::to_f64(self)
    }
    fn from_bits(bits: u32) -> Self {
        bf16::from_bits(bits as u16)
    }
}

impl Wide for i8 {
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn from_bits(bits: u32) -> Self {
        bits as u8 as i8
    }
}

impl Wide for E4m3 {
    fn to_f64(self) -> f64 {
        f64::from(self.to_f32())
    }
    fn from_bits(bits: u32) -> Self {
        E4m3::from_bits(bits as u8)
    }
}

impl Wide for E5m2 {
    fn to_f64(self) -> f64 {
        f64::from(self.to_f32())
    }
    fn from_bits(bits: u32) -> Self {
        E5m2::from_bits(bits as u8)
    }
}

/// Calls `$function::<T>($arguments)` for a type of values.
macro_rules! for_type {
    ($value_type:expr, $function:ident($($argument:expr),*)) => {
        match $value_type {
            twofour::DType::F16 => $function::<twofour::f16>($($argument),*),
            twofour::DType::Bf16 => $function::<twofour::bf16>($($argument),*),
            twofour::DType::F32 => $function::<f32>($($argument),*),
            twofour::DType::I8 => $function::<i8>($($argument),*),
            twofour::DType::E4m3 => $function::<twofour::E4m3>($($argument),*),
            twofour::DType::E5m2 => $function::<twofour::E5m2>($($argument),*),
            other => panic!("no such values: {other}"),
        }
    };
}
pub(crate) use for_type;

/// Any bits at all, with many zeros of both signs and many equal magnitudes.
pub(crate) fn values<T: Wide>(rng: &mut StdRng, count: usize) -> Vec<T> {
    let sign = match T::DTYPE {
        DType::I8 => 0,
        value_type => 1 << (8 * value_type.size() - 1),
    };
    let mut value = || match rng.random_range(0..8) {
        0 => T::from_bits(0),
        1 => T::from_bits(sign),
        2 | 3 => T::from_bits(rng.random_range(1..4) | if rng.random() { sign } else { 0 }),
        _ => T::from_bits(rng.random()),
    };
    (0..count).map(|_| value()).collect()
}

/// The same bits.
pub(crate) fn same<T: Element>(a: &[T], b: &[T]) -> bool {
    bytemuck::cast_slice::<T, u8>(a) == bytemuck::cast_slice::<T, u8>(b)
}
