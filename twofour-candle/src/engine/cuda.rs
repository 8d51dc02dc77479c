//! The engine's part for CUDA devices: one handle a device, and candle's arrays as its operands.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda::{CudaDevice, DeviceId};
use candle_core::{CudaStorage, Result, Storage};
use twofour::cudarc::driver::{CudaSlice, CudaView, CudaViewMut};
use twofour::learn::Statistics;
use twofour::{Buffer, Gpu, Libraries};

use super::Engine;
use crate::number::{Stored, wrap};
use crate::place::{Place, out_of_range};

pub(super) type Devices = HashMap<DeviceId, Arc<Mutex<Gpu>>>;

impl Engine {
    /// The handle of a device; made when it is first met.
    fn on(&self, device: &CudaDevice) -> Result<Arc<Mutex<Gpu>>> {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = devices.get(&device.id()) {
            return Ok(Arc::clone(known));
        }
        // Without cuSPARSELt, whose handle is for one thread: candle's users have many.
        let gpu = Gpu::new(&device.cuda_stream()).map_err(wrap)?.only(Libraries::CUBLASLT);
        let made = Arc::new(Mutex::new(gpu));
        devices.insert(device.id(), Arc::clone(&made));
        Ok(made)
    }
}

impl Place for Gpu {
    type Storage = CudaStorage;

    fn with<R>(engine: &Engine, device: &CudaDevice, work: impl FnOnce(&mut Self) -> twofour::Result<R>) -> Result<R> {
        let gpu = engine.on(device)?;
        let mut gpu = gpu.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut gpu).map_err(wrap)
    }

    fn of(storage: &Storage) -> Option<&CudaStorage> {
        if let Storage::Cuda(storage) = storage { Some(storage) } else { None }
    }

    fn of_mut(storage: &mut Storage) -> Option<&mut CudaStorage> {
        if let Storage::Cuda(storage) = storage { Some(storage) } else { None }
    }

    fn elements<T: Stored>(storage: &CudaStorage, range: Range<usize>) -> Result<CudaView<'_, T>> {
        let (all, end) = (storage.as_cuda_slice::<T>()?, range.end);
        all.try_slice(range).ok_or_else(|| out_of_range(end, all.len()))
    }

    fn elements_mut<T: Stored>(storage: &mut CudaStorage, range: Range<usize>) -> Result<CudaViewMut<'_, T>> {
        let all = storage.as_cuda_slice_mut::<T>()?;
        let (end, len) = (range.end, all.len());
        all.try_slice_mut(range).ok_or_else(|| out_of_range(end, len))
    }

    /// An empty array is one of one element, for the driver gives no others.
    fn own<T: Stored>(array: Buffer<T>, device: &CudaDevice) -> CudaStorage {
        CudaStorage::wrap_cuda_slice(array.into_slice(), device.clone())
    }

    type Counts = CudaSlice<Statistics>;

    fn counts(device: &CudaDevice, elements: usize) -> Result<CudaSlice<Statistics>> {
        device.alloc_zeros(elements)
    }

    fn some_counts(counts: &mut CudaSlice<Statistics>, range: Range<usize>) -> Option<CudaViewMut<'_, Statistics>> {
        counts.try_slice_mut(range)
    }

    fn read_counts(device: &CudaDevice, counts: &CudaSlice<Statistics>, elements: usize) -> Result<Vec<Statistics>> {
        device.clone_dtoh(&counts.slice(..elements.min(counts.len())))
    }
}
