//! What a block's instructions mean to the watch, and what is said of what it finds.

use super::cells::{Clash, Record};
use super::{Copying, Touch, Watch};
use crate::fault::{Access, Fault, Place};
use crate::ptx::block::Block;
use crate::ptx::lanes::Lanes;
use crate::ptx::memory::addresses;
use crate::ptx::op::{Instruction, NONE, Op, Space, Transfer};

/// A clash, and where it is.
struct Found {
    clash: Clash,
    space: Space,
    address: u64,
}

impl Block {
    /// Loads, stores, atomics and copies, as [`touch`](Block::touch) does them, and then what the watch says of them.
    pub(in crate::ptx) fn touch_watched(
        &mut self,
        instruction: &Instruction,
        number: usize,
        at: u32,
        lanes: u32,
    ) -> Result<(), Fault> {
        let registers = &self.warps[number].registers;
        // Now, as the instruction may write the registers that its addresses are in.
        let (space, touch, places) = match &instruction.op {
            Op::Load(Transfer { space, read_only, cell, count, at: from, .. }) => {
                let access = if *read_only { Access::LoadReadOnly } else { Access::Load };
                (*space, Touch::new(at, access, cell.bytes * count), addresses(registers, *from))
            }
            Op::Store(Transfer { space, cell, count, at: to, .. }) => {
                (*space, Touch::new(at, Access::Store, cell.bytes * count), addresses(registers, *to))
            }
            Op::Atomic { space, bytes, at: to, .. } => {
                (*space, Touch::new(at, Access::Atomic, *bytes), addresses(registers, *to))
            }
            Op::CopyAsync { to, from, bytes, valid } => {
                let places = [*to, *from].map(|address| addresses(registers, address));
                let valid = if *valid == NONE { [u32::from(*bytes); 32] } else { *registers.word(*valid) };
                self.touch_checked(instruction, number, at, lanes)?;
                return self.copy_watched(number, lanes, Touch::new(at, Access::CopyTarget, *bytes), &places, &valid);
            }
            op => {
                if let Some(watch) = &mut self.watch {
                    watch.note(op, number as u32, lanes);
                }
                return self.touch_checked(instruction, number, at, lanes);
            }
        };
        self.touch_checked(instruction, number, at, lanes)?;
        for lane in Lanes(lanes) {
            self.touch_one(number, lane, touch, space, places[lane as usize])?;
        }
        Ok(())
    }

    fn touch_checked(&mut self, instruction: &Instruction, number: usize, at: u32, lanes: u32) -> Result<(), Fault> {
        self.touch(instruction, number, at, lanes).map_err(|(lane, trouble)| self.fault(number, lane, at, trouble))
    }

    /// One access of one lane.
    #[inline]
    fn touch_one(&mut self, number: usize, lane: u32, touch: Touch, space: Space, address: u64) -> Result<(), Fault> {
        let Some(watch) = &mut self.watch else { return Ok(()) };
        let by = watch.order.by(number as u32, lane);
        let shared = match space {
            Space::Shared => Some(address),
            Space::Generic => self.memory.in_shared(address),
            Space::Global => None,
            Space::Local | Space::Param | Space::Const => return Ok(()),
        };
        let result = match shared {
            Some(address) => watch.touch_shared(touch, by, address),
            None => watch.touch_global(touch, by, address),
        };
        if touch.access == Access::Atomic {
            watch.order.atomic(32 * number as u32 + lane, shared.unwrap_or(address));
        }
        result.map_err(|clash| self.found(number, lane, touch, Found { clash, space, address }))
    }

    /// Copies that were just issued: they read and write until they are waited for.
    fn copy_watched(
        &mut self,
        number: usize,
        lanes: u32,
        touch: Touch,
        [targets, sources]: &[[u64; 32]; 2],
        valid: &[u32; 32],
    ) -> Result<(), Fault> {
        for lane in Lanes(lanes) {
            let (to, from, valid) = (targets[lane as usize], sources[lane as usize], valid[lane as usize]);
            let touch = Touch { under_way: true, ..touch };
            if valid > 0 {
                let source = Touch { access: Access::CopySource, bytes: valid, ..touch };
                self.touch_one(number, lane, source, Space::Global, from)?;
            }
            self.touch_one(number, lane, touch, Space::Shared, to)?;
            if let Some(watch) = &mut self.watch {
                let copying = Copying { group: 0, at: touch.at, to, bytes: touch.bytes, from, valid };
                watch.copies(32 * number as u32 + lane, copying);
            }
        }
        Ok(())
    }

