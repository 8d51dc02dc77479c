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
//! Compute capability 8.0 or later is needed. NVRTC of CUDA 11.8, 12.4 and 13.0 compiles every kernel. Before 12.5 it and
//! nvcc do not know `mma.sp::ordered_metadata` (PTX ISA 8.5): from them the kernels of [`sparse`](crate::sparse) have
//! `mma.sp`, which is as right and may be slower. Code built with CUDA 12 runs on drivers from 525 on, with CUDA 13 from
//! 580 on.
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
//!
//! # Building
//!
//! `cargo build` never fails for lack of CUDA and links no CUDA library. Where nvcc is found, each `cuda/*.cu` is
//! compiled to one fat binary (`sm_80`, 86, 89, 90a, 100a, 120, and PTX); elsewhere the sources are embedded alone, for
//! NVRTC.
//!
//! | variable | meaning at build time |
//! | --- | --- |
//! | `TWOFOUR_NVCC` | the nvcc to use, or `off`; else `NVCC`, `CUDA_HOME` and its like, `PATH`, usual places |
//! | `TWOFOUR_CUDA_ARCHS` | architectures: `80,90a`, `all`, `native` |
//! | `TWOFOUR_REQUIRE_AOT` | `1`: fail if kernels cannot be compiled, instead of leaving them to NVRTC |
//! | `NVCC_CCBIN` | nvcc's host compiler |
//! | `CUDARC_CUDA_VERSION` | which CUDA version cudarc's bindings are for, if its guess from nvcc is wrong: `13000` |
//!
//! [cudarc](https://docs.rs/cudarc) 0.19, re-exported as `twofour::cudarc`, is the one that candle 0.11 and burn 0.22
//! use. This crate enables neither a fixed CUDA version of it nor a fixed way of loading, so that they fit together.

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
pub use nvrtc::{Compiled, compile, compile_kernel, compile_ptx};
#[cfg(feature = "cuda")]
pub use probe::{available, context};

#[cfg(feature = "cuda")]
pub(crate) use probe::driver_error;
