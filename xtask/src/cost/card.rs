//! One kernel's cost card, put together from ptxas' log and the machine code.

use anyhow::{Context, Result};
use std::collections::BTreeMap;

use super::sass::{self, Instruction, Loop};
use super::toolchain::Compiled;

#[derive(Debug, Default)]
pub(super) struct Card {
    /// The file's stem: `mask`.
    pub(super) module: String,
    /// `90a`.
    pub(super) arch: String,
    /// The symbol.
    pub(super) kernel: String,
    pub(super) reported: Reported,
    /// The most threads a block may have.
    pub(super) threads: u32,
    /// Instructions in all.
    pub(super) instructions: usize,
    pub(super) main_loop: Option<Count>,
    /// Of the main loop, or of everything where there is none.
    pub(super) tally: Tally,
    pub(super) local_memory: bool,
}

/// What ptxas says of a function.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Reported {
    pub(crate) registers: u32,
    pub(crate) stack: u32,
    pub(crate) spill_stores: u32,
    pub(crate) spill_loads: u32,
    pub(crate) shared: u32,
}

/// A number of instructions, and whether no more are carried out: no inner loop, no call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Count {
    pub(super) instructions: f64,
    pub(super) exact: bool,
}

/// Kinds of instructions, counted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// By `LDG`, `STG`, `LDS` or `STS` and width in bits, widest first.
    pub(super) accesses: BTreeMap<&'static str, BTreeMap<std::cmp::Reverse<u32>, usize>>,
    /// Exponentials, reciprocals and the like.
    pub(super) special: usize,
    /// Tensor cores, and the copies and barriers that feed them.
    pub(super) tensor: BTreeMap<String, usize>,
}

/// The cards of the kernels in a compiled file.
pub(super) fn read(module: &str, arch: &str, compiled: &Compiled) -> Result<Vec<Card>> {
    let mut reports = reports(&compiled.log);
    let threads = block_sizes(&compiled.elf);
    let mut cards = Vec::new();
    for (kernel, code) in sass::functions(&compiled.sass) {
        let reported = reports.remove(&kernel).with_context(|| format!("ptxas said nothing of {kernel}"))?;
        // Without launch bounds a block may have as many threads as hardware allows.
        let threads = threads.get(&kernel).copied().unwrap_or(1024);
        let mut card = Card { module: module.into(), arch: arch.into(), kernel, reported, threads, ..Card::default() };
        card.count(&code);
        cards.push(card);
    }
    Ok(cards)
}

impl Card {
    fn count(&mut self, code: &[Instruction]) {
        self.instructions = code.iter().filter(|i| i.opcode != "NOP").count();
        self.local_memory = code.iter().any(|i| matches!(i.base(), "LDL" | "STL"));
        let Some(Loop { instructions, exact }) = main_loop(code) else {
            self.tally = Tally::of(code.iter());
            return;
        };
        self.main_loop = Some(Count { instructions: instructions.len() as f64, exact });
        self.tally = Tally::of(instructions.iter().map(|&index| &code[index]));
    }

    /// What messages call it.
    pub(super) fn name(&self) -> String {
        format!("{} on sm_{}", self.kernel, self.arch)
    }

    /// What no kernel may have.
    pub(super) fn faults(&self) -> Vec<String> {
        let Reported { stack, spill_stores, spill_loads, .. } = self.reported;
        let mut faults = Vec::new();
        if spill_stores + spill_loads > 0 {
            faults.push(format!("{}: spills ({spill_stores} bytes stored, {spill_loads} loaded)", self.name()));
        }
        let totals = totals(&self.kernel);
        if stack > totals || (self.local_memory && totals == 0) {
            faults.push(format!("{}: local memory ({stack} bytes of stack, {totals} of them for totals)", self.name()));
        }
        for needed in needed(&self.kernel) {
            if !self.tally.tensor.contains_key(*needed) {
                faults.push(format!("{}: no {needed} in its main loop", self.name()));
            }
        }
        faults
    }

    /// Instructions of the main loop for each group of four weights.
    pub(super) fn per_group(&self) -> Option<Count> {
        let Count { instructions, exact } = self.main_loop?;
        Some(Count { instructions: instructions / f64::from(groups_a_turn(&self.kernel)?), exact })
    }

