//! The OS threads of a launch: each takes block after block.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::block::{Block, Context};
use crate::fault::Fault;
use crate::report::Report;
use crate::schedule::Schedule;
use crate::signals::{self, AltStack};
use crate::stack::{self, FiberStack};

/// The blocks still to run.
struct Queue {
    blocks: Range<u64>,
    taken: AtomicU64,
    stop: AtomicBool,
    backwards: bool,
}

impl Queue {
    fn next(&self) -> Option<u64> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let count = self.blocks.end - self.blocks.start;
        let taken = self.taken.fetch_add(1, Ordering::Relaxed);
        let offset = if self.backwards { (count - 1).checked_sub(taken)? } else { taken };
        (taken < count).then_some(self.blocks.start + offset)
    }
}

/// One OS thread's part in a launch: what it needs to run one block after another.
pub(crate) trait Runner: Sized {
    /// What all of them share.
    type Context: Send + Sync;

    /// For the calling OS thread.
    fn new(context: &Arc<Self::Context>) -> Result<Self, Fault>;
    /// Runs the block of this number.
    fn run(&mut self, number: u64) -> Result<(), Fault>;
    /// What it has run so far.
    fn report(&self) -> Report;
}

/// Runs these blocks on as many OS threads; one means the caller's own.
pub(crate) fn run_blocks<R: Runner>(
    context: R::Context,
    schedule: Schedule,
    blocks: Range<u64>,
    workers: usize,
) -> Result<Report, Fault> {
    let backwards = matches!(schedule, Schedule::Random(seed) | Schedule::Solo(seed) if seed % 2 == 1);
    let queue = Queue { blocks, taken: AtomicU64::new(0), stop: AtomicBool::new(false), backwards };
    let context = Arc::new(context);
    if workers <= 1 {
        return work::<R>(&context, &queue).map_err(|(_, fault)| fault);
    }
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(|| work::<R>(&context, &queue))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let mut report = Report::default();
    let mut faults = Vec::new();
    for result in results {
        match result {
            Ok(part) => report.add(&part),
            Err(fault) => faults.push(fault),
        }
    }
    // Several may have come up at the same time: the one of the lowest block.
    faults.into_iter().min_by_key(|(block, _)| *block).map_or(Ok(report), |(_, fault)| Err(fault))
}

/// Takes blocks until there are none or one has a fault; that one's number comes with it.
fn work<R: Runner>(context: &Arc<R::Context>, queue: &Queue) -> Result<Report, (u64, Fault)> {
    let mut runner = R::new(context).map_err(|fault| (0, fault))?;
    while let Some(number) = queue.next() {
        if let Err(fault) = runner.run(number) {
            queue.stop.store(true, Ordering::Relaxed);
            return Err((number, fault));
        }
    }
    Ok(runner.report())
}

/// A block of fibers, with their stacks.
pub(crate) struct Fibers {
    block: Block,
    stacks: Vec<FiberStack>,
    _alternate: AltStack,
}

impl Runner for Fibers {
    type Context = Context;

    fn new(context: &Arc<Context>) -> Result<Fibers, Fault> {
        let host = |what| move |source| Fault::Host { what, source };
        signals::install().map_err(host("install a signal handler"))?;
        let alternate = AltStack::for_this_thread().map_err(host("set up a signal stack"))?;
        let block = Block::new(Arc::clone(context))?;
        let stacks = stack::take(block.fibers.len()).map_err(host("map a stack"))?;
        Ok(Fibers { block, stacks, _alternate: alternate })
    }

    fn run(&mut self, number: u64) -> Result<(), Fault> {
        self.block.run(number, &mut self.stacks)
    }

    fn report(&self) -> Report {
        Report::of(&self.block.counts)
    }
}

impl Drop for Fibers {
    fn drop(&mut self) {
        stack::give_back(std::mem::take(&mut self.stacks));
    }
}
