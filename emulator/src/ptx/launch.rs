//! Launching a module's kernel.

use std::sync::{Arc, Mutex, PoisonError};

use super::block::{Block, Context};
use super::module::Module;
use super::profile::{Profile, Recorder};
use crate::launch::{self, Asked, Options};
use crate::memory::regions;
use crate::report::Report;
use crate::worker::run_blocks;
use crate::{Fault, Schedule};

/// One launch of a kernel of a [`Module`], as the driver would be told it.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// The kernel's name.
    pub kernel: &'a str,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// The bytes of the kernel's parameters, one after another as C lays out a struct. Pointers in them are addresses
    /// of [`Buffer`](crate::Buffer)s.
    pub args: &'a [u8],
}

impl Module {
    /// Executes a launch to its end, or to its first fault.
    ///
    /// # Errors
    ///
    /// A launch that CUDA would refuse, and every fault of the kernel: see [`Fault`].
    pub fn run(&self, launch: &Launch, options: &Options) -> Result<Report, Fault> {
        self.execute(launch, options, None)
    }

    /// Executes a launch, in order on one OS thread, and counts what it asks of memory.
    ///
    /// # Errors
    ///
    /// As for [`run`](Module::run).
    pub fn profile(&self, launch: &Launch, options: &Options) -> Result<Profile, Fault> {
        let recorder = Arc::new(Mutex::new(Recorder::default()));
        let options = Options { schedule: Schedule::RoundRobin, workers: 1, ..options.clone() };
        let report = self.execute(launch, &options, Some(Arc::clone(&recorder)))?;
        let recorded = recorder.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(recorded.profile(self.entry(launch.kernel)?, report))
    }

    fn execute(
        &self,
        launch: &Launch,
        options: &Options,
        recorder: Option<Arc<Mutex<Recorder>>>,
    ) -> Result<Report, Fault> {
        let entry = self.entry(launch.kernel)?;
        let asked = Asked {
            kernel: &entry.name,
            args_size: entry.args_size,
            max_threads: entry.max_threads,
            grid: launch.grid,
            block: launch.block,
            shared_bytes: launch.shared_bytes,
            args: launch.args,
        };
        asked.check()?;
        let context = Context {
            entry: entry.clone(),
            grid: launch.grid,
            block: launch.block,
            shared_bytes: launch.shared_bytes,
            args: launch::in_words(launch.args),
            schedule: options.schedule,
            arithmetic: options.arithmetic,
            watch: options.watch,
            recorder,
            regions: regions().into(),
        };
        let blocks = options.blocks_of(launch.grid);
        let workers = if options.watch { 1 } else { options.workers_for(&blocks) };
        let regions = Arc::clone(&context.regions);
        let report = run_blocks::<Block>(context, options.schedule, blocks, workers);
        if !options.watch || options.blocks.is_some() {
            // Nobody knows what was written, or would have been by the other blocks.
            let named = regions.iter().filter(|region| launch::is_named(region, launch.args));
            named.for_each(|region| region.write_all());
        }
        report
    }

    /// Executes what the emulator would run, from this module's PTX: the kernel of the same name.
    ///
    /// # Errors
    ///
    /// As for [`run`](Module::run).
    pub fn run_as(&self, launch: &crate::Launch, options: &Options) -> Result<Report, Fault> {
        let crate::Launch { kernel, grid, block, shared_bytes, args } = *launch;
        self.run(&Launch { kernel: &kernel.name(), grid, block, shared_bytes, args }, options)
    }
}
