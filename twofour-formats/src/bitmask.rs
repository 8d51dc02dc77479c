//! `sparse-24-bitmask` and the older `sparse-bitmask`, retired formats of `compressed-tensors`: kept values, and a bit
//! for each position. [`Reader`](super::Reader) finds such weights in files; [`from_parts`] takes them from slices.
//!
//! The format's own writer keeps exactly two of every group of four, but the format does not promise it. Here a group
//! that keeps **more** is [`Error::NotTwoFour`]. One that keeps **fewer** is filled up with
//! zeros at its highest free positions, as [`compress`](twofour::compress) fills them. The number of values must be the
//! number of bits that are set, and values are in the order of the bits; in a file they are `[N, K/2]`, or a list. Bits
//! beyond the last column are ignored.
//!
//! **`f32` values** are two of four in such files, and one of two for sparse tensor cores: a weight of `f32` can be
//! read as compressed only if every group of four keeps one of each half, and is an error otherwise.
//! [`Reader::dense`](super::Reader::dense) reads it all the same, to be converted to a 16-bit type.
//!
//! **`sparse-bitmask`** has one more tensor, `row_offsets`: how many values the rows before have, which the bits say as
//! well, so that it is not looked at here, nor by the format's own reader. It keeps as many of a group as it likes, and
//! rows may be of any length: [`Reader::dense`](super::Reader::dense) reads all of them, and as compressed weights
//! those are read that are 2:4.
//!
//! Source: `compressors/sparse_compressors/sparse_24_bitmask.py`, `sparse_bitmask.py` and `pack_bitmasks` in
//! `utils/helpers.py` of compressed-tensors, before their removal: `numpy.packbits(mask, axis=-1, bitorder="little")`.

use super::dtype::TensorType;
use super::header::{Header, TensorInfo};
use super::record::{Encoding, WeightInfo};
use super::source::Source;
use super::{in_weight, wrong};
use crate::check::{length, not_two_four, zeros};
use crate::error::Result;
use twofour::compress::{Compressed, Sparsity};
use twofour::{Element, Error, Shape};

pub(super) const PARTS: [&str; 3] = ["compressed", "bitmask", "shape"];
/// What `sparse-bitmask` has besides.
pub(super) const OFFSETS: &str = "row_offsets";
const WEIGHT: &str = "weight";

/// A tensor of a weight.
pub(super) fn part(weight: &str, part: &str) -> String {
    format!("{}{part}", weight.strip_suffix(WEIGHT).unwrap_or(weight))
}

/// The module (`a.b.`, with its dot) whose bitmask this tensor is, if it is one of a whole weight.
pub(super) fn module<'a>(header: &Header, tensor: &'a TensorInfo) -> Option<&'a str> {
    let module = tensor.name.strip_suffix("bitmask").filter(|module| module.is_empty() || module.ends_with('.'))?;
    let there = |part: &str| header.tensor(&format!("{module}{part}")).is_some();
    PARTS.into_iter().all(there).then_some(module)
}

/// Checks the tensors of a module, and reads the weight's shape.
pub(super) fn info(source: &Source<'_>, header: &Header, module: &str) -> Result<WeightInfo> {
    let name = format!("{module}{WEIGHT}");
    let wrong = |problem: String| wrong(source.label(), format_args!("weight `{name}`: {problem}"));
    let tensor = |part: &str| {
        let part = format!("{module}{part}");
        header.tensor(&part).ok_or_else(|| wrong(format!("there is no tensor `{part}`")))
    };
    let [compressed, bitmask, shape] = [tensor("compressed")?, tensor("bitmask")?, tensor("shape")?];
    let Some(value_type) = compressed.dtype.value_type() else {
        return Err(wrong(format!("values of type {} are not supported", compressed.dtype)));
    };
    if shape.dtype != TensorType::I64 || shape.bytes() != 16 {
        return Err(wrong(format!("`{}` is {} {:?}, not two I64", shape.name, shape.dtype, shape.shape)));
    }
    let sizes = source.read(shape.range.clone())?;
    let mut sizes = sizes.chunks_exact(8).map(|bytes| {
        let size = bytes.iter().rev().fold(0, |size, &byte| size << 8 | u64::from(byte));
        usize::try_from(size).ok().filter(|&size| size <= isize::MAX as usize)
    });
    let (Some(Some(rows)), Some(Some(cols))) = (sizes.next(), sizes.next()) else {
        return Err(wrong(format!("`{}` holds a size that is negative or too large", shape.name)));
    };
    let weight = Shape::new(rows, cols);
    let older = header.tensor(&format!("{module}{OFFSETS}")).is_some();
    // The older format has no groups.
    let grouped = if older { Shape::new(rows, cols.next_multiple_of(4)) } else { weight };
    grouped.check().map_err(|error| in_weight(source.label(), &name, error))?;
    if bitmask.dtype != TensorType::U8 || bitmask.shape != [rows, cols.div_ceil(8)] {
        let (dtype, got) = (bitmask.dtype, &bitmask.shape);
        return Err(wrong(format!("`{}` is {dtype} {got:?}, which is no bitmask of {rows} x {cols}", bitmask.name)));
    }
    // Where every group keeps two, which is all the format's writer makes; a list where some keep fewer.
    if (older || compressed.shape != [rows, cols / 2]) && compressed.shape.len() != 1 {
        let (part, got) = (&compressed.name, &compressed.shape);
        return Err(wrong(format!("`{part}` is {got:?}, and {rows} x {cols} keeps [{rows}, {}]", cols / 2)));
    }
    let encoding = if older { Encoding::SparseBitmask } else { Encoding::Bitmask };
    Ok(WeightInfo { name, shape: weight, value_type, encoding })
}

