//! A product made ready to run.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceSlice};

use super::algorithm::{self, Algorithm};
use super::descriptor::{MatmulDescriptor, PlanObject, Selection};
use super::handle::Handle;
use super::operands::{Addend, Addresses, Factors, Operands, long, within};
use super::problem::Problem;
use super::result;
use super::sys::cusparseLtMatmulAlgAttribute_t as AlgAttribute;
use crate::device::Binder;
use crate::device::driver_error;
use crate::element::{DType, Element};
use crate::error::{Error, Result};
use crate::space::{Cuda, Input, Output};

/// A product made ready to run on a device: descriptions, an algorithm, and a copy of the bias if there is one.
///
/// Making one costs the host some time, and device memory for the bias; running it allocates nothing. It holds its
/// handle, and stays on the handle's thread.
pub struct Plan {
    // Fields are dropped in this order: the plan refers to the selection, both to the product.
    plan: PlanObject,
    selection: Selection,
    product: MatmulDescriptor,
    bias: Option<BiasBuffer>,
    handle: Handle,
    problem: Problem,
    algorithms: u32,
    default: Algorithm,
    workspace_bytes: usize,
    compressed: CompressedSize,
}

/// Bytes for compressing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompressedSize {
    /// Of the result: kept values, then metadata. Only the library knows how many.
    pub bytes: usize,
    /// Of the buffer that the library works in.
    pub buffer_bytes: usize,
}

/// The plan's own copy of the bias, so that its address, which is part of the plan, never changes.
struct BiasBuffer {
    memory: CudaSlice<u8>,
    /// Whether it was ever written.
    set: bool,
}

/// What a search came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Searched {
    /// The algorithm, which the plan now has.
    pub algorithm: Algorithm,
    /// Whether it was remembered from an earlier search, so that nothing was run.
    pub remembered: bool,
}

impl Plan {
    /// A plan with the library's default algorithm. The stream is for the bias' memory.
    ///
    /// # Errors
    /// As [`Problem::check`]; [`Error::Cuda`] if the library has no such product on this device, or for want of memory.
    pub fn new(handle: &Handle, stream: &Arc<CudaStream>, problem: Problem) -> Result<Self> {
        Self::with_algorithm(handle, stream, problem, Algorithm::default())
    }

    /// A plan with this algorithm.
    ///
    /// # Errors
    /// As [`Plan::new`], and [`Error::Scalar`] if there is no algorithm of this number.
    pub fn with_algorithm(
        handle: &Handle,
        stream: &Arc<CudaStream>,
        problem: Problem,
        algorithm: Algorithm,
    ) -> Result<Self> {
        problem.check()?;
        handle.bind_for(stream)?;
        let bias = bias_buffer(stream, &problem)?;
        let product = describe(handle, stream, &problem, bias.as_ref())?;
        let selection = Selection::new(handle, &product)?;
        let (algorithms, default) = (algorithm::count(&selection)?, Algorithm::of(&selection));
        algorithm.apply(&selection)?;
        let plan = PlanObject::new(handle, &product, &selection)?;
        let (workspace_bytes, compressed) = (workspace_bytes(handle, &plan)?, compressed_size(handle, &plan)?);
        let handle = handle.clone();
        Ok(Self { plan, selection, product, bias, handle, problem, algorithms, default, workspace_bytes, compressed })
    }

    /// What the plan is for.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// How many algorithms the library has for it.
    #[must_use]
    pub fn algorithms(&self) -> u32 {
        self.algorithms
    }

