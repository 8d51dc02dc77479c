//! One block: its warps, and the loop that lets them run.
//!
//! Each lane has a place in the code. Of the lanes that can go on, those with the least place run together, up to where
//! others are: so lanes that went apart meet again where structured code joins. A lane that comes to a meeting (a
//! barrier or a `.sync` instruction) waits there for those that must come.

use std::sync::{Arc, Mutex, PoisonError};

use super::lanes::{Lanes, each};
use super::memory::{Memory, Trouble};
use super::module::Entry;
use super::op::{Instruction, Op};
use super::profile::Recorder;
use super::warp::Registers;
use super::watch::Watch;
use crate::copies::Copies;
use crate::fault::{Fault, Place};
use crate::memory::Region;
use crate::report::{Counts, Report};
use crate::schedule::{Random, Schedule};
use crate::tensor::Arithmetic;
use crate::worker::Runner;

/// What all blocks of a launch have in common.
pub(super) struct Context {
    pub(super) entry: Arc<Entry>,
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) shared_bytes: u32,
    /// The parameters, in words for their alignment.
    pub(super) args: Vec<u128>,
    pub(super) schedule: Schedule,
    pub(super) arithmetic: Arithmetic,
    pub(super) watch: bool,
    /// Where what was recorded is handed in, if it is.
    pub(super) recorder: Option<Arc<Mutex<Recorder>>>,
    pub(super) regions: Arc<[Arc<Region>]>,
}

/// A warp that runs, waits or has ended.
pub(super) struct Warp {
    pub(super) number: u32,
    pub(super) registers: Registers,
    /// Where each lane is.
    pub(super) at: [u32; 32],
    /// Lanes that there are: fewer than 32 in the last warp of an odd block.
    pub(super) lanes: u32,
    /// Lanes that have not ended.
    pub(super) live: u32,
    /// Lanes that wait for others at their place.
    pub(super) waiting: u32,
    /// The barrier that all live lanes wait at.
    pub(super) barrier: Option<u32>,
    /// Lanes that go first, until they wait; then the others. All, unless the schedule divides the warp.
    pub(super) first: u32,
    pub(super) copies: Vec<Copies>,
}

/// A barrier of the block: warps at it, and the instruction and thread count of the first to come.
#[derive(Clone, Copy, Default)]
pub(super) struct Barrier {
    pub(super) arrived: u32,
    pub(super) at: u32,
    /// Warps that make it complete, and whether that is all of the block.
    pub(super) wanted: u32,
    pub(super) all: bool,
    pub(super) aligned: bool,
}

pub(super) const BARRIERS: usize = 16;

/// The block that an OS thread runs; used again for one after another.
pub(super) struct Block {
    pub(super) context: Arc<Context>,
    pub(super) entry: Arc<Entry>,
    pub(super) memory: Memory,
    pub(super) warps: Vec<Warp>,
    pub(super) barriers: [Barrier; BARRIERS],
    index: [u32; 3],
    pub(super) random: Random,
    pub(super) counts: Counts,
    /// Nothing, unless the launch is watched.
    pub(super) watch: Option<Box<Watch>>,
    /// Nothing, unless the launch is profiled.
    pub(super) recorder: Option<Box<Recorder>>,
}

/// Why a warp's lanes stop running together.
pub(super) enum Flow {
    /// They go on with the next instruction.
    Next,
    /// The lanes' places have been set.
    Apart,
}

/// Nothing is said of a fault where it is found but what and in which lane; the block adds where.
pub(super) type Checked<T> = Result<T, (u32, Trouble)>;

impl Runner for Block {
    type Context = Context;

    fn new(context: &Arc<Context>) -> Result<Block, Fault> {
        let entry = Arc::clone(&context.entry);
        let threads: u32 = context.block.iter().product();
        let memory = Memory::new(&entry, &context.regions, context.shared_bytes, &context.args, threads);
        let memory = memory.map_err(|source| Fault::Host { what: "map shared memory", source })?;
        let warps = (0..threads.div_ceil(32)).map(|number| Warp::new(context, number, threads)).collect();
        let fences = entry.code.iter().any(|instruction| instruction.op == Op::Fence);
        let watch = || Watch::new(&context.regions, threads, entry.shared_bytes(context.shared_bytes), fences);
        Ok(Block {
            watch: context.watch.then(|| Box::new(watch())),
            recorder: context.recorder.is_some().then(|| Box::new(Recorder::new(&entry))),
            context: Arc::clone(context),
            entry,
            memory,
            warps,
            barriers: [Barrier::default(); BARRIERS],
            index: [0; 3],
            random: context.schedule.random(0),
            counts: Counts::default(),
        })
    }

