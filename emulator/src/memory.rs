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
    written: Mutex<Written>,
}

/// Which bytes of a buffer have been written.
enum Written {
    All,
    /// Four bits for each 4 bytes; none are written beyond the end.
    Some(Vec<u8>),
}

impl Region {
    /// Counts all of it as written, by what does not say which bytes it writes.
    pub(crate) fn write_all(&self) {
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = Written::All;
    }

    /// For `count` words from the `first` on, counted from the start: a bit for each byte that has been written.
    pub(crate) fn written(&self, first: usize, count: usize) -> Vec<u8> {
        match &*self.written.lock().unwrap_or_else(PoisonError::into_inner) {
            Written::All => vec![0xF; count],
            Written::Some(words) => (first..first + count).map(|i| words.get(i).copied().unwrap_or(0)).collect(),
        }
    }

    /// Counts these bytes as written, too.
    pub(crate) fn add_written(&self, first: usize, bits: impl ExactSizeIterator<Item = u8>) {
        if let Written::Some(words) = &mut *self.written.lock().unwrap_or_else(PoisonError::into_inner) {
            words.resize(words.len().max(first + bits.len()), 0);
            words[first..].iter_mut().zip(bits).for_each(|(word, bits)| *word |= bits);
        }
    }

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

/// Counts bytes of a buffer as written, which the host has written past it: a watched launch may load them.
pub fn written(address: u64, bytes: usize) {
    let start = address as usize;
    let Some(end) = start.checked_add(bytes) else { return };
    let regions = REGIONS.read().unwrap_or_else(PoisonError::into_inner);
    let region = regions.range(..=start).next_back().map(|(_, region)| (region, region.mapping.bytes()));
    if let Some((region, range)) = region.filter(|(_, range)| start < end && end <= range.end) {
        let (start, end) = (start - range.start, end - range.start);
        let bits = |word: usize| (0..4).filter(|i| (start..end).contains(&(4 * word + i))).fold(0, |b, i| b | 1 << i);
        let words = start / 4..end.div_ceil(4);
        region.add_written(words.start, words.map(bits));
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
        Buffer::new(name, &to_bytes(values), true, Written::All)
    }

    /// An output of `count` elements, every byte 0xFF: read as a float it is NaN. It counts as not written.
    pub fn output<T: Element>(name: &str, count: usize) -> Result<Buffer, Fault> {
        Buffer::new(name, &vec![POISON; count * size_of::<T>()], false, Written::Some(Vec::new()))
    }

    /// A buffer that the kernel reads and writes.
    pub fn in_place<T: Element>(name: &str, values: &[T]) -> Result<Buffer, Fault> {
        Buffer::new(name, &to_bytes(values), false, Written::All)
    }

    /// A writable buffer of zeros that takes memory only where it is touched: for tensors larger than the machine, of
    /// which a few blocks are run ([`Options::blocks`](crate::Options::blocks)).
    pub fn reserve(name: &str, bytes: usize) -> Result<Buffer, Fault> {
        Buffer::register(name, Buffer::map(bytes, Mapping::reserved)?, false, Written::All)
    }

    fn new(name: &str, bytes: &[u8], read_only: bool, written: Written) -> Result<Buffer, Fault> {
        let mapping = Buffer::map(bytes.len(), Mapping::new)?;
        mapping.write(bytes);
        if read_only {
            mapping.make_read_only().map_err(|source| Fault::Host { what: "protect a buffer", source })?;
        }
        Buffer::register(name, mapping, read_only, written)
    }

    fn map(bytes: usize, new: fn(usize, usize) -> io::Result<Mapping>) -> Result<Mapping, Fault> {
        let mapping = new(bytes, ALIGN).map_err(|source| Fault::Host { what: "map a buffer", source })?;
        mapping.fill_slack();
        Ok(mapping)
    }

    fn register(name: &str, mapping: Mapping, read_only: bool, written: Written) -> Result<Buffer, Fault> {
        let start = mapping.bytes().start;
        let region =
            Arc::new(Region { name: Mutex::new(name.to_owned()), mapping, read_only, written: Mutex::new(written) });
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

    /// Sets every byte, and counts it as written. An input stays as it is.
    pub fn fill(&self, byte: u8) {
        if !self.region.read_only {
            self.region.write_all();
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
