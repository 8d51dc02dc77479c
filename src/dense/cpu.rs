//! A dense product with `f32` accumulation and one rounding at the end.
//!
//! The result is cut into tiles, a task of rayon's each. A task sums its tile in `f32`, one slab of the contraction
//! after the other: 16-bit panels are widened first (exactly), `f32` panels are used where they lie, and the crate
//! `gemm` does the arithmetic on one thread. So memory for widened operands is a few panels a thread, and the order of
//! summation is a matter of the shape alone.

use crate::element::{DType, Float};
use gemm::Parallelism;
use rayon::prelude::*;
use std::ops::Range;

/// Rows and columns of a tile: large enough that widening costs little beside multiplying.
const TILE: [usize; 2] = [256, 256];
/// How much of the contraction is summed at a time.
const SLAB: usize = 1024;

/// An operand that gives its parts in `f32`.
pub(crate) trait Panels: Sync {
    /// A part with at least one row and column; it may be made in `widened`.
    fn panel<'p>(&'p self, rows: Range<usize>, cols: Range<usize>, widened: &'p mut Vec<f32>) -> Panel<'p>;
}

/// A row-major matrix, or its transpose.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    data: &'a [T],
    stored_cols: usize,
    /// The stored column that is the first.
    first: usize,
    transposed: bool,
}

impl<'a, T: Float> Matrix<'a, T> {
    pub(crate) fn new(data: &'a [T], cols: usize) -> Self {
        Self { data, stored_cols: cols, first: 0, transposed: false }
    }

    /// The columns from `first` on, of a matrix that is not transposed.
    pub(crate) fn starting_at(mut self, first: usize) -> Self {
        self.first += first;
        self
    }

    pub(crate) fn transposed(mut self) -> Self {
        self.transposed = !self.transposed;
        self
    }
}

impl<T: Float> Panels for Matrix<'_, T> {
    fn panel<'p>(&'p self, rows: Range<usize>, cols: Range<usize>, widened: &'p mut Vec<f32>) -> Panel<'p> {
        let (rows, cols) = if self.transposed { (cols, rows) } else { (rows, cols) };
        let cols = self.first + cols.start..self.first + cols.end;
        let width = self.stored_cols;
        let (data, row_stride) = if T::DTYPE == DType::F32 {
            let lies = &self.data[rows.start * width + cols.start..(rows.end - 1) * width + cols.end];
            (bytemuck::cast_slice(lies), width)
        } else {
            widened.resize(rows.len() * cols.len(), 0.0);
            for (row, to) in rows.zip(widened.chunks_exact_mut(cols.len())) {
                T::widen(&self.data[row * width..][cols.clone()], to);
            }
            (&widened[..], cols.len())
        };
        Panel { data, row_stride, transposed: self.transposed }
    }
}

/// Rows that lie a stride apart, or their transpose; the last row's last value is the slice's last.
pub(crate) struct Panel<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) row_stride: usize,
    pub(crate) transposed: bool,
}

impl Panel<'_> {
    /// Steps from row to row and from column to column.
    fn strides(&self) -> [isize; 2] {
        let strides = if self.transposed { [1, self.row_stride] } else { [self.row_stride, 1] };
        strides.map(|stride| stride as isize)
    }
}

/// Writes `out [.., cols] = a · b`, where `depth` is the number of columns of `a` and of rows of `b`.
pub(crate) fn multiply<T: Float, O: Float>(
    depth: usize,
    a: &Matrix<'_, T>,
    b: &Matrix<'_, T>,
    out: &mut [O],
    cols: usize,
) {
    multiply_add(depth, [a, b], None, out, cols, O::narrow);
}

/// Writes `out [.., cols] = a · b + bias`, the bias being one for each column, and every sum rounded by `finish`.
pub(crate) fn multiply_add<O: Send>(
    depth: usize,
    [a, b]: [&dyn Panels; 2],
    bias: Option<&[f32]>,
    out: &mut [O],
    cols: usize,
    finish: impl Fn(&[f32], &mut [O]) + Sync,
) {
    if out.is_empty() {
        return;
    }
    let tiles = Tile::cut(out, cols);
    tiles.into_par_iter().for_each_init(Scratch::default, |scratch, tile| {
        scratch.add_up(depth, a, b, &tile);
        let width = tile.cols.len();
        for (out, sum) in tile.out.into_iter().zip(scratch.sum.chunks_exact_mut(width)) {
            if let Some(bias) = bias {
                sum.iter_mut().zip(&bias[tile.cols.clone()]).for_each(|(sum, bias)| *sum += bias);
            }
            finish(sum, out);
        }
    });
}

/// A part of the result.
struct Tile<'a, O> {
    rows: Range<usize>,
    cols: Range<usize>,
    out: Vec<&'a mut [O]>,
}

impl<'a, O> Tile<'a, O> {
    fn cut(out: &'a mut [O], cols: usize) -> Vec<Self> {
        let [tall, wide] = TILE;
        let mut tiles = Vec::new();
        for (band_number, band) in out.chunks_mut(tall * cols).enumerate() {
            let start = band_number * tall;
            let rows = start..start + band.len() / cols;
            let first = tiles.len();
            for start in (0..cols).step_by(wide) {
                tiles.push(Tile { rows: rows.clone(), cols: start..cols.min(start + wide), out: Vec::new() });
            }
            for row in band.chunks_mut(cols) {
                for (tile, part) in tiles[first..].iter_mut().zip(row.chunks_mut(wide)) {
                    tile.out.push(part);
                }
            }
        }
        tiles
    }
}

/// What a task needs beside its operands.
#[derive(Default)]
struct Scratch {
    left: Vec<f32>,
    right: Vec<f32>,
    sum: Vec<f32>,
}

impl Scratch {
    fn add_up<O>(&mut self, depth: usize, a: &dyn Panels, b: &dyn Panels, tile: &Tile<'_, O>) {
        let size = [tile.rows.len(), tile.cols.len()];
        self.sum.clear();
        self.sum.resize(size[0] * size[1], 0.0);
        for start in (0..depth).step_by(SLAB) {
            let slab = start..depth.min(start + SLAB);
            let left = a.panel(tile.rows.clone(), slab.clone(), &mut self.left);
            let right = b.panel(slab.clone(), tile.cols.clone(), &mut self.right);
            add_product(slab.len(), &left, &right, &mut self.sum, size);
        }
    }
}

/// `sum [rows, cols] += left [rows, depth] · right [depth, cols]`, none of the sizes zero.
fn add_product(depth: usize, left: &Panel<'_>, right: &Panel<'_>, sum: &mut [f32], [rows, cols]: [usize; 2]) {
    let [left_rows, left_cols] = left.strides();
    let [right_rows, right_cols] = right.strides();
    let [to, left, right] = [sum.as_mut_ptr(), left.data.as_ptr().cast_mut(), right.data.as_ptr().cast_mut()];
    let one_thread = Parallelism::None;
    // SAFETY: `panel` cut both operands so that these sizes and strides reach their last value and not beyond; `sum`
    // holds rows * cols values and, being borrowed mutably, overlaps neither.
    unsafe {
        gemm::gemm(
            rows,
            cols,
            depth,
            to,
            1,
            cols as isize,
            true,
            left,
            left_cols,
            left_rows,
            right,
            right_cols,
            right_rows,
            1.0,
            1.0,
            false,
            false,
            false,
            one_thread,
        );
    }
}
