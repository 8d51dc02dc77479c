//! Instructions that touch memory.

use super::block::{Block, Checked, add};
use super::lanes::Lanes;
use super::memory::{Memory, Trouble};
use super::memory::{Request, addresses, change, read, write};
use super::op::{Address, File, Instruction, NONE, Op, Row, Space, Transfer};
use super::warp::Registers;
use crate::copies::Copy;
use crate::fault::Access;
use crate::schedule::Schedule;

impl Block {
    /// Loads, stores, atomics and copies, by these lanes of a warp.
    #[inline(always)]
    pub(super) fn touch(&mut self, instruction: &Instruction, number: usize, at: u32, lanes: u32) -> Checked<()> {
        let warp = &mut self.warps[number];
        let registers = &mut warp.registers;
        match &instruction.op {
            Op::Load(transfer) => load(&mut self.memory, registers, transfer, at, lanes, number as u32),
            Op::Store(transfer) => store(&mut self.memory, registers, transfer, at, lanes, number as u32),
            Op::CopyAsync { to, from, bytes, valid } => self.copy(number, at, lanes, [*to, *from], *bytes, *valid),
            Op::Atomic { .. } => self.atomic(&instruction.op, number, at, lanes),
            Op::Commit => {
                Lanes(lanes).for_each(|lane| warp.copies[lane as usize].commit());
                Ok(())
            }
            Op::WaitGroup(newest) => {
                Lanes(lanes).for_each(|lane| warp.copies[lane as usize].wait(*newest));
                Ok(())
            }
            Op::WaitAll => {
                Lanes(lanes).for_each(|lane| warp.copies[lane as usize].wait_all());
                Ok(())
            }
            Op::GenericOfShared([d, a]) => {
                let values = registers.double(*a).map(|address| self.memory.generic_of_shared(address));
                registers.set_double(*d, lanes, &values);
                Ok(())
            }
            Op::SharedOfGeneric([d, a]) => {
                let values = registers.double(*a).map(|address| self.memory.shared_of_generic(address));
                registers.set_double(*d, lanes, &values);
                Ok(())
            }
            Op::Fence => {
                std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
                Ok(())
            }
            // Lane by lane, or taken by `step`.
            _ => Ok(()),
        }
    }

    fn atomic(&mut self, op: &Op, number: usize, at: u32, lanes: u32) -> Checked<()> {
        let Op::Atomic { what, space, bytes, d, b, c, at: address } = op else {
            return Ok(());
        };
        let registers = &mut self.warps[number].registers;
        let places = addresses(registers, *address);
        let access = if *space == Space::Global { Access::StoreGlobal } else { Access::Store };
        let request = Request { at, space: *space, access, bytes: u32::from(*bytes) };
        let operand = |registers: &Registers, row: Row, lane: usize| match (row, bytes) {
            (NONE, _) => 0,
            (row, 8) => registers.double(row)[lane],
            (row, _) => registers.word(row)[lane].into(),
        };
        let mut old = [0; 32];
        for lane in Lanes(lanes) {
            let i = lane as usize;
            let place = self.memory.reach(request, places[i], 32 * number as u32 + lane).map_err(|bad| (lane, bad))?;
            let (b, c) = (operand(registers, *b, i), operand(registers, *c, i));
            // SAFETY: `reach` found so many aligned, writable bytes of a live buffer or of shared memory.
            old[i] = unsafe { change(place, *bytes, *what, b, c) };
        }
        if *d != NONE && *bytes == 8 {
            registers.set_double(*d, lanes, &old);
        } else if *d != NONE {
            registers.set_word(*d, lanes, &old.map(|old| old as u32));
        }
        Ok(())
    }

