//! The CUDA executor of `learn`. Everything is queued on the caller's stream: nothing is allocated, copied or waited for,
//! so a step can be captured in a CUDA graph (after [`crate::device::prepare`], for a module cannot be loaded then).
//!
//! A graph that is replayed repeats its arguments: hyper-parameters, the step's number and the draw among them.

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr, SyncOnDrop, ValidAsZeroBits};

use super::Statistics;
use super::launch::Pass;
use crate::device;
use crate::device::launch::launch;
use crate::device::operand::{input, output};
use crate::element::{Float, Logit};
use crate::error::Result;
use crate::sample::GradientOf;
use crate::space::{Cuda, Raw, RawSlice};

/// [`super::Initial`] over a device's memory.
pub type Initial<'a, L> = super::Initial<'a, Cuda, L>;
/// [`super::Prior`] over a device's memory.
pub type Prior<'a, L> = super::Prior<'a, Cuda, L>;
/// [`super::Update`] over a device's memory.
pub type Update<'a, L> = super::Update<'a, Cuda, L>;
/// [`super::Fused`] over a device's memory.
pub type Fused<'a, L, W, G> = super::Fused<'a, Cuda, L, W, G>;
/// [`super::Measure`] over a device's memory.
pub type Measure<'a, L, W, G> = super::Measure<'a, Cuda, L, W, G>;
/// [`super::Norm`] over a device's memory.
pub type Norm<'a> = super::Norm<'a, Cuda>;
/// [`super::Clip`] over a device's memory.
pub type Clip<'a> = super::Clip<'a, Cuda>;
/// [`super::State`] over a device's memory.
pub type State<'a> = super::State<'a, Cuda>;
/// [`super::Step`] over a device's memory.
pub type Step<'a> = super::Step<'a, Cuda>;
/// [`super::Gradient`] over a device's memory.
pub type Gradient<'a> = super::Gradient<'a, Cuda>;

// SAFETY: `Statistics` is plain numbers, laid out as the device's struct.
unsafe impl DeviceRepr for Statistics {}
// SAFETY: zero bytes are zero sums.
unsafe impl ValidAsZeroBits for Statistics {}

/// What a bound operand was when it is not optional.
const ABSENT: RawSlice = RawSlice { address: 0, elements: 0 };

/// Queues logits at the start.
///
/// # Errors
/// What [`check`](super::Initial::check) finds, [`Misaligned`](crate::Error::Misaligned),
/// [`ForeignContext`](crate::Error::ForeignContext), and what finding or launching the kernel may give
/// ([`crate::device`]).
pub fn initial_into<L: Logit>(stream: &Arc<CudaStream>, mut args: Initial<'_, L>) -> Result<()> {
    args.check()?;
    let (codes, _codes) = input("codes", stream, args.codes.as_ref())?;
    let (logits, _logits) = output("logits", stream, Some(&mut args.logits))?;
    let raw = super::Initial::<Raw, L> {
        shape: args.shape,
        shard: args.shard,
        seed: args.seed,
        sigma: args.sigma,
        alpha: args.alpha,
        codes,
        logits: logits.unwrap_or(ABSENT),
    };
    let plan = raw.launch(&device::limits(stream.context())?)?;
    // SAFETY: `check` found every operand as long as the kernel reads or writes, `input` and `output` found them in the
    // stream's context and hold their guards, and `PriorArgs` mirrors the kernel's struct.
    unsafe { launch(stream, &plan) }
}

/// Queues a prior on logits.
///
/// # Errors
/// As [`initial_into`].
pub fn prior_into<L: Logit>(stream: &Arc<CudaStream>, mut args: Prior<'_, L>) -> Result<()> {
    args.check()?;
    let (codes, _codes) = input("codes", stream, Some(&args.codes))?;
    let (logits, _logits) = output("logits", stream, Some(&mut args.logits))?;
    let raw = super::Prior::<Raw, L> {
        shape: args.shape,
        codes: codes.unwrap_or(ABSENT),
        strength: args.strength,
        logits: logits.unwrap_or(ABSENT),
    };
    let plan = raw.launch(&device::limits(stream.context())?)?;
    // SAFETY: as in `initial_into`.
    unsafe { launch(stream, &plan) }
}

