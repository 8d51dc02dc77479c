//! From counts to a time: what a multiprocessor gives a clock, and what binds.
//!
//! A launch's blocks do alike and are spread evenly, so that a multiprocessor has its share of every count. Each
//! resource then needs so many clocks; of memory's bytes those that blocks do not share, at the rate of a copy. How
//! much of one hides behind another nobody knows without a device: the fourth root of the sum of fourth powers stands
//! for it (with one resource half as busy as memory it adds 1.5 %, with one as busy 19 %; an estimate, not fitted to
//! anything). On top comes what nothing hides, where blocks share what they load first: the way to the first barrier,
//! such as that of the noise table, as often as blocks follow one another on a multiprocessor.
//!
//! Blind spots: L2's hit rate and DRAM's pages; how many lines of a request L1 looks up a clock (here one); instruction
//! caches; register-file and dispatch conflicts; power and clocks; blocks that do more than others; PTX of `compute_80`
//! stands for that of the device. Throughputs: CUDA's programming guide (arithmetic instructions), arXiv 2402.13499,
//! NAK's tables.

use std::collections::BTreeMap;

use super::launches::Launch;
use super::machine::{Machine, Pipe};

pub(super) struct Device {
    pub(super) name: &'static str,
    /// What kernels are assembled for.
    pub(super) arch: &'static str,
    multiprocessors: f64,
    gigahertz: f64,
    /// Bytes a clock and multiprocessor of a plain copy, both ways counted.
    copy: f64,
    /// Instructions of warps a clock and multiprocessor.
    alu: f64,
    fma: f64,
    fma_heavy: f64,
    special: f64,
    double: f64,
    memory: f64,
    /// Clocks of a multiprocessor for an m16n8k16 product of 16-bit numbers; on Hopper at the 64 % of its rate that
    /// `mma.sync` reaches there.
    matrix: f64,
    /// Bytes of shared memory of a multiprocessor, and threads.
    shared: u32,
    threads: u32,
}

/// H200's copy was measured (4.3 TB/s); A100's and B200's are 87 % of what their memory has (2.04 and 8 TB/s).
pub(super) const DEVICES: [Device; 3] = [
    Device {
        name: "A100",
        arch: "80",
        multiprocessors: 108.0,
        gigahertz: 1.41,
        copy: 11.65,
        alu: 2.0,
        fma: 2.0,
        fma_heavy: 2.0,
        special: 0.5,
        double: 1.0,
        memory: 1.0,
        matrix: 2.0,
        shared: 164 << 10,
        threads: 2048,
    },
    H200,
    Device { name: "B200", arch: "100a", multiprocessors: 148.0, gigahertz: 1.92, copy: 24.5, matrix: 1.0, ..H200 },
];

const H200: Device = Device {
    name: "H200",
    arch: "90a",
    multiprocessors: 132.0,
    gigahertz: 1.98,
    copy: 16.45,
    alu: 2.0,
    fma: 4.0,
    fma_heavy: 2.0,
    special: 0.5,
    double: 2.0,
    memory: 1.0,
    matrix: 1.56,
    shared: 228 << 10,
    threads: 2048,
};

/// From one kernel of a graph to the next, in microseconds (B300: QuickRunCUDA).
const NEXT_KERNEL: f64 = 0.56;

/// How clocks of several resources become those of all.
const OVERLAP: f64 = 4.0;

/// Bytes from which on two blocks are said to share what they load first, as a table.
const SHARED_BYTES: f64 = 1024.0;

/// What a launch is predicted to take.
#[derive(Debug, Clone, Default)]
pub(super) struct Prediction {
    /// Clocks of each resource on a multiprocessor.
    pub(super) needs: BTreeMap<&'static str, f64>,
    /// Clocks that nothing hides.
    pub(super) exposed: f64,
    /// Machine instructions of warps, of the whole launch.
    pub(super) instructions: f64,
    pub(super) microseconds: f64,
}

impl Device {
    /// Microseconds of so many clocks.
    fn microseconds(&self, clocks: f64) -> f64 {
        clocks / self.gigahertz / 1e3
    }

    /// Microseconds that so many bytes take at the rate of a copy.
    pub(super) fn roof(&self, bytes: f64) -> f64 {
        self.microseconds(bytes / self.copy / self.multiprocessors)
    }

