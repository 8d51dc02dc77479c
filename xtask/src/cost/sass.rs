//! Reads disassembled machine code (`cuobjdump -sass`): a function's instructions and its loops.

use std::collections::{BTreeMap, BTreeSet};

/// One machine instruction: `@P0 LDG.E.128 R4, [R2.64+0x10] ;`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instruction {
    address: u64,
    /// Carried out only if a predicate holds.
    guarded: bool,
    /// With its modifiers: `LDG.E.128`.
    pub(super) opcode: String,
    operands: String,
}

/// Instructions that are carried out again and again: indices into the function's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Loop {
    pub(super) instructions: Vec<usize>,
    /// Whether a turn carries out no more than these: there is no loop and no call among them.
    pub(super) exact: bool,
}

/// The functions in a disassembly, by name.
pub(super) fn functions(text: &str) -> BTreeMap<String, Vec<Instruction>> {
    let mut functions = BTreeMap::new();
    let mut current: Option<&mut Vec<Instruction>> = None;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("Function : ") {
            current = Some(functions.entry(name.to_owned()).or_default());
        } else if let (Some(list), Some(instruction)) = (&mut current, instruction(line)) {
            list.push(instruction);
        }
    }
    functions
}

/// `/*00c0*/  @P0 BRA 0x8c0 ;  /* encoding */`
fn instruction(line: &str) -> Option<Instruction> {
    let (address, rest) = line.strip_prefix("/*")?.split_once("*/")?;
    let address = u64::from_str_radix(address, 16).ok()?;
    let mut text = rest.split_once(';')?.0.trim();
    let guarded = text.starts_with('@');
    if guarded {
        text = text.split_once(' ')?.1.trim();
    }
    let (opcode, operands) = text.split_once(' ').unwrap_or((text, ""));
    Some(Instruction { address, guarded, opcode: opcode.to_owned(), operands: operands.trim().to_owned() })
}

impl Instruction {
    /// The opcode without modifiers.
    pub(super) fn base(&self) -> &str {
        self.opcode.split('.').next().unwrap_or("")
    }

    /// Bits that a load or store moves for each thread.
    pub(super) fn width(&self) -> u32 {
        let bits = |part: &str| part.trim_start_matches(['U', 'S']).parse().ok();
        self.opcode.split('.').skip(1).filter_map(bits).find(|bits| [8, 16, 64, 128, 256].contains(bits)).unwrap_or(32)
    }

    /// Where a branch or call goes: `BRA 0x10`, `BRA P0, 0x10`, `BRA.U !UP0, 0x10`, `CALL.REL.NOINC 0x10`.
    fn target(&self) -> Option<u64> {
        if !matches!(self.base(), "BRA" | "CALL") {
            return None;
        }
        let address = self.operands.split([' ', ',']).find_map(|word| word.strip_prefix("0x"))?;
        u64::from_str_radix(address, 16).ok()
    }

    /// Whether the next instruction can follow.
    fn falls_through(&self) -> bool {
        let leaves = match self.base() {
            "EXIT" | "RET" => true,
            "BRA" => self.operands.starts_with("0x"),
            _ => false,
        };
        self.guarded || !leaves
    }
}

/// Instructions from one jump or jump target to the next, and the blocks that can follow.
struct Block {
    instructions: std::ops::Range<usize>,
    next: Vec<usize>,
}

/// The loops of a function: for every jump back to a block through which all ways to the jump lead, the blocks
/// between the two. Jumps to the same block make one loop. The code of called functions does not count.
pub(super) fn loops(code: &[Instruction]) -> Vec<Loop> {
    let blocks = blocks(code);
    let all = reachable(&blocks, None);
    let mut bodies: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for &from in &all {
        for &head in &blocks[from].next {
            if !reachable(&blocks, Some(head)).contains(&from) {
                bodies.entry(head).or_default().extend(between(&blocks, &all, head, from));
            }
        }
    }
    let has_loop =
        |head: usize, body: &BTreeSet<usize>| bodies.keys().any(|other| *other != head && body.contains(other));
    let found = bodies.iter().map(|(&head, body)| {
        let instructions: Vec<usize> = body.iter().flat_map(|&block| blocks[block].instructions.clone()).collect();
        let calls = instructions.iter().any(|&index| code[index].base() == "CALL" && jump(code, index).is_none());
        Loop { exact: !calls && !has_loop(head, body), instructions }
    });
    found.collect()
}

/// The instruction that a jump leads to. On older devices ptxas also leaves a loop by a call that never returns: what
/// it calls ends in an exit.
fn jump(code: &[Instruction], index: usize) -> Option<usize> {
    let address = code[index].target()?;
    let target = code.binary_search_by_key(&address, |instruction| instruction.address).ok()?;
    let end = code[target..].iter().find(|i| !i.guarded && matches!(i.base(), "EXIT" | "RET"));
    let returns = end.is_some_and(|end| end.base() == "RET");
    (code[index].base() == "BRA" || !returns).then_some(target)
}

