//! Decoding of the forms with modifiers of many kinds: jumps, comparisons, memory and meetings.

use super::decode::Decoder;
use super::op::{
    Atomic, Cell, File, Guard, Kind, Logic, Matrix, Meeting, NONE, Op, Row, Shuffle, Space, Test, Transfer, Vote,
};
use super::parse::{Class, type_bytes};
use super::statement::{Operand, Statement};
use crate::Fault;
use crate::tensor::Element;

/// Hints about caches. They change nothing that can be seen here.
const HINTS: [&str; 12] = [
    "ca",
    "cg",
    "cs",
    "lu",
    "wb",
    "wt",
    "L1::no_allocate",
    "L1::evict_last",
    "L1::evict_first",
    "L2::64B",
    "L2::128B",
    "L2::256B",
];

impl<'a> Decoder<'a> {
    /// Everything that is not in the table.
    pub(super) fn structured(&mut self, of: &Statement<'a>) -> Result<Op, Fault> {
        let parts: Vec<&str> = of.form.split('.').collect();
        let operands = of.operands.as_slice();
        match (parts[0], &parts[1..], operands) {
            ("bra", [] | ["uni"], [label]) => Ok(Op::Jump(self.label(of, label)?)),
            ("setp", modifiers, _) => self.compare(of, modifiers),
            ("ld", modifiers, [to, from]) => Ok(Op::Load(self.transfer(of, modifiers, from, to, true)?)),
            ("st", modifiers, [to, from]) => Ok(Op::Store(self.transfer(of, modifiers, to, from, false)?)),
            ("atom" | "red", modifiers, _) => self.atomic(of, parts[0] == "atom", modifiers),
            ("cp", ["async", "commit_group"], []) => Ok(Op::Commit),
            ("cp", ["async", "wait_group"], [Operand::Integer(newest)]) => match u32::try_from(*newest) {
                Ok(newest) => Ok(Op::WaitGroup(newest)),
                Err(_) => Err(of.wrong("the number of groups does not fit")),
            },
            ("cp", ["async", "wait_all"], []) => Ok(Op::WaitAll),
            ("cp", ["async", "ca" | "cg", "shared" | "shared::cta", "global", hints @ ..], _) => {
                self.copy_async(of, hints)
            }
            ("bar" | "barrier", _, _) => self.barrier(of, &parts, operands),
            ("shfl", ["sync", mode, "b32"], [d, a, b, c, members]) => self.shuffle(of, mode, [d, a, b, c, members]),
            ("vote", ["sync", what, _], [d, a, members]) => self.vote(of, what, d, a, members),
            ("ldmatrix", ["sync", "aligned", "m8n8", rest @ ..], [d, at]) => self.load_matrix(of, rest, d, at),
            ("mma", _, _) => self.matrix(of),
            _ => Err(of.wrong("there is no such form with these operands, or it is not built")),
        }
    }

    fn compare(&mut self, of: &Statement<'a>, modifiers: &[&str]) -> Result<Op, Fault> {
        let unbuilt = || of.wrong("this comparison is not built");
        let (logic, test, kind) = match modifiers {
            [test, kind] => (None, *test, *kind),
            [test, "and", kind] => (Some(Logic::And), *test, *kind),
            [test, "or", kind] => (Some(Logic::Or), *test, *kind),
            [test, "xor", kind] => (Some(Logic::Xor), *test, *kind),
            _ => return Err(unbuilt()),
        };
        let (kind, letter) = kind_named(kind).ok_or_else(unbuilt)?;
        let float = matches!(kind, Kind::F32 | Kind::F64);
        let test = test_named(test).filter(|test| float || is_whole(*test)).ok_or_else(unbuilt)?;
        let (to, [a, b], rest) = match of.operands.as_slice() {
            [to, a, b, rest @ ..] => (to, [a, b], rest),
            _ => return Err(unbuilt()),
        };
        let with = match (logic, rest) {
            (None, []) => None,
            (Some(logic), [c]) => Some((logic, self.predicate(of, c)?)),
            _ => return Err(unbuilt()),
        };
        let [a, b] = [self.value(of, a, letter)?, self.value(of, b, letter)?];
        let (p, q) = match to {
            Operand::Pair(p, q) => (self.result(of, &named(p), 'p')?, self.result(of, &named(q), 'p')?),
            _ => (self.result(of, to, 'p')?, NONE),
        };
        Ok(Op::Compare { test, kind, p, q, a, b, with })
    }

