//! What compression must give, the slow way: kept positions by sorting, and layouts by listing codes in the order in
//! which they lie, or by following the steps of those who make them. Nothing here calls the crate.

use crate::any::Wide;
use std::cmp::Ordering;
use twofour::Error;

/// Values in a group and kept of it.
pub(crate) fn width<T: Wide>() -> usize {
    if T::DTYPE.name() == "f32" { 2 } else { 4 }
}

/// The code of kept positions.
pub(crate) fn code(kept: &[usize]) -> u8 {
    match kept {
        [0] => 0x4,
        [1] => 0xe,
        [a, b] => (a + 4 * b) as u8,
        _ => panic!("{kept:?}"),
    }
}

/// The positions of a code.
pub(crate) fn positions(code: u8, width: usize) -> Vec<usize> {
    let all: &[&[usize]] =
        if width == 2 { &[&[0], &[1]] } else { &[&[0, 1], &[0, 2], &[0, 3], &[1, 2], &[1, 3], &[2, 3]] };
    all.iter().find(|kept| self::code(kept) == code).expect("a legal code").to_vec()
}

/// Positions of the largest, in order.
pub(crate) fn largest<T: Wide>(group: &[T]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..group.len()).collect();
    order.sort_by(|&i, &j| smaller(group[j], group[i]).then(i.cmp(&j)));
    let mut kept = order[..group.len() / 2].to_vec();
    kept.sort_unstable();
    kept
}

fn smaller<T: Wide>(a: T, b: T) -> Ordering {
    let (x, y) = (a.to_f64().abs(), b.to_f64().abs());
    match (x.is_nan(), y.is_nan()) {
        (false, false) => x.partial_cmp(&y).unwrap(),
        (true, true) => payload(a).cmp(&payload(b)),
        (nan, _) => {
            if nan {
                Ordering::Greater
            } else {
                Ordering::Less
            }
        }
    }
}

/// Bits without the sign, as a little-endian number.
fn payload<T: Wide>(value: T) -> u32 {
    let bytes = bytemuck::bytes_of(&value).iter().rev().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte));
    bytes & !(1 << (8 * size_of::<T>() - 1))
}

/// Positions that are not zero, filled up from the highest; `None` if they are too many.
pub(crate) fn non_zeros<T: Wide>(group: &[T]) -> Option<Vec<usize>> {
    let mut kept: Vec<usize> = (0..group.len()).filter(|&j| group[j].to_f64() != 0.0).collect();
    let most = group.len() / 2;
    for j in (0..group.len()).rev() {
        if kept.len() < most && !kept.contains(&j) {
            kept.push(j);
        }
    }
    kept.sort_unstable();
    (kept.len() == most).then_some(kept)
}

/// Codes two a byte.
pub(crate) fn packed(codes: &[u8]) -> Vec<u8> {
    codes.chunks(2).map(|pair| pair[0] | pair.get(1).map_or(0, |odd| odd << 4)).collect()
}

/// A layout, as the oracle tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Plain,
    /// CUTLASS for Ampere by the steps of `reorder_meta`; words of so many codes.
    Ampere {
        word: usize,
    },
    /// Super-tiles of 128 rows and 64 columns.
    CusparseltMma,
    Int8,
    Hopper,
    /// So many rows and blocks of eight groups in an atom.
    Atom {
        rows: usize,
        blocks: usize,
    },
    /// So many rows and groups in an atom, row-major.
    RowAtom {
        rows: usize,
        groups: usize,
    },
}

impl Order {
    /// Rows and groups are padded to multiples of these.
    pub(crate) fn multiples(self) -> (usize, usize) {
        match self {
            Self::Plain => (1, 1),
            Self::Ampere { word: 4 } => (32, 8),
            Self::Ampere { .. } => (16, 16),
            Self::CusparseltMma => (128, 16),
            Self::Int8 => (64, 16),
            Self::Hopper => (64, 8),
            Self::Atom { rows, blocks } => (rows, 8 * blocks),
            Self::RowAtom { rows, groups } => (rows, groups),
        }
    }

