//! The state spaces as one block sees them: where an address leads, whether it may be used so, and the bytes there.
//!
//! Generic addresses and those of global and constant memory are addresses of this process. Shared memory, parameters
//! and local memory have windows of their own, so that an address of one space in another is found out.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

use super::lanes::{Doubles, each};
use super::module::Entry;
use super::op::{Address, Atomic, File, LOCAL, PARAMS, SHARED, Space};
use super::warp::Registers;
use crate::access::{near, near_buffer, region_of};
use crate::fault::{Access, Near};
use crate::mapping::Mapping;
use crate::memory::Region;

/// One byte of a NaN of every float type.
const POISON: u8 = 0xFF;

/// Where the last access of an instruction led: the next is mostly there as well.
#[derive(Clone, Copy, Default)]
struct Found {
    /// The instruction, plus one.
    key: u32,
    writable: bool,
    start: u64,
    end: u64,
    /// From an address to that of this process.
    shift: u64,
}

const REMEMBERED: usize = 64;

/// What is wrong with an access.
pub(super) enum Trouble {
    OutOfBounds { access: Access, address: u64, bytes: u32, near: Near },
    ReadOnly { access: Access, near: Near },
    Misaligned { what: String, address: u64, align: u32 },
    NotShared { what: &'static str, address: u64, bytes: u32, near: Near },
    Undefined(String),
}

/// One access, but for its address.
#[derive(Clone, Copy)]
pub(super) struct Request {
    /// The instruction's number.
    pub(super) at: u32,
    pub(super) space: Space,
    pub(super) access: Access,
    pub(super) bytes: u32,
}

pub(super) struct Memory {
    entry: Arc<Entry>,
    regions: Arc<[Arc<Region>]>,
    shared: Mapping,
    dynamic_bytes: u64,
    args: Vec<u128>,
    local: Vec<u128>,
    found: [Found; REMEMBERED],
}

impl Memory {
    pub(super) fn new(
        entry: &Arc<Entry>,
        regions: &Arc<[Arc<Region>]>,
        dynamic_bytes: u32,
        args: &[u128],
        threads: u32,
    ) -> std::io::Result<Memory> {
        let shared = Mapping::new(entry.shared_bytes(dynamic_bytes) as usize, 1024)?;
        let local = vec![0; (entry.local_bytes.div_ceil(16) * u64::from(threads)) as usize];
        Ok(Memory {
            entry: Arc::clone(entry),
            regions: Arc::clone(regions),
            shared,
            dynamic_bytes: dynamic_bytes.into(),
            args: args.to_vec(),
            local,
            found: [Found::default(); REMEMBERED],
        })
    }

    /// Before each block: what it finds is undefined on a GPU, and NaNs here.
    pub(super) fn start(&mut self) {
        self.shared.fill(POISON);
        self.local.fill(u128::MAX);
    }

    /// Where an access leads in this process, if it is allowed there. Local memory is `thread`'s.
    #[inline(always)]
    pub(super) fn reach(&mut self, request: Request, address: u64, thread: u32) -> Result<*mut u8, Trouble> {
        let found = &self.found[request.at as usize % REMEMBERED];
        let bytes = u64::from(request.bytes);
        let inside = address >= found.start && address < found.end && bytes <= found.end - address;
        let allowed = found.writable || !stores(request.access);
        if found.key == request.at + 1 && inside && allowed && address & (bytes - 1) == 0 {
            return Ok(address.wrapping_add(found.shift) as *mut u8);
        }
        self.search(request, address, thread)
    }

    #[cold]
    #[inline(never)]
    fn search(&mut self, request: Request, address: u64, thread: u32) -> Result<*mut u8, Trouble> {
        let Request { at, space, access, bytes } = request;
        if !address.is_multiple_of(u64::from(bytes)) {
            return Err(Trouble::Misaligned { what: access.to_string(), address, align: bytes });
        }
        let found = match space {
            Space::Shared => self.find_shared(address, bytes),
            Space::Param => self.find_param(address, bytes),
            Space::Local => return self.find_local(request, address, thread),
            Space::Generic => self.find_generic(address, bytes),
            Space::Global | Space::Const => self.find_global(address, bytes),
        };
        let Some(found) = found else {
            let near = self.near(space, address);
            return Err(Trouble::OutOfBounds { access, address, bytes, near });
        };
        if stores(access) && !found.writable {
            return Err(Trouble::ReadOnly { access, near: self.near(space, address) });
        }
        self.found[at as usize % REMEMBERED] = Found { key: at + 1, ..found };
        Ok(address.wrapping_add(found.shift) as *mut u8)
    }

    /// The variable of shared memory that holds all these bytes.
    fn find_shared(&self, address: u64, bytes: u32) -> Option<Found> {
        let shift = (self.shared.bytes().start as u64).wrapping_sub(SHARED);
        let (start, end) = self.shared_range(address)?;
        let inside = u64::from(bytes) <= end.saturating_sub(address);
        inside.then_some(Found { key: 0, writable: true, start, end, shift })
    }

