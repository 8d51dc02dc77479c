//! Weights packed for cuSPARSELt: who packs them, and what only the library knows of a plan.
//!
//! What the library reads is what its compressor writes, and that is its own affair: it differs between devices,
//! formats and shapes, and may differ between versions. This crate has packers for the layouts that are known
//! ([`Layout::cusparselt`]), and a buffer in the wrong one would give wrong numbers and no error. So before the library
//! is handed a buffer of ours, it compresses small weights itself ([`packing`]), which spell where each code lies; if
//! they come out as our packer would have them, ours is used for that version, device, format and class of shapes, and
//! otherwise the library's compressor. A completed [`Plan`] says which:
//!
//! ```text
//! Y Cusparselt  1 part(s),         256 bytes of workspace: tokens and weight fill the library's tiles, and it has the
//! fastest instructions; packed in layout cusparselt-sm90, as the library packs a probe
//! ```
//!
//! The library itself is a [`Gpu`]'s, on the thread that first needs it. A bias goes through memory of the handle's,
//! one for each shape: where cudarc's event tracking is disabled, products on two streams would overwrite one
//! another's, so use a handle a stream.
//!
//! ```no_run
//! use twofour::compress::Compressed;
//! use twofour::gpu::library::LibraryWeight;
//! use twofour::sparse::Given;
//! use twofour::{Executor, Gpu, Shape, bf16, device};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dense = vec![bf16::ZERO; 4096 * 4096];
//! let stream = device::context(0)?.default_stream();
//! let mut gpu = Gpu::new(&stream)?;
//! let (tokens, shape) = (2048, Shape::new(4096, 4096));
//! let packed = LibraryWeight::pack_host(&mut gpu, &Compressed::by_magnitude(shape, &dense)?)?;
//! let weight = packed.as_weight();
//! let plan = weight.plan(&gpu, tokens, Given::WEIGHT)?;
//! let mut scratch = gpu.scratch(&plan)?;
//!
//! let (x, mut y) = (gpu.zeros::<bf16>(tokens * 4096)?, gpu.zeros::<bf16>(tokens * 4096)?);
//! gpu.run(plan.multiply(&weight, &x, &mut y, &mut scratch))?;
//! # Ok(())
//! # }
//! ```

use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DeviceRepr};

use super::Gpu;
use crate::check::length;
use crate::compress::{Compressed, Layout, Reorder, Unpack};
use crate::cusparselt::{Compressor, Operands, Origin};
use crate::device::driver_error;
use crate::element::Factor;
use crate::error::{Error, Result, unsupported};
use crate::pass::{Binder, Executor};
use crate::shape::Shape;
use crate::space::{Cuda, Input};
use crate::sparse::{Form, Packing, Plan, Route, Weight};

mod probe;

/// What the library fills metadata with where there is no code.
const PADDING: u8 = 0xee;

/// A weight packed for cuSPARSELt, in device memory. Only products by the same version of the library, on the same
/// device, take it.
#[derive(Debug)]
pub struct LibraryWeight<T> {
    bytes: CudaSlice<u8>,
    origin: Origin,
    packing: Packing,
    values: PhantomData<T>,
}

/// Who packs weights of this type and shape: found out by probes, and then remembered in this process for the version,
/// the device, the type and the class of shapes. A probe allocates and waits: not while the stream is captured in a
/// CUDA graph.
///
/// # Errors
/// [`Error::LibraryUnavailable`] without the library; [`Error::Scalar`] or [`Error::Overflow`] for a shape that breaks
/// its rules; [`Error::Unsupported`] on another thread than the one that opened it; [`Error::Cuda`].
pub fn packing<T: Factor>(gpu: &mut Gpu, shape: Shape) -> Result<Packing> {
    let bytes = compressor::<T>(gpu, shape)?.size().bytes;
    packing_within::<T>(gpu, shape, bytes)
}

/// With the size of what the library would write.
fn packing_within<T: Factor>(gpu: &mut Gpu, shape: Shape, bytes: usize) -> Result<Packing> {
    let fits = |layout: &Layout| layout.sizes(shape, T::DTYPE).is_ok_and(|sizes| sizes.buffer <= bytes);
    let stream = Arc::clone(gpu.stream());
    let agreed = probe::agreed::<T>(gpu.cusparselt()?.handle(), &stream, shape)?;
    Ok(agreed.into_iter().find(fits).map_or(Packing::Library, Packing::Ours))
}

fn compressor<T: Factor>(gpu: &mut Gpu, shape: Shape) -> Result<Compressor<T>> {
    Compressor::new(gpu.cusparselt()?.handle(), shape, None)
}

fn allocate<T: DeviceRepr>(stream: &Arc<CudaStream>, elements: usize) -> Result<CudaSlice<T>> {
    // SAFETY: who asks for it writes all of it before anything reads it.
    unsafe { stream.alloc::<T>(elements.max(1)) }.map_err(driver_error("cuMemAllocAsync"))
}

