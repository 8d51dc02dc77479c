//! The CPU executor of `select`: pieces of groups, bands of columns or of rows, on the threads of rayon's pool.

use super::calibration::check_scale;
use super::{ByScore, Hessian, Squares, Statistics, Swaps, Sweep};
use crate::element::Float;
use crate::error::Result;
use crate::pattern::Pattern;
use crate::sample::cpu::{PIECE, piece, pieces_mut};
use crate::space::HostSpace;
use multiversion::multiversion;
use rayon::prelude::*;

mod activations;
mod swaps;
mod sweep;
mod terms;

pub(super) use activations::{hessian, squares};
pub(super) use swaps::swaps;
pub(super) use sweep::sweep;

/// Groups that are chosen for side by side, so that compilers make vector code.
const LANES: usize = 32;

/// Chooses masks and writes what was asked for.
pub(super) fn by_score<S: HostSpace, W: Float>(pass: ByScore<'_, S, W>) -> Result<()> {
    let (shape, statistics) = (pass.shape, pass.statistics.map(S::slice_mut));
    let (weight, scores) = (pass.weight.map(S::slice), pass.scores.map(S::slice));
    let column_scale = pass.column_scale.map(S::slice);
    check_scale("the scale", column_scale.unwrap_or_default())?;
    let mut masked = pieces_mut(pass.masked.map(S::slice_mut), 4 * PIECE);
    let mut patterns = pieces_mut(pass.patterns.map(S::slice_mut), PIECE);
    let mut codes = pieces_mut(pass.codes.map(S::slice_mut), PIECE / 2);
    let pieces = (0..shape.groups().div_ceil(PIECE)).map(|i| Piece {
        column: 4 * i * PIECE % shape.cols.max(1),
        groups: PIECE.min(shape.groups() - i * PIECE),
        weight: piece(weight, i, 4 * PIECE),
        scores: piece(scores, i, 4 * PIECE),
        column_scale,
        masked: masked.next(),
        patterns: patterns.next(),
        codes: codes.next(),
        counts: statistics.is_some(),
    });
    let pieces = pieces.collect::<Vec<_>>();
    let shares = pieces.into_par_iter().map(choose_piece).collect::<Vec<_>>();
    if let Some([result, ..]) = statistics {
        // In order, so that threads do not change the result.
        *result = shares.iter().fold(Statistics::default(), |sum, share| Statistics {
            kept: sum.kept + share.kept,
            total: sum.total + share.total,
            groups: sum.groups + share.groups,
            poisoned: sum.poisoned + share.poisoned,
        });
    }
    Ok(())
}

struct Piece<'a, W> {
    /// The column of the first weight.
    column: usize,
    groups: usize,
    weight: Option<&'a [W]>,
    scores: Option<&'a [f32]>,
    column_scale: Option<&'a [f32]>,
    masked: Option<&'a mut [W]>,
    patterns: Option<&'a mut [u8]>,
    codes: Option<&'a mut [u8]>,
    counts: bool,
}

#[multiversion(targets("x86_64+avx2+fma+f16c"))]
fn choose_piece<W: Float>(mut piece: Piece<'_, W>) -> Statistics {
    let mut share = Statistics::default();
    let mut column = piece.column;
    for start in (0..piece.groups).step_by(LANES) {
        let count = LANES.min(piece.groups - start);
        let range = 4 * start..4 * (start + count);
        let (mut weight, mut scores) = ([0.0; 4 * LANES], [0.0; 4 * LANES]);
        if let Some(from) = piece.weight {
            W::widen(&from[range.clone()], &mut weight);
        }
        match piece.scores {
            Some(given) => scores[..4 * count].copy_from_slice(&given[range.clone()]),
            None => scores = weight.map(f32::abs),
        }
        if let Some(scale) = piece.column_scale {
            column = scale_by_column(&mut scores[..4 * count], scale, column);
        }
        let codes = choose(&scores);
        if let Some(out) = &mut piece.masked {
            keep(&codes, &mut weight);
            W::narrow(&weight, &mut out[range]);
        }
        if let Some(out) = &mut piece.patterns {
            let indices = codes.map(|code| Pattern::from_code(code).map_or(Pattern::POISON, Pattern::index));
            out[start..start + count].copy_from_slice(&indices[..count]);
        }
        if let Some(out) = &mut piece.codes {
            pack(&codes[..count], &mut out[start / 2..(start + count).div_ceil(2)]);
        }
        if piece.counts {
            add_up(&codes[..count], &scores, &mut share);
        }
    }
    share
}

