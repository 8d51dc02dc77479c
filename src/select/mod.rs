//! One-shot masks by score: magnitude, Wanda, SparseGPT; and swaps, which better any mask.
//!
//! A score of each weight decides which two of a group of four are kept, once, without training. Such masks are what
//! learnt masks start from, and what they are compared with.
//!
//! | method | score | how |
//! | --- | --- | --- |
//! | magnitude | `abs(W_ij)` | [`ByScore::magnitude`] |
//! | Wanda (Sun et al. 2023, arXiv 2306.11695) | `abs(W_ij) · ‖X_j‖₂` | [`Squares`] over the activations; its norms by [`ColumnScale`] to [`ByScore::scaled`] |
//! | SparseGPT (Frantar and Alistarh 2023, arXiv 2301.00774) | `abs(w_ij / U_jj)`, w as updated so far | [`Hessian`] over the activations, `Cholesky`, [`Sweep`] |
//! | SparseGPT's mask of the weight as it is: MaskLLM's usual prior | `abs(W_ij / U_jj)` | `Cholesky::scale` to [`ByScore::scaled`] |
//! | any other | yours | [`ByScore::given`] |
//! | SparseSwaps (Zimmer et al. 2025, arXiv 2512.10922) | what is left of the layer's output | [`Swaps`] in any of these masks, by the [`Hessian`] |
//!
//! # What is kept
//!
//! The two largest scores of a group; of equal ones those at the lower positions. That is the best of the six patterns:
//! the one with the largest sum of two scores, ties to the lowest index, for sums that are never rounded. Scores are
//! compared, not added, so a score that is small beside another still counts, and an infinite one hides nothing but
//! itself. `-0.0` equals `0.0`.
//!
//! A group with a NaN score (a NaN weight, `inf · 0`) has no mask: its index is
//! [`Pattern::POISON`](crate::Pattern::POISON), its code [`Pattern::POISON_CODE`](crate::Pattern::POISON_CODE), its
//! masked weights are NaN, and [`Statistics::poisoned`] counts it. (Compression by magnitude keeps a NaN instead.) A
//! kept weight is copied, `-0.0` included; a dropped one becomes `+0.0`.
//!
//! # Wanda's norms
//!
//! [`Squares`] adds the squares of each column of `X [T, K]` to running sums, in an order that is part of the contract:
//! runs of 16 tokens by fused multiply-adds in `f32`, 8 runs to a slab in `f64`, slabs to the running sum in `f64`. So
//! CPU and GPU give the same bits. How many samples were seen does not change a comparison, so norms are not divided by
//! it.
//!
//! # SparseGPT
//!
//! With `H = 2/T Σ x xᵀ` (damped), `H⁻¹ = Uᵀ U` and U upper triangular, [`Sweep`] goes through a row's columns from
//! left to right, and at each group chooses by `abs(w_j / U_jj)`, the square root of the paper's score. A dropped `w_j`
//! leaves `e = w_j / U_jj`, and all columns to its right make up for it: `w_i −= e U_ji`. What is left of a row is then
//! the best that columns to the right can do, given what has been decided: the least squares solution. The loss is
//! `Σ e²/2`, which is `‖(W − Ŵ)X‖²/T` for a Hessian without damping. Columns are swept in blocks of 128 as the paper
//! does, which changes no result: each weight meets the same fused multiply-adds in the same order. So CPU and GPU give
//! the same bits here too.
//!
//! Empty columns (`H_jj = 0`: their activation was always 0) take no part: nothing is made up for by them or for them.
//! Their scale is a tiny one, so that they lose to all others and magnitude chooses among them; what is kept of them
//! stays as it is. (The paper's code makes their weights 0.) Damping adds a share of the mean diagonal of the columns
//! that are not empty (the paper's code takes the mean after it has set empty ones to 1, so that masks depend on the
//! unit of the activations).
//!
//! A weight that is not finite cannot be made up for: where a NaN or infinity is dropped, or there is no mask for
//! it, everything to its right in the row becomes NaN, and has no mask. An update of finite weights can leave the range
//! of the type it is written in (weights near the end of `f16`'s, columns that are much alike): that is
//! [`Error::LeftRange`] on the CPU, after everything has been written; on a device [`Sweep::faults`] counts what is not
//! finite.
//!
//! # Swaps
//!
//! The weights that a row drops, `r = W∘(1−M)`, cost `½ rᵀHr`, which is `‖rX‖²/T`: the same unit as a sweep's losses.
//! No score sees how dropped weights work together. [`Swaps`] does: where a kept p and a dropped u of one group change
//! places, `rᵀHr` changes by
//!
//! ```text
//! 2 w_p c_p + w_p² H_pp − 2 w_u c_u + w_u² H_uu − 2 w_p w_u H_pu      with c = H r, then c += w_p H_p − w_u H_u
//! ```
//!
//! A group has four swaps. The best of a row's is made, again and again, until none lowers `rᵀHr` by more than 2⁻²⁰ of
//! what it was at first, or there have been as many as were wanted; of equal ones the one of the lowest group is taken,
//! and in it the pair of positions that comes first: (0,1) (0,2) (0,3) (1,2) (1,3) (2,3). Rows know nothing of each
//! other. Weights stay as they are: what is bettered is a mask of the weight without an update. H can be any multiple
//! of `XᵀX`, damped or not. In a language model's 210 layers Wanda's masks lose 5.53 % of the output in the mean before
//! swaps, and 2.96 % after (`twofour prune --method wanda --swaps`; `twofour-cli/results/smollm2.md`). To go through the
//! groups in order, and make each one's best swap, takes more swaps and may end higher.
//!
//! c, and what is compared, are in `f32`: c is added up over the dropped columns in order, then w_p H_p and −w_u H_u,
//! by fused multiply-adds; the change is `(a_i + a_j) + (w_i w_j)(−2 H_ij)` with i before j, `H_ij` right of the
//! diagonal, and `a = fma(±2 w, c, (w w) H)`, + where the weight is kept. `rᵀHr` is the `f64` sum of exact products, of
//! every 256th group and then of those 256 sums. So CPU and GPU make the same swaps, and say the same losses, to the bit.
//!
//! A group without a mask (a code that is none of the six) makes its row's losses NaN; such a row stays as it is, and so
//! does one that drops a weight that is not finite. One that is kept stays kept.
//!
//! # Calibration that cannot be meant
//!
//! A layer that met no token has norms and a Hessian of zeros, and no mask can be made of them: [`Error::NoInput`].
//! Norms that are negative or not finite, and a Hessian that is one triangle, not symmetric, or has a zero on its
//! diagonal beside what is not zero, are errors too. [`ColumnScale::new`] and [`check_hessian`] find them in the host's
//! memory, for all layers before the first is worked on if that is wanted; `Cholesky::new` looks again, and on the CPU
//! so do [`ByScore::scaled`] and [`Sweep`], at their scales, and [`Swaps`], at its Hessian. On a device nobody looks:
//! where all scales are 0, each group keeps its first two; where one is NaN, groups have no mask; and rows whose loss by
//! a Hessian is not finite stay as they are.
//!
//! Codes and updated weight of one layer from calibration activations:
//!
#![cfg_attr(feature = "sparsegpt", doc = "```")]
#![cfg_attr(not(feature = "sparsegpt"), doc = "```ignore")]
//! use twofour::select::{Cholesky, Hessian, Sweep};
//! use twofour::{Cpu, Executor, Result, Shape};
//!
//! fn sparsegpt(shape: Shape, weight: &[f32], x: &[f32]) -> Result<(Vec<u8>, Vec<f32>)> {
//!     let cols = shape.cols;
//!     let mut hessian = vec![0.0; cols * cols];
//!     Cpu.run(Hessian::new(x.len() / cols, cols, x, 0, &mut hessian))?;
//!     let factor = Cholesky::new(cols, &hessian, Cholesky::DAMPING)?;
//!     let (mut codes, mut updated) = (vec![0; shape.packed_codes()], vec![0.0; shape.weights()]);
//!     let sweep = Sweep::new(shape, weight, factor.upper(), factor.scale());
//!     Cpu.run(sweep.codes(&mut codes).updated(&mut updated))?;
//!     Ok((codes, updated))
//! }
//! # let x: Vec<f32> = (0..64).map(|i| [1.0, 1.0, 0.1, 10.0][i % 4] * (1 + i / 4 % 5) as f32).collect();
//! # let (codes, updated) = sparsegpt(Shape::new(1, 4), &[1.0, 1.0, 1.0, 1.0], &x)?;
//! # assert_eq!((codes.len(), updated.iter().filter(|weight| **weight == 0.0).count()), (1, 2));
//! # Ok::<(), twofour::Error>(())
//! ```
//!
//! `cargo test --features sparsegpt --test select` compares this with dense least squares.
//!
//! # Executors
//!
//! [`Cpu`](crate::Cpu) and, with the feature `cuda`, `Gpu` take the same arguments in their own memory and give the
//! same bits, but for sums over groups ([`Statistics`], a sweep's losses), which agree to `f64` rounding. [`Hessian`] runs on the
//! CPU alone: on a device it is one product, `2/T · Xᵀ X` in `f32`, of the library that makes the activations.
//! `Cholesky` is made on the CPU (feature `sparsegpt`, off by default, for it brings [faer](https://docs.rs/faer) and
//! some fifty crates); a device takes its two arrays, or those of another factorisation, cuSOLVER's for one.

