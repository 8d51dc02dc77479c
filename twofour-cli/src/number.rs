//! Values of tensors as numbers, and as bytes.

use crate::Failure;
use twofour::{E4m3, E5m2, Element, bf16, f16};
use twofour_formats::TensorType;

/// Values of little-endian bytes.
pub(crate) fn values<T: Element>(bytes: &[u8]) -> Vec<T> {
    if cfg!(target_endian = "little") {
        return bytemuck::pod_collect_to_vec(bytes);
    }
    let mut bytes = bytes.to_vec();
    bytes.chunks_exact_mut(size_of::<T>()).for_each(<[u8]>::reverse);
    bytemuck::pod_collect_to_vec(&bytes)
}

/// Values as they are in a file: little-endian.
pub(crate) fn bytes<T: Element>(values: &[T]) -> Vec<u8> {
    let mut bytes = bytemuck::cast_slice::<T, u8>(values).to_vec();
    if cfg!(target_endian = "big") {
        bytes.chunks_exact_mut(size_of::<T>()).for_each(<[u8]>::reverse);
    }
    bytes
}

/// The values of a tensor of floats, of any type up to `f32`, which holds them all as they are.
pub(crate) fn widened(dtype: TensorType, bytes: &[u8]) -> Result<Vec<f32>, Failure> {
    fn all<T: Element>(bytes: &[u8], wide: impl Fn(T) -> f32) -> Vec<f32> {
        values::<T>(bytes).into_iter().map(wide).collect()
    }
    match dtype {
        TensorType::F32 => Ok(values(bytes)),
        TensorType::F16 => Ok(all(bytes, f16::to_f32)),
        TensorType::Bf16 => Ok(all(bytes, bf16::to_f32)),
        TensorType::F8E4m3 => Ok(all(bytes, E4m3::to_f32)),
        TensorType::F8E5m2 => Ok(all(bytes, E5m2::to_f32)),
        other => Err(format!("tensors of {other} are neither f32 nor f16 nor bf16 nor fp8").into()),
    }
}

/// Numbers of `f32` as a tensor of another type of floats has them, rounded to the nearest.
pub(crate) fn narrowed(dtype: TensorType, wide: &[f32]) -> Result<Vec<u8>, Failure> {
    fn all<T: Element>(wide: &[f32], narrow: impl Fn(f32) -> T) -> Vec<u8> {
        bytes(&wide.iter().map(|&value| narrow(value)).collect::<Vec<_>>())
    }
    match dtype {
        TensorType::F32 => Ok(bytes(wide)),
        TensorType::F16 => Ok(all(wide, f16::from_f32)),
        TensorType::Bf16 => Ok(all(wide, bf16::from_f32)),
        other => Err(format!("no model of {other} is run").into()),
    }
}

/// The sum of squares.
pub(crate) fn energy(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value).powi(2)).sum()
}

/// The elements of which a mask keeps, and zeros; of elements of so many bytes.
pub(crate) fn masked(bytes: &[u8], size: usize, kept: &[bool]) -> Vec<u8> {
    let mut masked = bytes.to_vec();
    let dropped = masked.chunks_exact_mut(size.max(1)).zip(kept).filter(|(_, kept)| !**kept);
    dropped.for_each(|(element, _)| element.fill(0));
    masked
}
