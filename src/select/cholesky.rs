//! From a Hessian to what SparseGPT's sweep reads: the upper Cholesky factor of its inverse.

use super::calibration::{check_hessian, fill_empty, finite};
use crate::check::{not_negative, zeros};
use crate::error::{Error, Result};
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{self as llt, LltError, LltRegularization};
use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::{MatMut, MatRef, Par};
use rayon::prelude::*;

/// The least share of a diagonal element that may be left of it when all columns to its right have been accounted for.
/// Less is what the rounding of a Hessian in `f32` leaves of nothing.
const LEAST_PIVOT: f64 = 1.0 / (1 << 26) as f64;

/// Rows of the result that a task transposes at once: a cache line of each column it reads.
const BAND: usize = 8;

/// The upper triangular `U` with `H⁻¹ = Uᵀ U`, and `1 / U_jj`. All weights that read the same activations share it.
#[derive(Debug, Clone, PartialEq)]
pub struct Cholesky {
    cols: usize,
    upper: Vec<f32>,
    scale: Vec<f32>,
    empty: usize,
}

impl Cholesky {
    /// The usual damping: 1 % of the mean diagonal.
    pub const DAMPING: f64 = 0.01;

    /// Of a symmetric Hessian `[K, K]`, with `damping` times the mean of the diagonal (over columns that are not empty)
    /// added to the diagonal. All of it is [looked at](check_hessian), and the triangle up to the diagonal is used.
    ///
    /// The arithmetic is in `f64` on all threads of rayon's pool, one Cholesky factorisation and one triangular
    /// inversion: read from its last column to its first, `H = L Lᵀ` gives `U = L⁻¹` without the inverse of H. It takes
    /// 16·K² bytes beside the result.
    ///
    /// # Errors
    /// As [`check_hessian`]; [`Error::Scalar`] for a damping that is not finite or below 0, or a Hessian so small or
    /// large that its factor leaves the range of `f32`; [`Error::NotPositiveDefinite`]; [`Error::Memory`].
    pub fn new(cols: usize, hessian: &[f32], damping: f64) -> Result<Self> {
        not_negative("damping", damping)?;
        check_hessian(cols, hessian)?;
        if cols == 0 {
            return Ok(Self { cols, upper: Vec::new(), scale: Vec::new(), empty: 0 });
        }
        let dead: Vec<bool> = (0..cols).map(|j| hessian[j * cols + j] == 0.0).collect();
        let reversed = damped(cols, hessian, &dead, damping)?;
        let (lower, inverse) = factorise(cols, reversed)?;
        let mut scale = zeros("the scales of columns", cols)?;
        for (j, scale) in scale.iter_mut().enumerate().filter(|(j, _)| !dead[*j]) {
            let diagonal = cols - 1 - j;
            *scale = lower[diagonal * cols + diagonal] as f32;
        }
        drop(lower);
        let upper = transposed_back(cols, &inverse)?;
        finite("an element of the Hessian's factor", &upper)?;
        finite("the inverse of a diagonal element of the Hessian's factor", &scale)?;
        let empty = fill_empty(&mut scale);
        Ok(Self { cols, upper, scale, empty })
    }

    /// K.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// `U [K, K]`, row-major, zeros below the diagonal.
    #[must_use]
    pub fn upper(&self) -> &[f32] {
        &self.upper
    }

    /// `1 / U_jj [K]`, and for empty columns a tiny number: the scale of scores, of a weight as it is
    /// ([`ByScore::scaled`](super::ByScore::scaled)) or as updated ([`Sweep`](super::Sweep)).
    #[must_use]
    pub fn scale(&self) -> &[f32] {
        &self.scale
    }

    /// Columns that saw no input: among them magnitude chooses.
    #[must_use]
    pub fn empty(&self) -> usize {
        self.empty
    }
}

/// The damped Hessian read from its last column to its first, column-major; zeros above the diagonal.
fn damped(cols: usize, hessian: &[f32], dead: &[bool], damping: f64) -> Result<Vec<f64>> {
    let live = (0..cols).filter(|&j| !dead[j]);
    let (count, sum) = live.fold((0, 0.0), |(count, sum), j| (count + 1, sum + f64::from(hessian[j * cols + j])));
    let added = if count == 0 { 0.0 } else { damping * sum / f64::from(count) };
    let mut reversed = zeros("the damped Hessian", cols * cols)?;
    reversed.par_chunks_mut(cols).enumerate().for_each(|(column, to)| {
        let row = cols - 1 - column;
        let from = hessian[row * cols..][..=row].iter().rev();
        for ((to, &from), &dead) in to[column..].iter_mut().zip(from).zip(dead[..=row].iter().rev()) {
            // Beside a zero on the diagonal there is nothing but what is too small to count.
            *to = if dead { 0.0 } else { f64::from(from) };
        }
        if dead[row] {
            to[column..].fill(0.0);
        }
        to[column] += if dead[row] { 1.0 } else { added };
    });
    Ok(reversed)
}

/// `L` and `L⁻¹`, column-major.
fn factorise(cols: usize, mut matrix: Vec<f64>) -> Result<(Vec<f64>, Vec<f64>)> {
    let stopped = |index: usize| Error::NotPositiveDefinite { column: (cols - 1).saturating_sub(index) as u64 };
    let diagonal: Vec<f64> = (0..cols).map(|j| matrix[j * cols + j]).collect();
    let parallelism = Par::rayon(0);
    let scratch = llt::cholesky_in_place_scratch::<f64>(cols, parallelism, Default::default());
    let none = Error::Memory { what: "factorising the Hessian", bytes: scratch.unaligned_bytes_required() as u64 };
    let mut memory = MemBuffer::try_new(scratch).map_err(|_| none)?;
    let lower = MatMut::from_column_major_slice_mut(&mut matrix, cols, cols);
    let (exactly, stack) = (LltRegularization::default(), MemStack::new(&mut memory));
    llt::cholesky_in_place(lower, exactly, parallelism, stack, Default::default())
        .map_err(|LltError::NonPositivePivot { index }| stopped(index))?;
    let lost = |j: &usize| matrix[j * cols + j].powi(2) < LEAST_PIVOT * diagonal[*j];
    if let Some(index) = (0..cols).find(lost) {
        return Err(stopped(index));
    }
    let mut inverse = zeros("the inverse of the Hessian's factor", cols * cols)?;
    invert_lower_triangular(
        MatMut::from_column_major_slice_mut(&mut inverse, cols, cols),
        MatRef::from_column_major_slice(&matrix, cols, cols),
        parallelism,
    );
    Ok((matrix, inverse))
}

/// Row-major, from the first column to the last again, in `f32`.
fn transposed_back(cols: usize, inverse: &[f64]) -> Result<Vec<f32>> {
    let mut upper = zeros("the Hessian's factor", cols * cols)?;
    upper.par_chunks_mut(BAND * cols).enumerate().for_each(|(band, rows)| {
        let first = band * BAND;
        for column in first..cols {
            let from = &inverse[(cols - 1 - column) * cols..][..cols];
            for (i, row) in rows.chunks_mut(cols).enumerate().take(column - first + 1) {
                row[column] = from[cols - 1 - (first + i)] as f32;
            }
        }
    });
    Ok(upper)
}
