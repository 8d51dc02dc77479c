//! The CUDA executor of `sparse`: the steps of a [`Plan`], queued on the caller's stream. Nothing is allocated on the
//! device or waited for, so a product can be captured in a CUDA graph, once it has run: kernels, algorithms and cuSPARSELt's
//! own plans are made at their first use, or by [`prepare`]. (As all of cudarc, it needs event tracking disabled for that.)
//!
//! With cuSPARSELt a product begins with a [`Library`], which packs the weight and completes the plan:
//!
//! ```no_run
//! use twofour::compress::Compressed;
//! use twofour::matmul::Problem;
//! use twofour::sparse::cuda::{Multiply, With, multiply_into};
//! use twofour::sparse::library::Library;
//! use twofour::sparse::{Given, Libraries, Path, Plan};
//! use twofour::{Shape, bf16, device};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dense = vec![bf16::ZERO; 4096 * 4096];
//! let stream = device::context(0)?.default_stream();
//! let (tokens, shape) = (2048, Shape::new(4096, 4096));
//! let (limits, problem) = (device::limits(stream.context())?, Problem::new(tokens, shape));
//! let plan = Plan::by::<bf16>(Path::Cusparselt, &limits, problem, Given::WEIGHT, Libraries::find())?;
//!
//! let mut library = Library::new(stream.context())?;
//! let weight = library.pack_host(&stream, &Compressed::by_magnitude(shape, &dense)?)?;
//! let plan = library.complete::<bf16>(&stream, plan)?;
//! println!("{plan}");
//!
//! # let x = stream.alloc_zeros::<bf16>(tokens * 4096)?;
//! let mut y = stream.alloc_zeros::<bf16>(tokens * 4096)?;
//! let mut workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes().max(1))?;
//! let args = Multiply::new(weight.as_weight(), tokens, x.as_view(), y.as_view_mut());
//! multiply_into(&stream, With::library(&mut library), &plan, args.workspace(workspace.as_view_mut()))?;
//! # Ok(())
//! # }
//! ```

use crate::element::Factor;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView};

use super::library::Library;
use super::steps::{Step, rehearse};
use super::{Form, Path, Plan};
use crate::device;
use crate::device::launch::{launch, load};
use crate::error::{Error, Result};
use crate::matmul::cuda::Binder;
use crate::space::{Cuda, Raw};

pub use crate::dense::BlasLt;

/// [`super::Weight`] over a device's memory.
pub type Weight<'a, T> = super::Weight<'a, Cuda, T>;
/// [`super::Multiply`] over a device's memory.
pub type Multiply<'w, 'a, T> = super::Multiply<'w, 'a, Cuda, T>;

/// The libraries at hand. Own kernels need none: `With::default()`.
#[derive(Default)]
pub struct With<'a> {
    /// For [`Path::Dense`].
    pub blas: Option<&'a mut BlasLt>,
    /// For [`Path::Cusparselt`].
    pub library: Option<&'a mut Library>,
}

impl<'a> With<'a> {
    /// cuBLASLt.
    #[must_use]
    pub fn blas(blas: &'a mut BlasLt) -> Self {
        Self { blas: Some(blas), library: None }
    }

    /// cuSPARSELt.
    #[must_use]
    pub fn library(library: &'a mut Library) -> Self {
        Self { blas: None, library: Some(library) }
    }
}

/// Queues the product.
///
/// # Errors
/// What [`steps`](super::Multiply::steps) finds; [`Error::Misaligned`]; [`Error::ForeignContext`] (of libraries too);
/// [`Error::Missing`] without a library that is needed, or with a plan that it has not completed; and what finding or
/// launching kernels and algorithms may give. Unless the driver refuses a launch, either everything is queued or nothing.
pub fn multiply_into<T: Factor>(
    stream: &Arc<CudaStream>,
    with: With<'_>,
    plan: &Plan,
    mut args: Multiply<'_, '_, T>,
) -> Result<()> {
    args.check()?;
    let mut binder = Binder::new(stream);
    let raw = super::Multiply::<Raw, T> {
        problem: args.problem,
        weight: bind(&mut binder, &args.weight)?,
        x: binder.input("x", &args.x)?,
        bias: args.bias.as_ref().map(|bias| binder.input("bias", bias)).transpose()?,
        dense: args.dense.as_ref().map(|dense| binder.input("dense", dense)).transpose()?,
        y: binder.output("y", &mut args.y)?,
        workspace: binder.workspace(args.workspace.as_mut())?,
    };
    let steps = raw.steps(plan)?;
    if plan.path() == Path::Cusparselt {
        // The library's own checks take the views themselves.
        drop((raw, binder));
        return library(with.library)?.run(stream, plan, args);
    }
    // SAFETY: `steps` has checked every operand to be as long as its shape says and the work space to hold what the plan
    // takes, and the binder found them in the stream's context and holds their guards.
    unsafe { run(stream, with.blas, &steps) }
}

