//! Which way a product is taken on a device, how much work space that needs, and why.
//!
//! A plan is plain data, made from sizes, types, the device's [`Limits`] and which libraries there are: the same
//! everywhere, and testable without a device. Only what cuSPARSELt works in is the library's to say:
//! [`Library::complete`](super::library::Library::complete) adds it.

use crate::element::{DType, Factor};
use std::fmt;

use super::launch::{self, Kernel};
use crate::compress::Layout;
use crate::dense::Problem;
use crate::dense::split::aligned;
use crate::device::Limits;
use crate::error::{Error, Result, path_error};

mod table;

/// A way to `Y`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Path {
    /// An own kernel for at most [`MAX_SMALL_TOKENS`](super::MAX_SMALL_TOKENS) tokens: `f16`, `bf16` and `i8`.
    Small,
    /// An own kernel for any number of tokens: `f16`, `bf16` and `i8`.
    Tile,
    /// cuSPARSELt: `f16`, `bf16`, `i8`, `f32` (in tf32) and `E4m3`.
    Cusparselt,
    /// cuBLASLt by the weight decompressed: `f16`, `bf16`, `i8` and `f32`.
    Dense,
}

/// What a product is given beside `X`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Given {
    /// Where the codes of the weight lie. (Of no matter to cuSPARSELt, which has its own form of it.)
    pub layout: Layout,
    /// Whether there is a decompressed copy of it.
    pub dense: bool,
    /// Whether there is a bias.
    pub bias: bool,
}

impl Given {
    /// The weight as own kernels read it, and nothing else.
    pub const WEIGHT: Self = Self { layout: Layout::CutlassSm80, dense: false, bias: false };
}

/// Which libraries there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Libraries {
    /// cuBLASLt.
    pub cublaslt: bool,
    /// cuSPARSELt.
    pub cusparselt: bool,
}

impl Libraries {
    /// Own kernels only.
    pub const NONE: Self = Self { cublaslt: false, cusparselt: false };
    /// cuBLASLt, which comes with every toolkit.
    pub const CUBLASLT: Self = Self { cublaslt: true, cusparselt: false };
    /// Both.
    pub const ALL: Self = Self { cublaslt: true, cusparselt: true };

    /// Those that can be opened, as [`crate::device`] and [`crate::cusparselt`] look for them.
    #[cfg(feature = "cuda")]
    #[must_use]
    pub fn find() -> Self {
        let cublaslt = crate::device::probe::cublaslt().is_ok();
        Self { cublaslt, cusparselt: crate::cusparselt::available().is_ok() }
    }
}

/// Who packs a weight for cuSPARSELt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Packing {
    /// This crate, in this layout: probe weights came out of the library's compressor the same.
    Ours(Layout),
    /// The library: they came out otherwise than in any layout that is known.
    Library,
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours(layout) => write!(f, "packed in layout {layout}, as the library packs a probe"),
            Self::Library => f.write_str("packed by the library, whose probe is in no known layout"),
        }
    }
}

/// The way of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Plan {
    problem: Problem,
    values: DType,
    given: Given,
    libraries: Libraries,
    limits: Limits,
    path: Path,
    splits: u32,
    workspace_bytes: usize,
    why: &'static str,
    packing: Option<Packing>,
}

/// What a caller's own choice says instead of a reason.
const ASKED: &str = "asked for";

impl Plan {
    /// The best way for a weight and activations of type `T` on a device.
    ///
    /// # Errors
    /// As [`Problem::check`] and [`Layout::check`]; [`Error::Path`] if no way serves, with what the last one lacks.
    pub fn new<T: Factor>(limits: &Limits, problem: Problem, given: Given, libraries: Libraries) -> Result<Self> {
        let plan = Self::draft::<T>(limits, problem, given, libraries)?;
        let (path, why) = plan.best()?;
        Ok(plan.taking(path, why))
    }

    /// This way, whatever is the best.
    ///
    /// # Errors
    /// As [`Plan::new`]; [`Error::Path`] if it does not serve, with the reason.
    pub fn by<T: Factor>(
        path: Path,
        limits: &Limits,
        problem: Problem,
        given: Given,
        libraries: Libraries,
    ) -> Result<Self> {
        Self::draft::<T>(limits, problem, given, libraries)?.with_path(path)
    }

    fn draft<T: Factor>(limits: &Limits, problem: Problem, given: Given, libraries: Libraries) -> Result<Self> {
        problem.check()?;
        given.layout.check(problem.shape, T::DTYPE)?;
        Ok(Self {
            problem,
            values: T::DTYPE,
            given,
            libraries,
            limits: *limits,
            path: Path::Tile,
            splits: 1,
            workspace_bytes: 0,
            why: "",
            packing: None,
        })
    }