/// Multiplies scores by their columns' scales, from `column` on; the column after them.
#[inline(always)]
fn scale_by_column(scores: &mut [f32], scale: &[f32], mut column: usize) -> usize {
    let mut rest = scores;
    while !rest.is_empty() {
        let (now, later) = rest.split_at_mut(rest.len().min(scale.len() - column));
        for (score, scale) in now.iter_mut().zip(&scale[column..]) {
            *score *= scale;
        }
        column = (column + now.len()) % scale.len();
        rest = later;
    }
    column
}

/// The codes of the two largest scores of each group, of equal ones the lowest.
#[inline(always)]
fn choose(scores: &[f32; 4 * LANES]) -> [u8; LANES] {
    let mut codes = [0; LANES];
    for (code, four) in codes.iter_mut().zip(scores.as_chunks::<4>().0) {
        *code = code_of_largest(*four);
    }
    codes
}

/// The code of the two largest of four scores, of equal ones the lowest; [`Pattern::POISON_CODE`] if one is NaN.
#[inline(always)]
fn code_of_largest([a, b, c, d]: [f32; 4]) -> u8 {
    let [ab, ac, ad] = [a >= b, a >= c, a >= d];
    let [bc, bd, cd] = [b >= c, b >= d, c >= d];
    // Kept are the two that win against two others or all three.
    let two = |x: bool, y: bool, z: bool| (x & y) | (z & (x | y));
    let [keep_a, keep_b, keep_c, keep_d] =
        [two(ab, ac, ad), two(!ab, bc, bd), two(!ac, !bc, cd), two(!ad, !bd, !cd)].map(u8::from);
    let first = (1 - keep_a) * (2 - keep_b);
    let second = 1 + (keep_c | keep_d) + keep_d;
    let nan = a.is_nan() | b.is_nan() | c.is_nan() | d.is_nan();
    if nan { Pattern::POISON_CODE } else { first + 4 * second }
}

/// What a code makes of four weights in bits: those that stay, and those that are set.
const MASKS: [([u32; 4], u32); 16] = {
    let mut masks = [([0; 4], 0x7fc0_0000); 16];
    let mut index = 0;
    while index < 6 {
        let pattern = Pattern::ALL[index];
        let [first, second] = pattern.kept();
        let mut stay = [0; 4];
        stay[first as usize] = u32::MAX;
        stay[second as usize] = u32::MAX;
        masks[pattern.code() as usize] = (stay, 0);
        index += 1;
    }
    masks
};

#[inline(always)]
fn keep(codes: &[u8; LANES], weight: &mut [f32; 4 * LANES]) {
    for (code, four) in codes.iter().zip(weight.as_chunks_mut::<4>().0) {
        let (stay, set) = MASKS[usize::from(code & 15)];
        for (w, stay) in four.iter_mut().zip(stay) {
            *w = f32::from_bits((w.to_bits() & stay) | set);
        }
    }
}

/// Two codes a byte, from an even group on.
#[inline(always)]
fn pack(codes: &[u8], bytes: &mut [u8]) {
    for (byte, pair) in bytes.iter_mut().zip(codes.chunks(2)) {
        *byte = pair[0] | pair.get(1).map_or(0, |odd| odd << 4);
    }
}

/// Packs the codes of patterns, poison where there is none.
fn pack_patterns(patterns: &[u8], codes: &mut [u8]) {
    codes.par_chunks_mut(PIECE / 2).zip(patterns.par_chunks(PIECE)).for_each(|(bytes, patterns)| {
        let code = |&index: &u8| Pattern::from_index(index).map_or(Pattern::POISON_CODE, Pattern::code);
        pack(&patterns.iter().map(code).collect::<Vec<_>>(), bytes);
    });
}

#[inline(always)]
fn add_up(codes: &[u8], scores: &[f32; 4 * LANES], share: &mut Statistics) {
    for (&code, four) in codes.iter().zip(scores.as_chunks::<4>().0) {
        if code == Pattern::POISON_CODE {
            share.poisoned += 1;
            continue;
        }
        let of = |j: u8| f64::from(four[usize::from(j & 3)]);
        share.groups += 1;
        share.kept += of(code) + of(code >> 2);
        share.total += (of(0) + of(1)) + (of(2) + of(3));
    }
}
