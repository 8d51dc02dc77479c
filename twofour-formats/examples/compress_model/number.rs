//! Values as numbers, and a call for each type of them.

use twofour::{E4m3, E5m2, Element, Float, bf16, f16};

/// A value that is a number.
pub(crate) trait Number: Element {
    fn to_f64(self) -> f64;
}

macro_rules! number {
    ($($type:ty: $widen:path;)*) => {$(
        impl Number for $type {
            fn to_f64(self) -> f64 {
                f64::from($widen(self))
            }
        }
    )*};
}
number! {
    f16: Float::to_f32;
    bf16: Float::to_f32;
    f32: Float::to_f32;
    i8: f32::from;
    E4m3: E4m3::to_f32;
    E5m2: E5m2::to_f32;
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
            other => Err(format!("there are no layers of {other}").into()),
        }
    };
}
pub(crate) use for_type;

/// The sum of squares.
pub(crate) fn energy<T: Number>(values: &[T]) -> f64 {
    values.iter().map(|value| value.to_f64().powi(2)).sum()
}
