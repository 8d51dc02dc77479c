//! The CPU executor of `sparse`, on all threads of rayon's pool. Results do not depend on how many threads there are.
//! It allocates what it works in, and leaves a workspace and a dense copy alone.
//!
//! Kept values are multiplied by the activations of their columns and by no others: nothing is decompressed but
//! integers, for whom a zero does not matter. For few tokens the lanes of a vector are kept values of a row ([`few`]),
//! for many they are tokens ([`many`]). The order of sums is a matter of the number of tokens, of K and of the type, and
//! they are fused multiply-adds on every machine: results are the same bits whatever vectors it has ([`vector`]). One
//! without fused multiply-add is slow.

use super::{Factor, Form, Multiply, Weight};
use crate::compress::{Layout, Reorder, Sparsity, check_codes};
use crate::element::factor::arithmetic::Arithmetic;
use crate::error::{Error, Result, unsupported};
use crate::pass::{Checked, Pass};
use crate::shape::Shape;
use crate::space::{Host, HostSpace};
use std::ops::Range;
use vector::Path;

mod few;
mod integers;
mod many;
pub(crate) mod rows;
#[cfg(test)]
mod tests;
mod vector;

/// Up to so many tokens are few.
const FEW: usize = 16;

/// A weight whose codes are row-major, every row's in whole bytes.
struct Canonical<'a, T> {
    shape: Shape,
    /// Rows lie `pitch` apart.
    values: &'a [T],
    pitch: usize,
    codes: &'a [u8],
    /// Whether they are known to be legal.
    is_checked: bool,
}

/// Writes `Y = X Wᵀ`, plus the bias if there is one.
pub(super) fn multiply<S: HostSpace, T: Factor>(pass: Multiply<'_, S, T>) -> Result<()> {
    let Multiply { problem, weight, x, bias, y, .. } = pass;
    // Columns are counted in 32 bits.
    if u32::try_from(problem.shape.cols).is_err() {
        return Err(Error::Overflow { what: "a row of the weight", rows: 1, cols: problem.shape.cols as u64 });
    }
    let (x, bias, y) = (S::slice(x), bias.map(S::slice), S::slice_mut(y));
    let mut own = [Vec::new(), Vec::new()];
    let weight = canonical(weight.share(), &mut own)?;
    if !make(Product { path: Path::best(), weight: &weight, x, bias, y }) {
        check_codes(Sparsity::of(T::DTYPE), weight.shape, weight.codes)?;
    }
    Ok(())
}

/// What is to be made. Those that take it write all of `y`, of which no size is zero but for `make`,
/// and are false if a code is not legal.
struct Product<'a, T: Factor> {
    path: Path,
    weight: &'a Canonical<'a, T>,
    x: &'a [T],
    bias: Option<&'a [T::Output]>,
    y: &'a mut [T::Output],
}

/// Of any sizes. False also if there was no code to look at.
fn make<T: Factor>(product: Product<'_, T>) -> bool {
    let Product { weight, x, bias, .. } = product;
    let Shape { rows, cols, .. } = weight.shape;
    if product.y.is_empty() {
        return weight.is_checked;
    }
    if cols == 0 {
        for y in product.y.chunks_mut(rows) {
            y.iter_mut().enumerate().for_each(|(row, y)| {
                *y = finish::<T, Sum<T>>(bytemuck::Zeroable::zeroed(), bias.map(|bias| bias[row]))
            });
        }
        return true;
    }
    match (T::IN_F32, x.len() / cols <= FEW, Sparsity::of(T::DTYPE)) {
        (false, ..) => integers::multiply(product),
        (true, true, Sparsity::TwoFour) => few::multiply::<T, 4>(product),
        (true, true, Sparsity::OneTwo) => few::multiply::<T, 8>(product),
        (true, false, Sparsity::TwoFour) => many::multiply::<T, 4>(product),
        (true, false, Sparsity::OneTwo) => many::multiply::<T, 8>(product),
    }
}

