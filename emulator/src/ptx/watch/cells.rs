//! What is remembered of each 4 bytes of memory: who touched which of them last, as far as it can still matter.

use super::order::{By, Order};
use crate::fault::Access;
use crate::ptx::lanes::Lanes;

/// Accesses of some bytes of a word, by lanes of one warp at one instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) by: By,
    pub(super) at: u32,
    pub(super) access: Access,
    /// A bit a byte.
    pub(super) bytes: u8,
    /// An asynchronous copy that has not been waited for.
    pub(super) under_way: bool,
}

/// Why a word may not be touched so.
pub(super) enum Clash {
    Race(Record),
    UnderWay(Record),
    /// A load through the read-only path, and a store.
    Stale(Record),
    Unwritten,
}

/// Four bytes of memory.
#[derive(Default, Clone)]
pub(super) struct Cell {
    /// Which block's it is, where each has its own.
    pub(super) of: u32,
    /// The bytes that have been written.
    pub(super) written: u8,
    first: Option<Record>,
    rest: Vec<Record>,
}

impl Record {
    fn writes(&self) -> bool {
        matches!(self.access, Access::Store | Access::Atomic | Access::CopyTarget)
    }

    fn reads(&self) -> bool {
        !matches!(self.access, Access::Store | Access::CopyTarget)
    }

    /// Must the two be ordered?
    fn conflicts(&self, with: &Record) -> bool {
        let atomics = self.access == Access::Atomic && with.access == Access::Atomic;
        (self.writes() || with.writes()) && !atomics
    }

    /// Whatever must be ordered with `old`, must it be with this one?
    fn covers(&self, old: &Record) -> bool {
        let plain = |record: &Record| matches!(record.access, Access::Load | Access::CopySource);
        self.writes() && self.access != Access::Atomic
            || self.access == Access::Atomic && old.access == Access::Atomic
            || plain(self) && plain(old)
    }

    /// Is it the same access by more lanes?
    fn joins(&self, other: &Record) -> bool {
        let same = By { lanes: self.by.lanes, ..other.by };
        same == self.by && Record { by: self.by, ..*other } == *self && !self.under_way && !self.conflicts(other)
    }

    fn is_read_only(&self) -> bool {
        self.access == Access::LoadReadOnly
    }
}

impl Cell {
    /// Touched by nobody yet, with these bytes written.
    pub(super) fn of_written(written: u8) -> Cell {
        Cell { written, ..Cell::default() }
    }

    pub(super) fn clear(&mut self, of: u32) {
        (self.of, self.written, self.first) = (of, 0, None);
        self.rest.clear();
    }

    /// Lanes of one stamp touch bytes of it.
    #[inline]
    pub(super) fn touch(&mut self, new: Record, order: &Order) -> Result<(), Clash> {
        if let Some(first) = &mut self.first
            && first.joins(&new)
            && self.rest.is_empty()
        {
            first.by.lanes |= new.by.lanes;
            return Ok(());
        }
        self.touch_among(new, order)
    }

    fn touch_among(&mut self, new: Record, order: &Order) -> Result<(), Clash> {
        for old in self.first.iter().chain(&self.rest).filter(|old| old.bytes & new.bytes != 0) {
            clash(old, &new, order)?;
        }
        if new.reads() && new.bytes & !self.written != 0 {
            return Err(Clash::Unwritten);
        }
        if new.writes() {
            self.written |= new.bytes;
        }
        self.forget(&new, order);
        self.remember(new);
        Ok(())
    }

    /// Drops what `new` stands for from now on.
    fn forget(&mut self, new: &Record, order: &Order) {
        let mut apart = 0;
        let mut keep = |old: &mut Record| {
            if old.under_way || old.bytes & new.bytes == 0 || !new.covers(old) {
                return true;
            }
            if new.conflicts(old) {
                // It has happened before.
                old.bytes &= !new.bytes;
                return old.bytes != 0;
            }
            if order.is_apart(&old.by) {
                // Of blocks before, one is as good as all: no later block is one of them.
                let needed = old.bytes & !apart != 0;
                apart |= old.bytes;
                return needed;
            }
            if old.bytes & !new.bytes == 0 {
                old.by.lanes = order.open(&old.by, &new.by);
            }
            old.by.lanes != 0
        };
        self.rest.retain_mut(&mut keep);
        if self.first.as_mut().is_some_and(|first| !keep(first)) {
            self.first = self.rest.pop();
        }
    }

    fn remember(&mut self, new: Record) {
        let mut all = self.first.iter_mut().chain(&mut self.rest);
        let has_it = |old: &Record| new.is_read_only() && old.is_read_only() && old.bytes & new.bytes == new.bytes;
        if let Some(old) = all.find(|old| old.joins(&new) || has_it(old)) {
            if old.joins(&new) {
                old.by.lanes |= new.by.lanes;
            }
        } else if self.first.is_none() {
            self.first = Some(new);
        } else {
            self.rest.push(new);
        }
    }

    /// An asynchronous copy of a lane has been waited for: its access counts as one of now.
    pub(super) fn land(&mut self, by: By, at: u32) {
        let mine = |old: &&mut Record| {
            old.under_way
                && old.at == at
                && old.by.warp == by.warp
                && old.by.lanes == by.lanes
                && old.by.block == by.block
        };
        // One: a later group's may read the same, and is still under way.
        if let Some(old) = self.first.iter_mut().chain(&mut self.rest).find(mine) {
            (old.by, old.under_way) = (by, false);
        }
    }
}

fn clash(old: &Record, new: &Record, order: &Order) -> Result<(), Clash> {
    if (old.is_read_only() || new.is_read_only()) && new.conflicts(old) {
        return Err(Clash::Stale(*old));
    }
    if old.under_way && new.conflicts(old) {
        return Err(Clash::UnderWay(*old));
    }
    if !new.conflicts(old) {
        return Ok(());
    }
    if order.is_past(&old.by) {
        return Ok(());
    }
    // Each lane of the new ones for itself.
    let each = Lanes(new.by.lanes).map(|lane| order.open(&old.by, &By { lanes: 1 << lane, ..new.by }));
    match each.fold(0, |open, lanes| open | lanes) {
        0 => Ok(()),
        lanes => Err(Clash::Race(Record { by: By { lanes, ..old.by }, ..*old })),
    }
}
