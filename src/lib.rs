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
//! | [`distil`] | rows of student and teacher logits to loss and gradient, in place |
//! | [`glu`] | gated activations with exact zeros, their gradients, and decode that skips those zeros |
//!
//! The crate `twofour-formats` has files: compressed weights, masks, and the state of a run. `twofour-candle` has
//! layers for candle. [`cusparselt`] is a safe wrapper of NVIDIA's library by itself.
//!
//! An operation is a module: its argument structs, checks and documentation. An executor runs them ([`Executor`]):
//! [`Cpu`] over slices, [`Gpu`] over a device's memory, with the same choices to the bit ([`noise`]). A `run` allocates
//! nothing and waits for nothing, so a CUDA graph can capture it once its kernels are loaded ([`Executor::prepare`], or
//! a first run). Code that is generic over [`Executor`] is written once for both.
//!
//! Weights and activations are `f32`, `f16` or `bf16`, logits of masks `f32` or `bf16`, arithmetic is in `f32`. A
//! weight is `[N, K]` row-major, K a multiple of 4; any N, any such K. The [`Shard`] of a weight gets the masks of the
//! whole from its row and column offset.
//!
//! # CUDA
//!
//! Nothing is linked and nothing panics for lack of CUDA: the driver, NVRTC and cuBLASLt are opened at run time, and
//! what is missing is an [`Error`]. A [`Gpu`] is made on the caller's `Arc<CudaStream>`; passes take slices and views
//! of [cudarc](https://docs.rs/cudarc), queue work there and return. [`device`] tells where kernels come from, and what
//! a build does with and without nvcc. Without the feature `cuda` (on by default) only the CPU executor is built.
//!
//! The kernels have been compiled for every architecture and executed in an emulator. **No GPU has run them yet**, nor
//! the ways through cuBLASLt and cuSPARSELt.
//!
//! # What is promised
//!
//! From 0.1.0 on, of `twofour`, `twofour-formats` and `twofour-candle`:
//!
//! - **The noise, bit for bit.** A seed, a draw, a group's number and a pattern give the same variate in every release
//!   and on every executor, and so the same hard mask of the same logits. If that ever has to change, the release is a
//!   breaking one, and its changelog says so first.
//! - **Files.** What a file of a version means does not change, and every later release reads it. What cannot be said
//!   in it becomes the next version. That holds for compressed weights, for the packed form of masks and for states.
//! - **[SemVer](https://semver.org)**, as Cargo reads it: before 1.0 a breaking release raises the minor number. What
//!   is hidden from these pages is not part of it.
//! - **The oldest Rust** is 1.89. Raising it raises the minor number, too.
//! - **Public dependencies.** [`cudarc`] 0.19 and [`half`](https://docs.rs/half) 2 are part of the interface, as candle
//!   0.11 is of `twofour-candle`'s: a breaking release of theirs that we take is a breaking release of ours.
//!
//! Not promised between releases: the last bits of sums and of soft values (within one release they are as each module
//! says), which route a plan takes and how much workspace it asks for, the names and arguments of kernels, what is in
//! the cache of compiled ones, the wording of messages, and speed.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(all(bodies, not(test)))]
#[doc(hidden)]
pub mod bodies;
mod check;
pub mod compress;
mod cpu;
pub mod cusparselt;
#[doc(hidden)]
pub mod dense;
pub mod device;
pub mod distil;
mod element;
mod error;
pub mod glu;
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
mod threads;

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
