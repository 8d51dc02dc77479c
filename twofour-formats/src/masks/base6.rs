//! Three groups a byte: `p0 + 6·p1 + 36·p2` of their pattern indices. 2/3 bit a weight, where six patterns need
//! log2(6)/4 = 0.646 at least.
//!
//! Six groups are three bytes of codes and two packed ones, so both ways go through a table a byte: three half bytes
//! of codes index 4096 packed bytes, and a packed byte indexes 256 times three half bytes.

use crate::check::length;
use twofour::compress::{Sparsity, check_codes};
use twofour::{Error, Pattern, Result, Shape};

/// In [`PACKED`], that one of the three is no code. No packed byte is above 215.
const ILLEGAL: u8 = 0xff;

/// The packed byte of three codes, the first in the lowest half byte.
static PACKED: [u8; 4096] = {
    let mut table = [ILLEGAL; 4096];
    let mut byte = 0;
    while byte < 216 {
        table[CODES[byte] as usize] = byte as u8;
        byte += 1;
    }
    table
};

/// Three codes for a packed byte, the first in the lowest half byte; 0 for the bytes that are none.
static CODES: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 216 {
        let [a, b, c] = [code(byte % 6), code(byte / 6 % 6), code(byte / 36)];
        table[byte] = a | b << 4 | c << 8;
        byte += 1;
    }
    table
};

const fn code(index: usize) -> u16 {
    Pattern::ALL[index].code() as u16
}

/// Packed bytes of a mask: a third of its groups, rounded up.
#[must_use]
pub const fn packed_len(shape: Shape) -> usize {
    shape.groups().div_ceil(3)
}

/// Packs codes. The packed bytes are overwritten.
///
/// # Errors
/// As [`Shape::check`]; [`Error::Length`]; [`Error::IllegalCode`] with the first group whose code is not legal.
pub fn pack_into(shape: Shape, codes: &[u8], packed: &mut [u8]) -> Result<()> {
    shape.check()?;
    length("codes", codes.len(), shape.packed_codes())?;
    length("packed", packed.len(), packed_len(shape))?;
    let (whole, rest) = packed.split_at_mut(shape.groups() / 6 * 2);
    let mut legal = true;
    for (to, from) in whole.as_chunks_mut::<2>().0.iter_mut().zip(codes.as_chunks::<3>().0) {
        let six = u32::from_le_bytes([from[0], from[1], from[2], 0]);
        *to = [PACKED[(six & 0xfff) as usize], PACKED[(six >> 12) as usize]];
        legal &= to[0] != ILLEGAL && to[1] != ILLEGAL;
    }
    if !legal {
        return check_codes(Sparsity::TwoFour, shape, codes);
    }
    let first = 3 * whole.len();
    for (i, to) in rest.iter_mut().enumerate() {
        *to = 0;
        for digit in (0..3).rev() {
            let group = first + 3 * i + digit;
            if group < shape.groups() {
                let Some(pattern) = Pattern::from_code(codes[group / 2] >> (4 * (group % 2)) & 15) else {
                    return check_codes(Sparsity::TwoFour, shape, codes);
                };
                *to = 6 * *to + pattern.index();
            }
        }
    }
    Ok(())
}

/// [`pack_into`] a new vector.
///
/// # Errors
/// The same.
pub fn pack(shape: Shape, codes: &[u8]) -> Result<Vec<u8>> {
    // Lengths first, so that a wrong shape allocates nothing.
    length("codes", codes.len(), shape.packed_codes())?;
    let mut packed = vec![0; packed_len(shape)];
    pack_into(shape, codes, &mut packed)?;
    Ok(packed)
}

/// Unpacks into codes, which are overwritten.
///
/// # Errors
/// As [`Shape::check`]; [`Error::Length`]; [`Error::IllegalCode`] with the first group of the first byte that is above
/// 215, or of a last byte that holds more than its groups.
pub fn unpack_into(shape: Shape, packed: &[u8], codes: &mut [u8]) -> Result<()> {
    shape.check()?;
    length("packed", packed.len(), packed_len(shape))?;
    length("codes", codes.len(), shape.packed_codes())?;
    let illegal = |byte: usize, legal: &'static str| {
        let row_groups = (shape.cols / 4).max(1);
        let [row, group] = [3 * byte / row_groups, 3 * byte % row_groups].map(|at| at as u64);
        Error::IllegalCode { what: "base-6 byte", row, group, value: packed[byte], legal }
    };
    let whole = shape.groups() / 6;
    let mut legal = true;
    for (to, from) in codes.as_chunks_mut::<3>().0.iter_mut().zip(packed.as_chunks::<2>().0).take(whole) {
        let six = [from[0], from[1]].map(|byte| u32::from(CODES[usize::from(byte)]));
        legal &= six[0] != 0 && six[1] != 0;
        let [a, b, c, _] = (six[0] | six[1] << 12).to_le_bytes();
        *to = [a, b, c];
    }
    if !legal {
        let bad = packed.iter().position(|&byte| byte >= 216).unwrap_or_default();
        return Err(illegal(bad, "0 to 215"));
    }
    let (codes, mut group) = (&mut codes[3 * whole..], 0);
    codes.fill(0);
    for (i, &byte) in packed.iter().enumerate().skip(2 * whole) {
        let here = (shape.groups() - 3 * i).min(3);
        match byte {
            216.. => return Err(illegal(i, "0 to 215")),
            36.. if here == 2 => return Err(illegal(i, "0 to 35, for two groups,")),
            6.. if here == 1 => return Err(illegal(i, "0 to 5, for one group,")),
            _ => {}
        }
        for digit in 0..here {
            let code = (CODES[usize::from(byte)] >> (4 * digit)) as u8 & 15;
            codes[group / 2] |= code << (4 * (group % 2));
            group += 1;
        }
    }
    Ok(())
}

/// [`unpack_into`] a new vector.
///
/// # Errors
/// The same.
pub fn unpack(shape: Shape, packed: &[u8]) -> Result<Vec<u8>> {
    // Lengths first, so that a wrong shape allocates nothing.
    length("packed", packed.len(), packed_len(shape))?;
    let mut codes = vec![0; shape.packed_codes()];
    unpack_into(shape, packed, &mut codes)?;
    Ok(codes)
}
