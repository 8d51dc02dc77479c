//! The six 2:4 patterns: ways to keep two of four consecutive weights.
//!
//! The index counts the kept pairs in increasing order, (0,1) (0,2) (0,3) (1,2) (1,3) (2,3), as MaskLLM's released
//! masks do. The code is what sparse tensor cores read: `i0 + 4·i1` for the kept positions `i0 < i1` (PTX ISA, "Sparse
//! matrix storage"; only these six are legal for `mma.sp::ordered_metadata`). The device twin is
//! `cuda/common/pattern.cuh`.

use crate::error::{Error, Result};

/// One of the six patterns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(u8);

/// Kept positions by index.
const KEPT: [[u8; 2]; 6] = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]];

/// Index by code, [`Pattern::POISON`] where a code is not legal.
const BY_CODE: [u8; 16] = {
    let mut table = [Pattern::POISON; 16];
    let mut index = 0;
    while index < 6 {
        table[(KEPT[index][0] + 4 * KEPT[index][1]) as usize] = index as u8;
        index += 1;
    }
    table
};

impl Pattern {
    /// All six, by index.
    pub const ALL: [Self; 6] = [Self(0), Self(1), Self(2), Self(3), Self(4), Self(5)];
    /// What stands for "no pattern" among indices: the group's logits had no finite maximum.
    pub const POISON: u8 = 0xff;
    /// What stands for "no pattern" among codes; no hardware accepts it.
    pub const POISON_CODE: u8 = 0;

    /// The pattern of an index, or `None` from 6 on.
    #[must_use]
    pub const fn from_index(index: u8) -> Option<Self> {
        if index < 6 { Some(Self(index)) } else { None }
    }

    /// The pattern of a hardware code, or `None` for the ten illegal ones.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        if code < 16 { Self::from_index(BY_CODE[code as usize]) } else { None }
    }

    /// The pattern that keeps the positions whose bit is set (bit `j` for position `j`), or `None` unless exactly two
    /// of the lowest four bits are.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        if bits < 16 && bits.count_ones() == 2 {
            let first = bits.trailing_zeros() as u8;
            let second = 7 - bits.leading_zeros() as u8;
            Self::from_code(first + 4 * second)
        } else {
            None
        }
    }

    /// 0 to 5.
    #[must_use]
    pub const fn index(self) -> u8 {
        self.0
    }

    /// The hardware's four bits: 4, 8, C, 9, D, E for index 0 to 5.
    #[must_use]
    pub const fn code(self) -> u8 {
        let [first, second] = self.kept();
        first + 4 * second
    }

    /// The two kept positions, in increasing order.
    #[must_use]
    pub const fn kept(self) -> [u8; 2] {
        KEPT[self.0 as usize]
    }

    /// Whether position `j` of the group is kept; `false` from 4 on.
    #[must_use]
    pub const fn keeps(self, j: usize) -> bool {
        self.kept()[0] as usize == j || self.kept()[1] as usize == j
    }

    /// One bit a position: bit `j` is set when position `j` is kept.
    #[must_use]
    pub const fn bits(self) -> u8 {
        (1 << self.kept()[0]) | (1 << self.kept()[1])
    }
}

/// Bytes that hold the codes of `groups` groups: two a byte, the even group in the low nibble.
#[must_use]
pub const fn packed_len(groups: usize) -> usize {
    groups.div_ceil(2)
}

/// The code of group `group` in packed codes.
///
/// # Errors
/// [`Error::Length`] when `codes` ends before that group.
pub fn code_at(codes: &[u8], group: usize) -> Result<u8> {
    let byte = codes.get(group / 2).ok_or(Error::Length {
        what: "codes",
        expected: packed_len(group.saturating_add(1)) as u64,
        got: codes.len() as u64,
    })?;
    Ok((byte >> (4 * (group % 2))) & 15)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn tables_agree() {
        let codes: Vec<u8> = Pattern::ALL.iter().map(|p| p.code()).collect();
        assert_eq!(codes, [0x4, 0x8, 0xc, 0x9, 0xd, 0xe]);
        let bits: Vec<u8> = Pattern::ALL.iter().map(|p| p.bits()).collect();
        assert_eq!(bits, [0x3, 0x5, 0x9, 0x6, 0xa, 0xc]);
        for pattern in Pattern::ALL {
            assert_eq!(Pattern::from_index(pattern.index()), Some(pattern));
            assert_eq!(Pattern::from_code(pattern.code()), Some(pattern));
            assert_eq!(Pattern::from_bits(pattern.bits()), Some(pattern));
            assert_eq!((0..8).filter(|&j| pattern.keeps(j)).count(), 2);
        }
    }

    #[test]
    fn only_six_values_are_legal() {
        assert_eq!((0..=255).filter_map(Pattern::from_index).count(), 6);
        assert_eq!((0..=255).filter_map(Pattern::from_code).count(), 6);
        assert_eq!((0..=255).filter_map(Pattern::from_bits).count(), 6);
        assert_eq!(Pattern::from_code(Pattern::POISON_CODE), None);
        assert_eq!(Pattern::from_index(Pattern::POISON), None);
    }

    #[test]
    fn codes_are_packed_low_nibble_first() {
        assert_eq!(packed_len(3), 2);
        assert_eq!(code_at(&[0xe4, 0x9], 0).unwrap(), 0x4);
        assert_eq!(code_at(&[0xe4, 0x9], 1).unwrap(), 0xe);
        assert_eq!(code_at(&[0xe4, 0x9], 2).unwrap(), 0x9);
        assert!(code_at(&[0xe4], 2).is_err());
    }
}
