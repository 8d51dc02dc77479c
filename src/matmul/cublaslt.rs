//! Dense products through cuBLASLt, with 16-bit operands and an `f32` result where that is wanted, which cudarc's safe
//! layer does not offer.
//!
//! A [`BlasLt`] remembers, for each product it has met, descriptors and the algorithm that the library's heuristic chose.
//! So the heuristic is asked once a product, and a product met before costs one call into the library: no allocation
//! on the device, no copy, no synchronisation.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublaslt::{result, sys};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DevicePtrMut};
use result::CublasError;
use sys::cublasLtMatmulDescAttributes_t as DescAttribute;
use sys::cublasLtMatmulPreferenceAttributes_t as PrefAttribute;

use super::Problem;
use crate::device::{driver_error, probe};
use crate::element::{DType, Element};
use crate::error::{Error, Result};

/// What the heuristic may count on, and what operands are checked for.
pub(super) const ALIGN: u64 = 16;
/// Products remembered at most; then it starts anew.
const MOST_PLANS: usize = 1024;

/// A row-major product `C [rows, cols] = A [rows, depth] · B [depth, cols]`, each operand possibly stored as its transpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Product {
    rows: usize,
    depth: usize,
    cols: usize,
    a_transposed: bool,
    b_transposed: bool,
    operands: DType,
    result: DType,
}

impl Product {
    /// `Y = X (W∘M)ᵀ`.
    pub(super) fn output(problem: Problem, dtype: DType) -> Self {
        let Problem { tokens, shape } = problem;
        let (rows, depth, cols) = (tokens, shape.cols, shape.rows);
        Self { rows, depth, cols, a_transposed: false, b_transposed: true, operands: dtype, result: dtype }
    }

    /// `dX = dY (W∘M)`.
    pub(super) fn input_gradient(problem: Problem, dtype: DType) -> Self {
        let Problem { tokens, shape } = problem;
        let (rows, depth, cols) = (tokens, shape.rows, shape.cols);
        Self { rows, depth, cols, a_transposed: false, b_transposed: false, operands: dtype, result: dtype }
    }

    /// `G = dYᵀ X`, in `f32` whatever the operands are.
    pub(super) fn weight_gradient(problem: Problem, dtype: DType) -> Self {
        let Problem { tokens, shape } = problem;
        let (rows, depth, cols) = (shape.rows, tokens, shape.cols);
        Self { rows, depth, cols, a_transposed: true, b_transposed: false, operands: dtype, result: DType::F32 }
    }

    fn is_empty(&self) -> bool {
        self.rows == 0 || self.cols == 0
    }

    fn result_bytes(&self) -> usize {
        self.rows * self.cols * self.result.size()
    }
}

/// A handle to cuBLASLt, its work space, and the algorithms chosen so far.
///
/// Make one for a device and thread and keep it: making it opens the library and allocates; using it does not. It serves
/// every stream of its context. Calls on different streams wait for one another through the work space, by cudarc's
/// event tracking; where that is disabled, as capturing a CUDA graph needs, use one handle a stream.
pub struct BlasLt {
    // Fields are dropped in this order: what the library made, then its handle.
    plans: HashMap<Product, Plan>,
    handle: Handle,
    workspace: CudaSlice<u8>,
}

impl BlasLt {
    /// Bytes of the work space of [`BlasLt::new`]: NVIDIA's recommendation for Hopper, ample elsewhere.
    pub const WORKSPACE_BYTES: usize = 32 << 20;

