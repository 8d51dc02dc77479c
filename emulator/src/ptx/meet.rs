//! Where lanes and warps wait for each other: barriers of the block, and instructions of a warp.
//!
//! A lane that waits stands at the instruction it waits in, and nothing has happened yet; when others end, it comes to
//! it again. Mbarriers, bulk copies, warpgroups' products and clusters, once they are built, are further meetings.

use super::block::{BARRIERS, Barrier, Block, Flow, add};
use super::lanes::Lanes;
use super::memory::{Trouble, addresses, read};
use super::op::{Address, Matrix, Meeting, NONE, Op, Row, Shuffle, Vote};
use super::warp::Registers;
use crate::fault::{Fault, Source};
use crate::schedule::Schedule;
use crate::tensor::{self, Undefined};

impl Block {
    /// Lanes come to a `.sync` instruction of their warp.
    pub(super) fn meet(
        &mut self,
        number: usize,
        at: u32,
        lanes: u32,
        active: u32,
        members: Row,
        what: &Meeting,
    ) -> Result<Flow, Fault> {
        let warp = &mut self.warps[number];
        let masks = if members == NONE { [u32::MAX; 32] } else { *warp.registers.word(members) };
        let leader = active.trailing_zeros();
        let mask = masks[leader as usize];
        let of_mask = |lane: u32| masks[lane as usize] == mask;
        let same = Lanes(active).filter(|&lane| of_mask(lane)).fold(0, |bits, lane| bits | 1 << lane);
        if same & !mask != 0 {
            let lane = (same & !mask).trailing_zeros();
            let what =
                format!("{} with a member mask of {mask:#010x}, which leaves out this lane, {lane}", named(what));
            return Err(self.fault(number, lane, at, Trouble::Undefined(what)));
        }
        let here = |lane: &u32| warp.at[*lane as usize] == at && of_mask(*lane);
        let came = Lanes(warp.waiting).filter(here).fold(same, |bits, lane| bits | 1 << lane);
        // Lanes that have ended are waited for only where the ISA says that none may have.
        let needed = if members == NONE { u32::MAX } else { mask & warp.live };
        warp.set(lanes & !active, at + 1);
        warp.set(active, at);
        if needed & !came != 0 {
            warp.waiting |= same;
            return Ok(Flow::Apart);
        }
        warp.waiting &= !needed;
        self.act(number, at, needed, what)?;
        add(&self.counts.collectives, 1);
        let divided = needed == self.warps[number].live && self.divide(number);
        if needed == lanes && !divided {
            return Ok(Flow::Next);
        }
        self.warps[number].set(needed, at + 1);
        Ok(Flow::Apart)
    }

    /// Under the adversarial schedules, a warp that has just met is divided in two at times, and one part runs until it
    /// waits before the other does: what lanes do between two meetings has no order. Gives whether it was.
    pub(super) fn divide(&mut self, number: usize) -> bool {
        let warp = &mut self.warps[number];
        if self.context.schedule == Schedule::RoundRobin || warp.waiting != 0 || warp.first != u32::MAX {
            return false;
        }
        if self.random.next().is_multiple_of(4) {
            warp.first = self.random.next();
        }
        warp.first != u32::MAX
    }