    /// Rows of matrices, each of 16 bytes. All lanes of the warp load them: the ISA does not say which loads what.
    pub(in crate::ptx) fn load_matrix_watched(&mut self, number: usize, at: u32, rows: &[u64]) -> Result<(), Fault> {
        let Some(watch) = &mut self.watch else { return Ok(()) };
        let mut all: Vec<super::By> = Vec::new();
        for by in (0..32).map(|lane| watch.order.by(number as u32, lane)) {
            match all.iter_mut().find(|of| of.stamp == by.stamp) {
                Some(of) => of.lanes |= by.lanes,
                None => all.push(by),
            }
        }
        let touch = Touch::new(at, Access::Load, 16);
        let mut each = rows.iter().enumerate().flat_map(|row| all.iter().map(move |by| (row, by)));
        let found = each.find_map(|((lane, &address), &by)| {
            let clash = watch.touch_shared(touch, by, address).err()?;
            Some((lane as u32, Found { clash, space: Space::Shared, address }))
        });
        found.map_or(Ok(()), |(lane, found)| Err(self.found(number, lane, touch, found)))
    }

    /// Lanes of a warp that meet in a `bar.warp.sync`.
    pub(in crate::ptx) fn join_lanes(&mut self, number: usize, lanes: u32) {
        if let Some(watch) = &mut self.watch {
            let threads: Vec<u32> = Lanes(lanes).map(|lane| 32 * number as u32 + lane).collect();
            watch.join(threads.into_iter());
        }
    }

    /// Warps that a barrier lets go on.
    pub(in crate::ptx) fn join_warps(&mut self, id: u32) {
        if let Some(watch) = &mut self.watch {
            let warps = self.warps.iter().filter(|warp| warp.barrier == Some(id));
            let threads: Vec<u32> =
                warps.flat_map(|warp| Lanes(warp.live).map(|lane| 32 * warp.number + lane)).collect();
            watch.join(threads.into_iter());
        }
    }

    /// Lanes that end: all their copies must have been waited for.
    pub(in crate::ptx) fn end_watched(&self, number: usize, lanes: u32) -> Result<(), Fault> {
        let Some(watch) = &self.watch else { return Ok(()) };
        let under_way =
            |lane: u32| watch.copies[32 * number + lane as usize].under_way.first().map(|copy| (lane, copy));
        let Some((lane, copying)) = Lanes(lanes).find_map(under_way) else { return Ok(()) };
        let near = self.memory.near(Space::Shared, copying.to);
        Err(Fault::CopyNeverWaitedFor { place: self.place(number, lane, copying.at), near })
    }

    #[cold]
    fn found(&self, number: usize, lane: u32, touch: Touch, found: Found) -> Fault {
        let place = self.place(number, lane, touch.at);
        let Touch { access, bytes, .. } = touch;
        let near = self.memory.near(found.space, found.address);
        match found.clash {
            Clash::Race(old) => {
                let (other, missing) =
                    (self.place_of(&old), missing(&place, number as u32, &old, &self.place_of(&old)));
                Fault::Race { place, access, bytes, near, other, other_access: old.access, missing }
            }
            Clash::UnderWay(old) => {
                let other = self.place_of(&old);
                Fault::CopyUnderWay { place, access, bytes, near, other }
            }
            Clash::Stale(old) => {
                let (other, other_access) = (self.place_of(&old), old.access);
                Fault::Stale { place, access, bytes, near, other, other_access }
            }
            Clash::Unwritten => Fault::Uninitialised { place, access, bytes, near },
        }
    }

    /// Where an earlier access was.
    fn place_of(&self, record: &Record) -> Box<Place> {
        let [x, y, _] = self.context.grid.map(u64::from);
        let number = record.by.block;
        let mut place = self.place(record.by.warp as usize, record.by.lanes.trailing_zeros(), record.at);
        place.block = [number % x, number / x % y, number / x / y].map(|i| i as u32);
        place
    }
}

impl Touch {
    fn new(at: u32, access: Access, bytes: u8) -> Touch {
        Touch { at, access, bytes: bytes.into(), under_way: false }
    }
}

impl Watch {
    /// Instructions of copies and order that touch no memory.
    fn note(&mut self, op: &Op, number: u32, lanes: u32) {
        for lane in Lanes(lanes) {
            let thread = 32 * number + lane;
            match op {
                Op::Commit => self.commit(thread),
                Op::WaitGroup(newest) => self.wait(self.order.by(number, lane), Some(*newest)),
                Op::WaitAll => self.wait(self.order.by(number, lane), None),
                Op::Fence => self.order.fence(thread),
                _ => {}
            }
        }
    }
}

/// What would order two accesses.
fn missing(place: &Place, warp: u32, old: &Record, other: &Place) -> &'static str {
    match (place.block == other.block, warp == old.by.warp) {
        (true, true) => "order them by a bar.warp.sync (sync_warp) or a barrier; a shuffle or vote orders no memory",
        (true, false) => "order them by a barrier of the block (sync_threads)",
        (false, _) => "order them by fence, atomic and fence, make both atomic, or take another launch",
    }
}
