//! Compressed weights: dense or masked weights to kept values and codes, in every layout that sparse tensor cores read,
//! and back.
//!
//! A weight `W [N, K]` of which every group keeps half its values is, in **canonical form**, the kept values `[N, K/2]`
//! row-major and a code a group, row-major, two a byte, the even one in the low half: [`Compressed`]. A group is four
//! consecutive values of a row and keeps two; `f32` values, which tensor cores read as tf32, form groups of two and
//! keep one ([`Sparsity`]). Every other [`Layout`] holds the same codes elsewhere; [`layout`] has the table.
//!
//! | operation | takes | writes |
//! | --- | --- | --- |
//! | [`Pack`] | a dense weight, and what to keep: given codes, the largest, or what is not zero | values and metadata in a layout, codes |
//! | [`Unpack`] | values and metadata in a layout | the dense weight |
//! | [`Reorder`] | metadata in a layout | the same in another |
//! | [`first_violation`](cpu::first_violation) | a dense weight | the first group that keeps too many |
//! | [`convert`] | masks, pattern indices, codes | one another |
//!
//! ```
//! use twofour::compress::{Compressed, Layout};
//! use twofour::{Shape, f16};
//!
//! # fn main() -> twofour::Result<()> {
//! let shape = Shape::new(32, 64);
//! let weight: Vec<f16> = (0..shape.weights()).map(|i| f16::from_f32((i % 11) as f32 - 5.0)).collect();
//! let compressed = Compressed::by_magnitude(shape, &weight)?;
//! // The metadata operand of `mma.sp` kernels and CUTLASS on Ampere; or all in the one buffer that cuSPARSELt takes.
//! let metadata = compressed.metadata(Layout::CutlassSm80)?;
//! let buffer = compressed.buffer(Layout::CusparseltMma)?;
//! assert_eq!((metadata.len(), buffer.len()), (256, 32 * 32 * 2 + 512));
//! assert_eq!(Compressed::from_layout(shape, Layout::CutlassSm80, compressed.values(), &metadata)?, compressed);
//! # Ok(())
//! # }
//! ```
//!
//! # What is kept
//!
//! **Given codes** decide alone: a zero that is kept is stored, `-0.0` as it is, so that metadata always follows the
//! mask and a weight that is zero today keeps its slot. A code that is not legal (a mask of NaN logits has 0) is an
//! error.
//!
//! **The largest** ([`Pack::by_magnitude`]): the two values of the largest magnitude (one of two for `f32`); of equal
//! ones the lower position, so that a group of zeros keeps its first two. A NaN is larger than infinity, and of two NaN
//! the one with the larger payload; zeros of both signs are equal.
//!
//! **What is not zero** ([`Pack::sparse`]): the weight must be 2:4 already, which is checked. NaN, infinities and
//! subnormal numbers are not zero, `-0.0` is. A group with fewer values than it may keep also keeps the **highest**
//! free positions:
//!
//! | group | `0000` | `x000` | `0x00` | `00x0` | `000x` | two or more |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | keeps | 2, 3 | 0, 3 | 1, 3 | 2, 3 | 2, 3 | the two; more are an error |
//!
//! That is cuSPARSELt's choice, so that whole buffers can be compared with the library's; PyTorch's conversion differs
//! for `x000` (0, 2) and `0x00` (1, 2), CUTLASS' compressor for `000x` and for `0000`, where it emits a code that is
//! illegal. All decompress to the same numbers.
//!
//! Decompressing copies kept values bit for bit and makes every other `+0.0`.
//!
//! # Executors
//!
//! [`cpu`] runs on rayon's pool. Outputs are overwritten; after an error their contents are unspecified.

use crate::error::{Error, Result};
use crate::mask::length;
use crate::shape::Shape;
use crate::space::Space;

mod canonical;
pub mod convert;
pub mod cpu;
pub mod layout;
mod value;

pub use canonical::Compressed;
pub use layout::{Evidence, Layout, MinTileK, Sizes};
pub use value::{Flag, Sparsity, Value, ValueType};

/// Which values [`Pack`] keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Choice<C> {
    /// Those that codes name.
    Codes(C),
    /// The largest.
    Magnitude,
    /// Those that are not zero.
    NonZeros,
}

/// Arguments of compression.
///
/// Shapes: dense `[N, K]`; codes N·K/8 bytes (`f32`: N·K/4), rounded up; values and metadata as [`Layout::sizes`] says.
/// Padding is overwritten too: values with zeros, metadata with codes E. All row-major, all outputs overwritten.
#[derive(Debug)]
pub struct Pack<'a, S: Space, T: Value> {
    pub(crate) shape: Shape,
    pub(crate) layout: Layout,
    pub(crate) choice: Choice<S::Ref<'a, u8>>,
    pub(crate) dense: S::Ref<'a, T>,
    pub(crate) values: Option<S::Mut<'a, T>>,
    pub(crate) metadata: Option<S::Mut<'a, u8>>,
    pub(crate) codes: Option<S::Mut<'a, u8>>,
}

impl<'a, S: Space, T: Value> Pack<'a, S, T> {
    fn new(shape: Shape, dense: S::Ref<'a, T>, choice: Choice<S::Ref<'a, u8>>) -> Self {
        Self { shape, layout: Layout::Plain, choice, dense, values: None, metadata: None, codes: None }
    }

    /// Keeps what these codes (canonical) name.
    #[must_use]
    pub fn with_codes(shape: Shape, dense: S::Ref<'a, T>, codes: S::Ref<'a, u8>) -> Self {
        Self::new(shape, dense, Choice::Codes(codes))
    }

