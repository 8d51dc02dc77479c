//! Products by cuSPARSELt: who packs weights for it, and its own plans.
//!
//! What the library reads is what its compressor writes, and that is its own affair: it differs between devices, formats
//! and shapes, and may differ between versions. This crate has packers for the layouts that are known
//! ([`Layout::cusparselt`]), and a buffer in the wrong one would give wrong numbers and no error. So before the library is
//! handed a buffer of ours, it compresses small weights itself ([`Library::packing`]), which spell where each code lies; if
//! they come out as our packer would have them, ours is used for that version, device, format and class of shapes, and
//! otherwise the library's compressor. A completed [`Plan`] says which.

use crate::element::{DType, Element, Factor};
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, CudaView, DeviceRepr};

use super::plan::{Packing, Plan};
use super::{Form, Path, cuda};
use crate::check::length;
use crate::compress::cuda::{Reorder, Unpack, reorder_into, unpack_into};
use crate::compress::{Compressed, Layout};
use crate::cusparselt::{self, Bias, Compressor, Device, Handle, Operands, Types, Version};
use crate::dense::Problem;
use crate::device::driver_error;
use crate::error::{Error, Result, path_error};
use crate::matmul::cuda::Binder;
use crate::shape::Shape;

mod probe;

/// Plans without a bias remembered at most; then it starts anew. Each has some 100 KB of the host's memory. Those with a
/// bias stay, for a graph may refer to their memory.
const MOST_PLANS: usize = 128;
/// What the library fills metadata with where there is no code.
const PADDING: u8 = 0xee;

/// cuSPARSELt for products of this module: packs weights, completes plans, and remembers the library's own plans.
///
/// Keep one a thread, as of the [`Handle`] inside it; it is neither `Send` nor `Sync`. What is found about packing and
/// algorithms is shared by all threads.
///
/// Where cudarc's event tracking is disabled, use one a stream as well: a bias goes through memory of its own, one for each
/// shape, and products on two streams would overwrite one another's. A CUDA graph that has captured a product refers to that
/// memory: the `Library` must outlive it.
///
/// ```compile_fail
/// fn sent<T: Send>() {}
/// sent::<twofour::sparse::library::Library>();
/// ```
pub struct Library {
    // Dropped before the handle.
    plans: HashMap<Key, cusparselt::Plan>,
    handle: Handle,
}

/// What a plan of the library is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    problem: Problem,
    values: DType,
    bias: bool,
}

/// What a packed weight is for: nothing else can read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    version: Version,
    device: Device,
    values: DType,
    shape: Shape,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { version, device: Device { ordinal, .. }, values, shape: Shape { rows, cols } } = self;
        write!(f, "a weight [{rows}, {cols}] of {values} for cuSPARSELt {version} on device {ordinal}")
    }
}

/// A weight packed for cuSPARSELt, in device memory. Only products by the same version of the library, on the same device,
/// take it.
pub struct LibraryWeight<T> {
    bytes: CudaSlice<u8>,
    origin: Origin,
    packing: Packing,
    values: PhantomData<T>,
}

impl<T: Factor> LibraryWeight<T> {
    /// It as a product takes it.
    #[must_use]
    pub fn as_weight(&self) -> cuda::Weight<'_, T> {
        let form = Form::Library { bytes: self.bytes.as_view(), origin: self.origin };
        super::Weight { shape: self.origin.shape, form }
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

impl Library {
    /// Opens the library for the context's device. This takes time: make one and keep it.
    ///
    /// # Errors
    /// As [`Handle::new`]: [`Error::LibraryUnavailable`] without the library.
    pub fn new(context: &Arc<CudaContext>) -> Result<Self> {
        Ok(Self::with_handle(Handle::new(context)?))
    }

    /// With a handle that is there already.
    #[must_use]
    pub fn with_handle(handle: Handle) -> Self {
        Self { plans: HashMap::new(), handle }
    }

    /// The handle.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Who packs weights of this type and shape: found out by probes, and then remembered in this process for the version,
    /// the device, the type and the class of shapes. A probe allocates and waits: not while the stream is captured in a
    /// CUDA graph.
    ///
    /// # Errors
    /// [`Error::Scalar`] or [`Error::Overflow`] for a shape that breaks the library's rules, [`Error::Cuda`].
    pub fn packing<T: Factor>(&self, stream: &Arc<CudaStream>, shape: Shape) -> Result<Packing> {
        self.packing_within::<T>(stream, shape, self.compressor::<T>(shape)?.size().bytes)
    }

