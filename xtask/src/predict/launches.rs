//! What `tests/profile.rs` prints.

use serde::Deserialize;

/// A case of the benches.
#[derive(Debug, Deserialize)]
pub(super) struct Case {
    /// `mask/soft_forward/f32_bf16/4096x4096`.
    #[serde(rename = "case")]
    pub(super) name: String,
    /// The least that must move, each operand once.
    pub(super) bytes: f64,
    pub(super) launches: Vec<Launch>,
}

/// A launch of it, of which some blocks were executed.
#[derive(Debug, Deserialize)]
pub(super) struct Launch {
    /// The stem of the kernel's file.
    pub(super) file: String,
    pub(super) kernel: String,
    pub(super) blocks: f64,
    /// Blocks that the counts are of.
    pub(super) profiled: f64,
    pub(super) threads: u32,
    /// Dynamic shared memory of a block.
    pub(super) shared: u32,
    /// Bytes of sectors that the first block touched, and of those that any did.
    pub(super) first_bytes: f64,
    pub(super) both_bytes: f64,
    /// Of global memory, added up over requests.
    pub(super) sectors: f64,
    pub(super) ideal_sectors: f64,
    pub(super) lines: f64,
    /// Of shared memory.
    pub(super) wavefronts: f64,
    pub(super) ideal_wavefronts: f64,
    /// Clocks of the slowest warp, and up to its block's first barrier.
    pub(super) chain: f64,
    pub(super) first_barrier: f64,
    /// PTX lines, and how often a warp came to each.
    pub(super) issued: Vec<(u32, f64)>,
}
