//! Runs the project's CUDA kernels on the CPU, so that they can be tested where there is no GPU.
//!
//! The same `cuda/*.cu` that nvcc and NVRTC compile is compiled here as C++ (`build.rs`), with the inline PTX replaced
//! by twins that compute the same and check what they are given. Each CUDA thread is a fiber. A [`run`] ends in a
//! [`Report`], or in a [`Fault`] that says which kernel, block, thread and line did what.
//!
//! ```no_run
//! use twofour_emulator::{Args, Buffer, Kernel, Launch, Options, Schedule, run};
//!
//! # fn main() -> Result<(), twofour_emulator::Fault> {
//! let input = Buffer::input("input", &[1.0f32, 2.0, 3.0])?;
//! let output = Buffer::output::<f32>("output", 3)?;
//! let args = Args::new().pointer(&input).pointer(&output).value(3u64).finish();
//! let launch = Launch {
//!     kernel: Kernel::find("twofour_double_f32")?,
//!     grid: [1, 1, 1],
//!     block: [32, 1, 1],
//!     shared_bytes: 0,
//!     args: &args,
//! };
//! for schedule in Schedule::several(3) {
//!     run(&launch, &Options { schedule, ..Options::default() })?;
//! }
//! assert_eq!(output.values::<f32>(), [2.0, 4.0, 6.0]);
//! # Ok(())
//! # }
//! ```
//!
//! Addresses in the arguments are those of [`Buffer`]s. Every buffer lies between guard pages, and every access through
//! `ptx.cuh` is checked against the buffers' exact bounds.

mod access;
mod args;
mod block;
mod calls;
mod copies;
mod element;
mod fault;
mod kernel;
mod launch;
mod mapping;
mod memory;
pub mod ptx;
mod report;
mod schedule;
mod shared;
mod signals;
mod stack;
mod sync;
pub mod tensor;
mod thread;
mod touched;
mod warp;
mod worker;

pub use args::Args;
pub use element::Element;
pub use fault::{Access, Fault, Near, Place, Source};
pub use kernel::{Kernel, kernels};
pub use launch::{Launch, MAX_SHARED_BYTES, Options, run, unwritten};
pub use memory::{Buffer, rename, written};
pub use report::Report;
pub use schedule::Schedule;
