//! The three dense products of a layer as plain data: what they multiply, and how that lies in memory.

use super::{Problem, split};
use crate::element::DType;

/// A row-major product `C [rows, cols] = A [rows, depth] · B [depth, cols]`, each operand possibly stored as its
/// transpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Product {
    /// Rows of C.
    pub rows: usize,
    /// The contraction.
    pub depth: usize,
    /// Columns of C.
    pub cols: usize,
    /// Whether A is stored `[depth, rows]`.
    pub a_transposed: bool,
    /// Whether B is stored `[cols, depth]`.
    pub b_transposed: bool,
    /// Elements from one stored row of A to the next; at least its stored columns.
    pub a_pitch: usize,
    /// The type of A and B.
    pub operands: DType,
    /// The type of C.
    pub result: DType,
}

impl Product {
    /// `Y = X (W∘M)ᵀ`, of the type of the operands; of `i8` in `i32`.
    #[must_use]
    pub fn output(problem: Problem, dtype: DType) -> Self {
        let Problem { tokens, shape } = problem;
        let (rows, depth, cols) = (tokens, shape.cols, shape.rows);
        let (a_transposed, b_transposed, a_pitch) = (false, true, depth);
        let result = if dtype == DType::I8 { DType::I32 } else { dtype };
        Self { rows, depth, cols, a_transposed, b_transposed, a_pitch, operands: dtype, result }
    }

    /// `dX = dY (W∘M)`.
    #[must_use]
    pub fn input_gradient(problem: Problem, dtype: DType) -> Self {
        let Problem { tokens, shape } = problem;
        let (rows, depth, cols) = (tokens, shape.rows, shape.cols);
        let (a_transposed, b_transposed, a_pitch) = (false, false, depth);
        Self { rows, depth, cols, a_transposed, b_transposed, a_pitch, operands: dtype, result: dtype }
    }

    /// `G = dYᵀ X`, in `f32` whatever the operands are, unless it is [`rounded`](Self::rounded_to).
    #[must_use]
    pub fn weight_gradient(problem: Problem, dtype: DType) -> Self {
        let Problem { tokens, shape } = problem;
        let (rows, depth, cols) = (shape.rows, tokens, shape.cols);
        let (a_transposed, b_transposed, a_pitch) = (true, false, rows);
        Self { rows, depth, cols, a_transposed, b_transposed, a_pitch, operands: dtype, result: DType::F32 }
    }

    /// With C of this type.
    #[must_use]
    pub fn rounded_to(self, result: DType) -> Self {
        Self { result, ..self }
    }

    /// Some rows of C only. (A then is a part of its matrix, with the same pitch, if it is stored as its transpose.)
    #[must_use]
    pub fn panel(self, rows: usize) -> Self {
        Self { rows, ..self }
    }

    /// Rows, columns and pitch of A, B and C as they lie in memory, row-major.
    pub(crate) fn stored(&self) -> [[usize; 3]; 3] {
        let Self { rows, depth, cols, a_pitch, .. } = *self;
        let a = if self.a_transposed { [depth, rows, a_pitch] } else { [rows, depth, a_pitch] };
        let b = if self.b_transposed { [cols, depth, depth] } else { [depth, cols, cols] };
        [a, b, [rows, cols, cols]]
    }

    /// What the parts of a split product take of a workspace.
    pub(crate) fn partial_bytes(&self, splits: u32) -> usize {
        split::aligned(split::partial_bytes(self.rows.saturating_mul(self.cols), splits))
    }

    /// Whether sums are in `i32` and not in `f32`.
    #[cfg(feature = "cuda")]
    pub(crate) fn is_integer(&self) -> bool {
        self.result == DType::I32
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn is_empty(&self) -> bool {
        self.rows == 0 || self.cols == 0
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn result_bytes(&self) -> usize {
        self.rows * self.cols * self.result.size()
    }
}

/// A product by cuBLASLt, of matrices at these addresses; `c` is overwritten.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Call {
    /// What it is asked for.
    pub form: Form,
    /// Address of A.
    pub a: u64,
    /// Address of B.
    pub b: u64,
    /// Address of C.
    pub c: u64,
    /// Address of a value for each column of C, if the form has a bias.
    pub bias: Option<u64>,
}

/// What cuBLASLt is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Form {
    /// Shapes, formats, and how operands lie.
    pub product: Product,
    /// Whether a value for each column of C is added before it is rounded; not for integers.
    pub bias: bool,
}

impl From<Product> for Form {
    fn from(product: Product) -> Self {
        Self { product, bias: false }
    }
}