    /// The first and last address of the variable that an address is in.
    fn shared_range(&self, address: u64) -> Option<(u64, u64)> {
        let ranges = self
            .entry
            .shared
            .iter()
            .map(|variable| (variable.address, variable.address + variable.bytes.unwrap_or(self.dynamic_bytes)));
        ranges.into_iter().find(|&(start, end)| (start..end).contains(&address))
    }

    fn find_param(&self, address: u64, bytes: u32) -> Option<Found> {
        let (start, end) = (PARAMS, PARAMS + self.entry.args_size as u64);
        let inside = (start..end).contains(&address) && u64::from(bytes) <= end - address;
        let shift = (self.args.as_ptr() as u64).wrapping_sub(PARAMS);
        inside.then_some(Found { key: 0, writable: false, start, end, shift })
    }

    /// Each thread has its own, so that it is not remembered.
    fn find_local(&mut self, request: Request, address: u64, thread: u32) -> Result<*mut u8, Trouble> {
        let (start, end) = (LOCAL, LOCAL + self.entry.local_bytes);
        if !(start..end).contains(&address) || u64::from(request.bytes) > end - address {
            let near = Near::Nothing;
            return Err(Trouble::OutOfBounds { access: request.access, address, bytes: request.bytes, near });
        }
        let own = u64::from(thread) * self.entry.local_bytes.next_multiple_of(16);
        Ok((self.local.as_mut_ptr() as u64 + own + address - LOCAL) as *mut u8)
    }

    fn find_generic(&self, address: u64, bytes: u32) -> Option<Found> {
        let own = self.shared.bytes();
        if own.contains(address as usize, 1) {
            let shift = (own.start as u64).wrapping_sub(SHARED);
            let found = self.find_shared(address.wrapping_sub(shift), bytes)?;
            let (start, end) = (found.start.wrapping_add(shift), found.end.wrapping_add(shift));
            return Some(Found { start, end, shift: 0, ..found });
        }
        self.find_global(address, bytes)
    }

    fn find_global(&self, address: u64, bytes: u32) -> Option<Found> {
        let region = region_of(&self.regions, address as usize, bytes as usize)?;
        let range = region.mapping.bytes();
        Some(Found { key: 0, writable: !region.read_only, start: range.start as u64, end: range.end as u64, shift: 0 })
    }

    /// What an address outside of everything is close to.
    pub(super) fn near(&self, space: Space, address: u64) -> Near {
        match (space, self.in_shared(address)) {
            (Space::Shared, _) => self.near_shared(address),
            (Space::Generic, Some(address)) => self.near_shared(address),
            (Space::Param | Space::Local, _) => Near::Nothing,
            _ => match region_of(&self.regions, address as usize, 1) {
                Some(region) => near(region, address as usize),
                None => near_buffer(&self.regions, address as usize),
            },
        }
    }

    fn near_shared(&self, address: u64) -> Near {
        let before = self.entry.shared.iter().filter(|variable| variable.address <= address);
        before.max_by_key(|variable| variable.address).map_or(Near::Nothing, |variable| Near::Shared {
            name: variable.name.clone(),
            bytes: variable.bytes.unwrap_or(self.dynamic_bytes),
            offset: (address - variable.address) as i64,
        })
    }

    /// Where `bytes` of shared memory are, for an instruction that takes nothing else.
    pub(super) fn reach_shared(
        &mut self,
        at: u32,
        what: &'static str,
        address: u64,
        bytes: u32,
    ) -> Result<*mut u8, Trouble> {
        let request = Request { at, space: Space::Shared, access: Access::Load, bytes };
        self.reach(request, address, 0).map_err(|trouble| match trouble {
            Trouble::OutOfBounds { near, .. } => Trouble::NotShared { what, address, bytes, near },
            Trouble::Misaligned { address, align, .. } => Trouble::Misaligned { what: what.to_owned(), address, align },
            other => other,
        })
    }

    /// Where `bytes` of global memory are, of any number and alignment: the source of an asynchronous copy.
    pub(super) fn reach_bytes(&self, address: u64, bytes: u32) -> Result<*const u8, Trouble> {
        if bytes == 0 || self.find_global(address, bytes).is_some() {
            return Ok(address as *const u8);
        }
        let access = Access::CopySource;
        Err(Trouble::OutOfBounds { access, address, bytes, near: self.near(Space::Global, address) })
    }

    /// Generic addresses of shared ones, and back.
    pub(super) fn generic_of_shared(&self, address: u64) -> u64 {
        address.wrapping_sub(SHARED).wrapping_add(self.shared.bytes().start as u64)
    }

    /// The address in the window of shared memory, if a generic one leads there.
    pub(super) fn in_shared(&self, address: u64) -> Option<u64> {
        self.shared.bytes().contains(address as usize, 1).then(|| self.shared_of_generic(address))
    }

