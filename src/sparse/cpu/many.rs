//! The product for many tokens: tokens side by side, one sum each, to which the products of the kept values of a row are
//! added in order. Of half of a dense product's products there is none.
//!
//! Activations lie in slabs of columns, [K, tokens], one of which stays in the first cache while many rows go over it.
//! A part of a row is decoded once for all tokens.

use super::vector::{Aligned, LANES, Path, SPAN, Vector, Work, load, selector};
use super::{Canonical, Product, bands, finish, padded};
use crate::element::Factor;
use rayon::prelude::*;

/// Columns of a slab.
const SLAB: usize = 32;
/// Slabs that are decoded at a time.
const SLABS: usize = 32;
/// Rows of a task: with a slab of `X`, their sums stay in the first cache.
const BAND: usize = 48;
/// Rows that are decoded together.
const ROWS: usize = 8;
/// Tokens at a time: what a row is decoded for.
const TOKENS: usize = 512;

/// Vectors of tokens that one row is multiplied by at once, at most: the more, the fewer loads a multiply-add.
struct Wide;

impl Work for Wide {
    type Output = usize;

    #[inline(always)]
    fn on<V: Vector>(self) -> usize {
        if V::REGISTERS >= 32 { 8 } else { 4 }
    }
}

/// For types whose sums are `f32`; `CODES` bytes are those of 32 columns.
pub(super) fn multiply<T: Factor, const CODES: usize>(product: Product<'_, T>) -> bool {
    let Product { path, weight, x, bias, y } = product;
    let (n, k) = (weight.shape.rows, weight.shape.cols);
    let (wide, mut lines) = (path.run(Wide), Vec::new());
    x.chunks(TOKENS * k).zip(y.chunks_mut(TOKENS * n)).all(|(x, y)| {
        let sides = Side::all(path, wide, x, k, &mut lines);
        let bands = bands(y, n, BAND).into_par_iter().enumerate().map_init(Scratch::default, |scratch, (band, y)| {
            path.run(Band::<T, CODES> { weight, sides: &sides, bias, first: band * BAND, y, scratch })
        });
        bands.all(|is_legal| is_legal)
    })
}

type Line = Aligned<[f32; LANES]>;

/// Tokens side by side, in slabs of `SLAB` times so many vectors. Where there is no token or no column, anything lies.
struct Side<'a> {
    vectors: usize,
    x: &'a [Line],
}

impl<'a> Side<'a> {
    fn all<T: Factor>(path: Path, wide: usize, x: &[T], k: usize, lines: &'a mut Vec<Line>) -> Vec<Self> {
        let tokens = x.chunks(wide * LANES * k);
        let vectors = tokens.clone().map(|x| (x.len() / k).div_ceil(LANES).next_power_of_two());
        let tall = k.next_multiple_of(SLAB);
        lines.resize(tall * vectors.clone().sum::<usize>(), Aligned([0.0; LANES]));
        let mut rest = lines.as_mut_slice();
        let mut sides = Vec::new();
        for (x, vectors) in tokens.zip(vectors) {
            let (side, others) = rest.split_at_mut(tall * vectors);
            side.par_chunks_mut(SLAB * vectors).enumerate().for_each(|(slab, to)| {
                path.run(Turn { x, k, first: slab * SLAB, to, vectors });
            });
            sides.push(Side { vectors, x: side });
            rest = others;
        }
        sides
    }
}

/// Writes a slab, of columns from the first on.
struct Turn<'a, T> {
    x: &'a [T],
    k: usize,
    first: usize,
    to: &'a mut [Line],
    vectors: usize,
}

