//! Rows of a weight, whichever a caller picks, dense or compressed: products of some with few tokens ([`Rows::dots`]),
//! and sums of some ([`Rows::add`]). A row's result is the same bits whatever else is picked, and on every processor.

use super::few::{self, ROWS, Span};
use super::vector::{Aligned, LANES, LINE, Path, SPAN, Vector, Work, load, prefetch, prefetch_rows, sum};
use super::{is_legal, padded};
use crate::compress::Sparsity;
use crate::element::Factor;
use std::array::from_fn;

/// Bytes of codes of 32 columns.
const CODES: usize = 4;

/// A weight `[N, K]` of a type whose sums are `f32` and whose groups are of four.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rows<'a, T> {
    /// `[N, K]`.
    Dense(&'a [T]),
    /// Kept values `[N, K/2]`, and codes row-major, two to a byte across rows.
    Kept(&'a [T], &'a [u8]),
}

/// Activations of a token, or a row of results, in whole spans of columns: zeros behind the last.
pub(crate) struct Wide(Vec<Span>);

impl Wide {
    pub(crate) fn zeros(cols: usize) -> Self {
        Self(vec![Aligned([0.0; SPAN]); Self::spans(cols)])
    }

    /// Spans of so many columns.
    pub(crate) fn spans(cols: usize) -> usize {
        cols.div_ceil(SPAN)
    }

    /// Columns of so many spans.
    pub(crate) fn columns(spans: usize) -> usize {
        spans * SPAN
    }

    pub(crate) fn of<T: Factor>(x: &[T]) -> Self {
        let mut wide = Self::zeros(x.len());
        x.chunks(SPAN).zip(&mut wide.0).for_each(|(x, wide)| T::widen(x, bytemuck::cast_slice_mut(&mut wide.0)));
        wide
    }

    /// The elements of all spans, in order.
    pub(crate) fn elements(&self) -> impl Iterator<Item = f32> + '_ {
        self.0.iter().flat_map(|span| span.0)
    }
}

impl<T: Factor> Rows<'_, T> {
    /// Of the rows picked, each with each token `x`: `[picked, tokens]`. Nothing if a code of theirs is not legal.
    pub(crate) fn dots(&self, cols: usize, picked: &[u32], x: &[Wide]) -> Option<Vec<f32>> {
        Path::best().run(Dots { rows: self, cols, picked, x })
    }

    /// Adds `by [picked, tokens]` times the rows picked, in their order, to `to`, a part of the columns from a span on for
    /// each token. False if a code is not legal.
    pub(crate) fn add(&self, cols: usize, picked: &[u32], by: &[f32], first: usize, to: &mut [Wide]) -> bool {
        Path::best().run(Add { rows: self, cols, picked, by, first, to })
    }
}

/// A row's kept values and its codes in whole bytes, which are moved where rows share one.
struct Kept<'a, T> {
    values: &'a [T],
    codes: std::borrow::Cow<'a, [u8]>,
}

impl<'a, T> Kept<'a, T> {
    #[inline(always)]
    fn new(values: &'a [T], codes: &'a [u8], cols: usize, row: usize) -> Option<Self> {
        let (groups, values) = (cols / 4, &values[row * (cols / 2)..][..cols / 2]);
        let codes: std::borrow::Cow<'_, [u8]> = if groups.is_multiple_of(2) {
            codes[row * (groups / 2)..][..groups / 2].into()
        } else {
            let code = |group: usize| codes[(row * groups + group) / 2] >> ((row * groups + group) % 2 * 4) & 15;
            // What is behind the last is a legal one.
            let pair = |first| code(first) | if first + 1 < groups { code(first + 1) << 4 } else { 0x40 };
            (0..groups).step_by(2).map(pair).collect::<Vec<_>>().into()
        };
        is_legal(Sparsity::TwoFour, &codes).then_some(Self { values, codes })
    }
}

/// Has a row's codes brought near.
#[inline(always)]
fn prefetch_codes(codes: &[u8], cols: usize, row: usize) {
    let of_row = &codes[row * (cols / 4) / 2..][..cols / 8];
    of_row.iter().step_by(LINE).for_each(|line| prefetch(Some(line)));
}

struct Dots<'a, T> {
    rows: &'a Rows<'a, T>,
    cols: usize,
    picked: &'a [u32],
    x: &'a [Wide],
}

