//! The CPU executor of `sparse`, on all threads of rayon's pool. Results do not depend on how many threads there are.
//! It allocates what it works in, and leaves a workspace and a dense copy alone.
//!
//! For few tokens, and for `i8`, rows of the weight are walked over as they are compressed. For many, pieces of the
//! weight are decompressed, and the crate `gemm` multiplies: it multiplies by zeros too, but is so much faster on what
//! lies in order. Tokens with a NaN or an infinity still go the first way, for that `0 · ∞` is not computed.

use super::{Factor, Form, Multiply, Weight};
use crate::compress::{Layout, Reorder, Sparsity, check_codes};
use crate::error::{Error, Result, unsupported};
use crate::pass::{Checked, Pass};
use crate::shape::Shape;
use crate::space::{Host, HostSpace};
use rayon::prelude::*;

mod panels;
mod rows;

/// From so many tokens on, decompressing costs less than it saves.
const MANY: usize = 24;

/// A weight whose codes are row-major, and legal.
struct Canonical<'a, T> {
    shape: Shape,
    /// Rows lie `pitch` apart.
    values: &'a [T],
    pitch: usize,
    codes: &'a [u8],
}

/// Writes `Y = X Wᵀ`, plus the bias if there is one.
pub(super) fn multiply<S: HostSpace, T: Factor>(pass: Multiply<'_, S, T>) -> Result<()> {
    let Multiply { problem, weight, x, bias, y, .. } = pass;
    // Columns are counted in 32 bits.
    if u32::try_from(problem.shape.cols).is_err() {
        return Err(Error::Overflow { what: "a row of the weight", rows: 1, cols: problem.shape.cols as u64 });
    }
    let (x, bias, y) = (S::slice(x), bias.map(S::slice), S::slice_mut(y));
    let mut own = Vec::new();
    let weight = canonical(weight.share(), &mut own)?;
    let (tokens, k) = (problem.tokens, problem.shape.cols);
    if !T::IN_F32 || tokens < MANY {
        rows::multiply(&weight, x, bias, y, 0..tokens);
        return Ok(());
    }
    panels::multiply(&weight, x, bias, y);
    let special = |token: &usize| x[token * k..(token + 1) * k].iter().any(|x| !x.is_finite());
    let special: Vec<usize> = (0..tokens).into_par_iter().filter(special).collect();
    rows::multiply(&weight, x, bias, y, special.into_iter());
    Ok(())
}

/// The weight with its codes in order, checked; in new memory if they are in another.
fn canonical<'c, S: HostSpace, T: Factor>(weight: Weight<'c, S, T>, own: &'c mut Vec<u8>) -> Result<Canonical<'c, T>> {
    let shape = weight.shape;
    let (layout, values, metadata) = match weight.form {
        Form::Packed { layout, values, metadata } => (layout, S::slice(values), S::slice(metadata)),
        Form::Library { .. } => {
            return Err(unsupported("the CPU", "this weight was packed for cuSPARSELt, which alone reads it"));
        }
    };
    let (sparsity, sizes) = (Sparsity::of(T::DTYPE), layout.sizes(shape, T::DTYPE)?);
    let codes = if layout == Layout::Plain {
        check_codes(sparsity, shape, metadata)?;
        metadata
    } else {
        own.resize(sparsity.packed_codes(shape), 0);
        let to = (Layout::Plain, own.as_mut_slice());
        Pass::execute(Checked::part(Reorder::<Host>::new(shape, T::DTYPE, (layout, metadata), to)))?;
        own.as_slice()
    };
    Ok(Canonical { shape, values, pitch: sizes.pitch, codes })
}

impl<T: Factor> Canonical<'_, T> {
    /// Kept values of a row.
    fn values(&self, row: usize) -> &[T] {
        &self.values[row * self.pitch..][..self.shape.cols / 2]
    }

    /// Columns of the values that these groups of a row keep, in order, as many as `columns` has room for.
    fn columns(&self, row: usize, first_group: usize, columns: &mut [u32]) {
        let sparsity = Sparsity::of(T::DTYPE);
        let first = row * sparsity.row_groups(self.shape.cols) + first_group;
        let start = (first_group * sparsity.width()) as u32;
        match sparsity {
            Sparsity::TwoFour => spread::<2, 4>(self.codes, first, start, &FOURS, columns),
            Sparsity::OneTwo => spread::<1, 2>(self.codes, first, start, &TWOS, columns),
        }
    }
}

/// Positions that a byte's two codes keep of four values each.
const FOURS: [[u8; 4]; 256] = {
    let mut table = [[0; 4]; 256];
    let mut byte = 0;
    while byte < 256 {
        let [even, odd] = [byte as u8 & 15, byte as u8 >> 4];
        table[byte] = [even & 3, even >> 2, 4 + (odd & 3), 4 + (odd >> 2)];
        byte += 1;
    }
    table
};

/// Positions that they keep of two values each: a code names the halves of the one that is kept.
const TWOS: [[u8; 2]; 256] = {
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [byte as u8 >> 1 & 1, 2 + (byte as u8 >> 5 & 1)];
        byte += 1;
    }
    table
};

/// Columns from the code `first` on, `KEPT` a group and `PAIR` a byte, counted from `start`.
fn spread<const KEPT: usize, const PAIR: usize>(
    codes: &[u8],
    first: usize,
    mut start: u32,
    table: &[[u8; PAIR]; 256],
    mut columns: &mut [u32],
) {
    let width = 2 * KEPT as u32;
    // A row need not begin with a byte.
    if !first.is_multiple_of(2) && columns.len() >= KEPT {
        let (odd, rest) = columns.split_at_mut(KEPT);
        let kept = &table[usize::from(codes[first / 2])][KEPT..];
        odd.iter_mut().zip(kept).for_each(|(column, at)| *column = start + u32::from(*at) - width);
        (start, columns) = (start + width, rest);
    }
    let (pairs, last) = columns.as_chunks_mut::<PAIR>();
    let bytes = &codes[first.div_ceil(2).min(codes.len())..];
    for ((columns, byte), pair) in pairs.iter_mut().zip(bytes).zip(0..) {
        let kept = table[usize::from(*byte)];
        *columns = std::array::from_fn(|i| start + 2 * width * pair + u32::from(kept[i]));
    }
    let start = start + 2 * width * pairs.len() as u32;
    if let Some(byte) = bytes.get(pairs.len()) {
        last.iter_mut().zip(table[usize::from(*byte)]).for_each(|(column, at)| *column = start + u32::from(at));
    }
}
