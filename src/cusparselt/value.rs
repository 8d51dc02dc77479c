//! The number formats that the library multiplies, and which go together.

use cudarc::driver::DeviceRepr;
use half::{bf16, f16};

use super::sys::{cudaDataType_t, cusparseComputeType};
use crate::element::E4m3;
use crate::error::{Error, Result};

/// A number format of the library's matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ValueType {
    /// IEEE binary32. As an operand, tensor cores see it as TF32: 10 bits of mantissa. Its "2:4" is 1:2.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of binary32.
    Bf16,
    /// Eight bits with four of exponent and three of mantissa.
    E4m3,
    /// A signed byte.
    I8,
    /// A signed word: a result only.
    I32,
}

impl ValueType {
    /// Bytes of one value.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::E4m3 | Self::I8 => 1,
        }
    }

    /// The name used in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::E4m3 => "e4m3",
            Self::I8 => "i8",
            Self::I32 => "i32",
        }
    }

    pub(super) const fn raw(self) -> cudaDataType_t {
        match self {
            Self::F32 => cudaDataType_t::CUDA_R_32F,
            Self::F16 => cudaDataType_t::CUDA_R_16F,
            Self::Bf16 => cudaDataType_t::CUDA_R_16BF,
            Self::E4m3 => cudaDataType_t::CUDA_R_8F_E4M3,
            Self::I8 => cudaDataType_t::CUDA_R_8I,
            Self::I32 => cudaDataType_t::CUDA_R_32I,
        }
    }
}

impl std::fmt::Display for ValueType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type of one of the formats. Sealed.
pub trait Value: sealed::Sealed + DeviceRepr + bytemuck::Pod {
    /// Its format.
    const TYPE: ValueType;
}

// SAFETY: one byte, every value of which is one.
unsafe impl DeviceRepr for E4m3 {}
// SAFETY: as above; zero bits are the number zero.
unsafe impl cudarc::driver::ValidAsZeroBits for E4m3 {}

macro_rules! values {
    ($($rust:ty: $name:ident),*) => {$(
        impl sealed::Sealed for $rust {}
        impl Value for $rust {
            const TYPE: ValueType = ValueType::$name;
        }
    )*};
}

values!(f32: F32, f16: F16, bf16: Bf16, E4m3: E4m3, i8: I8, i32: I32);

/// The formats of a product: operands of one, a result of another. Sums are in `f32`, of `i8` operands in `i32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Types {
    operand: ValueType,
    result: ValueType,
}

impl Types {
    /// `operand` for weight and input, `result` for output and addend. What there is, by operand: `f32`, `f16` and `bf16`
    /// give themselves; `i8` gives `i8`, `i32`, `f16` and `bf16`; `e4m3` gives `f16`, `bf16` and `f32`. Whether the
    /// device has it, the library says when a [`Plan`](super::Plan) is made.
    ///
    /// # Errors
    /// [`Error::Path`] for any other pair.
    pub const fn new(operand: ValueType, result: ValueType) -> Result<Self> {
        use ValueType::{Bf16, E4m3, F16, F32, I8, I32};
        let because = match (operand, result) {
            (F32, F32) | (F16, F16) | (Bf16, Bf16) => return Ok(Self { operand, result }),
            (I8, I8 | I32 | F16 | Bf16) | (E4m3, F16 | Bf16 | F32) => return Ok(Self { operand, result }),
            (F32, _) => "operands in f32 give f32 only",
            (F16, _) => "operands in f16 give f16 only",
            (Bf16, _) => "operands in bf16 give bf16 only",
            (I8, _) => "operands in i8 give i8, i32, f16 or bf16",
            (E4m3, _) => "operands in e4m3 give f16, bf16 or f32",
            (I32, _) => "there are no operands in i32",
        };
        Err(Error::Path { path: "a product of these formats by cuSPARSELt", because })
    }

    /// Of weight and input.
    #[must_use]
    pub const fn operand(self) -> ValueType {
        self.operand
    }

    /// Of output and addend.
    #[must_use]
    pub const fn result(self) -> ValueType {
        self.result
    }

    /// Of the bias: the result's, but `f32` where operands are `i8`.
    #[must_use]
    pub const fn bias(self) -> ValueType {
        match self.operand {
            ValueType::I8 => ValueType::F32,
            _ => self.result,
        }
    }

    pub(super) const fn compute(self) -> cusparseComputeType {
        match self.operand {
            ValueType::I8 => cusparseComputeType::CUSPARSE_COMPUTE_32I,
            _ => cusparseComputeType::CUSPARSE_COMPUTE_32F,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_library_has_is_a_pair() {
        use ValueType::{Bf16, E4m3, F16, F32, I8, I32};
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
