//! What a step takes of the device's memory beyond weight, logits, their gradient and activations: measured, beside
//! what the plan says.

use super::super::Result;
use super::super::mask::for_types;
use super::super::matmul::{Case, LAMBDA};
use super::stream;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use twofour::cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits, result};
use twofour::matmul::{Backward, Forward, Keep, Layer, Masks, Plan};
use twofour::{Buffer, Executor, Float, Gpu, Logit};

/// Bytes of a step.
pub struct Taken {
    pub case: Case,
    pub keep: Keep,
    /// What stays from pass to pass, and the workspace, as planned.
    pub kept: usize,
    pub workspace: usize,
    /// What free memory went down by. The driver gives memory in pieces of 2 MiB.
    pub measured: usize,
}

pub fn taken(case: Case, keep: Keep) -> Result<Taken> {
    for_types!(case, measure(case, keep))
}

fn measure<L: Logit, W: Float>(case: Case, keep: Keep) -> Result<Taken> {
    let stream = stream()?;
    let gpu = Gpu::new(&stream)?;
    let masks = Masks::Sampled(case.kind);
    let plan = Plan::<L, W>::new(&gpu.limits(), gpu.libraries(), case.problem(), masks, keep)?;
    let mut step = Step::new(gpu, case, plan)?;
    // The first time, kernels and algorithms are loaded: not for this step alone.
    step.run(&mut Extra::new(&stream, &case, &plan)?)?;
    let before = free(&stream)?;
    let mut extra = Extra::new(&stream, &case, &plan)?;
    step.run(&mut extra)?;
    let measured = before.saturating_sub(free(&stream)?);
    Ok(Taken { case, keep, kept: plan.saved_bytes(), workspace: plan.workspace_bytes(), measured })
}

/// Free memory once nothing is under way.
fn free(stream: &CudaStream) -> Result<usize> {
    stream.synchronize()?;
    Ok(stream.context().mem_get_info()?.0)
}

/// What there is without a mask that is learnt, or once for all layers.
struct Step<L: Logit, W: Float> {
    case: Case,
    plan: Plan<L, W>,
    gpu: Gpu,
    logits: Buffer<L>,
    logit_gradient: Buffer<f32>,
    weight: Buffer<W>,
    /// `X` and `Y`, and their gradients.
    activations: [Buffer<W>; 4],
}

/// What is measured: no more than is kept, and the workspace.
struct Extra<W> {
    masked: Bare<W>,
    codes: Bare<u8>,
    workspace: Bare<u8>,
}

impl<W: Float> Extra<W> {
    fn new<L: Logit>(stream: &Arc<CudaStream>, case: &Case, plan: &Plan<L, W>) -> Result<Self> {
        let only = |keep, elements| if plan.keep() == keep { elements } else { 0 };
        Ok(Self {
            masked: Bare::new(stream, only(Keep::Masked, case.shape.weights()))?,
            codes: Bare::new(stream, only(Keep::Codes, case.shape.packed_codes()))?,
            workspace: Bare::new(stream, plan.workspace_bytes())?,
        })
    }
}

impl<L: Logit, W: Float> Step<L, W> {
    fn new(gpu: Gpu, case: Case, plan: Plan<L, W>) -> Result<Self> {
        let (problem, shape) = (case.problem(), case.shape);
        let activation = |elements| gpu.zeros(elements);
        Ok(Self {
            case,
            plan,
            logits: gpu.zeros(shape.logits())?,
            logit_gradient: gpu.zeros(shape.logits())?,
            weight: gpu.zeros(shape.weights())?,
            activations: [
                activation(problem.inputs())?,
                activation(problem.outputs())?,
                activation(problem.inputs())?,
                activation(problem.outputs())?,
            ],
            gpu,
        })
    }

    fn run(&mut self, extra: &mut Extra<W>) -> Result<()> {
        let Self { case, plan, gpu, logits, logit_gradient, weight, activations: [x, y, dx, dy] } = self;
        let Extra { masked, codes, workspace } = extra;
        let layer = Layer::sampled(case.shape, case.kind, case.sampling(), &*logits, &*weight);
        let pass = Forward::new(plan, &layer, &*x, y).workspace(&mut *workspace.0);
        gpu.run(match plan.keep() {
            Keep::Nothing => pass,
            Keep::Masked => pass.save_masked(&mut *masked.0),
            Keep::Codes => pass.save_codes(&mut *codes.0),
        })?;
        let pass = Backward::new(plan, &layer, &*dy).regulariser(LAMBDA).workspace(&mut *workspace.0);
        let pass = match plan.keep() {
            Keep::Nothing => pass,
            Keep::Masked => pass.use_masked(&*masked.0),
            Keep::Codes => pass.use_codes(&*codes.0),
        };
        gpu.run(pass.input_gradient(dx).logit_gradient(&*x, logit_gradient))?;
        Ok(gpu.stream().synchronize()?)
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