    /// What lanes that have met do.
    fn act(&mut self, number: usize, at: u32, lanes: u32, what: &Meeting) -> Result<(), Fault> {
        let registers = &mut self.warps[number].registers;
        match what {
            Meeting::Warp => {
                self.join_lanes(number, lanes);
                Ok(())
            }
            Meeting::Shuffle { mode, d, p, a, b, c } => {
                let (a, b, c) = (registers.word(*a), registers.word(*b), registers.word(*c));
                let (mut values, mut inside) = ([0; 32], 0);
                for lane in Lanes(lanes) {
                    let i = lane as usize;
                    let (from, in_range) = source_lane(*mode, lane, b[i], c[i]);
                    if lanes >> from & 1 == 0 {
                        let what = format!("a shuffle from lane {from}, which does not take part");
                        return Err(self.fault(number, lane, at, Trouble::Undefined(what)));
                    }
                    values[i] = a[from as usize];
                    inside |= u32::from(in_range) << lane;
                }
                registers.set_word(*d, lanes, &values);
                if *p != NONE {
                    registers.set_predicate(*p, lanes, inside);
                }
                Ok(())
            }
            Meeting::Vote { what, d, a } => {
                let bits = registers.guarded(*a) & lanes;
                let holds = match what {
                    Vote::Ballot => {
                        registers.set_word(*d, lanes, &[bits; 32]);
                        return Ok(());
                    }
                    Vote::All => bits == lanes,
                    Vote::Any => bits != 0,
                    Vote::Uniform => bits == 0 || bits == lanes,
                };
                registers.set_predicate(*d, lanes, if holds { u32::MAX } else { 0 });
                Ok(())
            }
            Meeting::LoadMatrix { count, transposed, rows, at: address } => {
                self.load_matrix(number, at, *count, *transposed, *rows, *address)
            }
            Meeting::Matrix(matrix) => self.multiply(number, at, matrix),
        }
    }

    /// A product of matrices, whose elements all 32 lanes have.
    fn multiply(&mut self, number: usize, at: u32, matrix: &Matrix) -> Result<(), Fault> {
        let (registers, arithmetic) = (&self.warps[number].registers, self.context.arithmetic);
        let (a, c) = (gather(registers, &matrix.a), gather(registers, &matrix.c));
        let product = match matrix.sparse {
            None => {
                let [first, second, ..] = matrix.b;
                Ok(tensor::mma(matrix.element, arithmetic, &a, &gather(registers, &[first, second]), &c))
            }
            Some((metadata, selector)) => {
                let (b, metadata) = (gather(registers, &matrix.b), registers.word(metadata));
                tensor::mma_sp(matrix.element, arithmetic, &a, &b, &c, metadata, selector)
            }
        };
        let product = product.map_err(|undefined| {
            let lane = if let Undefined::Metadata { lane, .. } = undefined { lane as u32 } else { 0 };
            self.fault(number, lane, at, Trouble::Undefined(format!("{}: {undefined}", matrix.form)))
        })?;
        for (i, &row) in matrix.d.iter().enumerate() {
            self.warps[number].registers.set_word(row, u32::MAX, &product.map(|of_lane| of_lane[i]));
        }
        Ok(())
    }

    /// Matrices of 8 rows of 8 elements of 16 bits; lanes `8i` to `8i + 7` have the addresses of the rows of matrix
    /// `i`. A lane gets two neighbours of row `lane / 4`, or of the column if transposed, those from `2 (lane % 4)` on.
    fn load_matrix(
        &mut self,
        number: usize,
        at: u32,
        count: u8,
        transposed: bool,
        rows: [Row; 4],
        address: Address,
    ) -> Result<(), Fault> {
        let places = addresses(&self.warps[number].registers, address);
        let mut matrices = [[[0u16; 8]; 8]; 4];
        for lane in 0..8 * u32::from(count) {
            let from = self.memory.reach_shared(at, "ldmatrix", places[lane as usize], 16);
            let from = from.map_err(|trouble| self.fault(number, lane, at, trouble))?;
            for (i, element) in matrices[lane as usize / 8][lane as usize % 8].iter_mut().enumerate() {
                // SAFETY: `reach_shared` found 16 aligned bytes of shared memory; this is one of their 8 elements.
                *element = unsafe { read(from.wrapping_add(2 * i), 2) } as u16;
            }
        }
        self.load_matrix_watched(number, at, &places[..8 * usize::from(count)])?;
        for (matrix, row) in matrices.iter().zip(rows).take(count.into()) {
            let element = |row: usize, column: usize| u32::from(matrix[row][column]);
            let values = std::array::from_fn(|lane| {
                let (line, first) = (lane / 4, 2 * (lane % 4));
                match transposed {
                    true => element(first, line) | element(first + 1, line) << 16,
                    false => element(line, first) | element(line, first + 1) << 16,
                }
            });
            self.warps[number].registers.set_word(row, u32::MAX, &values);
        }
        Ok(())
    }

