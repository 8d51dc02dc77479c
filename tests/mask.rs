//! `mask` on every executor.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

#[path = "mask/case.rs"]
mod case;
#[path = "mask/oracle.rs"]
mod oracle;
#[path = "mask/suite.rs"]
mod suite;
