//! The kernels that were compiled in, by name.

use std::ffi::{c_char, c_void};
use std::sync::OnceLock;

use crate::Fault;
use crate::thread::{Thread, text};

/// Mirrors `Kernel` in `include/emulator.hpp`: static data that `TWOFOUR_KERNEL` made, never changed after start-up.
#[repr(C)]
struct Raw {
    symbol: *const c_char,
    args_size: u32,
    max_threads: u32,
    entry: *const c_void,
    next: *const Raw,
}

// SAFETY: read-only after the program's static initialisation, and its pointers are to static data.
unsafe impl Sync for Raw {}

unsafe extern "C" {
    safe fn twofour_emulator_unit_count() -> usize;
    safe fn twofour_emulator_unit(index: usize) -> *const Raw;
    fn twofour_emulator_enter(kernel: *const Raw, args: *const c_void, thread: *const Thread);
}

/// A kernel that this program can run.
#[derive(Clone, Copy)]
pub struct Kernel {
    raw: &'static Raw,
}

impl Kernel {
    /// The kernel of this symbol.
    pub fn find(symbol: &str) -> Result<Kernel, Fault> {
        kernels().iter().copied().find(|kernel| kernel.name() == symbol).ok_or_else(|| Fault::UnknownKernel {
            name: symbol.to_owned(),
            known: kernels().iter().map(Kernel::name).collect(),
        })
    }

    /// The symbol.
    #[must_use]
    pub fn name(&self) -> String {
        text(self.raw.symbol)
    }

    /// `sizeof` the argument struct.
    #[must_use]
    pub fn args_size(&self) -> usize {
        self.raw.args_size as usize
    }

    /// The largest block, from the kernel's launch bounds.
    #[must_use]
    pub fn max_threads(&self) -> u32 {
        self.raw.max_threads
    }

    pub(crate) fn symbol(&self) -> *const c_char {
        self.raw.symbol
    }

    /// Runs one thread.
    ///
    /// # Safety
    ///
    /// `args` holds [`Kernel::args_size`] bytes at an alignment of 16, and the caller is the fiber of `thread`.
    pub(crate) unsafe fn enter(&self, args: *const c_void, thread: *const Thread) {
        // SAFETY: the caller's promise, and `raw` is a kernel of the table.
        unsafe { twofour_emulator_enter(self.raw, args, thread) }
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel")
            .field("name", &self.name())
            .field("args_size", &self.args_size())
            .field("max_threads", &self.max_threads())
            .finish()
    }
}

/// All kernels, sorted by name.
pub fn kernels() -> &'static [Kernel] {
    static KERNELS: OnceLock<Vec<Kernel>> = OnceLock::new();
    KERNELS.get_or_init(|| {
        let mut kernels: Vec<Kernel> = (0..twofour_emulator_unit_count()).flat_map(unit_kernels).collect();
        kernels.sort_by_key(Kernel::name);
        kernels
    })
}

/// The linked list of one `.cu`.
fn unit_kernels(unit: usize) -> Vec<Kernel> {
    let mut found = Vec::new();
    let mut next = twofour_emulator_unit(unit);
    while !next.is_null() {
        // SAFETY: not null (checked above), and the list is made of static objects that C++ initialised before main.
        let raw: &'static Raw = unsafe { &*next };
        found.push(Kernel { raw });
        next = raw.next;
    }
    found
}
