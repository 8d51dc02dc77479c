//! What properties are run on.

use twofour::space::Plain;
use twofour::{Cpu, Executor};
#[cfg(feature = "cuda")]
use twofour::{Gpu, device};

/// What tests ask of an executor besides.
pub trait TestExecutor: Executor + std::fmt::Debug {
    /// Whether sums of 16-bit products are those of tensor cores, which truncate.
    const TENSOR_CORES: bool;

    /// An array of bytes that are a NaN in every type, so that an element that is not written shows.
    fn poisoned<T: Plain>(&self, elements: usize) -> Self::Buffer<T> {
        self.upload(&poison(elements)).unwrap()
    }

    /// An output that holds something before: `before` where it is to be added to, else poison.
    fn started<T: Plain>(&self, before: Option<&Vec<T>>, elements: usize) -> Self::Buffer<T> {
        before.map_or_else(|| self.poisoned(elements), |before| self.upload(before).unwrap())
    }

    /// What is in an array that may be absent.
    fn read<T: Plain>(&self, buffer: Option<&Self::Buffer<T>>) -> Option<Vec<T>> {
        buffer.map(|buffer| self.download(buffer).unwrap())
    }
}

/// Bytes that are a NaN in every type.
pub fn poison<T: Plain>(elements: usize) -> Vec<T> {
    let mut values = vec![T::zeroed(); elements];
    bytemuck::cast_slice_mut::<T, u8>(&mut values).fill(0xff);
    values
}

impl TestExecutor for Cpu {
    const TENSOR_CORES: bool = false;
}

#[cfg(feature = "cuda")]
impl TestExecutor for Gpu {
    const TENSOR_CORES: bool = true;
}

/// The GPU, or `None` after saying that there is none; fails instead if `TWOFOUR_REQUIRE_GPU=1`.
#[cfg(feature = "cuda")]
pub fn gpu() -> Option<Gpu> {
    match device::context(0) {
        Ok(context) => {
            let gpu = Gpu::new(&context.default_stream()).unwrap();
            println!("on a GPU with {:?}", gpu.libraries());
            Some(gpu)
        }
        Err(error) if std::env::var_os("TWOFOUR_REQUIRE_GPU").is_some_and(|v| v == "1") => {
            panic!("TWOFOUR_REQUIRE_GPU=1, but {error}")
        }
        Err(error) => {
            println!("skipped: no CUDA device ({error})");
            None
        }
    }
}

/// None: this build knows no GPU.
#[cfg(not(feature = "cuda"))]
pub fn gpu() -> Option<Cpu> {
    None
}

/// Random cases of a property, on each executor.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    /// On the CPU.
    pub cpu: u32,
    /// In the emulator.
    pub emulator: u32,
    /// On the GPU.
    pub gpu: u32,
}
