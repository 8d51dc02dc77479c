//! One function a call of the library that this crate makes, with its status turned into the crate's error. Nothing is
//! checked here; the signatures are compared with the header's by the compiler.

use std::ffi::{c_int, c_void};

use super::library::Library;
use super::opaque::*;
use super::sys::*;
use crate::error::Result;

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident = $call:ident($($argument:ident: $type:ty),*);)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// The objects are live and of one handle, whose context is current; addresses are good for what the call
        /// reads and writes there, until it is done on the stream.
        #[allow(clippy::too_many_arguments, reason = "the library's")]
        pub(super) unsafe fn $name(library: &Library, $($argument: $type),*) -> Result<()> {
            let function = library.function(stringify!($call), &library.table.$call)?;
            // SAFETY: by this function's contract; the type is the header's, in all versions that are accepted.
            let status = unsafe { function($($argument),*) };
            library.check(stringify!($call), status)
        }
    )*};
}

calls! {
    /// Makes a handle for the current device.
    init = cusparseLtInit(handle: *mut cusparseLtHandle_t);
    /// Ends it. (A null pointer would crash the library.)
    destroy = cusparseLtDestroy(handle: *const cusparseLtHandle_t);

    /// Describes a dense matrix; `alignment` in bytes.
    dense_descriptor_init = cusparseLtDenseDescriptorInit(
        handle: *const cusparseLtHandle_t, descriptor: *mut cusparseLtMatDescriptor_t, rows: i64, cols: i64, pitch: i64,
        alignment: u32, value: cudaDataType, order: cusparseOrder_t);
    /// Describes a 2:4 matrix, as it is before it is compressed.
    structured_descriptor_init = cusparseLtStructuredDescriptorInit(
        handle: *const cusparseLtHandle_t, descriptor: *mut cusparseLtMatDescriptor_t, rows: i64, cols: i64, pitch: i64,
        alignment: u32, value: cudaDataType, order: cusparseOrder_t, sparsity: cusparseLtSparsity_t);
    /// Ends a description.
    mat_descriptor_destroy = cusparseLtMatDescriptorDestroy(descriptor: *const cusparseLtMatDescriptor_t);
    /// Sets an attribute, copying it.
    mat_set = cusparseLtMatDescSetAttribute(
        handle: *const cusparseLtHandle_t, descriptor: *mut cusparseLtMatDescriptor_t,
        attribute: cusparseLtMatDescAttribute_t, data: *const c_void, bytes: usize);

    /// Describes a product.
    matmul_descriptor_init = cusparseLtMatmulDescriptorInit(
        handle: *const cusparseLtHandle_t, descriptor: *mut cusparseLtMatmulDescriptor_t, op_a: cusparseOperation_t,
        op_b: cusparseOperation_t, a: *const cusparseLtMatDescriptor_t, b: *const cusparseLtMatDescriptor_t,
        c: *const cusparseLtMatDescriptor_t, d: *const cusparseLtMatDescriptor_t, compute: cusparseComputeType);
    /// Sets an attribute, copying it.
    matmul_set = cusparseLtMatmulDescSetAttribute(
        handle: *const cusparseLtHandle_t, descriptor: *mut cusparseLtMatmulDescriptor_t,
        attribute: cusparseLtMatmulDescAttribute_t, data: *const c_void, bytes: usize);

    /// The library's default choice of an algorithm.
    selection_init = cusparseLtMatmulAlgSelectionInit(
        handle: *const cusparseLtHandle_t, selection: *mut cusparseLtMatmulAlgSelection_t,
        matmul: *const cusparseLtMatmulDescriptor_t, default: cusparseLtMatmulAlg_t);
    /// Ends a choice; since 0.8.
    selection_destroy = cusparseLtMatmulAlgSelectionDestroy(selection: *const cusparseLtMatmulAlgSelection_t);
    /// Sets an attribute, copying it.
    selection_set = cusparseLtMatmulAlgSetAttribute(
        handle: *const cusparseLtHandle_t, selection: *mut cusparseLtMatmulAlgSelection_t,
        attribute: cusparseLtMatmulAlgAttribute_t, data: *const c_void, bytes: usize);
    /// Reads an attribute.
    selection_get = cusparseLtMatmulAlgGetAttribute(
        handle: *const cusparseLtHandle_t, selection: *const cusparseLtMatmulAlgSelection_t,
        attribute: cusparseLtMatmulAlgAttribute_t, data: *mut c_void, bytes: usize);

    /// A product made ready. It refers to the description and the choice, which must outlive it.
    plan_init = cusparseLtMatmulPlanInit(
        handle: *const cusparseLtHandle_t, plan: *mut cusparseLtMatmulPlan_t,
        matmul: *const cusparseLtMatmulDescriptor_t, selection: *const cusparseLtMatmulAlgSelection_t);
    /// Ends it.
    plan_destroy = cusparseLtMatmulPlanDestroy(plan: *const cusparseLtMatmulPlan_t);
    /// Bytes of workspace that it needs.
    workspace = cusparseLtMatmulGetWorkspace(
        handle: *const cusparseLtHandle_t, plan: *const cusparseLtMatmulPlan_t, bytes: *mut usize);

    /// Queues the product on the first of the streams.
    matmul = cusparseLtMatmul(
        handle: *const cusparseLtHandle_t, plan: *const cusparseLtMatmulPlan_t, alpha: *const c_void, a: *const c_void,
        b: *const c_void, beta: *const c_void, c: *const c_void, d: *mut c_void, workspace: *mut c_void,
        streams: *mut cudaStream_t, stream_count: i32);
    /// Runs the product with every algorithm, waits, and leaves the fastest in the choice that the plan refers to.
    search = cusparseLtMatmulSearch(
        handle: *const cusparseLtHandle_t, plan: *mut cusparseLtMatmulPlan_t, alpha: *const c_void, a: *const c_void,
        b: *const c_void, beta: *const c_void, c: *const c_void, d: *mut c_void, workspace: *mut c_void,
        streams: *mut cudaStream_t, stream_count: i32);

    /// Queues the check that a matrix is 2:4; writes 0 to the device's memory if it is.
    prune_check = cusparseLtSpMMAPruneCheck2(
        handle: *const cusparseLtHandle_t, matrix: *const cusparseLtMatDescriptor_t, is_a: c_int,
        op: cusparseOperation_t, dense: *const c_void, verdict: *mut c_int, stream: cudaStream_t);
    /// Bytes of one compressed matrix, and of the buffer for compressing it.
    compressed_size = cusparseLtSpMMACompressedSize2(
        handle: *const cusparseLtHandle_t, matrix: *const cusparseLtMatDescriptor_t, bytes: *mut usize,
        buffer: *mut usize);
    /// Queues the compression of one matrix.
    compress = cusparseLtSpMMACompress2(
        handle: *const cusparseLtHandle_t, matrix: *const cusparseLtMatDescriptor_t, is_a: c_int,
        op: cusparseOperation_t, dense: *const c_void, compressed: *mut c_void, buffer: *mut c_void,
        stream: cudaStream_t);
    /// Bytes of a plan's compressed weight, all batches, and of the buffer for compressing it.
    plan_compressed_size = cusparseLtSpMMACompressedSize(
        handle: *const cusparseLtHandle_t, plan: *const cusparseLtMatmulPlan_t, bytes: *mut usize, buffer: *mut usize);
    /// Queues the compression of a plan's weight, all batches.
    plan_compress = cusparseLtSpMMACompress(
        handle: *const cusparseLtHandle_t, plan: *const cusparseLtMatmulPlan_t, dense: *const c_void,
        compressed: *mut c_void, buffer: *mut c_void, stream: cudaStream_t);
    /// Queues the check that a product's weight is 2:4, all batches.
    matmul_prune_check = cusparseLtSpMMAPruneCheck(
        handle: *const cusparseLtHandle_t, matmul: *const cusparseLtMatmulDescriptor_t, dense: *const c_void,
        verdict: *mut c_int, stream: cudaStream_t);
}
