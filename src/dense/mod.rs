//! The dense product: its sizes, and the ways to it. What every op that multiplies stands on.
//!
//! | what | where |
//! | --- | --- |
//! | `T` tokens through a weight `[N, K]` | [`Problem`] |
//! | a product of matrices, as plain data | [`product`] |
//! | by cuBLASLt | `cublaslt` |
//! | by tiles on tensor cores | `tile` |
//! | on the CPU | `cpu` |
//! | in parts, where there are too few tiles | `split` |

pub(crate) mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cublaslt;
mod problem;
pub(crate) mod split;

// Kernels' launches as plain data: for this repository's emulator, not a stable API.
pub mod product;
pub(crate) mod tile;

#[cfg(feature = "cuda")]
pub(crate) use cublaslt::Cublaslt;
pub use problem::Problem;
pub use product::{Call, Form, Product};
