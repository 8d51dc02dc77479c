//! cuBLASLt's descriptors, each with its owner. None refers to another, and all are plain memory of the library.

use super::{ALIGN, blas_error};
use crate::element::DType;
use crate::error::Result;
use cudarc::cublaslt::{result, sys};
use sys::cublasLtMatmulDescAttributes_t as DescAttribute;
use sys::cublasLtMatmulPreferenceAttributes_t as PrefAttribute;

/// An operation's description: sums and factors in `f32`, or in `i32` for integers. (For `f32` operands that is without
/// TF32.)
pub(super) struct Description(pub(super) sys::cublasLtMatmulDesc_t);

impl Description {
    pub(super) fn new(integer: bool) -> Result<Self> {
        let (compute, factors) = match integer {
            false => (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType_t::CUDA_R_32F),
            true => (sys::cublasComputeType_t::CUBLAS_COMPUTE_32I, sys::cudaDataType_t::CUDA_R_32I),
        };
        let made = result::create_matmul_desc(compute, factors);
        made.map(Self).map_err(blas_error("cublasLtMatmulDescCreate"))
    }

    pub(super) fn transpose(&self, attribute: DescAttribute, transposed: bool) -> Result<()> {
        // `cublasOperation_t`: N is 0, T is 1.
        self.set(attribute, &i32::from(transposed))
    }

    /// Adds a value for each row of the library's result, of the result's format.
    pub(super) fn adds_bias(&self) -> Result<()> {
        let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u32;
        self.set(DescAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
        // Until the first run: the heuristic looks at its alignment, which is that of every operand, and at nothing
        // else.
        self.set_bias(ALIGN)
    }

    /// Where the values are that are added.
    pub(super) fn set_bias(&self, address: u64) -> Result<()> {
        self.set(DescAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &address)
    }

    fn set<T: bytemuck::Pod>(&self, attribute: DescAttribute, value: &T) -> Result<()> {
        let (from, bytes) = ((&raw const *value).cast(), size_of::<T>());
        // SAFETY: the descriptor is live, and the call copies that many bytes; it checks that the attribute has as
        // many.
        let set = unsafe { result::set_matmul_desc_attribute(self.0, attribute, from, bytes) };
        set.map_err(blas_error("cublasLtMatmulDescSetAttribute"))
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: the descriptor is live, and this is its only owner.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// The library's name of a format.
pub(super) fn format(dtype: DType) -> sys::cudaDataType_t {
    match dtype {
        DType::F32 => sys::cudaDataType_t::CUDA_R_32F,
        DType::F16 => sys::cudaDataType_t::CUDA_R_16F,
        DType::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
        DType::E4m3 => sys::cudaDataType_t::CUDA_R_8F_E4M3,
        DType::E5m2 => sys::cudaDataType_t::CUDA_R_8F_E5M2,
        DType::I8 => sys::cudaDataType_t::CUDA_R_8I,
        DType::I32 => sys::cudaDataType_t::CUDA_R_32I,
    }
}

/// A matrix as the library sees it.
pub(super) struct Layout(pub(super) sys::cublasLtMatrixLayout_t);

impl Layout {
    /// Of a row-major matrix.
    pub(super) fn new(format: sys::cudaDataType_t, [rows, cols, pitch]: [usize; 3]) -> Result<Self> {
        let made = result::create_matrix_layout(format, cols as u64, rows as u64, pitch as i64);
        made.map(Self).map_err(blas_error("cublasLtMatrixLayoutCreate"))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: the layout is live, and this is its only owner.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// What the heuristic may choose from.
pub(super) struct Preference(pub(super) sys::cublasLtMatmulPreference_t);

impl Preference {
    pub(super) fn new(workspace_bytes: usize) -> Result<Self> {
        let made = result::create_matmul_pref().map(Self).map_err(blas_error("cublasLtMatmulPreferenceCreate"))?;
        made.set(PrefAttribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &(workspace_bytes as u64))?;
        // Where the contraction is split, parts are added up in f32, never in the result's 16 bits.
        let in_f32 = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        made.set(PrefAttribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &in_f32)?;
        for operand in [
            PrefAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            PrefAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            PrefAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            PrefAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            made.set(operand, &(ALIGN as u32))?;
        }
        Ok(made)
    }

    fn set<T: bytemuck::Pod>(&self, attribute: PrefAttribute, value: &T) -> Result<()> {
        let (from, bytes) = ((&raw const *value).cast(), size_of::<T>());
        // SAFETY: the preference is live, and the call copies that many bytes; it checks that the attribute has as
        // many.
        let set = unsafe { result::set_matmul_pref_attribute(self.0, attribute, from, bytes) };
        set.map_err(blas_error("cublasLtMatmulPreferenceSetAttribute"))
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: the preference is live, and this is its only owner.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}
