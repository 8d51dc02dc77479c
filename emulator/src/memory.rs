//! Buffers: the emulated GPU's global memory.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::element::{from_bytes, to_bytes};
use crate::mapping::Mapping;
use crate::{Element, Fault};

/// One byte of a NaN of every float type: fresh outputs are full of it.
const POISON: u8 = 0xFF;

/// What a 16-byte access needs, and no more: a larger alignment would leave more unguarded bytes at the end.
const ALIGN: usize = 16;

/// A buffer's memory and name, shared with the launches that run.
pub(crate) struct Region {
    name: Mutex<String>,
    pub(crate) mapping: Mapping,
    pub(crate) read_only: bool,
}

impl Region {
    pub(crate) fn name(&self) -> String {
        self.name.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The live buffers by address.
static REGIONS: RwLock<BTreeMap<usize, Arc<Region>>> = RwLock::new(BTreeMap::new());

/// The live buffers, lowest address first.
pub(crate) fn regions() -> Vec<Arc<Region>> {
    REGIONS.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
}

/// Gives the buffer that begins at this address another name, if there is one: what a launch calls it.
pub fn rename(address: u64, name: &str) {
    let regions = REGIONS.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(region) = regions.get(&(address as usize)) {
        name.clone_into(&mut region.name.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Memory that kernels can reach, with a name for messages, between guard pages.
///
/// Its address is a multiple of 16. Kernels see its exact bounds; after the launch it can be read back.
pub struct Buffer {
    region: Arc<Region>,
}

impl Buffer {
    /// An input: a store to it is a fault.
    pub fn input<T: Element>(name: &str, values: &[T]) -> Result<Buffer, Fault> {
        Buffer::new(name, &to_bytes(values), true)
    }

    /// An output of `count` elements, every byte 0xFF: read as a float it is NaN.
    pub fn output<T: Element>(name: &str, count: usize) -> Result<Buffer, Fault> {
        Buffer::new(name, &vec![POISON; count * size_of::<T>()], false)
    }

    /// A buffer that the kernel reads and writes.
    pub fn in_place<T: Element>(name: &str, values: &[T]) -> Result<Buffer, Fault> {
        Buffer::new(name, &to_bytes(values), false)
    }

    /// A writable buffer of zeros that takes memory only where it is touched: for tensors larger than the machine, of
    /// which a few blocks are run ([`Options::blocks`](crate::Options::blocks)).
    pub fn reserve(name: &str, bytes: usize) -> Result<Buffer, Fault> {
        Buffer::register(name, Buffer::map(bytes, Mapping::reserved)?, false)
    }

    fn new(name: &str, bytes: &[u8], read_only: bool) -> Result<Buffer, Fault> {
        let mapping = Buffer::map(bytes.len(), Mapping::new)?;
        mapping.write(bytes);
        if read_only {
            mapping.make_read_only().map_err(|source| Fault::Host { what: "protect a buffer", source })?;
        }
        Buffer::register(name, mapping, read_only)
    }

    fn map(bytes: usize, new: fn(usize, usize) -> io::Result<Mapping>) -> Result<Mapping, Fault> {
        let mapping = new(bytes, ALIGN).map_err(|source| Fault::Host { what: "map a buffer", source })?;
        mapping.fill_slack();
        Ok(mapping)
    }

    fn register(name: &str, mapping: Mapping, read_only: bool) -> Result<Buffer, Fault> {
        let start = mapping.bytes().start;
        let region = Arc::new(Region { name: Mutex::new(name.to_owned()), mapping, read_only });
        REGIONS.write().unwrap_or_else(PoisonError::into_inner).insert(start, Arc::clone(&region));
        Ok(Buffer { region })
    }

    /// The address that a kernel's arguments carry.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.region.mapping.bytes().start as u64
    }

    /// Bytes in the buffer.
    #[must_use]
    pub fn len(&self) -> usize {
        let bytes = self.region.mapping.bytes();
        bytes.end - bytes.start
    }

    /// Has it no bytes?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name it was given last.
    #[must_use]
    pub fn name(&self) -> String {
        self.region.name()
    }

    /// A copy of the contents.
    #[must_use]
    pub fn values<T: Element>(&self) -> Vec<T> {
        from_bytes(&self.region.mapping.read(0, self.len()))
    }

    /// A copy of `count` elements from the byte `offset` on, fewer if the buffer ends before.
    #[must_use]
    pub fn values_at<T: Element>(&self, offset: usize, count: usize) -> Vec<T> {
        from_bytes(&self.region.mapping.read(offset, count.saturating_mul(size_of::<T>())))
    }

    /// Sets every byte. An input stays as it is.
    pub fn fill(&self, byte: u8) {
        if !self.region.read_only {
            self.region.mapping.fill(byte);
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let start = self.region.mapping.bytes().start;
        REGIONS.write().unwrap_or_else(PoisonError::into_inner).remove(&start);
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({}, {} bytes at {:#x})", self.name(), self.len(), self.address())
    }
}
