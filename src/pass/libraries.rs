//! Which of CUDA's libraries plans may use.

/// Which libraries there are, or may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Libraries {
    /// cuBLASLt, for dense products.
    pub cublaslt: bool,
    /// cuSPARSELt, for products of compressed weights.
    pub cusparselt: bool,
}

impl Libraries {
    /// This crate's kernels only.
    pub const NONE: Self = Self { cublaslt: false, cusparselt: false };
    /// cuBLASLt, which comes with every toolkit.
    pub const CUBLASLT: Self = Self { cublaslt: true, cusparselt: false };
    /// Both.
    pub const ALL: Self = Self { cublaslt: true, cusparselt: true };

    /// Those that can be opened, as [`crate::device`] and [`crate::cusparselt`] look for them.
    #[cfg(feature = "cuda")]
    #[must_use]
    pub fn find() -> Self {
        Self::ALL.there()
    }

    /// Those of these that can be opened; the others are not looked for.
    #[cfg(feature = "cuda")]
    pub(crate) fn there(self) -> Self {
        Self {
            cublaslt: self.cublaslt && crate::device::probe::cublaslt().is_ok(),
            cusparselt: self.cusparselt && crate::cusparselt::available().is_ok(),
        }
    }

    /// Those of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self { cublaslt: self.cublaslt && other.cublaslt, cusparselt: self.cusparselt && other.cusparselt }
    }
}
