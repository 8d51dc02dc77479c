//! The suite of `compress`: golden files, an oracle that shares no formula with the crate, edge cases and errors; run
//! against the CPU's executor, the emulator's and, where there is one, the GPU's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "compress/any.rs"]
mod any;
#[path = "common/array.rs"]
mod array;
#[path = "compress/edges.rs"]
mod edges;
#[path = "compress/errors.rs"]
mod errors;
#[path = "compress/executor.rs"]
mod executor;
#[path = "compress/golden.rs"]
mod golden;
#[path = "compress/kernels.rs"]
mod kernels;
#[path = "compress/launches.rs"]
mod launches;
#[path = "compress/oracle.rs"]
mod oracle;
#[path = "compress/properties.rs"]
mod properties;
#[path = "compress/suite.rs"]
mod suite;
