//! Barriers of a block and collectives of a warp: what happens when threads come to one, and what it means when nobody
//! can go on.

use std::ffi::{c_char, c_void};

use crate::block::Block;
use crate::fault::{Fault, Place};
use crate::thread::{Site, text};
use crate::warp::{Combine, Warp};

impl Block {
    /// A thread comes to `sync_threads`. Returns when all have.
    #[inline]
    pub(crate) fn barrier(&self, thread: usize, site: Site) {
        let barrier = &self.barrier;
        let meets = barrier.waiting.get() == 0 || barrier.site.get().same(site);
        if !meets || self.ended.get() > 0 {
            self.raise(thread, self.barrier_fault(thread, site));
        }
        barrier.site.set(site);
        barrier.waiting.set(barrier.waiting.get() + 1);
        if barrier.waiting.get() < self.fibers.len() as u32 {
            return self.suspend(thread);
        }
        barrier.waiting.set(0);
        self.warps.iter().for_each(|warp| warp.ready.set(warp.lanes));
        let own = &self.warps[thread / 32].ready;
        own.set(own.get() & !(1 << (thread % 32)));
        self.counts.barriers.set(self.counts.barriers.get() + 1);
    }

    /// A lane comes to a collective with `brought`. Returns when all 32 have and `combine` has run.
    #[inline]
    pub(crate) fn collective(
        &self,
        thread: usize,
        what: *const c_char,
        brought: *mut c_void,
        combine: Combine,
        site: Site,
    ) {
        let warp = &self.warps[thread / 32];
        if !warp.accepts(what, site) {
            self.raise(thread, self.mismatch(thread, what, site));
        }
        let lane = 1 << (thread % 32);
        warp.brought[thread % 32].set(brought);
        warp.arrived.set(warp.arrived.get() | lane);
        if warp.arrived.get() != u32::MAX {
            return self.suspend(thread);
        }
        // SAFETY: all 32 lanes are in the same call of the same twin, so each of the 32 pointers is to a live object on
        // its lane's suspended stack (`brought` of this call's lane included), of the type that `combine` takes.
        unsafe { combine(warp.brought.as_ptr().cast()) };
        warp.arrived.set(0);
        warp.ready.set(warp.ready.get() | !lane);
        self.counts.collectives.set(self.counts.collectives.get() + 1);
    }

    #[cold]
    #[inline(never)]
    fn mismatch(&self, thread: usize, what: *const c_char, site: Site) -> Fault {
        let warp = &self.warps[thread / 32];
        let other = format!("{} at {}", text(warp.what.get()), line_of(warp.site.get()));
        Fault::CollectiveMismatch { place: self.place(thread, site), what: text(what), other }
    }

    /// The bookkeeping when a thread has returned from the kernel.
    pub(crate) fn end(&self, thread: usize) -> Result<(), Fault> {
        let ended = &self.warps[thread / 32].ended;
        ended.set(ended.get() | 1 << (thread % 32));
        self.ended.set(self.ended.get() + 1);
        if self.barrier.waiting.get() == 0 {
            return Ok(());
        }
        let barrier = line_of(self.barrier.site.get());
        Err(Fault::BarrierDivergence { place: self.place(thread, Site::NOWHERE), barrier })
    }

    /// The fault when no thread can go on, though not all have ended: a collective lacks lanes. (A barrier that lacks
    /// threads has been noticed when they ended, or they are in such a collective.)
    pub(crate) fn stuck(&self) -> Option<Fault> {
        let (number, warp) = self.warps.iter().enumerate().find(|(_, warp)| warp.arrived.get() != 0)?;
        let waiting = warp.arrived.get().trailing_zeros() as usize;
        let missing = (!warp.arrived.get()).trailing_zeros() as usize;
        let missing = if warp.lanes >> missing & 1 == 0 {
            format!("lane {missing} does not exist: the block has {} threads", self.fibers.len())
        } else if warp.ended.get() >> missing & 1 == 1 {
            format!("lane {missing} has ended")
        } else {
            // Nobody can go on, and it is not in its warp's collective.
            format!("lane {missing} waits at sync_threads ({})", line_of(self.barrier.site.get()))
        };
        Some(Fault::CollectiveDivergence {
            place: self.place(number * 32 + waiting, warp.site.get()),
            what: text(warp.what.get()),
            missing,
        })
    }

    /// The fault of a thread that comes to a barrier at which the block cannot meet.
    #[cold]
    #[inline(never)]
    fn barrier_fault(&self, thread: usize, site: Site) -> Fault {
        if self.ended.get() > 0 {
            return Fault::BarrierDivergence { place: self.place_of_ended(), barrier: line_of(site) };
        }
        Fault::BarrierMismatch { place: self.place(thread, site), barrier: line_of(self.barrier.site.get()) }
    }

    fn place_of_ended(&self) -> Box<Place> {
        let first = |(number, warp): (usize, &Warp)| {
            let ended = warp.ended.get();
            (ended != 0).then(|| number * 32 + ended.trailing_zeros() as usize)
        };
        self.place(self.warps.iter().enumerate().find_map(first).unwrap_or(0), Site::NOWHERE)
    }
}

fn line_of(site: Site) -> String {
    format!("{}:{}", site.file_name(), site.line())
}
