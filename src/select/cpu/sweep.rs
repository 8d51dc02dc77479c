//! SparseGPT's sweep: a few rows at a time, a block of columns after the other, as on a device.

use super::super::calibration::check_scale;
use super::super::sweep::BLOCK;
use super::terms::{self, Terms};
use super::{Sweep, code_of_largest, pack_patterns};
use crate::check::zeros;
use crate::element::Float;
use crate::error::{Error, Result};
use crate::pattern::Pattern;
use crate::space::HostSpace;
use multiversion::multiversion;
use rayon::prelude::*;

/// The most rows of a task: they read the same part of the factor one after the other.
const ROWS: usize = 32;

/// Sweeps over a weight.
pub(in super::super) fn sweep<S: HostSpace, W: Float>(pass: Sweep<'_, S, W>) -> Result<()> {
    let shape = pass.shape;
    let (weight, upper, scale) = (S::slice(pass.weight), S::slice(pass.upper), S::slice(pass.scale));
    let (updated, losses) = (pass.updated.map(S::slice_mut), pass.losses.map(S::slice_mut));
    let (patterns, codes) = (pass.patterns.map(S::slice_mut), pass.codes.map(S::slice_mut));
    if shape.weights() == 0 {
        if let Some(losses) = losses {
            losses.fill(0.0);
        }
        return Ok(());
    }
    check_scale("the scale", scale)?;
    let mut own;
    let patterns = match patterns {
        Some(patterns) => patterns,
        None => {
            own = zeros("pattern indices", shape.groups())?;
            own.as_mut_slice()
        }
    };
    let factor = Cholesky { cols: shape.cols, upper, scale };
    let rows = shape.rows.div_ceil(4 * rayon::current_num_threads()).clamp(1, ROWS);
    let mut updated = updated.into_iter().flat_map(|updated| updated.chunks_mut(rows * shape.cols));
    let mut losses = losses.into_iter().flat_map(|losses| losses.chunks_mut(rows));
    let bands = weight.chunks(rows * shape.cols).zip(patterns.chunks_mut(rows * (shape.cols / 4)));
    let bands = bands.map(|(weight, patterns)| (weight, patterns, updated.next(), losses.next()));
    let bands = bands.collect::<Vec<_>>();
    let swept = bands.into_par_iter().enumerate().map(|(band, (weight, patterns, updated, losses))| {
        let mut w = zeros("rows of the weight in f32", weight.len())?;
        W::widen(weight, &mut w);
        let of_rows = factor.sweep(&mut w, patterns);
        if let Some(losses) = losses {
            losses.copy_from_slice(&of_rows);
        }
        let Some(updated) = updated else { return Ok(Lost::default()) };
        // The sum makes a zero positive, which side it came from being of no consequence.
        w.iter_mut().for_each(|w| *w += 0.0);
        W::narrow(&w, updated);
        Ok(Lost::of(weight, updated, shape.cols, band * rows))
    });
    let lost = swept.try_reduce(Lost::default, |a, b| Ok(a.and(b)))?;
    if let Some(codes) = codes {
        pack_patterns(patterns, codes);
    }
    match lost.first {
        Some([row, column]) => {
            let [row, column] = [row, column].map(|at| at as u64);
            Err(Error::LeftRange { what: "updated", dtype: W::DTYPE.name(), count: lost.count, row, column })
        }
        None => Ok(()),
    }
}

/// Updated weights that left the range of their type: how many, and the first one's row and column.
#[derive(Default)]
struct Lost {
    count: u64,
    first: Option<[usize; 2]>,
}

impl Lost {
    /// Of some rows, from `first` on. What a weight that was not finite has spoilt does not count.
    fn of<W: Float>(weight: &[W], updated: &[W], cols: usize, first: usize) -> Self {
        let wild = |w: &W| !w.to_f32().is_finite();
        let mut lost = Self::default();
        for (row, (weight, updated)) in weight.chunks(cols).zip(updated.chunks(cols)).enumerate() {
            if updated.iter().any(wild) && !weight.iter().any(wild) {
                lost.count += updated.iter().filter(|w| wild(w)).count() as u64;
                let column = || updated.iter().position(wild).map(|column| [first + row, column]);
                lost.first = lost.first.or_else(column);
            }
        }
        lost
    }

    fn and(self, other: Self) -> Self {
        let first = [self.first, other.first].into_iter().flatten().min();
        Self { count: self.count + other.count, first }
    }
}

struct Cholesky<'a> {
    cols: usize,
    upper: &'a [f32],
    scale: &'a [f32],
}

/// What dropping a block's weights left to make up for, a column each; 0 where one was kept.
type Errors = [f32; BLOCK];

impl Cholesky<'_> {
    /// Sweeps over rows; their losses.
    fn sweep(&self, rows: &mut [f32], patterns: &mut [u8]) -> Vec<f64> {
        let count = rows.len() / self.cols;
        let (mut losses, mut errors) = (vec![0.0; count], vec![[0.0; BLOCK]; count]);
        for start in (0..self.cols).step_by(BLOCK) {
            let end = self.cols.min(start + BLOCK);
            let each = rows.chunks_mut(self.cols).zip(patterns.chunks_mut(self.cols / 4));
            for ((row, patterns), (errors, loss)) in each.zip(errors.iter_mut().zip(&mut losses)) {
                *errors = sweep_block(self, start, &mut row[start..end], &mut patterns[start / 4..end / 4]);
                *loss += errors.iter().map(|&e| f64::from(e) * f64::from(e)).sum::<f64>();
            }
            let made_up = errors.iter().map(|errors| Terms::new(&errors.map(|error| -error))).collect::<Vec<_>>();
            terms::add(&self.upper[start * self.cols..end * self.cols], &made_up, self.cols, end, rows);
        }
        losses.iter_mut().for_each(|loss| *loss *= 0.5);
        losses
    }

    /// Row `row` of the factor, from `column` on.
    #[inline(always)]
    fn upper(&self, row: usize, column: usize) -> &[f32] {
        &self.upper[row * self.cols + column..(row + 1) * self.cols]
    }
}

/// Chooses and updates the columns of one row that begin at `start`.
#[multiversion(targets("x86_64+avx2+fma+f16c"))]
fn sweep_block(factor: &Cholesky<'_>, start: usize, w: &mut [f32], patterns: &mut [u8]) -> Errors {
    let mut errors = [0.0; BLOCK];
    for (group, index) in patterns.iter_mut().enumerate() {
        let first = 4 * group;
        let score = std::array::from_fn(|j| (w[first + j] * factor.scale[start + first + j]).abs());
        let pattern = Pattern::from_code(code_of_largest(score));
        *index = pattern.map_or(Pattern::POISON, Pattern::index);
        for j in 0..4 {
            let (at, scale) = (first + j, factor.scale[start + first + j]);
            match pattern {
                Some(pattern) if pattern.keeps(j) => {
                    w[at] = if scale == 0.0 { 0.0 } else { w[at] };
                    continue;
                }
                Some(_) => (errors[at], w[at]) = (w[at] * scale, 0.0),
                None => (errors[at], w[at]) = (f32::NAN, f32::NAN),
            }
            let error = errors[at];
            if error != 0.0 {
                for (w, u) in w[at + 1..].iter_mut().zip(factor.upper(start + at, start + at + 1)) {
                    *w = (-error).mul_add(*u, *w);
                }
            }
        }
    }
    errors
}
