//! `sparse` on every executor: the CPU, the emulator on several schedules and devices, and the GPU where there is one. The
//! oracles are naive, in `f64` (`i64` for integers), and their bounds are derived from sizes and types.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

#[path = "sparse/case.rs"]
mod case;
#[path = "sparse/cpu.rs"]
mod cpu;
#[path = "sparse/errors.rs"]
mod errors;
#[path = "sparse/far.rs"]
mod far;
#[cfg(feature = "cuda")]
#[path = "sparse/gpu.rs"]
mod gpu;
#[path = "sparse/kernels/mod.rs"]
mod kernels;
#[path = "sparse/launches.rs"]
mod launches;
#[cfg(feature = "cuda")]
#[path = "sparse/library.rs"]
mod library;
#[path = "sparse/number.rs"]
mod number;
#[path = "sparse/oracle.rs"]
mod oracle;
#[path = "sparse/plans.rs"]
mod plans;
#[path = "sparse/routes.rs"]
mod routes;
#[path = "sparse/suite.rs"]
mod suite;
#[path = "sparse/sums.rs"]
mod sums;
