//! From a Hessian to what SparseGPT's sweep reads: the upper Cholesky factor of its inverse.

use super::activations::square;
use crate::check::{length, scalar};
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
}

impl Cholesky {
    /// The usual damping: 1 % of the mean diagonal.
    pub const DAMPING: f64 = 0.01;

    /// Of a symmetric Hessian `[K, K]`, of which the triangle up to the diagonal is read, with `damping` times the mean
    /// of the diagonal (over columns that are not dead) added to the diagonal.
    ///
    /// The arithmetic is in `f64` on all threads of rayon's pool, one Cholesky factorisation and one triangular
    /// inversion: read from its last column to its first, `H = L Lᵀ` gives `U = L⁻¹` without the inverse of H. It takes
    /// 16·K² bytes beside the result.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Overflow`]; [`Error::Scalar`] for a damping or an element that is not finite, a
    /// damping below 0, or a Hessian so small or large that its factor leaves the range of `f32`;
    /// [`Error::NotPositiveDefinite`].
    pub fn new(cols: usize, hessian: &[f32], damping: f64) -> Result<Self> {
        length("hessian", Some(&hessian), square("the Hessian", cols)?)?;
        if !(damping.is_finite() && damping >= 0.0) {
            return scalar("damping", damping, "finite and not negative");
        }
        if cols == 0 {
            return Ok(Self { cols, upper: Vec::new(), scale: Vec::new() });
        }
        finite("an element of the Hessian", hessian)?;
        let dead: Vec<bool> = (0..cols).map(|j| hessian[j * cols + j] == 0.0).collect();
        let reversed = damped(cols, hessian, &dead, damping);
        let (lower, inverse) = factorise(cols, reversed)?;
        let mut scale = vec![0.0; cols];
        for (j, scale) in scale.iter_mut().enumerate().filter(|(j, _)| !dead[*j]) {
            let diagonal = cols - 1 - j;
            *scale = lower[diagonal * cols + diagonal] as f32;
        }
        let upper = transposed_back(cols, &inverse);
        finite("an element of the Hessian's factor", &upper)?;
        finite("the inverse of a diagonal element of the Hessian's factor", &scale)?;
        Ok(Self { cols, upper, scale })
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

    /// `1 / U_jj [K]`, 0 for dead columns: the scale of scores, of a weight as it is
    /// ([`ByScore::scaled`](super::ByScore::scaled)) or as updated ([`Sweep`](super::Sweep)).
    #[must_use]
    pub fn scale(&self) -> &[f32] {
        &self.scale
    }
}

fn finite(what: &'static str, values: &[f32]) -> Result<()> {
    match values.par_iter().find_first(|value| !value.is_finite()) {
        Some(&value) => {
            let must = "finite: look for NaN and overflow in the activations, or rescale them";
            scalar(what, f64::from(value), must)
        }
        None => Ok(()),
    }
}

/// The damped Hessian read from its last column to its first, column-major; zeros above the diagonal.
fn damped(cols: usize, hessian: &[f32], dead: &[bool], damping: f64) -> Vec<f64> {
    let live = (0..cols).filter(|&j| !dead[j]);
    let (count, sum) = live.fold((0, 0.0), |(count, sum), j| (count + 1, sum + f64::from(hessian[j * cols + j])));
    let added = if count == 0 { 0.0 } else { damping * sum / f64::from(count) };
    let mut reversed = vec![0.0; cols * cols];
    reversed.par_chunks_mut(cols).enumerate().for_each(|(column, to)| {
        let row = cols - 1 - column;
        let from = hessian[row * cols..][..=row].iter().rev();
        for (to, &from) in to[column..].iter_mut().zip(from) {
            *to = f64::from(from);
        }
        to[column] += if dead[row] { 1.0 } else { added };
    });
    reversed
}

/// `L` and `L⁻¹`, column-major.
fn factorise(cols: usize, mut matrix: Vec<f64>) -> Result<(Vec<f64>, Vec<f64>)> {
    let stopped = |index: usize| Error::NotPositiveDefinite { column: (cols - 1).saturating_sub(index) as u64 };
    let diagonal: Vec<f64> = (0..cols).map(|j| matrix[j * cols + j]).collect();
    let parallelism = Par::rayon(0);
    let mut memory = MemBuffer::new(llt::cholesky_in_place_scratch::<f64>(cols, parallelism, Default::default()));
    let lower = MatMut::from_column_major_slice_mut(&mut matrix, cols, cols);
    let (exactly, stack) = (LltRegularization::default(), MemStack::new(&mut memory));
    llt::cholesky_in_place(lower, exactly, parallelism, stack, Default::default())
        .map_err(|LltError::NonPositivePivot { index }| stopped(index))?;
    let lost = |j: &usize| matrix[j * cols + j].powi(2) < LEAST_PIVOT * diagonal[*j];
    if let Some(index) = (0..cols).find(lost) {
        return Err(stopped(index));
    }
    let mut inverse = vec![0.0; cols * cols];
    invert_lower_triangular(
        MatMut::from_column_major_slice_mut(&mut inverse, cols, cols),
        MatRef::from_column_major_slice(&matrix, cols, cols),
        parallelism,
    );
    Ok((matrix, inverse))
}

/// Row-major, from the first column to the last again, in `f32`.
fn transposed_back(cols: usize, inverse: &[f64]) -> Vec<f32> {
    let mut upper = vec![0.0; cols * cols];
    upper.par_chunks_mut(BAND * cols).enumerate().for_each(|(band, rows)| {
        let first = band * BAND;
        for column in first..cols {
            let from = &inverse[(cols - 1 - column) * cols..][..cols];
            for (i, row) in rows.chunks_mut(cols).enumerate().take(column - first + 1) {
                row[column] = from[cols - 1 - (first + i)] as f32;
            }
        }
    });
    upper
}
