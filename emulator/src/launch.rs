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
use crate::worker::run_blocks;
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
}

impl Default for Options {
    fn default() -> Options {
        Options { schedule: Schedule::RoundRobin, workers: 0, blocks: None, arithmetic: Arithmetic::InOrder }
    }
}

/// Runs a launch to its end, or to its first fault.
///
/// Kernels are C++ of this very program: what they do to memory through raw pointers is caught where a guard page is,
/// and only there.
pub fn run(launch: &Launch, options: &Options) -> Result<Report, Fault> {
    check(launch)?;
    let mut args = vec![0u128; launch.args.len().div_ceil(16)];
    for (word, bytes) in args.iter_mut().zip(launch.args.chunks(16)) {
        let mut whole = [0; 16];
        whole[..bytes.len()].copy_from_slice(bytes);
        *word = u128::from_ne_bytes(whole);
    }
    let regions = regions();
    let own: Vec<Arc<Region>> = regions.iter().filter(|region| is_named(region, launch.args)).cloned().collect();
    let context = Context {
        kernel: launch.kernel,
        grid: launch.grid,
        block: launch.block,
        shared_bytes: launch.shared_bytes,
        args,
        schedule: options.schedule,
        arithmetic: options.arithmetic,
        regions,
    };
    let all = launch.grid.iter().map(|&blocks| u64::from(blocks)).product();
    let asked = options.blocks.clone().unwrap_or(0..all);
    let blocks = asked.start.min(all)..asked.end.clamp(asked.start.min(all), all);
    let most = usize::try_from(blocks.end - blocks.start).unwrap_or(usize::MAX);
    let report = run_blocks(context, blocks, worker_count(options.workers).min(most))?;
    let overwritten = own.iter().find_map(|region| Some((region, region.mapping.changed_slack()?)));
    overwritten.map_or(Ok(report), |(region, offset)| {
        region.mapping.fill_slack();
        let address = (region.mapping.bytes().start as i64 + offset) as usize;
        Err(Fault::Overwritten { kernel: launch.kernel.name(), near: near(region, address) })
    })
}

/// Do the arguments hold a pointer to it? Only such buffers are looked at for stores around them: others may be those
/// of a launch that runs at the same time.
fn is_named(region: &Region, args: &[u8]) -> bool {
    let bytes = region.mapping.bytes();
    from_bytes::<u64>(args).into_iter().any(|word| (bytes.start as u64..=bytes.end as u64).contains(&word))
}

fn worker_count(asked: usize) -> usize {
    match asked {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        asked => asked,
    }
}

/// What CUDA's own launch would refuse, and what it could not know.
fn check(launch: &Launch) -> Result<(), Fault> {
    let (kernel, name) = (launch.kernel, launch.kernel.name());
    if launch.args.len() != kernel.args_size() {
        return Err(Fault::ArgsSize { kernel: name, expected: kernel.args_size(), got: launch.args.len() });
    }
    let [gx, gy, gz] = launch.grid;
    let fits = |size: u32, most: u32| (1..=most).contains(&size);
    if !fits(gx, i32::MAX as u32) || !fits(gy, 65_535) || !fits(gz, 65_535) {
        return Err(Fault::Grid { kernel: name, grid: launch.grid });
    }
    let threads: u128 = launch.block.iter().map(|&size| u128::from(size)).product();
    let max = kernel.max_threads();
    if !(1..=u128::from(max)).contains(&threads) || launch.block[2] > 64 {
        return Err(Fault::BlockSize { kernel: name, block: launch.block, max });
    }
    if launch.shared_bytes > MAX_SHARED_BYTES {
        return Err(Fault::SharedBytes { kernel: name, bytes: launch.shared_bytes, max: MAX_SHARED_BYTES });
    }
    Ok(())
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
