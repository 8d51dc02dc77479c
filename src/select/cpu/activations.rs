//! What activations say of a weight's columns.

use super::super::activations::{RUN, RUNS, SLAB};
use super::{Hessian, Squares};
use crate::check::zeros;
use crate::element::Float;
use crate::error::Result;
use crate::space::HostSpace;
use gemm::Parallelism;
use multiversion::multiversion;
use rayon::prelude::*;

/// Columns of a task: of 16-bit activations, half a KiB of a token at a time.
const STRIP: usize = 256;

/// Adds the squares of a batch's columns to `sums`.
pub(in super::super) fn squares<S: HostSpace, X: Float>(pass: Squares<'_, S, X>) {
    let (cols, x, all) = (pass.cols, S::slice(pass.x), S::slice_mut(pass.sums));
    let strips = all.par_chunks_mut(STRIP).enumerate();
    strips.for_each(|(strip, sums)| add_strip(x, cols, strip * STRIP, sums));
    if let Some(norms) = pass.norms.map(S::slice_mut) {
        for (norm, sum) in norms.iter_mut().zip(all) {
            *norm = (*sum as f32).sqrt();
        }
    }
}

/// Adds the squares of the columns from `first` on.
#[multiversion(targets("x86_64+avx2+fma+f16c"))]
fn add_strip<X: Float>(x: &[X], cols: usize, first: usize, sums: &mut [f64]) {
    let width = sums.len();
    let mut token = [0.0; STRIP];
    for slab in x.chunks(SLAB * cols) {
        let mut of_slab = [0.0; STRIP];
        for run in slab.chunks(RUN * cols) {
            let mut of_run = [0.0_f32; STRIP];
            for row in run.chunks(cols) {
                X::widen(&row[first..first + width], &mut token);
                for (sum, x) in of_run.iter_mut().zip(&token) {
                    *sum = x.mul_add(*x, *sum);
                }
            }
            for (sum, of_run) in of_slab.iter_mut().zip(of_run) {
                *sum += f64::from(of_run);
            }
        }
        for (sum, of_slab) in sums.iter_mut().zip(of_slab) {
            *sum += of_slab;
        }
    }
}
const _: () = assert!(RUN * RUNS == SLAB);

/// Tokens that are widened and multiplied at a time.
const DEPTH: usize = 512;
/// Rows of the Hessian that a task multiplies.
const BAND: usize = 128;

/// Accumulates the Hessian of a batch.
pub(in super::super) fn hessian<S: HostSpace, X: Float>(pass: Hessian<'_, S, X>) -> Result<()> {
    let Hessian { tokens, cols, before, .. } = pass;
    let (x, hessian) = (S::slice(pass.x), S::slice_mut(pass.hessian));
    if cols == 0 {
        return Ok(());
    }
    let total = before as f64 + tokens as f64;
    let mut old = if before == 0 { 0.0 } else { (before as f64 / total) as f32 };
    if tokens == 0 {
        if before == 0 {
            hessian.fill(0.0);
        }
        return Ok(());
    }
    let new = (2.0 / total) as f32;
    let mut widened = zeros("activations in f32", DEPTH.min(tokens) * cols)?;
    for slab in x.chunks(DEPTH * cols) {
        let widened = &mut widened[..slab.len()];
        let rows = widened.par_chunks_mut(cols).zip(slab.par_chunks(cols));
        rows.for_each(|(to, from)| X::widen(from, to));
        let bands = hessian.par_chunks_mut(BAND * cols).enumerate();
        bands.for_each(|(band, to)| add_band(widened, cols, band * BAND, [old, new], to));
        old = 1.0;
    }
    mirror(cols, hessian);
    Ok(())
}

/// `to = old · to + new · xᵀ x` in the rows from `first` on, up to the diagonal.
fn add_band(x: &[f32], cols: usize, first: usize, [old, new]: [f32; 2], to: &mut [f32]) {
    let (tokens, rows) = (x.len() / cols, to.len() / cols);
    let width = first + rows;
    let pitch = cols as isize;
    let band = &x[first..];
    // SAFETY: all three are row-major with `cols` elements from row to row. `x` has `tokens` of them: its first `width`
    // columns and, seen from `first` on, its next `rows` end with it; `to` has `rows` rows of which `width` columns are
    // written, and is borrowed alone.
    unsafe {
        gemm::gemm(
            rows,
            width,
            tokens,
            to.as_mut_ptr(),
            1,
            pitch,
            old != 0.0,
            band.as_ptr(),
            pitch,
            1,
            x.as_ptr(),
            1,
            pitch,
            old,
            new,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Copies what lies below the diagonal to above it, a tile at a time.
fn mirror(cols: usize, matrix: &mut [f32]) {
    const TILE: usize = 32;
    for top in (0..cols).step_by(TILE) {
        for left in (top..cols).step_by(TILE) {
            for row in top..cols.min(top + TILE) {
                for column in left.max(row + 1)..cols.min(left + TILE) {
                    matrix[row * cols + column] = matrix[column * cols + row];
                }
            }
        }
    }
}