/// Queues a step by a gradient in memory.
///
/// # Errors
/// As [`initial_into`].
pub fn update_into<L: Logit>(stream: &Arc<CudaStream>, mut args: Update<'_, L>) -> Result<()> {
    args.check()?;
    let (gradient, _gradient) = match &mut args.gradient {
        Gradient::Read(gradient) => {
            let (gradient, guard) = input("gradient", stream, Some(gradient))?;
            (super::Gradient::Read(gradient.unwrap_or(ABSENT)), guard)
        }
        Gradient::Zero(gradient) => {
            let (gradient, guard) = output("gradient", stream, Some(gradient))?;
            (super::Gradient::Zero(gradient.unwrap_or(ABSENT)), guard)
        }
    };
    let (logits, _logits) = output("logits", stream, Some(&mut args.logits))?;
    let (norm_squares, _norm) = output("norm_squares", stream, args.norm_squares.as_mut())?;
    let (statistics, _statistics) = output("statistics", stream, args.statistics.as_mut())?;
    let (step, _step) = bind(stream, &mut args.step)?;
    let raw = super::Update::<Raw, L> {
        shape: args.shape,
        shard: args.shard,
        gradient,
        scale: args.scale,
        logits: logits.unwrap_or(ABSENT),
        step,
        rounding: args.rounding,
        norm_squares,
        statistics,
    };
    let plan = raw.launch(&device::limits(stream.context())?)?;
    // SAFETY: as in `initial_into`, with `UpdateArgs`; `step` is bound as the others are.
    unsafe { queue(stream, &plan) }
}

/// Queues a step that makes its own gradient.
///
/// # Errors
/// As [`initial_into`].
pub fn fused_into<L: Logit, W: Float, G: GradientOf<W>>(
    stream: &Arc<CudaStream>,
    mut args: Fused<'_, L, W, G>,
) -> Result<()> {
    args.check()?;
    let (weight, _weight) = input("weight", stream, Some(&args.weight))?;
    let (gradient, _gradient) = input("gradient", stream, Some(&args.gradient))?;
    let (logits, _logits) = output("logits", stream, Some(&mut args.logits))?;
    let (norm_squares, _norm) = output("norm_squares", stream, args.norm_squares.as_mut())?;
    let (statistics, _statistics) = output("statistics", stream, args.statistics.as_mut())?;
    let (step, _step) = bind(stream, &mut args.step)?;
    let raw = super::Fused::<Raw, L, W, G> {
        shape: args.shape,
        shard: args.shard,
        kind: args.kind,
        sampling: args.sampling,
        logits: logits.unwrap_or(ABSENT),
        weight: weight.unwrap_or(ABSENT),
        gradient: gradient.unwrap_or(ABSENT),
        regulariser: args.regulariser,
        step,
        norm_squares,
        statistics,
    };
    let plan = raw.launch(&device::limits(stream.context())?)?;
    // SAFETY: as in `initial_into`, with `FusedArgs`; `step` is bound as the others are.
    unsafe { queue(stream, &plan) }
}

/// Queues the measuring of the gradient that a fused step would make.
///
/// # Errors
/// As [`initial_into`].
pub fn measure_into<L: Logit, W: Float, G: GradientOf<W>>(
    stream: &Arc<CudaStream>,
    mut args: Measure<'_, L, W, G>,
) -> Result<()> {
    args.check()?;
    let (logits, _logits) = input("logits", stream, Some(&args.logits))?;
    let (weight, _weight) = input("weight", stream, Some(&args.weight))?;
    let (gradient, _gradient) = input("gradient", stream, Some(&args.gradient))?;
    let (norm_squares, _norm) = output("norm_squares", stream, Some(&mut args.norm_squares))?;
    let raw = super::Measure::<Raw, L, W, G> {
        shape: args.shape,
        shard: args.shard,
        kind: args.kind,
        sampling: args.sampling,
        logits: logits.unwrap_or(ABSENT),
        weight: weight.unwrap_or(ABSENT),
        gradient: gradient.unwrap_or(ABSENT),
        regulariser: args.regulariser,
        norm_squares: norm_squares.unwrap_or(ABSENT),
    };
    let plan = raw.launch(&device::limits(stream.context())?)?;
    // SAFETY: as in `initial_into`, with `FusedArgs`; without moments the kernel writes shares alone.
    unsafe { queue(stream, &plan) }
}

