//! What a product queues: kernels of this crate for `Y [T, N] = X [T, K] Wᵀ` plus a bias, with `W [N, K]` compressed,
//! or a library's product. The structs mirror those of `cuda/sparse/product.cuh` and `cuda/sparse.cu`.
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
//! (`cuda/sparse.cu`). In both, blocks may share the sum over K (`splits` above 1): each leaves the sums of its columns
//! in `partial [splits, T, N]` (`f32`, or `i32`), and [`sum`] adds them up, with the bias.
//!
//! Rows are read fast where they are on 16-byte boundaries: K a multiple of 16 for 16-bit values and of 32 for `i8`.
//!
//! # Numerics
//!
//! - Products of 16-bit values are summed in `f32`, K/2 kept terms for each element of `Y` and the bias, and rounded
//!   once. So with `u = 2⁻²³` (tensor cores truncate) and `n = K/2 + splits + 1`, an element is within `n·u/(1 − n·u)`
//!   of the sum of its terms' magnitudes of the exact one, and one rounding more (see [`crate::matmul`]). `i8` is
//!   exact, modulo 2³².
//! - The order of summation depends on the shape and `splits` alone, so a launch repeats itself to the bit.
//! - A dropped weight has no term: NaN or infinity in `X` reaches an element of `Y` only through a *kept* weight, be it
//!   zero. A dense product of the decompressed weight has `0 · NaN` there, and differs.

use super::{Factor, Form, Multiply, Route};
use crate::compress::Unpack;
use crate::dense::{self, Problem, Product};
use crate::device::{Launch, Limits, Symbol};
use crate::element::{DType, Element};
use crate::error::{Error, Result, unsupported};
use crate::pass::{Binder, DeviceSpace, Queue, Work};
use crate::space::{Array, Raw, RawSlice};
use crate::{cusparselt, sparse::Plan};

mod small;
mod tile;

pub use small::MAX_SMALL_TOKENS;

/// The most blocks along a grid's y.
pub(super) const MAX_SPLITS: u32 = 65_535;
/// Bytes of a token that a stage of either kernel holds; of a row's kept values it holds half as many.
const STAGE_TOKEN_BYTES: usize = 128;
/// `twofour_sparse_sum_*`: threads of a block.
const SUM_THREADS: u32 = 256;

/// Which of this crate's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kernel {
    /// For at most [`MAX_SMALL_TOKENS`] tokens: reads the weight at memory's speed.
    Small,
    /// For many: tiles of 128 rows of `W` by 128 tokens.
    Tile,
}

/// Addresses of a product by a kernel.
struct Operands {
    x: u64,
    values: u64,
    metadata: u64,
    bias: u64,
    y: u64,
    /// The parts, where there are some.
    partial: u64,
}

/// `SparseArgs` of the kernels.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct SparseArgs {
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
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct SumArgs {
    partial: u64,
    y: u64,
    bias: u64,
    elements: u64,
    rows: u32,
    splits: u32,
}
const _: () = assert!(size_of::<SumArgs>() == 40);

/// What a checked product queues.
pub(super) fn multiply<'g, S: DeviceSpace, T: Factor>(
    pass: &'g mut Multiply<'_, S, T>,
    binder: &mut Binder<'g, S>,
    queue: &mut Queue,
) -> Result<()> {
    let missing = Error::Missing { what: "a product on a device", missing: "no plan was given" };
    let (plan, problem) = (pass.plan.ok_or(missing)?, pass.problem);
    // Before anything is bound.
    match (&pass.weight.form, plan.route()) {
        (Form::Packed { .. }, Route::Cusparselt) => {
            let because = "this weight is not packed for it: see `LibraryWeight::pack`";
            return Err(unsupported("a product by cuSPARSELt", because));
        }
        (Form::Library { .. }, Route::Small | Route::Tile | Route::Dense) => {
            let because = "this weight was packed for it, which alone reads it";
            return Err(unsupported("a product without cuSPARSELt", because));
        }
        _ => {}
    }
    let (needed, got) = (plan.workspace_bytes(), pass.workspace.as_ref().map_or(0, Array::elements));
    // What the library needs by now, it knows itself, and checks before anything is queued.
    if got < needed && plan.route() != Route::Cusparselt {
        return Err(Error::Workspace { needed: needed as u64, got: got as u64 });
    }
    let x = binder.input("x", &pass.x)?.address;
    let bias = binder.input_if("bias", &pass.bias)?;
    let y = binder.output("y", &mut pass.y)?.address;
    let workspace = RawSlice::new(binder.output_if("workspace", &mut pass.workspace)?, got);
    let (layout, values, metadata) = match &pass.weight.form {
        Form::Library { bytes, origin } => {
            let (weight, bias) = (binder.input("weight", bytes)?, plan.given().bias.then_some(bias));
            let (form, origin) = (plan.form(), Some(*origin));
            queue.push(Work::Cusparselt(cusparselt::Call {
                form,
                origin,
                weight,
                input: x,
                output: y,
                bias,
                workspace,
            }));
            return Ok(());
        }
        Form::Packed { layout, values, metadata } => {
            (*layout, binder.input("values", values)?, binder.input("metadata", metadata)?)
        }
    };
    let kernel = match plan.route() {
        Route::Small => Kernel::Small,
        Route::Tile => Kernel::Tile,
        Route::Dense | Route::Cusparselt => {
            let weight = match &pass.dense {
                // A copy that the plan does not know of is left alone.
                Some(dense) if plan.given().dense => binder.input("dense", dense)?.address,
                _ => {
                    let dense = RawSlice::new(workspace.address, problem.shape.weights());
                    queue.pass(Unpack::<Raw, T>::new(problem.shape, layout, values, metadata, dense))?;
                    dense.address
                }
            };
            let (product, bias) = (Product::output(problem, T::DTYPE), plan.given().bias.then_some(bias));
            let form = dense::Form { product, bias: bias.is_some() };
            queue.push(Work::Dense(dense::Call { form, a: x, b: weight, c: y, bias }));
            return Ok(());
        }
    };
    let (values, metadata) = (values.address, metadata.address);
    let at = Operands { x, values, metadata, bias, y, partial: workspace.address };
    queue.launch(product(kernel, &plan, &at)?);
    if plan.splits() > 1 {
        queue.launch(sum(&plan, &at)?);
    }
    Ok(())
}

