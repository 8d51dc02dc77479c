//! What calibration cannot have meant: norms and Hessians are looked at before they are believed.

use super::activations::square;
use crate::check::{length, scalar};
use crate::error::{Error, Result};
use rayon::prelude::*;

/// Beside the smallest scale of a column that saw an input, that of one that saw none.
const EMPTY: f64 = 1.0 / (1_u64 << 48) as f64;
/// How far apart an element and its mirror image may be, as a share of the larger one, of the root of their diagonal
/// elements' product, and at least: what `bf16` leaves of equal numbers, other orders of a sum, and subnormal numbers.
const MIRRORED: [f64; 3] = [1.0 / (1 << 7) as f64, 1.0 / (1 << 13) as f64, 2.0 * SMALLEST];
/// How much larger than that root an element may be.
const ROUNDED: f64 = 1.0 + 1.0 / (1 << 7) as f64;
/// The smallest `f32`, below which a diagonal element may have been rounded to zero.
const SMALLEST: f64 = f32::from_bits(1) as f64;
/// Rows and columns of a tile whose mirror image is at hand too.
const TILE: usize = 64;

/// Scales of a weight's columns for [`ByScore::scaled`](super::ByScore::scaled), made of Wanda's norms or others that
/// are known up to a factor: by a power of two so that the largest is from 1 to 2, which changes no comparison, and no
/// product overflows.
///
/// **Empty columns**, whose norm is 0, would all have score 0, and of equal scores the lowest position wins, whatever
/// the weights. Here their scale is a tiny one: they lose to every column that saw an input, and among themselves the
/// larger weight is kept. [`empty`](Self::empty) says how many there are.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnScale {
    scale: Vec<f32>,
    empty: usize,
}

impl ColumnScale {
    /// Of norms `[K]`.
    ///
    /// # Errors
    /// [`Error::Column`] with the first norm that is negative or not finite, [`Error::NoInput`] where all are 0,
    /// [`Error::Memory`].
    pub fn new(norms: &[f32]) -> Result<Self> {
        check_scale("the norm", norms)?;
        let largest = norms.iter().fold(0.0_f32, |largest, &norm| largest.max(norm));
        let by = f64::from(largest).log2().floor().exp2().recip();
        let mut scale = crate::check::zeros("the scales of columns", norms.len())?;
        for (scale, &norm) in scale.iter_mut().zip(norms) {
            // One that is 2^-149 of the largest or less still saw an input.
            let least = if norm == 0.0 { 0.0 } else { f32::from_bits(1) };
            *scale = ((f64::from(norm) * by) as f32).max(least);
        }
        let empty = fill_empty(&mut scale);
        Ok(Self { scale, empty })
    }

    /// The scales `[K]`.
    #[must_use]
    pub fn scale(&self) -> &[f32] {
        &self.scale
    }

    /// Columns that saw no input.
    #[must_use]
    pub fn empty(&self) -> usize {
        self.empty
    }
}

/// Gives columns of scale 0 a tiny one, so that magnitude decides among them; how many there are.
pub(super) fn fill_empty(scale: &mut [f32]) -> usize {
    let live = scale.iter().filter(|scale| **scale > 0.0);
    let least = live.fold(f32::INFINITY, |least, &scale| least.min(scale));
    let tiny = ((f64::from(least) * EMPTY) as f32).max(f32::MIN_POSITIVE).min(least);
    let empty = scale.iter_mut().filter(|scale| **scale == 0.0);
    empty.map(|scale| *scale = tiny).count()
}

/// Checks scales of columns: finite, none negative, and not all 0.
pub(super) fn check_scale(what: &'static str, scale: &[f32]) -> Result<()> {
    if let Some(column) = scale.iter().position(|scale| !(scale.is_finite() && *scale >= 0.0)) {
        let (value, must) = (f64::from(scale[column]), "finite and not negative");
        return Err(Error::Column { what, column: column as u64, value, must });
    }
    if !scale.is_empty() && scale.iter().all(|scale| *scale == 0.0) {
        return Err(Error::NoInput { what, cols: scale.len() as u64 });
    }
    Ok(())
}

/// Checks a Hessian `[K, K]` for what a sum of products `x xᵀ`, times a factor and rounded (to `bf16`, say), always is:
/// finite, symmetric, without a negative diagonal element, and no element larger than the root of its two diagonal
/// elements' product, so that beside a zero on the diagonal there are zeros alone. How many columns are empty (0 on the
/// diagonal), of which not all may be.
///
/// It reads every element once, on all threads of rayon's pool. `Cholesky::new` does it; whoever has many layers does
/// it for all before the first is worked on.
///
/// # Errors
/// [`Error::Length`], [`Error::Overflow`]; [`Error::Scalar`] for an element that is not finite; [`Error::Column`] for a
/// negative diagonal; [`Error::NotSymmetric`], of one triangle too; [`Error::NotProducts`]; [`Error::NoInput`].
pub fn check_hessian(cols: usize, hessian: &[f32]) -> Result<usize> {
    length("hessian", Some(&hessian), square("the Hessian", cols)?)?;
    finite("an element of the Hessian", hessian)?;
    let diagonal: Vec<f64> = (0..cols).map(|j| f64::from(hessian[j * cols + j])).collect();
    if let Some(column) = diagonal.iter().position(|&h| h < 0.0) {
        let (what, must) = ("the Hessian's diagonal", "a sum of squares, which is not negative");
        return Err(Error::Column { what, column: column as u64, value: diagonal[column], must });
    }
    let bands = (0..cols.div_ceil(TILE)).into_par_iter();
    if let Some(wrong) = bands.find_map_first(|band| check_band(cols, hessian, &diagonal, band * TILE)) {
        return Err(wrong);
    }
    match diagonal.iter().filter(|h| **h == 0.0).count() {
        empty if empty == cols && cols > 0 => Err(Error::NoInput { what: "the Hessian", cols: cols as u64 }),
        empty => Ok(empty),
    }
}

/// The rows from `first` on, up to the diagonal, by tiles.
fn check_band(cols: usize, hessian: &[f32], diagonal: &[f64], first: usize) -> Option<Error> {
    for left in (0..=first).step_by(TILE) {
        for row in first..cols.min(first + TILE) {
            for column in left..row.min(left + TILE) {
                let [value, mirrored] = [row * cols + column, column * cols + row].map(|at| f64::from(hessian[at]));
                let root = ((diagonal[row] + SMALLEST) * (diagonal[column] + SMALLEST)).sqrt();
                let larger = value.abs().max(mirrored.abs());
                let [of_it, of_root, least] = MIRRORED;
                let [at_row, at_column] = [row, column].map(|at| at as u64);
                if (value - mirrored).abs() > of_it * larger + of_root * root + least {
                    return Some(Error::NotSymmetric { row: at_row, column: at_column, value, mirrored });
                }
                if larger > ROUNDED * root {
                    let value = if larger == value.abs() { value } else { mirrored };
                    let diagonal = [diagonal[row], diagonal[column]];
                    return Some(Error::NotProducts { row: at_row, column: at_column, value, diagonal });
                }
            }
        }
    }
    None
}

/// Checks that values are finite.
pub(super) fn finite(what: &'static str, values: &[f32]) -> Result<()> {
    match values.par_iter().find_first(|value| !value.is_finite()) {
        Some(&value) => {
            let must = "finite: look for NaN and overflow in the activations, or rescale them";
            scalar(what, f64::from(value), must)
        }
        None => Ok(()),
    }
}