impl<T: Factor> Work for Dots<'_, T> {
    type Output = Option<Vec<f32>>;

    #[inline(always)]
    fn on<V: Vector>(self) -> Option<Vec<f32>> {
        let mut to = vec![0.0; self.picked.len() * self.x.len()];
        let tokens = self.x.len();
        for (i, to) in to.chunks_mut(ROWS * tokens.max(1)).enumerate() {
            let (picked, mut token) = (&self.picked[i * ROWS..], 0);
            while token < tokens {
                token += match tokens - token {
                    1 => self.write::<V, 1>(picked, token, to)?,
                    2 => self.write::<V, 2>(picked, token, to)?,
                    _ => self.write::<V, 4>(picked, token, to)?,
                };
            }
        }
        Some(to)
    }
}

impl<T: Factor> Dots<'_, T> {
    /// From a token on, of which the last are repeated if there are not as many, and the last row too; gives `N`.
    #[inline(always)]
    fn write<V: Vector, const N: usize>(&self, picked: &[u32], token: usize, to: &mut [f32]) -> Option<usize> {
        let row = |i: usize| picked[i.min(picked.len() - 1)] as usize;
        let tokens: [usize; N] = from_fn(|i| (token + i).min(self.x.len() - 1));
        let x: [&[Span]; N] = tokens.map(|token| self.x[token].0.as_slice());
        let sums = match *self.rows {
            Rows::Dense(weight) => {
                let of = |i: usize| &weight[row(i) * self.cols..][..self.cols];
                dense::<V, T, N>(from_fn(of), from_fn(|i| of(ROWS + i)), x)
            }
            Rows::Kept(values, codes) => {
                let [a, b, c, d] = from_fn(|i| Kept::new(values, codes, self.cols, row(i)));
                let rows = [a?, b?, c?, d?];
                let half = self.cols / 2;
                let next = from_fn(|i| &values[row(ROWS + i) * half..][..half]);
                (ROWS..2 * ROWS).for_each(|i| prefetch_codes(codes, self.cols, row(i)));
                few::dots::<V, T, CODES, N>(
                    rows.each_ref().map(|row| row.values),
                    rows.each_ref().map(|row| &*row.codes),
                    next,
                    x,
                )
            }
        };
        for (to, sums) in to.chunks_mut(self.x.len()).zip(sums).take(picked.len()) {
            tokens.into_iter().zip(sums).for_each(|(token, sum)| to[token] = sum);
        }
        Some(N)
    }
}

/// Products of rows and tokens: column `k` is in sum `k % 16`.
#[inline(always)]
fn dense<V: Vector, T: Factor, const N: usize>(
    rows: [&[T]; ROWS],
    next: [&[T]; ROWS],
    x: [&[Span]; N],
) -> [[f32; N]; ROWS] {
    let whole = rows[0].len() / SPAN;
    let parts = rows.map(|row| &row.as_chunks::<SPAN>().0[..whole]);
    let all_x = x.map(|x| &x[..whole]);
    let mut sums = [[V::splat(0.0); N]; ROWS];
    for i in 0..whole {
        prefetch_rows(&rows, &next, i * SPAN..(i + 1) * SPAN);
        add_span(&mut sums, parts.map(|part| &part[i]), all_x.map(|x| &x[i]));
    }
    if whole * SPAN < rows[0].len() {
        let last = rows.map(|row| padded(&row[whole * SPAN..]));
        add_span::<V, T, N>(&mut sums, last.each_ref(), x.map(|x| &x[whole]));
    }
    let mut totals = [[0.0; N]; ROWS];
    for (totals, sums) in totals.iter_mut().zip(sums) {
        totals.iter_mut().zip(sums).for_each(|(total, vector)| *total = sum(vector));
    }
    totals
}

#[inline(always)]
fn add_span<V: Vector, T: Factor, const N: usize>(sums: &mut [[V; N]; ROWS], rows: [&[T; SPAN]; ROWS], x: [&Span; N]) {
    for half in 0..2 {
        for row in 0..ROWS {
            let weight = load::<V, T>(&rows[row].as_chunks().0[half]);
            for token in 0..N {
                sums[row][token] = weight.mul_add(V::load(&x[token].0.as_chunks().0[half]), sums[row][token]);
            }
        }
    }
}

struct Add<'a, T> {
    rows: &'a Rows<'a, T>,
    cols: usize,
    picked: &'a [u32],
    by: &'a [f32],
    first: usize,
    to: &'a mut [Wide],
}

