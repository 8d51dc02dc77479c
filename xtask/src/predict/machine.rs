//! Machine code made of PTX, each instruction with the PTX line that it comes from.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::cost::card::reports;

/// The pipes of a multiprocessor that predictions look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pipe {
    /// Integers, logic, comparisons.
    Alu,
    /// Floats, and products of integers.
    Fma,
    /// Of the last, those that one half of that pipe has alone: products of integers.
    FmaHeavy,
    /// Exponentials, reciprocals, conversions.
    Special,
    Double,
    /// Loads and stores and shuffles, by instruction; what they move counts apart.
    Memory,
    Tensor,
    /// What takes an issue slot and no pipe that matters here: branches, barriers, uniform registers.
    Other,
}

/// A kernel's machine code.
#[derive(Debug, Default)]
pub(super) struct Machine {
    pub(super) registers: u32,
    /// Static shared memory, in bytes.
    pub(super) shared: u32,
    pub(super) instructions: Vec<Instruction>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instruction {
    /// With its modifiers.
    pub(super) opcode: String,
    /// Of the PTX; 0 if not known.
    line: u32,
    /// Of instructions that are carried out one after another, up to a branch or to where one leads.
    block: u32,
}

/// Assembles a file of PTX for an architecture (`90a`), and reads what comes out: its kernels.
pub(super) fn assemble(nvcc: &Path, ptx: &Path, arch: &str) -> Result<BTreeMap<String, Machine>> {
    let cubin = ptx.with_extension(format!("{arch}.cubin"));
    let mut ptxas = Command::new(nvcc.with_file_name("ptxas"));
    ptxas.args(["-lineinfo", "-v", "-arch", &format!("sm_{arch}"), "-o"]).arg(&cubin).arg(ptx);
    let log = said(&mut ptxas)?.1;
    let mut nvdisasm = Command::new(nvcc.with_file_name("nvdisasm"));
    let code = said(nvdisasm.args(["-c", "-gp"]).arg(&cubin))?.0;
    let mut machines = kernels(&code);
    for (kernel, reported) in reports(&log) {
        if let Some(machine) = machines.get_mut(&kernel) {
            (machine.registers, machine.shared) = (reported.registers, reported.shared);
        }
    }
    Ok(machines)
}

/// What a program printed: standard output, then errors.
fn said(command: &mut Command) -> Result<(String, String)> {
    let output = command.output().with_context(|| format!("run {:?}", command.get_program()))?;
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    if !output.status.success() {
        bail!("{command:?} failed ({}):\n{out}{err}", output.status);
    }
    Ok((out, err))
}

/// The kernels of a listing with lines of PTX.
fn kernels(listing: &str) -> BTreeMap<String, Machine> {
    let mut kernels: BTreeMap<String, Machine> = BTreeMap::new();
    let (mut current, mut line, mut block) = (String::new(), 0, 0);
    for text in listing.lines().map(str::trim) {
        if let Some(name) = text.strip_prefix(".text.").and_then(|name| name.strip_suffix(':')) {
            (current, line) = (name.to_owned(), 0);
        } else if let Some((_, number)) = text.strip_prefix("//## File ").and_then(|text| text.split_once(", line ")) {
            line = number.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0);
        } else if text.starts_with(".L_") {
            block += 1;
        } else if let Some(opcode) = opcode(text).filter(|opcode| !opcode.starts_with("NOP")) {
            let ends = ["BRA", "BRX", "EXIT", "RET", "CALL"].contains(&opcode.split('.').next().unwrap_or(""));
            let instruction = Instruction { opcode: opcode.to_owned(), line, block };
            kernels.entry(current.clone()).or_default().instructions.push(instruction);
            block += u32::from(ends);
        }
    }
    kernels
}

/// `/*00d0*/   @P0 LDG.E R2, [R4.64] ;` to `LDG.E`.
fn opcode(text: &str) -> Option<&str> {
    let (address, rest) = text.strip_prefix("/*")?.split_once("*/")?;
    u64::from_str_radix(address, 16).ok()?;
    let rest = rest.trim_start();
    let rest = if rest.starts_with('@') { rest.split_once(' ')?.1.trim_start() } else { rest };
    rest.split([' ', ';']).next().filter(|opcode| !opcode.is_empty())
}