/// `Y = X Wᵀ`, plus the bias if there is one, `[T, N]`, in a new allocation on `stream`, beside a passing one for the
/// work space.
///
/// # Errors
/// As [`multiply_into`], and [`Error::Cuda`] if there is no memory, or none to allocate: the driver gives no empty array.
pub fn multiply<T: Factor>(
    stream: &Arc<CudaStream>,
    with: With<'_>,
    plan: &Plan,
    weight: Weight<'_, T>,
    x: CudaView<'_, T>,
    bias: Option<CudaView<'_, T::Output>>,
) -> Result<CudaSlice<T::Output>> {
    let problem = plan.problem();
    weight.check()?;
    let no_memory = device::driver_error("cuMemAllocAsync");
    // SAFETY: nothing reads it before a step has written it.
    let mut workspace = unsafe { stream.alloc::<u8>(plan.workspace_bytes().max(1)) }.map_err(&no_memory)?;
    // SAFETY: `multiply_into` overwrites every element before anything queued later reads one.
    let mut y = unsafe { stream.alloc::<T::Output>(problem.outputs()) }.map_err(&no_memory)?;
    let args = Multiply::new(weight, problem.tokens, x, y.as_view_mut()).workspace(workspace.as_view_mut());
    let args = match bias {
        Some(bias) => args.bias(bias),
        None => args,
    };
    multiply_into(stream, with, plan, args)?;
    Ok(y)
}

/// Loads the kernels and chooses the algorithms of a plan's product: it finds them then, at no cost. A product does it by
/// itself at its first use, but not while it is captured in a CUDA graph. (The libraries load an algorithm's code when it
/// first runs: a plan with [`Path::Dense`] or [`Path::Cusparselt`] must have run once before it is captured.)
///
/// # Errors
/// As [`multiply_into`], and [`Error::Unplanned`] for another type than the plan's.
pub fn prepare<T: Factor>(stream: &Arc<CudaStream>, with: With<'_>, plan: &Plan) -> Result<()> {
    let steps = rehearse::<T>(plan)?;
    if plan.path() == Path::Cusparselt {
        return library(with.library)?.prepare::<T>(stream, plan);
    }
    load_steps(stream, with.blas, &steps)
}

fn library(library: Option<&mut Library>) -> Result<&mut Library> {
    library.ok_or(Error::Missing { what: "a product by cuSPARSELt", missing: "no `library` was given" })
}

fn bind<'g, T: Factor>(binder: &mut Binder<'g>, weight: &'g Weight<'_, T>) -> Result<super::Weight<'static, Raw, T>> {
    let form = match &weight.form {
        Form::Packed { layout, values, metadata } => Form::Packed {
            layout: *layout,
            values: binder.input("values", values)?,
            metadata: binder.input("metadata", metadata)?,
        },
        Form::Library { bytes, origin } => Form::Library { bytes: binder.input("weight", bytes)?, origin: *origin },
    };
    Ok(super::Weight { shape: weight.shape, form })
}

/// What may fail before anything is queued.
fn load_steps(stream: &Arc<CudaStream>, mut blas: Option<&mut BlasLt>, steps: &[Step]) -> Result<()> {
    for step in steps {
        if let Step::BlasLt(call, ..) = step {
            let missing = Error::Missing { what: "a product by cuBLASLt", missing: "no `blas` was given" };
            blas.as_mut().ok_or(missing)?.prepare_on(stream, call)?;
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
            Step::Unpack(pass) => unsafe { launch(stream, pass) }?,
            // SAFETY: as above.
            Step::Product(pass) => unsafe { launch(stream, pass) }?,
            // SAFETY: as above.
            Step::Sum(pass) => unsafe { launch(stream, pass) }?,
            Step::BlasLt(call, addresses, bias) => {
                if let Some(blas) = blas.as_mut() {
                    // SAFETY: by this function's contract; C is an output, borrowed mutably, so it overlaps no operand.
                    unsafe { blas.multiply(stream, call, *addresses, *bias) }?;
                }
            }
            // The executor has taken it out.
            Step::Cusparselt => {}
        }
    }
    Ok(())
}
