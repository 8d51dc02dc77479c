//! The library's objects other than its handle, each with its owner, which destroys it. Whoever holds several drops
//! them in the order plan, selection, product, matrices: one refers to the next.

use std::ffi::{c_int, c_void};

use super::handle::Handle;
use super::opaque::{
    Stored, cusparseLtMatDescriptor_t, cusparseLtMatmulAlgSelection_t, cusparseLtMatmulDescriptor_t,
    cusparseLtMatmulPlan_t,
};
use super::problem::{ALIGN, Activation, Bias, Matrix, Problem};
use super::{result, sys, value};
use crate::error::Result;
use sys::cusparseLtMatDescAttribute_t as MatAttribute;
use sys::cusparseLtMatmulAlgAttribute_t as AlgAttribute;
use sys::cusparseLtMatmulDescAttribute_t as MatmulAttribute;
use sys::cusparseOperation_t as Operation;

/// How the library is told that a matrix lies.
#[derive(Clone, Copy)]
pub(super) enum Order {
    /// As it does.
    Rows,
    /// Transposed: what is row-major for us is column-major for the library.
    Columns,
}

/// A matrix.
pub(super) struct MatDescriptor {
    raw: Stored<cusparseLtMatDescriptor_t>,
    handle: Handle,
}

impl MatDescriptor {
    /// Of a dense matrix that was checked.
    pub(super) fn dense(handle: &Handle, matrix: &Matrix, order: Order) -> Result<Self> {
        let raw = Stored::new();
        let (rows, cols, order) = match order {
            Order::Rows => (matrix.rows, matrix.cols, sys::cusparseOrder_t::CUSPARSE_ORDER_ROW),
            Order::Columns => (matrix.cols, matrix.rows, sys::cusparseOrder_t::CUSPARSE_ORDER_COL),
        };
        let [rows, cols, pitch] = [rows, cols, matrix.pitch].map(|size| size as i64);
        let (library, value) = (handle.library(), value::raw(matrix.value));
        // SAFETY: the handle is live, and the object has room for the library's.
        unsafe {
            result::dense_descriptor_init(
                library,
                handle.raw(),
                raw.get(),
                rows,
                cols,
                pitch,
                ALIGN as u32,
                value,
                order,
            )
        }?;
        Ok(Self { raw, handle: handle.clone() })
    }

    /// Of a 2:4 matrix that was checked.
    pub(super) fn structured(handle: &Handle, matrix: &Matrix) -> Result<Self> {
        let raw = Stored::new();
        let [rows, cols, pitch] = [matrix.rows, matrix.cols, matrix.pitch].map(|size| size as i64);
        let (library, value, order) =
            (handle.library(), value::raw(matrix.value), sys::cusparseOrder_t::CUSPARSE_ORDER_ROW);
        let half = sys::cusparseLtSparsity_t::CUSPARSELT_SPARSITY_50_PERCENT;
        // SAFETY: the handle is live, and the object has room for the library's.
        unsafe {
            result::structured_descriptor_init(
                library,
                handle.raw(),
                raw.get(),
                rows,
                cols,
                pitch,
                ALIGN as u32,
                value,
                order,
                half,
            )
        }?;
        Ok(Self { raw, handle: handle.clone() })
    }

    pub(super) fn get(&self) -> *const cusparseLtMatDescriptor_t {
        self.raw.get()
    }

    /// `count` of them, as far apart as the matrix says. One is what there is without a word.
    pub(super) fn batched(self, matrix: &Matrix, count: usize) -> Result<Self> {
        if count > 1 {
            self.set(MatAttribute::CUSPARSELT_MAT_NUM_BATCHES, count as c_int)?;
            self.set(MatAttribute::CUSPARSELT_MAT_BATCH_STRIDE, matrix.stride() as i64)?;
        }
        Ok(self)
    }