    /// A handle for the stream's context, with a work space of its own.
    ///
    /// # Errors
    /// [`Error::LibraryUnavailable`] without cuBLASLt, [`Error::Cuda`] if it or the driver refuses, for want of memory too.
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        probe::cublaslt()?;
        let workspace = stream.alloc_zeros(Self::WORKSPACE_BYTES).map_err(driver_error("cuMemAllocAsync"))?;
        Self::with_workspace(workspace)
    }

    /// A handle for the context of `workspace`, which it uses whole and frees in the end. It may be small, at the price of
    /// algorithms that need more.
    ///
    /// # Errors
    /// As [`BlasLt::new`], and [`Error::Misaligned`] unless `workspace` starts on a 16-byte boundary.
    pub fn with_workspace(workspace: CudaSlice<u8>) -> Result<Self> {
        probe::cublaslt()?;
        let stream = workspace.stream();
        stream.context().bind_to_thread().map_err(driver_error("cuCtxSetCurrent"))?;
        let address = workspace.device_ptr(stream).0;
        if !address.is_multiple_of(ALIGN) {
            return Err(Error::Misaligned { what: "workspace", address, align: ALIGN });
        }
        let raw = result::create_handle().map_err(blas_error("cublasLtCreate"))?;
        let handle = Handle { raw, context: Arc::clone(stream.context()) };
        Ok(Self { plans: HashMap::new(), handle, workspace })
    }

    /// Chooses the algorithms of the three products of a problem with operands of type `W`, so that later passes find
    /// them. (The library loads an algorithm's code when it first runs: run once what is to be captured in a CUDA graph.)
    ///
    /// # Errors
    /// [`Error::Cuda`] if the library has no algorithm for one of them.
    pub fn prepare<W: Element>(&mut self, problem: Problem) -> Result<()> {
        problem.check()?;
        self.plan(&Product::output(problem, W::DTYPE))?;
        self.plan(&Product::input_gradient(problem, W::DTYPE))?;
        self.plan(&Product::weight_gradient(problem, W::DTYPE))
    }

    /// Checks that the handle serves the stream, and plans a product if it is not: what may fail before anything is queued.
    pub(super) fn prepare_on(&mut self, stream: &CudaStream, product: &Product) -> Result<()> {
        if stream.context().cu_ctx() != self.handle.context.cu_ctx() {
            return Err(Error::ForeignContext { what: "blas" });
        }
        self.plan(product)
    }

    fn plan(&mut self, product: &Product) -> Result<()> {
        if product.is_empty() || product.depth == 0 {
            return Ok(());
        }
        if self.plans.len() >= MOST_PLANS && !self.plans.contains_key(product) {
            self.plans.clear();
        }
        if let Entry::Vacant(vacant) = self.plans.entry(*product) {
            self.handle.context.bind_to_thread().map_err(driver_error("cuCtxSetCurrent"))?;
            vacant.insert(Plan::new(self.handle.raw, product, self.workspace.len())?);
        }
        Ok(())
    }

    /// Queues a product: `c` is overwritten.
    ///
    /// # Safety
    /// `a`, `b` and `c` are addresses in the stream's context, on 16-byte boundaries, of as many elements as the product
    /// says, the last overlapping neither other; they stay valid, and nothing else touches `c`, until the product has run.
    pub(super) unsafe fn multiply(
        &mut self,
        stream: &Arc<CudaStream>,
        product: &Product,
        [a, b, c]: [u64; 3],
    ) -> Result<()> {
        self.prepare_on(stream, product)?;
        if product.is_empty() {
            return Ok(());
        }
        stream.context().bind_to_thread().map_err(driver_error("cuCtxSetCurrent"))?;
        let Some(plan) = self.plans.get(product) else {
            // Only a sum over nothing is not planned.
            let bytes = product.result_bytes();
            // SAFETY: `c` holds that many bytes, by this function's contract, and zero bits are the number zero.
            let set = unsafe { cudarc::driver::result::memset_d8_async(c, 0, bytes, stream.cu_stream()) };
            return set.map_err(driver_error("cuMemsetD8Async"));
        };
        let bytes = self.workspace.len();
        let (workspace, _guard) = self.workspace.device_ptr_mut(stream);
        // SAFETY: the addresses are good by this function's contract, the work space by the guard, which makes this
        // stream wait for its last use and the next use wait for this stream.
        unsafe { plan.run(self.handle.raw, [a, b, c], (workspace, bytes), stream) }
    }
}

/// The library's handle.
struct Handle {
    raw: sys::cublasLtHandle_t,
    /// What the handle was made in.
    context: Arc<CudaContext>,
}

// SAFETY: a cuBLASLt handle is bound to a device and not to a thread.
unsafe impl Send for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // Nothing can be done here about a context or a library that is already going down.
        let _ = self.context.bind_to_thread();
        // SAFETY: the handle is live, and this is its only owner.
        let _ = unsafe { result::destroy_handle(self.raw) };
    }
}

/// Everything the library asks for about a product.
struct Plan {
    description: Description,
    /// The first operand in the library's order, which is our `b`.
    first: Layout,
    /// Our `a`.
    second: Layout,
    result: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

// SAFETY: descriptors are plain memory of the library, bound to no thread.
unsafe impl Send for Plan {}

impl Plan {
    /// cuBLASLt is column-major: where we keep a row-major `[r, c]`, it sees its transpose, `[c, r]`. So `C = A·B` is asked
    /// for as `Cᵀ = Bᵀ·Aᵀ`: the operands change places, and an operand is to be transposed for the library exactly if
    /// it is for us.
    fn new(handle: sys::cublasLtHandle_t, product: &Product, workspace_bytes: usize) -> Result<Self> {
        let Product { rows, depth, cols, a_transposed, b_transposed, .. } = *product;
        let a = if a_transposed { [depth, rows] } else { [rows, depth] };
        let b = if b_transposed { [cols, depth] } else { [depth, cols] };
        let description = Description::new()?;
        description.transpose(DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA, b_transposed)?;
        description.transpose(DescAttribute::CUBLASLT_MATMUL_DESC_TRANSB, a_transposed)?;
        let first = Layout::new(product.operands, b)?;
        let second = Layout::new(product.operands, a)?;
        let result = Layout::new(product.result, [rows, cols])?;
        let preference = Preference::new(workspace_bytes)?;
        let (desc, pref) = (description.0, preference.0);
        // SAFETY: all descriptors are live.
        let choice =
            unsafe { result::get_matmul_algo_heuristic(handle, desc, first.0, second.0, result.0, result.0, pref) };
        let algorithm = choice.map_err(blas_error("cublasLtMatmulAlgoGetHeuristic"))?.algo;
        Ok(Self { description, first, second, result, algorithm })
    }