/// Whether a row keeps a column.
fn is_kept(bits: &[u8], column: usize) -> bool {
    bits.get(column / 8).is_some_and(|byte| byte >> (column % 8) & 1 == 1)
}

/// The dense weight of values, of so many bytes each, under a bitmask: bytes as in a file, zeros where no bit is set.
/// Any number of values a group, and any length of rows.
pub(super) fn dense(shape: Shape, size: usize, values: &[u8], bitmask: &[u8]) -> twofour::Result<Vec<u8>> {
    let mut dense = zeros("a dense weight", shape.rows.saturating_mul(shape.cols).saturating_mul(size))?;
    let (mut given, mut kept) = (values.chunks_exact(size), 0);
    let rows = bitmask.chunks_exact(shape.cols.div_ceil(8).max(1));
    for (to, bits) in dense.chunks_exact_mut((shape.cols * size).max(1)).zip(rows) {
        for (_, to) in to.chunks_exact_mut(size).enumerate().filter(|(column, _)| is_kept(bits, *column)) {
            kept += 1;
            if let Some(value) = given.next() {
                to.copy_from_slice(value);
            }
        }
    }
    length("values", values.len() / size, kept)?;
    Ok(dense)
}

/// Compresses values under a bitmask.
///
/// Shapes: `values`, as many as there are bits set (`[N, K/2]` where every group keeps two), in the order of the bits;
/// `bitmask` `[N, ceil(K/8)]`, the lowest bit of a byte first.
///
/// # Errors
/// As [`Shape::check`]; [`Error::Length`]; [`Error::NotTwoFour`] with the first group that keeps too many (of
/// `f32` values, the first group of two).
pub fn from_parts<T: Element>(shape: Shape, values: &[T], bitmask: &[u8]) -> twofour::Result<Compressed<T>> {
    shape.check()?;
    let row_bytes = shape.cols.div_ceil(8);
    let bytes = shape.rows.checked_mul(row_bytes);
    let overflow = Error::Overflow { what: "bitmask", rows: shape.rows as u64, cols: row_bytes as u64 };
    length("bitmask", bitmask.len(), bytes.ok_or(overflow)?)?;
    let groups = groups(Sparsity::of(T::DTYPE), shape, bitmask);
    // Before anything is allocated: the first bad group, and how many values there must be.
    let mut kept = 0;
    for (group, bits) in groups.clone().enumerate() {
        let count = bits.count_ones();
        if count as usize > Sparsity::of(T::DTYPE).kept() {
            return Err(not_two_four(Sparsity::of(T::DTYPE), shape, group, count));
        }
        kept += count as usize;
    }
    length("values", values.len(), kept)?;
    fill(shape, values, groups)
}

/// The bits of every group, row by row. Nothing of a weight without columns, whatever its rows.
fn groups(sparsity: Sparsity, shape: Shape, bitmask: &[u8]) -> impl Iterator<Item = u8> + Clone {
    let width = sparsity.width();
    let rows = bitmask.chunks_exact(shape.cols.div_ceil(8).max(1));
    rows.flat_map(move |row| {
        (0..shape.cols / width).map(move |group| {
            let column = group * width;
            row[column / 8] >> (column % 8) & ((1 << width) - 1)
        })
    })
}

/// Values and codes of groups that keep half or less.
fn fill<T: Element>(shape: Shape, values: &[T], groups: impl Iterator<Item = u8>) -> twofour::Result<Compressed<T>> {
    let sparsity = Sparsity::of(T::DTYPE);
    let mut given = values.iter().copied();
    let mut all = zeros("kept values", shape.weights() / 2)?;
    all.clear();
    let mut codes = vec![0; sparsity.packed_codes(shape)];
    for (group, bits) in groups.enumerate() {
        let filled = fill_up(sparsity, bits);
        for j in (0..sparsity.width()).filter(|j| filled >> j & 1 == 1) {
            let value = if bits >> j & 1 == 1 { given.next() } else { None };
            all.push(value.unwrap_or_else(T::zeroed));
        }
        // Every way to keep half a group has a code.
        codes[group / 2] |= sparsity.code_of_bits(filled).unwrap_or_default() << (4 * (group % 2));
    }
    Compressed::new(shape, all, codes)
}

/// The highest free positions, until half the group is kept.
fn fill_up(sparsity: Sparsity, bits: u8) -> u8 {
    let mut bits = bits;
    for j in (0..sparsity.width()).rev() {
        if (bits.count_ones() as usize) < sparsity.kept() {
            bits |= 1 << j;
        }
    }
    bits
}
