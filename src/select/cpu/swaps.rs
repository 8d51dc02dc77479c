//! Swaps in a mask: a few rows at a time. The product of what they drop and the Hessian first, a block of the Hessian
//! after the other for all of them; then each row's swaps, with its groups side by side in vectors.

use super::super::calibration::check_hessian;
use super::super::swaps::{LEAST, SUMS};
use super::super::sweep::BLOCK;
use super::terms::{self, Terms};
use super::{Swaps, pack_patterns};
use crate::check::zeros;
use crate::element::Float;
use crate::error::Result;
use crate::pattern::Pattern;
use crate::space::HostSpace;
use multiversion::multiversion;
use rayon::prelude::*;

/// The most rows of a task: they read the same part of the Hessian one after the other.
const ROWS: usize = 32;
/// Groups that are looked at side by side.
const LANES: usize = 32;
type Lanes = [f32; LANES];
/// The two positions of a pair, in the order in which the first of equal changes is taken.
const PAIRS: [[usize; 2]; 6] = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]];

/// Swaps in a weight's mask.
pub(in super::super) fn swaps<S: HostSpace, W: Float>(pass: Swaps<'_, S, W>) -> Result<()> {
    let (shape, cols, limit) = (pass.shape, pass.shape.cols, pass.limit);
    let (weight, before) = (S::slice(pass.weight), S::slice(pass.before));
    let [losses_before, losses] = [pass.losses_before, pass.losses].map(|losses| losses.map(S::slice_mut));
    let (counts, codes) = (pass.swaps.map(S::slice_mut), pass.codes.map(S::slice_mut));
    if shape.weights() == 0 {
        [losses_before, losses].into_iter().flatten().for_each(|losses| losses.fill(0.0));
        counts.into_iter().for_each(|counts| counts.fill(0));
        return Ok(());
    }
    let hessian = S::slice(pass.hessian);
    check_hessian(cols, hessian)?;
    let hessian = Hessian { cols, all: hessian, of_groups: of_groups(cols, hessian) };
    let mut own;
    let patterns = match pass.patterns.map(S::slice_mut) {
        Some(patterns) => patterns,
        None => {
            own = zeros("pattern indices", shape.groups())?;
            own.as_mut_slice()
        }
    };
    let rows = shape.rows.div_ceil(4 * rayon::current_num_threads()).clamp(1, ROWS);
    let mut masked = pass.masked.map(S::slice_mut).into_iter().flat_map(|masked| masked.chunks_mut(rows * cols));
    let [mut losses_before, mut losses] =
        [losses_before, losses].map(|losses| losses.into_iter().flat_map(|losses| losses.chunks_mut(rows)));
    let mut counts = counts.into_iter().flat_map(|counts| counts.chunks_mut(rows));
    let bands = weight.chunks(rows * cols).zip(patterns.chunks_mut(rows * (cols / 4)));
    let bands = bands.map(|(weight, patterns)| (weight, patterns, masked.next(), losses_before.next(), losses.next()));
    let bands = bands.map(|band| (band, counts.next())).collect::<Vec<_>>();
    bands.into_par_iter().enumerate().try_for_each(|(band, (outputs, counts))| {
        let (weight, patterns, masked, losses_before, losses) = outputs;
        for (g, index) in (band * rows * (cols / 4)..).zip(patterns.iter_mut()) {
            *index = Pattern::from_code(before[g / 2] >> (4 * (g % 2)) & 15).map_or(Pattern::POISON, Pattern::index);
        }
        let mut w = zeros("rows of the weight in f32", weight.len())?;
        W::widen(weight, &mut w);
        let swapped = hessian.swap(&w, patterns, limit)?;
        write(losses_before, swapped.iter().map(|row| row.before));
        write(losses, swapped.iter().map(|row| row.after));
        write(counts, swapped.iter().map(|row| row.count));
        if let Some(masked) = masked {
            keep(weight, patterns, masked);
        }
        Ok(())
    })?;
    if let Some(codes) = codes {
        pack_patterns(patterns, codes);
    }
    Ok(())
}