/// Queues the measuring of a gradient in memory.
///
/// # Errors
/// As [`initial_into`].
pub fn norm_into(stream: &Arc<CudaStream>, mut args: Norm<'_>) -> Result<()> {
    args.check()?;
    let (gradient, _gradient) = input("gradient", stream, Some(&args.gradient))?;
    let (norm_squares, _norm) = output("norm_squares", stream, Some(&mut args.norm_squares))?;
    let raw = super::Norm::<Raw> {
        shape: args.shape,
        gradient: gradient.unwrap_or(ABSENT),
        scale: args.scale,
        norm_squares: norm_squares.unwrap_or(ABSENT),
    };
    let plan = raw.launch(&device::limits(stream.context())?)?;
    // SAFETY: as in `initial_into`, with `NormArgs`.
    unsafe { queue(stream, &plan) }
}

/// Queues the end of clipping: what is queued after it reads the factor.
///
/// # Errors
/// As [`initial_into`].
pub fn clip_into(stream: &Arc<CudaStream>, mut args: Clip<'_>) -> Result<()> {
    args.check()?;
    let (norm_squares, _squares) = output("norm_squares", stream, Some(&mut args.norm_squares))?;
    let (factor, _factor) = output("factor", stream, Some(&mut args.factor))?;
    let (norm, _norm) = output("norm", stream, args.norm.as_mut())?;
    let raw = super::Clip::<Raw> {
        max_norm: args.max_norm,
        norm_squares: norm_squares.unwrap_or(ABSENT),
        factor: factor.unwrap_or(ABSENT),
        norm,
    };
    let plan = raw.launch()?;
    // SAFETY: as in `initial_into`, with `ClipArgs`.
    unsafe { launch(stream, &plan) }
}

/// The guards of a step's operands.
type Guards<'a> = [Option<SyncOnDrop<'a>>; 4];

/// A step's operands as addresses.
fn bind<'a>(stream: &'a Arc<CudaStream>, step: &'a mut Step<'_>) -> Result<(super::Step<'static, Raw>, Guards<'a>)> {
    let (factor, of_factor) = input("factor", stream, step.factor.as_ref())?;
    let (state, [of_m, of_v, of_scales]) = match &mut step.state {
        State::F32 { m, v } => {
            let (m, of_m) = output("m", stream, Some(m))?;
            let (v, of_v) = output("v", stream, Some(v))?;
            (super::State::f32(m.unwrap_or(ABSENT), v.unwrap_or(ABSENT)), [of_m, of_v, None])
        }
        State::Eight { m, v, scales } => {
            let (m, of_m) = output("m", stream, Some(m))?;
            let (v, of_v) = output("v", stream, Some(v))?;
            let (scales, of_scales) = output("scales", stream, Some(scales))?;
            let [m, v, scales] = [m, v, scales].map(|operand| operand.unwrap_or(ABSENT));
            (super::State::eight(m, v, scales), [of_m, of_v, of_scales])
        }
    };
    Ok((super::Step { by: step.by, state, factor }, [of_factor, of_m, of_v, of_scales]))
}

/// Queues a pass, and the kernel that adds up its shares.
///
/// # Safety
/// What [`launch`] asks of both launches.
unsafe fn queue<A: bytemuck::Pod>(stream: &Arc<CudaStream>, plan: &Pass<A>) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { launch(stream, &plan.pass) }?;
    let Some(finish) = &plan.finish else { return Ok(()) };
    // SAFETY: as above; the kernel reads the shares that the first one's blocks write, of which there are as many as its
    // grid has blocks, at most `MAX_BLOCKS`.
    unsafe { launch(stream, finish) }
}
