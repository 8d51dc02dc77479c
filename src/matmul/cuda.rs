//! The CUDA executor of `matmul`: the mask kernels around cuBLASLt, all queued on the caller's stream. Nothing is
//! allocated, copied or waited for, so a pass can be captured in a CUDA graph, once it has run: kernels and algorithms
//! are loaded at their first use. (As all of cudarc, it needs event tracking disabled for that.)
//!
//! `f32` products are IEEE `f32`, not TF32.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut, DeviceRepr, SyncOnDrop};

use super::cublaslt::{ALIGN, Product};
use super::{Masked, Problem, ToInput, ToLogits};
use crate::device::launch::{Launch, launch};
use crate::device::operand::{Bound, input, output};
use crate::device::{self, Limits};
use crate::element::{Element, Logit};
use crate::error::{Error, Result};
use crate::mask;
use crate::mask::launch::{BackwardArgs, ForwardArgs};
use crate::space::{Cuda, Raw, RawSlice};

pub use super::cublaslt::BlasLt;

/// [`super::Layer`] over a device's memory.
pub type Layer<'a, L, W> = super::Layer<'a, Cuda, L, W>;
/// [`super::Forward`] over a device's memory.
pub type Forward<'l, 'a, L, W> = super::Forward<'l, 'a, Cuda, L, W>;
/// [`super::Backward`] over a device's memory.
pub type Backward<'l, 'a, L, W> = super::Backward<'l, 'a, Cuda, L, W>;

/// Queues `W∘M` and `Y = X (W∘M)ᵀ`.
///
/// # Errors
/// What [`check`](super::Forward::check) finds, [`Error::Misaligned`], [`Error::ForeignContext`] (of `blas` too), and
/// what finding or launching kernels and algorithms may give; up to then nothing has been queued.
pub fn forward_into<L: Logit, W: Element>(
    stream: &Arc<CudaStream>,
    blas: &mut BlasLt,
    mut args: Forward<'_, '_, L, W>,
) -> Result<()> {
    args.check()?;
    let limits = device::limits(stream.context())?;
    let product = Product::output(args.problem, W::DTYPE);
    blas.prepare_on(stream, &product)?;
    let mut binder = Binder { stream, guards: Vec::with_capacity(5) };
    let layer = binder.layer(&args.layer)?;
    let x = binder.input("x", &args.x)?;
    let masked = binder.output("masked", &mut args.masked)?;
    let y = binder.output("y", &mut args.y)?;
    let sample = sample(layer, masked, &limits)?;
    // SAFETY: `check` found every operand as long as its shape says, the binder found them in the stream's context and
    // holds their guards, and `ForwardArgs` mirrors the kernel's struct.
    unsafe { launch(stream, &sample) }?;
    // SAFETY: as above; `y` was borrowed mutably, so it overlaps neither operand.
    unsafe { blas.multiply(stream, &product, [x.address, masked.address, y.address]) }
}

/// `Y = X (W∘M)ᵀ`, `[T, N]`, in a new allocation on `stream`, beside a passing one for `W∘M`.
///
/// # Errors
/// As [`forward_into`], and [`Error::Cuda`] if there is no memory, or none to allocate: the driver gives no empty
/// array.
pub fn forward<L: Logit, W: Element + DeviceRepr>(
    stream: &Arc<CudaStream>,
    blas: &mut BlasLt,
    layer: Layer<'_, L, W>,
    tokens: usize,
    x: CudaView<'_, W>,
) -> Result<CudaSlice<W>> {
    let problem = Problem::new(tokens, layer.shape);
    problem.check()?;
    let no_memory = device::driver_error("cuMemAllocAsync");
    // SAFETY: `forward_into` overwrites every element before anything queued later reads one.
    let mut masked = unsafe { stream.alloc::<W>(problem.shape.weights()) }.map_err(&no_memory)?;
    // SAFETY: as above.
    let mut y = unsafe { stream.alloc::<W>(problem.outputs()) }.map_err(&no_memory)?;
    forward_into(stream, blas, Forward::new(layer, tokens, x, masked.as_view_mut(), y.as_view_mut()))?;
    Ok(y)
}

/// Queues the gradients that were asked for.
///
/// # Errors
/// As [`forward_into`], with [`check`](super::Backward::check).
pub fn backward_into<L: Logit, W: Element>(
    stream: &Arc<CudaStream>,
    blas: &mut BlasLt,
    mut args: Backward<'_, '_, L, W>,
) -> Result<()> {
    args.check()?;
    let limits = device::limits(stream.context())?;
    let mut binder = Binder { stream, guards: Vec::with_capacity(8) };
    let layer = binder.layer(&args.layer)?;
    let dy = binder.input("dy", &args.dy)?;
    let to_input = match &mut args.to_input {
        Some(to_input) => Some(InputPlan::new(args.problem, layer, to_input, &mut binder, &limits)?),
        None => None,
    };
    let to_logits = match &mut args.to_logits {
        Some(to_logits) => {
            Some(LogitPlan::new(args.problem, layer, args.regulariser, to_logits, &mut binder, &limits)?)
        }
        None => None,
    };
    for product in to_input.iter().map(|plan| &plan.product).chain(to_logits.iter().map(|plan| &plan.product)) {
        blas.prepare_on(stream, product)?;
    }
    if let Some(InputPlan { sample, product, masked, dx }) = &to_input {
        if let Some(sample) = sample {
            // SAFETY: as in `forward_into`.
            unsafe { launch(stream, sample) }?;
        }
        // SAFETY: as in `forward_into`.
        unsafe { blas.multiply(stream, product, [dy.address, masked.address, dx.address]) }?;
    }
    if let Some(LogitPlan { product, x, gradient, mask }) = &to_logits {
        // SAFETY: as in `forward_into`.
        unsafe { blas.multiply(stream, product, [dy.address, x.address, gradient.address]) }?;
        // SAFETY: as in `forward_into`, with `BackwardArgs`.
        unsafe { launch(stream, mask) }?;
    }
    Ok(())
}

