//! `glu` on every executor, against its formulas in `f64`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

#[path = "glu/case.rs"]
mod case;
#[path = "glu/decode.rs"]
mod decode;
#[path = "glu/edges.rs"]
mod edges;
#[path = "glu/errors.rs"]
mod errors;
#[path = "glu/ffn.rs"]
mod ffn;
#[path = "glu/launches.rs"]
mod launches;
#[path = "glu/oracle.rs"]
mod oracle;
#[path = "glu/refused.rs"]
mod refused;
#[path = "glu/suite.rs"]
mod suite;
