//! Memory between two guards, for buffers and for dynamic shared memory.
//!
//! ```text
//! | no access, 1 MiB | slack | the bytes asked for | slack | no access, 1 MiB |
//! ```
//!
//! The bytes end as close to the upper guard as their alignment allows. The slack is what is left of whole pages; it
//! holds a pattern, so that a store there is noticed later.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use crate::thread::Range;
use crate::touched::{self, Touched};

const GUARD: usize = 1 << 20;
const SLACK: u8 = 0xFB;

pub(crate) struct Mapping {
    whole: Range,
    pages: Range,
    bytes: Range,
    /// What is under the pages of a reserved one, and tells which were touched.
    file: Option<File>,
}

/// The system's page; more than that would do no harm.
pub(crate) fn page_size() -> usize {
    // SAFETY: sysconf only reads a number.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(1 << 16)
}

impl Mapping {
    /// `len` bytes, the first aligned to `align` (a power of two up to a page), all of them zero.
    pub(crate) fn new(len: usize, align: usize) -> io::Result<Mapping> {
        let page = page_size();
        let too_long = || io::Error::from(io::ErrorKind::OutOfMemory);
        let payload = len.checked_next_multiple_of(align).ok_or_else(too_long)?;
        let pages = payload.checked_next_multiple_of(page).ok_or_else(too_long)?;
        let total = pages.checked_add(2 * GUARD).ok_or_else(too_long)?;
        let start = map_without_access(total)?;
        let pages = Range { start: start + GUARD, end: start + GUARD + pages };
        let first = pages.end - payload;
        let mapping = Mapping {
            whole: Range { start, end: start + total },
            pages,
            bytes: Range { start: first, end: first + len },
            file: None,
        };
        mapping.protect(libc::PROT_READ | libc::PROT_WRITE)?;
        Ok(mapping)
    }

    /// The same, for more bytes than there is memory: it takes memory only where it is touched.
    pub(crate) fn reserved(len: usize, align: usize) -> io::Result<Mapping> {
        let mut mapping = Mapping::new(len, align)?;
        let pages = mapping.pages;
        if cfg!(target_os = "linux") && pages.start != pages.end {
            let (file, len) = (touched::file(pages.end - pages.start)?, pages.end - pages.start);
            let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_NORESERVE);
            let (start, fixed) = (pages.start as *mut libc::c_void, flags | libc::MAP_FIXED);
            // SAFETY: what is replaced are whole pages of this object's own mapping, to which nothing refers yet.
            let at = unsafe { libc::mmap(start, len, access, fixed, file.as_raw_fd(), 0) };
            if at == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            mapping.file = Some(file);
        }
        Ok(mapping)
    }

    /// The bytes asked for.
    pub(crate) fn bytes(&self) -> Range {
        self.bytes
    }

    /// The bytes asked for and the guards around them.
    pub(crate) fn whole(&self) -> Range {
        self.whole
    }

    /// From now on a store to it is a segmentation fault.
    pub(crate) fn make_read_only(&self) -> io::Result<()> {
        self.protect(libc::PROT_READ)
    }

    fn protect(&self, protection: libc::c_int) -> io::Result<()> {
        let pages = self.pages;
        if pages.start == pages.end {
            return Ok(());
        }
        let start = pages.start as *mut libc::c_void;
        // SAFETY: `pages` is the middle of this object's own mapping, in whole pages.
        let result = unsafe { libc::mprotect(start, pages.end - pages.start, protection) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Sets every byte to `value`.
    pub(crate) fn fill(&self, value: u8) {
        fill(self.bytes, value);
    }

    /// Copies `source` to the start; what does not fit is left out.
    pub(crate) fn write(&self, source: &[u8]) {
        self.write_at(0, source);
    }

    /// Copies `source` to where it begins; what does not fit is left out.
    pub(crate) fn write_at(&self, offset: usize, source: &[u8]) {
        let whole = self.bytes.end - self.bytes.start;
        let offset = offset.min(whole);
        let len = source.len().min(whole - offset);
        let to = (self.bytes.start + offset) as *mut u8;
        // SAFETY: `offset + len` is at most the length of this object's own writable memory, which no reference covers.
        unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), to, len) }
    }

    /// What it holds: all of it, or of a reserved one the pages that were touched.
    pub(crate) fn touched(&self) -> io::Result<Touched> {
        let (bytes, pages, size) = (self.bytes, self.pages, page_size());
        let Some(file) = &self.file else {
            return Ok(Touched::new([(0, self.read(0, bytes.end - bytes.start))]));
        };
        let page = |offset: usize| {
            let at = pages.start + offset;
            let (start, end) = (at.max(bytes.start), (at + size).min(bytes.end));
            (start < end).then(|| (start - bytes.start, self.read(start - bytes.start, end - start)))
        };
        let found = touched::pages(file, pages.end - pages.start, size)?;
        Ok(Touched::new(found.into_iter().filter_map(page)))
    }

    /// A copy of the bytes `offset..offset + len`, cut where the memory ends.
    pub(crate) fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        let whole = self.bytes.end - self.bytes.start;
        let offset = offset.min(whole);
        let len = len.min(whole - offset);
        let mut copy = vec![0; len];
        // SAFETY: `offset + len` is at most the length of this object's own readable memory.
        unsafe { std::ptr::copy_nonoverlapping((self.bytes.start + offset) as *const u8, copy.as_mut_ptr(), len) }
        copy
    }

    /// Puts the pattern into the slack.
    pub(crate) fn fill_slack(&self) {
        self.slack().into_iter().for_each(|range| fill(range, SLACK));
    }

    /// The first byte of slack that has changed, counted from the first of the bytes asked for.
    pub(crate) fn changed_slack(&self) -> Option<i64> {
        self.slack().into_iter().find_map(|range| {
            let changed = (range.start..range.end).find(|&address| {
                // SAFETY: slack is inside this object's own readable pages.
                let byte = unsafe { (address as *const u8).read_volatile() };
                byte != SLACK
            })?;
            Some(changed as i64 - self.bytes.start as i64)
        })
    }

    fn slack(&self) -> [Range; 2] {
        let (pages, bytes) = (self.pages, self.bytes);
        [Range { start: pages.start, end: bytes.start }, Range { start: bytes.end, end: pages.end }]
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let start = self.whole.start as *mut libc::c_void;
        // SAFETY: the mapping is this object's own, and nothing refers to it any more.
        unsafe { libc::munmap(start, self.whole.end - self.whole.start) };
    }
}

/// Sets every byte of a range that this module mapped, or of the calling thread's static shared memory.
pub(crate) fn fill(range: Range, value: u8) {
    if range.start == range.end {
        return;
    }
    // SAFETY: the range is writable memory of the emulator's own, which no reference covers.
    unsafe { std::ptr::write_bytes(range.start as *mut u8, value, range.end - range.start) }
}

fn map_without_access(len: usize) -> io::Result<usize> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new anonymous mapping at an address of the system's choice touches no memory in use.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
    if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(start as usize) }
}
