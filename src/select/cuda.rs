//! The CUDA executor of `select`. Everything is queued on the caller's stream: nothing is allocated on the device,
//! copied or waited for, so a pass can be captured in a CUDA graph (after [`crate::device::prepare`], for a module
//! cannot be loaded then).

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr, ValidAsZeroBits};

use super::Kept;
use crate::device;
use crate::device::launch::launch;
use crate::device::operand::{input, output};
use crate::element::Float;
use crate::error::Result;
use crate::space::{Cuda, Raw, RawSlice};

/// [`super::ByScore`] over a device's memory.
pub type ByScore<'a, W> = super::ByScore<'a, Cuda, W>;
/// [`super::Squares`] over a device's memory.
pub type Squares<'a, X> = super::Squares<'a, Cuda, X>;
/// [`super::Sweep`] over a device's memory.
pub type Sweep<'a, W> = super::Sweep<'a, Cuda, W>;

// SAFETY: `Kept` is plain numbers, laid out as the device's struct.
unsafe impl DeviceRepr for Kept {}
// SAFETY: zero bytes are zero sums.
unsafe impl ValidAsZeroBits for Kept {}

/// What a bound operand was when it is not optional.
const ABSENT: RawSlice = RawSlice { address: 0, elements: 0 };

/// Queues a choice by score.
///
/// # Errors
/// What [`check`](super::ByScore::check) finds, [`Misaligned`](crate::Error::Misaligned),
/// [`ForeignContext`](crate::Error::ForeignContext), and what finding or launching the kernel may give
/// ([`crate::device`]).
pub fn by_score_into<W: Float>(stream: &Arc<CudaStream>, mut args: ByScore<'_, W>) -> Result<()> {
    args.check()?;
    let (weight, _weight) = input("weight", stream, args.weight.as_ref())?;
    let (column_scale, _scale) = input("column_scale", stream, args.column_scale.as_ref())?;
    let (scores, _scores) = input("scores", stream, args.scores.as_ref())?;
    let (masked, _masked) = output("masked", stream, args.masked.as_mut())?;
    let (patterns, _patterns) = output("patterns", stream, args.patterns.as_mut())?;
    let (codes, _codes) = output("codes", stream, args.codes.as_mut())?;
    let (kept, _kept) = output("kept", stream, args.kept.as_mut())?;
    let shape = args.shape;
    let raw = super::ByScore::<Raw, W> { shape, weight, column_scale, scores, masked, patterns, codes, kept };
    let plan = raw.launch(&device::limits(stream.context())?)?;
    // SAFETY: `check` found every operand as long as the kernel reads or writes, `input` and `output` found them in the
    // stream's context and hold their guards, and `ScoreArgs` mirrors the kernel's struct.
    unsafe { launch(stream, &plan.pass) }?;
    let Some(kept) = &plan.kept else { return Ok(()) };
    // SAFETY: as above; the kernel reads the shares that the first one's blocks write, of which there are as many as
    // its grid has blocks, at most `MAX_BLOCKS`.
    unsafe { launch(stream, kept) }
}

/// Queues sums of squares.
///
/// # Errors
/// As [`by_score_into`], and [`Workspace`](crate::Error::Workspace) for a work space that is absent or too small.
pub fn squares_into<X: Float>(stream: &Arc<CudaStream>, mut args: Squares<'_, X>) -> Result<()> {
    args.check()?;
    let (x, _x) = input("x", stream, Some(&args.x))?;
    let (sums, _sums) = output("sums", stream, Some(&mut args.sums))?;
    let (norms, _norms) = output("norms", stream, args.norms.as_mut())?;
    let (workspace, _workspace) = output("workspace", stream, args.workspace.as_mut())?;
    let raw = super::Squares::<Raw, X> {
        tokens: args.tokens,
        cols: args.cols,
        x: x.unwrap_or(ABSENT),
        sums: sums.unwrap_or(ABSENT),
        norms,
        workspace,
    };
    let plan = raw.launch()?;
    if let Some(slabs) = &plan.slabs {
        // SAFETY: as in `by_score_into`, with `SquaresArgs`; `Raw`'s launch found the work space large enough.
        unsafe { launch(stream, slabs) }?;
    }
    // SAFETY: as above, with `NormsArgs`.
    unsafe { launch(stream, &plan.sums) }
}

/// Queues a sweep: a few launches for each 128 columns.
///
/// # Errors
/// As [`squares_into`].
pub fn sweep_into<W: Float>(stream: &Arc<CudaStream>, mut args: Sweep<'_, W>) -> Result<()> {
    args.check()?;
    let (weight, _weight) = input("weight", stream, Some(&args.weight))?;
    let (upper, _upper) = input("upper", stream, Some(&args.upper))?;
    let (scale, _scale) = input("scale", stream, Some(&args.scale))?;
    let (updated, _updated) = output("updated", stream, args.updated.as_mut())?;
    let (patterns, _patterns) = output("patterns", stream, args.patterns.as_mut())?;
    let (codes, _codes) = output("codes", stream, args.codes.as_mut())?;
    let (losses, _losses) = output("losses", stream, args.losses.as_mut())?;
    let (workspace, _workspace) = output("workspace", stream, args.workspace.as_mut())?;
    let raw = super::Sweep::<Raw, W> {
        shape: args.shape,
        weight: weight.unwrap_or(ABSENT),
        upper: upper.unwrap_or(ABSENT),
        scale: scale.unwrap_or(ABSENT),
        updated,
        patterns,
        codes,
        losses,
        workspace,
    };
    for step in raw.launches(&device::limits(stream.context())?)? {
        // SAFETY: as in `by_score_into`, with `SweepArgs`; `launches` found the work space large enough for its parts.
        unsafe { launch(stream, &step) }?;
    }
    Ok(())
}
