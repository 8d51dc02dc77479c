//! What a pass gives a device to do, as plain data.

use crate::cusparselt;
use crate::dense;
use crate::device::{Launch, Limits};

/// One thing for a device to do.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "a handful of them lives for the length of a call")]
pub enum Work {
    /// One of this crate's kernels.
    Kernel(Launch),
    /// A dense product by cuBLASLt.
    Dense(dense::Call),
    /// A product of a compressed weight by cuSPARSELt.
    Cusparselt(cusparselt::Call),
}

/// The works of a pass, in order. A few take no allocation.
#[derive(Debug)]
pub struct Queue {
    limits: Limits,
    first: [Option<Work>; Self::AT_HAND],
    used: usize,
    more: Vec<Work>,
}

impl Queue {
    const AT_HAND: usize = 3;

    /// Nothing to do as yet, on a device with these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, first: [const { None }; Self::AT_HAND], used: 0, more: Vec::new() }
    }

    /// The device's.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Adds a kernel's launch.
    pub(crate) fn launch(&mut self, launch: Launch) {
        self.push(Work::Kernel(launch));
    }

    pub(crate) fn push(&mut self, work: Work) {
        match self.first.get_mut(self.used) {
            Some(free) => *free = Some(work),
            None => self.more.push(work),
        }
        self.used += 1;
    }

    /// Whether a kernel is all there is to do.
    #[cfg(feature = "cuda")]
    pub(crate) fn is_one_kernel(&self) -> bool {
        matches!(self.first, [Some(Work::Kernel(_)), None, ..])
    }

    /// What is to be done, in order.
    pub fn works(&self) -> impl Iterator<Item = &Work> {
        self.first.iter().flatten().chain(&self.more)
    }
}
