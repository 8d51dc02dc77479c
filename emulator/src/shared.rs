//! The shared memory of the block that an OS thread runs.

use std::cell::Cell;
use std::io;

use crate::mapping::{Mapping, fill};
use crate::thread::Range;

/// One byte of a NaN of every float type.
const POISON: u8 = 0xFF;

unsafe extern "C" {
    fn twofour_emulator_static_shared(start: *mut *mut u8, bytes: *mut usize);
}

pub(crate) struct Shared {
    dynamic: Mapping,
    /// The static shared memory of all kernels, about a megabyte.
    fixed: Range,
    /// The part of it that this launch is known to write.
    written: Cell<Range>,
    blocks: Cell<u64>,
}

impl Shared {
    /// For the calling OS thread: its static shared memory is thread-local.
    pub(crate) fn new(dynamic_bytes: u32) -> io::Result<Shared> {
        let dynamic = Mapping::new(dynamic_bytes as usize, 16)?;
        dynamic.fill_slack();
        let mut start = std::ptr::null_mut();
        let mut bytes = 0;
        // SAFETY: both pointers are to locals that C++ fills in before it returns.
        unsafe { twofour_emulator_static_shared(&raw mut start, &raw mut bytes) };
        let fixed = Range { start: start as usize, end: start as usize + bytes };
        Ok(Shared { dynamic, fixed, written: Cell::default(), blocks: Cell::new(0) })
    }

    /// Before each block: what it finds is undefined on a GPU, and NaNs here.
    ///
    /// To fill all static shared memory for each block would cost more than many a block. So it is looked at before the
    /// first, second, fourth, eighth block, and so on, and what has been written by then is filled in between.
    pub(crate) fn poison(&self) {
        self.dynamic.fill(POISON);
        let blocks = self.blocks.get();
        self.blocks.set(blocks + 1);
        if !(blocks + 1).is_power_of_two() {
            return fill(self.written.get(), POISON);
        }
        if blocks > 0 {
            self.written.set(self.find_written());
        }
        fill(self.fixed, POISON);
    }

    /// From the first to the last byte that is not as `poison` left it, and what was found before.
    fn find_written(&self) -> Range {
        const LINE: usize = 64;
        let fixed = self.fixed;
        if fixed.start == fixed.end {
            return fixed;
        }
        // SAFETY: the calling OS thread's own thread-local memory; none of its fibers runs while this slice lives.
        let bytes = unsafe { std::slice::from_raw_parts(fixed.start as *const u8, fixed.end - fixed.start) };
        let is_written = |line: &[u8]| line.iter().any(|&byte| byte != POISON);
        let mut written = self.written.get();
        for (i, line) in bytes.chunks(LINE).enumerate().filter(|(_, line)| is_written(line)) {
            let start = fixed.start + i * LINE;
            let end = start + line.len();
            let first = written.start == written.end;
            written = Range {
                start: if first { start } else { written.start.min(start) },
                end: if first { end } else { written.end.max(end) },
            };
        }
        written
    }

    /// The first changed byte around the dynamic shared memory, counted from its start.
    pub(crate) fn overrun(&self) -> Option<i64> {
        self.dynamic.changed_slack()
    }

    pub(crate) fn dynamic(&self) -> Range {
        self.dynamic.bytes()
    }

    /// Dynamic shared memory and the guards around it.
    pub(crate) fn whole(&self) -> Range {
        self.dynamic.whole()
    }

    /// The static shared memory of all kernels.
    pub(crate) fn fixed(&self) -> Range {
        self.fixed
    }
}