    /// Lanes come to a barrier of the block. All live lanes of their warp must, and then it has arrived.
    pub(super) fn arrive(
        &mut self,
        number: usize,
        at: u32,
        lanes: u32,
        [row, threads]: [Row; 2],
        aligned: bool,
    ) -> Result<Flow, Fault> {
        let warps = self.warps.len() as u32;
        let warp = &mut self.warps[number];
        warp.set(lanes, at);
        warp.waiting |= lanes;
        if warp.waiting != warp.live {
            return Ok(Flow::Apart);
        }
        let lane = lanes.trailing_zeros();
        if let Some(other) = Lanes(warp.live).find(|&lane| warp.at[lane as usize] != at) {
            let other = warp.at[other as usize];
            return Err(self.mismatch(number, lane, at, other));
        }
        let id = warp.registers.word(row)[lane as usize];
        let counted = if threads == NONE { 32 * warps } else { warp.registers.word(threads)[lane as usize] };
        if id as usize >= BARRIERS || !counted.is_multiple_of(32) || counted == 0 || counted > 32 * warps {
            let what = format!("barrier {id} of {counted} threads, in a block of {warps} warps");
            return Err(self.fault(number, lane, at, Trouble::Undefined(what)));
        }
        let barrier = &mut self.barriers[id as usize];
        if barrier.arrived > 0 && aligned && barrier.at != at {
            let other = barrier.at;
            return Err(self.mismatch(number, lane, at, other));
        }
        let all = threads == NONE;
        *barrier = Barrier { arrived: barrier.arrived + 1, at, wanted: counted / 32, all, aligned };
        self.warps[number].barrier = Some(id);
        if all
            && aligned
            && let Some((warp, lane)) = self.ended()
        {
            let place = self.place(warp, lane, at);
            return Err(Fault::BarrierDivergence { place, barrier: self.line(at) });
        }
        self.release(id);
        Ok(Flow::Apart)
    }

    /// Lets the warps at a barrier go on if all have arrived.
    fn release(&mut self, id: u32) {
        let alive = self.warps.iter().filter(|warp| warp.live != 0).count() as u32;
        let barrier = &mut self.barriers[id as usize];
        let wanted = if barrier.all { alive } else { barrier.wanted };
        if barrier.arrived == 0 || barrier.arrived < wanted {
            return;
        }
        *barrier = Barrier::default();
        self.join_warps(id);
        for warp in self.warps.iter_mut().filter(|warp| warp.barrier == Some(id)) {
            (warp.barrier, warp.waiting) = (None, 0);
            warp.at.iter_mut().for_each(|at| *at += 1);
        }
        add(&self.counts.barriers, 1);
    }

    /// Lanes end.
    pub(super) fn end(&mut self, number: usize, lanes: u32) -> Result<(), Fault> {
        self.end_watched(number, lanes)?;
        let warp = &mut self.warps[number];
        warp.live &= !lanes;
        // Those that wait look again who must come.
        warp.waiting = 0;
        if let Some(barrier) =
            self.barriers.iter().find(|barrier| barrier.arrived > 0 && barrier.all && barrier.aligned)
        {
            let (lane, at) = (lanes.trailing_zeros(), self.warps[number].at[lanes.trailing_zeros() as usize]);
            return Err(Fault::BarrierDivergence {
                place: self.place(number, lane, at),
                barrier: self.line(barrier.at),
            });
        }
        (0..BARRIERS as u32).for_each(|id| self.release(id));
        Ok(())
    }

