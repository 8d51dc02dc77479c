//! The product for few tokens: kept values of a row side by side, and the activations of their columns picked for them.
//! Value `j` is in sum `j % 16` of its row, and the sixteen are added up at last.

use super::vector::{Aligned, LANES, SPAN, Vector, Work, load, prefetch_rows, selector, sum};
use super::{Canonical, Product, bands, finish, padded};
use crate::element::Factor;
use crate::threads;
use std::array::from_fn;

/// Rows at a time, which share what is read of `X`.
pub(super) const ROWS: usize = 4;
/// Vectors of a row that are brought near at once.
const AT_ONCE: usize = 8;
/// Rows of a task.
const BAND: usize = 32;

/// Activations of some columns of a token.
pub(super) type Span = Aligned<[f32; SPAN]>;

/// For types whose sums are `f32`; `CODES` bytes are those of 32 columns.
pub(super) fn multiply<T: Factor, const CODES: usize>(product: Product<'_, T>) -> bool {
    let Product { path, weight, x, bias, y } = product;
    let (n, k) = (weight.shape.rows, weight.shape.cols);
    let spans = k.div_ceil(SPAN);
    // Columns that are not there are zeros, as are values that are not.
    let mut wide = vec![Aligned([0.0; SPAN]); x.len() / k * spans];
    for (x, wide) in x.chunks(k).zip(wide.chunks_mut(spans)) {
        x.chunks(SPAN).zip(wide).for_each(|(x, wide)| T::widen(x, bytemuck::cast_slice_mut(&mut wide.0)));
    }
    let x: Vec<&[Span]> = wide.chunks(spans).collect();
    let band = |(band, y)| path.run(Band::<T, CODES> { weight, x: &x, bias, first: band * BAND, y });
    threads::map(bands(y, n, BAND).into_iter().enumerate(), band).into_iter().all(|is_legal| is_legal)
}

/// Some rows of the weight, from the first, and of `y` what they make.
struct Band<'a, T: Factor, const CODES: usize> {
    weight: &'a Canonical<'a, T>,
    x: &'a [&'a [Span]],
    bias: Option<&'a [T::Output]>,
    first: usize,
    y: Vec<&'a mut [T::Output]>,
}

impl<T: Factor, const CODES: usize> Work for Band<'_, T, CODES> {
    type Output = bool;

    #[inline(always)]
    fn on<V: Vector>(mut self) -> bool {
        let height = self.y.first().map_or(0, |y| y.len());
        if !self.weight.is_legal(self.first..self.first + height) {
            return false;
        }
        for row in (0..height).step_by(ROWS) {
            let mut token = 0;
            while token < self.x.len() {
                token += match self.x.len() - token {
                    1 => self.write::<V, 1>(row, height - 1, token),
                    2 => self.write::<V, 2>(row, height - 1, token),
                    _ => self.write::<V, 4>(row, height - 1, token),
                };
            }
        }
        true
    }
}

impl<T: Factor, const CODES: usize> Band<'_, T, CODES> {
    /// From a row and a token on, of which the last are repeated if there are not as many; returns `N`.
    #[inline(always)]
    fn write<V: Vector, const N: usize>(&mut self, row: usize, last_row: usize, token: usize) -> usize {
        let rows: [usize; ROWS] = from_fn(|i| (row + i).min(last_row));
        let tokens: [usize; N] = from_fn(|i| (token + i).min(self.x.len() - 1));
        let (values, codes) =
            (rows.map(|row| self.weight.values(self.first + row)), rows.map(|row| self.weight.codes(self.first + row)));
        let next = from_fn(|i| self.weight.values(self.first + (row + ROWS + i).min(last_row)));
        let sums = dots::<V, T, CODES, N>(values, codes, next, tokens.map(|token| self.x[token]));
        for (row, sums) in rows.into_iter().zip(sums) {
            let bias = self.bias.map(|bias| bias[self.first + row]);
            for (token, sum) in tokens.into_iter().zip(sums) {
                self.y[token][row] = finish::<T, f32>(sum, bias);
            }
        }
        N
    }
}

/// Products of rows and tokens. Rows that come next are brought near meanwhile: a row is too short for a processor to see
/// where it goes.
#[inline(always)]
pub(super) fn dots<V: Vector, T: Factor, const CODES: usize, const N: usize>(
    values: [&[T]; ROWS],
    codes: [&[u8]; ROWS],
    next: [&[T]; ROWS],
    x: [&[Span]; N],
) -> [[f32; N]; ROWS] {
    let whole = values[0].len() / LANES;
    let (all, values) = (values, values.map(<[T]>::as_chunks::<LANES>));
    let all_values = values.map(|values| &values.0[..whole]);
    let all_codes = codes.map(|codes| &codes.as_chunks::<CODES>().0[..whole]);
    let all_x = x.map(|x| &x[..whole]);
    let mut sums = [[V::splat(0.0); N]; ROWS];
    for first in (0..whole).step_by(AT_ONCE) {
        prefetch_rows(&all, &next, first * LANES..(first + AT_ONCE) * LANES);
        for i in first..whole.min(first + AT_ONCE) {
            add(&mut sums, all_values.map(|values| &values[i]), all_codes.map(|codes| &codes[i]), all_x.map(|x| &x[i]));
        }
    }
    if !values[0].1.is_empty() {
        let values = values.map(|values| padded(values.1));
        // They may be in whole bytes where values are not.
        let codes = codes.map(|codes| padded::<_, CODES>(&codes[whole * CODES..]));
        add::<V, T, CODES, N>(&mut sums, values.each_ref(), codes.each_ref(), x.map(|x| &x[whole]));
    }
    let mut totals = [[0.0; N]; ROWS];
    for (totals, sums) in totals.iter_mut().zip(sums) {
        totals.iter_mut().zip(sums).for_each(|(total, vector)| *total = sum(vector));
    }
    totals
}

/// Adds the products of sixteen kept values of each row.
#[inline(always)]
fn add<V: Vector, T: Factor, const CODES: usize, const N: usize>(
    sums: &mut [[V; N]; ROWS],
    values: [&[T; LANES]; ROWS],
    codes: [&[u8; CODES]; ROWS],
    x: [&Span; N],
) {
    for row in 0..ROWS {
        let (values, index) = (load::<V, T>(values[row]), V::index(selector::<V, CODES>(codes[row])));
        for token in 0..N {
            sums[row][token] = values.mul_add(V::pick(&x[token].0, index), sums[row][token]);
        }
    }
}
