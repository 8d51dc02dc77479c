//! The product for many tokens: by dense panels in `f32`, as [`crate::matmul::cpu`] multiplies, with those of the
//! weight decompressed as they are needed.

use super::Canonical;
use crate::compress::Sparsity;
use crate::element::{DType, Factor};

use crate::dense::cpu::{Panel, Panels, multiply_add};

use std::ops::Range;

/// Writes all of `y`. For types whose sums are `f32`.
pub(super) fn multiply<T: Factor>(weight: &Canonical<'_, T>, x: &[T], bias: Option<&[T::Output]>, y: &mut [T::Output]) {
    let (n, k) = (weight.shape.rows, weight.shape.cols);
    let bias: Option<Vec<f32>> = bias.map(|bias| bias.iter().map(|bias| in_f32(T::bias(*bias))).collect());
    let operands: [&dyn Panels; 2] = [&Rows { data: x, cols: k }, &Transposed(weight)];
    multiply_add(k, operands, bias.as_deref(), y, n, |sums, y| {
        y.iter_mut().zip(sums).for_each(|(y, sum)| *y = T::finish(bytemuck::cast(*sum)));
    });
}

/// The same number: sums here are `f32`.
fn in_f32<S: bytemuck::Pod>(sum: S) -> f32 {
    bytemuck::cast(sum)
}

/// Widens exactly.
fn widen<T: Factor>(from: &[T], to: &mut [f32]) {
    T::widen(from, bytemuck::cast_slice_mut(to));
}

/// `X`.
struct Rows<'a, T> {
    data: &'a [T],
    cols: usize,
}

impl<T: Factor> Panels for Rows<'_, T> {
    fn panel<'p>(&'p self, rows: Range<usize>, cols: Range<usize>, widened: &'p mut Vec<f32>) -> Panel<'p> {
        if T::DTYPE == DType::F32 {
            let lies = &self.data[rows.start * self.cols + cols.start..(rows.end - 1) * self.cols + cols.end];
            return Panel { data: bytemuck::cast_slice(lies), row_stride: self.cols, transposed: false };
        }
        widened.resize(rows.len() * cols.len(), 0.0);
        for (row, to) in rows.zip(widened.chunks_exact_mut(cols.len())) {
            widen(&self.data[row * self.cols..][cols.clone()], to);
        }
        Panel { data: widened, row_stride: cols.len(), transposed: false }
    }
}

/// `Wᵀ`, of which rows are asked for in multiples of a group.
struct Transposed<'a, 'w, T>(&'a Canonical<'w, T>);

impl<T: Factor> Panels for Transposed<'_, '_, T> {
    fn panel<'p>(&'p self, k: Range<usize>, n: Range<usize>, widened: &'p mut Vec<f32>) -> Panel<'p> {
        let weight = self.0;
        let width = Sparsity::of(T::DTYPE).width();
        // What was there is not all overwritten below.
        widened.clear();
        widened.resize(n.len() * k.len(), 0.0);
        let (mut values, mut columns) = (vec![0.0; k.len() / 2], vec![0; k.len() / 2]);
        for (row, to) in n.zip(widened.chunks_exact_mut(k.len())) {
            widen(&weight.values(row)[k.start / 2..k.end / 2], &mut values);
            weight.columns(row, k.start / width, &mut columns);
            for (value, column) in values.iter().zip(&columns) {
                to[*column as usize - k.start] = *value;
            }
        }
        Panel { data: widened, row_stride: k.len(), transposed: true }
    }
}