    /// Takes another way.
    ///
    /// # Errors
    /// [`Error::Path`] if it does not serve, with the reason.
    pub fn with_path(self, path: Path) -> Result<Self> {
        self.serves(path)?;
        Ok(self.taking(path, ASKED))
    }

    /// The best way without cuBLASLt.
    ///
    /// # Errors
    /// [`Error::Path`] if no other serves.
    pub fn without_cublaslt(self) -> Result<Self> {
        self.without(Path::Dense, Libraries { cublaslt: false, ..self.libraries })
    }

    /// The best way without cuSPARSELt.
    ///
    /// # Errors
    /// [`Error::Path`] if no other serves.
    pub fn without_cusparselt(self) -> Result<Self> {
        self.without(Path::Cusparselt, Libraries { cusparselt: false, ..self.libraries })
    }

    /// A way that does not need the library, even one that was asked for, stays.
    fn without(self, path: Path, libraries: Libraries) -> Result<Self> {
        let plan = Self { libraries, ..self };
        if plan.path != path {
            return Ok(plan);
        }
        let (path, why) = plan.best()?;
        Ok(plan.taking(path, why))
    }

    fn taking(mut self, path: Path, why: &'static str) -> Self {
        (self.path, self.why, self.packing) = (path, why, None);
        (self.splits, self.workspace_bytes) = match path {
            Path::Small => self.own(Kernel::Small),
            Path::Tile => self.own(Kernel::Tile),
            Path::Cusparselt => (1, 0),
            Path::Dense if self.given.dense => (1, 0),
            Path::Dense => (1, aligned(self.problem.shape.weights().saturating_mul(self.values.size()))),
        };
        self
    }

    fn own(&self, kernel: Kernel) -> (u32, usize) {
        let splits = launch::splits(kernel, self.problem, self.values, &self.limits);
        (splits, aligned(launch::partial_bytes(self.problem, splits)))
    }

    /// With what only the library knows.
    #[cfg(feature = "cuda")]
    pub(super) fn completed(mut self, packing: Packing, workspace_bytes: usize) -> Self {
        (self.packing, self.workspace_bytes) = (Some(packing), workspace_bytes);
        self
    }

    /// The sizes it is for.
    #[must_use]
    pub const fn problem(&self) -> Problem {
        self.problem
    }

    /// What it is for.
    #[must_use]
    pub const fn given(&self) -> Given {
        self.given
    }

    /// The type of weight and activations.
    #[must_use]
    pub const fn values(&self) -> DType {
        self.values
    }

    /// The way.
    #[must_use]
    pub const fn path(&self) -> Path {
        self.path
    }

    /// In how many parts an own kernel takes the contraction, to fill the device; their sums are added in a fixed order.
    #[must_use]
    pub const fn splits(&self) -> u32 {
        self.splits
    }

    /// Bytes of work space. For [`Path::Cusparselt`], not before the plan is [complete](super::library::Library::complete).
    #[must_use]
    pub const fn workspace_bytes(&self) -> usize {
        self.workspace_bytes
    }