    fn transfer(
        &mut self,
        of: &Statement<'a>,
        modifiers: &[&str],
        at: &Operand,
        with: &Operand,
        loads: bool,
    ) -> Result<Transfer, Fault> {
        let unbuilt = || of.wrong("this access is not built");
        let Some((kind, modifiers)) = modifiers.split_last() else {
            return Err(unbuilt());
        };
        let bytes = type_bytes(kind).filter(|&bytes| bytes > 0).ok_or_else(unbuilt)? as u8;
        let (mut space, mut count, mut read_only) = (Space::Generic, 1, false);
        for modifier in modifiers {
            match *modifier {
                "nc" if loads => read_only = true,
                "v2" => count = 2,
                "v4" => count = 4,
                "volatile" | "weak" => {}
                other if HINTS.contains(&other) => {}
                other => space = space_named(other).ok_or_else(unbuilt)?,
            }
        }
        let at = self.address(of, at)?;
        let operands = match with {
            Operand::Vector(parts) => parts.as_slice(),
            one => std::slice::from_ref(one),
        };
        if operands.len() != usize::from(count) || count * bytes > 16 {
            return Err(of.wrong("the vector's length is not that of the form"));
        }
        let (letter, half) = self.width(operands, bytes);
        let mut rows = [NONE; 4];
        for (row, operand) in rows.iter_mut().zip(operands) {
            *row = if loads { self.result(of, operand, letter)? } else { self.value(of, operand, letter)? };
        }
        let file = if letter == 'd' { File::Doubles } else { File::Words };
        let cell = Cell { bytes, signed: kind.starts_with('s') && bytes < 8, half, file };
        Ok(Transfer { space, read_only, cell, count, rows, at })
    }

    /// Registers may be wider than what is moved, and then decide.
    fn width(&self, operands: &[Operand], bytes: u8) -> (char, bool) {
        let of = |operand: &Operand| match operand {
            Operand::Name(name) => self.register(name).map(|(_, class)| class),
            _ => None,
        };
        let widest = match bytes {
            1 | 2 => Class::Half,
            4 => Class::Word,
            _ => Class::Double,
        };
        match (operands.iter().find_map(of).unwrap_or(widest), bytes) {
            (Class::Double, _) | (_, 8) => ('d', false),
            (Class::Half, 1 | 2) => ('h', true),
            _ => ('w', false),
        }
    }

    fn atomic(&mut self, of: &Statement<'a>, gives: bool, modifiers: &[&str]) -> Result<Op, Fault> {
        let unbuilt = || of.wrong("this atomic operation is not built");
        let [modifiers @ .., operation, kind] = modifiers else {
            return Err(unbuilt());
        };
        let mut space = Space::Generic;
        for modifier in modifiers {
            match *modifier {
                // The watch knows no order of an atomic's own, and no scope below the device.
                "relaxed" | "gpu" | "sys" => {}
                other => space = space_named(other).filter(|space| stored_to(*space)).ok_or_else(unbuilt)?,
            }
        }
        let what = atomic_named(operation, kind).ok_or_else(unbuilt)?;
        let bytes = type_bytes(kind).filter(|bytes| [4, 8].contains(bytes)).ok_or_else(unbuilt)? as u8;
        let letter = if bytes == 8 { 'd' } else { 'w' };
        let (d, operands) = match (gives, of.operands.as_slice()) {
            (true, [d, rest @ ..]) => (self.result(of, d, letter)?, rest),
            (_, rest) => (NONE, rest),
        };
        let (at, b, c) = match (what, operands) {
            (Atomic::CompareAndSwap, [at, b, c]) => (at, b, self.value(of, c, letter)?),
            (Atomic::CompareAndSwap, _) => return Err(unbuilt()),
            (_, [at, b]) => (at, b, NONE),
            _ => return Err(unbuilt()),
        };
        let b = self.value(of, b, letter)?;
        Ok(Op::Atomic { what, space, bytes, d, b, c, at: self.address(of, at)? })
    }

    fn copy_async(&mut self, of: &Statement<'a>, hints: &[&str]) -> Result<Op, Fault> {
        let [to, from, Operand::Integer(bytes), rest @ ..] = of.operands.as_slice() else {
            return Err(of.wrong("takes two addresses and a number of bytes"));
        };
        let bypasses = of.form.contains(".cg.");
        let size = u8::try_from(*bytes).ok().filter(|&bytes| bytes == 16 || !bypasses && [4, 8].contains(&bytes));
        let Some(bytes) = size else {
            return Err(of.wrong("copies 4, 8 or 16 bytes, `.cg` 16 alone"));
        };
        if !hints.iter().all(|hint| HINTS.contains(hint)) {
            return Err(of.wrong("this copy is not built"));
        }
        let valid = match rest {
            [] => NONE,
            [valid] => self.value(of, valid, 'w')?,
            _ => return Err(of.wrong("cache policies are not built")),
        };
        Ok(Op::CopyAsync { to: self.address(of, to)?, from: self.address(of, from)?, bytes, valid })
    }

