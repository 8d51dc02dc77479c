//! A step of a piece: gradient, moments, logits, sums.

use super::moments::PieceMoments;
use super::source::{Made, Source};
use super::stepping::Stepping;
use crate::element::{DType, Logit};
use crate::learn::adamw::Scalars;
use crate::learn::{Moments, Statistics, TOO_LARGE};
use crate::sample::lanes::Block;
use crate::sample::vector::{LANES, Mask, Vector, Words, by_processor};

pub(super) struct Piece<'a, L, S, M> {
    /// The number of the first group in the shard.
    pub(super) first: usize,
    pub(super) logits: &'a mut [L],
    pub(super) source: S,
    pub(super) moments: M,
}

by_processor! {
/// Steps a piece; gives its sums.
pub(super) fn step_piece<V, L: Logit, S: Source, M: PieceMoments>(
    stepping: &Stepping,
    piece: Piece<'_, L, S, M>,
) -> Statistics {
    let (mut share, mut piece) = (Statistics::default(), piece);
    let groups = piece.logits.len() / 6;
    for block in (0..groups).step_by(Moments::BLOCK_GROUPS) {
        let end = groups.min(block + Moments::BLOCK_GROUPS);
        let mut kept = M::Kept::<V>::default();
        for start in (block..end).step_by(LANES) {
            let count = LANES.min(end - start);
            let logits = &mut piece.logits[6 * start..6 * (start + count)];
            let made = piece.source.make::<V, L>(piece.first + start, start, count, logits);
            add_squares(&mut share, &made.squares, count);
            let is_done = match piece.moments.in_order(start, count) {
                Some(moments) => step_in_order::<V, L, M>(stepping, &made, logits, moments),
                None => false,
            };
            if !is_done {
                let first = piece.first + start;
                step_in_lanes(stepping, first, start, &made, logits, &mut piece.moments, &mut kept, &mut share);
            }
        }
        piece.moments.finish(kept, stepping, piece.first + block, block..end);
    }
    share
}
}

by_processor! {
/// Adds up the squares of a piece of `groups` groups. There are no logits where the gradient is in memory.
pub(super) fn measure_piece<V, L: Logit, S: Source>(first: usize, groups: usize, logits: &[L], source: S) -> f64 {
    let (mut share, mut source) = (Statistics::default(), source);
    for start in (0..groups).step_by(LANES) {
        let count = LANES.min(groups - start);
        let logits = logits.get(6 * start..6 * (start + count)).unwrap_or_default();
        let made = source.make::<V, L>(first + start, start, count, logits);
        add_squares(&mut share, &made.squares, count);
    }
    share.gradient_squares
}
}

/// A step of sixteen groups as they lie in memory, if each is to make one, and all is `f32` and none counted. A step is
/// the same for every logit, so nothing need be turned.
#[inline(always)]
fn step_in_order<V: Vector, L: Logit, M: PieceMoments>(
    stepping: &Stepping,
    made: &Made,
    logits: &mut [L],
    [m, v]: [&mut [f32]; 2],
) -> bool {
    let all = stepping.steps::<V>(made).to_bits() == u16::MAX;
    if L::DTYPE != DType::F32 || stepping.counts || !all {
        return false;
    }
    let lanes = made.gradient.as_flattened().as_chunks::<LANES>().0.iter();
    let moments = m.as_chunks_mut::<LANES>().0.iter_mut().zip(v.as_chunks_mut::<LANES>().0);
    let logits = bytemuck::cast_slice_mut(logits).as_chunks_mut::<LANES>().0;
    for (((m, v), p), g) in moments.zip(logits).zip(lanes) {
        let (before, g) = ([V::from_array(*p), V::from_array(*m), V::from_array(*v)], V::from_array(*g));
        let ([new_p, new_m, new_v], _) = adamw::<V, M>(&stepping.by, V::splat(stepping.factor) * g, before);
        (*p, *m, *v) = (new_p.to_array(), new_m.to_array(), new_v.to_array());
    }
    true
}

