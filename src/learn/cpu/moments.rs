//! The moments of a piece: in `f32`, written as they come, or in eight bits, written a block at a time when its largest
//! values are known.

// A lane's number indexes several arrays at once.
#![allow(clippy::needless_range_loop)]

use super::stepping::Stepping;
use crate::learn::Moments;
use crate::learn::eight::{LEAST, OfM, OfV, SIGN, inverse};
use crate::learn::nearly;
use crate::sample::lanes::Block;
use crate::sample::vector::{LANES, Vector, Words, to_arrays};
use std::ops::Range;

/// Both moments of sixteen groups.
#[derive(Clone, Copy)]
pub(super) struct Pair<V> {
    pub(super) m: Block<V, 6>,
    pub(super) v: Block<V, 6>,
}

/// A piece's moments, gone through in order, each block of sixteen groups read and then written.
pub(super) trait PieceMoments: Send {
    /// What is kept until a block of [`Moments::BLOCK_GROUPS`] is finished.
    type Kept<V: Vector>: Default;
    /// Those of sixteen groups where they lie, if they are `f32`; such a block need not be read and written.
    fn in_order(&mut self, start: usize, count: usize) -> Option<[&mut [f32]; 2]>;
    fn read<V: Vector>(&self, start: usize, count: usize) -> Pair<V>;
    /// `root` is the square root of `v`; `any` says whether one of the groups made a step.
    fn write<V: Vector>(
        &mut self,
        kept: &mut Self::Kept<V>,
        range: Range<usize>,
        pair: &Pair<V>,
        root: &Block<V, 6>,
        any: bool,
    );
    /// Called after the last write of a block, the piece's groups of `range`; the first has the number `first` in the
    /// shard.
    fn finish<V: Vector>(&mut self, kept: Self::Kept<V>, stepping: &Stepping, first: usize, range: Range<usize>);
    /// The square root of a second moment.
    fn root<V: Vector>(v: V) -> V;
    /// A quotient, by what is made of such a root.
    fn over<V: Vector>(of: V, by: V) -> V;
    /// Sixteen random bits, the others 0, for each logit of sixteen groups from the one of this number on.
    fn random_of_logits<V: Vector>(stepping: &Stepping, first: usize) -> [V::Words; 6];
}

/// The lower and the upper half of a word.
#[inline(always)]
fn halves<W: Words>(word: W) -> [W; 2] {
    [word & W::splat(0xffff), word.shr::<16>()]
}

pub(super) struct Full<'a> {
    pub(super) m: &'a mut [f32],
    pub(super) v: &'a mut [f32],
}

impl PieceMoments for Full<'_> {
    type Kept<V: Vector> = ();

    #[inline(always)]
    fn in_order(&mut self, start: usize, count: usize) -> Option<[&mut [f32]; 2]> {
        let range = 6 * start..6 * (start + count);
        (count == LANES).then(|| [&mut self.m[range.clone()], &mut self.v[range]])
    }

    #[inline(always)]
    fn read<V: Vector>(&self, start: usize, count: usize) -> Pair<V> {
        let range = 6 * start..6 * (start + count);
        Pair { m: Block::read(&self.m[range.clone()]), v: Block::read(&self.v[range]) }
    }

    #[inline(always)]
    fn write<V: Vector>(
        &mut self,
        _kept: &mut (),
        range: Range<usize>,
        pair: &Pair<V>,
        _root: &Block<V, 6>,
        _any: bool,
    ) {
        let range = 6 * range.start..6 * range.end;
        pair.m.write(&mut self.m[range.clone()]);
        pair.v.write(&mut self.v[range]);
    }

    #[inline(always)]
    fn finish<V: Vector>(&mut self, _kept: (), _stepping: &Stepping, _first: usize, _range: Range<usize>) {}

    #[inline(always)]
    fn root<V: Vector>(v: V) -> V {
        v.sqrt()
    }

    #[inline(always)]
    fn over<V: Vector>(of: V, by: V) -> V {
        of / by
    }

    #[inline(always)]
    fn random_of_logits<V: Vector>(stepping: &Stepping, first: usize) -> [V::Words; 6] {
        let [a, b, c, _] = V::Words::philox(&stepping.logit_keys, stepping.draw, &stepping.numbering.globals(first));
        let [[a, b], [c, d], [e, f]] = [halves(a), halves(b), halves(c)];
        [a, b, c, d, e, f]
    }
}

/// Lanes' blocks in a block of moments.
const PARTS: usize = Moments::BLOCK_GROUPS / LANES;

pub(super) struct Eight<'a> {
    pub(super) m: &'a mut [u8],
    pub(super) v: &'a mut [u8],
    pub(super) scales: &'a mut [f32],
}

/// A block's new moments.
pub(super) struct New<V> {
    /// `m`, and `√v`.
    parts: [[Block<V, 6>; 2]; PARTS],
    /// Whether any of its groups made a step.
    any: bool,
}

impl<V: Vector> Default for New<V> {
    #[inline(always)]
    fn default() -> Self {
        Self { parts: [[Block::splat(0.0); 2]; PARTS], any: false }
    }
}