fn write<T>(to: Option<&mut [T]>, values: impl Iterator<Item = T>) {
    to.into_iter().flatten().zip(values).for_each(|(to, value)| *to = value);
}

/// `W∘M`.
fn keep<W: Float>(weight: &[W], patterns: &[u8], masked: &mut [W]) {
    let (dropped, wild) = (W::from_f32(0.0), W::from_f32(f32::NAN));
    for ((four, index), to) in weight.as_chunks::<4>().0.iter().zip(patterns).zip(masked.as_chunks_mut::<4>().0) {
        let pattern = Pattern::from_index(*index);
        *to = std::array::from_fn(|j| pattern.map_or(wild, |pattern| if pattern.keeps(j) { four[j] } else { dropped }));
    }
}

/// What became of a row.
#[derive(Clone, Copy)]
struct Swapped {
    before: f64,
    after: f64,
    count: u32,
}

struct Hessian<'a> {
    cols: usize,
    all: &'a [f32],
    /// What changes need of it by themselves.
    of_groups: Vec<OfGroups>,
}

/// Of groups side by side: `H_jj` of the four positions, and `−2 H_ij` of the six pairs.
#[derive(Clone)]
struct OfGroups {
    own: [Lanes; 4],
    pair: [Lanes; 6],
}

fn of_groups(cols: usize, hessian: &[f32]) -> Vec<OfGroups> {
    let none = OfGroups { own: [[0.0; LANES]; 4], pair: [[0.0; LANES]; 6] };
    let mut all = vec![none; (cols / 4).div_ceil(LANES)];
    for group in 0..cols / 4 {
        let OfGroups { own, pair } = &mut all[group / LANES];
        let at = |[i, j]: [usize; 2]| hessian[(4 * group + i) * cols + 4 * group + j];
        own.iter_mut().enumerate().for_each(|(j, own)| own[group % LANES] = at([j, j]));
        pair.iter_mut().zip(PAIRS).for_each(|(pair, ij)| pair[group % LANES] = -2.0 * at(ij));
    }
    all
}

impl Hessian<'_> {
    /// Swaps in the rows of a band.
    fn swap(&self, w: &[f32], patterns: &mut [u8], limit: u32) -> Result<Vec<Swapped>> {
        let cols = self.cols;
        let mut products = zeros("products of dropped weights", w.len())?;
        for start in (0..cols).step_by(BLOCK) {
            let end = cols.min(start + BLOCK);
            let rows = w.chunks(cols).zip(patterns.chunks(cols / 4));
            let dropped = rows.map(|(w, patterns)| dropped(&w[start..end], &patterns[start / 4..end / 4]));
            let dropped = dropped.map(|dropped| Terms::new(&dropped)).collect::<Vec<_>>();
            terms::add(&self.all[start * cols..end * cols], &dropped, cols, 0, &mut products);
        }
        let mut groups = vec![];
        let rows = w.chunks(cols).zip(patterns.chunks_mut(cols / 4)).zip(products.chunks_mut(cols));
        Ok(rows.map(|((w, patterns), c)| self.swap_row(w, patterns, c, &mut groups, limit)).collect())
    }

    /// Makes the best swap of a row until there is none, or no more are wanted.
    fn swap_row(&self, w: &[f32], patterns: &mut [u8], c: &mut [f32], groups: &mut Vec<Groups>, limit: u32) -> Swapped {
        let before = twice_the_loss(w, patterns, c);
        // Of what is not finite, no change is less.
        let enough = -LEAST * before.abs() as f32;
        let of = w.chunks(4 * LANES).zip(patterns.chunks(LANES)).zip(&self.of_groups);
        groups.clear();
        groups.extend(of.map(|((w, patterns), hessian)| Groups::new(w, patterns, hessian)));
        let (mut count, mut swap) = (0, None);
        while count < limit {
            let Some((group, [i, j])) = advance(c, groups, swap, enough) else { break };
            let Groups { kept, .. } = &mut groups[group / LANES];
            let [dropped, kept_now] = if kept[i][group % LANES] > 0.0 { [i, j] } else { [j, i] };
            kept.iter_mut()
                .enumerate()
                .filter(|(at, _)| [i, j].contains(at))
                .for_each(|(_, kept)| kept[group % LANES] *= -1.0);
            let bits = Pattern::from_index(patterns[group]).map_or(0, Pattern::bits) ^ (1 << i | 1 << j);
            patterns[group] = Pattern::from_bits(bits).map_or(Pattern::POISON, Pattern::index);
            let row = |at: usize| &self.all[(4 * group + at) * self.cols..][..self.cols];
            swap = Some([(w[4 * group + dropped], row(dropped)), (-w[4 * group + kept_now], row(kept_now))]);
            count += 1;
        }
        if count > 0 && count == limit {
            advance(c, groups, swap, enough);
        }
        let after = if count == 0 { before } else { twice_the_loss(w, patterns, c) };
        Swapped { before: 0.5 * before, after: 0.5 * after, count }
    }
}

