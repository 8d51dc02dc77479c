//! What a launch did, counted.

use std::cell::Cell;

/// What the blocks of one OS thread did.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) blocks: Cell<u64>,
    pub(crate) barriers: Cell<u64>,
    pub(crate) collectives: Cell<u64>,
    pub(crate) switches: Cell<u64>,
    pub(crate) copies: Cell<u64>,
    pub(crate) instructions: Cell<u64>,
}

/// What a launch did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Blocks run.
    pub blocks: u64,
    /// Barriers of a block completed.
    pub barriers: u64,
    /// Collectives of a warp completed.
    pub collectives: u64,
    /// Times that a thread was let run.
    pub switches: u64,
    /// Asynchronous copies issued.
    pub copies: u64,
    /// Instructions of warps executed; counted where PTX is executed, else 0.
    pub instructions: u64,
}

impl Report {
    pub(crate) fn of(counts: &Counts) -> Report {
        Report {
            blocks: counts.blocks.get(),
            barriers: counts.barriers.get(),
            collectives: counts.collectives.get(),
            switches: counts.switches.get(),
            copies: counts.copies.get(),
            instructions: counts.instructions.get(),
        }
    }

    pub(crate) fn add(&mut self, other: &Report) {
        self.blocks += other.blocks;
        self.barriers += other.barriers;
        self.collectives += other.collectives;
        self.switches += other.switches;
        self.copies += other.copies;
        self.instructions += other.instructions;
    }
}
