//! `Y = X (W∘M)ᵀ` for few tokens, in one kernel that reads weights and logits (or codes) once and stores no `W∘M`: each
//! thread makes masked weights in the registers that it hands to the tensor cores. `cuda/matmul_small.cu` is the kernel,
//! this is its launch as plain data, for the CUDA executor and the emulator alike.
//!
//! It pays while a weight's mask is made no more than once: up to [`MAX_TOKENS`] tokens. Beyond, `W∘M` is better
//! materialised.
//!
//! With [`Small::splits`] above 1, blocks share the sum over K: each leaves sums of its columns in `partial [splits, T, N]`
//! (`f32`), to be added up in order of the splits by another kernel. [`splits`] finds the number that fills a device.
//!
//! # Numerics
//!
//! `W∘M` has the very bits that [`mask::Forward`] gives on the same device; products are summed in
//! `f32` in an order that depends on the shape and `splits` alone, so a launch repeats itself to the bit. A group without
//! a mask (see [`crate::mask`]), or whose code is none of the six, is NaN.

use super::Problem;
use crate::check::scalar;
use crate::dense::split;
use crate::device::Limits;
use crate::device::launch::{ALIGN, Launch, Symbol, aligned};
use crate::element::DType;
use crate::error::{Error, Result};
use crate::mask;
use crate::sample::launch::SamplingArgs;
use crate::sample::{Kind, Sampling};
use crate::shape::Shard;
use crate::space::{Raw, RawSlice};
use bytemuck::Zeroable;

/// The most tokens a launch takes.
pub const MAX_TOKENS: usize = 128;
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
/// The most blocks along a grid's y.
const MAX_SPLITS: u32 = 65_535;

/// `MatmulSmallArgs` of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct SmallArgs {
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

/// Where the mask comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Source {
    /// It is made from logits `[N, K/4, 6]`.
    Sampled {
        /// How.
        kind: Kind,
        /// What noise, κ and τ. `Kind::Argmax` has no use for it.
        sampling: Sampling,
        /// `f32` or `bf16`.
        logits: DType,
        /// Device address of the logits.
        address: u64,
    },
    /// It is read as codes `[N, K/4]`, two a byte, the even group in the low nibble, as
    /// [`mask::Forward::codes`] writes them.
    Codes {
        /// Device address of the codes.
        address: u64,
    },
}

/// A product of few tokens: sizes, types and device addresses, each on a 16-byte boundary.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Small {
    /// T, N and K.
    pub problem: Problem,
    /// Where the weight lies in the whole; codes have no use for it.
    pub shard: Shard,
    /// The mask.
    pub source: Source,
    /// The type of `x`, `weight` and `y`: `f16` or `bf16`.
    pub dtype: DType,
    /// `X [T, K]`.
    pub x: u64,
    /// `W [N, K]`.
    pub weight: u64,
    /// `Y [T, N]`, overwritten if `splits` is 1, otherwise unused.
    pub y: u64,
    /// `[splits, T, N]` of `f32`, overwritten if `splits` is above 1, otherwise unused.
    pub partial: u64,
    /// Into how many shares the sum over K is cut, at least 1.
    pub splits: u32,
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
#[must_use]
pub fn takes(problem: Problem) -> bool {
    problem.tokens <= MAX_TOKENS && check_sizes(problem).is_ok()
}

/// The number of shares of K that fills the device, as far as each keeps enough to do; 1 where the rows alone do.
#[must_use]
pub fn splits(problem: Problem, limits: &Limits) -> u32 {
    let block = Block::new(problem.tokens);
    let blocks = problem.shape.rows.div_ceil(block.rows).max(1);
    let fitting = limits.multiprocessors as usize * BLOCKS_PER_MULTIPROCESSOR / blocks;
    let useful = problem.shape.cols / (block.stride() * LEAST_STEPS);
    fitting.min(useful).clamp(1, MAX_SPLITS as usize) as u32
}

/// Bytes of `partial` for this number of splits, saturating: none for one.
#[must_use]
pub const fn partial_bytes(problem: Problem, splits: u32) -> usize {
    split::partial_bytes(problem.outputs(), splits)
}

