//! `compress` on every executor: golden files, an oracle that shares no formula with the crate, edge cases and errors.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

#[path = "compress/any.rs"]
mod any;
#[path = "compress/case.rs"]
mod case;
#[path = "compress/edges.rs"]
mod edges;
#[path = "compress/errors.rs"]
mod errors;
#[path = "compress/far.rs"]
mod far;
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
