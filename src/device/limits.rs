//! What a device can do, as plain data, so that a launch plan can be made and tested without one.

/// The numbers of a device that launch plans use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Compute capability, as (major, minor).
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// The most shared memory one block may ask for, in bytes.
    pub max_shared_bytes: u32,
    /// Shared memory of a multiprocessor, in bytes; its blocks share it, and each takes 1 KiB more than it asks for.
    pub shared_bytes_per_multiprocessor: u32,
    /// The most threads resident on a multiprocessor.
    pub max_threads_per_multiprocessor: u32,
    /// Bytes of level-2 cache.
    pub l2_bytes: u32,
}

impl Limits {
    /// The least compute capability with 2:4 tensor cores.
    pub const OLDEST: (u32, u32) = (8, 0);

    /// An A100: the oldest device there are kernels for.
    pub const A100: Self = Self {
        compute_capability: (8, 0),
        multiprocessors: 108,
        max_shared_bytes: 163 << 10,
        shared_bytes_per_multiprocessor: 164 << 10,
        max_threads_per_multiprocessor: 2048,
        l2_bytes: 40 << 20,
    };

    /// An H200.
    pub const H200: Self = Self {
        compute_capability: (9, 0),
        multiprocessors: 132,
        max_shared_bytes: 227 << 10,
        shared_bytes_per_multiprocessor: 228 << 10,
        max_threads_per_multiprocessor: 2048,
        l2_bytes: 60 << 20,
    };

    /// What a block gets without asking: more needs an attribute of the kernel, which the launcher sets.
    pub const DEFAULT_SHARED_BYTES: u32 = 48 << 10;

    /// What the system takes of a multiprocessor's shared memory for each block.
    pub(crate) const SYSTEM_SHARED_BYTES: u32 = 1 << 10;

    /// Whether the device has 2:4 tensor cores.
    #[must_use]
    pub fn is_supported(&self) -> bool {
        self.compute_capability >= Self::OLDEST
    }

    /// Blocks that the device holds at once, so many a multiprocessor.
    pub(crate) const fn blocks(&self, per_multiprocessor: u32) -> u32 {
        let multiprocessors = if self.multiprocessors == 0 { 1 } else { self.multiprocessors };
        multiprocessors.saturating_mul(per_multiprocessor)
    }

    /// Whether its fastest matrix instructions are `wgmma` or `tcgen05`, which only the libraries use.
    pub(crate) const fn has_faster_instructions(&self) -> bool {
        matches!(self.compute_capability.0, 9..=11)
    }
}
