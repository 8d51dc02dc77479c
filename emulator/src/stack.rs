//! The stacks of fibers, kept from launch to launch.

use std::io;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use corosensei::stack::{DefaultStack, Stack, StackPointer};

use crate::mapping::page_size;
use crate::thread::Range;

/// Stack of one thread. A GPU thread has a few hundred bytes of local memory; C++ frames are larger.
pub(crate) const STACK_BYTES: usize = 64 << 10;

/// Stacks kept for the next launch; making one costs two system calls.
static KEPT: Mutex<Vec<FiberStack>> = Mutex::new(Vec::new());
const MOST_KEPT: usize = 4096;

/// A stack that begins a few cache lines below the end of its memory, each at another distance. All of them begin at
/// the start of a page otherwise: their hot ends then share a few sets of the cache, and switching takes three times as
/// long.
pub(crate) struct FiberStack {
    memory: DefaultStack,
    base: StackPointer,
    page: usize,
}

impl FiberStack {
    fn new(number: usize) -> io::Result<FiberStack> {
        const LINE: usize = 64;
        let lines = number * 5 % 64;
        let memory = DefaultStack::new(STACK_BYTES + 64 * LINE)?;
        let base = memory.base();
        let base = NonZeroUsize::new(base.get() - lines * LINE).unwrap_or(base);
        Ok(FiberStack { memory, base, page: page_size() })
    }

    /// The addresses of the stack without its guard page.
    pub(crate) fn usable(&self) -> Range {
        Range { start: self.limit().get() + self.page, end: self.base.get() }
    }

    /// Is this address in the guard page below a stack's usable part?
    pub(crate) fn is_below(usable: Range, address: usize) -> bool {
        address < usable.start && usable.start - address <= page_size()
    }
}

// SAFETY: the memory is a valid stack of its own; this one ends where that ends and begins a multiple of 64 bytes below
// where that begins, still `STACK_BYTES` above its guard page.
unsafe impl Stack for FiberStack {
    fn base(&self) -> StackPointer {
        self.base
    }

    fn limit(&self) -> StackPointer {
        self.memory.limit()
    }
}

pub(crate) fn take(count: usize) -> io::Result<Vec<FiberStack>> {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let from = kept.len().saturating_sub(count);
    let mut stacks = kept.split_off(from);
    drop(kept);
    while stacks.len() < count {
        stacks.push(FiberStack::new(stacks.len())?);
    }
    Ok(stacks)
}

pub(crate) fn give_back(mut stacks: Vec<FiberStack>) {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    stacks.truncate(MOST_KEPT.saturating_sub(kept.len()));
    kept.append(&mut stacks);
}
