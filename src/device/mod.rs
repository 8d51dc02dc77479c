//! From a launch plan to a running kernel: finding the driver, choosing or compiling the code for the device,
//! launching.
//!
//! Nothing here is linked: `libcuda` and NVRTC are opened at run time, and what is missing comes back as an
//! [`Error`](crate::Error), never as a panic. Nothing here creates a stream, synchronises, or allocates device memory.
//!
//! The code of a kernel comes from the first of these that the device takes:
//!
//! 1. machine code embedded at build time, where `nvcc` was there;
//! 2. NVRTC, for exactly this device, one kernel at a time, kept in an on-disk cache;
//! 3. embedded PTX, which the driver translates.
//!
//! Without embedded code, then, the first launch of a kernel waits until that kernel is compiled, about 0.3 s for those
//! of `mask`; the cache spares later processes the wait. What is loaded stays, and the context with it, until the
//! process ends. To load everything ahead of time, which capturing a CUDA graph needs, call `prepare`: it compiles each
//! file in one go, which is faster than all of its kernels one by one.
//!
//! | variable | meaning at run time |
//! | --- | --- |
//! | `TWOFOUR_NVRTC` | the NVRTC library, or a folder with it; `off` for none |
//! | `TWOFOUR_CACHE` | `off` to compile anew in every process |
//! | `TWOFOUR_CACHE_DIR` | the cache's folder, instead of `$XDG_CACHE_HOME/twofour` or `~/.cache/twofour` |
//! | `CUDA_HOME`, `CUDA_PATH` | where libraries are looked for when the loader's own path does not have them |

mod bind;
#[cfg(test)]
pub(crate) mod constants;
mod launch;
mod limits;
mod symbol;

#[cfg(feature = "cuda")]
mod cache;
#[cfg(feature = "cuda")]
mod images;
#[cfg(feature = "cuda")]
mod kernels;
#[cfg(feature = "cuda")]
mod nvrtc;
#[cfg(feature = "cuda")]
pub(crate) mod probe;

pub(crate) use bind::ALIGN;
pub use bind::{Binder, DeviceSpace, Names};
pub use launch::{Args, Launch};
pub use limits::Limits;
pub use symbol::Symbol;

#[cfg(feature = "cuda")]
pub use images::{embedded, modules};
#[cfg(feature = "cuda")]
pub use kernels::{is_captured, limits, prepare};
#[cfg(feature = "cuda")]
pub use nvrtc::{Compiled, compile, compile_kernel};
#[cfg(feature = "cuda")]
pub use probe::{available, context};

#[cfg(feature = "cuda")]
pub(crate) use probe::driver_error;
