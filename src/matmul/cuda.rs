//! The CUDA executor of `matmul`: the steps of a [`Plan`], queued on the caller's stream. Nothing is allocated on the
//! device, copied or waited for, so a pass can be captured in a CUDA graph, once it has run: kernels and algorithms are
//! loaded at their first use. (As all of cudarc, it needs event tracking disabled for that.)
//!
//! # Overlap
//!
//! Masks depend on logits alone, not on activations. So the masked weight of the next layer can be made on a second
//! stream while this layer multiplies: the one is bound by memory, the other by arithmetic. Run
//! [`mask::cuda::forward_into`](crate::mask::cuda::forward_into) there into the buffer that the layer's backward pass will
//! be given too ([`Keep::Masked`](super::Keep::Masked)), let the first stream wait for an event, and give the buffer to
//! the forward pass as it is ([`Forward::kept_masked`](super::Forward::kept_masked)). `examples/overlap.rs` shows it.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut, SyncOnDrop};

use super::steps::{Step, rehearse};
use super::{Kept, Plan, Source, ToLogits};
use crate::dense::cublaslt::ALIGN;
use crate::device;
use crate::device::launch::{launch, load};
use crate::device::operand::{Bound, input, output};
use crate::element::{Float, Logit};
use crate::error::{Error, Result};
use crate::space::{Cuda, Raw, RawSlice};

pub use crate::dense::BlasLt;

/// [`super::Layer`] over a device's memory.
pub type Layer<'a, L, W> = super::Layer<'a, Cuda, L, W>;
/// [`super::Forward`] over a device's memory.
pub type Forward<'l, 'a, L, W> = super::Forward<'l, 'a, Cuda, L, W>;
/// [`super::Backward`] over a device's memory.
pub type Backward<'l, 'a, L, W> = super::Backward<'l, 'a, Cuda, L, W>;

/// Queues a forward pass. A plan none of whose ways is [`Dense::BlasLt`](super::Dense::BlasLt) needs no `blas`.
///
/// # Errors
/// What [`steps`](super::Forward::steps) finds, [`Error::ForeignContext`] (of `blas` too), [`Error::Missing`] without a
/// `blas` that is needed, and what finding or launching kernels and algorithms may give. Unless the driver refuses a launch,
/// either everything is queued or nothing.
pub fn forward_into<L: Logit, W: Float>(
    stream: &Arc<CudaStream>,
    blas: Option<&mut BlasLt>,
    plan: &Plan,
    mut args: Forward<'_, '_, L, W>,
) -> Result<()> {
    args.check()?;
    let mut binder = Binder::new(stream);
    let raw = super::Forward::<Raw, L, W> {
        layer: binder.layer(&args.layer)?,
        problem: args.problem,
        x: binder.input("x", &args.x)?,
        y: binder.output("y", &mut args.y)?,
        kept: match &mut args.kept {
            Kept::Nothing => Kept::Nothing,
            Kept::Masked(masked) => Kept::Masked(binder.output("masked", masked)?),
            Kept::Codes(codes) => Kept::Codes(binder.output("codes", codes)?),
        },
        made: match &args.made {
            Some(masked) => Some(binder.input("masked", masked)?),
            None => None,
        },
        workspace: binder.workspace(args.workspace.as_mut())?,
    };
    let steps = raw.steps(plan)?;
    // SAFETY: `steps` has checked every operand to be as long as its shape says and the work space to hold what the plan
    // takes, and the binder found them in the stream's context and holds their guards.
    unsafe { run(stream, blas, &steps) }
}

/// `Y = X (W∘M)ᵀ`, `[T, N]`, in a new allocation on `stream`, beside a passing one for the work space. For a plan with
/// [`Keep::Nothing`](super::Keep::Nothing).
///
/// # Errors
/// As [`forward_into`], and [`Error::Cuda`] if there is no memory, or none to allocate: the driver gives no empty
/// array.
pub fn forward<L: Logit, W: Float>(
    stream: &Arc<CudaStream>,
    blas: Option<&mut BlasLt>,
    plan: &Plan,
    layer: Layer<'_, L, W>,
    x: CudaView<'_, W>,
) -> Result<CudaSlice<W>> {
    let problem = plan.problem();
    plan.check(problem, layer.masks(), [L::DTYPE, W::DTYPE], super::Keep::Nothing)?;
    layer.check()?;
    let no_memory = device::driver_error("cuMemAllocAsync");
    // SAFETY: nothing reads it before a step has written it.
    let mut workspace = unsafe { stream.alloc::<u8>(plan.output().workspace_bytes.max(1)) }.map_err(&no_memory)?;
    // SAFETY: `forward_into` overwrites every element before anything queued later reads one.
    let mut y = unsafe { stream.alloc::<W>(problem.outputs()) }.map_err(&no_memory)?;
    let args = Forward::new(layer, problem.tokens, x, y.as_view_mut()).workspace(workspace.as_view_mut());
    forward_into(stream, blas, plan, args)?;
    Ok(y)
}

