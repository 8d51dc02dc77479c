//! Launches of the own sparse kernels as plain data, for the CUDA executor and the emulator alike: `Y [T, N] = X [T, K] Wᵀ`
//! plus a bias, with `W [N, K]` compressed. The structs mirror those of `cuda/sparse/product.cuh` and `cuda/sparse.cu`.
//!
//! | operand | is |
//! | --- | --- |
//! | `x` | `[T, K]`, of the values' type |
//! | `values` | `[N, K/2]` kept values, `f16`, `bf16` or `i8` |
//! | `metadata` | codes in [`Layout::CutlassSm80`](crate::compress::Layout::CutlassSm80), of legal codes alone, its padding included: what others do is undefined. Packers write no others |
//! | `bias` | `[N]`, of the type of `y` |
//! | `y` | `[T, N]`, overwritten: of the values' type, `i32` for `i8` |
//!
//! There are two kernels, [`Kernel::Small`] for few tokens (`cuda/sparse_small.cu`) and [`Kernel::Tile`] for many
//! (`cuda/sparse.cu`). In both, blocks may share the sum over K (`splits` above 1): each leaves the sums of its columns in
//! `partial [splits, T, N]` (`f32`, or `i32`), and [`sum`] adds them up, with the bias.
//!
//! Rows are read fast where they are on 16-byte boundaries: K a multiple of 16 for 16-bit values and of 32 for `i8`.
//!
//! # Numerics
//!
//! - Products of 16-bit values are summed in `f32`, K/2 kept terms for each element of `Y` and the bias, and rounded once.
//!   So with `u = 2⁻²³` (tensor cores truncate) and `n = K/2 + splits + 1`, an element is within `n·u/(1 − n·u)` of the sum
//!   of its terms' magnitudes of the exact one, and one rounding more (see [`crate::matmul`]). `i8` is exact, modulo 2³².
//! - The order of summation depends on the shape and `splits` alone, so a launch repeats itself to the bit.
//! - A dropped weight has no term: NaN or infinity in `X` reaches an element of `Y` only through a *kept* weight, be it
//!   zero. A dense product of the decompressed weight has `0 · NaN` there, and differs.

use crate::check::scalar;
use crate::element::DType;

use crate::dense::Problem;
use crate::dense::split;
use crate::device::Limits;
use crate::device::launch::{ALIGN, Launch, Symbol, aligned};
use crate::error::{Error, Result};

mod small;
mod tile;

pub use small::MAX_TOKENS as MAX_SMALL_TOKENS;

/// The most blocks along a grid's y.
const MAX_SPLITS: u32 = 65_535;
/// Bytes of a token that a stage of either kernel holds; of a row's kept values it holds half as many.
const STAGE_TOKEN_BYTES: usize = 128;
/// `twofour_sparse_sum_*`: threads of a block.
const SUM_THREADS: u32 = 256;

/// Which of the own kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// For at most [`MAX_SMALL_TOKENS`] tokens: reads the weight at memory's speed.
    Small,
    /// For many: tiles of 128 rows of `W` by 128 tokens.
    Tile,
}

/// Device addresses, each on a 16-byte boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operands {
    /// `X [T, K]`.
    pub x: u64,
    /// Kept values `[N, K/2]`.
    pub values: u64,
    /// Codes.
    pub metadata: u64,
    /// `[N]`, if there is one.
    pub bias: Option<u64>,
    /// `Y [T, N]`: written by [`product`] if `splits` is 1, otherwise by [`sum`].
    pub y: u64,
    /// [`partial_bytes`] to work in; unused if `splits` is 1.
    pub partial: u64,
}

/// `SparseArgs` of the kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct SparseArgs {
    x: u64,
    values: u64,
    codes: u64,
    bias: u64,
    y: u64,
    partial: u64,
    tokens: u32,
    rows: u32,
    cols: u32,
    share: u32,
    splits: u32,
    row_warps: u32,
}
const _: () = assert!(size_of::<SparseArgs>() == 72);

/// `SparseSumArgs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct SumArgs {
    partial: u64,
    y: u64,
    bias: u64,
    elements: u64,
    rows: u32,
    splits: u32,
}
const _: () = assert!(size_of::<SumArgs>() == 40);

/// Whether a kernel does a problem: its type of values, its number of tokens, and sizes that its 32-bit numbers hold.
#[must_use]
pub fn takes(kernel: Kernel, problem: Problem, values: DType) -> bool {
    check(kernel, problem, values).is_ok() && grid(kernel, problem, 1).is_ok()
}

/// In how many shares to take the sum over K so that the device is full, at least 1: a modelled choice, see the kernels'
/// own. It depends on the arguments alone.
#[must_use]
pub fn splits(kernel: Kernel, problem: Problem, values: DType, limits: &Limits) -> u32 {
    let wanted = match kernel {
        Kernel::Small => small::splits(problem, values, limits),
        Kernel::Tile => tile::splits(problem, values, limits),
    };
    wanted.clamp(1, MAX_SPLITS as usize) as u32
}

/// Bytes of `partial` for this number of splits, saturating: none for one.
#[must_use]
pub fn partial_bytes(problem: Problem, splits: u32) -> usize {
    split::partial_bytes(problem.outputs(), splits)
}