fn blocks(code: &[Instruction]) -> Vec<Block> {
    let mut starts = BTreeSet::from([0]);
    for (index, instruction) in code.iter().enumerate() {
        let target = jump(code, index);
        starts.extend(target);
        if target.is_some() || !instruction.falls_through() {
            starts.insert(index + 1);
        }
    }
    starts.retain(|&start| start < code.len());
    let starts: Vec<usize> = starts.into_iter().collect();
    let block_of = |instruction: usize| starts.binary_search(&instruction).ok();
    let ends = starts.iter().skip(1).copied().chain([code.len()]);
    let block = |(start, end): (usize, usize)| {
        let jump = jump(code, end - 1).and_then(block_of);
        let follow = if code[end - 1].falls_through() { block_of(end) } else { None };
        Block { instructions: start..end, next: jump.into_iter().chain(follow).collect() }
    };
    starts.iter().copied().zip(ends).map(block).collect()
}

/// The blocks that can be reached from the first without passing through `avoided`.
fn reachable(blocks: &[Block], avoided: Option<usize>) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let mut pending: Vec<usize> = if blocks.is_empty() { Vec::new() } else { vec![0] };
    while let Some(block) = pending.pop() {
        if Some(block) != avoided && found.insert(block) {
            pending.extend(&blocks[block].next);
        }
    }
    found
}

/// The blocks on the ways from `head` to `tail`, both included.
fn between(blocks: &[Block], all: &BTreeSet<usize>, head: usize, tail: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::from([head]);
    let mut pending = vec![tail];
    while let Some(block) = pending.pop() {
        if found.insert(block) {
            pending.extend(all.iter().filter(|&&before| blocks[before].next.contains(&block)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A function as cuobjdump prints it, from instructions alone.
    fn listing(instructions: &[&str]) -> String {
        let mut text = String::from("\tcode for sm_90a\n\t\tFunction : k\n\t.headerflags\t@\"EF_CUDA_SM90\"\n");
        for (index, instruction) in instructions.iter().enumerate() {
            let address = 16 * index;
            text += &format!("        /*{address:04x}*/    {instruction} ;     /* 0x0000000000047945 */\n");
            text += "                           /* 0x000fe20000000800 */\n";
        }
        text
    }

    fn loops_of(instructions: &[&str]) -> Vec<Loop> {
        loops(&functions(&listing(instructions))["k"])
    }

    #[test]
    fn instructions_are_read() {
        let functions =
            functions(&listing(&["LDC R1, c[0x0][0x28]", "@!P0 LDG.E.128 R4, desc[UR4][R2.64+0x10]", "EXIT"]));
        let code = &functions["k"];
        assert_eq!(code.len(), 3);
        assert_eq!(code[1].opcode, "LDG.E.128");
        assert!(code[1].guarded && !code[0].guarded && code[2].operands.is_empty());
        assert_eq!((code[0].target(), code[2].falls_through()), (None, false));
    }

    #[test]
    fn branches_have_targets() {
        for text in ["BRA 0x40", "@P0 BRA 0x40", "BRA.U !UP0, 0x40", "@!P1 BRA P2, 0x40"] {
            let functions = functions(&listing(&[text]));
            let branch = &functions["k"][0];
            assert_eq!(branch.target(), Some(0x40), "{text}");
            assert_eq!(branch.falls_through(), text != "BRA 0x40", "{text}");
        }
    }

    #[test]
    fn a_jump_back_is_a_loop_and_a_stop_is_not() {
        // The branch to itself behind the end is padding that nothing reaches.
        let found =
            loops_of(&["MOV R0, RZ", "IADD3 R0, R0, 0x1, RZ", "FADD R1, R1, R0", "@P0 BRA 0x10", "EXIT", "BRA 0x50"]);
        assert_eq!(found, [Loop { instructions: vec![1, 2, 3], exact: true }]);
    }

    #[test]
    fn code_out_of_line_belongs_where_it_is_reached_from() {
        // 0: to 4 and back to 1: no loop, although it jumps back. 1..=3: a loop with a part at 6.
        let code = [
            "@P1 BRA 0x40",
            "@P2 BRA 0x60",
            "@P0 BRA 0x10",
            "EXIT",
            "MOV R0, RZ",
            "BRA 0x10",
            "MOV R1, RZ",
            "BRA 0x20",
        ];
        assert_eq!(loops_of(&code), [Loop { instructions: vec![1, 2, 6, 7], exact: true }]);
    }

    #[test]
    fn a_call_makes_a_loop_inexact_unless_it_is_a_jump() {
        let call = ["CALL.REL.NOINC 0x30", "@P0 BRA 0x0", "EXIT", "RET.REL.NODEC R2 0x0"];
        assert_eq!(loops_of(&call), [Loop { instructions: vec![0, 1], exact: false }]);
        let jump = ["NOP", "@P1 CALL.REL.NOINC 0x30", "BRA 0x0", "EXIT", "RET.REL.NODEC R2 0x0"];
        assert_eq!(loops_of(&jump), [Loop { instructions: vec![0, 1, 2], exact: true }]);
    }

    #[test]
    fn loops_nest() {
        let found = loops_of(&["NOP", "NOP", "@P0 BRA 0x10", "@P1 BRA 0x0", "EXIT"]);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0], Loop { instructions: vec![0, 1, 2, 3], exact: false });
        assert_eq!(found[1], Loop { instructions: vec![1, 2], exact: true });
    }

    #[test]
    fn straight_code_has_no_loops() {
        assert!(loops_of(&["NOP", "@P0 EXIT", "EXIT"]).is_empty());
        assert!(loops(&[]).is_empty());
    }
}
