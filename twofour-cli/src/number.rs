//! Values of tensors as numbers, and as bytes.

use crate::Failure;
use std::borrow::Cow;
use twofour::{E4m3, E5m2, Element, bf16, f16};
use twofour_formats::TensorType;

/// Values that are widened at a time.
const PIECE: usize = 1 << 16;

/// Values of little-endian bytes; where they lie, if values may lie there.
pub(crate) fn values<T: Element>(bytes: &[u8]) -> Cow<'_, [T]> {
    if cfg!(target_endian = "little") {
        return match bytemuck::try_cast_slice(bytes) {
            Ok(values) => Cow::Borrowed(values),
            Err(_) => Cow::Owned(bytemuck::pod_collect_to_vec(bytes)),
        };
    }
    let mut bytes = bytes.to_vec();
    bytes.chunks_exact_mut(size_of::<T>()).for_each(<[u8]>::reverse);
    Cow::Owned(bytemuck::pod_collect_to_vec(&bytes))
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
    fn all<T: Element>(bytes: &[u8], wide: impl Fn(T) -> f32) -> Result<Vec<f32>, Failure> {
        let (values, mut all) = (values::<T>(bytes), Vec::new());
        let count = values.len();
        all.try_reserve_exact(count).map_err(|_| format!("{count} values in f32 do not fit the memory"))?;
        all.extend(values.iter().copied().map(wide));
        Ok(all)
    }
    match dtype {
        TensorType::F32 => all(bytes, |value: f32| value),
        TensorType::F16 => all(bytes, f16::to_f32),
        TensorType::Bf16 => all(bytes, bf16::to_f32),
        TensorType::F8E4m3 => all(bytes, E4m3::to_f32),
        TensorType::F8E5m2 => all(bytes, E5m2::to_f32),
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

/// The sum of squares of a tensor's values.
pub(crate) fn energy(dtype: TensorType, bytes: &[u8]) -> Result<f64, Failure> {
    let mut sum = 0.0;
    for piece in bytes.chunks(PIECE * dtype.bits().div_ceil(8)) {
        sum = widened(dtype, piece)?.iter().fold(sum, |sum, &value| sum + f64::from(value).powi(2));
    }
    Ok(sum)
}

/// How many values of floats of so many bytes are 0, of either sign.
pub(crate) fn zeros(bytes: &[u8], size: usize) -> usize {
    let is_zero = |value: &&[u8]| match value.split_last() {
        Some((last, rest)) => last & 0x7f == 0 && rest.iter().all(|&byte| byte == 0),
        None => false,
    };
    bytes.chunks_exact(size.max(1)).filter(is_zero).count()
}

/// The elements of which a mask keeps, and zeros; of elements of so many bytes.
pub(crate) fn masked(bytes: &[u8], size: usize, kept: &[bool]) -> Vec<u8> {
    let mut masked = bytes.to_vec();
    let dropped = masked.chunks_exact_mut(size.max(1)).zip(kept).filter(|(_, kept)| !**kept);
    dropped.for_each(|(element, _)| element.fill(0));
    masked
}
