//! Numbers of operands: rounded, and compared.

use twofour::{DType, Float};

/// Rounds to another type.
pub fn convert<T: Float>(values: &[f32]) -> Vec<T> {
    values.iter().map(|&value| T::from_f32(value)).collect()
}

/// A group's scores relative to its largest logit, of which the soft mask is made that gradients go through; to the bit.
pub fn relative<T: Float>(kappa: f32, logits: &[T], noise: [f32; 6]) -> [f32; 6] {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |largest, logit| largest.max(logit.to_f32()));
    std::array::from_fn(|i| kappa.mul_add(logits[i].to_f32() - largest, noise[i]))
}

/// Equal bits, or both NaN.
pub fn same<T: Float>(a: T, b: T) -> bool {
    let (a, b) = (a.to_f32(), b.to_f32());
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

/// Half a unit in the last place of a type at a value, a little more than its rounding error.
pub fn rounding<T: Float>(value: f64) -> f64 {
    let (relative, least) = match T::DTYPE {
        DType::F32 => (2f64.powi(-24), 2f64.powi(-149)),
        DType::F16 => (2f64.powi(-11), 2f64.powi(-24)),
        _ => (2f64.powi(-8), 2f64.powi(-133)),
    };
    value.abs() * relative * 1.0001 + least
}
