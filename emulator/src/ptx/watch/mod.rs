//! A sanitizer: what a launch does to shared and global memory is written down, and what nothing orders is found,
//! though the result be right.
//!
//! An access is compared with those before it to the same bytes, by what happens before what in the PTX memory model
//! ([`order`]), not by when they ran: a race is found whichever side of it comes first. What an earlier launch did is
//! ordered, and of it only the bytes that were written are kept, with the buffer. Inputs cannot be written, and are not
//! watched.
//!
//! A launch that is watched runs on one OS thread, so that nothing here needs a lock; one that is not has no `Watch`.

mod block;
mod cells;
mod order;

use std::collections::HashMap;
use std::sync::Arc;

use self::cells::{Cell, Clash, Record};
use self::order::{By, Order};
use super::op::SHARED;
use crate::access::region_of;
use crate::fault::Access;
use crate::memory::Region;

/// Bytes whose cells are made at once.
const PAGE: u64 = 4096;

/// What the accesses of one instruction have in common.
#[derive(Clone, Copy)]
struct Touch {
    at: u32,
    access: Access,
    bytes: u32,
    under_way: bool,
}

/// An asynchronous copy that was not waited for.
struct Copying {
    group: u64,
    at: u32,
    to: u64,
    bytes: u32,
    from: u64,
    valid: u32,
}

/// The asynchronous copies of a thread, and the group that is open.
#[derive(Default)]
struct Copies {
    group: u64,
    under_way: Vec<Copying>,
}

/// What one OS thread has seen of a launch.
pub(super) struct Watch {
    order: Order,
    /// How many blocks have begun.
    blocks: u32,
    shared: Vec<Cell>,
    global: Global,
    copies: Vec<Copies>,
}

/// Cells of some bytes of a buffer. None if the buffer is an input.
struct Page {
    start: u64,
    end: u64,
    region: Arc<Region>,
    cells: Vec<Cell>,
}

struct Global {
    regions: Arc<[Arc<Region>]>,
    pages: Vec<Page>,
    /// The numbers of pages by their start.
    index: HashMap<u64, usize>,
    /// The page that was touched last.
    last: usize,
}

impl Watch {
    /// For blocks of so many threads, with so much shared memory, of a kernel with or without fences.
    pub(super) fn new(regions: &Arc<[Arc<Region>]>, threads: u32, shared_bytes: u64, fences: bool) -> Watch {
        Watch {
            order: Order::new(threads, fences),
            blocks: 0,
            shared: vec![Cell::default(); shared_bytes.div_ceil(4) as usize],
            global: Global { regions: Arc::clone(regions), pages: Vec::new(), index: HashMap::new(), last: 0 },
            copies: (0..threads).map(|_| Copies::default()).collect(),
        }
    }

    /// The block of this number begins.
    pub(super) fn start(&mut self, block: u64) {
        self.blocks += 1;
        self.order.start(block, SHARED + 4 * self.shared.len() as u64);
        for copies in &mut self.copies {
            copies.group = 0;
            copies.under_way.clear();
        }
    }

    /// These threads synchronise.
    pub(super) fn join(&mut self, threads: impl Iterator<Item = u32> + Clone) {
        self.order.join(threads);
    }

    /// Shared memory, by its address in the window.
    #[inline]
    fn touch_shared(&mut self, touch: Touch, by: By, address: u64) -> Result<(), Clash> {
        let first = ((address - SHARED) / 4) as usize;
        let last = ((address - SHARED + u64::from(touch.bytes)).div_ceil(4) as usize).min(self.shared.len());
        for cell in self.shared.get_mut(first..last).unwrap_or_default() {
            if cell.of != self.blocks {
                cell.clear(self.blocks);
            }
        }
        each_word(self.shared.get_mut(first..last).unwrap_or_default(), touch, by, address, &self.order)
    }