impl<T: Factor> Work for Add<'_, T> {
    type Output = bool;

    #[inline(always)]
    fn on<V: Vector>(mut self) -> bool {
        let tokens = self.to.len();
        for i in (0..self.picked.len()).step_by(ROWS) {
            let (picked, by) = (&self.picked[i..], &self.by[i * tokens..]);
            let next = |row: usize| picked[row.min(picked.len() - 1)];
            let is_legal = match picked.first_chunk() {
                Some(rows) => self.write::<V, ROWS>(rows, &from_fn(|row| next(ROWS + row)), by),
                None => picked.iter().zip(by.chunks(tokens)).all(|(row, by)| self.write::<V, 1>(&[*row], &[*row], by)),
            };
            if !is_legal {
                return false;
            }
        }
        true
    }
}

impl<T: Factor> Add<'_, T> {
    #[inline(always)]
    fn write<V: Vector, const R: usize>(&mut self, picked: &[u32; R], next: &[u32; R], by: &[f32]) -> bool {
        let spans = self.to.first().map_or(0, |to| to.0.len());
        // No closures over vectors: they would not be compiled for the processor.
        let mut parts = [Spread::<V>::none(); R];
        match *self.rows {
            Rows::Dense(weight) => {
                let of = |row: u32| &weight[row as usize * self.cols..][..self.cols];
                let (rows, next) = (picked.map(of), next.map(of));
                for span in 0..spans {
                    let at = (self.first + span) * SPAN;
                    next.iter().for_each(|next| prefetch(next.get(at)));
                    for (part, row) in parts.iter_mut().zip(rows) {
                        *part = match row[at..].first_chunk() {
                            Some(columns) => Spread::dense::<T>(columns),
                            None => Spread::dense::<T>(&padded(&row[at..])),
                        };
                    }
                    self.add(&parts, by, span);
                }
            }
            Rows::Kept(values, codes) => {
                let rows = picked.map(|row| Kept::new(values, codes, self.cols, row as usize));
                if rows.iter().any(Option::is_none) {
                    return false;
                }
                next.iter().for_each(|row| prefetch_codes(codes, self.cols, *row as usize));
                let next = next.map(|row| &values[row as usize * (self.cols / 2)..][..self.cols / 2]);
                for span in 0..spans {
                    let at = self.first + span;
                    if span % 2 == 0 {
                        next.iter().for_each(|next| prefetch(next.get(at * LANES)));
                    }
                    for (part, row) in parts.iter_mut().zip(rows.iter().flatten()) {
                        *part = row.span(at);
                    }
                    self.add(&parts, by, span);
                }
            }
        }
        true
    }

    /// Of each row a span of columns.
    #[inline(always)]
    fn add<V: Vector, const R: usize>(&mut self, parts: &[Spread<V>; R], by: &[f32], span: usize) {
        let tokens = self.to.len();
        for (token, to) in self.to.iter_mut().enumerate() {
            let to: &mut [[f32; LANES]] = to.0[span].0.as_chunks_mut().0;
            for (half, to) in to.iter_mut().enumerate() {
                let mut sum = V::load(to);
                for (row, part) in parts.iter().enumerate() {
                    sum = part.values[half].mul_add_where(V::splat(by[row * tokens + token]), sum, part.kept[half]);
                }
                *to = sum.array();
            }
        }
    }
}

/// The values of 32 columns, and a bit for each that is kept.
#[derive(Clone, Copy)]
struct Spread<V> {
    values: [V; 2],
    kept: [u16; 2],
}

impl<V: Vector> Spread<V> {
    #[inline(always)]
    fn none() -> Self {
        Self { values: [V::splat(0.0); 2], kept: [0; 2] }
    }

    #[inline(always)]
    fn dense<T: Factor>(part: &[T; SPAN]) -> Self {
        let halves = part.as_chunks().0;
        Self { values: [load::<V, T>(&halves[0]), load::<V, T>(&halves[1])], kept: [u16::MAX; 2] }
    }
}

impl<T: Factor> Kept<'_, T> {
    /// A span of columns, zeros behind the last.
    #[inline(always)]
    fn span<V: Vector>(&self, span: usize) -> Spread<V> {
        let (values, codes) = (&self.values[span * LANES..], &self.codes[span * CODES..]);
        let (values, codes) = match (values.first_chunk(), codes.first_chunk()) {
            (Some(values), Some(codes)) => (load::<V, T>(values), *codes),
            _ => (load::<V, T>(&padded(values)), padded(codes)),
        };
        let (values, kept) = V::spread(values, u32::from_le_bytes(codes));
        Spread { values, kept: [kept as u16, (kept >> 16) as u16] }
    }
}