    /// How many blocks fit a multiprocessor at once, as far as the binary tells (shared memory asked for at launch
    /// not).
    pub(super) fn blocks(&self) -> Option<u32> {
        let Multiprocessor { threads, blocks, shared } = Multiprocessor::of(&self.arch)?;
        let warps = self.threads.div_ceil(32);
        // Registers are handed out by 256 a warp; 1 KiB of shared memory a block is the system's, and granules are 128.
        let by_registers = 65536 / ((self.reported.registers * 32).next_multiple_of(256) * warps).max(1);
        let by_shared = shared * 1024 / (self.reported.shared.next_multiple_of(128) + 1024);
        Some(blocks.min(threads / (32 * warps)).min(by_registers).min(by_shared))
    }
}

/// The largest loop; where there are tensor cores, the smallest of those that keep them busiest, which is not one
/// around it nor its slower twin for matrices whose rows are not aligned for cp.async.
fn main_loop(code: &[Instruction]) -> Option<Loop> {
    let loops = sass::loops(code).into_iter().map(|found| {
        let count = |of: &dyn Fn(&str) -> bool| found.instructions.iter().filter(|&&i| of(code[i].base())).count();
        let matrix = [count(&|base| base.ends_with("MMA")), count(&|base| base == "LDGSTS")];
        (matrix, found)
    });
    let size = |matrix: [usize; 2], found: &Loop| {
        let instructions = found.instructions.len() as isize;
        if matrix[0] > 0 { -instructions } else { instructions }
    };
    loops.max_by_key(|(matrix, found)| (*matrix, size(*matrix, found))).map(|(_, found)| found)
}

/// What the main loop of a kernel must have that is made of `cuda/common/tile.cuh`: tensor-core instructions, sparse
/// ones for a sparse product, fed from shared memory that copies fill meanwhile.
fn needed(kernel: &str) -> &'static [&'static str] {
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| kernel.starts_with(prefix));
    let matmul = ["output", "input", "gradient", "logits", "step"].map(|product| format!("twofour_matmul_{product}"));
    if begins(&["twofour_sparse_tile_i8", "twofour_sparse_small_i8"]) {
        &["IMMA.SP", "LDSM", "LDGSTS"]
    } else if begins(&["twofour_sparse_tile_", "twofour_sparse_small_"]) {
        &["HMMA.SP", "LDSM", "LDGSTS"]
    } else if begins(&matmul.each_ref().map(String::as_str)) {
        &["HMMA", "LDSM", "LDGSTS"]
    } else {
        &[]
    }
}

/// Bytes of local memory a kernel may have: the totals that `cuda/common/fold.cuh` adds long sums to, as many as there
/// are sums in a thread's registers.
fn totals(kernel: &str) -> u32 {
    let small = kernel.starts_with("twofour_matmul_small_");
    if needed(kernel).first().is_none_or(|tensor| tensor.starts_with("IMMA")) && !small {
        return 0;
    }
    let sums = match (kernel.rsplit('_').next(), small) {
        (Some("16"), true) => 8,
        (Some("16"), false) => 16,
        (Some("128"), _) => 64,
        _ => 128,
    };
    4 * sums
}

/// `twofour_mask_<variant>_<logits>_<weights>[_<gradient>]`: a thread takes 8 bytes of one pattern's logits a turn.
/// `twofour_mask_frozen_<weights>`: the two groups whose codes share a byte; the count takes in the last one, alone.
/// `twofour_compress_..`: a patch of 4096 groups a block of 256 threads; the count takes in what only ragged rows need.
/// `twofour_select_score_<weights>`: 32 bytes of the weight a turn.
/// `twofour_learn_..`: a warp takes 64 groups a turn; the count takes in what only the last, short unit needs.
/// `twofour_matmul_small_<source>_.._<tokens>`: four groups a step, and as many steps as the loop is unrolled to.
fn groups_a_turn(kernel: &str) -> Option<u32> {
    if let Some(small) = kernel.strip_prefix("twofour_matmul_small_") {
        return Some(match (small.ends_with("_16"), small.starts_with("codes_")) {
            (true, true) => 16,
            (true, false) => 8,
            _ => 4,
        });
    }
    if kernel.starts_with("twofour_compress_") {
        return Some(4096 / 256);
    }
    if kernel.starts_with("twofour_learn_") && !kernel.ends_with("_finish") && !kernel.ends_with("_clip") {
        return Some(2);
    }
    if let Some(weights) = kernel.strip_prefix("twofour_select_score_") {
        return Some(if weights == "f32" { 2 } else { 4 });
    }
    if kernel.starts_with("twofour_mask_frozen_") {
        return Some(2);
    }
    let words: Vec<&str> = kernel.strip_prefix("twofour_mask_")?.split('_').collect();
    let types = words.iter().rev().take_while(|word| matches!(**word, "f32" | "f16" | "bf16")).count();
    let logits = words.get(words.len() - types).filter(|_| types >= 2)?;
    Some(if *logits == "f32" { 2 } else { 4 })
}