    fn run(&mut self, number: u64) -> Result<(), Fault> {
        let [x, y, _] = self.context.grid.map(u64::from);
        self.index = [number % x, number / x % y, number / x / y].map(|i| i as u32);
        self.random = self.context.schedule.random(number);
        self.barriers = [Barrier::default(); BARRIERS];
        self.memory.start();
        if let Some(watch) = &mut self.watch {
            watch.start(number);
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.start(self.warps.len());
        }
        for warp in &mut self.warps {
            warp.start(&self.context, self.index);
        }
        self.run_warps()?;
        add(&self.counts.blocks, 1);
        Ok(())
    }

    fn report(&self) -> Report {
        if let (Some(own), Some(to)) = (&self.recorder, &self.context.recorder) {
            to.lock().unwrap_or_else(PoisonError::into_inner).clone_from(own);
        }
        Report::of(&self.counts)
    }
}

impl Block {
    fn run_warps(&mut self) -> Result<(), Fault> {
        let mut last = self.random.below(self.warps.len());
        if self.context.schedule == Schedule::RoundRobin {
            last = self.warps.len() - 1;
        }
        while let Some(next) = self.pick(last) {
            last = next;
            self.run_warp(next)?;
        }
        self.stuck().map_or(Ok(()), Err)
    }

    /// A warp that can go on.
    fn pick(&mut self, last: usize) -> Option<usize> {
        let count = self.warps.len();
        let start = match self.context.schedule {
            Schedule::RoundRobin => last + 1,
            Schedule::Solo(_) if self.warps[last].ready() != 0 => last,
            Schedule::Solo(_) | Schedule::Random(_) => self.random.below(count),
        };
        (start..start + count).map(|i| i % count).find(|&i| self.warps[i].ready() != 0)
    }