impl Machine {
    /// How often each instruction is issued, where warps come to PTX lines so often. All of a block are issued alike:
    /// as often as the median of the lines that they come from, for ptxas moves some from one block to another.
    pub(super) fn issued(&self, lines: &BTreeMap<u32, f64>) -> Vec<f64> {
        let mut times = Vec::with_capacity(self.instructions.len());
        for block in self.instructions.chunk_by(|a, b| a.block == b.block) {
            let mut own: Vec<f64> = block.iter().map(|i| lines.get(&i.line).copied().unwrap_or(0.0)).collect();
            own.sort_by(f64::total_cmp);
            times.extend(std::iter::repeat_n(own[own.len() / 2], own.len()));
        }
        times
    }
}

impl Instruction {
    /// The pipes that it keeps busy, by the families of opcodes in CUDA's binary utilities; what is not known there is
    /// the ALU's.
    pub(super) fn pipes(&self) -> &'static [Pipe] {
        let base = self.opcode.split('.').next().unwrap_or("");
        match base {
            "FFMA" | "FMUL" | "FADD" | "FFMA32I" | "FMUL32I" | "FADD32I" | "HFMA2" | "HADD2" | "HMUL2" => &[Pipe::Fma],
            "IMAD" | "IDP" | "IMUL" => &[Pipe::Fma, Pipe::FmaHeavy],
            "MUFU" | "I2F" | "F2I" | "F2F" | "POPC" | "FLO" | "BREV" | "I2FP" | "FRND" => &[Pipe::Special],
            "DADD" | "DFMA" | "DMUL" | "DSETP" => &[Pipe::Double],
            "LDG" | "STG" | "LDS" | "STS" | "LDSM" | "LDGSTS" | "ATOMG" | "ATOMS" | "RED" | "SHFL" | "LD" | "ST"
            | "LDL" | "STL" | "ATOM" => &[Pipe::Memory],
            "HMMA" | "IMMA" | "QMMA" | "OMMA" => &[Pipe::Tensor],
            "BRA" | "EXIT" | "RET" | "CALL" | "BSSY" | "BSYNC" | "BAR" | "WARPSYNC" | "DEPBAR" | "LDGDEPBAR"
            | "LDC" | "ULDC" | "LDCU" | "S2R" | "S2UR" | "CS2R" | "ERRBAR" | "MEMBAR" | "CCTL" | "YIELD"
            | "NANOSLEEP" => &[Pipe::Other],
            _ if base.starts_with('U') || base.starts_with("R2U") => &[Pipe::Other],
            _ => &[Pipe::Alu],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "
.text.twofour_a:
	//## File \".nv_debug_ptx_txt\", line 12
        /*0000*/                   LDC R1, c[0x0][0x28] ;
	//## File \".nv_debug_ptx_txt\", line 14
        /*0010*/              @!P0 IMAD.WIDE.U32 R2, R5, UR6, R2 ;
        /*0020*/                   EXIT ;
        /*0030*/                   NOP;
.text.twofour_b:
        /*0000*/                   MUFU.EX2 R1, R2 ;
";

    #[test]
    fn instructions_have_the_lines_they_come_from() {
        let kernels = kernels(LISTING);
        let of = |kernel: &str| -> Vec<(&str, u32)> {
            kernels[kernel].instructions.iter().map(|i| (i.opcode.as_str(), i.line)).collect()
        };
        assert_eq!(of("twofour_a"), [("LDC", 12), ("IMAD.WIDE.U32", 14), ("EXIT", 14)]);
        assert_eq!(of("twofour_b"), [("MUFU.EX2", 0)]);
        let lines = BTreeMap::from([(12, 1.0), (14, 5.0)]);
        assert_eq!(kernels["twofour_a"].issued(&lines), [5.0; 3]);
        assert_eq!(kernels["twofour_a"].instructions[1].pipes(), [Pipe::Fma, Pipe::FmaHeavy]);
        assert_eq!(kernels["twofour_b"].instructions[0].pipes(), [Pipe::Special]);
    }
}