    fn barrier(&mut self, of: &Statement<'a>, parts: &[&str], operands: &[Operand<'a>]) -> Result<Op, Fault> {
        let (kind, operands) = match (parts, operands) {
            (["bar", "warp", "sync"], [members]) => {
                return Ok(Op::Meet { members: self.value(of, members, 'w')?, what: Meeting::Warp });
            }
            (["bar", "sync"] | ["bar" | "barrier", "cta", "sync"] | ["barrier", "sync"], operands) => {
                (parts[0] == "bar", operands)
            }
            (["barrier", "sync", "aligned"] | ["barrier", "cta", "sync", "aligned"], operands) => (true, operands),
            _ => return Err(of.wrong("this barrier is not built")),
        };
        let (number, threads) = match operands {
            [number] => (self.value(of, number, 'w')?, NONE),
            [number, threads] => (self.value(of, number, 'w')?, self.value(of, threads, 'w')?),
            _ => return Err(of.wrong("takes a barrier's number and, if not all take part, how many threads do")),
        };
        Ok(Op::Barrier { number, threads, aligned: kind })
    }

    fn shuffle(&mut self, of: &Statement<'a>, mode: &str, operands: [&Operand<'a>; 5]) -> Result<Op, Fault> {
        let [to, a, b, c, members] = operands;
        let mode = match mode {
            "up" => Shuffle::Up,
            "down" => Shuffle::Down,
            "bfly" => Shuffle::Butterfly,
            "idx" => Shuffle::Index,
            _ => return Err(of.wrong("there is no such shuffle")),
        };
        let [a, b, c] = [self.value(of, a, 'w')?, self.value(of, b, 'w')?, self.value(of, c, 'w')?];
        let members = self.value(of, members, 'w')?;
        let (d, p) = match to {
            Operand::Pair(d, p) => (self.result(of, &named(d), 'w')?, self.result(of, &named(p), 'p')?),
            _ => (self.result(of, to, 'w')?, NONE),
        };
        Ok(Op::Meet { members, what: Meeting::Shuffle { mode, d, p, a, b, c } })
    }

    fn vote(
        &mut self,
        of: &Statement<'a>,
        what: &str,
        d: &Operand,
        a: &Operand<'a>,
        members: &Operand,
    ) -> Result<Op, Fault> {
        let (what, letter) = match of.form.rsplit_once('.').map_or((what, ""), |(_, kind)| (what, kind)) {
            ("ballot", "b32") => (Vote::Ballot, 'w'),
            ("all", "pred") => (Vote::All, 'p'),
            ("any", "pred") => (Vote::Any, 'p'),
            ("uni", "pred") => (Vote::Uniform, 'p'),
            _ => return Err(of.wrong("there is no such vote")),
        };
        let a: Guard = self.predicate(of, a)?;
        let members = self.value(of, members, 'w')?;
        Ok(Op::Meet { members, what: Meeting::Vote { what, d: self.result(of, d, letter)?, a } })
    }

    fn load_matrix(&mut self, of: &Statement<'a>, rest: &[&str], d: &Operand, at: &Operand) -> Result<Op, Fault> {
        let (count, transposed) = match rest {
            [count, "shared" | "shared::cta", "b16"] => (*count, false),
            [count, "trans", "shared" | "shared::cta", "b16"] => (*count, true),
            _ => return Err(of.wrong("only matrices of 8 x 8 16-bit elements in shared memory are built")),
        };
        let count: u8 = match count {
            "x1" => 1,
            "x2" => 2,
            "x4" => 4,
            _ => return Err(of.wrong("loads 1, 2 or 4 matrices")),
        };
        let rows = self.registers(of, d, count, true)?;
        let what = Meeting::LoadMatrix { count, transposed, rows, at: self.address(of, at)? };
        Ok(Op::Meet { members: NONE, what })
    }

    /// A vector of so many 32-bit registers.
    fn registers(
        &mut self,
        of: &Statement<'a>,
        operand: &Operand,
        length: u8,
        written: bool,
    ) -> Result<[Row; 4], Fault> {
        let parts = match operand {
            Operand::Vector(parts) if parts.len() == usize::from(length) => parts,
            _ => return Err(of.wrong("an operand must be a vector of registers of the form's length")),
        };
        let mut rows = [NONE; 4];
        for (row, part) in rows.iter_mut().zip(parts) {
            *row = if written { self.result(of, part, 'w')? } else { self.value(of, part, 'w')? };
        }
        Ok(rows)
    }

    /// Tensor cores.
    fn matrix(&mut self, of: &Statement<'a>) -> Result<Op, Fault> {
        let dense = Element::ALL.map(|element| (element, false, Some(element.mma())));
        let sparse = Element::ALL.map(|element| (element, true, element.mma_sp()));
        let found = dense.into_iter().chain(sparse).find_map(|(element, is_sparse, form)| {
            form.filter(|&form| form == of.form).map(|form| (element, is_sparse, form))
        });
        let (element, is_sparse, form) = found.ok_or_else(|| of.wrong("this product is not built"))?;
        let (operands, sparse) = match (of.operands.as_slice(), is_sparse) {
            ([d, a, b, c], false) => ([d, a, b, c], None),
            ([d, a, b, c, metadata, Operand::Integer(selector)], true) => {
                let selector = u32::try_from(*selector).ok().filter(|&selector| selector < 4);
                let selector = selector.ok_or_else(|| of.wrong("a selector is 0 to 3"))?;
                ([d, a, b, c], Some((self.value(of, metadata, 'w')?, selector)))
            }
            _ => return Err(of.wrong("takes four matrices and, if sparse, metadata and a selector")),
        };
        let [d, a, b, c] = operands;
        let a = self.registers(of, a, 4, false)?;
        let b = self.registers(of, b, if is_sparse { 4 } else { 2 }, false)?;
        let c = self.registers(of, c, 4, false)?;
        let d = self.registers(of, d, 4, true)?;
        let matrix = Matrix { form, element, d, a, b, c, sparse };
        Ok(Op::Meet { members: NONE, what: Meeting::Matrix(Box::new(matrix)) })
    }
}