use crate::check::length;
use crate::element::Float;
use crate::error::{Error, Result};
use crate::pass::{self, Binder, Checked, DeviceSpace, Pass, Queue};
use crate::sample::statistics;
use crate::shape::Shape;
use crate::space::{HostSpace, Input, Output, Space};

mod activations;
mod calibration;
#[cfg(feature = "sparsegpt")]
mod cholesky;
mod cpu;
mod launch;
mod swaps;
mod sweep;

pub use activations::{Hessian, Squares};
pub use calibration::{ColumnScale, check_hessian};
#[cfg(feature = "sparsegpt")]
pub use cholesky::Cholesky;
pub use swaps::Swaps;
pub use sweep::Sweep;

/// What a mask keeps of all scores. The layout is that of the device.
#[derive(Debug, Clone, Copy, PartialEq, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Statistics {
    /// Sum of the kept scores, in `f64`.
    pub kept: f64,
    /// Sum of all scores, in `f64`.
    pub total: f64,
    /// Groups that have a mask; the sums are over these.
    pub groups: u64,
    /// Groups that have none, for a NaN among their scores.
    pub poisoned: u64,
}

impl Statistics {
    /// Elements of the array that receives statistics: the first is the result, the rest is workspace.
    pub const SLOTS: usize = statistics::SLOTS;