/// The product, or its parts where it is split. A problem without tokens or rows is a grid without blocks.
///
/// # Errors
/// As [`Problem::check`]; [`Error::Path`] for other types of values; [`Error::Scalar`] for more tokens than the kernel
/// takes, or a number of splits that no grid has; [`Error::Overflow`] for sizes beyond the kernel's 32-bit numbers;
/// [`Error::Misaligned`].
pub fn product(
    kernel: Kernel,
    problem: Problem,
    values: DType,
    at: &Operands,
    splits: u32,
) -> Result<Launch<SparseArgs>> {
    check(kernel, problem, values)?;
    check_splits(splits, 1)?;
    let [y, partial] = if splits > 1 { [0, at.partial] } else { [at.y, 0] };
    let (share, row_warps) = match kernel {
        Kernel::Small => (small::share(problem, values, splits as usize), small::row_warps(problem.tokens)),
        Kernel::Tile => (tile::share(problem, values, splits as usize), 0),
    };
    let args = SparseArgs {
        x: aligned("x", at.x, ALIGN)?,
        values: aligned("values", at.values, ALIGN)?,
        codes: aligned("metadata", at.metadata, ALIGN)?,
        bias: if splits > 1 { 0 } else { aligned("bias", at.bias.unwrap_or(0), ALIGN)? },
        y: aligned("y", y, ALIGN)?,
        partial: aligned("partial", partial, ALIGN)?,
        tokens: problem.tokens as u32,
        rows: problem.shape.rows as u32,
        cols: problem.shape.cols as u32,
        share: share as u32,
        splits,
        row_warps: row_warps as u32,
    };
    let (name, threads, shared_bytes) = match kernel {
        Kernel::Small => (small::symbol(problem.tokens, values)?, small::THREADS, small::shared_bytes(values)),
        Kernel::Tile => (tile::symbol(values)?, tile::THREADS, tile::shared_bytes(values)),
    };
    let module = match kernel {
        Kernel::Small => "sparse_small",
        Kernel::Tile => "sparse",
    };
    let grid = grid(kernel, problem, splits)?;
    Ok(Launch { symbol: Symbol { module, name }, grid, block: [threads, 1, 1], shared_bytes, args })
}

/// Adds up the parts of a split product in their order, adds the bias, and rounds once.
///
/// # Errors
/// As [`product`], for the operands it reads; [`Error::Scalar`] unless `splits` is above 1.
pub fn sum(problem: Problem, values: DType, at: &Operands, splits: u32) -> Result<Launch<SumArgs>> {
    problem.check()?;
    check_type(values)?;
    check_splits(splits, 2)?;
    let name = match values {
        DType::F16 => "twofour_sparse_sum_f16",
        DType::Bf16 => "twofour_sparse_sum_bf16",
        _ => "twofour_sparse_sum_i32",
    };
    let elements = problem.outputs() as u64;
    let args = SumArgs {
        partial: aligned("partial", at.partial, ALIGN)?,
        y: aligned("y", at.y, ALIGN)?,
        bias: aligned("bias", at.bias.unwrap_or(0), ALIGN)?,
        elements,
        rows: small_size("a column of the weight", problem.shape.rows)?,
        splits,
    };
    let run = if values == DType::I8 { 4 } else { 8 };
    // Kernels step by the grid.
    let blocks = elements.div_ceil(run).div_ceil(u64::from(SUM_THREADS)).min(1 << 20) as u32;
    let symbol = Symbol { module: "sparse", name };
    Ok(Launch { symbol, grid: [blocks, 1, 1], block: [SUM_THREADS, 1, 1], shared_bytes: 0, args })
}

fn check(kernel: Kernel, problem: Problem, values: DType) -> Result<()> {
    problem.check()?;
    check_type(values)?;
    small_size("a column of the weight", problem.shape.rows)?;
    small_size("a row of the weight", problem.shape.cols)?;
    small_size("tokens", problem.tokens)?;
    match kernel {
        Kernel::Small => small::check(problem),
        Kernel::Tile => Ok(()),
    }
}

fn check_type(values: DType) -> Result<()> {
    match values {
        DType::F16 | DType::Bf16 | DType::I8 => Ok(()),
        _ => Err(other_type()),
    }
}

fn other_type() -> Error {
    Error::Path { path: "a sparse product by own kernels", because: "they take f16, bf16 and i8 alone" }
}

fn check_splits(splits: u32, least: u32) -> Result<()> {
    match splits {
        _ if (least..=MAX_SPLITS).contains(&splits) => Ok(()),
        _ if least > 1 => scalar("splits", splits.into(), "from 2 to 65535"),
        _ => scalar("splits", splits.into(), "from 1 to 65535"),
    }
}

fn grid(kernel: Kernel, problem: Problem, splits: u32) -> Result<[u32; 3]> {
    let blocks = match kernel {
        Kernel::Small => small::blocks(problem),
        Kernel::Tile => tile::tiles(problem),
    };
    match u32::try_from(blocks) {
        Ok(blocks) if blocks < 1 << 31 => Ok([if problem.tokens == 0 { 0 } else { blocks }, splits, 1]),
        _ => Err(Error::Overflow { what: "the grid", rows: problem.shape.rows as u64, cols: problem.tokens as u64 }),
    }
}

/// Columns of a stage.
fn stage_cols(values: DType) -> usize {
    STAGE_TOKEN_BYTES / values.size()
}

/// Kernels count in 32 bits, with room for a tile beyond the end.
fn small_size(what: &'static str, size: usize) -> Result<u32> {
    match u32::try_from(size) {
        Ok(small) if small < (1 << 31) - 2 * tile::TILE as u32 => Ok(small),
        _ => Err(Error::Overflow { what, rows: size as u64, cols: 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::constants::Cuda;

    #[test]
    fn constants_are_those_of_the_kernels() {
        assert_eq!(STAGE_TOKEN_BYTES as u64, Cuda::read("sparse_small.cu").constant("kTokenBytes"));
        assert_eq!(u64::from(SUM_THREADS), Cuda::read("sparse.cu").bounds("twofour_sparse_sum_C")[0]);
    }
}
