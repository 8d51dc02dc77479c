//! Launching a kernel: what is asked for, what is checked first, and what comes back.

use std::ops::Range;
use std::sync::Arc;

use crate::access::near;
use crate::block::Context;
use crate::element::from_bytes;
use crate::fault::Fault;
use crate::memory::{Region, regions};
use crate::report::Report;
use crate::tensor::Arithmetic;
use crate::worker::{Fibers, run_blocks};
use crate::{Buffer, Kernel, Schedule};

/// The dynamic shared memory that a block can have on sm_90 and sm_100; other GPUs have less.
pub const MAX_SHARED_BYTES: u32 = 227 << 10;

/// One launch, as the driver would be told it.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// The kernel.
    pub kernel: Kernel,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// The bytes of the kernel's argument struct. Pointers in it are addresses of [`Buffer`]s.
    pub args: &'a [u8],
}

impl Launch<'_> {
    /// Bytes of the largest buffer that the arguments point into.
    #[must_use]
    pub fn largest_buffer(&self) -> usize {
        let named = regions().into_iter().filter(|region| is_named(region, self.args));
        named.map(|region| region.mapping.bytes()).map(|bytes| bytes.end - bytes.start).max().unwrap_or(0)
    }
}

/// How to run a launch.
#[derive(Debug, Clone)]
pub struct Options {
    /// The order of a block's threads.
    pub schedule: Schedule,
    /// OS threads, each with a block of its own; 0 is one per core, 1 the caller's own thread.
    pub workers: usize,
    /// Only these blocks of the grid, numbered with x fastest; `None` is all.
    pub blocks: Option<Range<u64>>,
    /// How tensor cores add; matters to kernels with an `mma` over floats.
    pub arithmetic: Arithmetic,
    /// Whether to look for races, reads of what was never written, and other faults that need not change a result;
    /// where PTX is executed ([`ptx`](crate::ptx)). It takes about twice as long, on one OS thread.
    pub watch: bool,
}

impl Default for Options {
    fn default() -> Options {
        let (schedule, arithmetic) = (Schedule::RoundRobin, Arithmetic::InOrder);
        Options { schedule, workers: 0, blocks: None, arithmetic, watch: false }
    }
}

/// Runs a launch to its end, or to its first fault.
///
/// Kernels are C++ of this very program: what they do to memory through raw pointers is caught where a guard page is,
/// and only there.
pub fn run(launch: &Launch, options: &Options) -> Result<Report, Fault> {
    let kernel = launch.kernel;
    let asked = Asked {
        kernel: &kernel.name(),
        args_size: kernel.args_size(),
        max_threads: kernel.max_threads(),
        grid: launch.grid,
        block: launch.block,
        shared_bytes: launch.shared_bytes,
        args: launch.args,
    };
    asked.check()?;
    let regions = regions();
    let own: Vec<Arc<Region>> = regions.iter().filter(|region| is_named(region, launch.args)).cloned().collect();
    let context = Context {
        kernel,
        grid: launch.grid,
        block: launch.block,
        shared_bytes: launch.shared_bytes,
        args: in_words(launch.args),
        schedule: options.schedule,
        arithmetic: options.arithmetic,
        regions,
    };
    let blocks = options.blocks_of(launch.grid);
    let workers = options.workers_for(&blocks);
    let report = run_blocks::<Fibers>(context, options.schedule, blocks, workers);
    own.iter().for_each(|region| region.write_all());
    let report = report?;
    let overwritten = own.iter().find_map(|region| Some((region, region.mapping.changed_slack()?)));
    overwritten.map_or(Ok(report), |(region, offset)| {
        region.mapping.fill_slack();
        let address = (region.mapping.bytes().start as i64 + offset) as usize;
        Err(Fault::Overwritten { kernel: kernel.name(), near: near(region, address) })
    })
}

/// The bytes in words of 16, for their alignment.
pub(crate) fn in_words(bytes: &[u8]) -> Vec<u128> {
    let word = |bytes: &[u8]| {
        let mut whole = [0; 16];
        whole[..bytes.len()].copy_from_slice(bytes);
        u128::from_ne_bytes(whole)
    };
    bytes.chunks(16).map(word).collect()
}

/// Do the arguments hold a pointer to it? Only such buffers are looked at for stores around them: others may be those
/// of a launch that runs at the same time.
pub(crate) fn is_named(region: &Region, args: &[u8]) -> bool {
    let bytes = region.mapping.bytes();
    from_bytes::<u64>(args).into_iter().any(|word| (bytes.start as u64..=bytes.end as u64).contains(&word))
}

impl Options {
    /// The blocks of a grid to run.
    pub(crate) fn blocks_of(&self, grid: [u32; 3]) -> Range<u64> {
        let all = grid.iter().map(|&blocks| u64::from(blocks)).product();
        let asked = self.blocks.clone().unwrap_or(0..all);
        asked.start.min(all)..asked.end.clamp(asked.start.min(all), all)
    }

    /// As many OS threads as were asked for, and no more than there are blocks.
    pub(crate) fn workers_for(&self, blocks: &Range<u64>) -> usize {
        let asked = match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            asked => asked,
        };
        asked.min(usize::try_from(blocks.end - blocks.start).unwrap_or(usize::MAX))
    }
}

/// A launch as far as it can be checked before it runs.
pub(crate) struct Asked<'a> {
    pub(crate) kernel: &'a str,
    pub(crate) args_size: usize,
    pub(crate) max_threads: u32,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared_bytes: u32,
    pub(crate) args: &'a [u8],
}

impl Asked<'_> {
    /// What CUDA's own launch would refuse, and what it could not know.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        let kernel = self.kernel.to_owned();
        if self.args.len() != self.args_size {
            return Err(Fault::ArgsSize { kernel, expected: self.args_size, got: self.args.len() });
        }
        let [gx, gy, gz] = self.grid;
        let fits = |size: u32, most: u32| (1..=most).contains(&size);
        if !fits(gx, i32::MAX as u32) || !fits(gy, 65_535) || !fits(gz, 65_535) {
            return Err(Fault::Grid { kernel, grid: self.grid });
        }
        let threads: u128 = self.block.iter().map(|&size| u128::from(size)).product();
        let max = self.max_threads;
        if !(1..=u128::from(max)).contains(&threads) || self.block[2] > 64 {
            return Err(Fault::BlockSize { kernel, block: self.block, max });
        }
        if self.shared_bytes > MAX_SHARED_BYTES {
            return Err(Fault::SharedBytes { kernel, bytes: self.shared_bytes, max: MAX_SHARED_BYTES });
        }
        Ok(())
    }
}

/// The parts of an output that a launch leaves unwritten: runs it twice over different contents and compares.
///
/// Other buffers that the kernel both reads and writes must not change what it writes the second time.
pub fn unwritten(launch: &Launch, options: &Options, output: &Buffer) -> Result<Vec<Range<usize>>, Fault> {
    output.fill(0x00);
    run(launch, options)?;
    let over_zeros: Vec<u8> = output.values();
    output.fill(0xFF);
    run(launch, options)?;
    let over_ones: Vec<u8> = output.values();
    let mut parts: Vec<Range<usize>> = Vec::new();
    for (i, _) in over_zeros.iter().zip(&over_ones).enumerate().filter(|(_, (a, b))| **a == 0x00 && **b == 0xFF) {
        match parts.last_mut() {
            Some(last) if last.end == i => last.end = i + 1,
            _ => parts.push(i..i + 1),
        }
    }
    Ok(parts)
}
