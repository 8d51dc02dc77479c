//! The number formats that the library multiplies, and which go together.

#[cfg(feature = "cuda")]
use super::sys::{cudaDataType_t, cusparseComputeType};
use crate::element::DType;
use crate::error::{Error, Result};

/// The library's name of a format.
#[cfg(feature = "cuda")]
pub(super) const fn raw(dtype: DType) -> cudaDataType_t {
    match dtype {
        DType::F32 => cudaDataType_t::CUDA_R_32F,
        DType::F16 => cudaDataType_t::CUDA_R_16F,
        DType::Bf16 => cudaDataType_t::CUDA_R_16BF,
        DType::E4m3 => cudaDataType_t::CUDA_R_8F_E4M3,
        DType::E5m2 => cudaDataType_t::CUDA_R_8F_E5M2,
        DType::I8 => cudaDataType_t::CUDA_R_8I,
        DType::I32 => cudaDataType_t::CUDA_R_32I,
    }
}

/// The formats of a product: operands of one, a result of another. Sums are in `f32`, of `i8` operands in `i32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Types {
    operand: DType,
    result: DType,
}

impl Types {
    /// `operand` for weight and input, `result` for output and addend. What there is, by operand: `f32`, `f16` and
    /// `bf16` give themselves; `i8` gives `i8`, `i32`, `f16` and `bf16`; `e4m3` gives `f16`, `bf16` and `f32`. Whether
    /// the device has it, the library says when a [`Plan`](super::Plan) is made.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for any other pair.
    pub const fn new(operand: DType, result: DType) -> Result<Self> {
        use DType::{Bf16, E4m3, E5m2, F16, F32, I8, I32};
        let because = match (operand, result) {
            (F32, F32) | (F16, F16) | (Bf16, Bf16) => return Ok(Self { operand, result }),
            (I8, I8 | I32 | F16 | Bf16) | (E4m3, F16 | Bf16 | F32) => return Ok(Self { operand, result }),
            (F32, _) => "operands in f32 give f32 only",
            (F16, _) => "operands in f16 give f16 only",
            (Bf16, _) => "operands in bf16 give bf16 only",
            (I8, _) => "operands in i8 give i8, i32, f16 or bf16",
            (E4m3, _) => "operands in e4m3 give f16, bf16 or f32",
            (I32, _) => "there are no operands in i32",
            (E5m2, _) => "this crate has no products of e5m2",
        };
        Err(Error::Unsupported { what: "a product of these formats by cuSPARSELt", because })
    }

    /// Of weight and input.
    #[must_use]
    pub const fn operand(self) -> DType {
        self.operand
    }

    /// Of output and addend.
    #[must_use]
    pub const fn result(self) -> DType {
        self.result
    }

    /// Of the bias: the result's, but `f32` where operands are `i8`.
    #[must_use]
    pub const fn bias(self) -> DType {
        match self.operand {
            DType::I8 => DType::F32,
            _ => self.result,
        }
    }

    #[cfg(feature = "cuda")]
    pub(super) const fn compute(self) -> cusparseComputeType {
        match self.operand {
            DType::I8 => cusparseComputeType::CUSPARSE_COMPUTE_32I,
            _ => cusparseComputeType::CUSPARSE_COMPUTE_32F,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_library_has_is_a_pair() {
        use DType::{Bf16, E4m3, F16, F32, I8, I32};
        let all = [F32, F16, Bf16, E4m3, I8, I32];
        let pairs = all.iter().flat_map(|&operand| all.map(|result| (operand, result)));
        let good: Vec<_> = pairs.filter(|&(operand, result)| Types::new(operand, result).is_ok()).collect();
        let expected = [
            (F32, F32),
            (F16, F16),
            (Bf16, Bf16),
            (E4m3, F32),
            (E4m3, F16),
            (E4m3, Bf16),
            (I8, F16),
            (I8, Bf16),
            (I8, I8),
            (I8, I32),
        ];
        assert_eq!(good, expected);
    }
}