    fn set<T: bytemuck::NoUninit>(&self, attribute: MatAttribute, value: T) -> Result<()> {
        let (library, handle) = (self.handle.library(), self.handle.raw());
        // SAFETY: handle and descriptor are live, and the call copies as many bytes as the value has.
        unsafe { result::mat_set(library, handle, self.raw.get(), attribute, address(&value), size_of::<T>()) }
    }
}

impl Drop for MatDescriptor {
    fn drop(&mut self) {
        // SAFETY: the descriptor is live, and this is its only owner.
        let _ = unsafe { result::mat_descriptor_destroy(self.handle.library(), self.raw.get()) };
    }
}

/// A product. The library has no call to destroy one.
pub(super) struct MatmulDescriptor {
    raw: Stored<cusparseLtMatmulDescriptor_t>,
    handle: Handle,
    /// What it refers to.
    _matrices: [MatDescriptor; 4],
}

impl MatmulDescriptor {
    /// Of a problem that was checked, without the bias' address.
    pub(super) fn new(handle: &Handle, problem: &Problem) -> Result<Self> {
        let order = |as_it_lies| if as_it_lies { Order::Rows } else { Order::Columns };
        let (w, x, y, count) = (problem.w(), problem.x(), problem.y(), problem.batches);
        let a = MatDescriptor::structured(handle, &w)?.batched(&w, count)?;
        let b = MatDescriptor::dense(handle, &x, Order::Rows)?.batched(&x, count)?;
        let result = || MatDescriptor::dense(handle, &y, order(problem.output_transposed))?.batched(&y, count);
        let (c, d) = (result()?, result()?);
        let (as_it_lies, transposed) =
            (Operation::CUSPARSE_OPERATION_NON_TRANSPOSE, Operation::CUSPARSE_OPERATION_TRANSPOSE);
        let op_b = if problem.input_transposed { as_it_lies } else { transposed };
        let (raw, library, compute) = (Stored::new(), handle.library(), problem.types.compute());
        let [a_raw, b_raw, c_raw, d_raw] = [&a, &b, &c, &d].map(MatDescriptor::get);
        // SAFETY: handle and descriptors are live, the latter as long as this object, and it has room for the
        // library's.
        unsafe {
            result::matmul_descriptor_init(
                library,
                handle.raw(),
                raw.get(),
                as_it_lies,
                op_b,
                a_raw,
                b_raw,
                c_raw,
                d_raw,
                compute,
            )
        }?;
        let product = Self { raw, handle: handle.clone(), _matrices: [a, b, c, d] };
        product.set_epilogue(problem)?;
        Ok(product)
    }

    fn set_epilogue(&self, problem: &Problem) -> Result<()> {
        const ON: c_int = 1;
        match problem.activation {
            Activation::Identity => {}
            Activation::Relu { threshold, upper_bound } => {
                self.set(MatmulAttribute::CUSPARSELT_MATMUL_ACTIVATION_RELU, ON)?;
                self.set(MatmulAttribute::CUSPARSELT_MATMUL_ACTIVATION_RELU_UPPERBOUND, upper_bound)?;
                self.set(MatmulAttribute::CUSPARSELT_MATMUL_ACTIVATION_RELU_THRESHOLD, threshold)?;
            }
            Activation::Gelu { scaling } => {
                self.set(MatmulAttribute::CUSPARSELT_MATMUL_ACTIVATION_GELU, ON)?;
                self.set(MatmulAttribute::CUSPARSELT_MATMUL_ACTIVATION_GELU_SCALING, scaling)?;
            }
        }
        if problem.alpha_per_row {
            self.set(MatmulAttribute::CUSPARSELT_MATMUL_ALPHA_VECTOR_SCALING, ON)?;
        }
        if problem.bias == Some(Bias::PerBatch) {
            self.set(MatmulAttribute::CUSPARSELT_MATMUL_BIAS_STRIDE, problem.shape.rows as i64)?;
        }
        Ok(())
    }

    /// The device address of the bias.
    pub(super) fn set_bias(&self, address: u64) -> Result<()> {
        self.set(MatmulAttribute::CUSPARSELT_MATMUL_BIAS_POINTER, address)
    }

