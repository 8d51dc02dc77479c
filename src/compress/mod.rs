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
//! | [`first_violation`] | a dense weight | the first group that keeps too many |
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
//! On a device, a pass serves every layout, on the caller's stream and with nothing allocated. From logits to what a
//! kernel reads, with neither mask nor masked weight in between:
//!
//! ```no_run
//! use twofour::compress::{Layout, Pack};
//! use twofour::cudarc::driver::CudaSlice;
//! use twofour::mask::{Kind, Sampling};
//! use twofour::{Executor, Gpu, Shape, bf16};
//!
//! // As long as `Layout::CutlassSm80.sizes(shape, DType::Bf16)` says.
//! struct Buffers {
//!     values: CudaSlice<bf16>,
//!     metadata: CudaSlice<u8>,
//! }
//!
//! fn pack(
//!     gpu: &mut Gpu,
//!     shape: Shape,
//!     sampling: Sampling,
//!     logits: &CudaSlice<f32>,
//!     weight: &CudaSlice<bf16>,
//!     to: &mut Buffers,
//! ) -> twofour::Result<()> {
//!     let pack = Pack::from_logits(shape, Kind::Hard, sampling, logits, weight);
//!     gpu.run(pack.layout(Layout::CutlassSm80).values(&mut to.values).metadata(&mut to.metadata))
//! }
//! ```
//!
//! # What is kept
//!
//! **Given codes** decide alone: a zero that is kept is stored, `-0.0` as it is, so that metadata always follows the
//! mask and a weight that is zero today keeps its slot. A code that is not legal (a mask of NaN logits has 0) is an
//! error.
//!
//! **A mask from logits** ([`Pack::from_logits`]): the codes that [`mask::Forward`](crate::mask::Forward) would write
//! for the same logits, hard or argmax, in the same pass and without a dense weight in between. Groups of four alone.
//!
//! **The largest** ([`Pack::by_magnitude`]): the two values of the largest magnitude (one of two for `f32`); of equal
//! ones the lower position, so that a group of zeros keeps its first two. A NaN is larger than infinity, and of two NaN
//! the one with the larger payload; zeros of both signs are equal. An `f32` weight that is 2:4 already would be halved
//! by it without a word, for `f32` keeps one of two: the CPU refuses it ([`Error::TwoFourOfF32`]).
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
//! [`Cpu`](crate::Cpu) and, with the feature `cuda`, `Gpu` take the same arguments in their own memory. Outputs are
//! overwritten; after an error their contents are unspecified. The CPU allocates memory for codes that it makes and
//! that were not asked for: where they are chosen, or where metadata is in another layout than `Plain`.
//!
//! They differ in what becomes of a group that has no legal code: one of NaN logits, a given code that is not legal, a
//! weight that is not 2:4. The CPU's executor returns an error that names the first. On a device nobody is there to
//! return one to, and to `mma.sp` an illegal code is undefined behaviour; so such a group has **code 4, and NaN** for
//! all its values, kept or dense (0 for `i8`, which has none), so that products show it, and is counted in
//! [`faults`](Pack::faults) if asked. A [`Reorder`] has no values to show it: count there.

use crate::error::Error;
use crate::sample::{Kind, Sampling};
use crate::shape::{Shape, Shard};

mod canonical;
pub mod convert;
mod cpu;
mod launch;
pub mod layout;
mod pack;
mod packed;
mod reorder;
mod unpack;
mod value;

pub use canonical::Compressed;
pub use cpu::{Violation, check_codes, first_violation};
pub use layout::{Evidence, Layout, MinTileK, Sizes};
pub use pack::Pack;
pub use packed::Packed;
pub use reorder::Reorder;
pub use unpack::Unpack;
pub use value::{DTYPES, Flag, Sparsity};

/// Which values [`Pack`] keeps.
#[derive(Debug, Clone, Copy)]
enum Choice<C, L> {
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
    fn looks_at_values(&self) -> bool {
        matches!(self, Self::Magnitude | Self::NonZeros)
    }

    /// Of its operands, borrowed.
    const fn as_ref(&self) -> Choice<&C, &L> {
        match self {
            Self::Codes(codes) => Choice::Codes(codes),
            Self::Logits(Draw { logits, kind, sampling, shard }) => {
                Choice::Logits(Draw { logits, kind: *kind, sampling: *sampling, shard: *shard })
            }
            Self::Magnitude => Choice::Magnitude,
            Self::NonZeros => Choice::NonZeros,
        }
    }

    /// With its operands as something else.
    fn map<D, M>(self, codes: impl FnOnce(C) -> D, logits: impl FnOnce(L) -> M) -> Choice<D, M> {
        match self {
            Self::Codes(given) => Choice::Codes(codes(given)),
            Self::Logits(Draw { logits: of, kind, sampling, shard }) => {
                Choice::Logits(Draw { logits: logits(of), kind, sampling, shard })
            }
            Self::Magnitude => Choice::Magnitude,
            Self::NonZeros => Choice::NonZeros,
        }
    }
}

/// How logits make a mask.
#[derive(Debug, Clone, Copy)]
struct Draw<L> {
    logits: L,
    kind: Kind,
    sampling: Sampling,
    shard: Shard,
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
