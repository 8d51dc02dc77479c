//! The sizes of a masked linear layer's passes.

use crate::error::{Error, Result};
use crate::shape::Shape;

/// The sizes of a pass: `T` tokens through a weight `[N, K]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Problem {
    /// T.
    pub tokens: usize,
    /// N and K.
    pub shape: Shape,
}

impl Problem {
    /// `tokens` rows through a weight of `shape`.
    #[must_use]
    pub const fn new(tokens: usize, shape: Shape) -> Self {
        Self { tokens, shape }
    }

    /// Elements of `X` and `dX`: T · K, saturating.
    #[must_use]
    pub const fn inputs(&self) -> usize {
        self.tokens.saturating_mul(self.shape.cols)
    }

    /// Elements of `Y` and `dY`: T · N, saturating.
    #[must_use]
    pub const fn outputs(&self) -> usize {
        self.tokens.saturating_mul(self.shape.rows)
    }

    /// Floating-point operations of one of the three products: 2 · T · N · K.
    #[must_use]
    pub const fn operations(&self) -> f64 {
        2.0 * self.tokens as f64 * self.shape.rows as f64 * self.shape.cols as f64
    }

    /// Checks that columns fall into groups and that sizes in bytes fit the address space.
    ///
    /// # Errors
    /// As [`Shape::check`], and [`Error::Overflow`] if `X` or `Y` would not fit.
    pub fn check(&self) -> Result<()> {
        self.shape.check()?;
        for (what, cols) in [("x", self.shape.cols), ("y", self.shape.rows)] {
            match self.tokens.checked_mul(cols).and_then(|elements| elements.checked_mul(4)) {
                Some(bytes) if bytes <= isize::MAX as usize => {}
                _ => return Err(Error::Overflow { what, rows: self.tokens as u64, cols: cols as u64 }),
            }
        }
        Ok(())
    }
}