impl<T: Factor> LibraryWeight<T> {
    /// Packs a weight from the host's memory.
    ///
    /// # Errors
    /// As [`packing`].
    pub fn pack_host(gpu: &mut Gpu, weight: &Compressed<T>) -> Result<Self> {
        let (shape, compressor) = (weight.shape(), compressor::<T>(gpu, weight.shape())?);
        let bytes = compressor.size().bytes;
        let packing = packing_within::<T>(gpu, shape, bytes)?;
        let upload = driver_error("cuMemcpyHtoDAsync");
        match packing {
            Packing::Ours(layout) => {
                let mut buffer = weight.buffer(layout)?;
                buffer.resize(bytes, PADDING);
                let bytes = gpu.stream().clone_htod(&buffer).map_err(upload)?;
                Self::packed(gpu, shape, bytes, packing)
            }
            Packing::Library => {
                let dense = gpu.stream().clone_htod(&weight.decompress()).map_err(upload)?;
                Self::compress(gpu, shape, &compressor, &dense)
            }
        }
    }

    /// Packs a compressed weight that is on the device, in whatever layout: into the one that [`packing`] names, or
    /// decompressed and by the library's compressor, if that names it or the weight's rows of values are padded. Memory
    /// is allocated on the stream; nothing is waited for but a probe.
    ///
    /// # Errors
    /// As [`packing`]; [`Error::Length`], [`Error::Misaligned`], [`Error::ForeignContext`], [`Error::ForeignHandle`];
    /// [`Error::Unsupported`] for a weight that was packed for the library already.
    pub fn pack(gpu: &mut Gpu, weight: &Weight<'_, Cuda, T>) -> Result<Self> {
        weight.check()?;
        let Form::Packed { layout, values, metadata } = &weight.form else {
            return Err(unsupported("packing", "this weight is packed for cuSPARSELt already"));
        };
        let (shape, compressor) = (weight.shape, compressor::<T>(gpu, weight.shape)?);
        let bytes = compressor.size().bytes;
        let packing = packing_within::<T>(gpu, shape, bytes)?;
        let from = layout.sizes(shape, T::DTYPE)?;
        let to = match packing {
            Packing::Ours(to) => Some((to, to.sizes(shape, T::DTYPE)?)),
            Packing::Library => None,
        };
        let Some((to, sizes)) = to.filter(|(_, to)| (from.values, from.pitch) == (to.values, to.pitch)) else {
            let mut dense = allocate::<T>(gpu.stream(), shape.weights())?;
            gpu.run(Unpack::new(shape, *layout, values, metadata, &mut dense))?;
            return Self::compress(gpu, shape, &compressor, &dense);
        };
        let stream = Arc::clone(gpu.stream());
        // Copies do not see whether operands are of the stream's context.
        let mut binder = Binder::new(&stream);
        binder.input("values", values)?;
        binder.input("metadata", metadata)?;
        drop(binder);
        let mut buffer = allocate::<u8>(&stream, bytes)?;
        let (mut to_values, mut rest) = buffer.split_at_mut(sizes.metadata_offset);
        // SAFETY: as many bytes as these values have; any bytes are bytes.
        let from = unsafe { values.transmute::<u8>(sizes.metadata_offset) };
        let from = from.ok_or(Error::Length { what: "values", expected: sizes.values as u64, got: 0 })?;
        let copy = driver_error("cuMemcpyDtoDAsync");
        stream.memcpy_dtod(&from, &mut to_values).map_err(&copy)?;
        if to == *layout {
            stream.memcpy_dtod(metadata, &mut rest.slice_mut(..sizes.metadata)).map_err(&copy)?;
        } else {
            let within = rest.slice_mut(..sizes.metadata);
            gpu.run(Reorder::new(shape, T::DTYPE, (*layout, metadata), (to, within)))?;
        }
        if bytes > sizes.buffer {
            let padding = vec![PADDING; bytes - sizes.buffer];
            let mut rest = rest.slice_mut(sizes.metadata..);
            stream.memcpy_htod(&padding, &mut rest).map_err(driver_error("cuMemcpyHtoDAsync"))?;
        }
        Self::packed(gpu, shape, buffer, packing)
    }

