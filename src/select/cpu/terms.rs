//! Multiples of a matrix's rows, added to a row of its width: a block of the matrix's rows at a time, and few enough
//! columns that their part of it stays in the first-level cache.

use super::super::sweep::BLOCK;
use multiversion::multiversion;

/// Columns that all rows of a task go through before the next ones.
const LANES: usize = 48;
/// A block of the matrix's rows in those columns.
type Near = [[f32; LANES]; BLOCK];

/// Rows of a block, each with its factor, in the order in which they are added.
pub(super) struct Terms {
    terms: [(usize, f32); BLOCK],
    count: usize,
}

impl Terms {
    /// Every row whose factor is not 0.
    pub(super) fn new(factors: &[f32; BLOCK]) -> Self {
        let mut all = Self { terms: [(0, 0.0); BLOCK], count: 0 };
        for (j, &factor) in factors.iter().enumerate().filter(|(_, factor)| **factor != 0.0) {
            all.terms[all.count] = (j, factor);
            all.count += 1;
        }
        all
    }
}

/// Adds its terms to each of some rows, in the columns from `first` on. The block's rows begin `cols` elements apart.
pub(super) fn add(block: &[f32], terms: &[Terms], cols: usize, first: usize, rows: &mut [f32]) {
    let mut near: Near = [[0.0; LANES]; BLOCK];
    for column in (first..cols).step_by(LANES) {
        let width = LANES.min(cols - column);
        for (near, row) in near.iter_mut().zip(block.chunks(cols)) {
            near[..width].copy_from_slice(&row[column..column + width]);
        }
        for (row, terms) in rows.chunks_mut(cols).zip(terms) {
            add_near(&near, terms, &mut row[column..column + width]);
        }
    }
}

#[multiversion(targets("x86_64+avx2+fma+f16c"))]
fn add_near(near: &Near, terms: &Terms, to: &mut [f32]) {
    let mut sums = [0.0; LANES];
    sums[..to.len()].copy_from_slice(to);
    for &(j, factor) in &terms.terms[..terms.count] {
        for (sum, x) in sums.iter_mut().zip(&near[j]) {
            *sum = factor.mul_add(*x, *sum);
        }
    }
    to.copy_from_slice(&sums[..to.len()]);
}
