//! `select` on every executor. The oracles are naive, in `f64`; what the executors are to agree on to the bit is compared
//! with the CPU's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

#[path = "select/calibration.rs"]
mod calibration;
#[path = "select/case.rs"]
mod case;
#[path = "select/edges.rs"]
mod edges;
#[path = "select/errors.rs"]
mod errors;
#[path = "select/far.rs"]
mod far;
#[path = "select/launches.rs"]
mod launches;
#[path = "select/many.rs"]
mod many;
#[path = "select/oracle.rs"]
mod oracle;
#[path = "select/probe.rs"]
mod probe;
#[cfg(feature = "sparsegpt")]
#[path = "select/sparsegpt.rs"]
mod sparsegpt;
#[cfg(feature = "sparsegpt")]
#[path = "select/squares.rs"]
mod squares;
#[path = "select/suite.rs"]
mod suite;
#[path = "select/swaps.rs"]
mod swaps;