/// A layer in bare addresses.
type RawLayer<L, W> = super::Layer<'static, Raw, L, W>;

/// The mask pass that writes `W∘M`.
fn sample<L: Logit, W: Element>(
    layer: RawLayer<L, W>,
    masked: RawSlice,
    limits: &Limits,
) -> Result<Launch<ForwardArgs>> {
    let args = mask::Forward::<Raw, L, W>::new(layer.shape, layer.kind, layer.sampling, layer.logits);
    Ok(args.shard(layer.shard).weight(layer.weight).masked(masked).launch(limits)?.pass)
}

/// What writes `dX`.
struct InputPlan {
    sample: Option<Launch<ForwardArgs>>,
    product: Product,
    masked: RawSlice,
    dx: RawSlice,
}

impl InputPlan {
    fn new<'g, L: Logit, W: Element>(
        problem: Problem,
        layer: RawLayer<L, W>,
        to_input: &'g mut ToInput<'_, Cuda, W>,
        binder: &mut Binder<'g>,
        limits: &Limits,
    ) -> Result<Self> {
        let dx = binder.output("dx", &mut to_input.dx)?;
        let (masked, sample) = match &mut to_input.masked {
            Masked::Kept(masked) => (binder.input("masked", masked)?, None),
            Masked::Resampled(masked) => {
                let masked = binder.output("masked", masked)?;
                (masked, Some(sample(layer, masked, limits)?))
            }
        };
        Ok(Self { sample, product: Product::input_gradient(problem, W::DTYPE), masked, dx })
    }
}

/// What writes `dlogits`.
struct LogitPlan {
    product: Product,
    x: RawSlice,
    gradient: RawSlice,
    mask: Launch<BackwardArgs>,
}

impl LogitPlan {
    fn new<'g, L: Logit, W: Element>(
        problem: Problem,
        layer: RawLayer<L, W>,
        regulariser: f32,
        to_logits: &'g mut ToLogits<'_, Cuda, W>,
        binder: &mut Binder<'g>,
        limits: &Limits,
    ) -> Result<Self> {
        let x = binder.input("x", &to_logits.x)?;
        let gradient = binder.output("gradient", &mut to_logits.gradient)?;
        let logit_gradient = binder.output("logit_gradient", &mut to_logits.logit_gradient)?;
        let super::Layer { shape, shard, kind, sampling, logits, weight } = layer;
        let args = mask::Backward::<Raw, L, W, f32>::new(shape, kind, sampling, logits, weight, gradient);
        let args = args.shard(shard).regulariser(regulariser);
        let args = match to_logits.accumulate {
            true => args.accumulate_logit_gradient(logit_gradient),
            false => args.logit_gradient(logit_gradient),
        };
        Ok(Self { product: Product::weight_gradient(problem, W::DTYPE), x, gradient, mask: args.launch(limits)? })
    }
}

/// Turns views into addresses for work on a stream, and keeps the guards that order that work.
struct Binder<'g> {
    stream: &'g Arc<CudaStream>,
    guards: Vec<SyncOnDrop<'g>>,
}

impl<'g> Binder<'g> {
    fn layer<L: Logit, W: Element>(&mut self, layer: &'g Layer<'_, L, W>) -> Result<RawLayer<L, W>> {
        let super::Layer { shape, shard, kind, sampling, ref logits, ref weight } = *layer;
        let (logits, weight) = (self.input("logits", logits)?, self.input("weight", weight)?);
        Ok(RawLayer { shape, shard, kind, sampling, logits, weight })
    }

    fn input<T>(&mut self, what: &'static str, view: &'g CudaView<'_, T>) -> Result<RawSlice> {
        let bound = input(what, self.stream, Some(view))?;
        self.keep(what, bound)
    }

    fn output<T>(&mut self, what: &'static str, view: &'g mut CudaViewMut<'_, T>) -> Result<RawSlice> {
        let bound = output(what, self.stream, Some(view))?;
        self.keep(what, bound)
    }

    fn keep(&mut self, what: &'static str, (operand, guard): Bound<'g>) -> Result<RawSlice> {
        self.guards.extend(guard);
        let operand = operand.unwrap_or(RawSlice { address: 0, elements: 0 });
        let RawSlice { address, elements } = operand;
        if elements > 0 && !address.is_multiple_of(ALIGN) {
            return Err(Error::Misaligned { what, address, align: ALIGN });
        }
        Ok(operand)
    }
}
