//! What a training step adds to sampling and products: logits to begin with, schedules, AdamW on the logits fused with
//! their gradient, clipping by global norm, statistics. Nothing of it waits for the device.
//!
//! | | does |
//! | --- | --- |
//! | [`Initial`], [`Prior`] | logits at the start: noise, and a push towards a mask that is known |
//! | [`Recipe`], [`Schedule`] | what κ, τ, λ and the learning rate are at a step; MaskLLM's numbers |
//! | [`Update`] | a step of AdamW from a gradient in memory, such as one summed over micro-batches |
//! | [`Fused`] | the gradient of [`mask::Backward`](crate::mask::Backward) and the step in one pass: the gradient is never stored |
//! | [`matmul::Step`](crate::matmul::Step) | the same with the product before it: `dL/d(W∘M)` is not stored either |
//! | [`Norm`], [`Measure`], [`Clip`] | clipping by global norm |
//! | [`Moments`] | of AdamW: `f32`, or 8 bits with a scale a block |
//!
//! # One step
//!
//! With `t` from 1, and everything in `f32` in this order, the same bits on every executor (`fma` where written, IEEE
//! division and square root; scalars are made once by the host in `f64` and rounded):
//!
//! ```text
//! g = scale·gradient              g' = factor·g
//! m = fma(β1, m, (1−β1)·g')       v = fma(β2, v, ((1−β2)·g')·g')
//! logit = fma(1 − rate·decay, logit, −((rate/(1−β1ᵗ))·m / fma(√v, 1/√(1−β2ᵗ), ε)))
//! ```
//!
//! That is AdamW as apex, PyTorch and Megatron have it: the decay is not part of the gradient (Loshchilov and Hutter,
//! arXiv 1711.05101). `f32` logits are stored as they are; `bf16` logits are rounded stochastically, to the upper or
//! the lower neighbour with a probability that makes the mean right, for a step is often smaller than their spacing and
//! would be lost to nearest rounding. A value that `bf16` holds stays as it is.
//!
//! A group is **skipped** where its gradient is NaN or infinite, or so large that its square would not fit (the squares
//! of its six values add up to 2¹²⁰ or more): its logits and moments stay as they are, it does not enter the norm, and
//! [`Statistics::skipped`] counts it. A group without a mask ([`crate::mask`], "Numerics") is skipped by [`Fused`], for
//! its gradient is NaN; a NaN logit stays NaN. Every group is skipped if the clip factor is not between 0 and 1.
//!
//! ```
//! use twofour::learn::{Fused, Initial, Moments, Recipe, Step};
//! use twofour::mask::Kind;
//! use twofour::{Cpu, Executor, Shape, bf16, noise};
//!
//! # fn main() -> twofour::Result<()> {
//! let (shape, seed, recipe) = (Shape::new(64, 128), 7, Recipe::maskllm(2000));
//! let weight = vec![bf16::ONE; shape.weights()];
//! let mut logits = vec![bf16::ZERO; shape.logits()];
//! Cpu.run(Initial::new(shape, seed, recipe.sigma, &mut logits))?;
//! let (mut m, mut v) = (vec![0; shape.logits()], vec![0; shape.logits()]);
//! let mut scales = vec![0.0; Moments::scales(shape)];
//!
//! for step in 0..3 {
//!     let at = recipe.at(step);
//!     let sampling = at.sampling(seed, noise::draw(0, step as u32, 0));
//!     let gradient = vec![bf16::ONE; shape.weights()]; // dL/d(W∘M), from your framework's backward pass
//!     let by = Step::new(at.adamw, Moments::eight(&mut m, &mut v, &mut scales));
//!     let pass = Fused::new(shape, Kind::Soft, sampling, &mut logits, &weight, &gradient, by);
//!     Cpu.run(pass.regulariser(at.regulariser))?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Micro-batches
//!
//! MaskLLM draws a new mask for every micro-batch. Then add the gradients to one array with
//! [`accumulate_logit_gradient`](crate::mask::Backward::accumulate_logit_gradient) and apply it with [`Update`]. With
//! one micro-batch a step, [`Fused`] saves that array and two passes. [`Fused`] also serves several micro-batches of
//! **one** mask: sum `dL/d(W∘M)` in the weight's shape, and step once. For a common draw that is exact, as the gradient
//! is linear in it, with the regulariser counted once; but fewer draws a step is another algorithm than MaskLLM's.
//!
//! # Clipping
//!
//! The squares of all layers are added to one running sum on the device, and [`Clip`] makes of it the factor that the
//! step reads there. Two ways:
//!
//! - exact: [`Norm`] over every layer's gradient (or [`Measure`], which makes it first), then [`Clip`], then the steps;
//! - by the last step's norm: the steps themselves add their squares, and [`Clip`] after them makes the next step's
//!   factor; the first step's is 1. No second pass.
//!
//! # Memory
//!
//! Bytes a masked weight, with weights in `bf16`: 20 with logits and moments in `f32` and no gradient (2 + 6 + 6 + 6);
//! 8.03 with logits in `bf16` and 8-bit moments (2 + 3 + 1.5 + 1.5, and a 384th of 12 for scales).
//!
//! # On a GPU
//!
//! A step is one pass: a warp takes 64 groups, makes their gradient in registers with the code of the mask's backward
//! pass, steps logits and moments, and writes whole cache lines. Everything random is made from seed, step and a
//! group's number, so a run that is saved (`twofour_formats::state`) and loaded goes on to the bit. For comparison,
//! MaskLLM's own code is reckoned to take 31 to 38 bytes a masked weight.
//!
//! # Executors
//!
//! [`Cpu`](crate::Cpu) and, with the feature `cuda`, `Gpu` take the same arguments in their own memory. From the same
//! gradient they make the same bits; sums over groups agree to `f64` rounding, and a gradient made by [`Fused`] is that
//! of [`mask::Backward`](crate::mask::Backward) on the same executor, to the bit.
//!
//! A CUDA graph that is replayed repeats its arguments: hyper-parameters, the step's number and the draw among them.