    /// The share of the scores that is kept, from ½ to 1; NaN where all scores are 0, or a sum is infinite.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        self.kept / self.total
    }
}
statistics::on_a_device!(Statistics);

/// Arguments of a choice by score: what is read, and which outputs are wanted.
///
/// Shapes: weight, scores and masked `[N, K]`; column scale `[K]`; patterns `[N, K/4]`; codes ⌈N·K/8⌉ bytes, two groups
/// a byte, the even group in the low nibble; all row-major. All outputs are overwritten. On a device every operand
/// starts on a 16-byte boundary.
///
/// # Errors
/// When run: [`Error::NotGrouped`], [`Error::Overflow`], [`Error::Length`], and [`Error::Missing`] for a masked weight
/// without a weight, or if nothing is to be written. On the CPU, of scales, [`Error::Column`] and [`Error::NoInput`].
#[derive(Debug)]
pub struct ByScore<'a, S: Space, W: Float> {
    shape: Shape,
    weight: Option<S::Ref<'a, W>>,
    column_scale: Option<S::Ref<'a, f32>>,
    scores: Option<S::Ref<'a, f32>>,
    masked: Option<S::Mut<'a, W>>,
    patterns: Option<S::Mut<'a, u8>>,
    codes: Option<S::Mut<'a, u8>>,
    statistics: Option<S::Mut<'a, Statistics>>,
}

