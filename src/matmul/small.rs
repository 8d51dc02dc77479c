//! `Y = X (W∘M)ᵀ` for few tokens, in one kernel that reads weights and logits (or codes) once and stores no `W∘M`: each
//! thread makes masked weights in the registers that it hands to the tensor cores. `cuda/matmul_small.cu` is the
//! kernel, this is its launch as plain data.
//!
//! It pays while a weight's mask is made no more than once: up to [`MAX_SMALL_TOKENS`] tokens. Beyond, `W∘M` is better
//! materialised.
//!
//! With more splits than one, blocks share the sum over K: each leaves sums of its columns in `partial [splits, T, N]`
//! (`f32`), to be added up in order of the splits by another kernel. [`splits`] finds the number that fills a device.
//!
//! # Numerics
//!
//! `W∘M` has the very bits that [`mask::Forward`](crate::mask::Forward) gives on the same device; products are summed
//! in `f32` in an order that depends on the shape and `splits` alone, so a launch repeats itself to the bit. A group
//! without a mask (see [`crate::mask`]), or whose code is none of the six, is NaN.

use super::{Layer, Problem};
use crate::dense::split;
use crate::device::{Launch, Limits, Symbol};
use crate::element::{Float, Logit};
use crate::error::{Error, Result};
use crate::sample::launch::SamplingArgs;
use crate::sample::{Kind, Sampling, Source};
use crate::space::Raw;
use bytemuck::Zeroable;

/// The most tokens for which masks are made in the registers of the product.
pub const MAX_SMALL_TOKENS: usize = 128;
/// The most blocks along a grid's y.
pub(super) const MAX_SPLITS: u32 = 65_535;
/// Threads of a block.
const THREADS: u32 = 256;
/// Warps of a block.
const WARPS: usize = THREADS as usize / 32;
/// Columns that a warp takes at a time.
const STEP: usize = 32;
/// Steps a warp has at least before K is split further: its first loads are not hidden.
const LEAST_STEPS: usize = 4;
/// Blocks a multiprocessor holds at once.
const BLOCKS_PER_MULTIPROCESSOR: usize = 2;

/// `MatmulSmallArgs` of the kernel.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct SmallArgs {
    x: u64,
    weight: u64,
    logits: u64,
    codes: u64,
    y: u64,
    partial: u64,
    first_group: u64,
    row_groups: u64,
    sampling: SamplingArgs,
    tokens: u32,
    rows: u32,
    cols: u32,
    share: u32,
    splits: u32,
    argmax: u32,
}
const _: () = assert!(size_of::<SmallArgs>() == 192);

/// A product of few tokens, where operands are besides those of the layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Small {
    pub(super) problem: Problem,
    /// `X [T, K]`.
    pub(super) x: u64,
    /// The codes to mask by, two a byte, the even group in the low nibble; if none, the layer's logits are sampled.
    pub(super) codes: Option<u64>,
    /// `Y [T, N]`, overwritten if `splits` is 1, otherwise unused.
    pub(super) y: u64,
    /// `[splits, T, N]` of `f32`, overwritten if `splits` is above 1, otherwise unused.
    pub(super) partial: u64,
    /// Into how many shares the sum over K is cut, from 1 to [`MAX_SPLITS`].
    pub(super) splits: u32,
}

/// How a block is made, as `Block` in the kernel.
#[derive(Debug, Clone, Copy)]
struct Block {
    rows: usize,
    split_warps: usize,
    few: bool,
}

impl Block {
    const fn new(tokens: usize) -> Self {
        let few = tokens <= 16;
        let row_warps = if few { 1 } else { 4 };
        Self { rows: 16 * row_warps, split_warps: WARPS / row_warps, few }
    }

    /// Columns of one step of all a block's warps.
    const fn stride(&self) -> usize {
        STEP * self.split_warps
    }
}

/// Whether a problem is one for these kernels: few tokens, and sizes that their 32-bit numbers hold.
pub(super) fn takes(problem: Problem) -> bool {
    problem.tokens <= MAX_SMALL_TOKENS && check_sizes(problem).is_ok()
}

/// The number of shares of K that fills the device, as far as each keeps enough to do; 1 where the rows alone do.
pub(super) fn splits(problem: Problem, limits: &Limits) -> u32 {
    let block = Block::new(problem.tokens);
    let blocks = problem.shape.rows.div_ceil(block.rows).max(1);
    let fitting = limits.multiprocessors as usize * BLOCKS_PER_MULTIPROCESSOR / blocks;
    let useful = problem.shape.cols / (block.stride() * LEAST_STEPS);
    fitting.min(useful).clamp(1, MAX_SPLITS as usize) as u32
}

