//! The masked linear layer: forward, backward to its input, to the masked weight and to the logits, and the step of
//! the logits.
//!
//! A layer with weight `W [N, K]` and mask `M` (see [`crate::mask`]) takes `T` tokens `X [T, K]` to
//!
//! | product | is | pass |
//! | --- | --- | --- |
//! | `Y [T, N]` | `X (W∘M)ᵀ` | [`Forward`] |
//! | `dX [T, K]` | `dY (W∘M)` | [`Backward::input_gradient`] |
//! | `G [N, K]` | `dYᵀ X`, the gradient of `W∘M` | [`Backward::weight_gradient`] |
//! | `dlogits [N, K/4, 6]` | from `G` | [`Backward::logit_gradient`] |
//! | logits, moments | a step of AdamW by `dlogits`, in the same pass | [`Step`] |
//!
//! `X`, `Y`, `W`, `dX` and `dY` are of one type (`f32`, `f16` or `bf16`), logits are `f32` or `bf16`, their gradient is
//! `f32`, and `G` is `f32` or of the weight's type; all are row-major. Any of `T`, `N` and `K` may be zero, and `K` is a multiple of 4.
//!
//! ```
//! use twofour::mask::{Kind, Sampling};
//! use twofour::matmul::{Keep, Layer};
//! use twofour::{Cpu, Executor, Shape};
//!
//! let sampling = Sampling { seed: 1, draw: 0, kappa: 1000.0, tau: 1.0 };
//! let (logits, weight) = ([0.0_f32, 0.1, 0.0, 0.0, 0.0, 0.0], [1.0_f32, 2.0, 3.0, 4.0]);
//! let (x, dy) = ([1.0, 10.0, 100.0, 1000.0], [1.0]);
//! let (mut y, mut dx, mut dlogits) = ([0.0], [0.0; 4], [0.0; 6]);
//!
//! let layer = Layer::sampled(Shape::new(1, 4), Kind::Hard, sampling, &logits, &weight);
//! let plan = layer.plan(&Cpu, 1, Keep::Masked)?;
//! let mut scratch = Cpu.scratch(&plan)?;
//! Cpu.run(plan.forward(&layer, &x, &mut y, &mut scratch))?;
//! assert_eq!(y, [301.0]);
//! let backward = plan.backward(&layer, &dy, &mut scratch);
//! Cpu.run(backward.input_gradient(&mut dx).logit_gradient(&x, &mut dlogits))?;
//! assert_eq!(dx, [1.0, 0.0, 3.0, 0.0]);
//! # Ok::<(), twofour::Error>(())
//! ```
//!
//! Neither noise, nor softmax, nor mask is stored. What a pass does leave for the next is the caller's choice,
//! [`Keep`]: nothing (the backward pass samples the mask again), the masked weight (2 or 4 bytes a weight), or the
//! codes of a hard mask (half a byte a group). [`Scratch`] holds it, and the workspace.
//!
//! # A training step
//!
//! With one micro-batch a step, [`Step`] takes the place of the backward pass: it makes `dX` by the masks as they were,
//! and moves the logits by the gradient that it has in registers, to the bits that [`crate::learn`] makes of it. Neither
//! `G` nor `dlogits` is kept.
//!
//! ```
//! use twofour::learn::{self, Moments, Recipe};
//! use twofour::mask::Kind;
//! use twofour::matmul::{Keep, Layer};
//! use twofour::{Cpu, Executor, Shape, noise};
//!
//! let (shape, recipe) = (Shape::new(2, 8), Recipe::maskllm(2000));
//! let (mut logits, weight) = ([0.0_f32; 24], [1.0_f32, 2.0, 3.0, 4.0].repeat(4));
//! let (mut m, mut v) = ([0.0; 24], [0.0; 24]);
//! let (x, dy, mut y, mut dx) = ([1.0; 8], [1.0; 2], [0.0; 2], [0.0; 8]);
//! for step in 0..3 {
//!     let at = recipe.at(step);
//!     let sampling = at.sampling(7, noise::draw(0, step as u32, 0));
//!     let layer = Layer::sampled(shape, Kind::Soft, sampling, &logits, &weight);
//!     let plan = layer.plan(&Cpu, 1, Keep::Masked)?;
//!     let mut scratch = Cpu.scratch(&plan)?;
//!     Cpu.run(plan.forward(&layer, &x, &mut y, &mut scratch))?;
//!     // From here on there is no layer: the logits move.
//!     let by = learn::Step::new(at.adamw, Moments::f32(&mut m, &mut v));
//!     let pass = plan.step(sampling, &mut logits, &weight, &dy, &x, by, &mut scratch);
//!     Cpu.run(pass.input_gradient(&mut dx).regulariser(at.regulariser))?;
//! }
//! assert!(logits.iter().any(|logit| *logit != 0.0));
//! # Ok::<(), twofour::Error>(())
//! ```
//!
//! # Routes to a product
//!
//! On a device there are several routes to each product, and a [`Plan`] says which one is taken, why, and how much
//! workspace it needs; it can be told otherwise.
//!
//! | route | what it does | where it wins |
//! | --- | --- | --- |
//! | [`OutputRoute::Sampled`] | masked weights in registers: one read of `W` and logits | few tokens |
//! | [`OutputRoute::Codes`], [`InputRoute::Codes`] | masks on the way through shared memory | hard and frozen masks |
//! | [`OutputRoute::Masked`], [`InputRoute::Masked`] | writes `W∘M`, and multiplies by it | many tokens |
//! | [`LogitRoute::Fused`] | `G` stays in registers: only `dlogits`, or stepped logits, leave them | memory, middling `T` |
//! | [`LogitRoute::Panels`] | `G` goes through a small workspace, rows by rows | many tokens on Hopper; `f32`; 8-bit moments |
//!
//! Any sizes are served, but this crate's kernels are fast only for N and K that are multiples of 8, and of 32 for K
//! with codes; a plan leaves others to cuBLASLt. They use `mma.sync` with 16-bit operands (PTX ISA, "Matrix
//! multiply-accumulate operation using mma instruction"); `f32` products go to cuBLASLt, in IEEE `f32`, not TF32.
//!
//! # Where each route is taken
//!
//! | route | a plan takes it by itself for |
//! | --- | --- |
//! | [`OutputRoute::Sampled`] | at most [`MAX_SMALL_TOKENS`] tokens, if nothing is kept |
//! | [`OutputRoute::Codes`], [`InputRoute::Codes`] | hard and frozen masks, up to 256 tokens on Hopper, 768 elsewhere |
//! | [`OutputRoute::Masked`], [`InputRoute::Masked`] | the rest; cuBLASLt multiplies, or own kernels |
//! | [`LogitRoute::Fused`] | at most 1,024 tokens on Hopper, 8,192 elsewhere |
//! | [`LogitRoute::Panels`] | more tokens, small weights, `f32` |
//!
//! Masks are the same by every route. Where one wins over another comes from a model of bytes and operations as yet,
//! written beside each line of `src/matmul/plan/table.rs`, and not from a GPU: [`Plan::with_output`] and its like
//! choose otherwise, and `cargo bench --bench matmul` measures all of them.
//!
//! # On a GPU
//!
//! Operands go in as the caller has them. `scratch` allocates and makes the plan ready; what follows allocates nothing,
//! waits for nothing, and can be captured in a CUDA graph.
//!
//! ```no_run
//! use twofour::cudarc::driver::CudaSlice;
//! use twofour::mask::{Kind, Sampling};
//! use twofour::matmul::{Keep, Layer};
//! use twofour::{Executor, Gpu, Result, Shape, bf16};
//!
//! struct Arrays {
//!     weight: CudaSlice<bf16>,
//!     logits: CudaSlice<f32>,
//!     logit_gradient: CudaSlice<f32>,
//!     x: CudaSlice<bf16>,
//!     y: CudaSlice<bf16>,
//!     dx: CudaSlice<bf16>,
//!     dy: CudaSlice<bf16>,
//! }
//!
//! fn step(gpu: &mut Gpu, sampling: Sampling, a: &mut Arrays) -> Result<()> {
//!     let layer = Layer::sampled(Shape::new(11008, 4096), Kind::Soft, sampling, &a.logits, &a.weight);
//!     let plan = layer.plan(gpu, 4096, Keep::Masked)?;
//!     let mut scratch = gpu.scratch(&plan)?; // once
//!     gpu.run(plan.forward(&layer, &a.x, &mut a.y, &mut scratch))?;
//!     let backward = plan.backward(&layer, &a.dy, &mut scratch);
//!     gpu.run(backward.input_gradient(&mut a.dx).logit_gradient(&a.x, &mut a.logit_gradient))
//! }
//! ```
//!
//! # Overlap
//!
//! Masks depend on logits alone, not on activations. So the masked weight of the next layer can be made on a second
//! stream while this layer multiplies: the one is bound by memory, the other by arithmetic. Run [`mask::Forward`] there
//! into a buffer, let the first stream wait for an event, and give the buffer to both passes as it is
//! ([`Forward::use_masked`], [`Backward::use_masked`], with a plan of [`Keep::Masked`]). `examples/overlap.rs` shows
//! it.
//!
//! # Numerics
//!
//! - Every product is accumulated in `f32`. `W∘M`, `Y` and `dX` are each rounded once to their type; `G` is never
//!   rounded to 16 bits, and `dlogits` come from it as [`crate::mask`] says.
//! - So with `u = 2⁻²⁴`, `Y` is within `K·u/(1 − K·u) · Σ_k |X_tk (W∘M)_nk|` of the exact product with the rounded
//!   `W∘M`, and one rounding more; the same holds for `dX` with `N` and for `G` with `T` in place of `K` (Higham,
//!   "Accuracy and stability of numerical algorithms", section 3.5). The order of summation differs between executors
//!   and routes, but not from run to run. (Tensor cores, which a device uses for 16-bit operands, truncate where others
//!   round: there `u = 2⁻²³`; Fasi, Higham, Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor cores", 2021.)
//! - What tensor cores truncate adds up, for it is always toward zero: a sum of positive products shrinks by about 10⁻⁸
//!   of itself a term on Ampere, half of that on Hopper. This crate's kernels therefore begin a new sum every 1024
//!   terms (512 for `f16`), and add those up in `f32`. Sums of 16,384 terms, random or of one sign, are within 10⁻⁵ of
//!   the sum of magnitudes, and within 10⁻⁴ where one product dwarfs all others, under a model of each architecture's
//!   arithmetic (MMA-Sim, arXiv 2511.10909; `tests/matmul/sums.rs`). cuBLASLt's products are what they are.
//! - NaN and infinities go through as in a dense product: one in `X_tk` reaches the whole row `t` of `Y` (`∞ · 0` is
//!   NaN). But a weight that a hard, argmax or frozen mask drops is `+0.0` in `W∘M` whatever it was, so there an
//!   infinite or NaN weight does no harm. A group without a choice (its logits have no finite maximum, or its code is
//!   none of the six) is NaN in `W∘M`.
//!
//! # Executors
//!
//! [`Cpu`](crate::Cpu) and, with the feature `cuda`, `Gpu` take the same arguments in their own memory. The CPU has one
//! route to everything, and works in memory that it allocates.

