//! The CUDA executor of `compress`. Everything is queued on the caller's stream: the `_into` functions allocate, copy
//! and wait for nothing, so that they can be captured in a CUDA graph (after [`crate::device::prepare`]).

use crate::compress::Sparsity;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, DeviceRepr};

use super::layout::Layout;

use super::{Choice, Draw};
use crate::check::length;
use crate::device;
use crate::device::launch::launch;
use crate::device::operand::{input, output};
use crate::element::{Element, Logit};
use crate::error::Result;
use crate::sample::{Kind, Sampling};
use crate::shape::{Shape, Shard};
use crate::space::{Cuda, Raw, RawSlice};

/// [`super::Pack`] over a device's memory.
pub type Pack<'a, T, L = f32> = super::Pack<'a, Cuda, T, L>;
/// [`super::Unpack`] over a device's memory.
pub type Unpack<'a, T> = super::Unpack<'a, Cuda, T>;
/// [`super::Reorder`] over a device's memory.
pub type Reorder<'a> = super::Reorder<'a, Cuda>;

/// What a bound operand was when it is not optional.
const ABSENT: RawSlice = RawSlice { address: 0, elements: 0 };

/// Queues a compression.
///
/// # Errors
/// What [`check`](super::Pack::check) finds, [`Misaligned`](crate::Error::Misaligned),
/// [`ForeignContext`](crate::Error::ForeignContext), and what finding or launching the kernel may give
/// ([`crate::device`]). A group without a legal code is none: see the [module](super).
pub fn pack_into<T: Element, L: Logit>(stream: &Arc<CudaStream>, mut args: Pack<'_, T, L>) -> Result<()> {
    args.check()?;
    let (given, draw) = match &args.choice {
        Choice::Codes(given) => (Some(given), None),
        Choice::Logits(draw) => (None, Some(draw)),
        Choice::Magnitude | Choice::NonZeros => (None, None),
    };
    let (given, _given) = input("codes", stream, given)?;
    let (logits, _logits) = input("logits", stream, draw.map(|draw| &draw.logits))?;
    let choice = match &args.choice {
        Choice::Codes(_) => Choice::Codes(given.unwrap_or(ABSENT)),
        Choice::Logits(Draw { kind, sampling, shard, .. }) => {
            let logits = logits.unwrap_or(ABSENT);
            Choice::Logits(Draw { logits, kind: *kind, sampling: *sampling, shard: *shard })
        }
        Choice::Magnitude => Choice::Magnitude,
        Choice::NonZeros => Choice::NonZeros,
    };
    let (dense, _dense) = input("dense", stream, Some(&args.dense))?;
    let (values, _values) = output("values", stream, args.values.as_mut())?;
    let (metadata, _metadata) = output("metadata", stream, args.metadata.as_mut())?;
    let (codes, _codes) = output("codes", stream, args.codes.as_mut())?;
    let (masked, _masked) = output("masked", stream, args.masked.as_mut())?;
    let (faults, _faults) = output("faults", stream, args.faults.as_mut())?;
    let (shape, layout, dense) = (args.shape, args.layout, dense.unwrap_or(ABSENT));
    let raw = super::Pack::<Raw, T, L> { shape, layout, choice, dense, values, metadata, codes, masked, faults };
    let plan = raw.launch(&device::limits(stream.context())?)?;
    // SAFETY: `check` found every operand as long as the kernel reads or writes, `input` and `output` found them in the
    // stream's context and hold their guards, and `PackArgs` mirrors the kernel's struct.
    unsafe { launch(stream, &plan) }
}