impl<T: Factor> Work for Turn<'_, T> {
    type Output = ();

    #[inline(always)]
    fn on<V: Vector>(self) {
        for (vector, tokens) in self.x.chunks(LANES * self.k).enumerate() {
            for (block, first) in (self.first..self.k.min(self.first + SLAB)).step_by(LANES).enumerate() {
                let mut rows = [V::splat(0.0); LANES];
                for (row, x) in rows.iter_mut().zip(tokens.chunks(self.k)) {
                    *row = match x[first..].first_chunk() {
                        Some(x) => load::<V, T>(x),
                        None => load::<V, T>(&padded(&x[first..])),
                    };
                }
                let (columns, to) = (V::transpose(rows), &mut self.to[block * LANES * self.vectors..]);
                for (to, column) in to.chunks_exact_mut(self.vectors).zip(columns) {
                    to[vector].0 = column.array();
                }
            }
        }
    }
}

/// Some rows of the weight, from the first, and of `y` what they make.
struct Band<'a, T: Factor, const CODES: usize> {
    weight: &'a Canonical<'a, T>,
    sides: &'a [Side<'a>],
    bias: Option<&'a [T::Output]>,
    first: usize,
    y: Vec<&'a mut [T::Output]>,
    scratch: &'a mut Scratch,
}

/// What tasks take turns to work in.
#[derive(Default)]
struct Scratch {
    kept: Vec<[Kept; BAND / ROWS]>,
    /// Of each side, `[BAND, vectors]`.
    sums: Vec<Vec<Line>>,
}

/// What rows keep of a slab.
#[derive(Clone, Copy)]
struct Kept {
    values: [[f32; SLAB / 2]; ROWS],
    columns: [[u8; SLAB / 2]; ROWS],
}

impl<T: Factor, const CODES: usize> Work for Band<'_, T, CODES> {
    type Output = bool;

    #[inline(always)]
    fn on<V: Vector>(mut self) -> bool {
        let height = self.y.first().map_or(0, |y| y.len());
        if !self.weight.is_legal(self.first..self.first + height) {
            return false;
        }
        let slabs = self.weight.shape.cols.div_ceil(SLAB);
        // What rows make that are not there is not looked at.
        let nothing = Kept { values: [[0.0; SLAB / 2]; ROWS], columns: [[0; SLAB / 2]; ROWS] };
        let Scratch { mut kept, mut sums } = std::mem::take(self.scratch);
        kept.resize(slabs.min(SLABS), [nothing; BAND / ROWS]);
        sums.resize(self.sides.len(), Vec::new());
        for (side, sums) in self.sides.iter().zip(&mut sums) {
            sums.clear();
            sums.resize(BAND * side.vectors, Aligned([0.0; LANES]));
        }
        for first in (0..slabs).step_by(SLABS) {
            let part = first..slabs.min(first + SLABS);
            for (slab, kept) in part.clone().zip(&mut kept) {
                (0..height).for_each(|row| self.decode::<V>(row, slab, &mut kept[row / ROWS]));
            }
            for (side, sums) in self.sides.iter().zip(&mut sums) {
                for (slab, kept) in part.clone().zip(&kept) {
                    let count = (self.weight.shape.cols - slab * SLAB).min(SLAB) / 2;
                    let x = &side.x[slab * SLAB * side.vectors..];
                    let kept = &kept[..height.div_ceil(ROWS)];
                    match (side.vectors, V::REGISTERS >= 32) {
                        (1, true) => add_all::<V, 1, 8>(x, kept, count, sums),
                        (2, true) => add_all::<V, 2, 4>(x, kept, count, sums),
                        (4, true) => add_all::<V, 4, 2>(x, kept, count, sums),
                        (_, true) => add_all::<V, 8, 2>(x, kept, count, sums),
                        (1, false) => add_all::<V, 1, 4>(x, kept, count, sums),
                        (2, false) => add_all::<V, 2, 2>(x, kept, count, sums),
                        (_, false) => add_all::<V, 4, 1>(x, kept, count, sums),
                    }
                }
            }
        }
        self.write::<V>(&sums, height);
        *self.scratch = Scratch { kept, sums };
        true
    }
}