    /// Queues the product.
    ///
    /// # Safety
    /// As [`BlasLt::multiply`], with the context current; the work space too is good until the product has run, and as
    /// large as the plan was made for.
    unsafe fn run(
        &self,
        handle: sys::cublasLtHandle_t,
        [a, b, c]: [u64; 3],
        (workspace, workspace_bytes): (u64, usize),
        stream: &CudaStream,
    ) -> Result<()> {
        let (one, zero) = (1.0_f32, 0.0_f32);
        let (alpha, beta) = ((&raw const one).cast(), (&raw const zero).cast());
        let (first, second, result) = (b as *const c_void, a as *const c_void, c as *mut c_void);
        // SAFETY: handle and descriptors are live; the addresses are good by this function's contract; the factors are
        // `f32`, as the description says, and read before the call returns. With a zero beta, C is not read.
        let queued = unsafe {
            result::matmul(
                handle,
                self.description.0,
                alpha,
                beta,
                first,
                self.first.0,
                second,
                self.second.0,
                result.cast_const(),
                self.result.0,
                result,
                self.result.0,
                &raw const self.algorithm,
                workspace as *mut c_void,
                workspace_bytes,
                stream.cu_stream().cast(),
            )
        };
        queued.map_err(blas_error("cublasLtMatmul"))
    }
}

/// An operation's description: sums and factors in `f32`. (For `f32` operands that is without TF32.)
struct Description(sys::cublasLtMatmulDesc_t);

impl Description {
    fn new() -> Result<Self> {
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let made = result::create_matmul_desc(compute, sys::cudaDataType_t::CUDA_R_32F);
        made.map(Self).map_err(blas_error("cublasLtMatmulDescCreate"))
    }

    fn transpose(&self, attribute: DescAttribute, transposed: bool) -> Result<()> {
        // `cublasOperation_t`: N is 0, T is 1.
        let operation = i32::from(transposed);
        // SAFETY: the descriptor is live, and the attribute is four bytes, which the call copies.
        let set = unsafe { result::set_matmul_desc_attribute(self.0, attribute, (&raw const operation).cast(), 4) };
        set.map_err(blas_error("cublasLtMatmulDescSetAttribute"))
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: the descriptor is live, and this is its only owner.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// A matrix as the library sees it.
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    /// Of a row-major matrix.
    fn new(dtype: DType, [rows, cols]: [usize; 2]) -> Result<Self> {
        let dtype = match dtype {
            DType::F32 => sys::cudaDataType_t::CUDA_R_32F,
            DType::F16 => sys::cudaDataType_t::CUDA_R_16F,
            DType::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
        };
        let made = result::create_matrix_layout(dtype, cols as u64, rows as u64, cols as i64);
        made.map(Self).map_err(blas_error("cublasLtMatrixLayoutCreate"))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: the layout is live, and this is its only owner.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// What the heuristic may choose from.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new(workspace_bytes: usize) -> Result<Self> {
        let made = result::create_matmul_pref().map(Self).map_err(blas_error("cublasLtMatmulPreferenceCreate"))?;
        made.set(PrefAttribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &(workspace_bytes as u64))?;
        // Where the contraction is split, parts are added up in f32, never in the result's 16 bits.
        let in_f32 = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        made.set(PrefAttribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &in_f32)?;
        for operand in [
            PrefAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            PrefAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            PrefAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            PrefAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            made.set(operand, &(ALIGN as u32))?;
        }
        Ok(made)
    }

    fn set<T: bytemuck::Pod>(&self, attribute: PrefAttribute, value: &T) -> Result<()> {
        let (from, bytes) = ((&raw const *value).cast(), size_of::<T>());
        // SAFETY: the preference is live, and the call copies that many bytes; it checks that the attribute has as many.
        let set = unsafe { result::set_matmul_pref_attribute(self.0, attribute, from, bytes) };
        set.map_err(blas_error("cublasLtMatmulPreferenceSetAttribute"))
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: the preference is live, and this is its only owner.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

/// Names the call that failed.
fn blas_error(call: &'static str) -> impl Fn(CublasError) -> Error {
    move |CublasError(status)| Error::Cuda { call, name: format!("{status:?}"), code: status as i64 }
}
