//! Weights as numbers and as bytes, and a call for each type of them.

use twofour::{Float, bf16, f16};

/// A type of weights that masks are chosen for.
pub(crate) trait Number: Float {
    /// As they are in a file: little-endian.
    fn bytes(values: &[Self]) -> Vec<u8>;
}

macro_rules! number {
    ($($type:ty)*) => {$(
        impl Number for $type {
            fn bytes(values: &[Self]) -> Vec<u8> {
                values.iter().flat_map(|value| value.to_le_bytes()).collect()
            }
        }
    )*};
}
number!(f32 f16 bf16);

/// Calls `$function::<T>($arguments)` for a type of tensors.
macro_rules! for_type {
    ($dtype:expr, $function:ident($($argument:expr),*)) => {
        match $dtype {
            twofour_formats::TensorType::F16 => $function::<twofour::f16>($($argument),*),
            twofour_formats::TensorType::Bf16 => $function::<twofour::bf16>($($argument),*),
            twofour_formats::TensorType::F32 => $function::<f32>($($argument),*),
            other => Err(format!("tensors of {other} are neither f32 nor f16 nor bf16").into()),
        }
    };
}
pub(crate) use for_type;

/// The sum of squares.
pub(crate) fn energy<T: Float>(values: &[T]) -> f64 {
    values.iter().map(|value| f64::from(Float::to_f32(*value)).powi(2)).sum()
}
