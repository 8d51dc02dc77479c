//! Sums over the groups of a weight, made beside a pass's outputs: each block of a grid leaves its share of them, and
//! another kernel adds the shares up.

use super::walk::THREADS;
use crate::device::{Launch, Symbol};

/// Blocks that may leave a share. Fixed, so that the sums come out the same on every device.
pub(crate) const MAX_BLOCKS: u32 = 1024;
/// Elements of an array that receives sums: the first is the result, the rest is workspace.
pub(crate) const SLOTS: usize = 1 + MAX_BLOCKS as usize;

/// `MaskStatisticsArgs` and `SelectStatisticsArgs`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct StatisticsArgs {
    statistics: u64,
    blocks: u64,
}
const _: () = assert!(size_of::<StatisticsArgs>() == 16);

/// The launch that adds up the shares of so many blocks of an operation's kernel.
pub(crate) fn add_up(op: &'static str, statistics: u64, blocks: u32) -> Launch {
    let args = StatisticsArgs { statistics, blocks: u64::from(blocks) };
    Launch::new(Symbol::new(op, "statistics", &[]), 1, THREADS, &args)
}

/// Lets arrays of an operation's statistics live on a device.
macro_rules! on_a_device {
    ($statistics:ty) => {
        // SAFETY: it is plain numbers, laid out as the device's struct.
        #[cfg(feature = "cuda")]
        unsafe impl cudarc::driver::DeviceRepr for $statistics {}
        // SAFETY: zero bytes are zero sums.
        #[cfg(feature = "cuda")]
        unsafe impl cudarc::driver::ValidAsZeroBits for $statistics {}
    };
}
pub(crate) use on_a_device;
