//! What a step takes of the device's memory beyond weight, logits, their gradient and activations: measured, beside what
//! the plan says.

use super::super::mask::for_types;
use super::super::matmul::{Case, LAMBDA};
use super::{Result, stream};
use std::mem::ManuallyDrop;
use std::sync::Arc;
use twofour::cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits, result};
use twofour::device;
use twofour::matmul::{Keep, Masks, Plan, cuda};
use twofour::{Float, Logit};

/// Bytes of a step.
pub struct Taken {
    pub case: Case,
    pub keep: Keep,
    /// What stays from pass to pass, and the work space, as planned.
    pub kept: usize,
    pub workspace: usize,
    /// What free memory went down by. The driver gives memory in pieces of 2 MiB.
    pub measured: usize,
}

pub fn taken(case: Case, keep: Keep) -> Result<Taken> {
    for_types!(case, measure(case, keep))
}

fn measure<L, W>(case: Case, keep: Keep) -> Result<Taken>
where
    L: Logit,
    W: Float,
{
    let stream = stream()?;
    let limits = device::limits(stream.context())?;
    let plan = Plan::new::<L, W>(&limits, case.problem(), Masks::Sampled(case.kind), keep)?;
    let mut step = Step::<L, W>::new(&stream, case, plan)?;
    // The first time, kernels and algorithms are loaded: not for this step alone.
    step.run(&stream, &mut Extra::new(&stream, &case, &plan)?)?;
    let before = free(&stream)?;
    let mut extra = Extra::new(&stream, &case, &plan)?;
    step.run(&stream, &mut extra)?;
    let measured = before.saturating_sub(free(&stream)?);
    Ok(Taken { case, keep, kept: plan.kept_bytes(), workspace: plan.workspace_bytes(), measured })
}

/// Free memory once nothing is under way.
fn free(stream: &CudaStream) -> Result<usize> {
    stream.synchronize()?;
    Ok(stream.context().mem_get_info()?.0)
}

/// What there is without a mask that is learnt, or once for all layers.
struct Step<L, W> {
    case: Case,
    plan: Plan,
    blas: cuda::BlasLt,
    logits: CudaSlice<L>,
    logit_gradient: CudaSlice<f32>,
    weight: CudaSlice<W>,
    /// `X` and `Y`, and their gradients.
    activations: [CudaSlice<W>; 4],
}

/// What is measured: no more than is kept, and the work space.
struct Extra<W> {
    masked: Bare<W>,
    codes: Bare<u8>,
    workspace: Bare<u8>,
}

impl<W: ValidAsZeroBits + DeviceRepr> Extra<W> {
    fn new(stream: &Arc<CudaStream>, case: &Case, plan: &Plan) -> Result<Self> {
        let only = |keep, elements| if plan.keep() == keep { elements } else { 0 };
        Ok(Self {
            masked: Bare::new(stream, only(Keep::Masked, case.shape.weights()))?,
            codes: Bare::new(stream, only(Keep::Codes, case.shape.packed_codes()))?,
            workspace: Bare::new(stream, plan.workspace_bytes())?,
        })
    }
}

impl<L, W> Step<L, W>
where
    L: Logit,
    W: Float,
{
    fn new(stream: &Arc<CudaStream>, case: Case, plan: Plan) -> Result<Self> {
        let (problem, shape) = (case.problem(), case.shape);
        let zeros = |elements| stream.alloc_zeros::<W>(elements);
        Ok(Self {
            case,
            plan,
            blas: cuda::BlasLt::new(stream)?,
            logits: stream.alloc_zeros(shape.logits())?,
            logit_gradient: stream.alloc_zeros(shape.logits())?,
            weight: zeros(shape.weights())?,
            activations: [
                zeros(problem.inputs())?,
                zeros(problem.outputs())?,
                zeros(problem.inputs())?,
                zeros(problem.outputs())?,
            ],
        })
    }

    fn run(&mut self, stream: &Arc<CudaStream>, extra: &mut Extra<W>) -> Result<()> {
        let Self { case, plan, blas, logits, logit_gradient, weight, activations: [x, y, dx, dy] } = self;
        let layer = || cuda::Layer::new(case.shape, case.kind, case.sampling(), logits.as_view(), weight.as_view());
        let args = cuda::Forward::new(layer(), case.tokens, x.as_view(), y.as_view_mut());
        let args = args.workspace(extra.workspace.0.as_view_mut());
        let args = match plan.keep() {
            Keep::Nothing => args,
            Keep::Masked => args.keep_masked(extra.masked.0.as_view_mut()),
            Keep::Codes => args.keep_codes(extra.codes.0.as_view_mut()),
        };
        cuda::forward_into(stream, Some(blas), plan, args)?;
        let args = cuda::Backward::new(layer(), case.tokens, dy.as_view()).regulariser(LAMBDA);
        let args = args.workspace(extra.workspace.0.as_view_mut());
        let args = match plan.keep() {
            Keep::Nothing => args,
            Keep::Masked => args.kept_masked(extra.masked.0.as_view()),
            Keep::Codes => args.kept_codes(extra.codes.0.as_view()),
        };
        let args = args.input_gradient(dx.as_view_mut()).logit_gradient(x.as_view(), logit_gradient.as_view_mut());
        cuda::backward_into(stream, Some(blas), plan, args)?;
        Ok(stream.synchronize()?)
    }
}

/// Memory straight from the driver and back to it: its pool, from which streams allocate, holds more than is in use.
struct Bare<T>(ManuallyDrop<CudaSlice<T>>);

impl<T: DeviceRepr + ValidAsZeroBits> Bare<T> {
    fn new(stream: &Arc<CudaStream>, elements: usize) -> Result<Self> {
        stream.context().bind_to_thread()?;
        // The driver gives no empty array, and none is needed: nobody asks where its elements are.
        let address = match elements * size_of::<T>() {
            0 => 0,
            // SAFETY: the context is current; the address goes back in `drop`, once.
            bytes => unsafe { result::malloc_sync(bytes) }?,
        };
        // SAFETY: the allocation is as long; every pattern of bits is a `T`, and zeros follow.
        let slice = unsafe { stream.upgrade_device_ptr::<T>(address, elements) };
        let mut bare = Self(ManuallyDrop::new(slice));
        if elements > 0 {
            stream.memset_zeros(&mut *bare.0)?;
        }
        Ok(bare)
    }
}

impl<T> Drop for Bare<T> {
    fn drop(&mut self) {
        let waited = self.0.stream().synchronize();
        // SAFETY: nothing uses it from here on.
        let address = unsafe { ManuallyDrop::take(&mut self.0) }.leak();
        if waited.is_ok() && address != 0 {
            // SAFETY: `new` has it from `malloc_sync`, and nothing on the device uses it any more.
            let _ = unsafe { result::free_sync(address) };
        }
    }
}
