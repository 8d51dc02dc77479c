//! The CPU executor of `compress`: pieces of groups, or of tiles, on the threads of rayon's pool.

use super::layout::Layout;
use super::value::Sparsity;
use super::{Choice, Draw, Pack, Reorder, Unpack, illegal, in_row, not_two_four};
use crate::check::{length, zeros};
use crate::element::{DType, Element, Logit};
use crate::error::{Error, Result};
use crate::mask;
use crate::pass::{Checked, Pass};
use crate::shape::Shape;
use crate::space::{Host, HostSpace};
use groups::PIECE;
use rayon::prelude::*;

mod groups;
mod reorder;

/// A group that keeps more values than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation {
    /// The row.
    pub row: usize,
    /// The group in its row.
    pub group: usize,
    /// Its values that are not zero.
    pub kept: u32,
}

/// Compresses a dense weight into what was asked for. Where codes are chosen here and not asked for, it allocates
/// memory for them.
pub(super) fn pack<S: HostSpace, T: Element, L: Logit>(pass: Pack<'_, S, T, L>) -> Result<()> {
    let Pack { shape, layout, choice, dense, values, metadata, codes, masked, faults: _ } = pass;
    let (dense, mut values) = (S::slice(dense), values.map(S::slice_mut));
    let choice = choice.map(S::slice, S::slice);
    let [metadata, codes] = [metadata, codes].map(|operand| operand.map(S::slice_mut));
    let masked = masked.map(S::slice_mut);
    let (sparsity, pitch) = (Sparsity::of(T::DTYPE), layout.sizes(shape, T::DTYPE)?.pitch);
    let mut own;
    let chosen: &[u8] = if let Choice::Codes(given) = choice {
        check_codes(sparsity, shape, given)?;
        if let Some(codes) = codes {
            copy_codes(sparsity, shape, given, codes);
        }
        given
    } else {
        let codes = match codes {
            Some(codes) => codes,
            None => {
                own = zeros("codes", sparsity.packed_codes(shape))?;
                own.as_mut_slice()
            }
        };
        if let Choice::Magnitude = choice {
            refuse_two_four_of_f32(shape, dense)?;
        }
        // Rows without padding can be written as they are chosen.
        let with = if pitch == shape.cols / 2 && choice.looks_at_values() { values.take() } else { None };
        choose(shape, &choice, dense, codes, with)?;
        codes
    };
    if let Some(values) = values {
        groups::keep_all(shape, chosen, dense, values, pitch);
    }
    if let Some(masked) = masked {
        groups::mask_all(chosen, dense, masked);
    }
    metadata.map_or(Ok(()), |metadata| from_plain(sparsity, shape, layout, T::DTYPE, chosen, metadata))
}

/// Chooses codes and, in the same pass over the values, writes those that are kept.
fn choose<T: Element, L: Logit>(
    shape: Shape,
    choice: &Choice<&[u8], &[L]>,
    dense: &[T],
    codes: &mut [u8],
    values: Option<&mut [T]>,
) -> Result<()> {
    let (sparsity, width) = (Sparsity::of(T::DTYPE), Sparsity::of(T::DTYPE).width());
    let bad = match choice {
        Choice::Codes(_) => None,
        Choice::Logits(draw) => {
            sample(shape, draw, codes)?;
            return check_codes(sparsity, shape, codes);
        }
        Choice::Magnitude => groups::choose_all::<T, groups::Magnitude>(dense, codes, values),
        Choice::NonZeros => groups::choose_all::<T, groups::NonZeros>(dense, codes, values),
    };
    bad.map_or(Ok(()), |group| {
        let kept = groups::non_zeros(&dense[group * width..(group + 1) * width]);
        Err(not_two_four(sparsity, shape, group, kept))
    })
}

/// Refuses an `f32` weight that is 2:4 but not 1:2: choosing by magnitude would halve what it keeps, and whoever made
/// it 2:4 has not asked for that. A dense weight is told by its first groups.
fn refuse_two_four_of_f32<T: Element>(shape: Shape, dense: &[T]) -> Result<()> {
    let pair = Sparsity::of(T::DTYPE).width();
    let first_beyond = |width: usize, most: u32| {
        let pieces = dense.par_chunks(width * PIECE).enumerate();
        pieces.find_map_first(|(i, piece)| {
            let found = piece.chunks(width).position(|group| groups::non_zeros(group) > most)?;
            Some(i * PIECE + found)
        })
    };
    if Sparsity::of(T::DTYPE) != Sparsity::OneTwo || first_beyond(Sparsity::TwoFour.width(), 2).is_some() {
        return Ok(());
    }
    match first_beyond(pair, 1) {
        Some(group) => {
            let [row, group] = in_row(Sparsity::OneTwo, shape, group);
            Err(Error::TwoFourOfF32 { row, group })
        }
        None => Ok(()),
    }
}

