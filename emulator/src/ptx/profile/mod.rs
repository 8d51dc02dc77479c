//! A profiler without a device: what a launch asks of memory, instruction by instruction.
//!
//! Every address that a warp touches is seen before it is touched. Of global memory are counted requests (one for each
//! instruction of a warp), bytes, 32-byte sectors and 128-byte lines; of shared memory wavefronts, by the rule of its
//! banks ([`banks`]); and how often each instruction was issued, with how many lanes. There are no caches,
//! so that what one request has loaded is asked for again by the next, and [`read_bytes`](Profile::read_bytes) is what a
//! cold and boundless L2 would fetch. The instructions of a warp that wait for one another are followed besides, in
//! clocks ([`chain`]).
//!
//! A launch that is not profiled has no `Recorder`, and pays for none.

mod banks;
mod block;
mod chain;
mod show;

use std::collections::HashMap;

use super::lanes::{Doubles, Lanes, Words};
use super::module::Entry;
use super::op::Instruction;
use crate::fault::Source;
use crate::report::Report;

/// Bytes of a sector, the least that L2 and memory move.
const SECTOR: u64 = 32;

/// Bytes of a line of L1, four sectors.
const LINE: u64 = 128;

/// What a launch asked of memory: see [`Module::profile`](super::Module::profile).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// As [`run`](super::Module::run) gives it.
    pub report: Report,
    /// Instructions that were issued, in the order of the text.
    pub sites: Vec<Site>,
    /// Bytes of the sectors of global memory that were read, each once: what memory must give if nothing is cached.
    pub read_bytes: u64,
    /// Bytes of the sectors of global memory that were written, each once.
    pub written_bytes: u64,
    /// Clocks of the slowest warp, did it wait for its own values and for barriers alone (`chain.rs`).
    pub chain: u64,
    /// Clocks up to the first barrier of the last block; without one, none.
    pub first_barrier: u64,
}

/// What a PTX instruction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Its line in the PTX.
    pub line: u32,
    /// Where it is in the source, if the PTX says so.
    pub source: Source,
    /// What it does to memory.
    pub kind: Kind,
    /// How it was carried out.
    pub counts: Counts,
}

/// What an instruction does to memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// Nothing.
    #[default]
    None,
    /// It loads.
    Load,
    /// It stores.
    Store,
    /// It changes what is there.
    Atomic,
    /// `cp.async`: it reads global and writes shared memory.
    Copy,
    /// `ldmatrix`.
    Matrix,
}

/// How often an instruction was carried out, and with what traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Times that a warp came to it; for one that meets other lanes, each part of a warp that came.
    pub issued: u64,
    /// Lanes that carried it out.
    pub lanes: u64,
    /// Global memory.
    pub global: Global,
    /// Shared memory.
    pub shared: Shared,
}

/// Traffic of global memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Global {
    /// Instructions of warps with a lane that asks for a byte.
    pub requests: u64,
    /// Bytes that lanes asked for, one byte as often as lanes did.
    pub bytes: u64,
    /// Different 32-byte sectors, added up over requests.
    pub sectors: u64,
    /// The fewest sectors that the different bytes of each request fit in: where `sectors` is more, some go half empty.
    pub ideal: u64,
    /// Different 128-byte lines, added up over requests.
    pub lines: u64,
}

/// Traffic of shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shared {
    /// Instructions of warps with a lane that touches it.
    pub requests: u64,
    /// Bytes that lanes touched, one byte as often as lanes did.
    pub bytes: u64,
    /// Clocks of the banks.
    pub wavefronts: u64,
    /// The fewest wavefronts for the different words of each request: what is more are bank conflicts.
    pub ideal: u64,
}

impl Global {
    /// Adds another's counts.
    pub fn add(&mut self, other: &Global) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.sectors += other.sectors;
        self.ideal += other.ideal;
        self.lines += other.lines;
    }
}

impl Shared {
    /// Adds another's counts.
    pub fn add(&mut self, other: &Shared) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.wavefronts += other.wavefronts;
        self.ideal += other.ideal;
    }

    /// Wavefronts beyond the ideal.
    #[must_use]
    pub fn conflicts(&self) -> u64 {
        self.wavefronts.saturating_sub(self.ideal)
    }
}

impl Profile {
    /// Traffic of global memory by all instructions of a kind.
    #[must_use]
    pub fn global(&self, kind: Kind) -> Global {
        let mut sum = Global::default();
        self.sites.iter().filter(|site| site.kind == kind).for_each(|site| sum.add(&site.counts.global));
        sum
    }

    /// Traffic of shared memory by all instructions of a kind.
    #[must_use]
    pub fn shared(&self, kind: Kind) -> Shared {
        let mut sum = Shared::default();
        self.sites.iter().filter(|site| site.kind == kind).for_each(|site| sum.add(&site.counts.shared));
        sum
    }
}

/// Which sectors were touched: a bit each, 64 to a word.
#[derive(Clone, Default)]
struct Sectors(HashMap<u64, u64>);

impl Sectors {
    fn add(&mut self, sector: u64) {
        *self.0.entry(sector / 64).or_default() |= 1 << (sector % 64);
    }

