//! How the tile kernels of `cuda/sparse.cu` are launched: many tokens.

use super::stage_cols;
use crate::compress::ValueType;
use crate::device::Limits;
use crate::error::Result;
use crate::matmul::Problem;

/// Rows of the weight, and tokens, of a block.
pub(super) const TILE: usize = 128;
pub(super) const THREADS: u32 = 128;
const STAGES: usize = 3;

/// Three stages, of three tiles of 128 rows by 64 bytes and of codes, one for four kept bytes (`i8`: two).
pub(super) fn shared_bytes(values: ValueType) -> u32 {
    let codes = if values == ValueType::I8 { 2048 } else { 1024 };
    (STAGES * (3 * TILE * 64 + codes)) as u32
}

/// Blocks of a whole product, saturating.
pub(super) fn tiles(Problem { tokens, shape }: Problem) -> usize {
    shape.rows.div_ceil(TILE).saturating_mul(tokens.div_ceil(TILE))
}

/// What each of so many parts takes of K: whole stages.
pub(super) fn share(problem: Problem, values: ValueType, splits: usize) -> usize {
    let stage = stage_cols(values);
    problem.shape.cols.div_ceil(splits).div_ceil(stage).max(1) * stage
}

/// Shares so that the waves of blocks are full: of at least eight stages, which keep a ring busy, and their sums in at
/// most 64 MiB. The model is that of [`crate::matmul`]: a wave takes as long as a part, and a part more costs 3 % for its
/// sums.
pub(super) fn splits(problem: Problem, values: ValueType, limits: &Limits) -> usize {
    const LEAST_STAGES: usize = 8;
    const MOST_BYTES: usize = 64 << 20;
    let block_bytes = shared_bytes(values) + Limits::SYSTEM_SHARED_BYTES;
    let per_multiprocessor = (limits.shared_bytes_per_multiprocessor / block_bytes).clamp(1, 2);
    let slots = (limits.multiprocessors.max(1) * per_multiprocessor) as usize;
    let tiles = tiles(problem).max(1);
    let bytes = problem.outputs().saturating_mul(4).max(1);
    let cols = problem.shape.cols;
    let most = (cols / (LEAST_STAGES * stage_cols(values))).min(MOST_BYTES / bytes).clamp(1, slots);
    let time = |parts: usize| {
        let waves = tiles.saturating_mul(parts).div_ceil(slots) as f64;
        waves / parts as f64 * (1.0 + 0.03 * (parts - 1) as f64)
    };
    let wanted = (1..=most).min_by(|&a, &b| time(a).total_cmp(&time(b))).unwrap_or(1);
    // Shares are whole stages, so the last of them may turn out empty.
    cols.div_ceil(share(problem, values, wanted)).max(1)
}

pub(super) fn symbol(values: ValueType) -> Result<&'static str> {
    Ok(match values {
        ValueType::F16 => "twofour_sparse_tile_f16",
        ValueType::Bf16 => "twofour_sparse_tile_bf16",
        ValueType::I8 => "twofour_sparse_tile_i8",
        _ => return Err(super::other_type()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::constants::Cuda;

    #[test]
    fn constants_are_those_of_the_kernels() {
        let cuda = Cuda::read("sparse.cu");
        assert_eq!(TILE as u64, cuda.constant("kTile"));
        assert_eq!(u64::from(THREADS), cuda.constant("kTileThreads"));
        assert_eq!(STAGES as u64, cuda.constant("kSparseStages"));
        for (values, size) in [(ValueType::F16, 2), (ValueType::I8, 1)] {
            let given = [("sizeof(T)", size)];
            let stage = cuda.constant_of("kSparseStageBytes", &given);
            assert_eq!(u64::from(shared_bytes(values)), cuda.constant("kSparseStages") * stage);
            assert_eq!(stage_cols(values) as u64, cuda.constant_of("kStageCols", &given));
        }
    }
}
