//! The checks that operations share. Each is made once a pass, before anything is read or written.

use crate::error::{Error, Result};
use crate::space::{Array, Plain};
use std::alloc::{Layout, alloc_zeroed};

/// Checks the length of an operand that may be absent.
pub(crate) fn length<A: Array>(what: &'static str, operand: Option<&A>, expected: usize) -> Result<()> {
    match operand.map(Array::elements) {
        Some(got) if got != expected => Err(Error::Length { what, expected: expected as u64, got: got as u64 }),
        _ => Ok(()),
    }
}

/// An error of a scalar outside its domain.
pub(crate) fn scalar<T>(what: &'static str, value: f64, must: &'static str) -> Result<T> {
    Err(Error::Scalar { what, value, must })
}

/// Checks that a scalar is neither infinite nor NaN.
pub(crate) fn finite(what: &'static str, value: impl Into<f64>) -> Result<()> {
    let value = value.into();
    if value.is_finite() { Ok(()) } else { scalar(what, value, "finite") }
}

/// Checks that a scalar is finite and at least 0.
pub(crate) fn not_negative(what: &'static str, value: impl Into<f64>) -> Result<()> {
    let value = value.into();
    if value.is_finite() && value >= 0.0 { Ok(()) } else { scalar(what, value, "finite and not negative") }
}

/// So many zeros; an error where there is no memory for them. As `vec!` takes them: from the system, which has zeros.
pub(crate) fn zeros<T: Plain>(what: &'static str, elements: usize) -> Result<Vec<T>> {
    let none = Error::Memory { what, bytes: (elements as u64).saturating_mul(size_of::<T>() as u64) };
    let Ok(layout) = Layout::array::<T>(elements) else { return Err(none) };
    if layout.size() == 0 {
        return Ok(vec![T::zeroed(); elements]);
    }
    // SAFETY: the layout's size is not 0.
    let memory = unsafe { alloc_zeroed(layout) };
    if memory.is_null() {
        return Err(none);
    }
    // SAFETY: the global allocator made it for so many elements of this type, and zero bytes are a value of it.
    Ok(unsafe { Vec::from_raw_parts(memory.cast(), elements, elements) })
}
