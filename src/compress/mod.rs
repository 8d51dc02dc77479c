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
//! | [`Pack`] | a dense weight, and what to keep: given codes, a mask from logits, the largest, or what is not zero | values and metadata in a layout, codes, the masked weight |
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
//! **A mask from logits** ([`Pack::from_logits`]): the codes that [`mask::Forward`](crate::mask::Forward) would write for
//! the same logits, hard or argmax, in the same pass and without a dense weight in between. Groups of four alone.
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
//! [`cpu`] runs on rayon's pool and, with the feature `cuda`, `cuda` on a device, on the same arguments in their own memory.
//! Outputs are overwritten; after an error their contents are unspecified.
//!
//! They differ in what becomes of a group that has no legal code: one of NaN logits, a given code that is not legal, a
//! weight that is not 2:4. The CPU's executor returns an error that names the first. On a device nobody is there to
//! return one to, and to `mma.sp` an illegal code is undefined behaviour; so such a group has **code 4, and NaN** for
//! all its values, kept or dense (0 for `i8`, which has none), so that products show it, and is counted in
//! [`faults`](Pack::faults) if asked. A [`Reorder`] has no values to show it: count there.

use crate::check::{length, sampled};
use crate::element::{DType, Element, Logit};
use crate::error::{Error, Result};
use crate::sample::{Kind, Sampling};
use crate::shape::{Shape, Shard};
use crate::space::Space;

mod canonical;
pub mod convert;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod launch;
pub mod layout;
mod value;

pub use canonical::Compressed;
pub use layout::{Evidence, Layout, MinTileK, Sizes};
pub use value::{DTYPES, Flag, Sparsity};

/// Which values [`Pack`] keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Choice<C, L> {
    /// Those that codes name.
    Codes(C),
    /// Those of the mask that logits make.
    Logits(Draw<L>),
    /// The largest.
    Magnitude,
    /// Those that are not zero.
    NonZeros,
}

impl<C, L> Choice<C, L> {
    /// Whether the values themselves decide.
    pub(crate) fn looks_at_values(&self) -> bool {
        matches!(self, Self::Magnitude | Self::NonZeros)
    }
}

/// How logits make a mask.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draw<L> {
    pub(crate) logits: L,
    pub(crate) kind: Kind,
    pub(crate) sampling: Sampling,
    pub(crate) shard: Shard,
}

/// Arguments of compression. `L` is the type of logits, where there are any.
///
/// Shapes: dense and masked `[N, K]`; logits `[N, K/4, 6]`; codes N·K/8 bytes (`f32`: N·K/4), rounded up; values and
/// metadata as [`Layout::sizes`] says. Padding is overwritten too: values with zeros, metadata with codes E. All
/// row-major, all outputs overwritten. On a device every operand starts on a 16-byte boundary.
#[derive(Debug)]
pub struct Pack<'a, S: Space, T: Element, L: Logit = f32> {
    pub(crate) shape: Shape,
    pub(crate) layout: Layout,
    pub(crate) choice: Choice<S::Ref<'a, u8>, S::Ref<'a, L>>,
    pub(crate) dense: S::Ref<'a, T>,
    pub(crate) values: Option<S::Mut<'a, T>>,
    pub(crate) metadata: Option<S::Mut<'a, u8>>,
    pub(crate) codes: Option<S::Mut<'a, u8>>,
    pub(crate) masked: Option<S::Mut<'a, T>>,
    pub(crate) faults: Option<S::Mut<'a, u32>>,
}

impl<'a, S: Space, T: Element> Pack<'a, S, T> {
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
}

impl<'a, S: Space, T: Element, L: Logit> Pack<'a, S, T, L> {
    /// Keeps what the mask of these logits keeps: `Hard` or `Argmax`, for a soft one keeps all.
    #[must_use]
    pub fn from_logits(
        shape: Shape,
        kind: Kind,
        sampling: Sampling,
        logits: S::Ref<'a, L>,
        dense: S::Ref<'a, T>,
    ) -> Self {
        let shard = Shard::whole(shape.cols as u64);
        Self::new(shape, dense, Choice::Logits(Draw { logits, kind, sampling, shard }))
    }

