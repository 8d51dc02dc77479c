//! What happens before what: the causality order of the PTX memory model, as far as a run has made it.
//!
//! Each thread has a stamp, and a new one after each synchronisation, and knows of each other thread up to which stamp
//! what that did has happened before. Barriers and `bar.warp.sync` join what their threads know. Between blocks, what a
//! thread knew at a fence goes with its next atomic operations to whoever changes the same place and has a fence after.
//! Nothing else orders: not a shuffle, not that lanes run together, not that a block ran before another.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use crate::ptx::lanes::Lanes;

/// Lanes of a warp that did something, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct By {
    pub(super) block: u64,
    pub(super) stamp: u32,
    pub(super) warp: u32,
    pub(super) lanes: u32,
}

/// For each thread of a block, the stamp up to which it is known.
type Known = Rc<[u32]>;

/// The same of several blocks.
type Seen = BTreeMap<u64, Known>;

/// What a thread knows.
#[derive(Clone)]
struct Clock {
    stamp: u32,
    block: Known,
    others: Rc<Seen>,
    /// What it knew at its last fence, which its atomic operations give away.
    released: Option<Rc<Seen>>,
    /// What it was given by atomic operations, and knows after its next fence.
    heard: Vec<Rc<Seen>>,
}

pub(super) struct Order {
    block: u64,
    fences: bool,
    clocks: Vec<Clock>,
    /// The last stamp given.
    now: u32,
    /// All that the block did at an earlier stamp has happened before all that it still does.
    floor: u32,
    /// What atomic operations have left, by address.
    left: HashMap<u64, Rc<Seen>>,
}

impl Order {
    /// For blocks of so many threads, of a kernel with or without fences.
    pub(super) fn new(threads: u32, fences: bool) -> Order {
        let (block, others): (Known, _) = (vec![0; threads as usize].into(), Rc::default());
        let clock = Clock { stamp: 1, block, others, released: None, heard: Vec::new() };
        Order { block: 0, fences, clocks: vec![clock; threads as usize], now: 1, floor: 1, left: HashMap::new() }
    }

    /// A block begins. What atomic operations have left in its shared memory, below `shared_end`, is gone.
    pub(super) fn start(&mut self, block: u64, shared_end: u64) {
        let left = std::mem::take(&mut self.left);
        *self = Order { block, ..Order::new(self.clocks.len() as u32, self.fences) };
        self.left = left;
        self.left.retain(|&address, _| address >= shared_end);
    }

    /// One thread, now.
    pub(super) fn by(&self, warp: u32, lane: u32) -> By {
        let stamp = self.clocks[(32 * warp + lane) as usize].stamp;
        By { block: self.block, stamp, warp, lanes: 1 << lane }
    }

    /// Was it by a block before this one, none of which can be ordered with another, there being no fence?
    pub(super) fn is_apart(&self, by: &By) -> bool {
        by.block != self.block && !self.fences
    }

    /// Has it happened before all that the block still does?
    #[inline]
    pub(super) fn is_past(&self, old: &By) -> bool {
        old.block == self.block && old.stamp < self.floor
    }

    /// The lanes of `old` that have not happened before the first of `new`, who is at it now; none that are in both.
    #[inline]
    pub(super) fn open(&self, old: &By, new: &By) -> u32 {
        if self.is_past(old) {
            return 0;
        }
        let own = old.block == self.block;
        let clock = &self.clocks[(32 * new.warp + new.lanes.trailing_zeros()) as usize];
        let known = if own { Some(&clock.block) } else { clock.others.get(&old.block) };
        let Some(known) = known else { return old.lanes };
        let same = if own && old.warp == new.warp { new.lanes } else { 0 };
        let is_open = |lane: &u32| known[(32 * old.warp + lane) as usize] < old.stamp;
        Lanes(old.lanes & !same).filter(is_open).fold(0, |open, lane| open | 1 << lane)
    }

    /// What these threads did happens before what they do from now on.
    pub(super) fn join(&mut self, threads: impl Iterator<Item = u32> + Clone) {
        let Some(first) = threads.clone().next().map(|first| &self.clocks[first as usize]) else { return };
        // Most know the same, and then it is the same allocation.
        let (mut last, mut last_others) = (Rc::clone(&first.block), Rc::clone(&first.others));
        let (mut block, mut others, mut count) = (last.to_vec(), Seen::clone(&last_others), 0);
        for thread in threads.clone() {
            let clock = &self.clocks[thread as usize];
            if !Rc::ptr_eq(&clock.block, &last) {
                widen(&mut block, &clock.block);
                last = Rc::clone(&clock.block);
            }
            if !Rc::ptr_eq(&clock.others, &last_others) {
                add(&mut others, &clock.others);
                last_others = Rc::clone(&clock.others);
            }
            block[thread as usize] = clock.stamp;
            count += 1;
        }
        self.now += 1;
        let (block, others): (Known, _) = (block.into(), Rc::new(others));
        for thread in threads {
            let clock = &mut self.clocks[thread as usize];
            (clock.stamp, clock.block, clock.others) = (self.now, Rc::clone(&block), Rc::clone(&others));
        }
        if count == self.clocks.len() {
            self.floor = self.now;
        }
    }

    /// A fence: what atomic operations gave the thread it knows from now on, and what it knows they give away.
    pub(super) fn fence(&mut self, thread: u32) {
        self.now += 1;
        let clock = &mut self.clocks[thread as usize];
        if !clock.heard.is_empty() {
            let mut all = Seen::clone(&clock.others);
            clock.heard.drain(..).for_each(|heard| add(&mut all, &heard));
            if let Some(own) = all.remove(&self.block) {
                let mut block = clock.block.to_vec();
                widen(&mut block, &own);
                clock.block = block.into();
            }
            clock.others = Rc::new(all);
        }
        let mut own = clock.block.to_vec();
        own[thread as usize] = clock.stamp;
        let mut released = Seen::clone(&clock.others);
        released.insert(self.block, own.into());
        clock.released = Some(Rc::new(released));
        clock.stamp = self.now;
    }

    /// An atomic operation: it reads and writes, so that what earlier ones left stays there.
    pub(super) fn atomic(&mut self, thread: u32, address: u64) {
        let clock = &mut self.clocks[thread as usize];
        if let Some(left) = self.left.get(&address)
            && clock.heard.last().is_none_or(|last| !Rc::ptr_eq(last, left))
        {
            clock.heard.push(Rc::clone(left));
        }
        if let Some(released) = &clock.released {
            let mut all = self.left.get(&address).map(|left| Seen::clone(left)).unwrap_or_default();
            add(&mut all, released);
            self.left.insert(address, Rc::new(all));
        }
    }
}

fn widen(known: &mut [u32], by: &[u32]) {
    known.iter_mut().zip(by).for_each(|(known, by)| *known = (*known).max(*by));
}

fn add(seen: &mut Seen, more: &Seen) {
    for (&block, known) in more {
        match seen.get_mut(&block) {
            Some(own) if Rc::ptr_eq(own, known) => {}
            Some(own) => {
                let mut both = own.to_vec();
                widen(&mut both, known);
                *own = both.into();
            }
            None => drop(seen.insert(block, Rc::clone(known))),
        }
    }
}
