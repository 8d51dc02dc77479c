//! The masked linear layer: forward, and backward to its input and to the logits.
//!
//! A layer with weight `W [N, K]` and mask `M` (see [`crate::mask`]) takes `T` tokens `X [T, K]` to
//!
//! | product | is | pass |
//! | --- | --- | --- |
//! | `Y [T, N]` | `X (W∘M)ᵀ` | [`Forward`] |
//! | `dX [T, K]` | `dY (W∘M)` | [`Backward::input_gradient`] |
//! | `G [N, K]` | `dYᵀ X`, the gradient of `W∘M`, and from it `dlogits [N, K/4, 6]` | [`Backward::logit_gradient`] |
//!
//! `X`, `Y`, `W`, `W∘M`, `dX` and `dY` are of one type (`f32`, `f16` or `bf16`), logits are `f32` or `bf16`, `G` and
//! `dlogits` are `f32`; all are row-major. Any of `T`, `N` and `K` may be zero, and `K` is a multiple of 4.
//!
//! This is the materialised form: the forward pass writes `W∘M` once and multiplies by it. Nothing else of a mask is
//! stored. The backward pass takes `W∘M` as the forward pass left it, or samples it again into any buffer: memory
//! against one more mask pass, the caller's choice.
//!
//! # Numerics
//!
//! - Every product is accumulated in `f32`. `W∘M`, `Y` and `dX` are each rounded once to their type; `G` is never
//!   rounded to 16 bits, and `dlogits` come from it as [`crate::mask`] says.
//! - So with `u = 2⁻²⁴`, `Y` is within `K·u/(1 − K·u) · Σ_k |X_tk (W∘M)_nk|` of the exact product with the rounded
//!   `W∘M`, and one rounding more; the same holds for `dX` with `N` and for `G` with `T` in place of `K` (Higham,
//!   "Accuracy and stability of numerical algorithms", section 3.5). The order of summation differs between executors.
//!   (Tensor cores, which a device uses for 16-bit operands, truncate where others round: there `u = 2⁻²³`.)
//! - NaN and infinities go through as in a dense product: one in `X_tk` reaches the whole row `t` of `Y` (`∞ · 0` is
//!   NaN). But a weight that a hard or argmax mask drops is `+0.0` in `W∘M` whatever it was, so there an infinite or
//!   NaN weight does no harm.
//!
//! # Executors
//!
//! [`cpu`] and, with the feature of its name, `cuda` take the same arguments in their own memory.

use crate::element::{Element, Logit};
use crate::error::{Error, Result};
use crate::mask::{self, Kind, Sampling, length};
use crate::shape::{Shape, Shard};
use crate::space::{Operand, Raw, RawSlice, Space};

pub mod cpu;
#[cfg(feature = "cuda")]
mod cublaslt;
#[cfg(feature = "cuda")]
pub mod cuda;

/// The sizes of a pass: `T` tokens through a weight `[N, K]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Problem {
    /// T.
    pub tokens: usize,
    /// N and K.
    pub shape: Shape,
}

impl Problem {
    /// `tokens` rows through a weight of `shape`.
    #[must_use]
    pub const fn new(tokens: usize, shape: Shape) -> Self {
        Self { tokens, shape }
    }

    /// Elements of `X` and `dX`: T · K, saturating.
    #[must_use]
    pub const fn inputs(&self) -> usize {
        self.tokens.saturating_mul(self.shape.cols)
    }

    /// Elements of `Y` and `dY`: T · N, saturating.
    #[must_use]
    pub const fn outputs(&self) -> usize {
        self.tokens.saturating_mul(self.shape.rows)
    }

    /// Floating-point operations of one of the three products: 2 · T · N · K.
    #[must_use]
    pub const fn operations(&self) -> f64 {
        2.0 * self.tokens as f64 * self.shape.rows as f64 * self.shape.cols as f64
    }

    /// Checks that columns fall into groups and that sizes in bytes fit the address space.
    ///
    /// # Errors
    /// As [`Shape::check`], and [`Error::Overflow`] if `X` or `Y` would not fit.
    pub fn check(&self) -> Result<()> {
        self.shape.check()?;
        for (what, cols) in [("x", self.shape.cols), ("y", self.shape.rows)] {
            match self.tokens.checked_mul(cols).and_then(|elements| elements.checked_mul(4)) {
                Some(bytes) if bytes <= isize::MAX as usize => {}
                _ => return Err(Error::Overflow { what, rows: self.tokens as u64, cols: cols as u64 }),
            }
        }
        Ok(())
    }
}

