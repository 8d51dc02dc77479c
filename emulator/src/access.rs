//! Which memory a thread may touch. The fast path is in C++ (`check` in `emulator.hpp`); here is what it falls back on.

use std::sync::Arc;

use crate::block::Block;
use crate::fault::{Access, Fault, Near};
use crate::memory::Region;
use crate::thread::{Range, Site};

/// Addresses further than this from a buffer are not blamed on it.
const NEAR: usize = 1 << 20;

unsafe extern "C" {
    fn twofour_emulator_in_image(address: usize, image: *mut Image) -> bool;
}

/// A loaded part of a program or library. Mirrors `Image` in `runtime/runtime.cpp`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Image {
    /// The part's addresses.
    pub(crate) range: Range,
    /// What to subtract from an address to find it in the file.
    pub(crate) base: usize,
}

impl Image {
    /// The image that holds an address.
    pub(crate) fn of(address: usize) -> Option<Image> {
        let mut image = Image::default();
        // SAFETY: the pointer is to a local that C++ fills in before it returns.
        let found = unsafe { twofour_emulator_in_image(address, &raw mut image) };
        found.then_some(image)
    }
}

impl Access {
    /// Mirrors `Access` in `include/emulator.hpp`.
    pub(crate) fn from_cxx(number: u32) -> Access {
        match number {
            0 => Access::Load,
            1 => Access::LoadReadOnly,
            2 => Access::Store,
            3 => Access::StoreGlobal,
            _ => Access::CopySource,
        }
    }

    fn stores(self) -> bool {
        matches!(self, Access::Store | Access::StoreGlobal)
    }

    /// Plain accesses reach any memory; the others are instructions for global memory.
    fn reaches_anything(self) -> bool {
        matches!(self, Access::Load | Access::Store)
    }
}

/// One access as the kernel asks for it.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub(crate) address: usize,
    pub(crate) bytes: u32,
    pub(crate) align: u32,
    pub(crate) access: Access,
    pub(crate) site: Site,
}

impl Block {
    /// The memory around the access if it is allowed, the fault if not.
    pub(crate) fn allow(&self, thread: usize, request: Request) -> Result<Range, Fault> {
        let Request { address, bytes, align, access, site } = request;
        if !address.is_multiple_of(align as usize) {
            let place = self.place(thread, site);
            return Err(Fault::Misaligned { place, what: access.to_string(), address: address as u64, align });
        }
        if bytes == 0 {
            return Ok(Range::default());
        }
        if let Some(region) = self.region_of(address, bytes as usize) {
            if region.read_only && access.stores() {
                return Err(Fault::ReadOnly { place: self.place(thread, site), access, near: near(region, address) });
            }
            return Ok(region.mapping.bytes());
        }
        self.other_memory(thread, request).ok_or_else(|| Fault::OutOfBounds {
            place: self.place(thread, site),
            access,
            address: address as u64,
            bytes: Some(bytes),
            near: self.near(address),
        })
    }

    /// Shared memory, the thread's own stack and the program's constant tables.
    fn other_memory(&self, thread: usize, request: Request) -> Option<Range> {
        let holds = |range: &Range| range.contains(request.address, request.bytes as usize);
        let own = [self.shared.dynamic(), self.shared.fixed(), self.fibers[thread].stack.get()];
        if request.access.reaches_anything() {
            if let Some(range) = own.iter().copied().find(holds) {
                return Some(range);
            }
        } else if own.iter().any(holds) {
            return None;
        }
        if request.access.stores() {
            return None;
        }
        Image::of(request.address).map(|image| image.range).filter(holds)
    }

    /// The buffer that holds all these bytes.
    pub(crate) fn region_of(&self, address: usize, bytes: usize) -> Option<&Region> {
        region_of(&self.context.regions, address, bytes).map(|region| &**region)
    }

    /// The closest memory to an address that is outside of everything.
    pub(crate) fn near(&self, address: usize) -> Near {
        let dynamic = self.shared.dynamic();
        if self.shared.whole().contains(address, 1) {
            let offset = address as i64 - dynamic.start as i64;
            return Near::DynamicShared { bytes: (dynamic.end - dynamic.start) as u64, offset };
        }
        if self.shared.fixed().contains(address, 1) {
            return Near::StaticShared;
        }
        near_buffer(&self.context.regions, address)
    }
}

/// The buffer that holds all these bytes, among those given lowest address first.
pub(crate) fn region_of(regions: &[Arc<Region>], address: usize, bytes: usize) -> Option<&Arc<Region>> {
    let after = regions.partition_point(|region| region.mapping.bytes().start <= address);
    let region = regions.get(after.checked_sub(1)?)?;
    region.mapping.bytes().contains(address, bytes).then_some(region)
}

/// The closest buffer to an address that is outside of all.
pub(crate) fn near_buffer(regions: &[Arc<Region>], address: usize) -> Near {
    let distance = |region: &Region| {
        let bytes = region.mapping.bytes();
        bytes.start.saturating_sub(address).max(address.saturating_sub(bytes.end))
    };
    let closest = regions.iter().min_by_key(|region| distance(region));
    closest.filter(|region| distance(region) < NEAR).map_or(Near::Nothing, |region| near(region, address))
}

/// Where an address is, counted from a buffer's start.
pub(crate) fn near(region: &Region, address: usize) -> Near {
    let bytes = region.mapping.bytes();
    Near::Buffer {
        name: region.name(),
        bytes: (bytes.end - bytes.start) as u64,
        offset: address as i64 - bytes.start as i64,
    }
}
