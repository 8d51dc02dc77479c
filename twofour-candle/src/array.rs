//! Arrays that are written in place: of variables, and of optimisers' own state.

use std::cell::Cell;

use candle_core::{CpuStorage, CudaStorage, DType, Device, InplaceOp1, Layout, Result, Storage, Tensor};

use crate::number::contiguous_range;

/// Elements that are written in place.
pub(crate) trait Plain: Sized {
    fn on_cpu(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

macro_rules! plain {
    ($($type:ty => $variant:ident),+) => {$(
        impl Plain for $type {
            fn on_cpu(storage: &mut CpuStorage) -> Option<&mut [Self]> {
                match storage {
                    CpuStorage::$variant(elements) => Some(elements),
                    _ => None,
                }
            }
        }
    )+};
}
plain!(f32 => F32, f64 => F64, u8 => U8, twofour::bf16 => BF16);

/// The storage of a tensor, to be written in.
pub(crate) enum Target<'s> {
    Cpu(&'s mut CpuStorage),
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "there is no such storage without it"))]
    Cuda(&'s mut CudaStorage),
}

/// Gives `write` the storage of a tensor, and how the tensor lies in it.
pub(crate) fn write<R>(tensor: &Tensor, write: impl FnOnce(Target<'_>, &Layout) -> Result<R>) -> Result<R> {
    let op = Write { write: Cell::new(Some(write)), result: Cell::new(None) };
    tensor.inplace_op1(&op)?;
    op.result.take().ok_or_else(|| candle_core::Error::Msg("candle did not run the operation".to_owned()))
}

struct Write<F, R> {
    write: Cell<Option<F>>,
    result: Cell<Option<R>>,
}

impl<R, F: FnOnce(Target<'_>, &Layout) -> Result<R>> Write<F, R> {
    fn run(&self, target: Target<'_>, layout: &Layout) -> Result<()> {
        if let Some(write) = self.write.take() {
            self.result.set(Some(write(target, layout)?));
        }
        Ok(())
    }
}

impl<R, F: FnOnce(Target<'_>, &Layout) -> Result<R>> InplaceOp1 for Write<F, R> {
    fn name(&self) -> &'static str {
        "twofour step"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        self.run(Target::Cpu(storage), layout)
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        self.run(Target::Cuda(storage), layout)
    }
}

/// The elements of a contiguous tensor on the CPU, to be written.
pub(crate) fn elements_mut<'s, T: Plain>(storage: &'s mut CpuStorage, layout: &Layout) -> Result<&'s mut [T]> {
    let (from, to) = contiguous_range(layout)?;
    T::on_cpu(storage).and_then(|all| all.get_mut(from..to)).ok_or_else(other_memory)
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

pub(crate) fn host<T: Plain>(storage: &mut Storage) -> Result<&mut [T]> {
    match storage {
        Storage::Cpu(storage) => T::on_cpu(storage).ok_or_else(other_memory),
        _ => Err(other_memory()),
    }
}

#[cfg(feature = "cuda")]
pub(crate) fn slice<T: candle_core::cuda::CudaDType>(
    storage: &mut Storage,
) -> Result<&mut twofour::cudarc::driver::CudaSlice<T>> {
    match storage {
        Storage::Cuda(storage) => storage.as_cuda_slice_mut::<T>(),
        _ => Err(other_memory()),
    }
}

pub(crate) fn other_memory() -> candle_core::Error {
    candle_core::Error::Msg("an array of the step is of another type or on another device than the logits".to_owned())
        .bt()
}