    /// With the size of what the library would write.
    fn packing_within<T: Factor>(&self, stream: &Arc<CudaStream>, shape: Shape, bytes: usize) -> Result<Packing> {
        let fits = |layout: &Layout| layout.sizes(shape, T::DTYPE).is_ok_and(|sizes| sizes.buffer <= bytes);
        let agreed = probe::agreed::<T>(&self.handle, stream, shape)?;
        Ok(agreed.into_iter().find(fits).map_or(Packing::Library, Packing::Ours))
    }

    /// Packs a weight from the host's memory.
    ///
    /// # Errors
    /// As [`Library::packing`].
    pub fn pack_host<T: Factor>(&self, stream: &Arc<CudaStream>, weight: &Compressed<T>) -> Result<LibraryWeight<T>> {
        let (shape, compressor) = (weight.shape(), self.compressor::<T>(weight.shape())?);
        let bytes = compressor.size().bytes;
        match self.packing_within::<T>(stream, shape, bytes)? {
            packing @ Packing::Ours(layout) => {
                let mut buffer = weight.buffer(layout)?;
                buffer.resize(bytes, PADDING);
                let bytes = stream.clone_htod(&buffer).map_err(driver_error("cuMemcpyHtoDAsync"))?;
                Ok(self.packed(shape, bytes, packing))
            }
            Packing::Library => {
                let dense = stream.clone_htod(&weight.decompress()).map_err(driver_error("cuMemcpyHtoDAsync"))?;
                self.compress(stream, shape, &compressor, &dense.as_view())
            }
        }
    }

    /// Packs a compressed weight that is on the device, in whatever layout: into the one that [`Library::packing`] names, or
    /// decompressed and by the library's compressor, if that names it or the weight's rows of values are padded. Memory is
    /// allocated on the stream; nothing is waited for but a probe.
    ///
    /// # Errors
    /// As [`Library::packing`]; [`Error::Length`], [`Error::ForeignContext`], [`Error::Misaligned`]; [`Error::Path`] for a
    /// weight that was packed for the library already.
    pub fn pack<T: Factor>(&self, stream: &Arc<CudaStream>, weight: &cuda::Weight<'_, T>) -> Result<LibraryWeight<T>> {
        weight.check()?;
        let Form::Packed { layout, values, metadata } = &weight.form else {
            return Err(path_error("packing", "this weight is packed for cuSPARSELt already"));
        };
        let (shape, compressor) = (weight.shape, self.compressor::<T>(weight.shape)?);
        let bytes = compressor.size().bytes;
        let packing = self.packing_within::<T>(stream, shape, bytes)?;
        let (from, to) = match packing {
            Packing::Ours(to) => (layout.sizes(shape, T::DTYPE)?, to),
            Packing::Library => return self.repack(stream, &compressor, weight),
        };
        let sizes = to.sizes(shape, T::DTYPE)?;
        if (from.values, from.pitch) != (sizes.values, sizes.pitch) {
            return self.repack(stream, &compressor, weight);
        }
        // Copies do not see whether operands are of the stream's context.
        let mut binder = Binder::new(stream);
        binder.input("values", values)?;
        binder.input("metadata", metadata)?;
        drop(binder);
        let mut buffer = allocate::<u8>(stream, bytes)?;
        let (mut to_values, mut rest) = buffer.split_at_mut(sizes.metadata_offset);
        // SAFETY: as many bytes as these values have; any bytes are bytes.
        let from = unsafe { values.transmute::<u8>(sizes.metadata_offset) };
        let from = from.ok_or(Error::Length { what: "values", expected: sizes.values as u64, got: 0 })?;
        let copy = driver_error("cuMemcpyDtoDAsync");
        stream.memcpy_dtod(&from, &mut to_values).map_err(&copy)?;
        if to == *layout {
            stream.memcpy_dtod(metadata, &mut rest.slice_mut(..sizes.metadata)).map_err(&copy)?;
        } else {
            let codes = ((*layout, metadata.slice(..)), (to, rest.slice_mut(..sizes.metadata)));
            reorder_into(stream, Reorder::new(shape, T::DTYPE, codes.0, codes.1))?;
        }
        if bytes > sizes.buffer {
            let padding = vec![PADDING; bytes - sizes.buffer];
            let mut rest = rest.slice_mut(sizes.metadata..);
            stream.memcpy_htod(&padding, &mut rest).map_err(driver_error("cuMemcpyHtoDAsync"))?;
        }
        Ok(self.packed(shape, buffer, packing))
    }