/// A step of up to sixteen groups, whatever their types.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn step_in_lanes<V: Vector, L: Logit, M: PieceMoments>(
    stepping: &Stepping,
    first: usize,
    start: usize,
    made: &Made,
    to: &mut [L],
    moments: &mut M,
    kept: &mut M::Kept<V>,
    share: &mut Statistics,
) {
    let count = to.len() / 6;
    let before = Block::<V, 6>::read(to);
    let (mut logits, mut pair) = (before, moments.read(start, count));
    let (gradient, stepped) = (V::turn(&made.gradient), stepping.steps::<V>(made));
    let mut root = Block::splat(0.0);
    for (i, gradient) in gradient.into_iter().enumerate() {
        let old = [logits.0[i], pair.m.0[i], pair.v.0[i]];
        let (new, new_root) = adamw::<V, M>(&stepping.by, V::splat(stepping.factor) * gradient, old);
        logits.0[i] = V::select(stepped, new[0], old[0]);
        pair.m.0[i] = V::select(stepped, new[1], old[1]);
        pair.v.0[i] = V::select(stepped, new[2], old[2]);
        root.0[i] = V::select(stepped, new_root, M::root(old[2]));
    }
    let stepped = stepped.to_bits();
    moments.write(kept, start..start + count, &pair, &root, stepped & first_bits(count) != 0);
    if L::DTYPE != DType::F32 {
        round::<V, M>(stepping, first, &mut logits);
    }
    write(&logits, to);
    if stepping.counts {
        add_counts(share, stepped, count, made, [&before, &logits]);
    }
}

/// A step of a logit, its moments given and taken after it; also the root of the new second one.
#[inline(always)]
fn adamw<V: Vector, M: PieceMoments>(by: &Scalars, g: V, [p, m, v]: [V; 3]) -> ([V; 3], V) {
    let splat = V::splat;
    let m = m.mul_add(splat(by.beta1), splat(by.one_minus_beta1) * g);
    let v = v.mul_add(splat(by.beta2), splat(by.one_minus_beta2) * g * g);
    let root = M::root(v);
    let change = M::over(splat(by.rate) * m, root.mul_add(splat(by.root), splat(by.epsilon)));
    ([p.mul_add(splat(by.keep), splat(-0.0) - change), m, v], root)
}

/// Rounds logits to `bf16` stochastically: random bits below its last, and a cut. What is not finite is only cut.
#[inline(always)]
fn round<V: Vector, M: PieceMoments>(stepping: &Stepping, first: usize, logits: &mut Block<V, 6>) {
    let random = M::random_of_logits::<V>(stepping, first);
    for (values, random) in logits.0.iter_mut().zip(random) {
        let added = V::Words::select(values.is_finite(), values.to_bits() + random, values.to_bits());
        *values = V::from_bits(added & V::Words::splat(0xffff_0000));
    }
}

/// Writes logits that their type can hold, NaN's bits too.
#[inline(always)]
fn write<V: Vector, L: Logit>(logits: &Block<V, 6>, to: &mut [L]) {
    match bytemuck::try_cast_slice_mut::<L, u16>(to) {
        Ok(to) if L::DTYPE == DType::Bf16 => {
            let mut groups = [[0.0_f32; 6]; LANES];
            V::turn_back(&logits.0, &mut groups);
            for (to, value) in to.iter_mut().zip(groups.as_flattened()) {
                *to = (value.to_bits() >> 16) as u16;
            }
        }
        _ => logits.write(to),
    }
}

#[inline(always)]
fn add_squares(share: &mut Statistics, squares: &[f32; LANES], count: usize) {
    for square in &squares[..count] {
        share.gradient_squares += if *square < TOO_LARGE { f64::from(*square) } else { 0.0 };
    }
}

#[inline(always)]
fn add_counts<V: Vector>(
    share: &mut Statistics,
    stepped: u16,
    count: usize,
    made: &Made,
    [before, after]: [&Block<V, 6>; 2],
) {
    for lane in 0..count {
        if stepped >> lane & 1 == 1 {
            share.confidence += f64::from(made.confidence[lane]);
            share.kept_energy += f64::from(made.energy[lane]);
        } else {
            share.skipped += 1;
        }
    }
    share.groups += count as u64;
    let (old, new) = (before.choose(before.largest()), after.choose(after.largest()));
    share.moved += old.differing(&new, count);
}

fn first_bits(count: usize) -> u16 {
    u16::MAX >> (LANES - count)
}

impl Stepping {
    /// The groups that make a step.
    #[inline(always)]
    fn steps<V: Vector>(&self, made: &Made) -> V::Mask {
        // Also false for a NaN.
        let usable = (0.0..=1.0).contains(&self.factor);
        V::from_array(made.squares).is_below(V::splat(if usable { TOO_LARGE } else { 0.0 }))
    }
}
