//! `twofour learn`: gradients against finite differences, the whole story in miniature, runs that are stopped, masks
//! through every form of file, and what it refuses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
#[path = "learning/gradient.rs"]
mod gradient;
