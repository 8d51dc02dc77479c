//! How a grid of threads walks over the groups of a weight: the host half of `cuda/common/walk.cuh`.

use crate::error::{Error, Result};
use crate::shape::{Shape, Shard};

/// Threads of a block that walks.
pub(crate) const THREADS: u32 = 256;

/// Blocks of a walk whose threads take `chunk` groups at a time: so many that each has some, and at most `most`.
pub(crate) fn blocks(shape: Shape, chunk: u64, most: u32) -> u32 {
    let wanted = (shape.groups() as u64).div_ceil(chunk * u64::from(THREADS));
    wanted.clamp(1, u64::from(most)) as u32
}

/// The walk as kernels read it. A contiguous `[N, K]` is one run of groups; thread `t` of all threads takes the chunks
/// `t`, `t + threads`, `t + 2·threads` and so on. Global group numbers are kept up to date by additions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Walk {
    /// Groups in the shard.
    pub groups: u64,
    /// Global number of the shard's first group.
    pub first: u64,
    /// What the global number skips where a row of the shard ends.
    pub row_jump: u64,
    /// How far one step of all threads moves the global number, without the jump of a wrap.
    pub step_global: u64,
    /// Groups in a row of the shard, below 2³¹ so that a place plus a step fits 32 bits.
    pub row_groups: u32,
    /// How far one step moves the place in the row.
    pub step_in_row: u32,
}

impl Walk {
    /// The walk of `threads` threads that take `chunk` groups at a time.
    ///
    /// # Errors
    /// [`Error::Overflow`] if a row of a column shard has 2³¹ groups or more.
    pub fn new(shape: Shape, shard: &Shard, chunk: u64, threads: u64) -> Result<Self> {
        const ANY: u32 = 1 << 31;
        let in_row = shape.cols as u64 / 4;
        let row_jump = shard.global_cols / 4 - in_row;
        let row_groups = match u32::try_from(in_row) {
            // Where nothing is skipped, or nothing is there, where a row ends does not matter.
            _ if row_jump == 0 || in_row == 0 => ANY,
            Ok(groups) if groups > 0 && groups < ANY => groups,
            _ => return Err(Error::Overflow { what: "a row", rows: 1, cols: shape.cols as u64 }),
        };
        let step = chunk * threads;
        Ok(Self {
            groups: shape.groups() as u64,
            first: shard.group(0, 0),
            row_jump,
            step_global: step + step / u64::from(row_groups) * row_jump,
            row_groups,
            step_in_row: (step % u64::from(row_groups)) as u32,
        })
    }
}