/// The dropped weights of a block of columns, others 0; NaN where there is no mask.
fn dropped(w: &[f32], patterns: &[u8]) -> [f32; BLOCK] {
    let mut dropped = [0.0; BLOCK];
    for ((to, w), index) in dropped.as_chunks_mut::<4>().0.iter_mut().zip(w.as_chunks::<4>().0).zip(patterns) {
        let pattern = Pattern::from_index(*index);
        *to = std::array::from_fn(|j| pattern.map_or(f32::NAN, |pattern| if pattern.keeps(j) { 0.0 } else { w[j] }));
    }
    dropped
}

/// `rᵀHr`: products are exact, and added in the order of a device's threads.
fn twice_the_loss(w: &[f32], patterns: &[u8], c: &[f32]) -> f64 {
    let mut sums = [0.0; SUMS];
    for (g, (w, c)) in w.as_chunks::<4>().0.iter().zip(c.as_chunks::<4>().0).enumerate() {
        let pattern = Pattern::from_index(patterns[g]);
        for j in (0..4).filter(|&j| pattern.is_none_or(|pattern| !pattern.keeps(j))) {
            sums[g % SUMS] += if pattern.is_none() { f64::NAN } else { f64::from(w[j]) * f64::from(c[j]) };
        }
    }
    let of_warp = |sums: &mut [f64; 32]| {
        for delta in [16, 8, 4, 2, 1] {
            (0..delta).for_each(|lane| sums[lane] += sums[lane + delta]);
        }
        sums[0]
    };
    sums.as_chunks_mut::<32>().0.iter_mut().map(of_warp).fold(0.0, |sum, of_warp| sum + of_warp)
}

/// What a row's groups are made of, side by side, by position and by pair.
#[derive(Clone)]
struct Groups {
    /// 1 where a weight is kept, −1 where it is dropped.
    kept: [Lanes; 4],
    /// `2 w_j`.
    twice: [Lanes; 4],
    /// `w_j² H_jj`.
    own: [Lanes; 4],
    /// `−2 w_i w_j H_ij`.
    pair: [Lanes; 6],
}

impl Groups {
    /// Groups that are not there keep all four: nothing can be swapped.
    fn new(w: &[f32], patterns: &[u8], hessian: &OfGroups) -> Self {
        let mut of = [[0.0; LANES]; 4];
        let mut kept = [[1.0; LANES]; 4];
        for (lane, (w, index)) in w.as_chunks::<4>().0.iter().zip(patterns).enumerate() {
            let pattern = Pattern::from_index(*index);
            for j in 0..4 {
                of[j][lane] = w[j];
                kept[j][lane] = if pattern.is_none_or(|pattern| pattern.keeps(j)) { 1.0 } else { -1.0 };
            }
        }
        Self {
            kept,
            twice: of.map(|w| w.map(|w| 2.0 * w)),
            own: std::array::from_fn(|j| std::array::from_fn(|l| of[j][l] * of[j][l] * hessian.own[j][l])),
            pair: std::array::from_fn(|pair| {
                let [i, j] = PAIRS[pair];
                std::array::from_fn(|l| of[i][l] * of[j][l] * hessian.pair[pair][l])
            }),
        }
    }