    /// The device address of the 2:4 weight before it is compressed, which a search wants.
    pub(super) fn set_dense_weight(&self, address: u64) -> Result<()> {
        self.set(MatmulAttribute::CUSPARSELT_MATMUL_SPARSE_MAT_POINTER, address)
    }

    pub(super) fn get(&self) -> *const cusparseLtMatmulDescriptor_t {
        self.raw.get()
    }

    fn set<T: bytemuck::NoUninit>(&self, attribute: MatmulAttribute, value: T) -> Result<()> {
        let (library, handle) = (self.handle.library(), self.handle.raw());
        // SAFETY: handle and descriptor are live, and the call copies as many bytes as the value has.
        unsafe { result::matmul_set(library, handle, self.raw.get(), attribute, address(&value), size_of::<T>()) }
    }
}

/// A choice of algorithm for a product.
pub(super) struct Selection {
    raw: Stored<cusparseLtMatmulAlgSelection_t>,
    handle: Handle,
}

impl Selection {
    /// The library's default.
    pub(super) fn new(handle: &Handle, product: &MatmulDescriptor) -> Result<Self> {
        let (raw, default) = (Stored::new(), sys::cusparseLtMatmulAlg_t::CUSPARSELT_MATMUL_ALG_DEFAULT);
        // SAFETY: handle and product are live, and the object has room for the library's.
        unsafe { result::selection_init(handle.library(), handle.raw(), raw.get(), product.get(), default) }?;
        Ok(Self { raw, handle: handle.clone() })
    }

    pub(super) fn get(&self) -> *const cusparseLtMatmulAlgSelection_t {
        self.raw.get()
    }

    /// All attributes have four bytes.
    pub(super) fn set(&self, attribute: AlgAttribute, value: i32) -> Result<()> {
        let (library, handle) = (self.handle.library(), self.handle.raw());
        // SAFETY: handle and selection are live, and the call copies as many bytes as the value has.
        unsafe { result::selection_set(library, handle, self.raw.get(), attribute, address(&value), size_of::<i32>()) }
    }

    pub(super) fn read(&self, attribute: AlgAttribute) -> Result<i32> {
        let (library, handle) = (self.handle.library(), self.handle.raw());
        let mut value = 0_i32;
        let to = (&raw mut value).cast();
        // SAFETY: handle and selection are live, and the call writes as many bytes as the value has.
        unsafe { result::selection_get(library, handle, self.raw.get(), attribute, to, size_of::<i32>()) }?;
        Ok(value)
    }
}

impl Drop for Selection {
    fn drop(&mut self) {
        // Before 0.8 there is no such call, and nothing to do.
        // SAFETY: the selection is live, and this is its only owner.
        let _ = unsafe { result::selection_destroy(self.handle.library(), self.raw.get()) };
    }
}

/// A product made ready to run.
pub(super) struct PlanObject {
    raw: Stored<cusparseLtMatmulPlan_t>,
    handle: Handle,
}

impl PlanObject {
    /// It refers to product and selection, which the caller keeps longer.
    pub(super) fn new(handle: &Handle, product: &MatmulDescriptor, selection: &Selection) -> Result<Self> {
        let raw = Stored::new();
        // SAFETY: handle, product and selection are live, and the object has room for the library's.
        unsafe { result::plan_init(handle.library(), handle.raw(), raw.get(), product.get(), selection.get()) }?;
        Ok(Self { raw, handle: handle.clone() })
    }

    pub(super) fn get(&self) -> *mut cusparseLtMatmulPlan_t {
        self.raw.get()
    }
}

impl Drop for PlanObject {
    fn drop(&mut self) {
        // SAFETY: the plan is live, and this is its only owner.
        let _ = unsafe { result::plan_destroy(self.handle.library(), self.raw.get()) };
    }
}

fn address<T: bytemuck::NoUninit>(value: &T) -> *const c_void {
    (&raw const *value).cast()
}
