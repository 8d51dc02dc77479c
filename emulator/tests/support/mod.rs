//! What the tests share.
#![allow(dead_code, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod fragments;

use twofour_emulator::{Fault, Kernel, Launch, Options, Report, Schedule, run};

/// The orders that a right kernel must be right under.
pub const SEEDS: u64 = 4;

/// One launch of whole warps, as one line.
pub fn launch(kernel: &str, blocks: u32, threads: u32, args: &[u8], schedule: Schedule) -> Result<Report, Fault> {
    launch_with_shared(kernel, blocks, threads, 0, args, schedule)
}

pub fn launch_with_shared(
    kernel: &str,
    blocks: u32,
    threads: u32,
    shared_bytes: u32,
    args: &[u8],
    schedule: Schedule,
) -> Result<Report, Fault> {
    let options = Options { schedule, workers: 1, ..Options::default() };
    launch_with(kernel, blocks, threads, shared_bytes, args, &options)
}

pub fn launch_with(
    kernel: &str,
    blocks: u32,
    threads: u32,
    shared_bytes: u32,
    args: &[u8],
    options: &Options,
) -> Result<Report, Fault> {
    let kernel = Kernel::find(kernel)?;
    let launch = Launch { kernel, grid: [blocks, 1, 1], block: [threads, 1, 1], shared_bytes, args };
    run(&launch, options)
}

/// A small generator, so that tests need no crate and give the same numbers everywhere.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let z = (self.0 ^ (self.0 >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
        (z >> 32) as u32
    }

    pub fn below(&mut self, bound: u32) -> u32 {
        self.next() % bound
    }

    pub fn many(&mut self, count: usize) -> Vec<u32> {
        (0..count).map(|_| self.next()).collect()
    }

    /// A small integer, exact in every type.
    pub fn small(&mut self) -> i32 {
        self.below(15) as i32 - 7
    }
}
