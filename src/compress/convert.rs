//! Masks, pattern indices and codes, each made into the others. Masks are `[N, K]` of [`Flag`]s, pattern indices a byte
//! a group, codes canonical (two groups a byte, the even one in the low half). All row-major; outputs are overwritten.

use super::cpu::check_codes;
use super::value::{Flag, Sparsity};
use super::{illegal, not_two_four};
use crate::check::{length, zeros};
use crate::error::Result;
use crate::pattern::Pattern;
use crate::shape::Shape;
use rayon::prelude::*;

/// Groups of a task; even, so that pieces of codes begin with a byte.
const PIECE: usize = 1 << 14;

/// The codes of a mask that keeps half of every group.
///
/// # Errors
/// As [`Shape::check`]; [`Error::Length`](crate::Error::Length); [`Error::NotTwoFour`](crate::Error::NotTwoFour) with
/// the first group that keeps more or less.
pub fn codes_from_mask_into<M: Flag>(sparsity: Sparsity, shape: Shape, mask: &[M], codes: &mut [u8]) -> Result<()> {
    shape.check()?;
    length("mask", Some(&mask), shape.weights())?;
    length("codes", Some(&&*codes), sparsity.packed_codes(shape))?;
    let width = sparsity.width();
    let bits = |group: &[M]| group.iter().rev().fold(0, |bits, flag| bits << 1 | u8::from(flag.is_kept()));
    let pieces = mask.par_chunks(width * PIECE).zip(codes.par_chunks_mut(PIECE / 2)).enumerate();
    let bad = pieces.filter_map(|(i, (mask, codes))| {
        let groups = mask.chunks(width).map(|group| sparsity.code_of_bits(bits(group)));
        Some(i * PIECE + write_codes(groups, codes)?)
    });
    match bad.min() {
        Some(group) => {
            let kept = bits(&mask[group * width..(group + 1) * width]).count_ones();
            Err(not_two_four(sparsity, shape, group, kept))
        }
        None => Ok(()),
    }
}

/// [`codes_from_mask_into`] a new vector.
///
/// # Errors
/// The same.
pub fn codes_from_mask<M: Flag>(sparsity: Sparsity, shape: Shape, mask: &[M]) -> Result<Vec<u8>> {
    // Lengths first, so that a wrong shape allocates nothing.
    length("mask", Some(&mask), shape.weights())?;
    let mut codes = zeros("codes", sparsity.packed_codes(shape))?;
    codes_from_mask_into(sparsity, shape, mask, &mut codes)?;
    Ok(codes)
}

/// The mask of codes.
///
/// # Errors
/// As [`check_codes`]; [`Error::Length`](crate::Error::Length).
pub fn mask_from_codes_into<M: Flag>(sparsity: Sparsity, shape: Shape, codes: &[u8], mask: &mut [M]) -> Result<()> {
    check_codes(sparsity, shape, codes)?;
    length("mask", Some(&&*mask), shape.weights())?;
    let width = sparsity.width();
    let bits_of: [u8; 16] = std::array::from_fn(|code| sparsity.bits_of_code(code as u8).unwrap_or(0));
    mask.par_chunks_mut(width * PIECE).zip(codes.par_chunks(PIECE / 2)).for_each(|(mask, codes)| {
        for (group, code) in mask.chunks_mut(width).zip(halves(codes)) {
            let bits = bits_of[usize::from(code)];
            group.iter_mut().enumerate().for_each(|(j, flag)| *flag = M::from_kept(bits >> j & 1 == 1));
        }
    });
    Ok(())
}

/// [`mask_from_codes_into`] a new vector.
///
/// # Errors
/// The same.
pub fn mask_from_codes<M: Flag>(sparsity: Sparsity, shape: Shape, codes: &[u8]) -> Result<Vec<M>> {
    check_codes(sparsity, shape, codes)?;
    let mut mask = vec![M::from_kept(false); shape.weights()];
    mask_from_codes_into(sparsity, shape, codes, &mut mask)?;
    Ok(mask)
}

/// The codes of pattern indices `[N, K/4]`, 2:4.
///
/// # Errors
/// As [`Shape::check`]; [`Error::Length`](crate::Error::Length); [`Error::IllegalCode`](crate::Error::IllegalCode) with
/// the first index above 5, such as [`Pattern::POISON`].
pub fn codes_from_patterns_into(shape: Shape, patterns: &[u8], codes: &mut [u8]) -> Result<()> {
    shape.check()?;
    length("patterns", Some(&patterns), shape.groups())?;
    length("codes", Some(&&*codes), shape.packed_codes())?;
    let pieces = patterns.par_chunks(PIECE).zip(codes.par_chunks_mut(PIECE / 2)).enumerate();
    let bad = pieces.filter_map(|(i, (patterns, codes))| {
        let groups = patterns.iter().map(|&index| Pattern::from_index(index).map(Pattern::code));
        Some(i * PIECE + write_codes(groups, codes)?)
    });
    match bad.min() {
        Some(group) => Err(illegal("pattern", Sparsity::TwoFour, shape, group, patterns[group])),
        None => Ok(()),
    }
}

/// [`codes_from_patterns_into`] a new vector.
///
/// # Errors
/// The same.
pub fn codes_from_patterns(shape: Shape, patterns: &[u8]) -> Result<Vec<u8>> {
    length("patterns", Some(&patterns), shape.groups())?;
    let mut codes = zeros("codes", shape.packed_codes())?;
    codes_from_patterns_into(shape, patterns, &mut codes)?;
    Ok(codes)
}

/// The pattern indices `[N, K/4]` of codes, 2:4.
///
/// # Errors
/// As [`check_codes`]; [`Error::Length`](crate::Error::Length).
pub fn patterns_from_codes_into(shape: Shape, codes: &[u8], patterns: &mut [u8]) -> Result<()> {
    check_codes(Sparsity::TwoFour, shape, codes)?;
    length("patterns", Some(&&*patterns), shape.groups())?;
    let index_of: [u8; 16] =
        std::array::from_fn(|code| Pattern::from_code(code as u8).map_or(Pattern::POISON, Pattern::index));
    patterns.par_chunks_mut(PIECE).zip(codes.par_chunks(PIECE / 2)).for_each(|(patterns, codes)| {
        for (index, code) in patterns.iter_mut().zip(halves(codes)) {
            *index = index_of[usize::from(code)];
        }
    });
    Ok(())
}

/// [`patterns_from_codes_into`] a new vector.
///
/// # Errors
/// The same.
pub fn patterns_from_codes(shape: Shape, codes: &[u8]) -> Result<Vec<u8>> {
    check_codes(Sparsity::TwoFour, shape, codes)?;
    let mut patterns = zeros("pattern indices", shape.groups())?;
    patterns_from_codes_into(shape, codes, &mut patterns)?;
    Ok(patterns)
}

/// Packs codes; the first group that has none, if there is one.
fn write_codes(mut groups: impl Iterator<Item = Option<u8>>, codes: &mut [u8]) -> Option<usize> {
    for (i, byte) in codes.iter_mut().enumerate() {
        let Some(Some(even)) = groups.next() else { return Some(2 * i) };
        *byte = even;
        match groups.next() {
            Some(Some(odd)) => *byte |= odd << 4,
            Some(None) => return Some(2 * i + 1),
            None => {}
        }
    }
    None
}

fn halves(codes: &[u8]) -> impl Iterator<Item = u8> {
    codes.iter().flat_map(|&byte| [byte & 15, byte >> 4])
}
