//! Who waits where: the lanes of a warp, and a block's barrier.

use std::cell::Cell;
use std::ffi::{c_char, c_void};

use crate::thread::{Site, text};

/// The lanes of a warp.
pub(crate) struct Warp {
    /// Lanes that can go on.
    pub(crate) ready: Cell<u32>,
    /// Lanes that there are: fewer than 32 in the last warp of an odd block.
    pub(crate) lanes: u32,
    /// Lanes that have returned from the kernel.
    pub(crate) ended: Cell<u32>,
    /// Lanes that wait in the collective below, and what each brought to it.
    pub(crate) arrived: Cell<u32>,
    pub(crate) what: Cell<*const c_char>,
    pub(crate) site: Cell<Site>,
    pub(crate) brought: [Cell<*mut c_void>; 32],
}

/// A function of a twin that reads and writes what 32 lanes brought.
pub(crate) type Combine = unsafe extern "C" fn(*const *mut c_void);

impl Warp {
    pub(crate) fn new(lanes: u32) -> Warp {
        Warp {
            ready: Cell::new(0),
            lanes,
            ended: Cell::new(0),
            arrived: Cell::new(0),
            what: Cell::new(std::ptr::null()),
            site: Cell::new(Site::NOWHERE),
            brought: std::array::from_fn(|_| Cell::new(std::ptr::null_mut())),
        }
    }

    /// All lanes can go on, none waits.
    pub(crate) fn start(&self) {
        self.ready.set(self.lanes);
        self.ended.set(0);
        self.arrived.set(0);
    }

    /// Is a lane in the collective `what` at `site` where others are already? Or the first?
    #[inline]
    pub(crate) fn accepts(&self, what: *const c_char, site: Site) -> bool {
        if self.arrived.get() == 0 {
            self.what.set(what);
            self.site.set(site);
            return true;
        }
        (self.what.get() == what || self.is_spelled(what)) && self.site.get().same(site)
    }

    #[cold]
    #[inline(never)]
    fn is_spelled(&self, what: *const c_char) -> bool {
        text(self.what.get()) == text(what)
    }
}

/// The block's one barrier.
pub(crate) struct Barrier {
    pub(crate) waiting: Cell<u32>,
    pub(crate) site: Cell<Site>,
}

impl Barrier {
    pub(crate) fn new() -> Barrier {
        Barrier { waiting: Cell::new(0), site: Cell::new(Site::NOWHERE) }
    }

    pub(crate) fn start(&self) {
        self.waiting.set(0);
    }
}
