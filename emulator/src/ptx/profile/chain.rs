//! How long a warp takes that has a multiprocessor to itself: its chain of instructions that wait for one another.
//!
//! Between two branches or barriers an instruction is carried out as soon as its operands are there, for compilers order
//! instructions so; a branch, a barrier and a wait for copies hold up all that follows. What is stored is waited for by
//! nobody. The clocks are those of compute capability 9.0: arXiv 2402.13499, and Mesa's tables of NAK for arithmetic.
//!
//! It is a bound from below of what an execution takes, next to those that throughputs give: compilers have fewer
//! registers than this has, and warps get in each other's way.

use super::super::kinds::{D1, D2, W1, W2};
use super::super::module::Entry;
use super::super::op::{File, Instruction, Meeting, Op, Row, Space, Use};

/// Clocks from a load of memory, or from a copy, until the value is there.
const GLOBAL: u64 = 479;
/// The same of shared memory, and of `ldmatrix`.
const SHARED: u64 = 29;
/// Of a shuffle or vote.
const EXCHANGE: u64 = 24;
/// Of tensor cores.
const MATRIX: u64 = 33;
/// Of an exponential or reciprocal.
const SPECIAL: u64 = 18;
/// Of a division or root that is rounded right, which are sequences.
const DIVISION: u64 = 60;
const DOUBLE: u64 = 10;
const ARITHMETIC: u64 = 4;
/// From a branch to what it leads to.
const BRANCH: u64 = 10;

/// When a warp's values are there.
#[derive(Clone)]
struct Warp {
    /// From when on instructions may be carried out.
    from: u64,
    /// When the last of those so far was.
    last: u64,
    ready: [Vec<u64>; 3],
    /// Groups of asynchronous copies, and what is not in one yet.
    groups: Vec<u64>,
    open: u64,
    ended: bool,
    at_barrier: bool,
}

/// The warps of a block, and what was seen in all of them.
#[derive(Clone, Default)]
pub(super) struct Chain {
    /// Rows that each instruction reads and writes.
    rows: Vec<[Vec<(File, Row)>; 2]>,
    counts: [u32; 3],
    warps: Vec<Warp>,
    /// The longest of all blocks, and the first barrier of the last one.
    pub(super) longest: u64,
    pub(super) first_barrier: Option<u64>,
}

impl Chain {
    pub(super) fn new(entry: &Entry) -> Chain {
        let rows = entry.code.iter().map(|instruction| {
            let (mut read, mut written) = (Vec::new(), Vec::new());
            instruction.clone().rows(&mut |row, file, usage| match usage {
                Use::Reads => read.push((file, *row)),
                Use::Writes => written.push((file, *row)),
            });
            [read, written]
        });
        Chain { rows: rows.collect(), counts: entry.counts, ..Chain::default() }
    }

    /// A block of so many warps begins.
    pub(super) fn start(&mut self, warps: usize) {
        let ready = self.counts.map(|count| vec![0; count as usize]);
        let warp = Warp { from: 0, last: 0, ready, groups: vec![], open: 0, ended: false, at_barrier: false };
        self.warps = vec![warp; warps];
        self.first_barrier = None;
    }

    /// A warp comes to an instruction, with a lane that carries it out or none.
    pub(super) fn issue(&mut self, number: usize, at: u32, instruction: &Instruction, is_active: bool) {
        let (Some(warp), Some([read, written])) = (self.warps.get_mut(number), self.rows.get(at as usize)) else {
            return;
        };
        let ready = |&(file, row): &(File, Row)| warp.ready[file as usize][row as usize];
        let operands = read.iter().map(ready).max().unwrap_or(0);
        let op = &instruction.op;
        let now = operands.max(warp.from);
        warp.last = warp.last.max(now);
        let arrives = now + if is_active { latency(op) } else { ARITHMETIC };
        written.iter().for_each(|&(file, row)| warp.ready[file as usize][row as usize] = arrives);
        match op {
            Op::CopyAsync { .. } if is_active => warp.open = warp.open.max(arrives),
            Op::Commit => {
                let group = std::mem::take(&mut warp.open);
                warp.groups.push(group);
            }
            Op::WaitGroup(newest) => {
                let waited = warp.groups.len().saturating_sub(*newest as usize);
                warp.from = warp.groups.drain(..waited).fold(warp.last, u64::max);
            }
            Op::WaitAll => warp.from = warp.groups.drain(..).fold(warp.last.max(warp.open), u64::max),
            Op::Jump(_) => warp.from = warp.last + if is_active { BRANCH } else { 0 },
            Op::Barrier { .. } if is_active => self.arrive(number),
            Op::Return if is_active => {
                warp.ended = true;
                self.longest = self.longest.max(warp.last);
            }
            _ => {}
        }
    }

    /// A warp waits at a barrier; the last of the block's to come lets all go.
    fn arrive(&mut self, number: usize) {
        self.warps[number].at_barrier = true;
        let mut waiting = self.warps.iter().filter(|warp| !warp.ended);
        if waiting.any(|warp| !warp.at_barrier) {
            return;
        }
        let latest = self.warps.iter().map(|warp| warp.last).max().unwrap_or(0);
        self.first_barrier.get_or_insert(latest);
        for warp in &mut self.warps {
            (warp.from, warp.last, warp.at_barrier) = (latest, latest, false);
        }
    }
}

fn latency(op: &Op) -> u64 {
    match op {
        Op::Load(transfer) if matches!(transfer.space, Space::Global | Space::Generic) => GLOBAL,
        Op::Atomic { space, .. } if *space != Space::Shared => GLOBAL,
        Op::CopyAsync { .. } => GLOBAL,
        Op::Load(transfer) if transfer.space == Space::Shared => SHARED,
        Op::Atomic { .. } | Op::Meet { what: Meeting::LoadMatrix { .. }, .. } => SHARED,
        Op::Meet { what: Meeting::Matrix(_), .. } => MATRIX,
        Op::Meet { what: Meeting::Shuffle { .. } | Meeting::Vote { .. }, .. } => EXCHANGE,
        Op::W1(W1::Exp2Approx | W1::ReciprocalApprox, _) => SPECIAL,
        Op::W1(W1::SqrtF | W1::ReciprocalF, _) | Op::W2(W2::DivideF | W2::DivideU | W2::DivideS, _) => DIVISION,
        Op::D1(D1::SqrtF, _) | Op::D2(D2::DivideF | D2::DivideU | D2::RemainderU, _) => 2 * DIVISION,
        Op::D2(D2::AddF | D2::SubtractF | D2::MultiplyF, _) | Op::D3(super::super::kinds::D3::FmaF, _) => DOUBLE,
        _ => ARITHMETIC,
    }
}
