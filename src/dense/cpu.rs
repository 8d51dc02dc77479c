//! A dense product with `f32` accumulation and one rounding at the end, by the crate `gemm` on all threads of rayon's
//! pool.
//!
//! `f32` is multiplied where it lies. 16-bit values are widened (exactly) and their sums rounded, a chunk of the result
//! and a slab of the contraction at a time, so that memory beside the operands is that of a chunk. The order of summation
//! is a matter of the shape alone.

use crate::element::{DType, Float};
use gemm::Parallelism;
use rayon::prelude::*;
use std::ops::Range;

/// Rows and columns of a chunk: so large that widening costs little beside multiplying.
const CHUNK: [usize; 2] = [1024, 1024];
/// How much of the contraction is summed at a time.
const SLAB: usize = 512;
/// Columns of a task, of a product that `gemm` leaves to one thread.
const BAND: usize = 256;

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

    /// The columns from `first` on.
    pub(crate) fn starting_at(mut self, first: usize) -> Self {
        match self.transposed {
            true => self.data = &self.data[first * self.stored_cols..],
            false => self.first += first,
        }
        self
    }

    /// Of a matrix whose first column is the first that is stored.
    pub(crate) fn transposed(mut self) -> Self {
        self.transposed = !self.transposed;
        self
    }

    /// A part with at least one row and column; it may be made in `widened`.
    fn panel<'p>(&'p self, rows: Range<usize>, cols: Range<usize>, widened: &'p mut Vec<f32>) -> Panel<'p> {
        let size = [rows.len(), cols.len()];
        let (rows, cols) = if self.transposed { (cols, rows) } else { (rows, cols) };
        let cols = self.first + cols.start..self.first + cols.end;
        let width = self.stored_cols;
        let lies = &self.data[rows.start * width + cols.start..(rows.end - 1) * width + cols.end];
        let (data, stride) = if T::DTYPE == DType::F32 {
            (bytemuck::cast_slice(lies), width)
        } else {
            widened.resize(rows.len() * cols.len(), 0.0);
            let rows = widened.par_chunks_exact_mut(cols.len()).zip(lies.par_chunks(width));
            rows.for_each(|(to, row)| T::widen(&row[..to.len()], to));
            (&widened[..], cols.len())
        };
        Panel { data, size, strides: if self.transposed { [1, stride] } else { [stride, 1] } }
    }
}

/// Numbers with steps from row to row and from column to column; the last row's last one is the slice's last.
struct Panel<'a> {
    data: &'a [f32],
    /// Rows and columns, neither of them zero.
    size: [usize; 2],
    strides: [usize; 2],
}

/// Writes `out [.., cols] = a · b`, where `depth` is the number of columns of `a` and of rows of `b`.
pub(crate) fn multiply<T: Float, O: Float>(
    depth: usize,
    a: &Matrix<'_, T>,
    b: &Matrix<'_, T>,
    out: &mut [O],
    cols: usize,
) {
    if out.is_empty() || depth == 0 {
        return out.fill(O::zeroed());
    }
    let rows = out.len() / cols;
    if rows == 1 && cols > BAND {
        let bands = out.par_chunks_mut(BAND).enumerate();
        return bands.for_each(|(band, out)| {
            let cols = out.len();
            multiply(depth, a, &b.starting_at(band * BAND), out, cols);
        });
    }
    if [T::DTYPE, O::DTYPE] == [DType::F32; 2] {
        let [mut left, mut right] = [const { Vec::new() }; 2];
        let [left, right] = [a.panel(0..rows, 0..depth, &mut left), b.panel(0..depth, 0..cols, &mut right)];
        return write_product(&left, &right, bytemuck::cast_slice_mut(out), false);
    }
    let ([tall, wide], mut scratch) = (CHUNK, Scratch::default());
    for (number, out) in out.chunks_mut(tall * cols).enumerate() {
        let rows = number * tall..number * tall + out.len() / cols;
        for first in (0..cols).step_by(wide) {
            let cols_now = first..cols.min(first + wide);
            let sums = scratch.add_up(depth, a, b, &rows, &cols_now).par_chunks_exact(cols_now.len());
            out.par_chunks_mut(cols).zip(sums).for_each(|(out, sums)| O::narrow(sums, &mut out[cols_now.clone()]));
        }
    }
}

/// What a chunk is made in.
#[derive(Default)]
struct Scratch {
    left: Vec<f32>,
    right: Vec<f32>,
    sums: Vec<f32>,
}

impl Scratch {
    fn add_up<T: Float>(
        &mut self,
        depth: usize,
        a: &Matrix<'_, T>,
        b: &Matrix<'_, T>,
        rows: &Range<usize>,
        cols: &Range<usize>,
    ) -> &[f32] {
        self.sums.resize(rows.len() * cols.len(), 0.0);
        for start in (0..depth).step_by(SLAB) {
            let slab = start..depth.min(start + SLAB);
            let left = a.panel(rows.clone(), slab.clone(), &mut self.left);
            let right = b.panel(slab, cols.clone(), &mut self.right);
            write_product(&left, &right, &mut self.sums, start > 0);
        }
        &self.sums
    }
}

/// Writes `sums [rows, cols] = left [rows, depth] · right [depth, cols]`, or adds it.
fn write_product(left: &Panel<'_>, right: &Panel<'_>, sums: &mut [f32], add: bool) {
    let ([rows, depth], [_, cols]) = (left.size, right.size);
    assert!(depth == right.size[0] && sums.len() == rows * cols);
    let [left_steps, right_steps] = [left.strides, right.strides].map(|steps| steps.map(|step| step as isize));
    let [to, left, right] = [sums.as_mut_ptr(), left.data.as_ptr().cast_mut(), right.data.as_ptr().cast_mut()];
    // SAFETY: `Matrix::panel`, which alone makes panels, cut or made their data to reach the last value of these sizes
    // and strides and no further; `sums` holds rows * cols values, as was just asserted, and being borrowed mutably
    // overlaps neither.
    unsafe {
        gemm::gemm(
            rows,
            cols,
            depth,
            to,
            1,
            cols as isize,
            add,
            left,
            left_steps[1],
            left_steps[0],
            right,
            right_steps[1],
            right_steps[0],
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::Rayon(0),
        );
    }
}