impl<'a, S: Space, W: Float> ByScore<'a, S, W> {
    fn new(shape: Shape) -> Self {
        Self {
            shape,
            weight: None,
            column_scale: None,
            scores: None,
            masked: None,
            patterns: None,
            codes: None,
            statistics: None,
        }
    }

    /// By `abs(W_ij)`.
    #[must_use]
    pub fn magnitude(shape: Shape, weight: impl Input<'a, Space = S, Element = W>) -> Self {
        Self { weight: Some(weight.input()), ..Self::new(shape) }
    }

    /// By `abs(W_ij) · s_j`, one rounding to `f32`: Wanda's with a [`ColumnScale`] of the norms of [`Squares`],
    /// SparseGPT's without update with `Cholesky::scale`. Scales are finite, not negative, and not all 0, which the CPU checks.
    #[must_use]
    pub fn scaled(
        shape: Shape,
        weight: impl Input<'a, Space = S, Element = W>,
        column_scale: impl Input<'a, Space = S, Element = f32>,
    ) -> Self {
        Self { weight: Some(weight.input()), column_scale: Some(column_scale.input()), ..Self::new(shape) }
    }

    /// By any scores, larger is better; negative ones are.
    #[must_use]
    pub fn given(shape: Shape, scores: impl Input<'a, Space = S, Element = f32>) -> Self {
        Self { scores: Some(scores.input()), ..Self::new(shape) }
    }

    /// Reads the weight, for the masked weight where scores are [`given`](Self::given).
    #[must_use]
    pub fn weight(mut self, weight: impl Input<'a, Space = S, Element = W>) -> Self {
        self.weight = Some(weight.input());
        self
    }

    /// Writes `W∘M`; needs the weight.
    #[must_use]
    pub fn masked(mut self, masked: impl Output<'a, Space = S, Element = W>) -> Self {
        self.masked = Some(masked.output());
        self
    }

    /// Writes a byte a group: the pattern's index 0 to 5.
    #[must_use]
    pub fn patterns(mut self, patterns: impl Output<'a, Space = S, Element = u8>) -> Self {
        self.patterns = Some(patterns.output());
        self
    }

    /// Writes the packed codes, which [`compress`](crate::compress) takes.
    #[must_use]
    pub fn codes(mut self, codes: impl Output<'a, Space = S, Element = u8>) -> Self {
        self.codes = Some(codes.output());
        self
    }

    /// Writes [`Statistics`] into the first of [`Statistics::SLOTS`] elements, using the others as workspace.
    #[must_use]
    pub fn statistics(mut self, statistics: impl Output<'a, Space = S, Element = Statistics>) -> Self {
        self.statistics = Some(statistics.output());
        self
    }
}

impl<S: Space, W: Float> pass::Sealed for ByScore<'_, S, W> {}
impl<S: Space, W: Float> Pass<S> for ByScore<'_, S, W> {
    fn check(&self) -> Result<()> {
        let Self { shape, .. } = self;
        shape.check()?;
        length("weight", self.weight.as_ref(), shape.weights())?;
        length("column_scale", self.column_scale.as_ref(), shape.cols)?;
        length("scores", self.scores.as_ref(), shape.weights())?;
        length("masked", self.masked.as_ref(), shape.weights())?;
        length("patterns", self.patterns.as_ref(), shape.groups())?;
        length("codes", self.codes.as_ref(), shape.packed_codes())?;
        length("statistics", self.statistics.as_ref(), Statistics::SLOTS)?;
        if self.masked.is_some() && self.weight.is_none() {
            return Err(Error::Missing { what: "masked", missing: "no weight was given to mask" });
        }
        if self.masked.is_none() && self.patterns.is_none() && self.codes.is_none() && self.statistics.is_none() {
            return Err(Error::Missing { what: "a mask", missing: "no output was given to write it to" });
        }
        Ok(())
    }

    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace,
    {
        cpu::by_score(pass.into_inner())
    }

    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        launch::by_score(pass.inner(), binder, queue)
    }
}
