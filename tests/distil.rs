//! `distil` on every executor, against losses and gradients by their formulas in `f64`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

#[path = "distil/case.rs"]
mod case;
#[path = "distil/edges.rs"]
mod edges;
#[path = "distil/errors.rs"]
mod errors;
#[path = "distil/launches.rs"]
mod launches;
#[path = "distil/oracle.rs"]
mod oracle;
#[path = "distil/paths.rs"]
mod paths;
#[path = "distil/squarehead.rs"]
mod squarehead;
#[path = "distil/suite.rs"]
mod suite;
#[path = "distil/top_k.rs"]
mod top_k;