impl Small {
    /// The launch of this product, of a problem that these kernels [take](takes). One without tokens or rows is a grid
    /// without blocks.
    pub(super) fn launch<L: Logit, W: Float>(&self, layer: &Layer<'_, Raw, L, W>) -> Launch {
        let Problem { tokens, shape } = self.problem;
        let block = Block::new(tokens);
        let mut args = SmallArgs {
            x: self.x,
            weight: layer.weight.address,
            y: if self.splits > 1 { 0 } else { self.y },
            partial: if self.splits > 1 { self.partial } else { 0 },
            tokens: tokens as u32,
            rows: shape.rows as u32,
            cols: shape.cols as u32,
            share: share(shape.cols, self.splits as usize, block) as u32,
            splits: self.splits,
            ..SmallArgs::zeroed()
        };
        let (logits, weights) = (L::DTYPE.name(), W::DTYPE.name());
        let block_name = if block.few { "16" } else { "128" };
        let symbol = match (self.codes, &layer.source) {
            (None, Source::Sampled { kind, sampling, logits: at }) => {
                args.logits = at.address;
                args.first_group = layer.shard.group(0, 0);
                args.row_groups = layer.shard.global_cols / 4;
                let argmax = *kind == Kind::Argmax;
                // The kernel leaves the noise out, and a scale of 1 makes scores of the logits as they are.
                let sampling = if argmax { Sampling { kappa: 1.0, ..*sampling } } else { *sampling };
                args.sampling = SamplingArgs::new(&sampling);
                args.argmax = u32::from(argmax);
                let variant = if *kind == Kind::Soft { "small_soft" } else { "small_hard" };
                Symbol::new("matmul_small", variant, &[logits, weights, block_name])
            }
            (codes, _) => {
                args.codes = codes.unwrap_or(0);
                Symbol::new("matmul_small", "small_codes", &[weights, block_name])
            }
        };
        let blocks = if tokens == 0 { 0 } else { shape.rows.div_ceil(block.rows) as u32 };
        Launch::new(symbol, blocks, THREADS, &args).grid([blocks, self.splits, 1])
    }
}

/// What the kernels' 32-bit numbers hold.
fn check_sizes(Problem { shape, .. }: Problem) -> Result<()> {
    let fits = |what, rows: usize, cols: usize, bits: u32| match rows.saturating_mul(cols) >> bits {
        0 => Ok(()),
        _ => Err(Error::Overflow { what, rows: rows as u64, cols: cols as u64 }),
    };
    fits("a column of the weight", shape.rows, 1, 31)?;
    fits("a row of the weight", 1, shape.cols, 24)?;
    fits("weight", shape.rows, shape.cols, 34)
}

/// Columns that a grid row takes: whole steps, of all warps where that leaves no grid row without any.
fn share(cols: usize, splits: usize, block: Block) -> usize {
    split::share_of_warps(cols, splits, block.stride(), STEP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::constants::Cuda;
    use crate::shape::Shape;

    #[test]
    fn splits_fill_the_device_and_no_more() {
        let of = |tokens, rows, cols| splits(Problem::new(tokens, Shape::new(rows, cols)), &Limits::H200);
        // 264 blocks at a time: 256 of 16 rows are enough; of 64 rows there are 64, so four shares.
        assert_eq!((of(16, 4096, 4096), of(17, 4096, 4096)), (1, 4));
        assert_eq!((of(1, 1024, 4096), of(128, 1024, 4096)), (4, 16));
        // No share below four steps of each warp: 1024 columns, or 256.
        assert_eq!((of(1, 16, 4096), of(128, 16, 4096)), (4, 16));
        assert_eq!((of(1, 0, 0), of(1, 16, 64), of(128, 1 << 20, 1 << 20)), (1, 1, 1));
    }

    #[test]
    fn sizes_beyond_the_kernels_numbers_are_not_taken() {
        let of = |tokens, rows, cols| Problem::new(tokens, Shape::new(rows, cols));
        let overflow =
            |problem, what| matches!(check_sizes(problem), Err(Error::Overflow { what: is, .. }) if is == what);
        assert!(overflow(of(1, 1, 1 << 24), "a row of the weight"));
        assert!(overflow(of(1, 1 << 31, 4), "a column of the weight"));
        assert!(overflow(of(128, 1 << 24, 1 << 10), "weight"));
        assert!(takes(of(128, (1 << 24) - 1, 1 << 10)));
        assert!(!takes(of(MAX_SMALL_TOKENS + 1, 20, 64)) && !takes(of(1, 1, 1 << 24)));
    }

    #[test]
    fn constants_are_those_of_the_kernels() {
        let cuda = Cuda::read("matmul_small.cu");
        assert_eq!(u64::from(THREADS), cuda.constant("kThreads"));
        assert_eq!(WARPS as u64, cuda.constant("kWarps"));
        assert_eq!(STEP as u64, cuda.constant("kStep"));
        assert_eq!(BLOCKS_PER_MULTIPROCESSOR as u64, cuda.constant("kBlocks"));
        for tokens in [16, MAX_SMALL_TOKENS] {
            assert!(cuda.has(&format!("TOKENS(bf16, {tokens})")));
            let Block { rows, split_warps, few } = Block::new(tokens);
            let given = [("max_tokens", tokens as u64), ("few", u64::from(few))];
            assert_eq!(rows as u64, cuda.constant_of("rows", &given));
            assert_eq!(split_warps as u64, cuda.constant_of("split_warps", &given));
        }
    }
}
