//! `matmul` on every executor: the CPU, the emulator on several schedules and devices, and the GPU where there is one.
//! The oracle is naive, in `f64`, and its bounds are derived from sizes and types.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

#[path = "matmul/case.rs"]
mod case;
#[path = "matmul/errors.rs"]
mod errors;
#[path = "matmul/far.rs"]
mod far;
#[path = "matmul/far_small.rs"]
mod far_small;
#[cfg(feature = "cuda")]
#[path = "matmul/gpu.rs"]
mod gpu;
#[path = "matmul/kernels.rs"]
mod kernels;
#[path = "matmul/launches.rs"]
mod launches;
#[path = "matmul/oracle.rs"]
mod oracle;
#[path = "matmul/placed.rs"]
mod placed;
#[path = "matmul/plans.rs"]
mod plans;
#[path = "matmul/small.rs"]
mod small;
#[path = "matmul/step.rs"]
mod step;
#[path = "matmul/stepped.rs"]
mod stepped;
#[path = "matmul/suite.rs"]
mod suite;
#[path = "matmul/sums.rs"]
mod sums;
#[path = "matmul/weight.rs"]
mod weight;