use crate::check::length;
use crate::error::Result;
use crate::sample::statistics;
use crate::space::{Array, Space};

mod adamw;
mod clip;
mod cpu;
mod eight;
mod fused;
mod initial;
mod launch;
mod moments;
mod nearly;
mod recipe;
mod schedule;
mod update;

pub use adamw::AdamW;
pub use clip::{Clip, NORM_SLOTS, Norm};
pub use fused::{Fused, Measure};
pub use initial::{Initial, Prior};
pub use moments::Moments;
pub use recipe::{Recipe, StepSettings};
pub use schedule::Schedule;
pub use update::{Rounding, Step, Update};

// For `matmul`, which makes the step where it has the gradient.
pub(crate) use cpu::{fused_part as fused_part_on_host, give};
pub(crate) use launch::{StepArgs, Sums, finish, fused_part, shares};

/// What keeps the random numbers of initial logits apart from those of masks under the same seed: Philox' key is the
/// seed xor this. (The first 192 bits of π's fraction make the three.)
const INITIAL: u64 = 0x243f_6a88_85a3_08d3;
/// The same for the rounding of `bf16` logits beside `f32` moments.
const ROUNDING_LOGITS: u64 = 0x1319_8a2e_0370_7344;
/// The same for the rounding of 8-bit moments, and of `bf16` logits beside them.
const ROUNDING_MOMENTS: u64 = 0xa409_3822_299f_31d0;

/// Where a group's squares add up to this, or to a NaN, the group is skipped: squares of what is below stay finite.
const TOO_LARGE: f32 = f32::from_bits((127 + 120) << 23);

/// Sums over the groups of one step, made in the same pass. The layout is that of the device.
#[derive(Debug, Clone, Copy, PartialEq, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Statistics {
    /// Σ g², before the clip factor and after [`Update::scale`]; over groups that have such a sum.
    pub gradient_squares: f64,
    /// Σ (W∘M)² over the groups that were not skipped, before rounding; 0 from [`Update`].
    pub kept_energy: f64,
    /// Mean over the groups that were not skipped of the largest `y`, before the step; 0 from [`Update`].
    pub confidence: f64,
    /// Groups whose argmax mask is another one after the step.
    pub moved: u64,
    /// Groups that were left as they are.
    pub skipped: u64,
    /// All groups.
    pub groups: u64,
}

impl Statistics {
    /// Elements of the array that receives statistics: the first is the result, the rest is workspace.
    pub const SLOTS: usize = statistics::SLOTS;

    /// The sums of both, of which confidences are sums too.
    pub(crate) fn plus(&self, share: &Self) -> Self {
        Self {
            gradient_squares: self.gradient_squares + share.gradient_squares,
            kept_energy: self.kept_energy + share.kept_energy,
            confidence: self.confidence + share.confidence,
            moved: self.moved + share.moved,
            skipped: self.skipped + share.skipped,
            groups: self.groups + share.groups,
        }
    }
}
statistics::on_a_device!(Statistics);

/// Prints an operand as its length, for argument structs whose parts live in any space.
struct Elements<'o, O>(&'o O);

impl<O: Array> std::fmt::Debug for Elements<'_, O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{} elements]", self.0.elements())
    }
}

/// Checks the operands that every form of a step may have.
pub(crate) fn check_sums<S: Space>(
    norm: Option<&S::Mut<'_, f64>>,
    statistics: Option<&S::Mut<'_, Statistics>>,
) -> Result<()> {
    length("norm_squares", norm, NORM_SLOTS)?;
    length("statistics", statistics, Statistics::SLOTS)
}