    /// A lane that has ended.
    fn ended(&self) -> Option<(usize, u32)> {
        let ended = |(number, warp): (usize, &super::block::Warp)| {
            let ended = warp.lanes & !warp.live;
            (ended != 0).then(|| (number, ended.trailing_zeros()))
        };
        self.warps.iter().enumerate().find_map(ended)
    }

    /// The fault of lanes that wait at different places.
    fn mismatch(&self, number: usize, lane: u32, at: u32, other: u32) -> Fault {
        let (place, line) = (self.place(number, lane, at), self.line(other));
        match self.entry.code[other as usize].op {
            Op::Barrier { .. } => Fault::BarrierMismatch { place, barrier: line },
            _ => Fault::CollectiveMismatch { place, what: "a barrier".to_owned(), other: line },
        }
    }

    /// The fault when no warp can go on, though not all have ended.
    pub(super) fn stuck(&self) -> Option<Fault> {
        // Lanes that wait inside their warp first: a barrier may only wait for these.
        let waits = self.warps.iter().position(|warp| warp.waiting != 0 && warp.barrier.is_none());
        let number = waits.or_else(|| self.warps.iter().position(|warp| warp.waiting != 0))?;
        let warp = &self.warps[number];
        let lane = warp.waiting.trailing_zeros();
        let at = warp.at[lane as usize];
        if let Some(other) = Lanes(warp.waiting).find(|&lane| warp.at[lane as usize] != at) {
            return Some(self.mismatch(number, other, warp.at[other as usize], at));
        }
        let place = self.place(number, lane, at);
        let missing = match (warp.lanes != u32::MAX, warp.lanes & !warp.live) {
            (true, _) => format!("lane {} does not exist", (!warp.lanes).trailing_zeros()),
            (false, 0) => "a lane of its member mask waits elsewhere".to_owned(),
            (false, ended) => format!("lane {} has ended", ended.trailing_zeros()),
        };
        Some(match &self.entry.code[at as usize].op {
            Op::Barrier { .. } => Fault::BarrierDivergence { place, barrier: self.line(at) },
            Op::Meet { what, .. } => Fault::CollectiveDivergence { place, what: named(what).to_owned(), missing },
            _ => Fault::CollectiveDivergence { place, what: "an instruction".to_owned(), missing },
        })
    }

    fn line(&self, at: u32) -> String {
        match self.entry.source(at) {
            Source::Line(file, line) => format!("{file}:{line}"),
            _ => "an unknown line".to_owned(),
        }
    }
}

/// These rows' registers, lane by lane.
fn gather<const N: usize>(registers: &Registers, rows: &[Row; N]) -> tensor::Registers<N> {
    std::array::from_fn(|lane| rows.map(|row| registers.word(row)[lane]))
}

fn named(what: &Meeting) -> &str {
    match what {
        Meeting::Warp => "bar.warp.sync",
        Meeting::Shuffle { .. } => "shfl.sync",
        Meeting::Vote { .. } => "vote.sync",
        Meeting::LoadMatrix { .. } => "ldmatrix",
        Meeting::Matrix(matrix) => matrix.form,
    }
}

/// The lane that a shuffle takes from, and whether what it computed is in range; if not, the lane's own.
fn source_lane(mode: Shuffle, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (b, clamp, segments) = (b & 31, c & 31, c >> 8 & 31);
    let least = lane & segments;
    let most = least | clamp & !segments;
    let (from, in_range) = match mode {
        Shuffle::Up => (lane.wrapping_sub(b), lane as i32 - b as i32 >= most as i32),
        Shuffle::Down => (lane + b, lane + b <= most),
        Shuffle::Butterfly => (lane ^ b, lane ^ b <= most),
        Shuffle::Index => {
            let from = least | b & !segments;
            (from, from <= most)
        }
    };
    if in_range { (from, true) } else { (lane, false) }
}
