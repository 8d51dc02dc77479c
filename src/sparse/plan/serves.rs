//! Whether a route serves, and if not, why.

use super::Route;
use super::choice::Choice;
use crate::compress::Layout;
use crate::cusparselt;
use crate::dense::Problem;
use crate::element::DType;
use crate::error::{Error, Result, unsupported};
use crate::sparse::launch::{self, Kernel};

pub(super) const TILE: &str = "a product by this crate's kernels";
pub(super) const CUSPARSELT: &str = "a product by cuSPARSELt";
const SMALL: &str = "a product of few tokens by this crate's kernels";
const DENSE: &str = "a dense product by cuBLASLt";

type Because = std::result::Result<(), &'static str>;

impl Choice {
    /// # Errors
    /// [`Error::Unsupported`] with the reason.
    pub(super) fn serves(&self, route: Route) -> Result<()> {
        let (what, because) = match route {
            Route::Small => (SMALL, self.kernel_serves(Kernel::Small)),
            Route::Tile => (TILE, self.kernel_serves(Kernel::Tile)),
            Route::Cusparselt => (CUSPARSELT, self.cusparselt_serves()),
            Route::Dense => (DENSE, self.dense_serves()),
        };
        because.map_err(|because| unsupported(what, because))
    }

    fn kernel_serves(&self, kernel: Kernel) -> Because {
        match self.values() {
            _ if kernel == Kernel::Small && self.problem.tokens > launch::MAX_SMALL_TOKENS => {
                Err("it takes at most 128 tokens")
            }
            DType::F16 | DType::Bf16 | DType::I8 if self.given.layout != Layout::CutlassSm80 => {
                Err("this crate's kernels read layout cutlass-sm80: reorder the metadata")
            }
            DType::F16 | DType::Bf16 | DType::I8 if launch::takes(kernel, self.problem) => Ok(()),
            DType::F16 | DType::Bf16 | DType::I8 => Err("the sizes exceed what the kernel counts in 32 bits"),
            _ => Err("this crate's kernels multiply f16, bf16 and i8"),
        }
    }

    fn cusparselt_serves(&self) -> Because {
        let Problem { tokens, shape } = self.problem;
        if !self.libraries.cusparselt {
            return Err("the library is not available");
        }
        if self.values() == DType::E4m3 && self.limits.compute_capability < (8, 9) {
            return Err("the device has no 8-bit floating point: compute capability 8.9 and later have");
        }
        cusparselt::Problem::new(self.types, tokens, shape).check().map_err(|rule| broken(&rule))?;
        match self.values() {
            DType::I8 if self.given.bias => Err("to i32 sums the library adds a bias in f32, and ours is i32"),
            DType::I8 if shape.cols >= 1 << 18 => Err("the library's i32 sums do not wrap, and K may exceed them"),
            _ => Ok(()),
        }
    }

    fn dense_serves(&self) -> Because {
        let shape = self.problem.shape;
        match self.values() {
            _ if !self.libraries.cublaslt => Err("the library is not available"),
            DType::E4m3 | DType::E5m2 => Err("dense products of 8-bit floating point are not offered"),
            DType::I8 if !shape.rows.is_multiple_of(4) => Err("for i8, cuBLASLt wants N in multiples of 4"),
            DType::I8 if self.given.bias => Err("to i32 sums cuBLASLt adds no bias"),
            _ if shape.cols == 0 && self.given.bias => Err("an empty sum is none for cuBLASLt, and the bias remains"),
            _ => Ok(()),
        }
    }
}

/// What the library's rules say of a product without gaps.
fn broken(rule: &Error) -> &'static str {
    match rule {
        Error::Scalar { value, .. } if *value == 0.0 => "there is nothing to multiply, which the library refuses",
        Error::Scalar { what, .. } if is_of_weight(what) => {
            "N and K must be multiples of 8 (f32), 16 (f16, bf16) or 32 (8 bits)"
        }
        Error::Scalar { .. } => "T must be a multiple of 4 (f32), 8 (f16, bf16) or 16 (8 bits)",
        _ => "a matrix has 2^32 bytes or more",
    }
}

fn is_of_weight(what: &str) -> bool {
    what.ends_with("of the weight")
}