/// A masked weight that is not materialised: what both passes need to make its mask.
///
/// Shapes: logits `[N, K/4, 6]`, weight `[N, K]`.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a, S: Space, L: Logit, W: Element> {
    pub(crate) shape: Shape,
    pub(crate) shard: Shard,
    pub(crate) kind: Kind,
    pub(crate) sampling: Sampling,
    pub(crate) logits: S::Ref<'a, L>,
    pub(crate) weight: S::Ref<'a, W>,
}

impl<'a, S: Space, L: Logit, W: Element> Layer<'a, S, L, W> {
    /// The weight under a mask of this kind.
    #[must_use]
    pub fn new(shape: Shape, kind: Kind, sampling: Sampling, logits: S::Ref<'a, L>, weight: S::Ref<'a, W>) -> Self {
        Self { shape, shard: Shard::whole(shape.cols as u64), kind, sampling, logits, weight }
    }

    /// Says that the weight is a slice of a larger one; its masks are then the slice of the larger one's.
    #[must_use]
    pub fn shard(mut self, shard: Shard) -> Self {
        self.shard = shard;
        self
    }

    /// Checks what sampling the mask needs, with the checks of [`crate::mask`].
    fn check(&self) -> Result<()> {
        let masked = RawSlice { address: 0, elements: self.shape.weights() };
        let args = mask::Forward::<Raw, f32, f32>::new(self.shape, self.kind, self.sampling, bare(&self.logits));
        args.shard(self.shard).weight(bare(&self.weight)).masked(masked).check()
    }
}

/// Arguments of the forward pass; all are required.
///
/// Shapes: `x [T, K]`, `masked [N, K]`, `y [T, N]`. `masked` and `y` are overwritten, with `W∘M` and `X (W∘M)ᵀ`. On a
/// device every operand starts on a 16-byte boundary.
pub struct Forward<'l, 'a, S: Space, L: Logit, W: Element> {
    pub(crate) layer: Layer<'l, S, L, W>,
    pub(crate) problem: Problem,
    pub(crate) x: S::Ref<'a, W>,
    pub(crate) masked: S::Mut<'a, W>,
    pub(crate) y: S::Mut<'a, W>,
}

impl<'l, 'a, S: Space, L: Logit, W: Element> Forward<'l, 'a, S, L, W> {
    /// `tokens` rows of `x` through the layer. Keep `masked` for the backward pass, or use it for something else.
    #[must_use]
    pub fn new(
        layer: Layer<'l, S, L, W>,
        tokens: usize,
        x: S::Ref<'a, W>,
        masked: S::Mut<'a, W>,
        y: S::Mut<'a, W>,
    ) -> Self {
        let problem = Problem::new(tokens, layer.shape);
        Self { layer, problem, x, masked, y }
    }

    /// Checks shapes, lengths and scalars; every executor does it first.
    ///
    /// # Errors
    /// [`Error::NotGrouped`], [`Error::Overflow`], [`Error::Shard`], [`Error::Scalar`] and [`Error::Length`].
    pub fn check(&self) -> Result<()> {
        self.problem.check()?;
        self.layer.check()?;
        length("x", Some(&self.x), self.problem.inputs())?;
        length("masked", Some(&self.masked), self.problem.shape.weights())?;
        length("y", Some(&self.y), self.problem.outputs())
    }
}

/// Where the backward pass finds `W∘M`.
pub(crate) enum Masked<'a, S: Space, W: Element> {
    Kept(S::Ref<'a, W>),
    Resampled(S::Mut<'a, W>),
}

/// The operands of [`Backward::input_gradient`].
pub(crate) struct ToInput<'a, S: Space, W: Element> {
    pub(crate) masked: Masked<'a, S, W>,
    pub(crate) dx: S::Mut<'a, W>,
}

/// The operands of [`Backward::logit_gradient`].
pub(crate) struct ToLogits<'a, S: Space, W: Element> {
    pub(crate) x: S::Ref<'a, W>,
    pub(crate) gradient: S::Mut<'a, f32>,
    pub(crate) logit_gradient: S::Mut<'a, f32>,
    pub(crate) accumulate: bool,
}

/// Arguments of the backward pass: `dy`, and which gradients are wanted.
///
/// Shapes: `dy [T, N]`, `dx` and `x [T, K]`, `masked` and `gradient [N, K]`, `logit_gradient [N, K/4, 6]`. The layer
/// must be that of the forward pass. On a device every operand starts on a 16-byte boundary.
pub struct Backward<'l, 'a, S: Space, L: Logit, W: Element> {
    pub(crate) layer: Layer<'l, S, L, W>,
    pub(crate) problem: Problem,
    pub(crate) dy: S::Ref<'a, W>,
    pub(crate) regulariser: f32,
    pub(crate) to_input: Option<ToInput<'a, S, W>>,
    pub(crate) to_logits: Option<ToLogits<'a, S, W>>,
}