impl PieceMoments for Eight<'_> {
    type Kept<V: Vector> = New<V>;

    #[inline(always)]
    fn in_order(&mut self, _start: usize, _count: usize) -> Option<[&mut [f32]; 2]> {
        None
    }

    #[inline(always)]
    fn read<V: Vector>(&self, start: usize, count: usize) -> Pair<V> {
        let range = 6 * start..6 * (start + count);
        let block = start / Moments::BLOCK_GROUPS;
        let unit_m = self.scales[2 * block] * (1.0 / OfM::TOP);
        let unit_v = self.scales[2 * block + 1] * (1.0 / OfV::TOP);
        let (mut m, mut v) = ([[0.0; 6]; LANES], [[0.0; 6]; LANES]);
        for (value, &code) in m.as_flattened_mut().iter_mut().zip(&self.m[range.clone()]) {
            let magnitude = OfM::decode(code) * unit_m;
            *value = if code & SIGN == 0 { magnitude } else { -magnitude };
        }
        for (value, &code) in v.as_flattened_mut().iter_mut().zip(&self.v[range]) {
            let root = OfV::decode(code) * unit_v;
            *value = root * root;
        }
        Pair { m: Block(V::turn(&m)), v: Block(V::turn(&v)) }
    }

    #[inline(always)]
    fn write<V: Vector>(
        &mut self,
        kept: &mut New<V>,
        range: Range<usize>,
        pair: &Pair<V>,
        root: &Block<V, 6>,
        any: bool,
    ) {
        kept.any |= any;
        kept.parts[range.start / LANES % PARTS] = [pair.m, *root];
    }

    #[inline(always)]
    fn finish<V: Vector>(&mut self, kept: New<V>, stepping: &Stepping, first: usize, range: Range<usize>) {
        if !kept.any {
            return;
        }
        let Range { start, .. } = range;
        let parts = &kept.parts[..range.len().div_ceil(LANES)];
        let [mut top_m, mut top_v] = [0; 2];
        for [m, v] in parts {
            (top_m, top_v) = (largest(m, top_m), largest(v, top_v));
        }
        let [top_m, top_v] = [f32::from_bits(top_m), f32::from_bits(top_v)];
        let [inverse_m, inverse_v] = [inverse::<V>(OfM::TOP, top_m), inverse::<V>(OfV::TOP, top_v)];
        let block = start / Moments::BLOCK_GROUPS;
        self.scales[2 * block] = if top_m < LEAST { 0.0 } else { top_m };
        self.scales[2 * block + 1] = if top_v < LEAST { 0.0 } else { top_v };
        for (part, [m, v]) in parts.iter().enumerate() {
            let start = start + part * LANES;
            let random = stepping.of_moments::<V>(first + part * LANES);
            let [m, v] = [m.to_arrays(), v.to_arrays()];
            let (mut codes_m, mut codes_v) = ([[0; 6]; LANES], [[0; 6]; LANES]);
            for i in 0..6 {
                for lane in 0..LANES {
                    let (value, random) = (m[i][lane], random[i / 3][lane] >> (2 + 10 * (i % 3)) & 1023);
                    codes_m[lane][i] = code_of_m(value, inverse_m, random);
                }
                for lane in 0..LANES {
                    let (value, random) = (v[i][lane], random[2 + i / 3][lane] >> (2 + 10 * (i % 3)) & 1023);
                    codes_v[lane][i] = code_of_v(value, inverse_v, random);
                }
            }
            let range = 6 * start..(6 * (start + LANES)).min(self.m.len());
            self.m[range.clone()].copy_from_slice(&codes_m.as_flattened()[..range.len()]);
            self.v[range.clone()].copy_from_slice(&codes_v.as_flattened()[..range.len()]);
        }
    }

    #[inline(always)]
    fn root<V: Vector>(v: V) -> V {
        nearly::root(v)
    }

    #[inline(always)]
    fn over<V: Vector>(of: V, by: V) -> V {
        of * nearly::inverse(by)
    }

    /// Of the words that round the moments, a logit's from those of the other three of its group.
    #[inline(always)]
    fn random_of_logits<V: Vector>(stepping: &Stepping, first: usize) -> [V::Words; 6] {
        let [a, b, c, d] = V::Words::philox(&stepping.moment_keys, stepping.draw, &stepping.numbering.globals(first));
        let [[a, e], [b, f], [c, _], [d, _]] = [halves(a), halves(b), halves(c), halves(d)];
        [b, f, d, a, e, c]
    }
}

#[inline(always)]
fn code_of_m(value: f32, inverse: f32, random: u32) -> u8 {
    let value = value * inverse;
    let code = OfM::encode(value.abs(), random);
    let sign = if value < 0.0 { SIGN } else { 0 };
    code | sign
}

/// Of a square root; at least 1 unless it is 0.
#[inline(always)]
fn code_of_v(root: f32, inverse: f32, random: u32) -> u8 {
    let least = if root * inverse > 0.0 { 1 } else { 0 };
    OfV::encode(root * inverse, random).max(least)
}

/// The largest magnitude, by bits, as which a NaN is above all numbers: it is kept, as on a device.
#[inline(always)]
fn largest<V: Vector>(block: &Block<V, 6>, top: u32) -> u32 {
    let mut tops = [top; LANES];
    for values in block.to_arrays() {
        for lane in 0..LANES {
            tops[lane] = tops[lane].max(values[lane].abs().to_bits());
        }
    }
    tops.into_iter().fold(top, u32::max)
}

/// The random words of sixteen groups' moments.
impl Stepping {
    #[inline(always)]
    fn of_moments<V: Vector>(&self, first: usize) -> [[u32; LANES]; 4] {
        to_arrays(V::Words::philox(&self.moment_keys, self.draw, &self.numbering.globals(first)))
    }
}