    /// Packs a dense weight that is on the device, by the library's compressor. It must be 2:4 (1:2 for `f32`): of one
    /// that is not, the library keeps what it likes ([`Compressor::check_pruned`] tells). Zeros have no slot of their
    /// own: which of them are kept is the library's choice.
    ///
    /// # Errors
    /// [`Error::Length`] unless it is `[N, K]`; [`Error::Misaligned`], [`Error::ForeignContext`],
    /// [`Error::ForeignHandle`]; else as [`packing`].
    pub fn pack_dense<'a>(
        gpu: &mut Gpu,
        shape: Shape,
        dense: impl Input<'a, Space = Cuda, Element = T>,
    ) -> Result<Self> {
        shape.check()?;
        let dense = dense.input();
        length("dense", Some(&dense), shape.weights())?;
        let compressor = compressor::<T>(gpu, shape)?;
        Self::compress(gpu, shape, &compressor, &dense)
    }

    fn compress<'a>(
        gpu: &mut Gpu,
        shape: Shape,
        compressor: &Compressor<T>,
        dense: impl Input<'a, Space = Cuda, Element = T>,
    ) -> Result<Self> {
        let (size, dense) = (compressor.size(), dense.input());
        let stream = Arc::clone(gpu.stream());
        let (mut bytes, mut buffer) =
            (allocate::<u8>(&stream, size.bytes)?, allocate::<u8>(&stream, size.buffer_bytes)?);
        compressor.compress(&stream, &dense, &mut bytes, &mut buffer)?;
        Self::packed(gpu, shape, bytes, Packing::Library)
    }

    fn packed(gpu: &mut Gpu, shape: Shape, bytes: CudaSlice<u8>, packing: Packing) -> Result<Self> {
        let origin = gpu.cusparselt()?.origin(T::DTYPE, shape);
        Ok(Self { bytes, origin, packing, values: PhantomData })
    }

    /// It as a product takes it.
    #[must_use]
    pub fn as_weight(&self) -> Weight<'_, Cuda, T> {
        let form = Form::Library { bytes: self.bytes.as_view(), origin: self.origin };
        Weight { shape: self.origin.shape, form }
    }

    /// Who packed it.
    #[must_use]
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// `[N, K]`.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.origin.shape
    }

    /// Bytes of device memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

impl<T: Factor> Plan<T> {
    /// The plan with what only the library knows: who packs the weight, and the bytes of workspace. Plans with other
    /// routes stay as they are.
    ///
    /// # Errors
    /// As [`packing`], and [`Error::Cuda`] if the library has no such product on this device.
    pub fn complete(self, gpu: &mut Gpu) -> Result<Self> {
        if self.route() != Route::Cusparselt {
            return Ok(self);
        }
        let packing = packing::<T>(gpu, self.problem().shape)?;
        let stream = Arc::clone(gpu.stream());
        let workspace_bytes = gpu.cusparselt()?.ready(&stream, &self.form())?.workspace_bytes();
        Ok(self.completed(packing, workspace_bytes))
    }

    /// Finds the library's fastest algorithm for the plan's product, once a process: by running all of them,
    /// `iterations` times each, on this weight and these activations, and waiting. `dense` is the weight decompressed.
    /// The plan that comes back has the algorithm's workspace, and so have those that are completed on this handle
    /// later, and scratch that is allocated later; what was allocated before may be too little, which is
    /// [`Error::Workspace`]. A handle of another thread takes the algorithm if it has not made the product yet. It
    /// allocates `Y` and more for as long as it takes. Do not search on zeros: a device clocks higher on them.
    ///
    /// # Errors
    /// As [`Plan::complete`] and [`Multiply`](crate::sparse::Multiply); [`Error::Scalar`] without iterations.
    pub fn search<'a>(
        self,
        gpu: &mut Gpu,
        weight: &LibraryWeight<T>,
        x: impl Input<'a, Space = Cuda, Element = T>,
        dense: impl Input<'a, Space = Cuda, Element = T>,
        iterations: u32,
    ) -> Result<Self> {
        let (plan, form) = (self.complete(gpu)?, self.form());
        let Some(packing) = plan.packing() else {
            return Err(unsupported("a search", "the plan's product is not one by cuSPARSELt"));
        };
        let (stream, x) = (Arc::clone(gpu.stream()), x.input());
        let mut y = allocate::<T::Output>(&stream, plan.problem().outputs())?;
        let mut workspace = allocate::<u8>(&stream, plan.workspace_bytes())?;
        let bias = match plan.given().bias {
            true => {
                let zeros = vec![bytemuck::Zeroable::zeroed(); plan.problem().shape.rows];
                Some(stream.clone_htod::<T::Output, _>(&zeros).map_err(driver_error("cuMemcpyHtoDAsync"))?)
            }
            false => None,
        };
        let library = gpu.cusparselt()?;
        library.check_origin(&weight.origin, &form)?;
        let ready = library.ready(&stream, &form)?;
        if let Some(bias) = &bias {
            ready.set_bias(&stream, bias)?;
        }
        let operands = Operands::new(&weight.bytes, &x, &mut y).workspace(&mut workspace);
        ready.search(&stream, operands, dense, iterations)?;
        let workspace_bytes = ready.workspace_bytes();
        Ok(plan.completed(packing, workspace_bytes))
    }
}