impl<T: Factor, const CODES: usize> Band<'_, T, CODES> {
    /// A slab of a row.
    #[inline(always)]
    fn decode<V: Vector>(&self, row: usize, slab: usize, to: &mut Kept) {
        let (values, columns) = (&mut to.values[row % ROWS], &mut to.columns[row % ROWS]);
        let (whole, rest) = self.weight.values(self.first + row)[slab * SLAB / 2..].as_chunks::<LANES>();
        let values = values.as_chunks_mut::<LANES>().0;
        for (from, to) in whole.iter().zip(&mut *values) {
            *to = load::<V, T>(from).array();
        }
        if let Some(to) = values.get_mut(whole.len()) {
            *to = load::<V, T>(&padded(rest)).array();
        }
        let codes = self.weight.codes(self.first + row)[slab * SLAB / SPAN * CODES..].chunks(CODES);
        for ((codes, to), span) in codes.zip(columns.as_chunks_mut::<LANES>().0).zip(0..) {
            let codes = codes.try_into().unwrap_or_else(|_| padded(codes));
            *to = V::columns(selector::<V, CODES>(&codes), SPAN as u8 * span);
        }
    }

    /// From the sums of each side, `[BAND, vectors]`.
    #[inline(always)]
    fn write<V: Vector>(&mut self, sums: &[Vec<Line>], height: usize) {
        let wide = self.sides.first().map_or(1, |side| side.vectors);
        for ((side, sums), y) in self.sides.iter().zip(sums).zip(self.y.chunks_mut(wide * LANES)) {
            for (vector, y) in y.chunks_mut(LANES).enumerate() {
                for first in (0..height).step_by(LANES) {
                    let mut rows = [V::splat(0.0); LANES];
                    let sums = sums[first * side.vectors + vector..].iter().step_by(side.vectors);
                    for (row, (to, sums)) in rows.iter_mut().zip(sums).enumerate().take(height - first) {
                        let bias = self.bias.map(|bias| T::bias(bias[self.first + first + row]));
                        // Times one: sums and bias are added as they are.
                        *to = match bias {
                            Some(bias) => V::load(&sums.0).mul_add(V::splat(1.0), V::splat(bytemuck::cast(bias))),
                            None => V::load(&sums.0),
                        };
                    }
                    for (y, sums) in y.iter_mut().zip(V::transpose(rows)) {
                        let (sums, y) = (sums.array(), &mut y[first..]);
                        match y.first_chunk_mut::<LANES>() {
                            Some(y) => *y = sums.map(|sum| finish::<T, f32>(sum, None)),
                            None => y.iter_mut().zip(sums).for_each(|(y, sum)| *y = finish::<T, f32>(sum, None)),
                        }
                    }
                }
            }
        }
    }
}

/// Adds the products of a slab of `X` and all rows, `R` rows at a time, to sums `[BAND, N]`.
#[inline(always)]
fn add_all<V: Vector, const N: usize, const R: usize>(x: &[Line], kept: &[Kept], count: usize, sums: &mut [Line]) {
    let Some(x) = x.as_chunks::<N>().0.first_chunk::<SLAB>() else { return };
    for (group, kept) in kept.iter().enumerate() {
        let parts = kept.values.as_chunks::<R>().0.iter().zip(kept.columns.as_chunks::<R>().0);
        for (part, (values, columns)) in parts.enumerate() {
            let sums = &mut sums[(group * ROWS + part * R) * N..];
            let mut added = [[V::splat(0.0); N]; R];
            for (row, added) in added.iter_mut().enumerate() {
                for (vector, added) in added.iter_mut().enumerate() {
                    *added = V::load(&sums[row * N + vector].0);
                }
            }
            for j in 0..count.min(SLAB / 2) {
                for row in 0..R {
                    let value = V::splat(values[row][j]);
                    let x = &x[usize::from(columns[row][j]) % SLAB];
                    for vector in 0..N {
                        added[row][vector] = value.mul_add(V::load(&x[vector].0), added[row][vector]);
                    }
                }
            }
            for (row, added) in added.into_iter().enumerate() {
                for (vector, added) in added.into_iter().enumerate() {
                    sums[row * N + vector].0 = added.array();
                }
            }
        }
    }
}