    /// The algorithm it has, with the library's defaults spelt out.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        Algorithm::of(&self.selection)
    }

    /// Bytes of workspace that a run needs, on a 16-byte boundary. A search changes it.
    #[must_use]
    pub fn workspace_bytes(&self) -> usize {
        self.workspace_bytes
    }

    /// Bytes of the compressed weight, all batches.
    #[must_use]
    pub fn compressed_size(&self) -> CompressedSize {
        self.compressed
    }

    /// Queues the compression of `W`, all batches: `compressed` is overwritten with what this library on this device
    /// reads. Of a matrix that is not 2:4 the library keeps what it likes: see [`Plan::check_pruned`].
    ///
    /// # Errors
    /// [`Error::Unplanned`] for another format; [`Error::Length`], [`Error::Workspace`], [`Error::Misaligned`],
    /// [`Error::ForeignContext`], [`Error::ForeignHandle`] of an operand; [`Error::Cuda`].
    pub fn compress<'a, X: Element>(
        &self,
        stream: &Arc<CudaStream>,
        dense: impl Input<'a, Space = Cuda, Element = X>,
        compressed: impl Output<'a, Space = Cuda, Element = u8>,
        buffer: impl Output<'a, Space = Cuda, Element = u8>,
    ) -> Result<()> {
        planned("the weight", self.problem.types.operand(), X::DTYPE)?;
        self.handle.bind_for(stream)?;
        let (dense, mut compressed, mut buffer) = (dense.input(), compressed.output(), buffer.output());
        let mut binder = Binder::new(stream);
        let from = long("weight", binder.input("weight", &dense)?, self.dense_elements())?;
        let to = long("compressed", binder.output("compressed", &mut compressed)?, self.compressed.bytes as u64)?;
        let within = within(&mut binder, Some(&mut buffer), self.compressed.buffer_bytes as u64)?;
        let (library, handle, plan) = (self.handle.library(), self.handle.raw(), self.plan.get());
        let [from, to, within] = [from, to, within].map(|address| address as *mut c_void);
        // SAFETY: handle and plan are live; the addresses are of at least as many bytes as the library asked for, and
        // the binder's guards and the stream's order keep them until the work is done.
        unsafe { result::plan_compress(library, handle, plan, from, to, within, stream.cu_stream().cast()) }
    }

    /// Queues the check that `W` is 2:4: `verdict[0]` becomes 0 if all batches are, and another number if not.
    ///
    /// # Errors
    /// As [`Plan::compress`].
    pub fn check_pruned<'a, X: Element>(
        &self,
        stream: &Arc<CudaStream>,
        dense: impl Input<'a, Space = Cuda, Element = X>,
        verdict: impl Output<'a, Space = Cuda, Element = i32>,
    ) -> Result<()> {
        planned("the weight", self.problem.types.operand(), X::DTYPE)?;
        self.handle.bind_for(stream)?;
        let (dense, mut verdict) = (dense.input(), verdict.output());
        let mut binder = Binder::new(stream);
        let from = long("weight", binder.input("weight", &dense)?, self.dense_elements())? as *const c_void;
        let to = long("verdict", binder.output("verdict", &mut verdict)?, 1)? as *mut i32;
        let (library, handle, product) = (self.handle.library(), self.handle.raw(), self.product.get());
        // SAFETY: handle and product are live; the addresses are of a whole weight and of one number, and the binder's
        // guards and the stream's order keep them until the work is done.
        unsafe { result::matmul_prune_check(library, handle, product, from, to, stream.cu_stream().cast()) }
    }

    /// Queues a copy of the bias into the plan: N values a bias, of the format of [`Types::bias`](super::Types::bias).
    /// To be called before the first run, and after every change of the bias.
    ///
    /// # Errors
    /// [`Error::Missing`] for a plan without a bias; else as [`Plan::compress`].
    pub fn set_bias<'a, B: Element>(
        &mut self,
        stream: &Arc<CudaStream>,
        bias: impl Input<'a, Space = Cuda, Element = B>,
    ) -> Result<()> {
        if self.bias.is_none() {
            return Err(Error::Missing { what: "set_bias", missing: "the plan's problem has no bias" });
        }
        planned("the bias", self.problem.types.bias(), B::DTYPE)?;
        self.handle.bind_for(stream)?;
        let bias = bias.input();
        let mut binder = Binder::new(stream);
        let from = long("bias", binder.input("bias", &bias)?, self.problem.bias_elements() as u64)?;
        // SAFETY: the address is of as many values as the bias has, and the binder's guards and the stream's order keep
        // it until the copy is done.
        unsafe { self.copy_bias(stream, from) }
    }

    /// Queues the copy of a bias at an address.
    ///
    /// # Safety
    /// The address is in the stream's context, of as many values as the problem's bias has, and stays valid until they
    /// are copied.
    pub(super) unsafe fn copy_bias(&mut self, stream: &Arc<CudaStream>, from: u64) -> Result<()> {
        let Some(buffer) = &mut self.bias else { return Ok(()) };
        let bytes = buffer.memory.len();
        let (to, _guard) = buffer.memory.device_ptr_mut(stream);
        // SAFETY: the plan's memory is as long as the bias, which is what this function asks of the other address; the
        // guard and the stream's order keep it until the copy is done.
        let copied = unsafe { cudarc::driver::result::memcpy_dtod_async(to, from, bytes, stream.cu_stream()) };
        copied.map_err(driver_error("cuMemcpyDtoDAsync"))?;
        buffer.set = true;
        Ok(())
    }

    /// Queues the product on the stream, which may be capturing a CUDA graph.
    ///
    /// # Errors
    /// [`Error::Unplanned`] for operands or an α that the plan is not for, [`Error::Missing`] before the bias was set,
    /// [`Error::Scalar`] for an α or β that is not finite, or a β beside an α for each row, which the library would
    /// ignore; else as [`Plan::compress`].
    pub fn run<X: Element, Y: Element>(
        &self,
        stream: &Arc<CudaStream>,
        mut operands: Operands<'_, X, Y>,
    ) -> Result<()> {
        let mut binder = Binder::new(stream);
        let (at, factors) = self.bind(stream, &mut binder, &mut operands)?;
        // SAFETY: the operands were checked for length and alignment, and the binder's guards and the stream's order
        // keep them until the work is done.
        unsafe { self.run_at(stream, &at, &factors) }
    }

    /// Queues the product of operands at these addresses.
    ///
    /// # Safety
    /// The addresses are in the stream's context, on 16-byte boundaries, of as many elements as the problem says, the
    /// workspace of [`Plan::workspace_bytes`]; they stay valid, and nothing else touches what is written, until the
    /// product has run.
    pub(super) unsafe fn run_at(&self, stream: &Arc<CudaStream>, at: &Addresses, factors: &Factors) -> Result<()> {
        self.handle.bind_for(stream)?;
        self.has_bias()?;
        // Orders the work after what was queued for the bias, whose address is in the plan.
        let _bias = self.bias.as_ref().map(|bias| bias.memory.device_ptr(stream));
        let (library, handle, plan) = (self.handle.library(), self.handle.raw(), self.plan.get());
        let (alpha, beta) = factors.addresses();
        let (mut streams, [a, b, c, d, workspace]) = ([stream.cu_stream().cast()], at.pointers());
        // SAFETY: handle and plan are live; the addresses are good by this function's contract; the factors are read
        // before the call returns.
        unsafe { result::matmul(library, handle, plan, alpha, a, b, beta, c, d, workspace, streams.as_mut_ptr(), 1) }
    }

    /// Sees that the bias was set, if there is one.
    fn has_bias(&self) -> Result<()> {
        match &self.bias {
            Some(BiasBuffer { set: false, .. }) => {
                Err(Error::Missing { what: "a run with a bias", missing: "the plan's `set_bias` was not called" })
            }
            _ => Ok(()),
        }
    }

    /// Gives the plan the fastest algorithm for this device: one that a search in this process has found before, else
    /// by running all of them on these operands, `iterations` times each, and waiting. `dense` is the weight as it is
    /// before it is compressed. The output is overwritten with something of no use; ask for the size of the workspace
    /// anew.
    ///
    /// # Errors
    /// As [`Plan::run`], and [`Error::Scalar`] without iterations. Afterwards the plan is as it was.
    pub fn search<'a, X: Element, Y: Element>(
        &mut self,
        stream: &Arc<CudaStream>,
        mut operands: Operands<'_, X, Y>,
        dense: impl Input<'a, Space = Cuda, Element = X>,
        iterations: u32,
    ) -> Result<Searched> {
        let limit = i32::try_from(iterations).ok().filter(|&count| count > 0);
        let limit = limit.ok_or(Error::Scalar {
            what: "iterations",
            value: f64::from(iterations),
            must: "positive and below 2^31",
        })?;
        let given = operands.workspace.as_ref().map_or(0, DeviceSlice::len);
        let dense = dense.input();
        let mut binder = Binder::new(stream);
        let (at, factors) = self.bind(stream, &mut binder, &mut operands)?;
        self.has_bias()?;
        let dense = long("weight", binder.input("weight", &dense)?, self.dense_elements())?;
        let key = algorithm::Key::of(&self.handle, &self.problem, factors.adds());
        if let Some(algorithm) = algorithm::recall(&key) {
            drop(binder);
            self.adopt(algorithm)?;
            return Ok(Searched { algorithm, remembered: true });
        }
        // On objects of its own: a search that fails leaves ours alone, and they never learn the dense weight's
        // address.
        let product = describe(&self.handle, stream, &self.problem, self.bias.as_ref())?;
        product.set_dense_weight(dense)?;
        let selection = Selection::new(&self.handle, &product)?;
        selection.set(AlgAttribute::CUSPARSELT_MATMUL_SEARCH_ITERATIONS, limit)?;
        let plan = PlanObject::new(&self.handle, &product, &selection)?;
        let needed = workspace_bytes(&self.handle, &plan)?;
        if given < needed {
            return Err(Error::Workspace { needed: needed as u64, got: given as u64 });
        }
        // Orders the work after what was queued for the bias.
        let bias = self.bias.as_ref().map(|bias| bias.memory.device_ptr(stream));
        let (library, handle) = (self.handle.library(), self.handle.raw());
        let (alpha, beta) = factors.addresses();
        let (mut streams, [a, b, c, d, workspace]) = ([stream.cu_stream().cast()], at.pointers());
        // SAFETY: as in `run`; the dense weight is kept by its guard too, and the library waits for its work.
        unsafe {
            result::search(library, handle, plan.get(), alpha, a, b, beta, c, d, workspace, streams.as_mut_ptr(), 1)
        }?;
        drop((binder, bias));
        let algorithm = Algorithm::of(&selection).beyond(self.default);
        self.adopt(algorithm)?;
        algorithm::remember(key, algorithm);
        Ok(Searched { algorithm, remembered: false })
    }

    /// Makes the plan anew with an algorithm.
    fn adopt(&mut self, algorithm: Algorithm) -> Result<()> {
        let selection = Selection::new(&self.handle, &self.product)?;
        algorithm.apply(&selection)?;
        let plan = PlanObject::new(&self.handle, &self.product, &selection)?;
        self.workspace_bytes = workspace_bytes(&self.handle, &plan)?;
        // In this order: the old plan refers to the old selection.
        self.plan = plan;
        self.selection = selection;
        Ok(())
    }

    /// Elements of `W` before it is compressed.
    fn dense_elements(&self) -> u64 {
        self.problem.w().elements(self.problem.batches)
    }

    /// Checks the operands and finds their addresses.
    fn bind<'g, X: Element, Y: Element>(
        &self,
        stream: &Arc<CudaStream>,
        binder: &mut Binder<'g, Cuda>,
        operands: &'g mut Operands<'_, X, Y>,
    ) -> Result<(Addresses, Factors)> {
        let Problem { types, batches, .. } = self.problem;
        planned("the input", types.operand(), X::DTYPE)?;
        planned("the output", types.result(), Y::DTYPE)?;
        self.handle.bind_for(stream)?;
        let output_elements = self.problem.y().elements(batches);
        let weight = long("weight", binder.input("weight", &operands.weight)?, self.compressed.bytes as u64)?;
        let input = long("input", binder.input("input", &operands.input)?, self.problem.x().elements(batches))?;
        let output = long("output", binder.output("output", &mut operands.output)?, output_elements)?;
        let (addend, beta) = match &operands.addend {
            Addend::Nothing => (output, 0.0),
            Addend::Output { beta } => (output, *beta),
            Addend::Other { view, beta } => (long("addend", binder.input("addend", view)?, output_elements)?, *beta),
        };
        let factors = Factors::new(binder, &operands.alpha, beta, &self.problem)?;
        let workspace = within(binder, operands.workspace.as_mut(), self.workspace_bytes as u64)?;
        Ok((Addresses { weight, input, addend, output, workspace }, factors))
    }
}

