//! Fused CUDA kernels for **learnable 2:4 sparsity**, with a CPU executor of everything.
//!
//! In a 2:4 weight, two of every four consecutive values are zero, and sparse tensor cores multiply it up to twice as
//! fast. *Learning* which two to keep (MaskLLM, arXiv 2409.17481) gives much better models than pruning by a score:
//! each group of four has six logits, one for each of its six patterns, and a Gumbel-Softmax draw of them makes the
//! mask. The weights stay frozen; the logits are trained end to end. This crate is that method as kernels, for other
//! crates to build on.
//!
//! | operation | does |
//! | --- | --- |
//! | [`mask`] | samples soft, hard and argmax masks from logits, masks the weight, takes gradients back to the logits |
//! | [`matmul`] | the masked linear layer: `Y`, `dX` and the logits' gradient |
//! | [`compress`] | weights to kept values and codes and back, in every layout that sparse tensor cores read |
//! | [`sparse`] | the product of a compressed weight, on sparse tensor cores and through cuSPARSELt |
//! | [`learn`] | what a training step adds: initial logits, schedules, AdamW fused with the gradient, clipping |
//! | [`select`] | one-shot masks by score: magnitude, Wanda, SparseGPT |
//!
//! The crate `twofour-formats` has files: compressed weights, masks, and the state of a run.
//!
//! An operation is a module: its argument structs, checks and documentation. An executor runs them ([`Executor`]):
//! [`Cpu`] over slices, [`Gpu`] over a device's memory, with the same choices to the bit ([`noise`]).
//!
//! # CUDA
//!
//! Nothing is linked and nothing panics for lack of CUDA: the driver, NVRTC and cuBLASLt are opened at run time, and
//! what is missing is an [`Error`]. A [`Gpu`] is made on the caller's `Arc<CudaStream>`; passes take slices and views
//! of [cudarc](https://docs.rs/cudarc), queue work there and return. [`device`] tells where kernels come from. Without
//! the feature `cuda` (on by default) only the CPU executor is built.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod check;
pub mod compress;
mod cpu;
pub mod cusparselt;
#[doc(hidden)]
pub mod dense;
pub mod device;
mod element;
mod error;
#[cfg(feature = "cuda")]
pub mod gpu;
pub mod learn;
pub mod mask;
pub mod matmul;
pub mod noise;
pub mod pass;
mod pattern;
pub mod sample;
pub mod select;
mod shape;
pub mod space;
pub mod sparse;

pub use cpu::Cpu;
#[cfg(feature = "cuda")]
pub use cudarc;
pub use element::{DType, E4m3, E5m2, Element, Factor, Float, Logit};
pub use error::{Error, Result};
#[cfg(feature = "cuda")]
pub use gpu::{Buffer, Gpu};
pub use half::{bf16, f16};
pub use pass::{Executor, Libraries};
pub use pattern::{Pattern, code_at, packed_len};
pub use shape::{Shape, Shard};

/// The README's code, compiled and run by `cargo test`.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
