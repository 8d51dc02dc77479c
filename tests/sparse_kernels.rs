//! The own sparse kernels, run in the emulator, against products in `f64` (integers: `i64`) of the weight before it was
//! compressed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "sparse_kernels/case.rs"]
mod case;
#[path = "sparse_kernels/kernels.rs"]
mod kernels;
#[path = "sparse_kernels/launches.rs"]
mod launches;
#[path = "sparse_kernels/number.rs"]
mod number;
#[path = "sparse_kernels/positions.rs"]
mod positions;
#[path = "sparse_kernels/values.rs"]
mod values;