    /// Says that the weight is a slice of a larger one; its mask is then the slice of the larger one's. Without logits it
    /// changes nothing.
    #[must_use]
    pub fn shard(mut self, shard: Shard) -> Self {
        if let Choice::Logits(draw) = &mut self.choice {
            draw.shard = shard;
        }
        self
    }
}

impl<'a, S: Space, T: Element, L: Logit> Pack<'a, S, T, L> {
    fn new(shape: Shape, dense: S::Ref<'a, T>, choice: Choice<S::Ref<'a, u8>, S::Ref<'a, L>>) -> Self {
        let layout = Layout::Plain;
        Self { shape, layout, choice, dense, values: None, metadata: None, codes: None, masked: None, faults: None }
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

    /// Writes the dense weight that is left, `W∘M`: kept values bit for bit, all others `+0.0`.
    #[must_use]
    pub fn masked(mut self, masked: S::Mut<'a, T>) -> Self {
        self.masked = Some(masked);
        self
    }

    /// Counts the groups that have no legal code: their number is **added** to this one element, so that a count can go
    /// over many weights and be read once. The CPU's executor adds nothing: it returns an error.
    #[must_use]
    pub fn faults(mut self, faults: S::Mut<'a, u32>) -> Self {
        self.faults = Some(faults);
        self
    }

    /// Checks the layout, lengths, and how logits are to be read; every executor does it first.
    ///
    /// # Errors
    /// As [`Layout::sizes`]; [`Error::Length`]; [`Error::Missing`] if nothing is to be written; with logits
    /// [`Error::Shard`], [`Error::Scalar`], and [`Error::Path`] for a soft mask and for `f32`, of which one of two is kept.
    pub fn check(&self) -> Result<()> {
        let Self { shape, .. } = self;
        let sizes = self.layout.sizes(*shape, T::DTYPE)?;
        let codes = Sparsity::of(T::DTYPE).packed_codes(*shape);
        length("dense", Some(&self.dense), shape.weights())?;
        match &self.choice {
            Choice::Codes(given) => length("codes", Some(given), codes)?,
            Choice::Logits(draw) => draw.check(*shape, T::DTYPE)?,
            Choice::Magnitude | Choice::NonZeros => {}
        }
        length("values", self.values.as_ref(), sizes.values)?;
        length("metadata", self.metadata.as_ref(), sizes.metadata)?;
        length("codes", self.codes.as_ref(), codes)?;
        length("masked", self.masked.as_ref(), shape.weights())?;
        length("faults", self.faults.as_ref(), 1)?;
        if self.values.is_none() && self.metadata.is_none() && self.codes.is_none() && self.masked.is_none() {
            return Err(Error::Missing { what: "compression", missing: "no output was given to write it to" });
        }
        Ok(())
    }
}

impl<L: crate::space::Operand> Draw<L> {
    fn check(&self, shape: Shape, dtype: DType) -> Result<()> {
        sampled(shape, &self.shard, &self.sampling)?;
        if Sparsity::of(dtype) != Sparsity::TwoFour {
            let because = "logits choose two of four values, and of f32 one of two is kept";
            return Err(Error::Path { path: "compression from logits", because });
        }
        if self.kind == Kind::Soft {
            let because = "a soft mask keeps a part of every value: use Hard or Argmax";
            return Err(Error::Path { path: "compression from logits", because });
        }
        length("logits", Some(&self.logits), shape.logits())
    }
}

/// Arguments of decompression.
///
/// Shapes: dense `[N, K]`; values and metadata as [`Layout::sizes`] says; what their padding holds does not matter.
/// `dense` is overwritten. On a device every operand starts on a 16-byte boundary.
#[derive(Debug)]
pub struct Unpack<'a, S: Space, T: Element> {
    pub(crate) shape: Shape,
    pub(crate) layout: Layout,
    pub(crate) values: S::Ref<'a, T>,
    pub(crate) metadata: S::Ref<'a, u8>,
    pub(crate) dense: S::Mut<'a, T>,
    pub(crate) faults: Option<S::Mut<'a, u32>>,
}

