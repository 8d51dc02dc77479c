//! Asynchronous copies: when their data lands.
//!
//! On a GPU that is some time between `cp_async_*` and the wait for its group. Here it is one of the two ends: late (at
//! the wait), where a missing or too weak wait shows, or at once, where a copy into memory still being read shows.

/// One copy under way. Its addresses were checked when it was issued.
pub(crate) struct Copy {
    pub(crate) shared: *mut u8,
    pub(crate) from: *const u8,
    pub(crate) bytes: usize,
    pub(crate) valid: usize,
}

impl Copy {
    pub(crate) fn land(&self) {
        let valid = self.valid.min(self.bytes);
        // SAFETY: `checked_copy` (twins_memory.hpp) has found `bytes` at `shared` inside the block's shared memory and
        // `valid` at `from` inside a live buffer, and both outlive the block.
        unsafe { std::ptr::copy(self.from, self.shared, valid) };
        let rest = self.shared.wrapping_add(valid);
        // SAFETY: as above: the rest of the same `bytes` of shared memory.
        unsafe { std::ptr::write_bytes(rest, 0, self.bytes - valid) };
    }
}

/// The copies of one thread, with the number of their group.
#[derive(Default)]
pub(crate) struct Copies {
    pending: Vec<(u64, Copy)>,
    group: u64,
}

impl Copies {
    pub(crate) fn start(&mut self) {
        self.pending.clear();
        self.group = 0;
    }

    /// A copy that lands later, of the group that is open.
    pub(crate) fn add(&mut self, copy: Copy) {
        self.pending.push((self.group, copy));
    }

    pub(crate) fn commit(&mut self) {
        self.group += 1;
    }

    /// All groups but the `newest` ones land. Copies not yet committed belong to no group, and stay.
    pub(crate) fn wait(&mut self, newest: u32) {
        self.land_groups_before(self.group.saturating_sub(u64::from(newest)));
    }

    pub(crate) fn wait_all(&mut self) {
        self.land_groups_before(u64::MAX);
    }

    fn land_groups_before(&mut self, group: u64) {
        let due = self.pending.partition_point(|(of, _)| *of < group);
        self.pending.drain(..due).for_each(|(_, copy)| copy.land());
    }
}
