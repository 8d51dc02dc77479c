//! Instructions as they are executed: decoded once, every operand the number of a row of registers.
//!
//! A warp has three files of rows: words (32 lanes of 32 bits; 16-bit registers too, their upper bits zero), doubles
//! (32 lanes of 64 bits) and predicates (a bit a lane). Constants are rows as well, so that no operand is a special
//! case.

use super::kinds::{D1, D2, D3, DW, Shift, W1, W2, W2D, W3, WD};
use crate::tensor::Element;

/// The number of a row in its file.
pub(super) type Row = u32;

/// A row that is not there.
pub(super) const NONE: Row = Row::MAX;

/// Which file a row is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum File {
    Words,
    Doubles,
    Predicates,
}

/// What an instruction does with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Reads,
    Writes,
}

/// How two numbers are compared; those with `u`, and `Nan`, hold if either is a NaN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// As what two operands are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    U32,
    S32,
    S16,
    F32,
    U64,
    S64,
    F64,
}

/// Two predicates, or two words, to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Logic {
    And,
    Or,
    Xor,
}

/// A predicate that takes part, or its opposite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Guard {
    pub(super) row: Row,
    pub(super) negated: bool,
}

/// A state space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Param,
    Const,
}

/// The first address of shared memory. As on newer devices the first KiB is not the kernel's, so that null is not.
pub(super) const SHARED: u64 = 1 << 10;

/// The first address of parameters.
pub(super) const PARAMS: u64 = 1 << 12;

/// The first address of a thread's local memory.
pub(super) const LOCAL: u64 = 1 << 16;

/// A row and what is added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) file: File,
    pub(super) row: Row,
    pub(super) offset: i64,
}

/// One element of a load or store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) bytes: u8,
    pub(super) signed: bool,
    /// A load into a 16-bit register.
    pub(super) half: bool,
    /// Of which file the registers are.
    pub(super) file: File,
}

/// A load or store of one, two or four elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transfer {
    pub(super) space: Space,
    /// Through the read-only path.
    pub(super) read_only: bool,
    pub(super) cell: Cell,
    pub(super) count: u8,
    pub(super) rows: [Row; 4],
    pub(super) at: Address,
}

/// What an atomic operation makes of the old value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Atomic {
    Add,
    AddF,
    MinU,
    MaxU,
    MinS,
    MaxS,
    And,
    Or,
    Xor,
    Exchange,
    CompareAndSwap,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vote {
    Ballot,
    All,
    Any,
    Uniform,
}

/// An instruction of tensor cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Matrix {
    pub(super) form: &'static str,
    pub(super) element: Element,
    pub(super) d: [Row; 4],
    pub(super) a: [Row; 4],
    /// If dense, only the first two.
    pub(super) b: [Row; 4],
    pub(super) c: [Row; 4],
    /// The metadata's row, and the selector.
    pub(super) sparse: Option<(Row, u32)>,
}

/// What waits for other lanes or warps. New ones (mbarriers, bulk copies, wgmma, setmaxnreg, clusters) belong here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meeting {
    /// `bar.warp.sync`: only meets.
    Warp,
    /// Result, predicate (or none), value, lane or distance, clamp and segments.
    Shuffle {
        mode: Shuffle,
        d: Row,
        p: Row,
        a: Row,
        b: Row,
        c: Row,
    },
    /// The result is a word for a ballot, else a predicate.
    Vote {
        what: Vote,
        d: Row,
        a: Guard,
    },
    /// As many rows as matrices.
    LoadMatrix {
        count: u8,
        transposed: bool,
        rows: [Row; 4],
        at: Address,
    },
    Matrix(Box<Matrix>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Op {
    W1(W1, [Row; 2]),
    W2(W2, [Row; 3]),
    W3(W3, [Row; 4]),
    D1(D1, [Row; 2]),
    D2(D2, [Row; 3]),
    D3(D3, [Row; 4]),
    /// Result, value, distance (a word).
    Shift(Shift, [Row; 3]),
    WD(WD, [Row; 2]),
    W2D(W2D, [Row; 3]),
    /// Words `a` and `b`, doubles `d` and `c`.
    MultiplyAddWide {
        signed: bool,
        d: Row,
        a: Row,
        b: Row,
        c: Row,
    },
    DW(DW, [Row; 2]),
    /// Result, from, into, position, length.
    InsertW([Row; 5]),
    InsertD([Row; 5]),
    /// Low half, high half, word.
    UnpackW([Row; 3]),
    /// Low word, high word, double.
    UnpackD([Row; 3]),
    /// Result, if true, if false, predicate.
    SelectW([Row; 4]),
    SelectD([Row; 4]),
    /// Into `p`, and the opposite into `q` (or none); `with` joins the result.
    Compare {
        test: Test,
        kind: Kind,
        p: Row,
        q: Row,
        a: Row,
        b: Row,
        with: Option<(Logic, Guard)>,
    },
    Logic(Logic, [Row; 3]),
    MoveP([Row; 2]),
    NotP([Row; 2]),
    Load(Transfer),
    Store(Transfer),
    /// The result (or none), the operands; 4 or 8 bytes.
    Atomic {
        what: Atomic,
        space: Space,
        bytes: u8,
        d: Row,
        b: Row,
        c: Row,
        at: Address,
    },
    /// To, from, bytes, and how many of them are read (a word row, or none for all).
    CopyAsync {
        to: Address,
        from: Address,
        bytes: u8,
        valid: Row,
    },
    Commit,
    /// Waits until at most so many groups are under way.
    WaitGroup(u32),
    WaitAll,
    Fence,
    /// Between the window of shared memory and generic addresses.
    GenericOfShared([Row; 2]),
    SharedOfGeneric([Row; 2]),
    Jump(u32),
    Return,
    /// The barrier's number (a word row), how many threads (or none for all), and whether all threads of the block must
    /// be at this very instruction.
    Barrier {
        number: Row,
        threads: Row,
        aligned: bool,
    },
    /// Lanes that must meet (a word row, or none for all 32 and none of them ended), and what they do then.
    Meet {
        members: Row,
        what: Meeting,
    },
}

/// An instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) guard: Option<Guard>,
    pub(super) op: Op,
}