    /// Of each lane, the least that a swap adds to `rᵀHr`, or `least`. NaN is not less.
    #[inline(always)]
    fn least(&self, c: &[f32; 4 * LANES], least: f32) -> Lanes {
        let mut alone = [[0.0; LANES]; 4];
        for (l, c) in c.as_chunks::<4>().0.iter().enumerate() {
            for j in 0..4 {
                alone[j][l] = c[j];
            }
        }
        for (j, alone) in alone.iter_mut().enumerate() {
            for (l, alone) in alone.iter_mut().enumerate() {
                *alone = (self.kept[j][l] * self.twice[j][l]).mul_add(*alone, self.own[j][l]);
            }
        }
        let mut of_lanes = [least; LANES];
        for (pair, [i, j]) in PAIRS.into_iter().enumerate() {
            for l in 0..LANES {
                let change = alone[i][l] + alone[j][l] + self.pair[pair][l];
                let lower = (change < of_lanes[l]) & (self.kept[i][l] != self.kept[j][l]);
                of_lanes[l] = if lower { change } else { of_lanes[l] };
            }
        }
        of_lanes
    }

    /// The pair of a lane whose swap adds this.
    fn pair(&self, c: &[f32], lane: usize, least: f32) -> Option<[usize; 2]> {
        let alone = |j: usize| {
            let twice = self.kept[j][lane] * self.twice[j][lane];
            twice.mul_add(c[4 * lane + j], self.own[j][lane])
        };
        let change = |(pair, [i, j]): &(usize, [usize; 2])| {
            let change = alone(*i) + alone(*j) + self.pair[*pair][lane];
            change == least && self.kept[*i][lane] != self.kept[*j][lane]
        };
        PAIRS.into_iter().enumerate().find(change).map(|(_, pair)| pair)
    }
}

/// A dropped and a kept weight, the latter negated, with their rows of the Hessian.
type Swap<'a> = [(f32, &'a [f32]); 2];

#[inline(always)]
fn apply(c: &mut [f32], [(dropped, of_dropped), (kept, of_kept)]: Swap<'_>) {
    for ((c, of_dropped), of_kept) in c.iter_mut().zip(of_dropped).zip(of_kept) {
        *c = kept.mul_add(*of_kept, dropped.mul_add(*of_dropped, *c));
    }
}

/// Makes the products those after a swap, and finds the row's best next one: group and pair.
#[multiversion(targets("x86_64+avx2+fma+f16c"))]
fn advance(c: &mut [f32], groups: &[Groups], swap: Option<Swap<'_>>, enough: f32) -> Option<(usize, [usize; 2])> {
    let (mut least, mut found) = (enough, None);
    for (first, (c, groups)) in c.chunks_mut(4 * LANES).zip(groups).enumerate() {
        if let Some(swap) = swap {
            apply(c, swap.map(|(w, row)| (w, &row[first * 4 * LANES..][..c.len()])));
        }
        let mut of = [0.0; 4 * LANES];
        of[..c.len()].copy_from_slice(c);
        let of_lanes = groups.least(&of, least);
        let of_all = of_lanes.iter().fold(least, |least, &of| if of < least { of } else { least });
        if of_all < least {
            let lane = of_lanes.iter().position(|&of| of == of_all)?;
            (least, found) = (of_all, Some((first * LANES + lane, groups.pair(&of, lane, of_all)?)));
        }
    }
    found
}
