//! Registers that are never live at the same time share a row.
//!
//! Compilers give nearly every value a register of its own, thousands an entry. A warp's rows would fill megabytes, and
//! each instruction would wait for memory. So a register gets a row from its first instruction on which it is live to
//! its last, in the order of the text, and the row is used again after.

use super::module::Entry;
use super::op::{File, Instruction, Op, Row, Use};

const FILES: [File; 3] = [File::Words, File::Doubles, File::Predicates];

impl Entry {
    /// Renumbers the rows of registers. Rows of constants and special registers stay apart.
    pub(super) fn share_rows(&mut self) {
        for file in FILES {
            self.share_rows_of(file);
        }
    }

    fn share_rows_of(&mut self, file: File) {
        let count = self.counts[file as usize] as usize;
        let mut kept = vec![false; count];
        let constants: Vec<Row> = match file {
            File::Words => {
                let specials = self.specials.iter().map(|(row, _)| *row);
                self.words.iter().map(|(row, _)| *row).chain(specials).collect()
            }
            File::Doubles => self.doubles.iter().map(|(row, _)| *row).collect(),
            File::Predicates => self.predicates.iter().map(|(row, _)| *row).collect(),
        };
        constants.iter().for_each(|&row| kept[row as usize] = true);
        let spans = spans(&mut self.code, file, count);
        let (rows, used) = assign(&spans, &kept);
        for instruction in &mut self.code {
            instruction.rows(&mut |row, of, _| {
                if of == file {
                    *row = rows[*row as usize];
                }
            });
        }
        let renumber = |row: &mut Row| *row = rows[*row as usize];
        match file {
            File::Words => {
                self.words.iter_mut().for_each(|(row, _)| renumber(row));
                self.specials.iter_mut().for_each(|(row, _)| renumber(row));
            }
            File::Doubles => self.doubles.iter_mut().for_each(|(row, _)| renumber(row)),
            File::Predicates => self.predicates.iter_mut().for_each(|(row, _)| renumber(row)),
        }
        self.counts[file as usize] = used;
    }
}

/// The first and last instruction at which each row is live; nothing for one that is never used.
type Span = Option<(u32, u32)>;

/// A stretch of code that is entered at its start and left at its end.
struct Stretch {
    start: usize,
    end: usize,
    next: [Option<usize>; 2],
    /// Bits of rows: read before they are written, written for certain, live at the start.
    read: Vec<u64>,
    written: Vec<u64>,
    live: Vec<u64>,
}

fn spans(code: &mut [Instruction], file: File, count: usize) -> Vec<Span> {
    let mut stretches = stretches(code);
    let words = count.div_ceil(64);
    let mut spans: Vec<Span> = vec![None; count];
    for stretch in &mut stretches {
        (stretch.read, stretch.written, stretch.live) = (vec![0; words], vec![0; words], vec![0; words]);
        for (at, instruction) in code.iter_mut().enumerate().take(stretch.end).skip(stretch.start) {
            let certain = instruction.guard.is_none();
            instruction.rows(&mut |row, of, usage| {
                if of != file {
                    return;
                }
                let (word, bit) = (*row as usize / 64, 1 << (*row % 64));
                widen(&mut spans[*row as usize], at as u32);
                match usage {
                    Use::Reads => stretch.read[word] |= bit & !stretch.written[word],
                    // A guarded write leaves some lanes as they were.
                    Use::Writes if certain => stretch.written[word] |= bit & !stretch.read[word],
                    Use::Writes => stretch.read[word] |= bit & !stretch.written[word],
                }
            });
        }
    }
    settle(&mut stretches);
    for stretch in &stretches {
        let end = stretch.end.saturating_sub(1) as u32;
        each_bit(&stretch.live, |row| widen(&mut spans[row], stretch.start as u32));
        for next in stretch.next.iter().flatten() {
            each_bit(&stretches[*next].live, |row| widen(&mut spans[row], end));
        }
    }
    spans
}

/// Which rows are live where each stretch starts, by going backwards until nothing changes.
fn settle(stretches: &mut [Stretch]) {
    let mut changed = true;
    while changed {
        changed = false;
        for i in (0..stretches.len()).rev() {
            let next = stretches[i].next;
            for word in 0..stretches[i].live.len() {
                let after = next.iter().flatten().fold(0, |bits, &next| bits | stretches[next].live[word]);
                let stretch = &mut stretches[i];
                let live = stretch.read[word] | after & !stretch.written[word];
                changed |= live != stretch.live[word];
                stretch.live[word] = live;
            }
        }
    }
}

fn stretches(code: &[Instruction]) -> Vec<Stretch> {
    let mut starts = vec![false; code.len() + 1];
    starts[0] = true;
    for (at, instruction) in code.iter().enumerate() {
        match instruction.op {
            Op::Jump(to) => (starts[at + 1], starts[to as usize]) = (true, true),
            Op::Return => starts[at + 1] = true,
            _ => {}
        }
    }
    let bounds: Vec<usize> = (0..=code.len()).filter(|&at| starts[at] || at == code.len()).collect();
    let find = |at: usize| bounds.binary_search(&at).ok().filter(|&index| index + 1 < bounds.len());
    let stretch = |pair: &[usize]| {
        let last = &code[pair[1] - 1];
        let (falls, jumps) = match last.op {
            Op::Jump(to) => (last.guard.is_some(), Some(to as usize)),
            Op::Return => (last.guard.is_some(), None),
            _ => (true, None),
        };
        let next = [if falls { find(pair[1]) } else { None }, jumps.and_then(find)];
        let none = Vec::new;
        Stretch { start: pair[0], end: pair[1], next, read: none(), written: none(), live: none() }
    };
    bounds.windows(2).map(stretch).collect()
}

fn widen(span: &mut Span, at: u32) {
    *span = Some(span.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
}

fn each_bit(bits: &[u64], mut f: impl FnMut(usize)) {
    for (i, &word) in bits.iter().enumerate() {
        let mut rest = word;
        while rest != 0 {
            f(64 * i + rest.trailing_zeros() as usize);
            rest &= rest - 1;
        }
    }
}

/// A new row for each old one, and how many there are. A row is free again after the last instruction of its span, not
/// at it: an instruction with several results writes one before it has read for the next.
fn assign(spans: &[Span], kept: &[bool]) -> (Vec<Row>, u32) {
    let mut rows = vec![0; spans.len()];
    let mut used = 0;
    for (row, _) in kept.iter().enumerate().filter(|(_, kept)| **kept) {
        rows[row] = used;
        used += 1;
    }
    let mut order: Vec<usize> = (0..spans.len()).filter(|&row| spans[row].is_some() && !kept[row]).collect();
    order.sort_by_key(|&row| spans[row]);
    let mut busy = std::collections::BinaryHeap::new();
    let mut free = Vec::new();
    for row in order {
        let (first, last) = spans[row].unwrap_or_default();
        while let Some(&std::cmp::Reverse((end, of))) = busy.peek() {
            if end >= first {
                break;
            }
            free.push(of);
            busy.pop();
        }
        let new = free.pop().unwrap_or_else(|| {
            used += 1;
            used - 1
        });
        rows[row] = new;
        busy.push(std::cmp::Reverse((last, new)));
    }
    (rows, used)
}
