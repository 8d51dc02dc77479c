//! `mask` on every executor: the CPU, the emulator on several schedules and devices, and the GPU where there is one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

#[path = "mask/case.rs"]
mod case;
#[path = "mask/edges.rs"]
mod edges;
#[path = "mask/errors.rs"]
mod errors;
#[path = "mask/far.rs"]
mod far;
#[path = "mask/launches.rs"]
mod launches;
#[path = "mask/many.rs"]
mod many;
#[path = "mask/oracle.rs"]
mod oracle;
#[path = "mask/paths.rs"]
mod paths;
#[path = "mask/saturated.rs"]
mod saturated;
#[path = "mask/suite.rs"]
mod suite;
