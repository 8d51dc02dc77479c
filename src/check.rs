//! The checks that operations share. Each is made once a pass, before anything is read or written.

use crate::error::{Error, Result};
use crate::sample::Sampling;
use crate::shape::{Shape, Shard};
use crate::space::Operand;

/// Checks the length of an operand that may be absent.
pub(crate) fn length<O: Operand>(what: &'static str, operand: Option<&O>, expected: usize) -> Result<()> {
    match operand.map(Operand::elements) {
        Some(got) if got != expected => Err(Error::Length { what, expected: expected as u64, got: got as u64 }),
        _ => Ok(()),
    }
}

/// An error of a scalar outside its domain.
pub(crate) fn scalar<T>(what: &'static str, value: f64, must: &'static str) -> Result<T> {
    Err(Error::Scalar { what, value, must })
}

/// Checks what sampling the masks of a weight needs besides operands: its shape, where it lies in the whole, and scalars.
pub(crate) fn sampled(shape: Shape, shard: &Shard, sampling: &Sampling) -> Result<()> {
    shape.check()?;
    shard.check(shape.rows as u64, shape.cols as u64)?;
    sampling.check()
}
