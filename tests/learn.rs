//! `learn` on every executor. What an executor makes of a gradient is compared to the bit with the formulas said again in
//! `learn/oracle.rs`; a fused step is, to the bit, the mask's backward pass on the same executor followed by such a step.
//! The tests beside the suite say what those formulas are good for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

#[path = "learn/adamw.rs"]
mod adamw;
#[path = "learn/blocks.rs"]
mod blocks;
#[path = "learn/case.rs"]
mod case;
#[path = "learn/clip.rs"]
mod clip;
#[path = "learn/edges.rs"]
mod edges;
#[path = "learn/eight.rs"]
mod eight;
#[path = "learn/errors.rs"]
mod errors;
#[path = "learn/far.rs"]
mod far;
#[path = "learn/initial.rs"]
mod initial;
#[path = "learn/launches.rs"]
mod launches;
#[path = "learn/many.rs"]
mod many;
#[path = "learn/nan_scales.rs"]
mod nan_scales;
#[path = "learn/oracle.rs"]
mod oracle;
#[path = "learn/paths.rs"]
mod paths;
#[path = "learn/random.rs"]
mod random;
#[path = "learn/recipe.rs"]
mod recipe;
#[path = "learn/rounding.rs"]
mod rounding;
#[path = "learn/suite.rs"]
mod suite;