/// The codes of a mask; that of a group that has none is not legal.
fn sample<L: Logit>(shape: Shape, draw: &Draw<&[L]>, codes: &mut [u8]) -> Result<()> {
    let Draw { logits, kind, sampling, shard } = *draw;
    let pass = mask::Forward::<Host, L, f32>::new(shape, kind, sampling, logits).shard(shard);
    Pass::execute(Checked::part(pass.codes(codes)))
}

/// Decompresses: kept values bit for bit, all others `+0.0`. Where metadata is not canonical, it allocates memory for
/// the codes.
pub(super) fn unpack<S: HostSpace, T: Element>(pass: Unpack<'_, S, T>) -> Result<()> {
    let Unpack { shape, layout, values, metadata, dense, faults: _ } = pass;
    let (values, metadata, dense) = (S::slice(values), S::slice(metadata), S::slice_mut(dense));
    let (sparsity, pitch) = (Sparsity::of(T::DTYPE), layout.sizes(shape, T::DTYPE)?.pitch);
    let mut own;
    let codes = if layout == Layout::Plain {
        metadata
    } else {
        own = zeros("codes", sparsity.packed_codes(shape))?;
        reorder::to_plain(&layout.map(shape, T::DTYPE)?, metadata, &mut own);
        own.as_slice()
    };
    check_codes(sparsity, shape, codes)?;
    groups::spread_all(shape, codes, values, pitch, dense);
    Ok(())
}

/// Takes metadata from one layout to another. Where neither is canonical, it allocates memory for the codes.
pub(super) fn reorder<S: HostSpace>(pass: Reorder<'_, S>) -> Result<()> {
    let Reorder { shape, value_type, from, to, faults: _ } = pass;
    let (from, to) = ((from.0, S::slice(from.1)), (to.0, S::slice_mut(to.1)));
    let sparsity = Sparsity::of(value_type);
    if from.0 == Layout::Plain {
        check_codes(sparsity, shape, from.1)?;
        return from_plain(sparsity, shape, to.0, value_type, from.1, to.1);
    }
    let map = from.0.map(shape, value_type)?;
    if to.0 == Layout::Plain {
        reorder::to_plain(&map, from.1, to.1);
        return check_codes(sparsity, shape, to.1);
    }
    let mut codes = zeros("codes", sparsity.packed_codes(shape))?;
    reorder::to_plain(&map, from.1, &mut codes);
    check_codes(sparsity, shape, &codes)?;
    from_plain(sparsity, shape, to.0, value_type, &codes, to.1)
}

/// Checks that canonical codes are as many as the shape needs, and legal.
///
/// # Errors
/// As [`Shape::check`]; [`Error::Length`](crate::Error::Length); [`Error::IllegalCode`](crate::Error::IllegalCode) with
/// the first group whose code is not.
pub fn check_codes(sparsity: Sparsity, shape: Shape, codes: &[u8]) -> Result<()> {
    shape.check()?;
    length("codes", Some(&codes), sparsity.packed_codes(shape))?;
    match groups::first_illegal(sparsity, codes, sparsity.groups(shape)) {
        Some((group, code)) => Err(illegal("code", sparsity, shape, group, code)),
        None => Ok(()),
    }
}

/// The first group of a dense weight that keeps more than half its values, if there is one: a weight without is 2:4
/// (`f32`: 1:2) and can be compressed as it is.
///
/// # Errors
/// As [`Shape::check`]; [`Error::Length`](crate::Error::Length).
pub fn first_violation<T: Element>(shape: Shape, dense: &[T]) -> Result<Option<Violation>> {
    shape.check()?;
    length("dense", Some(&dense), shape.weights())?;
    let (width, row_groups) = (Sparsity::of(T::DTYPE).width(), Sparsity::of(T::DTYPE).row_groups(shape.cols));
    let found = dense
        .par_chunks(width * PIECE)
        .enumerate()
        .find_map_first(|(i, piece)| groups::first_violation(piece).map(|(group, kept)| (i * PIECE + group, kept)));
    Ok(found.map(|(group, kept)| Violation { row: group / row_groups, group: group % row_groups, kept }))
}

/// Decompresses a checked canonical form.
pub(super) fn decompress<T: Element>(shape: Shape, values: &[T], codes: &[u8], dense: &mut [T]) {
    groups::spread_all(shape, codes, values, shape.cols / 2, dense);
}

/// Checked canonical codes into a layout.
fn from_plain(
    sparsity: Sparsity,
    shape: Shape,
    layout: Layout,
    value_type: DType,
    codes: &[u8],
    metadata: &mut [u8],
) -> Result<()> {
    if layout == Layout::Plain {
        copy_codes(sparsity, shape, codes, metadata);
    } else {
        reorder::from_plain(&layout.map(shape, value_type)?, codes, metadata);
    }
    Ok(())
}

/// Copies canonical codes; the unused half of a last byte becomes zero.
fn copy_codes(sparsity: Sparsity, shape: Shape, from: &[u8], to: &mut [u8]) {
    to.copy_from_slice(from);
    if let (1, Some(last)) = (sparsity.groups(shape) % 2, to.last_mut()) {
        *last &= 15;
    }
}
