//! The CUDA executor of `mask`. Everything is queued on the caller's stream: nothing is allocated, copied or waited for,
//! so a pass can be captured in a CUDA graph (after [`crate::device::prepare`], for a module cannot be loaded then).

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits};

use super::Statistics;
use crate::device;
use crate::device::launch::launch;
use crate::device::operand::{input, output};
use crate::element::{Float, Logit};
use crate::error::Result;
use crate::sample::{GradientOf, Kind, Sampling};
use crate::shape::Shape;
use crate::space::{Cuda, Raw, RawSlice};

/// [`super::Forward`] over a device's memory.
pub type Forward<'a, L, W> = super::Forward<'a, Cuda, L, W>;
/// [`super::Backward`] over a device's memory.
pub type Backward<'a, L, W, G> = super::Backward<'a, Cuda, L, W, G>;

// SAFETY: `Statistics` is plain numbers, laid out as the device's struct.
unsafe impl DeviceRepr for Statistics {}
// SAFETY: zero bytes are zero sums.
unsafe impl ValidAsZeroBits for Statistics {}

/// What a bound operand was when it is not optional.
const ABSENT: RawSlice = RawSlice { address: 0, elements: 0 };

/// Queues a forward pass.
///
/// # Errors
/// What [`check`](super::Forward::check) finds, [`Misaligned`](crate::Error::Misaligned), [`ForeignContext`](crate::Error::ForeignContext), and what finding or
/// launching the kernel may give ([`crate::device`]).
pub fn forward_into<L: Logit, W: Float>(stream: &Arc<CudaStream>, mut args: Forward<'_, L, W>) -> Result<()> {
    args.check()?;
    let (logits, _logits) = input("logits", stream, Some(&args.logits))?;
    let (weight, _weight) = input("weight", stream, args.weight.as_ref())?;
    let (masked, _masked) = output("masked", stream, args.masked.as_mut())?;
    let (mask, _mask) = output("mask", stream, args.mask.as_mut())?;
    let (patterns, _patterns) = output("patterns", stream, args.patterns.as_mut())?;
    let (codes, _codes) = output("codes", stream, args.codes.as_mut())?;
    let (previous_codes, _previous) = input("previous_codes", stream, args.previous_codes.as_ref())?;
    let (statistics, _statistics) = output("statistics", stream, args.statistics.as_mut())?;
    let raw = super::Forward::<Raw, L, W> {
        shape: args.shape,
        shard: args.shard,
        kind: args.kind,
        sampling: args.sampling,
        logits: logits.unwrap_or(ABSENT),
        weight,
        masked,
        mask,
        patterns,
        codes,
        previous_codes,
        statistics,
    };
    let plan = raw.launch(&device::limits(stream.context())?)?;
    // SAFETY: `check` found every operand as long as the kernel reads or writes, `input` and `output` found them in the
    // stream's context and hold their guards, and `ForwardArgs` mirrors the kernel's struct.
    unsafe { launch(stream, &plan.pass) }?;
    let Some(statistics) = &plan.statistics else { return Ok(()) };
    // SAFETY: as above; the kernel reads the shares that the first one's blocks write, of which there are as many as
    // its grid has blocks, at most `MAX_BLOCKS`.
    unsafe { launch(stream, statistics) }
}

/// Queues a backward pass.
///
/// # Errors
/// As [`forward_into`].
pub fn backward_into<L: Logit, W: Float, G: GradientOf<W>>(
    stream: &Arc<CudaStream>,
    mut args: Backward<'_, L, W, G>,
) -> Result<()> {
    args.check()?;
    let (logits, _logits) = input("logits", stream, Some(&args.logits))?;
    let (weight, _weight) = input("weight", stream, Some(&args.weight))?;
    let (gradient, _gradient) = input("gradient", stream, Some(&args.gradient))?;
    let (logit_gradient, _to_logits) = output("logit_gradient", stream, args.logit_gradient.as_mut())?;
    let (weight_gradient, _to_weight) = output("weight_gradient", stream, args.weight_gradient.as_mut())?;
    let raw = super::Backward::<Raw, L, W, G> {
        shape: args.shape,
        shard: args.shard,
        kind: args.kind,
        sampling: args.sampling,
        logits: logits.unwrap_or(ABSENT),
        weight: weight.unwrap_or(ABSENT),
        gradient: gradient.unwrap_or(ABSENT),
        regulariser: args.regulariser,
        accumulate: args.accumulate,
        logit_gradient,
        weight_gradient,
    };
    let plan = raw.launch(&device::limits(stream.context())?)?;
    // SAFETY: as in `forward_into`, with `BackwardArgs`.
    unsafe { launch(stream, &plan) }
}

/// The masked weight `W∘M`, `[N, K]`, in a new allocation on `stream`.
///
/// # Errors
/// As [`forward_into`], and [`Cuda`](crate::Error::Cuda) if there is no memory.
pub fn masked_weight<L: Logit, W: Float>(
    stream: &Arc<CudaStream>,
    shape: Shape,
    kind: Kind,
    sampling: Sampling,
    logits: &CudaSlice<L>,
    weight: &CudaSlice<W>,
) -> Result<CudaSlice<W>> {
    // SAFETY: `forward_into` overwrites every element before anything queued later reads one.
    let allocated = unsafe { stream.alloc::<W>(weight.len()) };
    let mut masked = allocated.map_err(device::driver_error("cuMemAllocAsync"))?;
    let args = Forward::new(shape, kind, sampling, logits.as_view()).weight(weight.as_view());
    forward_into(stream, args.masked(masked.as_view_mut()))?;
    Ok(masked)
}
