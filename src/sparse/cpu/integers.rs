//! The product of integers: rows of the weight are decompressed to bytes, for a zero that is multiplied by changes no
//! integer.

use super::vector::{Aligned, BYTES, Vector, Work};
use super::{Canonical, Product, bands, finish, padded};
use crate::element::Factor;
use crate::threads;
use std::array::from_fn;
use std::ops::Range;

/// Rows of a task.
const BAND: usize = 64;
/// Columns of a slab, in blocks of `BYTES`.
const SLAB: usize = 64;
/// Rows and tokens whose products are made at once.
const ROWS: usize = 4;

type Block = Aligned<[i8; BYTES]>;

pub(super) fn multiply<T: Factor>(product: Product<'_, T>) -> bool {
    let Product { path, weight, x, bias, y } = product;
    let (n, k) = (weight.shape.rows, weight.shape.cols);
    let mut blocks = vec![Aligned([0; BYTES]); x.len() / k * k.div_ceil(BYTES)];
    let rows = blocks.chunks_mut(k.div_ceil(BYTES)).zip(bytemuck::cast_slice(x).chunks(k));
    let x: Vec<(&[Block], i32)> = rows
        .map(|(blocks, x)| {
            for (block, x) in blocks.iter_mut().zip(x.chunks(BYTES)) {
                block.0[..x.len()].copy_from_slice(x);
            }
            (&*blocks, x.iter().map(|x| i32::from(*x)).fold(0, i32::wrapping_add))
        })
        .collect();
    let band = |(band, y)| path.run(Band { weight, x: &x, bias, first: band * BAND, y });
    threads::map(bands(y, n, BAND).into_iter().enumerate(), band).into_iter().all(|is_legal| is_legal)
}

/// Some rows of the weight, from the first, and of `y` what they make.
struct Band<'a, T: Factor> {
    weight: &'a Canonical<'a, T>,
    /// With the sums of their values.
    x: &'a [(&'a [Block], i32)],
    bias: Option<&'a [T::Output]>,
    first: usize,
    y: Vec<&'a mut [T::Output]>,
}

impl<T: Factor> Work for Band<'_, T> {
    type Output = bool;

    #[inline(always)]
    fn on<V: Vector>(mut self) -> bool {
        let height = self.y.first().map_or(0, |y| y.len());
        if !self.weight.is_legal(self.first..self.first + height) {
            return false;
        }
        match self.x.len() {
            1 => self.few::<V, 1>(height),
            2 => self.few::<V, 2>(height),
            3..=4 => self.few::<V, 4>(height),
            _ => self.many::<V>(height),
        }
        true
    }
}

impl<T: Factor> Band<'_, T> {
    /// What is decompressed stays in registers. `N` tokens, of which the last is repeated if there are not as many.
    #[inline(always)]
    fn few<V: Vector, const N: usize>(&mut self, height: usize) {
        let blocks = self.weight.shape.cols.div_ceil(BYTES);
        let x: [&[Block]; N] = from_fn(|i| &self.x[i.min(self.x.len() - 1)].0[..blocks]);
        for row in 0..height {
            let mut sums = [V::no_sums(); N];
            self.expand::<V>(self.first + row, 0..blocks, |block, dense| {
                for (sums, x) in sums.iter_mut().zip(x) {
                    *sums = V::dot(*sums, &dense, &x[block].0);
                }
            });
            self.write::<V>(row, &sums.map(V::total));
        }
    }

    /// What is decompressed is written to memory.
    #[inline(always)]
    fn many<V: Vector>(&mut self, height: usize) {
        let (tokens, blocks) = (self.x.len(), self.weight.shape.cols.div_ceil(BYTES));
        let mut dense = vec![Aligned([0; BYTES]); height * blocks.min(SLAB)];
        let mut sums = vec![0; height * tokens];
        for slab in (0..blocks).step_by(SLAB) {
            let slab = slab..blocks.min(slab + SLAB);
            for (row, to) in dense.chunks_mut(slab.len()).enumerate().take(height) {
                self.expand::<V>(self.first + row, slab.clone(), |block, dense| to[block - slab.start].0 = dense);
            }
            let x: Vec<&[Block]> = self.x.iter().map(|x| &x.0[slab.clone()]).collect();
            add_all::<V>(&dense[..height * slab.len()], slab.len(), &x, &mut sums);
        }
        for (row, sums) in sums.chunks(tokens).enumerate() {
            self.write::<V>(row, sums);
        }
    }

    /// Gives blocks of a row of the weight.
    #[inline(always)]
    fn expand<V: Vector>(&self, row: usize, blocks: Range<usize>, mut take: impl FnMut(usize, [i8; BYTES])) {
        let values: &[i8] = bytemuck::cast_slice(self.weight.values(row));
        let (values, last_values) = values.as_chunks();
        let all_codes = self.weight.codes(row);
        let codes = all_codes.as_chunks().0;
        let whole = blocks.start..blocks.end.min(values.len());
        for ((values, codes), block) in values[whole.clone()].iter().zip(&codes[whole.clone()]).zip(whole.clone()) {
            take(block, V::expand(values, *codes));
        }
        if whole.end < blocks.end {
            // Codes may be in whole bytes where values are not.
            take(whole.end, V::expand(&padded(last_values), padded(&all_codes[whole.end * (BYTES / 8)..])));
        }
    }

    /// The sums of a row, without what the offset of weights adds, and with the bias.
    #[inline(always)]
    fn write<V: Vector>(&mut self, row: usize, sums: &[i32]) {
        let bias = self.bias.map(|bias| bias[self.first + row]);
        for ((y, (_, total)), sum) in self.y.iter_mut().zip(self.x).zip(sums) {
            y[row] = finish::<T, i32>(sum.wrapping_sub(total.wrapping_mul(i32::from(V::OFFSET))), bias);
        }
    }
}

/// Adds the products of all rows and tokens to `sums [rows, tokens]`.
#[inline(always)]
fn add_all<V: Vector>(dense: &[Block], blocks: usize, x: &[&[Block]], sums: &mut [i32]) {
    for token in (0..x.len()).step_by(4) {
        for (i, dense) in dense.chunks(ROWS * blocks).enumerate() {
            let sums = &mut sums[i * ROWS * x.len()..];
            match x.len() - token {
                1 => add::<V, 1>(dense, blocks, x, token, sums),
                2 => add::<V, 2>(dense, blocks, x, token, sums),
                3 => add::<V, 3>(dense, blocks, x, token, sums),
                _ => add::<V, 4>(dense, blocks, x, token, sums),
            }
        }
    }
}

/// Those of up to `ROWS` rows and of `N` tokens from one on.
#[inline(always)]
fn add<V: Vector, const N: usize>(dense: &[Block], blocks: usize, x: &[&[Block]], token: usize, sums: &mut [i32]) {
    let there = dense.len() / blocks;
    // Where there are fewer rows, the last is repeated, and not added again.
    let rows: [&[Block]; ROWS] = from_fn(|i| &dense[i.min(there - 1) * blocks..][..blocks]);
    let columns: [&[Block]; N] = from_fn(|i| &x[token + i][..blocks]);
    let mut added = [[V::no_sums(); N]; ROWS];
    for block in 0..blocks {
        for (row, added) in rows.iter().zip(&mut added) {
            for (x, added) in columns.iter().zip(added) {
                *added = V::dot(*added, &row[block].0, &x[block].0);
            }
        }
    }
    for (sums, added) in sums.chunks_mut(x.len()).zip(added).take(there) {
        for (sum, added) in sums[token..].iter_mut().zip(added) {
            *sum = sum.wrapping_add(V::total(added));
        }
    }
}