/// The weight with its codes in order, checked; in new memory if they are in another, or if rows share a byte.
fn canonical<'c, S: HostSpace, T: Factor>(
    weight: Weight<'c, S, T>,
    [ordered, apart]: &'c mut [Vec<u8>; 2],
) -> Result<Canonical<'c, T>> {
    let shape = weight.shape;
    let (layout, values, metadata) = match weight.form {
        Form::Packed { layout, values, metadata } => (layout, S::slice(values), S::slice(metadata)),
        Form::Library { .. } => {
            return Err(unsupported("the CPU", "this weight was packed for cuSPARSELt, which alone reads it"));
        }
    };
    let (sparsity, sizes) = (Sparsity::of(T::DTYPE), layout.sizes(shape, T::DTYPE)?);
    let groups = sparsity.row_groups(shape.cols);
    // Reordering checks them.
    let is_checked = layout != Layout::Plain || !groups.is_multiple_of(2);
    let mut codes = if layout == Layout::Plain {
        if is_checked {
            check_codes(sparsity, shape, metadata)?;
        }
        metadata
    } else {
        ordered.resize(sparsity.packed_codes(shape), 0);
        let to = (Layout::Plain, ordered.as_mut_slice());
        Pass::execute(Checked::part(Reorder::<Host>::new(shape, T::DTYPE, (layout, metadata), to)))?;
        ordered.as_slice()
    };
    if !groups.is_multiple_of(2) {
        let code = |group: usize| codes[group / 2] >> (group % 2 * 4) & 15;
        let pair =
            |first: usize, of_row: usize| code(first) | if of_row + 1 < groups { code(first + 1) << 4 } else { 0 };
        apart.extend(
            (0..shape.rows).flat_map(|row| (0..groups).step_by(2).map(move |group| pair(row * groups + group, group))),
        );
        codes = apart;
    }
    Ok(Canonical { shape, values, pitch: sizes.pitch, codes, is_checked })
}

impl<T: Factor> Canonical<'_, T> {
    /// Kept values of a row.
    #[inline(always)]
    fn values(&self, row: usize) -> &[T] {
        &self.values[row * self.pitch..][..self.shape.cols / 2]
    }

    /// Its codes.
    #[inline(always)]
    fn codes(&self, row: usize) -> &[u8] {
        let bytes = Sparsity::of(T::DTYPE).row_groups(self.shape.cols).div_ceil(2);
        &self.codes[row * bytes..][..bytes]
    }

    /// Whether the codes of some rows are legal.
    #[inline(always)]
    fn is_legal(&self, rows: Range<usize>) -> bool {
        if self.is_checked {
            return true;
        }
        let sparsity = Sparsity::of(T::DTYPE);
        let bytes = sparsity.row_groups(self.shape.cols).div_ceil(2);
        is_legal(sparsity, &self.codes[rows.start * bytes..rows.end * bytes])
    }
}

/// Whether codes are, two to a byte.
#[inline(always)]
fn is_legal(sparsity: Sparsity, codes: &[u8]) -> bool {
    let (words, last) = codes.as_chunks::<8>();
    // Bits of codes that are not.
    let illegal = |word: u64| match sparsity {
        // The first position is less than the second.
        Sparsity::TwoFour => {
            let [low, high] = [word, word >> 1];
            let less = !high & high >> 2 | !(high ^ high >> 2) & !low & low >> 2;
            !less & 0x1111_1111_1111_1111
        }
        // 4 and E.
        Sparsity::OneTwo => {
            let word = word ^ 0x4444_4444_4444_4444;
            word & 0x5555_5555_5555_5555 | (word ^ word >> 2) & 0x2222_2222_2222_2222
        }
    };
    let words = words.iter().fold(0, |all, word| all | illegal(u64::from_le_bytes(*word)));
    words | last.iter().fold(0, |all, byte| all | illegal(u64::from(*byte) | 0x4444_4444_4444_4400)) == 0
}

/// Zeros behind what there is.
fn padded<T: bytemuck::Zeroable + Copy, const N: usize>(from: &[T]) -> [T; N] {
    let mut to = [T::zeroed(); N];
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    to
}

/// `Y` of `n` columns in parts of so many, for each the rows' slices.
fn bands<O>(y: &mut [O], n: usize, width: usize) -> Vec<Vec<&mut [O]>> {
    let tokens = y.len() / n;
    let mut bands: Vec<Vec<_>> = (0..n.div_ceil(width)).map(|_| Vec::with_capacity(tokens)).collect();
    for y in y.chunks_mut(n) {
        bands.iter_mut().zip(y.chunks_mut(width)).for_each(|(band, y)| band.push(y));
    }
    bands
}

type Sum<T> = <T as Arithmetic<<T as Factor>::Output>>::Sum;

/// A sum, which is of the type's own, with the bias, rounded.
#[inline(always)]
fn finish<T: Factor, S: bytemuck::Pod>(sum: S, bias: Option<T::Output>) -> T::Output {
    let sum: Sum<T> = bytemuck::cast(sum);
    T::finish(bias.map_or(sum, |bias| T::add(sum, T::bias(bias))))
}
