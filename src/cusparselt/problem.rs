//! A product as plain data, and every rule of the library that can be checked without it.
//!
//! The product is that of a linear layer, `Y = f(α · X Wᵀ + β · C + b)`, with `W [N, K]` 2:4 along K, `X [T, K]`, `Y`
//! and `C [T, N]`, and one bias an out feature. The library computes `D = A·B` with the 2:4 matrix on the left: `A` is
//! `W` as it lies, `B` is `Xᵀ`, and `D`, which is `Yᵀ`, it is told to write column-major, which is `Y` row-major.

use super::value::Types;
use crate::check::scalar;
use crate::element::DType;
use crate::error::{Error, Result};
use crate::shape::Shape;

/// What addresses of matrices, and steps between batches, must be multiples of, in bytes.
pub(super) const ALIGN: u64 = 16;

/// How a matrix lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Placement {
    /// Elements from one row to the next; `None` if rows follow one another without a gap.
    pub pitch: Option<usize>,
    /// Elements from one batch to the next; `None` if batches follow one another, `Some(0)` if all share one matrix.
    pub batch: Option<usize>,
}

/// What is done to a sum before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum Activation {
    /// Nothing.
    #[default]
    Identity,
    /// `v` where it is above `threshold`, at most `upper_bound`, else zero. The usual one is [`Activation::RELU`].
    Relu {
        /// What counts as off.
        threshold: f32,
        /// The largest result; may be infinite.
        upper_bound: f32,
    },
    /// GELU in its tanh form, times `scaling`; from `i8` to `i8` only.
    Gelu {
        /// The factor.
        scaling: f32,
    },
}

impl Activation {
    /// `max(v, 0)`.
    pub const RELU: Self = Self::Relu { threshold: 0.0, upper_bound: f32::INFINITY };
}

/// What a bias is, if there is one: values an out feature, N of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bias {
    /// One for all batches.
    Shared,
    /// One for each batch, one after the other.
    PerBatch,
}

/// `Y = f(α · X Wᵀ + β · C + b)`: shapes, formats, how matrices lie, and what is done to the sums.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Problem {
    /// Formats.
    pub types: Types,
    /// T.
    pub tokens: usize,
    /// N and K.
    pub shape: Shape,
    /// Products of this kind, side by side.
    pub batches: usize,
    /// Of `W`, before it is compressed.
    pub weight: Placement,
    /// Of `X`.
    pub input: Placement,
    /// Of `Y` and of `C`.
    pub output: Placement,
    /// `X` is `[K, T]` instead of `[T, K]`; not for operands of 8 bits.
    pub input_transposed: bool,
    /// `Y` and `C` are `[N, T]` instead of `[T, N]`.
    pub output_transposed: bool,
    /// The bias.
    pub bias: Option<Bias>,
    /// α is a factor for each out feature, N numbers in `f32` on the device, and β is zero.
    pub alpha_per_row: bool,
    /// f.
    pub activation: Activation,
}

impl Problem {
    /// One product without gaps, `T` tokens through a weight `[N, K]`, with neither bias nor activation. What differs
    /// is set in the fields.
    #[must_use]
    pub fn new(types: Types, tokens: usize, shape: Shape) -> Self {
        let dense = Placement::default();
        Self {
            types,
            tokens,
            shape,
            batches: 1,
            weight: dense,
            input: dense,
            output: dense,
            input_transposed: false,
            output_transposed: false,
            bias: None,
            alpha_per_row: false,
            activation: Activation::Identity,
        }
    }

    /// Checks the library's rules, so that it need not be asked:
    ///
    /// * N and K are multiples of 32 for operands of 8 bits, 16 of 16 bits, 8 of 32 bits;
    /// * of every other size and of every pitch, a row is a multiple of 16 bytes;
    /// * operands of 8 bits have K contiguous: no transposed input;
    /// * a matrix has fewer than 2³² values of 8 bits, 2³¹ of 16, 2³⁰ of 32;
    /// * batches begin on 16 bytes, and those of the output do not overlap;
    /// * GELU goes from `i8` to `i8`; bounds and factors are numbers.
    ///
    /// # Errors
    /// [`Error::Scalar`] with the field and its value, [`Error::Overflow`], [`Error::Unsupported`].
    pub fn check(&self) -> Result<()> {
        positive("tokens", self.tokens)?;
        positive("batches", self.batches)?;
        let operand = self.types.operand();
        check_structured(operand, self.shape, self.weight.pitch)?;
        if operand.size() == 1 && self.input_transposed {
            let because = "operands of 8 bits must have K contiguous: pass X as [T, K]";
            return Err(Error::Unsupported { what: "cuSPARSELt with a transposed input", because });
        }
        self.x().check()?;
        self.y().check()?;
        for matrix in [self.w(), self.x(), self.y()] {
            matrix.check_batches(self.batches)?;
        }
        if self.batches > 1 && self.y().stride() < self.y().span() as u64 {
            let (value, must) =
                (self.y().stride() as f64, "at least one matrix, for batches of the output not to overlap");
            return scalar("output.batch", value, must);
        }
        self.check_epilogue()
    }

    fn check_epilogue(&self) -> Result<()> {
        let number = |what, value: f32, good: bool, must| match good {
            true => Ok(()),
            false => scalar(what, f64::from(value), must),
        };
        match self.activation {
            Activation::Identity => Ok(()),
            Activation::Relu { threshold, upper_bound } => {
                number("threshold", threshold, threshold.is_finite(), "a finite number")?;
                number("upper_bound", upper_bound, upper_bound > threshold, "a number above the threshold")
            }
            Activation::Gelu { scaling } => {
                let types = (self.types.operand(), self.types.result());
                if types != (DType::I8, DType::I8) {
                    return Err(Error::Unsupported {
                        what: "cuSPARSELt with GELU",
                        because: "it goes from i8 to i8 only",
                    });
                }
                number("scaling", scaling, scaling.is_finite(), "a finite number")
            }
        }
    }