    /// Runs a warp until all of it waits or has ended, or its turn is over.
    fn run_warp(&mut self, number: usize) -> Result<(), Fault> {
        let entry = Arc::clone(&self.entry);
        let mut turn = match self.context.schedule {
            Schedule::Random(_) => 1 + self.random.next() % 256,
            _ => u32::MAX,
        };
        self.divide(number);
        add(&self.counts.switches, 1);
        while self.warps[number].ready() != 0 {
            // Recorded one by one: the loop within has nothing to ask.
            let given = if self.recorder.is_some() { 1 } else { turn };
            self.record(number);
            let mut left = given;
            self.run_together(&entry.code, number, &mut left)?;
            turn -= given - left;
            add(&self.counts.instructions, u64::from(given - left));
            if turn == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Runs the lanes with the least place, until they part, wait, end or meet others.
    fn run_together(&mut self, code: &[Instruction], number: usize, turn: &mut u32) -> Result<(), Fault> {
        let warp = &mut self.warps[number];
        let (lanes, mut at, others) = warp.together();
        let stop = others.min(code.len() as u32);
        loop {
            let instruction = &code[at as usize];
            *turn -= 1;
            let active = match instruction.guard {
                None => lanes,
                Some(guard) => lanes & self.warps[number].registers.guarded(guard),
            };
            match self.step(instruction, number, at, lanes, active)? {
                Flow::Next => at += 1,
                Flow::Apart => return Ok(()),
            }
            if let Op::Jump(to) = instruction.op
                && active != 0
            {
                // All of them jump, or they had parted.
                at = to;
            }
            if at >= stop || *turn == 0 {
                self.warps[number].set(lanes, at);
                return Ok(());
            }
        }
    }

    /// One instruction, by the `active` ones of the lanes that are at it.
    #[inline(always)]
    fn step(
        &mut self,
        instruction: &Instruction,
        number: usize,
        at: u32,
        lanes: u32,
        active: u32,
    ) -> Result<Flow, Fault> {
        let warp = &mut self.warps[number];
        if warp.registers.lane_by_lane(&instruction.op, active) {
            return Ok(Flow::Next);
        }
        if active == 0 {
            return Ok(Flow::Next);
        }
        match &instruction.op {
            Op::Jump(_) if active == lanes => Ok(Flow::Next),
            Op::Jump(to) => {
                warp.set(active, *to);
                warp.set(lanes & !active, at + 1);
                Ok(Flow::Apart)
            }
            Op::Return => {
                warp.set(lanes & !active, at + 1);
                warp.set(active, at);
                self.end(number, active)?;
                Ok(Flow::Apart)
            }
            Op::Barrier { number: row, threads, aligned } => {
                warp.set(lanes & !active, at + 1);
                self.arrive(number, at, active, [*row, *threads], *aligned)
            }
            Op::Meet { members, what } => self.meet(number, at, lanes, active, *members, what),
            _ if self.watch.is_some() => {
                self.touch_watched(instruction, number, at, active)?;
                Ok(Flow::Next)
            }
            _ => match self.touch(instruction, number, at, active) {
                Ok(()) => Ok(Flow::Next),
                Err((lane, trouble)) => Err(self.fault(number, lane, at, trouble)),
            },
        }
    }

    /// Names a lane's thread and an instruction for a message.
    pub(super) fn place(&self, warp: usize, lane: u32, at: u32) -> Box<Place> {
        let [x, y, _] = self.context.block;
        let thread = 32 * warp as u32 + lane;
        Box::new(Place {
            kernel: self.entry.name.clone(),
            block: self.index,
            thread: [thread % x, thread / x % y, thread / x / y],
            source: self.entry.source(at),
        })
    }

    #[cold]
    pub(super) fn fault(&self, warp: usize, lane: u32, at: u32, trouble: Trouble) -> Fault {
        let place = self.place(warp, lane, at);
        match trouble {
            Trouble::OutOfBounds { access, address, bytes, near } => {
                Fault::OutOfBounds { place, access, address, bytes: Some(bytes), near }
            }
            Trouble::ReadOnly { access, near } => Fault::ReadOnly { place, access, near },
            Trouble::Misaligned { what, address, align } => Fault::Misaligned { place, what, address, align },
            Trouble::NotShared { what, address, bytes, near } => {
                Fault::NotShared { place, what: what.to_owned(), address, bytes, near }
            }
            Trouble::Undefined(what) => Fault::UndefinedPtx { place, what },
        }
    }
}

impl Warp {
    fn new(context: &Context, number: u32, threads: u32) -> Warp {
        let entry = &context.entry;
        let mut registers = Registers::new(entry.counts);
        entry.words.iter().for_each(|&(row, value)| registers.words[row as usize] = [value; 32]);
        entry.doubles.iter().for_each(|&(row, value)| registers.doubles[row as usize] = [value; 32]);
        for &(row, value) in &entry.predicates {
            registers.predicates[row as usize] = if value { u32::MAX } else { 0 };
        }
        let lanes = u32::MAX >> (32 - (threads - 32 * number).min(32));
        let copies = (0..32).map(|_| Copies::default()).collect();
        let (at, first) = ([0; 32], u32::MAX);
        Warp { number, registers, at, lanes, live: lanes, waiting: 0, barrier: None, first, copies }
    }

    fn start(&mut self, context: &Context, block: [u32; 3]) {
        for &(row, special) in &context.entry.specials {
            let values = each(|lane| special.value(self.number, lane as u32, context.block, block, context.grid));
            self.registers.words[row as usize] = values;
        }
        (self.at, self.live, self.waiting, self.barrier, self.first) = ([0; 32], self.lanes, 0, None, u32::MAX);
        self.copies.iter_mut().for_each(Copies::start);
    }

    /// Lanes that can go on.
    pub(super) fn ready(&self) -> u32 {
        self.live & !self.waiting
    }

    /// The lanes to run, their place, and the least place of others.
    pub(super) fn together(&mut self) -> (u32, u32, u32) {
        let ready = self.ready();
        if ready & self.first == 0 {
            self.first = u32::MAX;
        }
        let choice = ready & self.first;
        let (mut lanes, mut least, mut others) = (0, u32::MAX, u32::MAX);
        for lane in Lanes(choice) {
            let at = self.at[lane as usize];
            match at.cmp(&least) {
                std::cmp::Ordering::Less => (lanes, others, least) = (1 << lane, least, at),
                std::cmp::Ordering::Equal => lanes |= 1 << lane,
                std::cmp::Ordering::Greater => others = others.min(at),
            }
        }
        (lanes, least, others)
    }

    /// Puts lanes at a place.
    pub(super) fn set(&mut self, lanes: u32, at: u32) {
        Lanes(lanes).for_each(|lane| self.at[lane as usize] = at);
    }
}

pub(super) fn add(counter: &std::cell::Cell<u64>, count: u64) {
    counter.set(counter.get() + count);
}