/// Queues a decompression: kept values bit for bit, all others `+0.0`.
///
/// # Errors
/// What [`check`](super::Unpack::check) finds, and as [`pack_into`].
pub fn unpack_into<T: Element>(stream: &Arc<CudaStream>, mut args: Unpack<'_, T>) -> Result<()> {
    args.check()?;
    let (values, _values) = input("values", stream, Some(&args.values))?;
    let (metadata, _metadata) = input("metadata", stream, Some(&args.metadata))?;
    let (dense, _dense) = output("dense", stream, Some(&mut args.dense))?;
    let (faults, _faults) = output("faults", stream, args.faults.as_mut())?;
    let [values, metadata, dense] = [values, metadata, dense].map(|operand| operand.unwrap_or(ABSENT));
    let (shape, layout) = (args.shape, args.layout);
    let raw = super::Unpack::<Raw, T> { shape, layout, values, metadata, dense, faults };
    let plan = raw.launch(&device::limits(stream.context())?)?;
    // SAFETY: as in `pack_into`, with `UnpackArgs`.
    unsafe { launch(stream, &plan) }
}

/// Queues a change of layout.
///
/// # Errors
/// What [`check`](super::Reorder::check) finds, and as [`pack_into`].
pub fn reorder_into(stream: &Arc<CudaStream>, mut args: Reorder<'_>) -> Result<()> {
    args.check()?;
    let (from, _from) = input("metadata (from)", stream, Some(&args.from.1))?;
    let (to, _to) = output("metadata (to)", stream, Some(&mut args.to.1))?;
    let (faults, _faults) = output("faults", stream, args.faults.as_mut())?;
    let (shape, value_type) = (args.shape, args.value_type);
    let [from, to] = [(args.from.0, from.unwrap_or(ABSENT)), (args.to.0, to.unwrap_or(ABSENT))];
    let raw = super::Reorder::<Raw> { shape, value_type, from, to, faults };
    let plan = raw.launch(&device::limits(stream.context())?)?;
    // SAFETY: as in `pack_into`, with `ReorderArgs`.
    unsafe { launch(stream, &plan) }
}

/// A compressed weight in canonical form, on a device: what [`super::Compressed`] is on the host.
///
/// Its codes are legal, for kernels write no others; where the mask had no legal code for a group, its values are NaN
/// (see the [module](super)).
#[derive(Debug)]
pub struct Compressed<T> {
    shape: Shape,
    values: CudaSlice<T>,
    codes: CudaSlice<u8>,
}

impl<T: Element> Compressed<T> {
    /// A dense weight under a mask of these codes, in new allocations on `stream`.
    ///
    /// # Errors
    /// As [`pack_into`], and [`Cuda`](crate::Error::Cuda) if there is no memory.
    pub fn with_codes(
        stream: &Arc<CudaStream>,
        shape: Shape,
        dense: CudaView<'_, T>,
        codes: CudaView<'_, u8>,
    ) -> Result<Self> {
        Self::pack::<f32>(stream, shape, dense, Choice::Codes(codes))
    }

    /// The values of the largest magnitude of each group.
    ///
    /// # Errors
    /// As [`with_codes`](Self::with_codes).
    pub fn by_magnitude(stream: &Arc<CudaStream>, shape: Shape, dense: CudaView<'_, T>) -> Result<Self> {
        Self::pack::<f32>(stream, shape, dense, Choice::Magnitude)
    }

    /// What the mask of logits keeps of a dense weight; `Hard` or `Argmax`.
    ///
    /// # Errors
    /// As [`with_codes`](Self::with_codes).
    pub fn from_logits<L: Logit>(
        stream: &Arc<CudaStream>,
        shape: Shape,
        kind: Kind,
        sampling: Sampling,
        logits: CudaView<'_, L>,
        dense: CudaView<'_, T>,
    ) -> Result<Self> {
        let shard = Shard::whole(shape.cols as u64);
        Self::pack(stream, shape, dense, Choice::Logits(Draw { logits, kind, sampling, shard }))
    }

    fn pack<L: Logit>(
        stream: &Arc<CudaStream>,
        shape: Shape,
        dense: CudaView<'_, T>,
        choice: Choice<CudaView<'_, u8>, CudaView<'_, L>>,
    ) -> Result<Self> {
        // Before anything is allocated.
        shape.check()?;
        length("dense", Some(&dense), shape.weights())?;
        let (of_values, of_codes) = (shape.weights() / 2, Sparsity::of(T::DTYPE).packed_codes(shape));
        let (mut values, mut codes) = (allocate(stream, of_values)?, allocate(stream, of_codes)?);
        let args = Pack::new(shape, dense, choice).values(values.slice_mut(..of_values));
        pack_into(stream, args.codes(codes.slice_mut(..of_codes)))?;
        Ok(Self { shape, values, codes })
    }