impl Small {
    /// The launch of this product. A problem without tokens or rows is a grid without blocks.
    ///
    /// # Errors
    /// What [`Problem::check`] and [`mask::Forward::check`] find; [`Error::Scalar`] for more than
    /// [`MAX_TOKENS`] tokens or a number of splits that no grid has; [`Error::Missing`] for `f32` weights or `f16`
    /// logits; [`Error::Overflow`] if N is 2³¹ or more, K 2²⁴ or N·K 2³⁴; [`Error::Misaligned`].
    pub fn launch(&self) -> Result<Launch<SmallArgs>> {
        self.check()?;
        let Problem { tokens, shape } = self.problem;
        let block = Block::new(tokens);
        let [y, partial] = if self.splits > 1 { [0, self.partial] } else { [self.y, 0] };
        let mut args = SmallArgs {
            x: aligned("x", self.x, ALIGN)?,
            weight: aligned("weight", self.weight, ALIGN)?,
            y: aligned("y", y, ALIGN)?,
            partial: aligned("partial", partial, ALIGN)?,
            tokens: tokens as u32,
            rows: shape.rows as u32,
            cols: shape.cols as u32,
            share: share(shape.cols, self.splits as usize, block) as u32,
            splits: self.splits,
            ..SmallArgs::zeroed()
        };
        match self.source {
            Source::Sampled { kind, sampling, address, .. } => {
                args.logits = aligned("logits", address, ALIGN)?;
                args.first_group = self.shard.group(0, 0);
                args.row_groups = self.shard.global_cols / 4;
                let argmax = kind == Kind::Argmax;
                // The kernel leaves the noise out, and a scale of 1 makes scores of the logits as they are.
                args.sampling = SamplingArgs::new(&if argmax { Sampling { kappa: 1.0, ..sampling } } else { sampling });
                args.argmax = u32::from(argmax);
            }
            Source::Codes { address } => args.codes = aligned("codes", address, ALIGN)?,
        }
        let blocks = if tokens == 0 { 0 } else { shape.rows.div_ceil(block.rows) as u32 };
        let symbol = Symbol { module: "matmul_small", name: self.symbol(block)? };
        Ok(Launch { symbol, grid: [blocks, self.splits, 1], block: [THREADS, 1, 1], shared_bytes: 0, args })
    }

    /// What makes the kernel's 32-bit numbers and its grid fit.
    fn check(&self) -> Result<()> {
        let Problem { tokens, shape } = self.problem;
        self.problem.check()?;
        if let Source::Sampled { kind, sampling, .. } = self.source {
            let bare = |elements| RawSlice { address: 0, elements };
            let mask = mask::Forward::<Raw, f32, f32>::new(shape, kind, sampling, bare(shape.logits()));
            let weights = bare(shape.weights());
            mask.shard(self.shard).weight(weights).masked(weights).check()?;
        }
        if tokens > MAX_TOKENS {
            return scalar("tokens", tokens as f64, "at most 128");
        }
        if !(1..=MAX_SPLITS).contains(&self.splits) {
            return scalar("splits", f64::from(self.splits), "from 1 to 65535");
        }
        check_sizes(self.problem)
    }

    fn symbol(&self, block: Block) -> Result<&'static str> {
        /// `$prefix` followed by the names of the weights' type and of the block.
        macro_rules! by_weights {
            ($prefix:literal) => {
                match (self.dtype, block.few) {
                    (DType::F16, true) => concat!($prefix, "_f16_16"),
                    (DType::F16, false) => concat!($prefix, "_f16_128"),
                    (DType::Bf16, true) => concat!($prefix, "_bf16_16"),
                    (DType::Bf16, false) => concat!($prefix, "_bf16_128"),
                    _ => {
                        return Err(Error::Missing {
                            what: "a product of few tokens",
                            missing: "only f16 and bf16 have one",
                        })
                    }
                }
            };
        }
        Ok(match self.source {
            Source::Codes { .. } => by_weights!("twofour_matmul_small_codes"),
            Source::Sampled { kind, logits, .. } => match (kind, logits) {
                (Kind::Soft, DType::F32) => by_weights!("twofour_matmul_small_soft_f32"),
                (Kind::Soft, DType::Bf16) => by_weights!("twofour_matmul_small_soft_bf16"),
                (_, DType::F32) => by_weights!("twofour_matmul_small_hard_f32"),
                (_, DType::Bf16) => by_weights!("twofour_matmul_small_hard_bf16"),
                _ => return Err(Error::Missing { what: "a mask", missing: "logits are f32 or bf16" }),
            },
        })
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

    #[test]
    fn constants_are_those_of_the_kernels() {
        let cuda = Cuda::read("matmul_small.cu");
        assert_eq!(u64::from(THREADS), cuda.constant("kThreads"));
        assert_eq!(WARPS as u64, cuda.constant("kWarps"));
        assert_eq!(STEP as u64, cuda.constant("kStep"));
        assert_eq!(BLOCKS_PER_MULTIPROCESSOR as u64, cuda.constant("kBlocks"));
        for tokens in [16, MAX_TOKENS] {
            assert!(cuda.has(&format!("TOKENS(bf16, {tokens})")));
            let Block { rows, split_warps, few } = Block::new(tokens);
            let given = [("max_tokens", tokens as u64), ("few", u64::from(few))];
            assert_eq!(rows as u64, cuda.constant_of("rows", &given));
            assert_eq!(split_warps as u64, cuda.constant_of("split_warps", &given));
        }
    }
}