    /// Decompresses a weight and has the library compress it.
    fn repack<T: Factor>(
        &self,
        stream: &Arc<CudaStream>,
        compressor: &Compressor<T>,
        weight: &cuda::Weight<'_, T>,
    ) -> Result<LibraryWeight<T>> {
        let Form::Packed { layout, values, metadata } = &weight.form else {
            return Err(path_error("packing", "this weight is packed for cuSPARSELt already"));
        };
        let mut dense = allocate::<T>(stream, weight.shape.weights())?;
        let args = (values.slice(..), metadata.slice(..), dense.as_view_mut());
        unpack_into(stream, Unpack::new(weight.shape, *layout, args.0, args.1, args.2))?;
        self.compress(stream, weight.shape, compressor, &dense.as_view())
    }

    /// Packs a dense weight that is on the device, by the library's compressor. It must be 2:4 (1:2 for `f32`): of one that
    /// is not, the library keeps what it likes ([`Compressor::check_pruned`] tells). Zeros have no slot of their own: which
    /// of them are kept is the library's choice.
    ///
    /// # Errors
    /// [`Error::Length`] unless it is `[N, K]`; [`Error::Scalar`] or [`Error::Overflow`] for a shape that breaks the
    /// library's rules; [`Error::ForeignContext`], [`Error::Misaligned`], [`Error::Cuda`].
    pub fn pack_dense<T: Factor>(
        &self,
        stream: &Arc<CudaStream>,
        shape: Shape,
        dense: &CudaView<'_, T>,
    ) -> Result<LibraryWeight<T>> {
        shape.check()?;
        length("dense", Some(dense), shape.weights())?;
        self.compress(stream, shape, &self.compressor::<T>(shape)?, dense)
    }

    fn compressor<T: Factor>(&self, shape: Shape) -> Result<Compressor<T>> {
        Compressor::new(&self.handle, shape, None)
    }

    fn compress<T: Factor>(
        &self,
        stream: &Arc<CudaStream>,
        shape: Shape,
        compressor: &Compressor<T>,
        dense: &CudaView<'_, T>,
    ) -> Result<LibraryWeight<T>> {
        let size = compressor.size();
        let mut bytes = allocate::<u8>(stream, size.bytes)?;
        let mut buffer = allocate::<u8>(stream, size.buffer_bytes.max(1))?;
        compressor.compress(stream, dense, &mut bytes.as_view_mut(), Some(&mut buffer.as_view_mut()))?;
        Ok(self.packed(shape, bytes, Packing::Library))
    }

    fn packed<T: Factor>(&self, shape: Shape, bytes: CudaSlice<u8>, packing: Packing) -> LibraryWeight<T> {
        LibraryWeight { bytes, origin: self.origin(T::DTYPE, shape), packing, values: PhantomData }
    }

    fn origin(&self, values: DType, shape: Shape) -> Origin {
        Origin { version: self.handle.version(), device: self.handle.device(), values, shape }
    }

    /// A plan with what only the library knows: who packs the weight, and the bytes of work space. Plans with other ways
    /// stay as they are.
    ///
    /// # Errors
    /// [`Error::Unplanned`] for another type than the plan's; as [`Library::packing`], and [`Error::Cuda`] if the library
    /// has no such product on this device.
    pub fn complete<T: Factor>(&mut self, stream: &Arc<CudaStream>, plan: Plan) -> Result<Plan> {
        plan.check(plan.problem(), T::DTYPE, plan.given())?;
        if plan.path() != Path::Cusparselt {
            return Ok(plan);
        }
        let packing = self.packing::<T>(stream, plan.problem().shape)?;
        let workspace_bytes = self.ready::<T>(stream, &plan)?.workspace_bytes();
        Ok(plan.completed(packing, workspace_bytes))
    }

