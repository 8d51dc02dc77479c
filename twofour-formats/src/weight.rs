//! A compressed weight whose type is known when it is read.

use crate::check::zeros;
use std::borrow::Cow;
use twofour::compress::Compressed;
use twofour::{DType, E4m3, E5m2, Element, Shape, bf16, f16};

/// A compressed weight of any type of values.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Weight {
    /// Of [`struct@f16`].
    F16(Compressed<f16>),
    /// Of [`bf16`].
    Bf16(Compressed<bf16>),
    /// Of `f32`.
    F32(Compressed<f32>),
    /// Of `i8`.
    I8(Compressed<i8>),
    /// Of [`E4m3`].
    E4m3(Compressed<E4m3>),
    /// Of [`E5m2`].
    E5m2(Compressed<E5m2>),
}

/// The same expression for every type.
macro_rules! each {
    ($weight:expr, $compressed:ident => $do:expr) => {
        match $weight {
            Weight::F16($compressed) => $do,
            Weight::Bf16($compressed) => $do,
            Weight::F32($compressed) => $do,
            Weight::I8($compressed) => $do,
            Weight::E4m3($compressed) => $do,
            Weight::E5m2($compressed) => $do,
        }
    };
}

/// `$make::<T>()` as the weight of a type of values; of one that files have not, `$other` of it.
macro_rules! of_type {
    ($value_type:expr, $make:expr, $other:expr) => {
        match $value_type {
            DType::F16 => $make.map(Weight::F16),
            DType::Bf16 => $make.map(Weight::Bf16),
            DType::F32 => $make.map(Weight::F32),
            DType::I8 => $make.map(Weight::I8),
            DType::E4m3 => $make.map(Weight::E4m3),
            DType::E5m2 => $make.map(Weight::E5m2),
            other => $other(other),
        }
    };
}
pub(super) use of_type;

impl Weight {
    /// `[N, K]` of the dense weight.
    #[must_use]
    pub fn shape(&self) -> Shape {
        each!(self, compressed => compressed.shape())
    }

    /// The type of values.
    #[must_use]
    pub fn value_type(&self) -> DType {
        each!(self, compressed => compressed.value_type())
    }

    /// Packed codes.
    #[must_use]
    pub fn codes(&self) -> &[u8] {
        each!(self, compressed => compressed.codes())
    }

    /// Kept values as they are in a file: little-endian.
    #[must_use]
    pub fn value_bytes(&self) -> Cow<'_, [u8]> {
        each!(self, compressed => to_bytes(compressed.values()))
    }

    /// The dense weight as it would be in a file: kept values bit for bit, all others `+0.0`, little-endian.
    #[must_use]
    pub fn decompress_bytes(&self) -> Vec<u8> {
        each!(self, compressed => dense_bytes(compressed))
    }
}

/// Without a second copy, if the bytes happen to lie where values may, as they do with every allocator there is.
fn dense_bytes<T: Element>(compressed: &Compressed<T>) -> Vec<u8> {
    let mut bytes = vec![0; compressed.shape().weights() * T::DTYPE.size()];
    let in_place =
        bytemuck::try_cast_slice_mut(&mut bytes).is_ok_and(|dense| compressed.decompress_into(dense).is_ok());
    if in_place && cfg!(target_endian = "little") { bytes } else { to_bytes(&compressed.decompress()).into_owned() }
}

/// Little-endian bytes of values.
pub(super) fn to_bytes<T: Element>(values: &[T]) -> Cow<'_, [u8]> {
    let bytes = bytemuck::cast_slice(values);
    if cfg!(target_endian = "little") { Cow::Borrowed(bytes) } else { Cow::Owned(swapped::<T>(bytes.to_vec())) }
}

/// Values of little-endian bytes, which need not lie where values may. Bytes of a last, broken value are left out.
pub(super) fn from_bytes<T: Element>(bytes: &[u8]) -> twofour::Result<Vec<T>> {
    let count = bytes.len() / T::DTYPE.size();
    let mut values = zeros("values of a file", count)?;
    let to = bytemuck::cast_slice_mut::<T, u8>(&mut values);
    to.copy_from_slice(&bytes[..count * T::DTYPE.size()]);
    if cfg!(target_endian = "big") {
        let swapped = swapped::<T>(to.to_vec());
        to.copy_from_slice(&swapped);
    }
    Ok(values)
}

fn swapped<T: Element>(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.chunks_exact_mut(T::DTYPE.size()).for_each(<[u8]>::reverse);
    bytes
}