    pub(super) fn shared_of_generic(&self, address: u64) -> u64 {
        address.wrapping_sub(self.shared.bytes().start as u64).wrapping_add(SHARED)
    }
}

fn stores(access: Access) -> bool {
    matches!(access, Access::Store | Access::StoreGlobal)
}

/// The addresses of all lanes. Those in 32-bit registers wrap around as the register does.
#[inline(always)]
pub(super) fn addresses(registers: &Registers, at: Address) -> Doubles {
    match at.file {
        File::Doubles => {
            let base = registers.double(at.row);
            each(|i| base[i].wrapping_add(at.offset as u64))
        }
        _ => {
            let base = registers.word(at.row);
            each(|i| u64::from(base[i].wrapping_add(at.offset as u32)))
        }
    }
}

/// Reads 1, 2, 4 or 8 bytes.
///
/// # Safety
///
/// `from` is live memory of so many bytes, aligned to them, that is touched in no other way than by this module while
/// blocks run.
#[inline(always)]
pub(super) unsafe fn read(from: *mut u8, bytes: u8) -> u64 {
    match bytes {
        // SAFETY: the caller's promise, as for the other sizes.
        1 => u64::from(unsafe { AtomicU8::from_ptr(from) }.load(Relaxed)),
        // SAFETY: as above.
        2 => u64::from(unsafe { AtomicU16::from_ptr(from.cast()) }.load(Relaxed)),
        // SAFETY: as above.
        4 => u64::from(unsafe { AtomicU32::from_ptr(from.cast()) }.load(Relaxed)),
        // SAFETY: as above.
        _ => unsafe { AtomicU64::from_ptr(from.cast()) }.load(Relaxed),
    }
}

/// Writes 1, 2, 4 or 8 bytes.
///
/// # Safety
///
/// As for [`read`], and the memory is writable.
#[inline(always)]
pub(super) unsafe fn write(to: *mut u8, bytes: u8, value: u64) {
    match bytes {
        // SAFETY: the caller's promise, as for the other sizes.
        1 => unsafe { AtomicU8::from_ptr(to) }.store(value as u8, Relaxed),
        // SAFETY: as above.
        2 => unsafe { AtomicU16::from_ptr(to.cast()) }.store(value as u16, Relaxed),
        // SAFETY: as above.
        4 => unsafe { AtomicU32::from_ptr(to.cast()) }.store(value as u32, Relaxed),
        // SAFETY: as above.
        _ => unsafe { AtomicU64::from_ptr(to.cast()) }.store(value, Relaxed),
    }
}

/// Changes 4 or 8 bytes at once, and gives what they were.
///
/// # Safety
///
/// As for [`write`].
pub(super) unsafe fn change(at: *mut u8, bytes: u8, what: Atomic, b: u64, c: u64) -> u64 {
    if bytes == 8 {
        // SAFETY: the caller's promise.
        let cell = unsafe { AtomicU64::from_ptr(at.cast()) };
        let changed = cell.fetch_update(Relaxed, Relaxed, |old| Some(changed_double(what, old, b, c)));
        return changed.unwrap_or_else(|old| old);
    }
    // SAFETY: the caller's promise.
    let cell = unsafe { AtomicU32::from_ptr(at.cast()) };
    let changed = cell.fetch_update(Relaxed, Relaxed, |old| Some(changed_word(what, old, b as u32, c as u32)));
    changed.unwrap_or_else(|old| old).into()
}

fn changed_word(what: Atomic, old: u32, b: u32, c: u32) -> u32 {
    match what {
        Atomic::Add => old.wrapping_add(b),
        // Atomic additions of floats to global memory keep subnormals.
        Atomic::AddF => super::scalar::float2(old, b, |a, b| a + b),
        Atomic::MinU => old.min(b),
        Atomic::MaxU => old.max(b),
        Atomic::MinS => (old as i32).min(b as i32) as u32,
        Atomic::MaxS => (old as i32).max(b as i32) as u32,
        Atomic::And => old & b,
        Atomic::Or => old | b,
        Atomic::Xor => old ^ b,
        Atomic::Exchange => b,
        Atomic::CompareAndSwap => {
            if old == b {
                c
            } else {
                old
            }
        }
    }
}

fn changed_double(what: Atomic, old: u64, b: u64, c: u64) -> u64 {
    match what {
        Atomic::Add => old.wrapping_add(b),
        Atomic::AddF => super::scalar::double2(old, b, |a, b| a + b),
        Atomic::MinU => old.min(b),
        Atomic::MaxU => old.max(b),
        Atomic::MinS => (old as i64).min(b as i64) as u64,
        Atomic::MaxS => (old as i64).max(b as i64) as u64,
        Atomic::And => old & b,
        Atomic::Or => old | b,
        Atomic::Xor => old ^ b,
        Atomic::Exchange => b,
        Atomic::CompareAndSwap => {
            if old == b {
                c
            } else {
                old
            }
        }
    }
}
