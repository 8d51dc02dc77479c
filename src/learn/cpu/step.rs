//! A step of a piece: gradient, moments, logits, sums.

// A lane's number indexes several arrays at once.
#![allow(clippy::needless_range_loop)]

use super::moments::{Pair, PieceMoments};
use super::source::Source;
use super::stepping::Stepping;
use crate::element::{DType, Logit};
use crate::learn::adamw::Scalars;
use crate::learn::{Moments, Statistics, TOO_LARGE};
use crate::sample::lanes::{self, Block, LANES, Lane};
use multiversion::multiversion;

pub(super) struct Piece<'a, L, S, M> {
    /// The number of the first group in the shard.
    pub(super) first: usize,
    pub(super) logits: &'a mut [L],
    pub(super) source: S,
    pub(super) moments: M,
}

/// Steps a piece; gives its sums.
#[multiversion(targets("x86_64+avx2+fma+f16c"))]
pub(super) fn step_piece<L: Logit, S: Source, M: PieceMoments>(
    stepping: &Stepping,
    mut piece: Piece<'_, L, S, M>,
) -> Statistics {
    let mut share = Statistics::default();
    let groups = piece.logits.len() / 6;
    // Also false for a NaN.
    let usable = (0.0..=1.0).contains(&stepping.factor);
    for block in (0..groups).step_by(Moments::BLOCK_GROUPS) {
        let end = groups.min(block + Moments::BLOCK_GROUPS);
        let mut kept = M::Kept::default();
        for start in (block..end).step_by(LANES) {
            let count = LANES.min(end - start);
            let range = 6 * start..6 * (start + count);
            let before = Block::<6>::read(&piece.logits[range.clone()]);
            let made = piece.source.make(piece.first + start, start, count, &before);
            let squares = made.gradient.squares();
            let stepped = squares.map(|square| square < TOO_LARGE && usable);
            let (mut logits, mut pair) = (before, piece.moments.read(start, count));
            let root = adamw(&stepping.by, stepping.factor, &made.gradient, &stepped, &mut logits, &mut pair);
            let any = stepped[..count].contains(&true);
            piece.moments.write(&mut kept, start..start + count, &pair, &root, any);
            if L::DTYPE != DType::F32 {
                round(stepping, piece.first + start, &mut logits);
            }
            write(&logits, &mut piece.logits[range]);
            add_squares(&mut share, &squares, count);
            if stepping.counts {
                add_counts(&mut share, &stepped[..count], [&made.confidence, &made.energy], [&before, &logits]);
            }
        }
        piece.moments.finish(kept, stepping, piece.first + block, block..end);
    }
    share
}

/// Adds up the squares of a piece of `groups` groups. There are no logits where the gradient is in memory.
#[multiversion(targets("x86_64+avx2+fma+f16c"))]
pub(super) fn measure_piece<L: Logit, S: Source>(first: usize, groups: usize, logits: &[L], mut source: S) -> f64 {
    let mut share = Statistics::default();
    for start in (0..groups).step_by(LANES) {
        let count = LANES.min(groups - start);
        let logits = Block::<6>::read(logits.get(6 * start..6 * (start + count)).unwrap_or_default());
        let made = source.make(first + start, start, count, &logits);
        add_squares(&mut share, &made.gradient.squares(), count);
    }
    share.gradient_squares
}

/// Moves the groups that are to make a step; gives the square roots of all second moments.
#[inline(always)]
fn adamw(
    by: &Scalars,
    factor: f32,
    gradient: &Block<6>,
    stepped: &[bool; LANES],
    logits: &mut Block<6>,
    pair: &mut Pair,
) -> Block<6> {
    let mut root = Block([[0.0; LANES]; 6]);
    for i in 0..6 {
        let (p, m, v, root) = (&mut logits.0[i], &mut pair.m.0[i], &mut pair.v.0[i], &mut root.0[i]);
        for lane in 0..LANES {
            let g = factor * gradient.0[i][lane];
            let new_m = by.beta1.mul_add(m[lane], by.one_minus_beta1 * g);
            let new_v = by.beta2.mul_add(v[lane], (by.one_minus_beta2 * g) * g);
            m[lane] = if stepped[lane] { new_m } else { m[lane] };
            v[lane] = if stepped[lane] { new_v } else { v[lane] };
            root[lane] = v[lane].sqrt();
            let change = (by.rate * m[lane]) / root[lane].mul_add(by.root, by.epsilon);
            let new_p = by.keep.mul_add(p[lane], -change);
            p[lane] = if stepped[lane] { new_p } else { p[lane] };
        }
    }
    root
}

/// Rounds logits to `bf16` stochastically: random bits below its last, and a cut. What is not finite is only cut.
#[inline(always)]
fn round(stepping: &Stepping, first: usize, logits: &mut Block<6>) {
    const EXPONENT: u32 = 0x7f80_0000;
    let random = lanes::words(&stepping.logit_keys, stepping.draw, &stepping.numbering.globals(first));
    for (i, values) in logits.0.iter_mut().enumerate() {
        for lane in 0..LANES {
            let bits = values[lane].to_bits();
            let random = random[i / 2][lane] >> (16 * (i % 2)) & 0xffff;
            let added = if bits & EXPONENT == EXPONENT { bits } else { bits + random };
            values[lane] = f32::from_bits(added & 0xffff_0000);
        }
    }
}

/// Writes logits that their type can hold, NaN's bits too.
#[inline(always)]
fn write<L: Logit>(logits: &Block<6>, to: &mut [L]) {
    match bytemuck::try_cast_slice_mut::<L, u16>(to) {
        Ok(to) if L::DTYPE == DType::Bf16 => {
            let mut flat = [[0.0; 6]; LANES];
            for lane in 0..LANES {
                for i in 0..6 {
                    flat[lane][i] = logits.0[i][lane];
                }
            }
            for (to, value) in to.iter_mut().zip(flat.as_flattened()) {
                *to = (value.to_bits() >> 16) as u16;
            }
        }
        _ => logits.write(to),
    }
}

#[inline(always)]
fn add_squares(share: &mut Statistics, squares: &Lane, count: usize) {
    let counted = squares.map(|square| if square < TOO_LARGE { square } else { 0.0 });
    share.gradient_squares += lanes::sum(&counted[..count]);
}

#[inline(always)]
fn add_counts(
    share: &mut Statistics,
    stepped: &[bool],
    [confidence, energy]: [&Lane; 2],
    [before, after]: [&Block<6>; 2],
) {
    for (lane, &stepped) in stepped.iter().enumerate() {
        share.skipped += u64::from(!stepped);
        share.confidence += if stepped { f64::from(confidence[lane]) } else { 0.0 };
        share.kept_energy += if stepped { f64::from(energy[lane]) } else { 0.0 };
    }
    share.groups += stepped.len() as u64;
    let [before, after] = [before, after].map(|logits| logits.choose(&logits.largest()));
    share.moved += before.differing(&after, stepped.len());
}