/// Whether a kernel does a problem: sizes that its 32-bit numbers hold.
pub(super) fn takes(kernel: Kernel, problem: Problem) -> bool {
    counts(problem).is_ok() && (kernel == Kernel::Tile || small::takes(problem)) && grid(kernel, problem, 1).is_ok()
}

/// In how many shares to take the sum over K so that the device is full, at least 1: a modelled choice, see the
/// kernels' own. It depends on the arguments alone.
pub(super) fn splits(kernel: Kernel, problem: Problem, values: DType, limits: &Limits) -> u32 {
    let wanted = match kernel {
        Kernel::Small => small::splits(problem, values, limits),
        Kernel::Tile => tile::splits(problem, values, limits),
    };
    wanted.clamp(1, MAX_SPLITS as usize) as u32
}

/// The product, or its parts where it is split. A problem without tokens or rows is a grid without blocks.
fn product<T: Factor>(kernel: Kernel, plan: &Plan<T>, at: &Operands) -> Result<Launch> {
    let (problem, splits, values) = (plan.problem(), plan.splits(), T::DTYPE);
    let (share, row_warps) = match kernel {
        Kernel::Small => (small::share(problem, values, splits as usize), small::row_warps(problem.tokens)),
        Kernel::Tile => (tile::share(problem, values, splits as usize), 0),
    };
    let [tokens, rows, cols] = counts(problem)?;
    let is_split = splits > 1;
    let args = SparseArgs {
        x: at.x,
        values: at.values,
        codes: at.metadata,
        bias: if is_split { 0 } else { at.bias },
        y: if is_split { 0 } else { at.y },
        partial: if is_split { at.partial } else { 0 },
        tokens,
        rows,
        cols,
        share: share as u32,
        splits,
        row_warps: row_warps as u32,
    };
    let (symbol, threads, shared_bytes) = match kernel {
        Kernel::Small => (small::symbol(problem.tokens, values), small::THREADS, small::shared_bytes(values)),
        Kernel::Tile => (tile::symbol(values), tile::THREADS, tile::shared_bytes(values)),
    };
    let grid = grid(kernel, problem, splits)?;
    Ok(Launch::new(symbol, 0, threads, &args).grid(grid).shared_bytes(shared_bytes))
}

/// Adds up the parts of a split product in their order, adds the bias, and rounds once.
fn sum<T: Factor>(plan: &Plan<T>, at: &Operands) -> Result<Launch> {
    let (problem, splits) = (plan.problem(), plan.splits());
    let elements = problem.outputs() as u64;
    let [_, rows, _] = counts(problem)?;
    let args = SumArgs { partial: at.partial, y: at.y, bias: at.bias, elements, rows, splits };
    let run = if T::DTYPE == DType::I8 { 4 } else { 8 };
    // Kernels step by the grid.
    let blocks = elements.div_ceil(run).div_ceil(u64::from(SUM_THREADS)).min(1 << 20) as u32;
    Ok(Launch::new(Symbol::new("sparse", "sum", &[T::Output::DTYPE.name()]), blocks, SUM_THREADS, &args))
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

/// T, N and K as kernels count them, in 32 bits with room for a tile beyond the end.
fn counts(problem: Problem) -> Result<[u32; 3]> {
    let count = |what, size: usize| match u32::try_from(size) {
        Ok(small) if small < (1 << 31) - 2 * tile::TILE as u32 => Ok(small),
        _ => Err(Error::Overflow { what, rows: size as u64, cols: 1 }),
    };
    let Problem { tokens, shape } = problem;
    Ok([
        count("tokens", tokens)?,
        count("a column of the weight", shape.rows)?,
        count("a row of the weight", shape.cols)?,
    ])
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