use crate::check::length;
use crate::error::{Error, Result};
#[cfg(doc)]
use crate::mask;
use crate::sample::Kind;
use crate::shape::Shape;
use crate::space::Array;

mod backward;
mod cpu;
mod forward;
mod launch;
mod layer;
mod plan;
mod scratch;
mod small;
mod step;

pub use crate::dense::Problem;
pub use backward::Backward;
pub use forward::Forward;
pub use layer::{Layer, Masks};
pub use plan::{Choice, Dense, InputRoute, Keep, LogitRoute, OutputRoute, Plan};
pub use scratch::Scratch;
pub use small::MAX_SMALL_TOKENS;
pub use step::Step;

/// What the forward pass leaves for the backward pass.
#[derive(Debug, Clone, Copy)]
enum Saved<M, C> {
    Nothing,
    Masked(M),
    Codes(C),
}

impl<M: Array, C: Array> Saved<M, C> {
    fn keep(&self) -> Keep {
        match self {
            Self::Nothing => Keep::Nothing,
            Self::Masked(_) => Keep::Masked,
            Self::Codes(_) => Keep::Codes,
        }
    }

    fn check(&self, shape: Shape, masks: Masks) -> Result<()> {
        match (self, masks) {
            (Self::Nothing, _) => Ok(()),
            (Self::Masked(masked), _) => length("masked", Some(masked), shape.weights()),
            (Self::Codes(_), Masks::Sampled(Kind::Soft)) => {
                Err(Error::Missing { what: "codes", missing: "a soft mask has none" })
            }
            (Self::Codes(_), Masks::Frozen) => {
                Err(Error::Missing { what: "codes", missing: "a frozen layer has them already" })
            }
            (Self::Codes(codes), _) => length("codes", Some(codes), shape.packed_codes()),
        }
    }
}
