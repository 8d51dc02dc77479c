//! How the tile kernels of `cuda/sparse.cu` are launched: many tokens.

use super::stage_cols;
use crate::element::DType;

use crate::dense::Problem;
use crate::dense::split;
use crate::device::{Limits, Symbol};

/// Rows of the weight, and tokens, of a block.
pub(super) const TILE: usize = 128;
pub(super) const THREADS: u32 = 128;
const STAGES: usize = 3;

/// Three stages, of three tiles of 128 rows by 64 bytes and of codes, one for four kept bytes (`i8`: two).
pub(super) fn shared_bytes(values: DType) -> u32 {
    let codes = if values == DType::I8 { 2048 } else { 1024 };
    (STAGES * (3 * TILE * 64 + codes)) as u32
}

/// Blocks of a whole product, saturating.
pub(super) fn tiles(Problem { tokens, shape }: Problem) -> usize {
    shape.rows.div_ceil(TILE).saturating_mul(tokens.div_ceil(TILE))
}

/// What each of so many parts takes of K: whole stages.
pub(super) fn share(problem: Problem, values: DType, splits: usize) -> usize {
    split::share(problem.shape.cols, splits, stage_cols(values))
}

/// In how many parts to take K: as [`split::splits`] says.
pub(super) fn splits(problem: Problem, values: DType, limits: &Limits) -> usize {
    let slots = split::slots(limits, shared_bytes(values));
    split::splits(problem.shape.cols, stage_cols(values), [tiles(problem).max(1), slots], problem.outputs())
}

pub(super) fn symbol(values: DType) -> Symbol {
    Symbol::new("sparse", "tile", &[values.name()])
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
        for (values, size) in [(DType::F16, 2), (DType::I8, 1)] {
            let given = [("sizeof(T)", size)];
            let stage = cuda.constant_of("kSparseStageBytes", &given);
            assert_eq!(u64::from(shared_bytes(values)), cuda.constant("kSparseStages") * stage);
            assert_eq!(stage_cols(values) as u64, cuda.constant_of("kStageCols", &given));
        }
    }
}