impl<'l, 'a, S: Space, L: Logit, W: Element> Backward<'l, 'a, S, L, W> {
    /// A backward pass that as yet writes nothing.
    #[must_use]
    pub fn new(layer: Layer<'l, S, L, W>, tokens: usize, dy: S::Ref<'a, W>) -> Self {
        let problem = Problem::new(tokens, layer.shape);
        Self { layer, problem, dy, regulariser: 0.0, to_input: None, to_logits: None }
    }

    /// Overwrites `dx` with `dY (W∘M)`, where `masked` is as the forward pass left it: 2 or 4 bytes a weight are kept
    /// between the passes.
    #[must_use]
    pub fn input_gradient(mut self, masked: S::Ref<'a, W>, dx: S::Mut<'a, W>) -> Self {
        self.to_input = Some(ToInput { masked: Masked::Kept(masked), dx });
        self
    }

    /// Overwrites `masked` with `W∘M`, sampled again, and `dx` with `dY (W∘M)`: one more mask pass, but nothing is kept
    /// between the passes, and layers can share the buffer.
    #[must_use]
    pub fn resample_input_gradient(mut self, masked: S::Mut<'a, W>, dx: S::Mut<'a, W>) -> Self {
        self.to_input = Some(ToInput { masked: Masked::Resampled(masked), dx });
        self
    }

    /// Overwrites `gradient`, a work buffer, with `G = dYᵀ X`, and `logit_gradient` with `dL/dlogits`.
    #[must_use]
    pub fn logit_gradient(
        mut self,
        x: S::Ref<'a, W>,
        gradient: S::Mut<'a, f32>,
        logit_gradient: S::Mut<'a, f32>,
    ) -> Self {
        self.to_logits = Some(ToLogits { x, gradient, logit_gradient, accumulate: false });
        self
    }

    /// Overwrites `gradient`, a work buffer, with `G = dYᵀ X`, and adds `dL/dlogits` to `logit_gradient`.
    #[must_use]
    pub fn accumulate_logit_gradient(
        mut self,
        x: S::Ref<'a, W>,
        gradient: S::Mut<'a, f32>,
        logit_gradient: S::Mut<'a, f32>,
    ) -> Self {
        self.to_logits = Some(ToLogits { x, gradient, logit_gradient, accumulate: true });
        self
    }

    /// The coefficient λ of `−λ Σ (W∘M)²` in the loss, finite; 0 unless given. It acts on the logits alone.
    #[must_use]
    pub fn regulariser(mut self, lambda: f32) -> Self {
        self.regulariser = lambda;
        self
    }

    /// Checks shapes, lengths and scalars; every executor does it first.
    ///
    /// # Errors
    /// As [`Forward::check`]; and [`Error::Missing`] if nothing is to be written, or for the logits' gradient under
    /// `Kind::Argmax`, which has none.
    pub fn check(&self) -> Result<()> {
        self.problem.check()?;
        self.layer.check()?;
        length("dy", Some(&self.dy), self.problem.outputs())?;
        if let Some(ToInput { masked, dx }) = &self.to_input {
            let weights = self.problem.shape.weights();
            match masked {
                Masked::Kept(masked) => length("masked", Some(masked), weights)?,
                Masked::Resampled(masked) => length("masked", Some(masked), weights)?,
            }
            length("dx", Some(dx), self.problem.inputs())?;
        }
        match &self.to_logits {
            Some(to_logits) => {
                length("x", Some(&to_logits.x), self.problem.inputs())?;
                self.check_mask_backward(to_logits)
            }
            None if self.to_input.is_none() => {
                Err(Error::Missing { what: "a gradient", missing: "no output was given to write it to" })
            }
            None => Ok(()),
        }
    }

    fn check_mask_backward(&self, to_logits: &ToLogits<'a, S, W>) -> Result<()> {
        let Layer { shape, shard, kind, sampling, logits, weight } = &self.layer;
        let [logits, weight] = [bare(logits), bare(weight)];
        let gradient = bare(&to_logits.gradient);
        let args = mask::Backward::<Raw, f32, f32, f32>::new(*shape, *kind, *sampling, logits, weight, gradient);
        let args = args.shard(*shard).regulariser(self.regulariser);
        args.logit_gradient(bare(&to_logits.logit_gradient)).check()
    }
}

/// An operand's length alone: the checks of `mask` see nothing else.
fn bare(operand: &impl Operand) -> RawSlice {
    RawSlice { address: 0, elements: operand.elements() }
}
