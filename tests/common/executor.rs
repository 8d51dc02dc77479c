//! The executors that a property is run on: the CPU, the emulator on any schedule and with any limits, and the GPU where
//! there is one.

use super::emulator::Emulator;
use twofour::cudarc::driver::{DeviceRepr, ValidAsZeroBits};
use twofour::{Cpu, Executor, Gpu, device};
use twofour_emulator::Schedule;

/// What tests ask of an executor besides.
pub trait TestExecutor: Executor {
    /// An array of bytes that are a NaN in every type, so that an element that is not written shows.
    fn poisoned<T: twofour::space::Plain>(&self, elements: usize) -> Self::Buffer<T> {
        let bytes = vec![0xff_u8; elements * size_of::<T>()];
        let values: Vec<T> = bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect();
        self.upload(&values).unwrap()
    }

    /// Whether sums of 16-bit products are those of tensor cores, which truncate.
    fn has_tensor_cores(&self) -> bool;
}

impl TestExecutor for Cpu {
    fn has_tensor_cores(&self) -> bool {
        false
    }
}

impl TestExecutor for Gpu {
    fn has_tensor_cores(&self) -> bool {
        true
    }
}

/// The GPU, or `None` after saying that there is none; fails instead if `TWOFOUR_REQUIRE_GPU=1`.
pub fn gpu() -> Option<Gpu> {
    match device::context(0).and_then(|context| Gpu::new(&context.default_stream())) {
        Ok(gpu) => Some(gpu),
        Err(error) if std::env::var_os("TWOFOUR_REQUIRE_GPU").is_some_and(|v| v == "1") => {
            panic!("TWOFOUR_REQUIRE_GPU=1, but {error}")
        }
        Err(error) => {
            println!("skipped: no CUDA device ({error})");
            None
        }
    }
}

/// A property of cases, written once.
pub trait Property {
    /// What it is a property of.
    type Case: std::fmt::Debug;
    /// Panics where it does not hold.
    fn holds<E: TestExecutor>(on: &mut E, case: &Self::Case);
}

/// How a suite is run.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    /// Cases on the CPU.
    pub cpu: u32,
    /// Cases in the emulator, each on another schedule and one of two devices.
    pub emulator: u32,
    /// Cases on the GPU.
    pub gpu: u32,
}

/// Runs a property on random cases, on every executor.
pub fn on_every_executor<P: Property>(counts: Counts, cases: impl proptest::strategy::Strategy<Value = P::Case>) {
    super::run(counts.cpu, &cases, |case| P::holds(&mut Cpu, &case));
    let number = std::cell::Cell::new(0);
    super::run(counts.emulator, &cases, |case| {
        P::holds(&mut Emulator::numbered(number.replace(number.get() + 1)), &case);
    });
    if let Some(gpu) = gpu() {
        let gpu = std::cell::RefCell::new(gpu);
        super::run(counts.gpu, &cases, |case| P::holds(&mut *gpu.borrow_mut(), &case));
    }
}

/// Runs a property on one case, on every executor.
pub fn holds_everywhere<P: Property>(case: &P::Case) {
    P::holds(&mut Cpu, case);
    for number in 0..6 {
        P::holds(&mut Emulator::numbered(number), case);
    }
    if let Some(mut gpu) = gpu() {
        P::holds(&mut gpu, case);
    }
}
