//! NVIDIA's cuSPARSELt: its compressor and its 2:4 product, with the library opened at run time.
//!
//! cuSPARSELt multiplies a 2:4 matrix by a dense one on sparse tensor cores. It is a library of its own, in no toolkit,
//! of 230 MB and more, so that most machines have none: nothing here is linked, a build needs neither it nor its
//! header, and what is missing is an [`Error`]. Three things about it are unusual, and shape this module.
//!
//! **It is one file name and several libraries.** Versions 0.6 to 0.10 are all `libcusparseLt.so.0`, with objects of
//! 13072 bytes, then 1024, then 512, and with other functions. The caller keeps the objects, so that a library older
//! than the caller's header writes past their end. So the version is asked for before anything else; 0.7 to 0.10 are
//! accepted; and every object has 16 KiB.
//!
//! **What its compressor writes is its own affair.** Kept values come first, then metadata, in an order that differs
//! between devices, formats and sizes, and may differ between versions. A buffer in the wrong order gives wrong numbers
//! and no error. So who packs weights otherwise asks the library first, with a small weight: [`Compressor::probe`].
//!
//! **Its handle is for one thread.** A [`Handle`] is neither `Send` nor `Sync`; make one a thread and device. What is
//! found by a [search](Plan::search) is shared by all threads.
//!
//! # A product
//!
//! A [`Problem`] says what is multiplied, as plain data: `Y = f(α · X Wᵀ + β · C + b)` with `W [N, K]` 2:4, and whether
//! it breaks one of the library's rules is known without the library ([`Problem::check`]). A [`Plan`] is a problem made
//! ready; it tells how large the compressed weight and the workspace are, compresses, searches and runs, on the
//! caller's stream and in the caller's memory. (The bias is copied into the plan, for the library keeps its address.)
//!
//! ```no_run
//! use twofour::cusparselt::{Bias, Handle, Operands, Plan, Problem, Types};
//! use twofour::{DType, Shape, bf16, device};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let stream = device::context(0)?.default_stream();
//! let handle = Handle::new(stream.context())?;
//! let (tokens, n, k) = (128, 4096, 4096);
//! let mut problem = Problem::new(Types::new(DType::Bf16, DType::Bf16)?, tokens, Shape::new(n, k));
//! problem.bias = Some(Bias::Shared);
//! let mut plan = Plan::new(&handle, &stream, problem)?;
//!
//! # let (weight, x, bias) = (stream.alloc_zeros::<bf16>(n * k)?, stream.alloc_zeros::<bf16>(tokens * k)?,
//! #     stream.alloc_zeros::<bf16>(n)?);
//! // `weight` is 2:4 along its rows.
//! let size = plan.compressed_size();
//! let mut compressed = stream.alloc_zeros::<u8>(size.bytes)?;
//! let mut buffer = stream.alloc_zeros::<u8>(size.buffer_bytes)?;
//! plan.compress(&stream, &weight, &mut compressed, &mut buffer)?;
//! plan.set_bias(&stream, &bias)?;
//!
//! let mut y = stream.alloc_zeros::<bf16>(tokens * n)?;
//! let mut workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes())?;
//! plan.run(&stream, Operands::new(&compressed, &x, &mut y).workspace(&mut workspace))?;
//! # Ok(())
//! # }
//! ```
//!
//! # Where the library is looked for
//!
//! | variable | meaning |
//! | --- | --- |
//! | `TWOFOUR_CUSPARSELT` | the library, or a folder with it; `off` for none |
//! | `CUSPARSELT_ROOT`, `CUSPARSELT_PATH` | folders that have it, or have it in `lib64` or `lib`, if the loader's path does not |
//! | `CUDA_HOME`, `CUDA_PATH` | the same, after those |
//!
//! Any way to `libcusparseLt.so.0` will do; one is NVIDIA's wheel:
//!
//! ```sh
//! pip install nvidia-cusparselt-cu13==0.10.0 # 170 MB
//! export TWOFOUR_CUSPARSELT=.../site-packages/nvidia/cu13/lib
//! ```
//!
//! # Layers
//!
//! `sys` is generated from the library's header (`cargo xtask bindings`): types, numbers, and a table of functions each
//! of which may be missing. `result` has one function a call, with the status as an [`Error`]. The rest is safe.
//! Sources: NVIDIA's header 0.10.0 and documentation (<https://docs.nvidia.com/cuda/cusparselt/>). Not offered: compute
//! in `f16`, block-scaled and 4-bit formats, β for each row, pruning (see `select` and `mask`), and a 2:4 right
//! operand, which is a transposed output.

mod call;
mod problem;
mod value;

#[cfg(feature = "cuda")]
mod algorithm;
#[cfg(feature = "cuda")]
mod compress;
#[cfg(feature = "cuda")]
mod descriptor;
#[cfg(feature = "cuda")]
mod handle;
#[cfg(feature = "cuda")]
mod library;
#[cfg(feature = "cuda")]
mod opaque;
#[cfg(feature = "cuda")]
mod operands;
#[cfg(feature = "cuda")]
mod plan;
#[cfg(feature = "cuda")]
mod plans;
#[cfg(feature = "cuda")]
mod result;
#[cfg(feature = "cuda")]
#[allow(missing_docs, dead_code, non_camel_case_types, non_snake_case, non_upper_case_globals, unreachable_pub)]
#[allow(clippy::all, clippy::undocumented_unsafe_blocks, clippy::missing_safety_doc)]
#[allow(clippy::multiple_unsafe_ops_per_block)]
mod sys;
#[cfg(feature = "cuda")]
mod thread;

pub use call::{Call, Device, Form, Origin, Version};
pub use problem::{Activation, Bias, Placement, Problem};
pub use value::Types;

#[cfg(feature = "cuda")]
pub use algorithm::{Algorithm, SplitKMode, remembered};
#[cfg(feature = "cuda")]
pub use compress::{Compressed, Compressor};
#[cfg(feature = "cuda")]
pub use handle::Handle;
#[cfg(feature = "cuda")]
pub use operands::{Addend, Alpha, Operands};
#[cfg(feature = "cuda")]
pub use plan::{CompressedSize, Plan, Searched};

#[cfg(feature = "cuda")]
pub(crate) use plans::Plans;
#[cfg(feature = "cuda")]
pub(crate) use thread::OfThread;

#[cfg(doc)]
use crate::error::Error;
#[cfg(feature = "cuda")]
use crate::error::Result;

/// The version of the library that is there. Needs no device and no driver.
///
/// # Errors
/// [`Error::LibraryUnavailable`] without the library, or with a version that this crate was not written for.
#[cfg(feature = "cuda")]
pub fn available() -> Result<Version> {
    Ok(library::library()?.version)
}

/// The library's name of a status, as an [`Error::Cuda`] of its calls carries it. Needs no device and no driver.
///
/// # Errors
/// As [`available`].
#[cfg(feature = "cuda")]
pub fn status_name(status: u32) -> Result<String> {
    Ok(library::library()?.status_name(sys::cusparseStatus_t(status)))
}
