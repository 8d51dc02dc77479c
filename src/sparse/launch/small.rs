//! How `cuda/sparse_small.cu` is launched: few tokens.

use super::stage_cols;
use crate::element::DType;

use crate::dense::Problem;
use crate::dense::split;
use crate::device::{Limits, Symbol};

/// The most tokens a launch takes.
pub const MAX_SMALL_TOKENS: usize = 128;
pub(super) const THREADS: u32 = 256;
const WARPS: usize = THREADS as usize / 32;
const WARP_ROWS: usize = 32;
/// Tokens of a block, of the kernel for few and of the other.
const BLOCK_TOKENS: [usize; 2] = [16, 64];
/// Stages of a warp's ring.
const STAGES: usize = 4;

fn is_few(tokens: usize) -> bool {
    tokens <= BLOCK_TOKENS[0]
}

/// Four stages of each warp, of 32 rows by 64 bytes and of codes, one for four kept bytes (`i8`: two).
pub(super) fn shared_bytes(values: DType) -> u32 {
    let codes = if values == DType::I8 { 512 } else { 256 };
    (WARPS * STAGES * (WARP_ROWS * 64 + codes)) as u32
}

/// Warps of a block that take rows of their own; the others share the steps along K. Those of a block read the same
/// tokens, at the same time if all goes well: what one has read is in L1 for the others. A token's share of K crosses
/// from L2 once a block, and there a row's costs 9/8 of its bytes, so with 16 tokens and 32 rows it would be half of
/// all that crosses.
pub(super) fn row_warps(tokens: usize) -> usize {
    match tokens {
        0..=8 => 1,
        9..=16 => 2,
        _ => 4,
    }
}

fn block_rows(tokens: usize) -> usize {
    WARP_ROWS * row_warps(tokens)
}

/// How many blocks take the tokens.
fn token_blocks(tokens: usize) -> usize {
    if is_few(tokens) { 1 } else { tokens.div_ceil(BLOCK_TOKENS[1]) }
}

/// Blocks of a share: those of the same rows are neighbours, so that memory gives the rows once for all tokens.
pub(super) fn blocks(Problem { tokens, shape }: Problem) -> usize {
    shape.rows.div_ceil(block_rows(tokens)).saturating_mul(token_blocks(tokens))
}

/// Whether the kernel's offsets hold it.
pub(super) fn takes(Problem { tokens, shape }: Problem) -> bool {
    tokens <= MAX_SMALL_TOKENS && shape.cols >> 24 == 0
}

/// Columns that a grid row takes: whole steps, of all warps where that leaves no grid row without any.
pub(super) fn share(problem: Problem, values: DType, splits: usize) -> usize {
    let (cols, step) = (problem.shape.cols, stage_cols(values));
    let stride = step * (WARPS / row_warps(problem.tokens));
    split::share_of_warps(cols, splits, stride, step)
}

/// Shares that fill the device. The model, of no measurement yet: time is bytes of weight and tokens that a
/// multiprocessor reads, blocks of one share them evenly, and one block alone gets no more than three quarters of its
/// multiprocessor's part of the memory's speed. Sums over parts cost a launch, as long as 8 MB take, and their traffic.
pub(super) fn splits(problem: Problem, values: DType, limits: &Limits) -> usize {
    const ALONE: f64 = 0.75;
    const LAUNCH_BYTES: f64 = 8e6;
    let blocks = blocks(problem).max(1);
    let multiprocessors = limits.multiprocessors.max(1) as usize;
    let Problem { tokens, shape } = problem;
    // Of a block: kept values and codes, 9/16 or 10/16 of a dense row, and its tokens.
    let token_bytes = shape.cols as f64 * values.size() as f64;
    let row_bytes = token_bytes * 0.5 + shape.cols as f64 / 8.0;
    let block_tokens = tokens as f64 / token_blocks(tokens) as f64;
    let block_bytes = row_bytes * block_rows(tokens) as f64 + token_bytes * block_tokens;
    // Every warp is to go round its ring at least once.
    let step = stage_cols(values) * (WARPS / row_warps(tokens));
    let most = (shape.cols / (step * STAGES)).clamp(1, 64);
    let time = |parts: usize| {
        let of_each = (blocks * parts).div_ceil(multiprocessors);
        let of_each = if of_each == 1 { 1.0 / ALONE } else { of_each as f64 };
        let device = multiprocessors as f64;
        let sums = if parts > 1 { LAUNCH_BYTES + (8 * tokens * shape.rows * parts) as f64 } else { 0.0 };
        of_each / parts as f64 * block_bytes * device + sums
    };
    split::filled(shape.cols, share(problem, values, split::least(most, time)))
}

pub(super) fn symbol(tokens: usize, values: DType) -> Symbol {
    Symbol::new("sparse_small", "small", &[values.name(), if is_few(tokens) { "16" } else { "128" }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::constants::Cuda;

    #[test]
    fn constants_are_those_of_the_kernels() {
        let cuda = Cuda::read("sparse_small.cu");
        assert_eq!(u64::from(THREADS), cuda.constant("kThreads"));
        assert_eq!(WARPS as u64, cuda.constant("kWarps"));
        assert_eq!(WARP_ROWS as u64, cuda.constant("kWarpRows"));
        assert_eq!(STAGES as u64, cuda.constant("kWarpStages"));
        for (values, size) in [(DType::F16, 2), (DType::I8, 1)] {
            let stage = cuda.constant_of("kWarpStageBytes", &[("sizeof(T)", size)]);
            assert_eq!(u64::from(shared_bytes(values)), cuda.constant("kWarps") * cuda.constant("kWarpStages") * stage);
        }
        for (tokens, of_kernel) in BLOCK_TOKENS.into_iter().zip([16, MAX_SMALL_TOKENS]) {
            assert!(cuda.has(&format!("SMALL(i8, {of_kernel})")));
            assert_eq!(tokens as u64, cuda.constant_of("tokens", &[("max_tokens", of_kernel as u64)]));
        }
    }
}
