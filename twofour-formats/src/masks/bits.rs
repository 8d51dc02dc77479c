//! Bits to codes: a byte of `numpy.packbits` (the first position is the highest bit) is two groups, and so is a byte of
//! codes (the first group is the low half). So one table of 256 bytes leads from one to the other, and one back.

use super::{Fewer, Mask};
use crate::check::not_two_four;
use twofour::compress::Sparsity;
use twofour::{Error, Result, Shape};

/// Two codes for eight bits; a half is 0, which is no code, where its group does not keep two.
const EXACT: [u8; 256] = codes_of_bits(false);
/// The same with groups filled that keep fewer.
const FILLED: [u8; 256] = codes_of_bits(true);

/// Eight bits for two codes.
const BITS: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = four_bits(byte as u8 & 15) << 4 | four_bits(byte as u8 >> 4);
        byte += 1;
    }
    table
};

const fn codes_of_bits(fill: bool) -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = code(byte as u8 >> 4, fill) | code(byte as u8 & 15, fill) << 4;
        byte += 1;
    }
    table
}

/// The code of a group, whose first position is the highest of four bits; 0 if there is none.
const fn code(bits: u8, fill: bool) -> u8 {
    // Position j at bit j.
    let mut bits = bits.reverse_bits() >> 4;
    let mut j = 4;
    while fill && j > 0 && bits.count_ones() < 2 {
        j -= 1;
        bits |= 1 << j;
    }
    match Sparsity::TwoFour.code_of_bits(bits) {
        Some(code) => code,
        None => 0,
    }
}

const fn four_bits(code: u8) -> u8 {
    match Sparsity::TwoFour.bits_of_code(code) {
        Some(bits) => bits.reverse_bits() >> 4,
        None => 0,
    }
}

/// `numpy.packbits` of a mask. The codes have been checked, and what is unused of the last byte is 0.
pub(super) fn bits_of_codes(codes: &[u8]) -> Vec<u8> {
    codes.iter().map(|&byte| BITS[usize::from(byte)]).collect()
}

/// Takes bits as they come, and makes codes of them.
pub(super) struct Packer {
    shape: Shape,
    table: &'static [u8; 256],
    codes: Vec<u8>,
}

impl Packer {
    /// Of a mask whose shape has been checked. Memory for `expected` bytes is taken at once, for more as they come.
    pub(super) fn new(shape: Shape, fewer: Fewer, expected: usize) -> Self {
        let table = if fewer == Fewer::Fill { &FILLED } else { &EXACT };
        Self { shape, table, codes: Vec::with_capacity(expected.min(shape.packed_codes())) }
    }

    /// Takes bits of the next positions, in whole bytes.
    pub(super) fn push(&mut self, bits: &[u8]) -> Result<()> {
        let (start, all) = (self.codes.len(), self.shape.packed_codes());
        if bits.len() > all - start {
            let got = start.saturating_add(bits.len()) as u64;
            return Err(Error::Length { what: "packed bits", expected: all as u64, got });
        }
        self.codes.extend(bits.iter().map(|&byte| self.table[usize::from(byte)]));
        let odd = self.shape.groups() % 2 == 1 && self.codes.len() == all && !bits.is_empty();
        if odd {
            self.finish_half(bits[bits.len() - 1])?;
        }
        let whole = self.codes.len() - usize::from(odd);
        let bad = |byte: &u8| byte & 15 == 0 || byte >> 4 == 0;
        match self.codes[start..whole].iter().position(bad) {
            Some(i) => {
                let half = usize::from(self.codes[start + i] & 15 != 0);
                Err(self.refused(2 * (start + i) + half, bits[i] >> (4 - 4 * half)))
            }
            // The half byte last: it is behind the others.
            None if odd && self.codes[whole] == 0 => Err(self.refused(2 * whole, bits[bits.len() - 1] >> 4)),
            None => Ok(()),
        }
    }

    /// The last byte, of which half is used.
    fn finish_half(&mut self, bits: u8) -> Result<()> {
        if bits & 15 != 0 {
            let (value, must) = (f64::from(bits & 15), "0: positions behind the mask's last");
            return Err(Error::Scalar { what: "the unused half of the last packed byte", value, must });
        }
        if let Some(last) = self.codes.last_mut() {
            *last &= 15;
        }
        Ok(())
    }

    fn refused(&self, group: usize, bits: u8) -> Error {
        not_two_four(Sparsity::TwoFour, self.shape, group, (bits & 15).count_ones())
    }

    /// The mask, when all bits have come.
    pub(super) fn finish(self) -> Result<Mask> {
        let (expected, got) = (self.shape.packed_codes() as u64, self.codes.len() as u64);
        if expected != got {
            return Err(Error::Length { what: "packed bits", expected, got });
        }
        Ok(Mask::of_checked(self.shape, self.codes))
    }
}

/// Takes flags as they come, packs them by eight and hands them on.
pub(super) struct Flags {
    packer: Packer,
    bits: Vec<u8>,
    /// Flags that do not fill a byte yet.
    byte: u8,
    count: u32,
}

impl Flags {
    /// As [`Packer::new`].
    pub(super) fn new(shape: Shape, fewer: Fewer, expected: usize) -> Self {
        Self { packer: Packer::new(shape, fewer, expected), bits: Vec::with_capacity(1 << 12), byte: 0, count: 0 }
    }

    /// Takes the next positions.
    pub(super) fn push(&mut self, flags: impl Iterator<Item = bool>) -> Result<()> {
        for flag in flags {
            self.byte = self.byte << 1 | u8::from(flag);
            self.count += 1;
            if self.count == 8 {
                self.bits.push(self.byte);
                (self.byte, self.count) = (0, 0);
                if self.bits.len() == 1 << 12 {
                    self.flush()?;
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.packer.push(&self.bits)?;
        self.bits.clear();
        Ok(())
    }

    /// The mask, when all flags have come.
    pub(super) fn finish(mut self) -> Result<Mask> {
        if self.count > 0 {
            self.bits.push(self.byte << (8 - self.count));
        }
        self.flush()?;
        self.packer.finish()
    }
}