/// Queues the gradients that were asked for.
///
/// # Errors
/// As [`forward_into`].
pub fn backward_into<L: Logit, W: Float>(
    stream: &Arc<CudaStream>,
    blas: Option<&mut BlasLt>,
    plan: &Plan,
    mut args: Backward<'_, '_, L, W>,
) -> Result<()> {
    args.check()?;
    let mut binder = Binder::new(stream);
    let raw = super::Backward::<Raw, L, W> {
        layer: binder.layer(&args.layer)?,
        problem: args.problem,
        dy: binder.input("dy", &args.dy)?,
        regulariser: args.regulariser,
        kept: match &args.kept {
            Kept::Nothing => Kept::Nothing,
            Kept::Masked(masked) => Kept::Masked(binder.input("masked", masked)?),
            Kept::Codes(codes) => Kept::Codes(binder.input("codes", codes)?),
        },
        dx: match &mut args.dx {
            Some(dx) => Some(binder.output("dx", dx)?),
            None => None,
        },
        to_logits: match &mut args.to_logits {
            Some(ToLogits { x, logit_gradient, accumulate }) => Some(ToLogits {
                x: binder.input("x", x)?,
                logit_gradient: binder.output("logit_gradient", logit_gradient)?,
                accumulate: *accumulate,
            }),
            None => None,
        },
        workspace: binder.workspace(args.workspace.as_mut())?,
    };
    let steps = raw.steps(plan)?;
    // SAFETY: as in `forward_into`.
    unsafe { run(stream, blas, &steps) }
}

/// Loads the kernels and chooses the algorithms of a plan's passes, with logits of type `L` and weights of type `W`: they
/// find them then, at no cost. A pass does it by itself at its first use, but not while it is captured in a CUDA graph.
/// (cuBLASLt loads an algorithm's code when it first runs: a plan with [`Dense::BlasLt`](super::Dense::BlasLt) must have
/// run once before it is captured.)
///
/// # Errors
/// As [`forward_into`], and [`Error::Unplanned`] for other types than the plan's.
pub fn prepare<L: Logit, W: Float>(stream: &Arc<CudaStream>, blas: Option<&mut BlasLt>, plan: &Plan) -> Result<()> {
    load_steps(stream, blas, &rehearse::<L, W>(plan)?)
}

/// What may fail before anything is queued.
fn load_steps(stream: &Arc<CudaStream>, mut blas: Option<&mut BlasLt>, steps: &[Step]) -> Result<()> {
    for step in steps {
        if let Step::BlasLt(product, _) = step {
            let missing = Error::Missing { what: "a product by cuBLASLt", missing: "no `blas` was given" };
            blas.as_mut().ok_or(missing)?.prepare_on(stream, &(*product).into())?;
        }
        if let Some((symbol, shared_bytes)) = step.kernel() {
            load(stream, symbol, shared_bytes)?;
        }
    }
    Ok(())
}

/// Queues steps in their order.
///
/// # Safety
/// Every address in the steps is of the stream's context and of as many elements as the step's shape says, and nothing
/// else touches what they write until they have run.
unsafe fn run(stream: &Arc<CudaStream>, mut blas: Option<&mut BlasLt>, steps: &[Step]) -> Result<()> {
    load_steps(stream, blas.as_deref_mut(), steps)?;
    for step in steps {
        match step {
            // SAFETY: by this function's contract; the struct mirrors the kernel's. So it is for all of these.
            Step::Sample(pass) => unsafe { launch(stream, pass) }?,
            // SAFETY: as above.
            Step::Mask(pass) => unsafe { launch(stream, pass) }?,
            // SAFETY: as above.
            Step::Small(pass) => unsafe { launch(stream, pass) }?,
            // SAFETY: as above.
            Step::Tile(pass) => unsafe { launch(stream, pass) }?,
            // SAFETY: as above.
            Step::Sum(pass) => unsafe { launch(stream, pass) }?,
            // SAFETY: as above.
            Step::Logits(pass) => unsafe { launch(stream, pass) }?,
            // SAFETY: as above.
            Step::MaskBackward(pass) => unsafe { launch(stream, pass) }?,
            Step::BlasLt(product, addresses) => {
                if let Some(blas) = blas.as_mut() {
                    // SAFETY: by this function's contract; C is an output or a part of the work space, both borrowed
                    // mutably, so it overlaps neither operand.
                    unsafe { blas.multiply(stream, &(*product).into(), *addresses, None) }?;
                }
            }
        }
    }
    Ok(())
}

/// Turns views into addresses for work on a stream, and keeps the guards that order that work.
pub(crate) struct Binder<'g> {
    stream: &'g Arc<CudaStream>,
    guards: Vec<SyncOnDrop<'g>>,
}

impl<'g> Binder<'g> {
    pub(crate) fn new(stream: &'g Arc<CudaStream>) -> Self {
        Self { stream, guards: Vec::with_capacity(8) }
    }

    fn layer<L: Logit, W: Float>(&mut self, layer: &'g Layer<'_, L, W>) -> Result<super::Layer<'static, Raw, L, W>> {
        let super::Layer { shape, shard, ref masks, ref weight } = *layer;
        let masks = match masks {
            Source::Sampled { kind, sampling, logits } => {
                Source::Sampled { kind: *kind, sampling: *sampling, logits: self.input("logits", logits)? }
            }
            Source::Frozen { codes } => Source::Frozen { codes: self.input("codes", codes)? },
        };
        Ok(super::Layer { shape, shard, masks, weight: self.input("weight", weight)? })
    }

    pub(crate) fn workspace(&mut self, view: Option<&'g mut CudaViewMut<'_, u8>>) -> Result<Option<RawSlice>> {
        view.map(|view| self.output("workspace", view)).transpose()
    }

    pub(crate) fn input<T>(&mut self, what: &'static str, view: &'g CudaView<'_, T>) -> Result<RawSlice> {
        let bound = input(what, self.stream, Some(view))?;
        self.keep(what, bound)
    }

    pub(crate) fn output<T>(&mut self, what: &'static str, view: &'g mut CudaViewMut<'_, T>) -> Result<RawSlice> {
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
