//! The checks that operations share. Each is made once a pass, before anything is read or written.

use crate::error::{Error, Result};
use crate::space::Array;

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

/// Checks the coefficient of the weight regulariser.
pub(crate) fn regulariser(lambda: f32) -> Result<()> {
    if lambda.is_finite() { Ok(()) } else { scalar("regulariser", f64::from(lambda), "finite") }
}
