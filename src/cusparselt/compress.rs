//! The library's compressor by itself, without a product; and the probe that tells what layout it writes.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::descriptor::MatDescriptor;
use super::handle::Handle;
use super::operands::{long, within};
use super::plan::CompressedSize;
use super::problem::{Matrix, Placement, check_structured};
use super::result;
use super::sys::cusparseOperation_t as Operation;
use crate::device::Binder;
use crate::device::driver_error;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::shape::Shape;
use crate::space::{Cuda, Input, Output};

/// The 2:4 matrix is the left operand, as it is.
const IS_A: c_int = 1;
const AS_IT_LIES: Operation = Operation::CUSPARSE_OPERATION_NON_TRANSPOSE;

/// The library's compressor for weights `[N, K]` of one shape and format, one at a time.
///
/// What it writes is kept values, then metadata, in a layout that differs between devices, formats and shapes and may
/// differ between versions. A [`Plan`](super::Plan) of the same weight reads it.
pub struct Compressor<X> {
    matrix: MatDescriptor,
    handle: Handle,
    shape: Shape,
    /// Elements of the dense matrix, gaps and all.
    elements: usize,
    size: CompressedSize,
    format: std::marker::PhantomData<X>,
}

/// What the library's compressor wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compressed {
    bytes: Vec<u8>,
    values: usize,
}

impl Compressed {
    /// The kept values, N · K / 2, as bytes.
    #[must_use]
    pub fn values(&self) -> &[u8] {
        &self.bytes[..self.values]
    }

    /// The metadata: four bits a group, in the library's order, and what it fills gaps with.
    #[must_use]
    pub fn metadata(&self) -> &[u8] {
        &self.bytes[self.values..]
    }

    /// The whole buffer, as a plan takes it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl<X: Element> Compressor<X> {
    /// For a weight without gaps, or with `pitch` elements from row to row.
    ///
    /// # Errors
    /// [`Error::Scalar`] or [`Error::Overflow`] for a shape that breaks the library's rules (those of
    /// [`Problem::check`](super::Problem::check)), [`Error::Cuda`] if the library refuses.
    pub fn new(handle: &Handle, shape: Shape, pitch: Option<usize>) -> Result<Self> {
        check_structured(X::DTYPE, shape, pitch)?;
        handle.bind()?;
        let described = Matrix::new("weight", X::DTYPE, [shape.rows, shape.cols], Placement { pitch, batch: None });
        let matrix = MatDescriptor::structured(handle, &described)?;
        let mut size = CompressedSize { bytes: 0, buffer_bytes: 0 };
        let (bytes, buffer) = (&raw mut size.bytes, &raw mut size.buffer_bytes);
        // SAFETY: handle and descriptor are live, and the call writes two numbers.
        unsafe { result::compressed_size(handle.library(), handle.raw(), matrix.get(), bytes, buffer) }?;
        let (handle, elements) = (handle.clone(), described.span());
        Ok(Self { matrix, handle, shape, elements, size, format: std::marker::PhantomData })
    }

    /// Bytes that compressing takes.
    #[must_use]
    pub fn size(&self) -> CompressedSize {
        self.size
    }