    /// Finds the library's fastest algorithm for a plan's product, once a process: by running all of them, `iterations`
    /// times each, on this weight and these activations, and waiting. `dense` is the weight decompressed. The plan that comes
    /// back has the algorithm's work space, and so have those that this `Library` completes later; one completed before may
    /// have too little, which is [`Error::Workspace`]. A `Library` of another thread takes the algorithm if it has not made
    /// the product yet. It allocates `Y` and more for as long as it takes. Do not search on zeros: a device clocks higher on
    /// them.
    ///
    /// # Errors
    /// As [`Library::complete`] and [`multiply_into`](cuda::multiply_into); [`Error::Scalar`] without iterations.
    pub fn search<T: Factor>(
        &mut self,
        stream: &Arc<CudaStream>,
        plan: Plan,
        weight: &LibraryWeight<T>,
        x: &CudaView<'_, T>,
        dense: &CudaView<'_, T>,
        iterations: u32,
    ) -> Result<Plan> {
        let plan = self.complete::<T>(stream, plan)?;
        let Some(packing) = plan.packing() else {
            return Err(path_error("a search", "the plan's product is not one by cuSPARSELt"));
        };
        self.check_origin(&weight.origin, plan.problem().shape, T::DTYPE)?;
        let mut y = allocate::<T::Output>(stream, plan.problem().outputs())?;
        let mut workspace = allocate::<u8>(stream, plan.workspace_bytes().max(1))?;
        let bias = match plan.given().bias {
            true => {
                let zeros = vec![bytemuck::Zeroable::zeroed(); plan.problem().shape.rows];
                Some(stream.clone_htod::<T::Output, _>(&zeros).map_err(driver_error("cuMemcpyHtoDAsync"))?)
            }
            false => None,
        };
        let ready = self.ready::<T>(stream, &plan)?;
        if let Some(bias) = &bias {
            ready.set_bias(stream, &bias.as_view())?;
        }
        let (bytes, y, workspace) = (weight.bytes.as_view(), y.as_view_mut(), workspace.as_view_mut());
        ready.search(stream, Operands::new(bytes, x.slice(..), y, Some(workspace)), dense, iterations)?;
        let workspace_bytes = ready.workspace_bytes();
        Ok(plan.completed(packing, workspace_bytes))
    }

    /// Makes the library's plan.
    pub(super) fn prepare<T: Factor>(&mut self, stream: &Arc<CudaStream>, plan: &Plan) -> Result<()> {
        self.ready::<T>(stream, plan).map(drop)
    }

    /// Queues a checked product.
    pub(super) fn run<T: Factor>(
        &mut self,
        stream: &Arc<CudaStream>,
        plan: &Plan,
        args: cuda::Multiply<'_, '_, T>,
    ) -> Result<()> {
        if plan.packing().is_none() {
            let missing = "the plan is not complete: see `Library::complete`";
            return Err(Error::Missing { what: "a product by cuSPARSELt", missing });
        }
        let Form::Library { bytes, origin } = args.weight.form else {
            return Err(path_error("a product by cuSPARSELt", "this weight is not packed for it: see `Library::pack`"));
        };
        self.check_origin(&origin, args.problem.shape, T::DTYPE)?;
        let ready = self.ready::<T>(stream, plan)?;
        let needed = ready.workspace_bytes();
        if plan.workspace_bytes() < needed {
            // A search has found another algorithm since.
            return Err(Error::Workspace { needed: needed as u64, got: plan.workspace_bytes() as u64 });
        }
        if let Some(bias) = &args.bias {
            // Into the library's plan, in the order of the stream.
            ready.set_bias(stream, bias)?;
        }
        ready.run(stream, Operands::new(bytes, args.x, args.y, args.workspace))
    }

    fn check_origin(&self, origin: &Origin, shape: Shape, values: DType) -> Result<()> {
        let planned = self.origin(values, shape);
        if planned == *origin {
            return Ok(());
        }
        Err(Error::Unplanned { planned: planned.to_string(), given: origin.to_string() })
    }

    /// The library's plan, made if there is none, with the algorithm that a search found.
    fn ready<T: Factor>(&mut self, stream: &Arc<CudaStream>, plan: &Plan) -> Result<&mut cusparselt::Plan> {
        let key = Key { problem: plan.problem(), values: T::DTYPE, bias: plan.given().bias };
        if self.plans.len() >= MOST_PLANS && !self.plans.contains_key(&key) {
            self.plans.retain(|key, _| key.bias);
        }
        match self.plans.entry(key) {
            std::collections::hash_map::Entry::Occupied(known) => Ok(known.into_mut()),
            std::collections::hash_map::Entry::Vacant(vacant) => {
                let problem = described::<T>(key)?;
                let algorithm = cusparselt::remembered(&self.handle, &problem, false).unwrap_or_default();
                let made = cusparselt::Plan::with_algorithm(&self.handle, stream, problem, algorithm)?;
                Ok(vacant.insert(made))
            }
        }
    }
}

/// The product as the library is asked for it.
fn described<T: Factor>(Key { problem, bias, .. }: Key) -> Result<cusparselt::Problem> {
    let types = Types::new(T::DTYPE, <T::Output as Element>::DTYPE)?;
    let mut described = cusparselt::Problem::new(types, problem.tokens, problem.shape);
    described.bias = bias.then_some(Bias::Shared);
    Ok(described)
}

fn allocate<T: DeviceRepr>(stream: &Arc<CudaStream>, elements: usize) -> Result<CudaSlice<T>> {
    // SAFETY: who asks for it writes all of it before anything reads it.
    unsafe { stream.alloc::<T>(elements) }.map_err(driver_error("cuMemAllocAsync"))
}