    /// `W`, `[N, K]`.
    pub(super) fn w(&self) -> Matrix {
        let Shape { rows, cols } = self.shape;
        Matrix::new("weight", self.types.operand(), [rows, cols], self.weight)
    }

    /// `X` as it lies.
    pub(super) fn x(&self) -> Matrix {
        let (t, k) = (self.tokens, self.shape.cols);
        let size = if self.input_transposed { [k, t] } else { [t, k] };
        Matrix::new("input", self.types.operand(), size, self.input)
    }

    /// `Y`, or `C`, as it lies.
    pub(super) fn y(&self) -> Matrix {
        let (t, n) = (self.tokens, self.shape.rows);
        let size = if self.output_transposed { [n, t] } else { [t, n] };
        Matrix::new("output", self.types.result(), size, self.output)
    }

    /// Values of the bias, all batches.
    #[cfg(feature = "cuda")]
    pub(super) fn bias_elements(&self) -> usize {
        match self.bias {
            None => 0,
            Some(Bias::Shared) => self.shape.rows,
            Some(Bias::PerBatch) => self.shape.rows.saturating_mul(self.batches),
        }
    }
}

/// A row-major matrix, and where its batches are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix {
    what: &'static str,
    pub(super) value: DType,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) pitch: usize,
    batch: Option<usize>,
}

impl Matrix {
    pub(super) fn new(what: &'static str, value: DType, [rows, cols]: [usize; 2], placement: Placement) -> Self {
        Self { what, value, rows, cols, pitch: placement.pitch.unwrap_or(cols), batch: placement.batch }
    }

    /// Elements from the first to the last, for one batch. Of a matrix that was checked, it does not overflow.
    pub(super) fn span(&self) -> usize {
        (self.rows - 1) * self.pitch + self.cols
    }

    /// Elements from one batch to the next.
    pub(super) fn stride(&self) -> u64 {
        match self.batch {
            Some(stride) => stride as u64,
            None => self.rows as u64 * self.pitch as u64,
        }
    }

    /// Elements from the first to the last, for all batches.
    #[cfg(feature = "cuda")]
    pub(super) fn elements(&self, batches: usize) -> u64 {
        self.stride().saturating_mul(batches as u64 - 1).saturating_add(self.span() as u64)
    }

    /// The rules for a dense matrix.
    fn check(&self) -> Result<()> {
        let multiple = ALIGN as usize / self.value.size();
        let [rows, cols, pitch] = match self.what {
            "input" => ["rows of the input", "columns of the input", "input.pitch"],
            _ => ["rows of the output", "columns of the output", "output.pitch"],
        };
        divisible(rows, self.rows, multiple)?;
        divisible(cols, self.cols, multiple)?;
        self.check_pitch(pitch, multiple)
    }

    fn check_pitch(&self, what: &'static str, multiple: usize) -> Result<()> {
        divisible(what, self.pitch, multiple)?;
        if self.pitch < self.cols {
            let must = "at least as many elements as a row has";
            return scalar(what, self.pitch as f64, must);
        }
        let most = (1_u64 << 32) / self.value.size() as u64;
        match (self.rows as u64).checked_mul(self.pitch as u64) {
            Some(elements) if elements < most => Ok(()),
            _ => Err(Error::Overflow { what: self.what, rows: self.rows as u64, cols: self.pitch as u64 }),
        }
    }

    fn check_batches(&self, batches: usize) -> Result<()> {
        let what = match self.what {
            "weight" => "weight.batch",
            "input" => "input.batch",
            _ => "output.batch",
        };
        let bytes = u128::from(self.stride()) * self.value.size() as u128;
        if batches > 1 && !bytes.is_multiple_of(u128::from(ALIGN)) {
            return scalar(what, self.stride() as f64, "a multiple of 16 bytes");
        }
        let (most, all) = (isize::MAX as u128, bytes * batches as u128);
        if i32::try_from(batches).is_err() || all > most {
            return Err(Error::Overflow { what, rows: batches as u64, cols: self.stride() });
        }
        Ok(())
    }
}

/// The rules for a 2:4 matrix.
pub(super) fn check_structured(value: DType, shape: Shape, pitch: Option<usize>) -> Result<()> {
    let multiple = 2 * ALIGN as usize / value.size();
    divisible("rows of the weight", shape.rows, multiple)?;
    divisible("columns of the weight", shape.cols, multiple)?;
    let matrix = Matrix::new("weight", value, [shape.rows, shape.cols], Placement { pitch, batch: None });
    matrix.check_pitch("weight.pitch", multiple)
}

fn positive(what: &'static str, value: usize) -> Result<()> {
    if value > 0 { Ok(()) } else { scalar(what, 0.0, "positive") }
}

fn divisible(what: &'static str, value: usize, by: usize) -> Result<()> {
    positive(what, value)?;
    if value.is_multiple_of(by) {
        return Ok(());
    }
    let must = match by {
        4 => "a multiple of 4 for this format",
        8 => "a multiple of 8 for this format",
        16 => "a multiple of 16 for this format",
        _ => "a multiple of 32 for this format",
    };
    scalar(what, value as f64, must)
}

#[cfg(test)]
#[allow(clippy::panic)]
mod tests;