    /// Global memory.
    #[inline]
    fn touch_global(&mut self, touch: Touch, by: By, address: u64) -> Result<(), Clash> {
        each_word(self.global.cells(address), touch, by, address, &self.order)
    }

    /// A copy was issued.
    fn copies(&mut self, thread: u32, copying: Copying) {
        let copies = &mut self.copies[thread as usize];
        copies.under_way.push(Copying { group: copies.group, ..copying });
    }

    fn commit(&mut self, thread: u32) {
        self.copies[thread as usize].group += 1;
    }

    /// A thread waits for all groups but the `newest`; for all copies if there is no number.
    fn wait(&mut self, by: By, newest: Option<u32>) {
        let copies = &mut self.copies[(32 * by.warp + by.lanes.trailing_zeros()) as usize];
        let due = newest.map_or(u64::MAX, |newest| copies.group.saturating_sub(newest.into()));
        let due = copies.under_way.partition_point(|copying| copying.group < due);
        for Copying { at, to, bytes, from, valid, .. } in copies.under_way.drain(..due) {
            let (first, words) = (((to - SHARED) / 4) as usize, (bytes / 4) as usize);
            self.shared.iter_mut().skip(first).take(words).for_each(|cell| cell.land(by, at));
            let words = valid.div_ceil(4) as usize;
            self.global.cells(from).iter_mut().take(words).for_each(|cell| cell.land(by, at));
        }
    }
}

/// Touches the cells from that of an address on.
#[inline]
fn each_word(cells: &mut [Cell], touch: Touch, by: By, address: u64, order: &Order) -> Result<(), Clash> {
    let Touch { at, access, bytes, under_way } = touch;
    let offset = (address % 4) as u32;
    let words = (offset + bytes).div_ceil(4);
    for (i, cell) in cells.iter_mut().enumerate().take(words as usize) {
        let i = i as u32;
        let (start, end) = (offset.max(4 * i) - 4 * i, (offset + bytes - 4 * i).min(4));
        let bytes = ((1u32 << end) - (1 << start)) as u8;
        cell.touch(Record { by, at, access, bytes, under_way }, order)?;
    }
    Ok(())
}

impl Global {
    /// The cells from that of an address on, up to the end of its page; none if it is not watched.
    #[inline]
    fn cells(&mut self, address: u64) -> &mut [Cell] {
        let is_in = |page: &Page| (page.start..page.end).contains(&address);
        if !self.pages.get(self.last).is_some_and(is_in) && !self.find(address) {
            return &mut [];
        }
        let page = &mut self.pages[self.last];
        page.cells.get_mut(((address - page.start) / 4) as usize..).unwrap_or_default()
    }

    /// Makes the page of an address the last one. Gives whether there is a buffer.
    #[cold]
    fn find(&mut self, address: u64) -> bool {
        let Some(region) = region_of(&self.regions, address as usize, 1) else { return false };
        let whole = region.mapping.bytes();
        let offset = if region.read_only { 0 } else { (address - whole.start as u64) / PAGE * PAGE };
        let start = whole.start as u64 + offset;
        if let Some(&page) = self.index.get(&start) {
            self.last = page;
            return true;
        }
        let end = if region.read_only { whole.end as u64 } else { (start + PAGE).min(whole.end as u64) };
        let words = if region.read_only { 0 } else { (end - start).div_ceil(4) as usize };
        let written = region.written(offset as usize / 4, words);
        let cells = written.into_iter().map(Cell::of_written).collect();
        self.last = self.pages.len();
        self.index.insert(start, self.last);
        self.pages.push(Page { start, end, region: Arc::clone(region), cells });
        true
    }
}

/// Buffers keep which of their bytes have been written.
impl Drop for Global {
    fn drop(&mut self) {
        for page in &self.pages {
            let first = (page.start as usize - page.region.mapping.bytes().start) / 4;
            page.region.add_written(first, page.cells.iter().map(|cell| cell.written));
        }
    }
}