    /// Queues the compression of a weight: `compressed` is overwritten. Of a matrix that is not 2:4 the library keeps
    /// what it likes: see [`Compressor::check_pruned`].
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Workspace`], [`Error::Misaligned`], [`Error::ForeignContext`],
    /// [`Error::ForeignHandle`] of an operand; [`Error::Cuda`].
    pub fn compress<'a>(
        &self,
        stream: &Arc<CudaStream>,
        dense: impl Input<'a, Space = Cuda, Element = X>,
        compressed: impl Output<'a, Space = Cuda, Element = u8>,
        buffer: impl Output<'a, Space = Cuda, Element = u8>,
    ) -> Result<()> {
        self.handle.bind_for(stream)?;
        let (dense, mut compressed, mut buffer) = (dense.input(), compressed.output(), buffer.output());
        let mut binder = Binder::new(stream);
        let from = long("weight", binder.input("weight", &dense)?, self.elements as u64)?;
        let to = long("compressed", binder.output("compressed", &mut compressed)?, self.size.bytes as u64)?;
        let within = within(&mut binder, Some(&mut buffer), self.size.buffer_bytes as u64)?;
        let (library, handle, matrix) = (self.handle.library(), self.handle.raw(), self.matrix.get());
        let ([from, to, within], stream) = ([from, to, within].map(|at| at as *mut c_void), stream.cu_stream().cast());
        // SAFETY: handle and descriptor are live; the addresses are of at least as many bytes as the library asked for,
        // and the binder's guards and the stream's order keep them until the work is done.
        unsafe { result::compress(library, handle, matrix, IS_A, AS_IT_LIES, from, to, within, stream) }
    }

    /// Queues the check that a weight is 2:4: `verdict[0]` becomes 0 if it is, and another number if not.
    ///
    /// # Errors
    /// As [`Compressor::compress`].
    pub fn check_pruned<'a>(
        &self,
        stream: &Arc<CudaStream>,
        dense: impl Input<'a, Space = Cuda, Element = X>,
        verdict: impl Output<'a, Space = Cuda, Element = i32>,
    ) -> Result<()> {
        self.handle.bind_for(stream)?;
        let (dense, mut verdict) = (dense.input(), verdict.output());
        let mut binder = Binder::new(stream);
        let from = long("weight", binder.input("weight", &dense)?, self.elements as u64)? as *const c_void;
        let to = long("verdict", binder.output("verdict", &mut verdict)?, 1)? as *mut c_int;
        let (library, handle, matrix) = (self.handle.library(), self.handle.raw(), self.matrix.get());
        // SAFETY: handle and descriptor are live; the addresses are of a whole weight and of one number, and the
        // binder's guards and the stream's order keep them until the work is done.
        unsafe { result::prune_check(library, handle, matrix, IS_A, AS_IT_LIES, from, to, stream.cu_stream().cast()) }
    }

    /// Compresses a small weight from the host's memory and waits for the result: the probe.
    ///
    /// **Before the library is handed a buffer that another packed, compare that packer with this.** Take a 2:4 weight
    /// of the same format and of the same class of shapes (layouts change with the number of rows), whose kept
    /// positions spell each group's number; let the other packer pack it, and compare [`Compressed::values`], and
    /// [`Compressed::metadata`] where the packer has written some: the library fills gaps with what it likes. The
    /// answer holds for the [`Handle::version`], the [`Handle::device`], the format and the class of shapes; keep it
    /// under these. On a mismatch, use [`Compressor::compress`].
    ///
    /// Memory for this is allocated on the stream. Not to be called while the stream captures a CUDA graph.
    ///
    /// # Errors
    /// [`Error::Length`] unless `dense` holds the whole weight; [`Error::Cuda`].
    pub fn probe(&self, stream: &Arc<CudaStream>, dense: &[X]) -> Result<Compressed> {
        if dense.len() != self.elements {
            let (expected, got) = (self.elements as u64, dense.len() as u64);
            return Err(Error::Length { what: "weight", expected, got });
        }
        let values = self.shape.weights() / 2 * X::DTYPE.size();
        self.handle.bind_for(stream)?;
        let dense = stream.clone_htod(dense).map_err(driver_error("cuMemcpyHtoDAsync"))?;
        let allocate = |bytes: usize| stream.alloc_zeros::<u8>(bytes).map_err(driver_error("cuMemAllocAsync"));
        // The driver allocates nothing of no size.
        let mut compressed = allocate(self.size.bytes.max(1))?;
        let mut buffer = allocate(self.size.buffer_bytes.max(1))?;
        self.compress(stream, &dense, &mut compressed, &mut buffer)?;
        let mut bytes = vec![0; compressed.len()];
        stream.memcpy_dtoh(&compressed, &mut bytes).map_err(driver_error("cuMemcpyDtoHAsync"))?;
        stream.synchronize().map_err(driver_error("cuStreamSynchronize"))?;
        if bytes.len() < values {
            let (expected, got) = (values as u64, bytes.len() as u64);
            return Err(Error::Length { what: "the library's compressed weight", expected, got });
        }
        Ok(Compressed { bytes, values })
    }
}
