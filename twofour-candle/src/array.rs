//! Arrays that are written in place: of variables, and of optimisers' own state.

use std::cell::Cell;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Storage, Tensor};
use twofour::Cpu;

use crate::place::Place;

/// What writes in a tensor, wherever it is.
pub(crate) trait Write {
    /// Takes the tensor's array, and how the tensor lies in it.
    fn write<P: Place>(self, storage: &mut P::Storage, layout: &Layout) -> Result<()>;
}

/// Lets `write` write in a tensor.
pub(crate) fn write(tensor: &Tensor, write: impl Write) -> Result<()> {
    tensor.inplace_op1(&InPlace(Cell::new(Some(write))))
}

struct InPlace<W>(Cell<Option<W>>);

impl<W: Write> InPlace<W> {
    fn run<P: Place>(&self, storage: &mut P::Storage, layout: &Layout) -> Result<()> {
        self.0.take().map_or(Ok(()), |write| write.write::<P>(storage, layout))
    }
}

impl<W: Write> InplaceOp1 for InPlace<W> {
    fn name(&self) -> &'static str {
        "twofour step"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        self.run::<Cpu>(storage, layout)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &mut candle_core::CudaStorage, layout: &Layout) -> Result<()> {
        self.run::<twofour::Gpu>(storage, layout)
    }
}

/// A zeroed array of `f32` or `u8`, `f64` for sums, in a device's memory: nothing else is allocated on the way.
pub(crate) fn zeroed(elements: usize, dtype: DType, device: &Device) -> Result<Storage> {
    match (device, dtype) {
        (Device::Cpu, DType::U8) => Ok(Storage::Cpu(CpuStorage::U8(vec![0; elements]))),
        (Device::Cpu, DType::F32) => Ok(Storage::Cpu(CpuStorage::F32(vec![0.0; elements]))),
        (Device::Cpu, DType::F64) => Ok(Storage::Cpu(CpuStorage::F64(vec![0.0; elements]))),
        #[cfg(feature = "cuda")]
        (Device::Cuda(on), dtype) => {
            use candle_core::backend::BackendDevice;
            on.zeros_impl(&elements.into(), dtype).map(Storage::Cuda)
        }
        (_, dtype) => candle_core::bail!("no {} array for a step on {:?}", dtype.as_str(), device.location()),
    }
}

/// A copy of a tensor's elements.
pub(crate) fn copy_of(tensor: &Tensor) -> Result<Storage> {
    let tensor = tensor.force_contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    storage.try_clone(layout)
}

/// A copy of an array as a tensor.
pub(crate) fn tensor_of(storage: &Storage, dims: &[usize]) -> Result<Tensor> {
    let layout = Layout::contiguous(dims);
    let none = candle_core::op::BackpropOp::none();
    Ok(Tensor::from_storage(storage.try_clone(&layout)?, dims, none, false))
}
