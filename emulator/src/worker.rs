//! The OS threads of a launch: each takes block after block.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::block::{Block, Context};
use crate::fault::Fault;
use crate::report::Report;
use crate::schedule::Schedule;
use crate::signals::{self, AltStack};
use crate::stack;

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

/// Runs these blocks on as many OS threads; one means the caller's own.
pub(crate) fn run_blocks(context: Context, blocks: Range<u64>, workers: usize) -> Result<Report, Fault> {
    signals::install().map_err(|source| Fault::Host { what: "install a signal handler", source })?;
    let backwards = matches!(context.schedule, Schedule::Random(seed) | Schedule::Solo(seed) if seed % 2 == 1);
    let queue = Queue { blocks, taken: AtomicU64::new(0), stop: AtomicBool::new(false), backwards };
    let context = Arc::new(context);
    if workers <= 1 {
        return work(&context, &queue).map_err(|(_, fault)| fault);
    }
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(|| work(&context, &queue))).collect();
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
fn work(context: &Arc<Context>, queue: &Queue) -> Result<Report, (u64, Fault)> {
    let host = |what, source| (0, Fault::Host { what, source });
    let _alternate = AltStack::for_this_thread().map_err(|error| host("set up a signal stack", error))?;
    let block = Block::new(Arc::clone(context)).map_err(|fault| (0, fault))?;
    let mut stacks = stack::take(block.fibers.len()).map_err(|error| host("map a stack", error))?;
    let mut result = Ok(());
    while let Some(number) = queue.next() {
        result = block.run(number, &mut stacks).map_err(|fault| (number, fault));
        if result.is_err() {
            queue.stop.store(true, Ordering::Relaxed);
            break;
        }
    }
    stack::give_back(stacks);
    result.map(|()| Report::of(&block.counts))
}