    /// A launch over a problem so many times as large as the one that was profiled.
    pub(super) fn predict(&self, launch: &Launch, machine: &Machine, larger: f64) -> Prediction {
        let share = launch.blocks / launch.profiled / self.multiprocessors * larger;
        let lines: BTreeMap<u32, f64> = launch.issued.iter().copied().collect();
        let mut pipes: BTreeMap<Pipe, f64> = BTreeMap::new();
        let (mut issued, mut matrices) = (0.0, 0.0);
        for (instruction, times) in machine.instructions.iter().zip(machine.issued(&lines)) {
            issued += times;
            instruction.pipes().iter().for_each(|&pipe| *pipes.entry(pipe).or_default() += times);
            matrices += times * self.matrix_clocks(&instruction.opcode);
        }
        let of = |pipe: Pipe| pipes.get(&pipe).copied().unwrap_or(0.0) * share;
        let each = launch.both_bytes - launch.first_bytes;
        let bytes = launch.first_bytes + each * (launch.blocks - 1.0).max(0.0);
        // What both blocks touched: where they share nothing, memory is busy with their own operands meanwhile.
        let shared = 2.0 * launch.first_bytes - launch.both_bytes;
        let exposed = if shared > SHARED_BYTES { launch.first_barrier } else { 0.0 };
        let waves = (launch.blocks / self.multiprocessors / self.resident(launch, machine)).max(1.0).ceil();
        let needs = BTreeMap::from([
            ("memory", bytes * larger / self.copy / self.multiprocessors),
            ("issue", issued * share / 4.0),
            ("ALU", of(Pipe::Alu) / self.alu),
            ("FMA", (of(Pipe::Fma) / self.fma).max(of(Pipe::FmaHeavy) / self.fma_heavy)),
            ("special", of(Pipe::Special) / self.special),
            ("FP64", of(Pipe::Double) / self.double),
            ("L1", ((launch.lines + launch.wavefronts) * share).max(of(Pipe::Memory) / self.memory)),
            ("tensor", matrices * share),
            ("latency", (launch.chain - exposed) * waves * larger),
        ]);
        let together = needs.values().map(|clocks| clocks.powf(OVERLAP)).sum::<f64>().powf(1.0 / OVERLAP);
        let microseconds = self.microseconds(together + exposed * waves);
        Prediction {
            needs,
            exposed: exposed * waves,
            instructions: issued * share * self.multiprocessors,
            microseconds,
        }
    }

    /// Blocks that a multiprocessor holds at once.
    fn resident(&self, launch: &Launch, machine: &Machine) -> f64 {
        let warps = launch.threads.div_ceil(32);
        let registers = 65536 / ((machine.registers * 32).next_multiple_of(256) * warps).max(1);
        let shared = self.shared / ((machine.shared + launch.shared).next_multiple_of(128) + 1024);
        f64::from(registers.min(shared).min(self.threads / (32 * warps)).clamp(1, 32))
    }

    /// Clocks of a multiprocessor that an instruction of its tensor cores takes; a sparse one as many as a dense one of
    /// half the depth.
    fn matrix_clocks(&self, opcode: &str) -> f64 {
        let halves = if opcode.contains("1688") { 0.5 } else { 1.0 };
        match opcode.split('.').next() {
            Some("HMMA" | "IMMA" | "QMMA" | "OMMA") => self.matrix * halves,
            _ => 0.0,
        }
    }
}

impl Prediction {
    /// Adds a launch that follows in the same graph.
    pub(super) fn and(mut self, next: &Prediction) -> Prediction {
        if self.microseconds > 0.0 {
            self.microseconds += NEXT_KERNEL;
        }
        self.microseconds += next.microseconds;
        self.exposed += next.exposed;
        self.instructions += next.instructions;
        next.needs.iter().for_each(|(&what, clocks)| *self.needs.entry(what).or_default() += clocks);
        self
    }

    /// The resources, the busiest first, with their clocks.
    pub(super) fn busiest(&self) -> Vec<(&'static str, f64)> {
        let mut needs: Vec<_> = self.needs.iter().map(|(&what, &clocks)| (what, clocks)).collect();
        needs.sort_by(|a, b| b.1.total_cmp(&a.1));
        needs
    }
}
