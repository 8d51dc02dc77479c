//! The engine's part for CUDA devices: one handle to cuBLASLt a device, and plans by what they are for.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use twofour::Factor;

use candle_core::cuda::{CudaDevice, DeviceId};
use candle_core::{DType, Result};
use twofour::cudarc::driver::CudaStream;
use twofour::device::{Limits, limits};
use twofour::matmul::cuda::BlasLt;
use twofour::matmul::{self, Keep, Masks, Problem};
use twofour::sparse::{self, Given, Libraries};

use super::Engine;
use crate::number::{Number, Score, wrap};

/// Plans remembered at most of each kind; then it starts anew. (Sequences come in many lengths.)
const MOST_PLANS: usize = 4096;

pub(crate) type Devices = HashMap<DeviceId, Arc<Mutex<OnDevice>>>;

/// What is shared on one device.
pub(crate) struct OnDevice {
    /// `None` where the library is not there: own kernels serve 16-bit types.
    pub(crate) blas: Option<BlasLt>,
    pub(crate) stream: Arc<CudaStream>,
    limits: Limits,
    masked: HashMap<(Problem, Masks, [DType; 2]), matmul::Plan>,
    compressed: HashMap<(Problem, Given, DType), sparse::Plan>,
}

impl Engine {
    /// What is shared on the device; made when it is first met.
    pub(crate) fn on(&self, device: &CudaDevice) -> Result<Arc<Mutex<OnDevice>>> {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = devices.get(&device.id()) {
            return Ok(Arc::clone(known));
        }
        let made = Arc::new(Mutex::new(OnDevice::new(device)?));
        devices.insert(device.id(), Arc::clone(&made));
        Ok(made)
    }
}

/// For as long as work is queued.
pub(crate) fn lock(on: &Mutex<OnDevice>) -> MutexGuard<'_, OnDevice> {
    on.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OnDevice {
    fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        let limits = limits(stream.context()).map_err(wrap)?;
        let blas = match BlasLt::new(&stream) {
            Ok(blas) => Some(blas),
            Err(twofour::Error::LibraryUnavailable { .. }) => None,
            Err(error) => return Err(wrap(error)),
        };
        Ok(Self { blas, stream, limits, masked: HashMap::new(), compressed: HashMap::new() })
    }

    /// The plan of a masked layer's products. Nothing is kept between its passes.
    pub(crate) fn masked<L: Score, W: Number>(&mut self, problem: Problem, masks: Masks) -> Result<matmul::Plan> {
        let (limits, blas) = (self.limits, self.blas.is_some());
        let types = [<L as candle_core::WithDType>::DTYPE, <W as candle_core::WithDType>::DTYPE];
        remembered(&mut self.masked, (problem, masks, types), || {
            let plan = matmul::Plan::new::<L, W>(&limits, problem, masks, Keep::Nothing)?;
            if blas { Ok(plan) } else { plan.without_blaslt() }
        })
    }

    /// The plan of a compressed layer's product.
    pub(crate) fn compressed<W: Number + Factor>(&mut self, problem: Problem, given: Given) -> Result<sparse::Plan> {
        let (limits, cublaslt) = (self.limits, self.blas.is_some());
        let dtype = <W as candle_core::WithDType>::DTYPE;
        remembered(&mut self.compressed, (problem, given, dtype), || {
            sparse::Plan::new::<W>(&limits, problem, given, Libraries { cublaslt, cusparselt: false })
        })
    }
}

fn remembered<K: Hash + Eq, P: Copy>(
    plans: &mut HashMap<K, P>,
    key: K,
    make: impl FnOnce() -> twofour::Result<P>,
) -> Result<P> {
    if let Some(plan) = plans.get(&key) {
        return Ok(*plan);
    }
    if plans.len() >= MOST_PLANS {
        plans.clear();
    }
    let plan = make().map_err(wrap)?;
    plans.insert(key, plan);
    Ok(plan)
}
