//! One CUDA thread as both languages see it. Mirrors `Thread` in `include/emulator.hpp` field by field.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_void};

use crate::tensor::Arithmetic;

/// A place in a kernel's source, as C++ hands it over.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Site {
    file: *const c_char,
    line: u32,
}

impl Site {
    pub(crate) const NOWHERE: Site = Site { file: std::ptr::null(), line: 0 };

    /// Same file and line? The names are literals of one object, or spelled alike.
    #[inline]
    pub(crate) fn same(self, other: Site) -> bool {
        self.line == other.line && (self.file == other.file || self.file_name() == other.file_name())
    }

    pub(crate) fn file_name(self) -> String {
        text(self.file).rsplit('/').next().unwrap_or_default().to_owned()
    }

    pub(crate) fn line(self) -> u32 {
        self.line
    }
}

/// The text of a C++ string literal; empty for null.
pub(crate) fn text(literal: *const c_char) -> String {
    if literal.is_null() {
        return String::new();
    }
    // SAFETY: not null (checked above), and every non-null pointer that reaches here is a literal of a linked object.
    let literal = unsafe { CStr::from_ptr(literal) };
    literal.to_string_lossy().into_owned()
}

/// Addresses from `start` up to but not including `end`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Range {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Range {
    pub(crate) fn contains(self, address: usize, bytes: usize) -> bool {
        address >= self.start && address <= self.end && bytes <= self.end - address
    }
}

pub(crate) const ACCESS_KINDS: usize = 5;

/// What a switch needs comes first, in one cache line.
#[repr(C, align(64))]
pub(crate) struct Thread {
    pub(crate) thread: [u32; 3],
    pub(crate) index: u32,
    pub(crate) host: Cell<*const c_void>,
    pub(crate) yielder: Cell<*const c_void>,
    pub(crate) block: Cell<[u32; 3]>,
    pub(crate) block_size: [u32; 3],
    pub(crate) block_count: [u32; 3],
    pub(crate) arithmetic: Arithmetic,
    pub(crate) kernel: *const c_char,
    pub(crate) dynamic_shared: Range,
    pub(crate) static_shared: Range,
    pub(crate) allowed: [Cell<Range>; ACCESS_KINDS],
}

#[cfg(test)]
mod tests {
    unsafe extern "C" {
        safe fn twofour_emulator_thread_size() -> usize;
    }

    #[test]
    fn both_languages_agree_on_the_size() {
        assert_eq!(twofour_emulator_thread_size(), size_of::<super::Thread>());
    }
}