    fn copy(
        &mut self,
        number: usize,
        at: u32,
        lanes: u32,
        [to, from]: [Address; 2],
        bytes: u8,
        valid: Row,
    ) -> Checked<()> {
        let registers = &self.warps[number].registers;
        let (targets, sources) = (addresses(registers, to), addresses(registers, from));
        let valid = if valid == NONE { [u32::from(bytes); 32] } else { *registers.word(valid) };
        for lane in Lanes(lanes) {
            let i = lane as usize;
            let with_lane = |trouble| (lane, trouble);
            let size = u32::from(bytes);
            if valid[i] > size {
                let what = format!("cp.async of {size} bytes with a source of {}", valid[i]);
                return Err((lane, Trouble::Undefined(what)));
            }
            let shared = self.memory.reach_shared(at, "cp.async", targets[i], size).map_err(with_lane)?;
            let from = self.memory.source(sources[i], size, valid[i]).map_err(with_lane)?;
            let copy = Copy { shared, from, bytes: size as usize, valid: valid[i] as usize };
            if self.lands_at_once() {
                copy.land();
            } else {
                self.warps[number].copies[i].add(copy);
            }
        }
        add(&self.counts.copies, lanes.count_ones().into());
        Ok(())
    }

    fn lands_at_once(&mut self) -> bool {
        self.context.schedule != Schedule::RoundRobin && self.random.next().is_multiple_of(2)
    }
}

impl Memory {
    /// The source of an asynchronous copy: aligned as the whole, though only its first bytes are read.
    fn source(&self, address: u64, bytes: u32, valid: u32) -> Result<*const u8, Trouble> {
        if !address.is_multiple_of(bytes.into()) {
            let what = Access::CopySource.to_string();
            return Err(Trouble::Misaligned { what, address, align: bytes });
        }
        self.reach_bytes(address, valid)
    }
}

#[inline(always)]
fn load(
    memory: &mut Memory,
    registers: &mut Registers,
    transfer: &Transfer,
    at: u32,
    lanes: u32,
    warp: u32,
) -> Checked<()> {
    let Transfer { space, read_only, cell, count, rows, at: address } = *transfer;
    let places = addresses(registers, address);
    let access = if read_only { Access::LoadReadOnly } else { Access::Load };
    let request = Request { at, space, access, bytes: u32::from(cell.bytes) * u32::from(count) };
    let mut pointers = [std::ptr::null_mut(); 32];
    for lane in Lanes(lanes) {
        let reached = memory.reach(request, places[lane as usize], 32 * warp + lane);
        pointers[lane as usize] = reached.map_err(|trouble| (lane, trouble))?;
    }
    for (i, &row) in rows.iter().enumerate().take(count.into()) {
        for lane in Lanes(lanes) {
            let from = pointers[lane as usize].wrapping_add(i * usize::from(cell.bytes));
            // SAFETY: `reach` found the whole vector, aligned, in live memory; this is one of its elements.
            let raw = unsafe { read(from, cell.bytes) };
            let value = if cell.signed { extended(raw, cell.bytes) } else { raw };
            match cell.file {
                File::Doubles => registers.doubles[row as usize][lane as usize] = value,
                _ if cell.half => registers.words[row as usize][lane as usize] = value as u32 & 0xFFFF,
                _ => registers.words[row as usize][lane as usize] = value as u32,
            }
        }
    }
    Ok(())
}

#[inline(always)]
fn store(
    memory: &mut Memory,
    registers: &mut Registers,
    transfer: &Transfer,
    at: u32,
    lanes: u32,
    warp: u32,
) -> Checked<()> {
    let Transfer { space, cell, count, rows, at: address, .. } = *transfer;
    let places = addresses(registers, address);
    let access = if space == Space::Global { Access::StoreGlobal } else { Access::Store };
    let request = Request { at, space, access, bytes: u32::from(cell.bytes) * u32::from(count) };
    for lane in Lanes(lanes) {
        let reached = memory.reach(request, places[lane as usize], 32 * warp + lane);
        let to = reached.map_err(|trouble| (lane, trouble))?;
        for (i, &row) in rows.iter().enumerate().take(count.into()) {
            let value = match cell.file {
                File::Doubles => registers.double(row)[lane as usize],
                _ => registers.word(row)[lane as usize].into(),
            };
            let to = to.wrapping_add(i * usize::from(cell.bytes));
            // SAFETY: `reach` found the whole vector, aligned, in live writable memory; this is one of its elements.
            unsafe { write(to, cell.bytes, value) };
        }
    }
    Ok(())
}

/// A number of so many bytes with its sign.
fn extended(value: u64, bytes: u8) -> u64 {
    let shift = 64 - 8 * u32::from(bytes);
    ((value << shift) as i64 >> shift) as u64
}