    /// A copy of a weight in the host's memory.
    ///
    /// # Errors
    /// [`Cuda`](crate::Error::Cuda) if there is no memory or the copy fails.
    pub fn upload(stream: &Arc<CudaStream>, host: &super::Compressed<T>) -> Result<Self> {
        let mut this = Self {
            shape: host.shape(),
            values: allocate(stream, host.values().len())?,
            codes: allocate(stream, host.codes().len())?,
        };
        let copied = device::driver_error("cuMemcpyHtoDAsync");
        if !host.values().is_empty() {
            stream.memcpy_htod(host.values(), &mut this.values).map_err(&copied)?;
            stream.memcpy_htod(host.codes(), &mut this.codes).map_err(&copied)?;
        }
        Ok(this)
    }

    /// A copy in the host's memory; waits for it.
    ///
    /// # Errors
    /// [`Cuda`](crate::Error::Cuda) if the copy fails.
    pub fn download(&self, stream: &Arc<CudaStream>) -> Result<super::Compressed<T>> {
        let copied = device::driver_error("cuMemcpyDtoHAsync");
        let mut values = stream.clone_dtoh(&self.values).map_err(&copied)?;
        let mut codes = stream.clone_dtoh(&self.codes).map_err(&copied)?;
        stream.synchronize().map_err(device::driver_error("cuStreamSynchronize"))?;
        values.truncate(self.values().len());
        codes.truncate(self.codes().len());
        super::Compressed::new(self.shape, values, codes)
    }

    /// Metadata in a layout, in a new allocation on `stream`; as long as [`Layout::sizes`] says, but never empty.
    ///
    /// # Errors
    /// As [`reorder_into`], and [`Cuda`](crate::Error::Cuda) if there is no memory.
    pub fn metadata(&self, stream: &Arc<CudaStream>, layout: Layout) -> Result<CudaSlice<u8>> {
        let bytes = layout.sizes(self.shape, T::DTYPE)?.metadata;
        let mut metadata = allocate(stream, bytes)?;
        let to = (layout, metadata.slice_mut(..bytes));
        reorder_into(stream, Reorder::new(self.shape, T::DTYPE, (Layout::Plain, self.codes()), to))?;
        Ok(metadata)
    }

    /// The dense weight `[N, K]`, in a new allocation on `stream`; never empty.
    ///
    /// # Errors
    /// As [`unpack_into`], and [`Cuda`](crate::Error::Cuda) if there is no memory.
    pub fn decompress(&self, stream: &Arc<CudaStream>) -> Result<CudaSlice<T>> {
        let mut dense = allocate(stream, self.shape.weights())?;
        let all = dense.slice_mut(..self.shape.weights());
        unpack_into(stream, Unpack::new(self.shape, Layout::Plain, self.values(), self.codes(), all))?;
        Ok(dense)
    }

    /// `[N, K]` of the dense weight.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Kept values `[N, K/2]`.
    #[must_use]
    pub fn values(&self) -> CudaView<'_, T> {
        self.values.slice(..self.shape.weights() / 2)
    }

    /// Packed codes.
    #[must_use]
    pub fn codes(&self) -> CudaView<'_, u8> {
        self.codes.slice(..Sparsity::of(T::DTYPE).packed_codes(self.shape))
    }
}

/// Memory whose every element is written before anything queued later reads it. The driver gives no empty array: there
/// is always an element.
fn allocate<T: DeviceRepr>(stream: &Arc<CudaStream>, elements: usize) -> Result<CudaSlice<T>> {
    // SAFETY: the callers queue a kernel or a copy that overwrites all of it.
    unsafe { stream.alloc::<T>(elements.max(1)) }.map_err(device::driver_error("cuMemAllocAsync"))
}
