//! The suite of `compress`: golden files, an oracle that shares no formula with the crate, edge cases and errors.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "compress/any.rs"]
mod any;
#[path = "compress/edges.rs"]
mod edges;
#[path = "compress/errors.rs"]
mod errors;
#[path = "compress/golden.rs"]
mod golden;
#[path = "compress/oracle.rs"]
mod oracle;
#[path = "compress/properties.rs"]
mod properties;