    /// The line of the table that chose the way.
    #[must_use]
    pub const fn why(&self) -> &'static str {
        self.why
    }

    /// Who packs the weight for [`Path::Cusparselt`], once the plan is [complete](super::library::Library::complete).
    #[must_use]
    pub const fn packing(&self) -> Option<Packing> {
        self.packing
    }

    /// The device it is for.
    pub(super) const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Checks that arguments are those the plan was made for.
    pub(super) fn check(&self, problem: Problem, values: DType, given: Given) -> Result<()> {
        // A copy that is there but not used does no harm; and cuSPARSELt has the weight in a form of its own.
        let dense = given.dense || self.given.dense && self.path != Path::Dense;
        let layout = if self.path == Path::Cusparselt { self.given.layout } else { given.layout };
        let same = (layout, given.bias) == (self.given.layout, self.given.bias) && (dense || !self.given.dense);
        if same && (problem, values) == (self.problem, self.values) {
            return Ok(());
        }
        let describe = |Problem { tokens, shape }: Problem, values, Given { layout, dense, bias }: Given| {
            let [rows, cols] = [shape.rows, shape.cols];
            let with = |there, what| if there { what } else { "" };
            let (dense, bias) = (with(dense, ", a dense copy"), with(bias, ", a bias"));
            format!("{tokens} tokens, [{rows}, {cols}] of {values} in layout {layout}{dense}{bias}")
        };
        let planned = describe(self.problem, self.values, self.given);
        Err(Error::Unplanned { planned, given: describe(problem, values, given) })
    }

    /// Whether a way serves, and if not, why.
    fn serves(&self, path: Path) -> Result<()> {
        match path {
            Path::Small if self.problem.tokens > launch::MAX_SMALL_TOKENS => {
                Err(path_error(SMALL, "it takes at most 128 tokens"))
            }
            Path::Small => self.own_serves(SMALL, Kernel::Small),
            Path::Tile => self.own_serves(TILE, Kernel::Tile),
            Path::Cusparselt => self.cusparselt_serves().map_err(|because| path_error(CUSPARSELT, because)),
            Path::Dense => self.dense_serves().map_err(|because| path_error(DENSE, because)),
        }
    }

    fn own_serves(&self, path: &'static str, kernel: Kernel) -> Result<()> {
        let because = match self.values {
            DType::F16 | DType::Bf16 | DType::I8 if self.given.layout != Layout::CutlassSm80 => {
                "own kernels read layout cutlass-sm80: reorder the metadata"
            }
            DType::F16 | DType::Bf16 | DType::I8 if launch::takes(kernel, self.problem, self.values) => {
                return Ok(());
            }
            DType::F16 | DType::Bf16 | DType::I8 => "the sizes exceed what the kernel counts in 32 bits",
            _ => "own kernels multiply f16, bf16 and i8",
        };
        Err(path_error(path, because))
    }

    /// The library's rules, as [`crate::cusparselt::Problem::check`] has them; a test sees that they agree.
    fn cusparselt_serves(&self) -> std::result::Result<(), &'static str> {
        let Problem { tokens, shape } = self.problem;
        let size = self.values.size();
        // Bytes of a matrix: 2^32 values of 8 bits, 2^31 of 16, 2^30 of 32.
        let fits = |rows: usize, cols: usize, size: usize| rows.saturating_mul(cols) < (1 << 32) / size;
        let result = if self.values == DType::E4m3 || self.values == DType::I8 { 4 } else { size };
        let capability = self.limits.compute_capability;
        if !self.libraries.cusparselt {
            return Err("the library is not available");
        }
        if self.values == DType::E4m3 && capability < (8, 9) {
            return Err("the device has no 8-bit floating point: compute capability 8.9 and later have");
        }
        if tokens == 0 || shape.rows == 0 || shape.cols == 0 {
            return Err("there is nothing to multiply, which the library refuses");
        }
        if !(shape.rows.is_multiple_of(32 / size) && shape.cols.is_multiple_of(32 / size)) {
            return Err("N and K must be multiples of 8 (f32), 16 (f16, bf16) or 32 (8 bits)");
        }
        if !tokens.is_multiple_of(16 / size) {
            return Err("T must be a multiple of 4 (f32), 8 (f16, bf16) or 16 (8 bits)");
        }
        if !(fits(shape.rows, shape.cols, size) && fits(tokens, shape.cols, size) && fits(tokens, shape.rows, result)) {
            return Err("a matrix has 2^32 bytes or more");
        }
        match self.values {
            DType::I8 if self.given.bias => Err("to i32 sums the library adds a bias in f32, and ours is i32"),
            DType::I8 if shape.cols >= 1 << 18 => Err("the library's i32 sums do not wrap, and K may exceed them"),
            _ => Ok(()),
        }
    }

    fn dense_serves(&self) -> std::result::Result<(), &'static str> {
        let shape = self.problem.shape;
        match self.values {
            _ if !self.libraries.cublaslt => Err("the library is not available"),
            DType::E4m3 | DType::E5m2 => Err("dense products of 8-bit floating point are not offered"),
            DType::I8 if !shape.rows.is_multiple_of(4) => Err("for i8, cuBLASLt wants N in multiples of 4"),
            DType::I8 if self.given.bias => Err("to i32 sums cuBLASLt adds no bias"),
            _ if shape.cols == 0 && self.given.bias => Err("an empty sum is none for cuBLASLt, and the bias remains"),
            _ => Ok(()),
        }
    }
}

const SMALL: &str = "an own product of few tokens";
const TILE: &str = "an own product";
const CUSPARSELT: &str = "a product by cuSPARSELt";
const DENSE: &str = "a dense product by cuBLASLt";

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, splits, bytes) = (format!("{:?}", self.path), self.splits, self.workspace_bytes);
        write!(f, "Y {path:10} {splits:2} part(s), {bytes:>11} bytes of work space: {}", self.why)?;
        match (self.path, self.packing) {
            (Path::Cusparselt, Some(packing)) => write!(f, "; {packing}"),
            (Path::Cusparselt, None) => f.write_str("; the library was not asked yet"),
            _ => Ok(()),
        }
    }
}
