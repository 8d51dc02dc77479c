//! An allocator that counts: what lives, the most that did, and all there ever was. For a program whose tests are alone
//! in it, or run one at a time; members take this file by its path.
#![allow(dead_code, unreachable_pub, reason = "each program uses a part")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

struct Counted;

#[global_allocator]
static ALLOCATOR: Counted = Counted;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);
static EVER: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every request is handed to the system's allocator as it is, and its answer handed back.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        MOST.fetch_max(live, Relaxed);
        EVER.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller keeps to the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps to the contract of `dealloc`, and `pointer` is from the system's `alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Bytes that are allocated now.
pub fn live() -> usize {
    LIVE.load(Relaxed)
}

/// What `run` gives, and the most bytes that were allocated at one time while it ran, beyond those before.
pub fn peak<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = live();
    MOST.store(before, Relaxed);
    let result = run();
    (result, MOST.load(Relaxed).saturating_sub(before))
}

/// What `run` gives, and the bytes that it allocated in all, given back or not.
pub fn allocated<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = EVER.load(Relaxed);
    let result = run();
    (result, EVER.load(Relaxed) - before)
}
