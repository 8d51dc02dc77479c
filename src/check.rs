//! The checks that operations share. Each is made once a pass, before anything is read or written.

use crate::error::{Error, Result};
use crate::sample::{Kind, Sampling};
use crate::shape::{Shape, Shard};
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

/// Checks what sampling the masks of a weight needs besides operands: its shape, where it lies in the whole, and scalars.
pub(crate) fn sampled(shape: Shape, shard: &Shard, sampling: &Sampling) -> Result<()> {
    shape.check()?;
    shard.check(shape.rows as u64, shape.cols as u64)?;
    sampling.check()
}

/// Checks the coefficient of the weight regulariser.
pub(crate) fn regulariser(lambda: f32) -> Result<()> {
    if lambda.is_finite() { Ok(()) } else { scalar("regulariser", f64::from(lambda), "finite") }
}

/// Checks that masks of a kind have a gradient.
pub(crate) fn has_gradient(kind: Kind) -> Result<()> {
    if kind == Kind::Argmax {
        let missing = "argmax masks have none: use Soft or Hard (Forward on G gives G∘M for any kind)";
        return Err(Error::Missing { what: "a gradient", missing });
    }
    Ok(())
}