fn named<'a>(name: &'a str) -> Operand<'a> {
    if name == "_" { Operand::Sink } else { Operand::Name(name) }
}

fn space_named(name: &str) -> Option<Space> {
    Some(match name {
        "global" => Space::Global,
        "shared" | "shared::cta" => Space::Shared,
        "local" => Space::Local,
        "param" => Space::Param,
        "const" => Space::Const,
        _ => return None,
    })
}

fn stored_to(space: Space) -> bool {
    matches!(space, Space::Global | Space::Shared | Space::Generic)
}

fn atomic_named(operation: &str, kind: &str) -> Option<Atomic> {
    Some(match (operation, kind) {
        ("add", "u32" | "s32" | "u64") => Atomic::Add,
        ("add", "f32") => Atomic::AddF,
        ("min", "u32" | "u64") => Atomic::MinU,
        ("max", "u32" | "u64") => Atomic::MaxU,
        ("min", "s32" | "s64") => Atomic::MinS,
        ("max", "s32" | "s64") => Atomic::MaxS,
        ("and", "b32" | "b64") => Atomic::And,
        ("or", "b32" | "b64") => Atomic::Or,
        ("xor", "b32" | "b64") => Atomic::Xor,
        ("exch", "b32" | "b64") => Atomic::Exchange,
        ("cas", "b32" | "b64") => Atomic::CompareAndSwap,
        _ => return None,
    })
}

fn kind_named(name: &str) -> Option<(Kind, char)> {
    Some(match name {
        "u32" | "b32" => (Kind::U32, 'w'),
        "s32" => (Kind::S32, 'w'),
        "u16" | "b16" => (Kind::U32, 'h'),
        "s16" => (Kind::S16, 'h'),
        "f32" => (Kind::F32, 'w'),
        "u64" | "b64" => (Kind::U64, 'd'),
        "s64" => (Kind::S64, 'd'),
        "f64" => (Kind::F64, 'd'),
        _ => return None,
    })
}

fn test_named(name: &str) -> Option<Test> {
    Some(match name {
        "eq" => Test::Eq,
        "ne" => Test::Ne,
        "lt" | "lo" => Test::Lt,
        "le" | "ls" => Test::Le,
        "gt" | "hi" => Test::Gt,
        "ge" | "hs" => Test::Ge,
        "equ" => Test::Equ,
        "neu" => Test::Neu,
        "ltu" => Test::Ltu,
        "leu" => Test::Leu,
        "gtu" => Test::Gtu,
        "geu" => Test::Geu,
        "num" => Test::Num,
        "nan" => Test::Nan,
        _ => return None,
    })
}

/// Tests of whole numbers.
fn is_whole(test: Test) -> bool {
    matches!(test, Test::Eq | Test::Ne | Test::Lt | Test::Le | Test::Gt | Test::Ge)
}
