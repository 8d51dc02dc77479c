//! Dense products through cuBLASLt, with 16-bit operands and an `f32` result where that is wanted, and of `i8`
//! operands, which cudarc's safe layer does not offer.
//!
//! A [`Cublaslt`] remembers, for each product it has met, descriptors and the algorithm that the library's heuristic
//! chose. So the heuristic is asked once a product, and a product met before costs one call into the library: no
//! allocation on the device, no copy, no synchronisation.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublaslt::{result, sys};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DevicePtrMut};
use result::CublasError;
use sys::cublasLtMatmulDescAttributes_t as DescAttribute;

use descriptor::{Description, Layout, Preference};

use super::product::{Call, Form};
use crate::device::{driver_error, probe};
use crate::error::{Error, Result};

mod descriptor;

/// What the heuristic may count on, and what operands are checked for.
pub(crate) const ALIGN: u64 = 16;
/// Products remembered at most; then it starts anew.
const MOST_PLANS: usize = 1024;

/// A handle to cuBLASLt, its workspace, and the algorithms chosen so far.
///
/// Make one for a device and thread and keep it: making it opens the library and allocates; using it does not. It
/// serves every stream of its context. Calls on different streams wait for one another through the workspace, by
/// cudarc's event tracking; where that is disabled, as capturing a CUDA graph needs, use one handle a stream.
pub(crate) struct Cublaslt {
    // Fields are dropped in this order: what the library made, then its handle.
    plans: HashMap<Form, Plan>,
    handle: Handle,
    workspace: CudaSlice<u8>,
}

impl Cublaslt {
    /// Bytes of the workspace of [`Cublaslt::new`]: NVIDIA's recommendation for Hopper, ample elsewhere.
    const WORKSPACE_BYTES: usize = 32 << 20;