/// What one multiprocessor has: threads, blocks, KiB of shared memory (CUDA C++ Programming Guide, compute
/// capabilities).
struct Multiprocessor {
    threads: u32,
    blocks: u32,
    shared: u32,
}

impl Multiprocessor {
    fn of(arch: &str) -> Option<Self> {
        let (threads, blocks, shared) = match arch.trim_end_matches(['a', 'f']) {
            "80" => (2048, 32, 164),
            "86" => (1536, 16, 100),
            "89" => (1536, 24, 100),
            "90" | "100" | "103" => (2048, 32, 228),
            "120" | "121" => (1536, 24, 100),
            _ => return None,
        };
        Some(Self { threads, blocks, shared })
    }
}

impl Tally {
    fn of<'a>(code: impl Iterator<Item = &'a Instruction>) -> Self {
        let mut tally = Self::default();
        for instruction in code {
            let base = instruction.base();
            if let Some(kind) = ["LDG", "STG", "LDS", "STS"].into_iter().find(|kind| *kind == base) {
                let widths = tally.accesses.entry(kind).or_default();
                *widths.entry(std::cmp::Reverse(instruction.width())).or_default() += 1;
            } else if base == "MUFU" {
                tally.special += 1;
            } else if is_tensor(base) {
                let sparse = if instruction.opcode.split('.').any(|part| part == "SP") { ".SP" } else { "" };
                *tally.tensor.entry(format!("{base}{sparse}")).or_default() += 1;
            }
        }
        tally
    }
}

/// HMMA, IMMA, HGMMA, UTCHMMA …; ldmatrix, stmatrix, cp.async, TMA.
fn is_tensor(base: &str) -> bool {
    base.ends_with("MMA") || matches!(base, "LDSM" | "STSM" | "LDGSTS" | "UTMALDG" | "UTMASTG" | "UBLKCP")
}

/// ptxas' figures by function.
pub(crate) fn reports(log: &str) -> BTreeMap<String, Reported> {
    let mut reports: BTreeMap<String, Reported> = BTreeMap::new();
    let mut current = String::new();
    for line in log.lines().map(str::trim) {
        if let Some((_, name)) = line.split_once("Function properties for ") {
            current = name.trim().to_owned();
            reports.entry(current.clone()).or_default();
        } else if let Some(report) = reports.get_mut(&current) {
            let before = |what: &str| number_before(line, what);
            if let Some(stack) = before(" bytes stack frame") {
                report.stack = stack;
                report.spill_stores = before(" bytes spill stores").unwrap_or(0);
                report.spill_loads = before(" bytes spill loads").unwrap_or(0);
            } else if let Some(registers) = before(" registers") {
                report.registers = registers;
                report.shared = before(" bytes smem").unwrap_or(0);
            }
        }
    }
    reports
}

/// The number that ends where `what` begins.
fn number_before(line: &str, what: &str) -> Option<u32> {
    let before = &line[..line.find(what)?];
    before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// `EIATTR_MAX_THREADS` of each kernel, from the listing of the object file's sections.
fn block_sizes(elf: &str) -> BTreeMap<String, u32> {
    let mut sizes = BTreeMap::new();
    let (mut kernel, mut wanted) = (None, false);
    for line in elf.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix(".nv.info.") {
            kernel = Some(name.to_owned());
        } else if line.starts_with("Attribute:") {
            wanted = line.ends_with("EIATTR_MAX_THREADS");
        } else if let (true, Some(kernel), Some(value)) = (wanted, &kernel, line.strip_prefix("Value:")) {
            let sides =
                value.split_whitespace().filter_map(|side| u32::from_str_radix(side.trim_start_matches("0x"), 16).ok());
            sizes.insert(kernel.clone(), sides.product());
            wanted = false;
        }
    }
    sizes
}

/// What ptxas advises against or warns of; it says so, and succeeds.
pub(super) fn advisories(log: &str, what: &str) -> Vec<String> {
    let bad = |line: &&str| {
        let line = line.to_lowercase();
        ["advisory", "potential performance loss", "warning"].iter().any(|word| line.contains(word))
    };
    log.lines().filter(bad).map(|line| format!("{what}: {}", line.trim())).collect()
}

#[cfg(test)]
mod tests;