impl<'a, S: Space, T: Element> Unpack<'a, S, T> {
    /// Of values and metadata in this layout.
    #[must_use]
    pub fn new(
        shape: Shape,
        layout: Layout,
        values: S::Ref<'a, T>,
        metadata: S::Ref<'a, u8>,
        dense: S::Mut<'a, T>,
    ) -> Self {
        Self { shape, layout, values, metadata, dense, faults: None }
    }

    /// Counts the groups that have no legal code, as [`Pack::faults`].
    #[must_use]
    pub fn faults(mut self, faults: S::Mut<'a, u32>) -> Self {
        self.faults = Some(faults);
        self
    }

    /// Checks the layout and lengths; every executor does it first.
    ///
    /// # Errors
    /// As [`Layout::sizes`]; [`Error::Length`].
    pub fn check(&self) -> Result<()> {
        let sizes = self.layout.sizes(self.shape, T::DTYPE)?;
        length("values", Some(&self.values), sizes.values)?;
        length("metadata", Some(&self.metadata), sizes.metadata)?;
        length("dense", Some(&self.dense), self.shape.weights())?;
        length("faults", self.faults.as_ref(), 1)
    }
}

/// Arguments of taking metadata from a layout to another: to or from [`Layout::Plain`], that is packing and unpacking
/// codes.
///
/// Both are as long as [`Layout::sizes`] says; what padding holds does not matter, and is overwritten with codes E. On a
/// device both start on a 16-byte boundary.
#[derive(Debug)]
pub struct Reorder<'a, S: Space> {
    pub(crate) shape: Shape,
    pub(crate) value_type: DType,
    pub(crate) from: (Layout, S::Ref<'a, u8>),
    pub(crate) to: (Layout, S::Mut<'a, u8>),
    pub(crate) faults: Option<S::Mut<'a, u32>>,
}

impl<'a, S: Space> Reorder<'a, S> {
    /// From one layout to another, for values of this type.
    #[must_use]
    pub fn new(shape: Shape, value_type: DType, from: (Layout, S::Ref<'a, u8>), to: (Layout, S::Mut<'a, u8>)) -> Self {
        Self { shape, value_type, from, to, faults: None }
    }

    /// Counts the groups that have no legal code, as [`Pack::faults`].
    #[must_use]
    pub fn faults(mut self, faults: S::Mut<'a, u32>) -> Self {
        self.faults = Some(faults);
        self
    }

    /// Checks layouts and lengths; every executor does it first.
    ///
    /// # Errors
    /// As [`Layout::sizes`]; [`Error::Length`].
    pub fn check(&self) -> Result<()> {
        let bytes = |layout: Layout| Ok(layout.sizes(self.shape, self.value_type)?.metadata);
        length("metadata (from)", Some(&self.from.1), bytes(self.from.0)?)?;
        length("metadata (to)", Some(&self.to.1), bytes(self.to.0)?)?;
        length("faults", self.faults.as_ref(), 1)
    }
}

/// The error that names a group by its number in the whole weight.
pub(crate) fn illegal(what: &'static str, sparsity: Sparsity, shape: Shape, group: usize, value: u8) -> Error {
    let [row, group] = in_row(sparsity, shape, group);
    Error::IllegalCode { what, row, group, value, legal: sparsity.legal() }
}

/// The same for a group that keeps another number of values.
pub(crate) fn not_two_four(sparsity: Sparsity, shape: Shape, group: usize, kept: u32) -> Error {
    let [row, group] = in_row(sparsity, shape, group);
    Error::NotTwoFour { row, group, kept, width: sparsity.width() as u32 }
}

fn in_row(sparsity: Sparsity, shape: Shape, group: usize) -> [u64; 2] {
    let row_groups = sparsity.row_groups(shape.cols).max(1);
    [(group / row_groups) as u64, (group % row_groups) as u64]
}