    /// Row and group of each code in the order in which they lie, for padded extents.
    pub(crate) fn list(self, rows: usize, groups: usize) -> Vec<(usize, usize)> {
        let mut list = Vec::with_capacity(rows * groups);
        let mut push = |row, group| list.push((row, group));
        let (across, down) = (|n: usize| (0..groups).step_by(n), |n: usize| (0..rows).step_by(n));
        match self {
            Self::Plain => down(1).for_each(|r| across(1).for_each(|g| push(r, g))),
            Self::Ampere { word } => return ampere(rows, groups, word),
            Self::CusparseltMma => {
                for (g, r) in across(16).flat_map(|g| down(128).map(move |r| (g, r))) {
                    for (half, block) in [0, 8].into_iter().flat_map(|half| [0, 32, 64, 96].map(|block| (half, block)))
                    {
                        for row in 0..8 {
                            for (r16, g4, r8) in bits3().map(|[a, b, c]| (16 * a, 4 * b, 8 * c)) {
                                (0..4).for_each(|i| push(r + block + row + r16 + r8, g + half + g4 + i));
                            }
                        }
                    }
                }
            }
            Self::Int8 => {
                for (g, r) in across(16).flat_map(|g| down(64).map(move |r| (g, r))) {
                    for (pair, eight) in (0..8).step_by(2).flat_map(|pair| (0..64).step_by(8).map(move |e| (pair, e))) {
                        for (g8, odd, g4) in bits3().map(|[a, b, c]| (8 * a, b, 4 * c)) {
                            (0..4).for_each(|i| push(r + eight + pair + odd, g + g8 + g4 + i));
                        }
                    }
                }
            }
            Self::Hopper => {
                for (r, g) in down(64).flat_map(|r| across(8).map(move |g| (r, g))) {
                    for (sixteen, row) in [0, 16, 32, 48].into_iter().flat_map(|s| (0..8).map(move |row| (s, row))) {
                        for group in [0, 4, 1, 5, 2, 6, 3, 7] {
                            [0, 8].into_iter().for_each(|below| push(r + sixteen + row + below, g + group));
                        }
                    }
                }
            }
            Self::Atom { rows: of_rows, blocks } => {
                for (g, r) in across(8 * blocks).flat_map(|g| down(of_rows).map(move |r| (g, r))) {
                    for (sixteen, g4) in (0..of_rows).step_by(16).flat_map(|s| [0, 4].map(|g4| (s, g4))) {
                        for (row, block) in (0..8).flat_map(|row| (0..blocks).map(move |block| (row, 8 * block))) {
                            for below in [0, 8] {
                                (0..4).for_each(|i| push(r + sixteen + row + below, g + block + g4 + i));
                            }
                        }
                    }
                }
            }
            Self::RowAtom { rows: of_rows, groups: of_groups } => {
                for (g, r) in across(of_groups).flat_map(|g| down(of_rows).map(move |r| (g, r))) {
                    (0..of_rows).for_each(|row| (0..of_groups).for_each(|i| push(r + row, g + i)));
                }
            }
        }
        list
    }
}

fn bits3() -> impl Iterator<Item = [usize; 3]> {
    (0..8).map(|i| [i >> 2 & 1, i >> 1 & 1, i & 1])
}

/// CUTLASS' `reorder_meta` step by step: permute the rows of words, exchange the off-diagonal pair of each two by two
/// words, store column-major with two columns interleaved.
fn ampere(rows: usize, groups: usize, word: usize) -> Vec<(usize, usize)> {
    let (group, interweave) = if word == 4 { (32, 4) } else { (16, 2) };
    let words = groups / word;
    let mut list = vec![(usize::MAX, usize::MAX); rows * groups];
    for (row, col) in (0..rows).flat_map(|row| (0..words).map(move |col| (row, col))) {
        let mut to_row = row / group * group + row % 8 * interweave + row % group / 8;
        let mut to_col = col;
        match (to_row % 2, to_col % 2) {
            (0, 1) => (to_row, to_col) = (to_row + 1, to_col - 1),
            (1, 0) => (to_row, to_col) = (to_row - 1, to_col + 1),
            _ => {}
        }
        let place = to_col / 2 * rows * 2 + to_row * 2 + to_col % 2;
        for i in 0..word {
            list[place * word + i] = (row, col * word + i);
        }
    }
    list
}

/// Metadata: codes in order, E wherever there is none.
pub(crate) fn metadata(order: Order, rows: usize, groups: usize, codes: &[u8], bytes: usize) -> Vec<u8> {
    padded_metadata(order, rows, groups, codes, bytes, 0xe)
}

/// The same with another code wherever there is none.
pub(crate) fn padded_metadata(
    order: Order,
    rows: usize,
    groups: usize,
    codes: &[u8],
    bytes: usize,
    padding: u8,
) -> Vec<u8> {
    let (of_rows, of_groups) = order.multiples();
    let list = order.list(rows.next_multiple_of(of_rows), groups.next_multiple_of(of_groups));
    let code = |&(row, group): &(usize, usize)| {
        if row < rows && group < groups { codes[row * groups + group] } else { padding }
    };
    let mut nibbles: Vec<u8> = list.iter().map(code).collect();
    assert!(nibbles.len() <= 2 * bytes, "{} codes in {bytes} bytes", nibbles.len());
    nibbles.resize(2 * bytes, padding);
    packed(&nibbles)
}

/// What choosing by magnitude says of an `f32` weight that is 2:4 but not 1:2.
pub(crate) fn halved<T: Wide>(dense: &[T], cols: usize) -> Option<Error> {
    let keeps = |group: &[T]| group.iter().filter(|value| value.to_f64() != 0.0).count();
    if width::<T>() != 2 || dense.chunks(4).any(|group| keeps(group) > 2) {
        return None;
    }
    let at = dense.chunks(2).position(|group| keeps(group) == 2)?;
    Some(Error::TwoFourOfF32 { row: (2 * at / cols) as u64, group: (2 * at % cols / 2) as u64 })
}