fn describe(
    handle: &Handle,
    stream: &CudaStream,
    problem: &Problem,
    bias: Option<&BiasBuffer>,
) -> Result<MatmulDescriptor> {
    let product = MatmulDescriptor::new(handle, problem)?;
    if let Some(bias) = bias {
        product.set_bias(bias.memory.device_ptr(stream).0)?;
    }
    Ok(product)
}

fn bias_buffer(stream: &Arc<CudaStream>, problem: &Problem) -> Result<Option<BiasBuffer>> {
    let bytes = problem.bias_elements().saturating_mul(problem.types.bias().size());
    if bytes == 0 {
        return Ok(None);
    }
    let memory = stream.alloc_zeros::<u8>(bytes).map_err(driver_error("cuMemAllocAsync"))?;
    Ok(Some(BiasBuffer { memory, set: false }))
}

fn workspace_bytes(handle: &Handle, plan: &PlanObject) -> Result<usize> {
    let mut bytes = 0;
    // SAFETY: handle and plan are live, and the call writes one number.
    unsafe { result::workspace(handle.library(), handle.raw(), plan.get(), &mut bytes) }?;
    Ok(bytes)
}

fn compressed_size(handle: &Handle, plan: &PlanObject) -> Result<CompressedSize> {
    let mut size = CompressedSize { bytes: 0, buffer_bytes: 0 };
    let (bytes, buffer) = (&raw mut size.bytes, &raw mut size.buffer_bytes);
    // SAFETY: handle and plan are live, and the call writes two numbers.
    unsafe { result::plan_compressed_size(handle.library(), handle.raw(), plan.get(), bytes, buffer) }?;
    Ok(size)
}

fn planned(what: &str, planned: DType, given: DType) -> Result<()> {
    if planned == given {
        return Ok(());
    }
    Err(Error::Unplanned { planned: format!("{what} in {planned}"), given: given.to_string() })
}
