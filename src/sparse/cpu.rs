//! The CPU executor of `sparse`, on all threads of rayon's pool. Results do not depend on how many threads there are. It
//! allocates what it works in, and leaves a work space and a dense copy alone.
//!
//! For few tokens, and for `i8`, rows of the weight are walked over as they are compressed. For many, pieces of the weight
//! are decompressed, and the crate `gemm` multiplies: it multiplies by zeros too, but is so much faster on what lies in
//! order. Tokens with a NaN or an infinity still go the first way, for that `0 · ∞` is not computed.

use super::Form;
use crate::compress::cpu::{Reorder, check_codes, reorder_into};
use crate::compress::{Layout, Sparsity};
use crate::element::Factor;
use crate::error::{Error, Result};
use crate::shape::Shape;
use crate::space::Host;
use rayon::prelude::*;

mod panels;
mod rows;

/// [`super::Weight`] over slices.
pub type Weight<'a, T> = super::Weight<'a, Host, T>;
/// [`super::Multiply`] over slices.
pub type Multiply<'w, 'a, T> = super::Multiply<'w, 'a, Host, T>;

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
///
/// # Errors
/// What [`check`](super::Multiply::check) finds; [`Error::IllegalCode`] with the first group whose code is not legal;
/// [`Error::Path`] for a weight that cuSPARSELt alone can read; [`Error::Overflow`] for rows of 2³² columns and more.
pub fn multiply_into<T: Factor>(args: Multiply<'_, '_, T>) -> Result<()> {
    args.check()?;
    // Columns are counted in 32 bits.
    if u32::try_from(args.problem.shape.cols).is_err() {
        return Err(Error::Overflow { what: "a row of the weight", rows: 1, cols: args.problem.shape.cols as u64 });
    }
    let mut own = Vec::new();
    let weight = canonical(&args.weight, &mut own)?;
    let (tokens, k) = (args.problem.tokens, args.problem.shape.cols);
    if !T::IN_F32 || tokens < MANY {
        rows::multiply(&weight, args.x, args.bias, args.y, 0..tokens);
        return Ok(());
    }
    panels::multiply(&weight, args.x, args.bias, args.y);
    let special = |token: &usize| args.x[token * k..(token + 1) * k].iter().any(|x| !x.is_finite());
    let special: Vec<usize> = (0..tokens).into_par_iter().filter(special).collect();
    rows::multiply(&weight, args.x, args.bias, args.y, special.into_iter());
    Ok(())
}

/// `Y = X Wᵀ`, plus the bias if there is one, `[T, N]`, in a new vector.
///
/// # Errors
/// As [`multiply_into`].
pub fn multiply<T: Factor>(
    weight: Weight<'_, T>,
    tokens: usize,
    x: &[T],
    bias: Option<&[T::Output]>,
) -> Result<Vec<T::Output>> {
    let problem = crate::dense::Problem::new(tokens, weight.shape);
    // Before anything is allocated.
    problem.check()?;
    crate::check::length("x", Some(&x), problem.inputs())?;
    let mut y = vec![bytemuck::Zeroable::zeroed(); problem.outputs()];
    let args = Multiply::new(weight, tokens, x, &mut y);
    multiply_into(match bias {
        Some(bias) => args.bias(bias),
        None => args,
    })?;
    Ok(y)
}

/// The weight with its codes in order, checked; in new memory if they are in another.
fn canonical<'c, T: Factor>(weight: &'c Weight<'_, T>, own: &'c mut Vec<u8>) -> Result<Canonical<'c, T>> {
    let shape = weight.shape;
    let (layout, values, metadata) = match weight.form {
        Form::Packed { layout, values, metadata } => (layout, values, metadata),
        #[cfg(feature = "cuda")]
        Form::Library { .. } => {
            return Err(crate::error::path_error(
                "the CPU",
                "this weight was packed for cuSPARSELt, which alone reads it",
            ));
        }
    };
    let (sparsity, sizes) = (Sparsity::of(T::DTYPE), layout.sizes(shape, T::DTYPE)?);
    let codes = if layout == Layout::Plain {
        check_codes(sparsity, shape, metadata)?;
        metadata
    } else {
        own.resize(sparsity.packed_codes(shape), 0);
        reorder_into(Reorder::new(shape, T::DTYPE, (layout, metadata), (Layout::Plain, own)))?;
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