    fn bytes(&self) -> u64 {
        SECTOR * self.0.values().map(|bits| u64::from(bits.count_ones())).sum::<u64>()
    }
}

/// What is written down while a launch runs.
#[derive(Clone, Default)]
pub(super) struct Recorder {
    counts: Vec<(Kind, Counts)>,
    chain: chain::Chain,
    read: Sectors,
    written: Sectors,
}

/// What the lanes of a warp ask for at once: as many bytes each as `widths` says, at `places`.
struct Asked<'a> {
    at: u32,
    kind: Kind,
    lanes: u32,
    places: &'a Doubles,
    widths: &'a Words,
}

impl Recorder {
    pub(super) fn new(entry: &Entry) -> Recorder {
        let counts = vec![Default::default(); entry.code.len()];
        Recorder { counts, chain: chain::Chain::new(entry), ..Recorder::default() }
    }

    /// A block of so many warps begins.
    pub(super) fn start(&mut self, warps: usize) {
        self.chain.start(warps);
    }

    fn at(&mut self, at: u32, kind: Kind) -> Option<&mut Counts> {
        let (own, counts) = self.counts.get_mut(at as usize)?;
        *own = kind;
        Some(counts)
    }

    /// A warp is about to carry out an instruction with these lanes.
    fn issue(&mut self, warp: usize, at: u32, instruction: &Instruction, lanes: u32) {
        self.chain.issue(warp, at, instruction, lanes != 0);
        if let Some((_, counts)) = self.counts.get_mut(at as usize) {
            counts.issued += 1;
            counts.lanes += u64::from(lanes.count_ones());
        }
    }

    fn global(&mut self, asked: &Asked) {
        let Asked { at, kind, lanes, places, widths } = *asked;
        // Addresses are aligned to their widths, or a fault follows: two are the same or apart, and in one sector.
        let mut own: Vec<(u64, u32)> = Lanes(lanes)
            .map(|lane| (places[lane as usize], widths[lane as usize]))
            .filter(|&(_, width)| width > 0)
            .collect();
        if own.is_empty() {
            return;
        }
        let bytes = own.iter().map(|&(_, width)| u64::from(width)).sum();
        own.sort_unstable();
        own.dedup_by_key(|&mut (place, _)| place);
        let different: u64 = own.iter().map(|&(_, width)| u64::from(width)).sum();
        let mut sectors: Vec<u64> = own.iter().map(|&(place, _)| place / SECTOR).collect();
        sectors.dedup();
        let mut lines: Vec<u64> = own.iter().map(|&(place, _)| place / LINE).collect();
        lines.dedup();
        for &sector in &sectors {
            if matches!(kind, Kind::Store | Kind::Atomic) {
                self.written.add(sector);
            }
            if kind != Kind::Store {
                self.read.add(sector);
            }
        }
        let (sectors, lines) = (sectors.len() as u64, lines.len() as u64);
        if let Some(counts) = self.at(at, kind) {
            counts.global.add(&Global { requests: 1, bytes, sectors, ideal: different.div_ceil(SECTOR), lines });
        }
    }

    /// All lanes touch as many bytes.
    fn shared(&mut self, asked: &Asked, bytes: u32) {
        let Asked { at, kind, lanes, places, .. } = *asked;
        if lanes == 0 {
            return;
        }
        let wavefronts = match kind {
            Kind::Atomic => banks::atomic(places, lanes, bytes),
            _ => banks::wavefronts(places, lanes, bytes),
        };
        let ideal = banks::ideal(places, lanes, bytes).into();
        let all = u64::from(lanes.count_ones()) * u64::from(bytes);
        if let Some(counts) = self.at(at, kind) {
            counts.shared.add(&Shared { requests: 1, bytes: all, wavefronts: wavefronts.into(), ideal });
        }
    }

    /// `ldmatrix` takes its matrices one after another: eight rows of 16 bytes each.
    fn matrices(&mut self, at: u32, places: &Doubles, count: u8) {
        let mut sum = Shared { requests: 1, bytes: 128 * u64::from(count), ideal: count.into(), wavefronts: 0 };
        for matrix in 0..u32::from(count) {
            sum.wavefronts += u64::from(banks::wavefronts(places, 0xFF << (8 * matrix), 16));
        }
        if let Some(counts) = self.at(at, Kind::Matrix) {
            counts.shared.add(&sum);
        }
    }

    /// All that was recorded, of a launch that ended so.
    pub(super) fn profile(&self, entry: &Entry, report: Report) -> Profile {
        let issued = self.counts.iter().enumerate().filter(|(_, (_, counts))| counts.issued > 0);
        let site = |(at, &(kind, counts)): (usize, &(Kind, Counts))| {
            let at = at as u32;
            Site { line: entry.line(at), source: entry.source(at), kind, counts }
        };
        Profile {
            report,
            sites: issued.map(site).collect(),
            read_bytes: self.read.bytes(),
            written_bytes: self.written.bytes(),
            chain: self.chain.longest,
            first_barrier: self.chain.first_barrier.unwrap_or(0),
        }
    }
}
