//! Which rows an instruction reads and writes.

use super::op::{Address, File, Guard, Instruction, Meeting, NONE, Op, Row, Transfer, Use};

use File::{Doubles, Predicates, Words};
use Use::{Reads, Writes};

impl Instruction {
    /// Shows every row, first those that are read; rows that are not there are left out.
    pub(super) fn rows(&mut self, see: &mut impl FnMut(&mut Row, File, Use)) {
        if let Some(guard) = &mut self.guard {
            see(&mut guard.row, Predicates, Reads);
        }
        self.op.rows(&mut |row, file, usage| {
            if *row != NONE {
                see(row, file, usage);
            }
        });
    }
}

impl Op {
    fn rows(&mut self, see: &mut impl FnMut(&mut Row, File, Use)) {
        match self {
            Op::W1(_, rows) => each(rows, [Words, Words], 1, see),
            Op::W2(_, rows) => each(rows, [Words; 3], 1, see),
            Op::W3(_, rows) => each(rows, [Words; 4], 1, see),
            Op::D1(_, rows) => each(rows, [Doubles; 2], 1, see),
            Op::D2(_, rows) => each(rows, [Doubles; 3], 1, see),
            Op::D3(_, rows) => each(rows, [Doubles; 4], 1, see),
            Op::Shift(_, rows) => each(rows, [Doubles, Doubles, Words], 1, see),
            Op::WD(_, rows) => each(rows, [Doubles, Words], 1, see),
            Op::W2D(_, rows) => each(rows, [Doubles, Words, Words], 1, see),
            Op::MultiplyAddWide { d, a, b, c, .. } => {
                [a, b].into_iter().for_each(|row| see(row, Words, Reads));
                see(c, Doubles, Reads);
                see(d, Doubles, Writes);
            }
            Op::DW(_, rows) => each(rows, [Words, Doubles], 1, see),
            Op::InsertW(rows) => each(rows, [Words; 5], 1, see),
            Op::InsertD(rows) => each(rows, [Doubles, Doubles, Doubles, Words, Words], 1, see),
            Op::UnpackW(rows) => each(rows, [Words; 3], 2, see),
            Op::UnpackD(rows) => each(rows, [Words, Words, Doubles], 2, see),
            Op::SelectW(rows) => each(rows, [Words, Words, Words, Predicates], 1, see),
            Op::SelectD(rows) => each(rows, [Doubles, Doubles, Doubles, Predicates], 1, see),
            Op::Compare { kind, p, q, a, b, with, .. } => {
                use super::op::Kind::{F64, S64, U64};
                let file = if matches!(kind, U64 | S64 | F64) { Doubles } else { Words };
                [a, b].into_iter().for_each(|row| see(row, file, Reads));
                if let Some((_, Guard { row, .. })) = with {
                    see(row, Predicates, Reads);
                }
                [p, q].into_iter().for_each(|row| see(row, Predicates, Writes));
            }
            Op::Logic(_, rows) => each(rows, [Predicates; 3], 1, see),
            Op::MoveP(rows) | Op::NotP(rows) => each(rows, [Predicates; 2], 1, see),
            Op::Load(transfer) => moved(transfer, Writes, see),
            Op::Store(transfer) => moved(transfer, Reads, see),
            Op::Atomic { bytes, d, b, c, at, .. } => {
                let file = if *bytes == 8 { Doubles } else { Words };
                address(at, see);
                [b, c].into_iter().for_each(|row| see(row, file, Reads));
                see(d, file, Writes);
            }
            Op::CopyAsync { to, from, valid, .. } => {
                [to, from].into_iter().for_each(|at| address(at, see));
                see(valid, Words, Reads);
            }
            Op::GenericOfShared(rows) | Op::SharedOfGeneric(rows) => each(rows, [Doubles; 2], 1, see),
            Op::Barrier { number, threads, .. } => {
                [number, threads].into_iter().for_each(|row| see(row, Words, Reads));
            }
            Op::Meet { members, what } => {
                see(members, Words, Reads);
                what.rows(see);
            }
            Op::Commit | Op::WaitGroup(_) | Op::WaitAll | Op::Fence | Op::Jump(_) | Op::Return => {}
        }
    }
}

impl Meeting {
    fn rows(&mut self, see: &mut impl FnMut(&mut Row, File, Use)) {
        match self {
            Meeting::Warp => {}
            Meeting::Shuffle { d, p, a, b, c, .. } => {
                [a, b, c].into_iter().for_each(|row| see(row, Words, Reads));
                see(d, Words, Writes);
                see(p, Predicates, Writes);
            }
            Meeting::Vote { what, d, a } => {
                see(&mut a.row, Predicates, Reads);
                let ballot = *what == super::op::Vote::Ballot;
                see(d, if ballot { Words } else { Predicates }, Writes);
            }
            Meeting::LoadMatrix { rows, at, .. } => {
                address(at, see);
                rows.iter_mut().for_each(|row| see(row, Words, Writes));
            }
            Meeting::Matrix(matrix) => {
                let read = [&mut matrix.a, &mut matrix.b, &mut matrix.c];
                read.into_iter().flatten().for_each(|row| see(row, Words, Reads));
                if let Some((metadata, _)) = &mut matrix.sparse {
                    see(metadata, Words, Reads);
                }
                matrix.d.iter_mut().for_each(|row| see(row, Words, Writes));
            }
        }
    }
}

/// The first `results` rows are written, the others read.
fn each<const N: usize>(
    rows: &mut [Row; N],
    files: [File; N],
    results: usize,
    see: &mut impl FnMut(&mut Row, File, Use),
) {
    for (row, file) in rows.iter_mut().zip(files).skip(results) {
        see(row, file, Reads);
    }
    for (row, file) in rows.iter_mut().zip(files).take(results) {
        see(row, file, Writes);
    }
}

fn moved(transfer: &mut Transfer, usage: Use, see: &mut impl FnMut(&mut Row, File, Use)) {
    let file = transfer.cell.file;
    address(&mut transfer.at, see);
    transfer.rows.iter_mut().for_each(|row| see(row, file, usage));
}

fn address(at: &mut Address, see: &mut impl FnMut(&mut Row, File, Use)) {
    see(&mut at.row, at.file, Reads);
}