    /// Keeps the largest of each group.
    #[must_use]
    pub fn by_magnitude(shape: Shape, dense: S::Ref<'a, T>) -> Self {
        Self::new(shape, dense, Choice::Magnitude)
    }

    /// Keeps what is not zero; the weight must be 2:4.
    #[must_use]
    pub fn sparse(shape: Shape, dense: S::Ref<'a, T>) -> Self {
        Self::new(shape, dense, Choice::NonZeros)
    }

    /// The layout of values and metadata; [`Layout::Plain`] unless this is called.
    #[must_use]
    pub fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// Writes kept values.
    #[must_use]
    pub fn values(mut self, values: S::Mut<'a, T>) -> Self {
        self.values = Some(values);
        self
    }

    /// Writes the codes in the layout.
    #[must_use]
    pub fn metadata(mut self, metadata: S::Mut<'a, u8>) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// Writes the codes, canonical.
    #[must_use]
    pub fn codes(mut self, codes: S::Mut<'a, u8>) -> Self {
        self.codes = Some(codes);
        self
    }

    /// Checks the layout and lengths; every executor does it first.
    ///
    /// # Errors
    /// As [`Layout::sizes`]; [`Error::Length`], and [`Error::Missing`] if nothing is to be written.
    pub fn check(&self) -> Result<()> {
        let sizes = self.layout.sizes(self.shape, T::TYPE)?;
        let codes = T::TYPE.sparsity().packed_codes(self.shape);
        length("dense", Some(&self.dense), self.shape.weights())?;
        if let Choice::Codes(given) = &self.choice {
            length("codes", Some(given), codes)?;
        }
        length("values", self.values.as_ref(), sizes.values)?;
        length("metadata", self.metadata.as_ref(), sizes.metadata)?;
        length("codes", self.codes.as_ref(), codes)?;
        if self.values.is_none() && self.metadata.is_none() && self.codes.is_none() {
            return Err(Error::Missing { what: "compression", missing: "no output was given to write it to" });
        }
        Ok(())
    }
}

/// Arguments of decompression.
///
/// Shapes: dense `[N, K]`; values and metadata as [`Layout::sizes`] says, padding included but not read. `dense` is
/// overwritten.
#[derive(Debug)]
pub struct Unpack<'a, S: Space, T: Value> {
    pub(crate) shape: Shape,
    pub(crate) layout: Layout,
    pub(crate) values: S::Ref<'a, T>,
    pub(crate) metadata: S::Ref<'a, u8>,
    pub(crate) dense: S::Mut<'a, T>,
}

impl<'a, S: Space, T: Value> Unpack<'a, S, T> {
    /// Of values and metadata in this layout.
    #[must_use]
    pub fn new(
        shape: Shape,
        layout: Layout,
        values: S::Ref<'a, T>,
        metadata: S::Ref<'a, u8>,
        dense: S::Mut<'a, T>,
    ) -> Self {
        Self { shape, layout, values, metadata, dense }
    }

    /// Checks the layout and lengths; every executor does it first.
    ///
    /// # Errors
    /// As [`Layout::sizes`]; [`Error::Length`].
    pub fn check(&self) -> Result<()> {
        let sizes = self.layout.sizes(self.shape, T::TYPE)?;
        length("values", Some(&self.values), sizes.values)?;
        length("metadata", Some(&self.metadata), sizes.metadata)?;
        length("dense", Some(&self.dense), self.shape.weights())
    }
}

/// Arguments of taking metadata from a layout to another: to or from [`Layout::Plain`], that is packing and unpacking
/// codes.
///
/// Both are as long as [`Layout::sizes`] says; padding is not read, and is overwritten with codes E.
#[derive(Debug)]
pub struct Reorder<'a, S: Space> {
    pub(crate) shape: Shape,
    pub(crate) value_type: ValueType,
    pub(crate) from: (Layout, S::Ref<'a, u8>),
    pub(crate) to: (Layout, S::Mut<'a, u8>),
}

impl<'a, S: Space> Reorder<'a, S> {
    /// From one layout to another, for values of this type.
    #[must_use]
    pub fn new(
        shape: Shape,
        value_type: ValueType,
        from: (Layout, S::Ref<'a, u8>),
        to: (Layout, S::Mut<'a, u8>),
    ) -> Self {
        Self { shape, value_type, from, to }
    }

    /// Checks layouts and lengths; every executor does it first.
    ///
    /// # Errors
    /// As [`Layout::sizes`]; [`Error::Length`].
    pub fn check(&self) -> Result<()> {
        let bytes = |layout: Layout| Ok(layout.sizes(self.shape, self.value_type)?.metadata);
        length("metadata (from)", Some(&self.from.1), bytes(self.from.0)?)?;
        length("metadata (to)", Some(&self.to.1), bytes(self.to.0)?)
    }
}

/// The error that names a group by its number in the whole weight.
fn illegal(what: &'static str, sparsity: Sparsity, shape: Shape, group: usize, value: u8) -> Error {
    let [row, group] = in_row(sparsity, shape, group);
    Error::IllegalCode { what, row, group, value, legal: sparsity.legal() }
}

/// The same for a group that keeps another number of values.
fn not_two_four(sparsity: Sparsity, shape: Shape, group: usize, kept: u32) -> Error {
    let [row, group] = in_row(sparsity, shape, group);
    Error::NotTwoFour { row, group, kept, width: sparsity.width() as u32 }
}

fn in_row(sparsity: Sparsity, shape: Shape, group: usize) -> [u64; 2] {
    let row_groups = sparsity.row_groups(shape.cols).max(1);
    [(group / row_groups) as u64, (group % row_groups) as u64]
}