    /// A handle for the stream's context, with a workspace of its own.
    ///
    /// # Errors
    /// [`Error::LibraryUnavailable`] without cuBLASLt, [`Error::Cuda`] if it or the driver refuses, for want of memory
    /// too.
    pub(crate) fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        probe::cublaslt()?;
        let workspace = stream.alloc_zeros(Self::WORKSPACE_BYTES).map_err(driver_error("cuMemAllocAsync"))?;
        Self::with_workspace(workspace)
    }

    /// A handle for the context of `workspace`, which it uses whole and frees in the end. It may be small, at the
    /// price of algorithms that need more.
    ///
    /// # Errors
    /// As [`Cublaslt::new`], and [`Error::Misaligned`] unless `workspace` starts on a 16-byte boundary.
    fn with_workspace(workspace: CudaSlice<u8>) -> Result<Self> {
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

    /// Whether a product is planned, or needs no plan.
    pub(crate) fn has(&self, form: &Form) -> bool {
        form.product.is_empty() || form.product.depth == 0 || self.plans.contains_key(form)
    }

    /// Forgets all plans if there are too many. Not between the products of a pass.
    pub(crate) fn trim(&mut self) {
        if self.plans.len() >= MOST_PLANS {
            self.plans.clear();
        }
    }

    /// Checks that the handle serves the stream, and plans a product if it is not: what may fail before anything is
    /// queued.
    pub(crate) fn prepare(&mut self, stream: &CudaStream, form: &Form) -> Result<()> {
        if stream.context().cu_ctx() != self.handle.context.cu_ctx() {
            return Err(Error::ForeignContext { what: "cuBLASLt" });
        }
        if self.has(form) {
            return Ok(());
        }
        if let Entry::Vacant(vacant) = self.plans.entry(*form) {
            self.handle.context.bind_to_thread().map_err(driver_error("cuCtxSetCurrent"))?;
            vacant.insert(Plan::new(self.handle.raw, form, self.workspace.len())?);
        }
        Ok(())
    }

    /// Queues a product: `c` is overwritten. An empty sum has no bias.
    ///
    /// # Safety
    /// `a`, `b` and `c` are addresses in the stream's context, on 16-byte boundaries, of as many elements as the
    /// product says, the last overlapping neither other, and so is `bias` of a value for each column of C, if the form
    /// has one; they stay valid, and nothing else touches `c`, until the product has run.
    pub(crate) unsafe fn multiply(&mut self, stream: &Arc<CudaStream>, call: &Call) -> Result<()> {
        let Call { form, a, b, c, bias } = *call;
        self.prepare(stream, &form)?;
        let product = &form.product;
        if product.is_empty() {
            return Ok(());
        }
        stream.context().bind_to_thread().map_err(driver_error("cuCtxSetCurrent"))?;
        let Some(plan) = self.plans.get(&form) else {
            // Only a sum over nothing is not planned.
            let bytes = product.result_bytes();
            // SAFETY: `c` holds that many bytes, by this function's contract, and zero bits are the number zero.
            let set = unsafe { cudarc::driver::result::memset_d8_async(c, 0, bytes, stream.cu_stream()) };
            return set.map_err(driver_error("cuMemsetD8Async"));
        };
        let bytes = self.workspace.len();
        let (workspace, _guard) = self.workspace.device_ptr_mut(stream);
        // SAFETY: the addresses are good by this function's contract, the workspace by the guard, which makes this
        // stream wait for its last use and the next use wait for this stream.
        unsafe { plan.run(self.handle.raw, [a, b, c], bias, (workspace, bytes), stream) }
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
///
/// cuBLASLt is column-major: where we keep a row-major `[r, c]`, it sees its transpose, `[c, r]`. So `C = A·B` is
/// asked for as `Cᵀ = Bᵀ·Aᵀ`: the operands change places, and an operand is to be transposed for the library exactly
/// if it is for us.
struct Plan {
    description: Description,
    /// The first operand in the library's order, which is our `b`.
    first: Layout,
    /// Our `a`.
    second: Layout,
    result: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
    /// Whether sums and factors are in `i32`.
    integer: bool,
    bias: bool,
}

// SAFETY: descriptors are plain memory of the library, bound to no thread.
unsafe impl Send for Plan {}

impl Plan {
    fn new(handle: sys::cublasLtHandle_t, form: &Form, workspace_bytes: usize) -> Result<Self> {
        let Form { product, bias } = form;
        let description = Description::new(product.is_integer())?;
        if *bias {
            description.adds_bias()?;
        }
        description.transpose(DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA, product.b_transposed)?;
        description.transpose(DescAttribute::CUBLASLT_MATMUL_DESC_TRANSB, product.a_transposed)?;
        let [a, b, c] = product.stored();
        let [operands, results] = [product.operands, product.result].map(descriptor::format);
        let first = Layout::new(operands, b)?;
        let second = Layout::new(operands, a)?;
        let result = Layout::new(results, c)?;
        let preference = Preference::new(workspace_bytes)?;
        let (desc, pref) = (description.0, preference.0);
        // SAFETY: all descriptors are live.
        let choice =
            unsafe { result::get_matmul_algo_heuristic(handle, desc, first.0, second.0, result.0, result.0, pref) };
        let algorithm = choice.map_err(blas_error("cublasLtMatmulAlgoGetHeuristic"))?.algo;
        Ok(Self { description, first, second, result, algorithm, integer: product.is_integer(), bias: *bias })
    }

    /// Queues the product.
    ///
    /// # Safety
    /// As [`Cublaslt::multiply`], with the context current; the workspace too is good until the product has run, and as
    /// large as the plan was made for.
    unsafe fn run(
        &self,
        handle: sys::cublasLtHandle_t,
        [a, b, c]: [u64; 3],
        bias: Option<u64>,
        (workspace, workspace_bytes): (u64, usize),
        stream: &CudaStream,
    ) -> Result<()> {
        if self.bias {
            let missing = Error::Missing { what: "a product with a bias", missing: "none was given" };
            self.description.set_bias(bias.ok_or(missing)?)?;
        }
        // Factors are of the format of sums. Zero is the same bits in both.
        let one = if self.integer { 1 } else { 1.0_f32.to_bits() };
        let zero = 0_u32;
        let (alpha, beta) = ((&raw const one).cast(), (&raw const zero).cast());
        let (first, second, result) = (b as *const c_void, a as *const c_void, c as *mut c_void);
        // SAFETY: handle and descriptors are live; the addresses are good by this function's contract, that of the
        // bias, which the description holds, too; the factors are of the four bytes that the description says, and read
        // before the call returns. With a zero beta, C is not read.
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

/// Names the call that failed.
fn blas_error(call: &'static str) -> impl Fn(CublasError) -> Error {
    move |CublasError(status)| Error::Cuda { call, name: format!("{status:?}"), code: status as i64 }
}

#[cfg(test)]
mod tests {
    use crate::dense::Problem;
    use crate::dense::product::Product;
    use crate::element::DType;
    use crate::shape::Shape;

    /// What cuBLASLt would compute from a plan's layouts: `D = op(A)·op(B)`, column-major.
    fn as_the_library_would(product: &Product, a: &[i64], b: &[i64]) -> Vec<i64> {
        let [second, first, [rows, cols, _]] = product.stored();
        // A layout is (rows, columns, leading dimension) of the column-major matrix: the row-major one's (c, r, c).
        let at = |values: &[i64], [.., ld]: [usize; 3], transposed: bool, row: usize, col: usize| match transposed {
            false => values[col * ld + row],
            true => values[row * ld + col],
        };
        let (m, n, ld) = (cols, rows, cols);
        let mut d = vec![0; m * n];
        for col in 0..n {
            for row in 0..m {
                let terms = (0..product.depth)
                    .map(|i| at(b, first, product.b_transposed, row, i) * at(a, second, product.a_transposed, i, col));
                d[col * ld + row] = terms.sum();
            }
        }
        d
    }

    #[test]
    fn the_library_is_asked_for_what_is_meant() {
        let (t, n, k) = (3, 5, 8);
        let problem = Problem::new(t, Shape::new(n, k));
        let values =
            |count: usize, factor: i64| -> Vec<i64> { (0..count as i64).map(|i| i * factor % 17 - 8).collect() };
        let (x, dy, w) = (values(t * k, 5), values(t * n, 7), values(n * k, 3));
        let sum = |range: usize, term: &dyn Fn(usize) -> i64| (0..range).map(term).sum::<i64>();

        let y = as_the_library_would(&Product::output(problem, DType::F32), &x, &w);
        let expected = |i: usize| sum(k, &|j| x[i / n * k + j] * w[i % n * k + j]);
        assert!(y.len() == t * n && (0..t * n).all(|i| y[i] == expected(i)));

        let dx = as_the_library_would(&Product::input_gradient(problem, DType::F32), &dy, &w);
        let expected = |i: usize| sum(n, &|j| dy[i / k * n + j] * w[j * k + i % k]);
        assert!(dx.len() == t * k && (0..t * k).all(|i| dx[i] == expected(i)));

        let product = Product::weight_gradient(problem, DType::Bf16);
        let gradient = as_the_library_would(&product, &dy, &x);
        let expected = |i: usize| sum(t, &|j| dy[j * n + i / k] * x[j * k + i % k]);
        assert!(gradient.len() == n * k && (0..n * k).all(|i| gradient[i] == expected(i)));
        assert_eq!((product.operands, product.result), (DType::Bf16, DType::F32));
    }
}
