//! A weight where it lies in its file.

use super::weight::from_bytes;
use crate::error::{Error, Result};
use std::borrow::Cow;
use twofour::compress::{Compressed, Sparsity, check_codes};
use twofour::{DType, Element, Shape};

/// A weight's values and codes where they lie: borrowed from the bytes that a [`Reader`](super::Reader) was made of (a
/// mapped file, say), or read from disk. Its codes are legal.
#[derive(Debug, Clone)]
pub struct WeightView<'a> {
    shape: Shape,
    value_type: DType,
    values: Cow<'a, [u8]>,
    codes: Cow<'a, [u8]>,
}

impl<'a> WeightView<'a> {
    /// Of bytes whose lengths have been checked.
    pub(super) fn new(shape: Shape, value_type: DType, values: Cow<'a, [u8]>, codes: Cow<'a, [u8]>) -> Result<Self> {
        check_codes(Sparsity::of(value_type), shape, &codes)?;
        Ok(Self { shape, value_type, values, codes })
    }

    /// `[N, K]` of the dense weight.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The type of values.
    #[must_use]
    pub fn value_type(&self) -> DType {
        self.value_type
    }

    /// Packed codes.
    #[must_use]
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// Kept values `[N, K/2]`, little-endian.
    #[must_use]
    pub fn value_bytes(&self) -> &[u8] {
        &self.values
    }

    /// Kept values in place; `None` if they are of another type, do not lie where such values may, or this machine's
    /// order of bytes is another.
    #[must_use]
    pub fn values<T: Element>(&self) -> Option<&[T]> {
        let usable = self.value_type == T::DTYPE && cfg!(target_endian = "little");
        usable.then(|| bytemuck::try_cast_slice(&self.values).ok()).flatten()
    }

    /// A copy.
    ///
    /// # Errors
    /// [`Error::DType`] if values are of another type.
    pub fn to_compressed<T: Element>(&self) -> Result<Compressed<T>> {
        self.clone().into_compressed()
    }

    /// The same without a copy of what was read from disk.
    pub(super) fn into_compressed<T: Element>(self) -> Result<Compressed<T>> {
        if self.value_type != T::DTYPE {
            return Err(other_type(self.value_type, T::DTYPE));
        }
        Ok(Compressed::new(self.shape, from_bytes(&self.values)?, self.codes.into_owned())?)
    }
}

/// The error of reading one type as another.
pub(super) fn other_type(held: DType, asked: DType) -> Error {
    Error::DType { held: held.name(), asked: asked.name() }
}
