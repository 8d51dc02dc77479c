//! The masked linear layer: forward, and backward to its input and to the logits.
//!
//! A layer with weight `W [N, K]` and mask `M` (see [`crate::mask`]) takes `T` tokens `X [T, K]` to
//!
//! | product | is | pass |
//! | --- | --- | --- |
//! | `Y [T, N]` | `X (W∘M)ᵀ` | [`Forward`] |
//! | `dX [T, K]` | `dY (W∘M)` | [`Backward::input_gradient`] |
//! | `dlogits [N, K/4, 6]` | from `G = dYᵀ X`, the gradient of `W∘M` | [`Backward::logit_gradient`] |
//!
//! `X`, `Y`, `W`, `dX` and `dY` are of one type (`f32`, `f16` or `bf16`), logits are `f32` or `bf16`, their gradient is
//! `f32`; all are row-major. Any of `T`, `N` and `K` may be zero, and `K` is a multiple of 4.
//!
//! Neither noise, nor softmax, nor mask is stored. What a pass does keep for the next is the caller's choice, [`Keep`]:
//! nothing (the backward pass samples the mask again), the masked weight (2 or 4 bytes a weight), or the codes of a hard
//! mask (half a byte a group).
//!
//! # Ways to a product
//!
//! On a device there are several ways to each product, and a [`Plan`] says which one is taken, why, and how much work
//! space it needs; it can be told otherwise.
//!
//! | way | what it does | where it wins |
//! | --- | --- | --- |
//! | [`OutputPath::Sampled`] | makes masked weights in the registers of the product: one read of `W` and the logits | few tokens |
//! | [`OutputPath::Codes`], [`InputPath::Codes`] | reads `W` and codes, and masks on the way through shared memory | hard and frozen masks |
//! | [`OutputPath::Masked`], [`InputPath::Masked`] | writes `W∘M` once, and multiplies by it as by a dense weight | many tokens |
//! | [`LogitPath::Fused`] | `G` stays in registers, and what leaves them is the logits' gradient | memory, middling `T` |
//! | [`LogitPath::Panels`] | `G` goes through a work space of bounded size, rows by rows | many tokens on Hopper; `f32` |
//!
//! Any sizes are served, but own kernels are fast only for N and K that are multiples of 8, and of 32 for K with codes;
//! a plan leaves others to cuBLASLt. Own kernels use `mma.sync` with 16-bit operands (PTX ISA, "Matrix multiply-accumulate operation using mma
//! instruction"); `f32` products go to cuBLASLt, in IEEE `f32`, not TF32.
//!
//! # Numerics
//!
//! - Every product is accumulated in `f32`. `W∘M`, `Y` and `dX` are each rounded once to their type; `G` is never
//!   rounded to 16 bits, and `dlogits` come from it as [`crate::mask`] says.
//! - So with `u = 2⁻²⁴`, `Y` is within `K·u/(1 − K·u) · Σ_k |X_tk (W∘M)_nk|` of the exact product with the rounded
//!   `W∘M`, and one rounding more; the same holds for `dX` with `N` and for `G` with `T` in place of `K` (Higham,
//!   "Accuracy and stability of numerical algorithms", section 3.5). The order of summation differs between executors
//!   and ways, but not from run to run. (Tensor cores, which a device uses for 16-bit operands, truncate where others
//!   round: there `u = 2⁻²³`; Fasi, Higham, Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor cores", 2021.)
//! - NaN and infinities go through as in a dense product: one in `X_tk` reaches the whole row `t` of `Y` (`∞ · 0` is
//!   NaN). But a weight that a hard, argmax or frozen mask drops is `+0.0` in `W∘M` whatever it was, so there an
//!   infinite or NaN weight does no harm. A group without a choice (its logits have no finite maximum, or its code is
//!   none of the six) is NaN in `W∘M`.
//!
//! # Executors
//!
//! [`cpu`] and, with the feature of its name, `cuda` take the same arguments in their own memory. The CPU's needs no plan.

use crate::check::length;
use crate::element::{Float, Logit};
use crate::error::{Error, Result};
use crate::mask;
use crate::sample::{Kind, Sampling};
use crate::shape::{Shape, Shard};
use crate::space::{Operand, Raw, RawSlice, Space};

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub(crate) mod plan;

// Kernels' launches as plain data: for this repository's emulator, not a stable API.
#[doc(hidden)]
pub mod small;
#[doc(hidden)]
pub mod steps;
#[doc(hidden)]
pub mod tile;

pub use crate::dense::Problem;
pub use small::MAX_TOKENS as MAX_SAMPLED_TOKENS;

pub use plan::{Choice, Dense, InputPath, Keep, LogitPath, Masks, OutputPath, Plan};

/// A masked weight that is not materialised: what both passes need to make its mask.
///
/// Shapes: logits `[N, K/4, 6]` or codes `[N·K/8]` (rounded up), weight `[N, K]`.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a, S: Space, L: Logit, W: Float> {
    pub(crate) shape: Shape,
    pub(crate) shard: Shard,
    pub(crate) masks: Source<S::Ref<'a, L>, S::Ref<'a, u8>>,
    pub(crate) weight: S::Ref<'a, W>,
}

/// Where masks come from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source<L, C> {
    Sampled { kind: Kind, sampling: Sampling, logits: L },
    Frozen { codes: C },
}

impl<'a, S: Space, L: Logit, W: Float> Layer<'a, S, L, W> {
    /// The weight under a mask of this kind.
    #[must_use]
    pub fn new(shape: Shape, kind: Kind, sampling: Sampling, logits: S::Ref<'a, L>, weight: S::Ref<'a, W>) -> Self {
        let masks = Source::Sampled { kind, sampling, logits };
        Self { shape, shard: Shard::whole(shape.cols as u64), masks, weight }
    }

    /// Says that the weight is a slice of a larger one; its masks are then the slice of the larger one's. (Frozen masks
    /// are the slice's own.)
    #[must_use]
    pub fn shard(mut self, shard: Shard) -> Self {
        self.shard = shard;
        self
    }

    /// Which masks these are, for a [`Plan`].
    #[must_use]
    pub fn masks(&self) -> Masks {
        match self.masks {
            Source::Sampled { kind, .. } => Masks::Sampled(kind),
            Source::Frozen { .. } => Masks::Frozen,
        }
    }

    /// Checks what making the mask needs, with the checks of [`crate::mask`].
    fn check(&self) -> Result<()> {
        match &self.masks {
            Source::Sampled { kind, sampling, logits } => {
                let masked = RawSlice { address: 0, elements: self.shape.weights() };
                let args = mask::Forward::<Raw, f32, f32>::new(self.shape, *kind, *sampling, bare(logits));
                args.shard(self.shard).weight(bare(&self.weight)).masked(masked).check()
            }
            Source::Frozen { codes } => {
                self.shape.check()?;
                length("codes", Some(codes), self.shape.packed_codes())?;
                length("weight", Some(&self.weight), self.shape.weights())
            }
        }
    }
}

impl<'a, S: Space, W: Float> Layer<'a, S, f32, W> {
    /// The weight under a mask that no longer changes, given by its codes: row-major over the groups, two a byte, low
    /// nibble first, as [`crate::mask::Forward::codes`] writes them. Any code but the six of [`crate::Pattern`] makes
    /// its group NaN.
    #[must_use]
    pub fn frozen(shape: Shape, codes: S::Ref<'a, u8>, weight: S::Ref<'a, W>) -> Self {
        Self { shape, shard: Shard::whole(shape.cols as u64), masks: Source::Frozen { codes }, weight }
    }
}

/// What the forward pass leaves for the backward pass.
pub(crate) enum Kept<M, C> {
    Nothing,
    Masked(M),
    Codes(C),
}

impl<M: Operand, C: Operand> Kept<M, C> {
    pub(crate) fn keep(&self) -> Keep {
        match self {
            Self::Nothing => Keep::Nothing,
            Self::Masked(_) => Keep::Masked,
            Self::Codes(_) => Keep::Codes,
        }
    }

    fn check(&self, shape: Shape, masks: Masks) -> Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::Masked(masked) => length("masked", Some(masked), shape.weights()),
            Self::Codes(codes) => {
                match masks {
                    Masks::Sampled(Kind::Soft) => {
                        return Err(Error::Missing { what: "codes", missing: "a soft mask has none" });
                    }
                    Masks::Frozen => {
                        return Err(Error::Missing { what: "codes", missing: "a frozen layer has them already" });
                    }
                    Masks::Sampled(_) => {}
                }
                length("codes", Some(codes), shape.packed_codes())
            }
        }
    }
}

/// Arguments of the forward pass.
///
/// Shapes: `x [T, K]`, `y [T, N]`, which is overwritten with `X (W∘M)ᵀ`. On a device every operand starts on a 16-byte
/// boundary.
pub struct Forward<'l, 'a, S: Space, L: Logit, W: Float> {
    pub(crate) layer: Layer<'l, S, L, W>,
    pub(crate) problem: Problem,
    pub(crate) x: S::Ref<'a, W>,
    pub(crate) y: S::Mut<'a, W>,
    pub(crate) kept: Kept<S::Mut<'a, W>, S::Mut<'a, u8>>,
    /// `W∘M`, if it is there already.
    pub(crate) made: Option<S::Ref<'a, W>>,
    pub(crate) workspace: Option<S::Mut<'a, u8>>,
}

impl<'l, 'a, S: Space, L: Logit, W: Float> Forward<'l, 'a, S, L, W> {
    /// `tokens` rows of `x` through the layer.
    #[must_use]
    pub fn new(layer: Layer<'l, S, L, W>, tokens: usize, x: S::Ref<'a, W>, y: S::Mut<'a, W>) -> Self {
        let problem = Problem::new(tokens, layer.shape);
        Self { layer, problem, x, y, kept: Kept::Nothing, made: None, workspace: None }
    }

    /// Overwrites `masked [N, K]` with `W∘M`, rounded once: for the backward pass, or for anything else. For a plan with
    /// [`Keep::Masked`].
    #[must_use]
    pub fn keep_masked(mut self, masked: S::Mut<'a, W>) -> Self {
        (self.kept, self.made) = (Kept::Masked(masked), None);
        self
    }

    /// Overwrites `codes` (two groups a byte) with the codes of a hard or argmax mask, for the backward pass. For a plan
    /// with [`Keep::Codes`].
    #[must_use]
    pub fn keep_codes(mut self, codes: S::Mut<'a, u8>) -> Self {
        (self.kept, self.made) = (Kept::Codes(codes), None);
        self
    }

    /// Takes `masked [N, K]` for `W∘M`, as [`crate::mask`] has made it of the same layer before this pass, and makes no
    /// mask: it is read, and stays for the backward pass. For a plan with [`Keep::Masked`]; only if that was told to
    /// take [`OutputPath::Codes`], masks are made all the same, and this is not read.
    ///
    /// So a mask can be made ahead of its product, on another stream too, or once for several products:
    ///
    /// ```
    /// use twofour::Shape;
    /// use twofour::mask::{self, Kind, Sampling};
    /// use twofour::matmul::cpu::{Forward, Layer, forward_into};
    ///
    /// let shape = Shape::new(1, 4);
    /// let (logits, weight, x) = ([0.0, 0.1, 0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0], [1.0, 10.0, 100.0, 1000.0]);
    /// let sampling = Sampling { seed: 1, draw: 0, kappa: 1000.0, tau: 1.0 };
    ///
    /// let mut masked = [0.0_f32; 4];
    /// let ahead = mask::cpu::Forward::new(shape, Kind::Hard, sampling, &logits);
    /// mask::cpu::forward_into(ahead.weight(&weight).masked(&mut masked))?;
    ///
    /// let layer = Layer::new(shape, Kind::Hard, sampling, &logits, &weight);
    /// let mut y = [0.0];
    /// forward_into(Forward::new(layer, 1, &x, &mut y).kept_masked(&masked))?;
    /// assert_eq!(y, [301.0]);
    /// # Ok::<(), twofour::Error>(())
    /// ```
    #[must_use]
    pub fn kept_masked(mut self, masked: S::Ref<'a, W>) -> Self {
        (self.kept, self.made) = (Kept::Nothing, Some(masked));
        self
    }

    /// Memory to work in, at least [`Plan::workspace_bytes`]; its content is lost. The CPU executor needs none.
    #[must_use]
    pub fn workspace(mut self, workspace: S::Mut<'a, u8>) -> Self {
        self.workspace = Some(workspace);
        self
    }

    /// Checks shapes, lengths and scalars; every executor does it first.
    ///
    /// # Errors
    /// [`Error::NotGrouped`], [`Error::Overflow`], [`Error::Shard`], [`Error::Scalar`] and [`Error::Length`];
    /// [`Error::Missing`] for codes that the masks do not have.
    pub fn check(&self) -> Result<()> {
        self.problem.check()?;
        self.layer.check()?;
        length("x", Some(&self.x), self.problem.inputs())?;
        length("y", Some(&self.y), self.problem.outputs())?;
        length("masked", self.made.as_ref(), self.problem.shape.weights())?;
        self.kept.check(self.problem.shape, self.layer.masks())
    }

    /// What the backward pass will find, whoever made it.
    pub(crate) fn keep(&self) -> Keep {
        if self.made.is_some() { Keep::Masked } else { self.kept.keep() }
    }
}

/// The operands of [`Backward::logit_gradient`].
pub(crate) struct ToLogits<'a, S: Space, W: Float> {
    pub(crate) x: S::Ref<'a, W>,
    pub(crate) logit_gradient: S::Mut<'a, f32>,
    pub(crate) accumulate: bool,
}

/// Arguments of the backward pass: `dy`, and which gradients are wanted.
///
/// Shapes: `dy [T, N]`, `dx` and `x [T, K]`, `logit_gradient [N, K/4, 6]`. The layer must be that of the forward pass. On
/// a device every operand starts on a 16-byte boundary.
pub struct Backward<'l, 'a, S: Space, L: Logit, W: Float> {
    pub(crate) layer: Layer<'l, S, L, W>,
    pub(crate) problem: Problem,
    pub(crate) dy: S::Ref<'a, W>,
    pub(crate) regulariser: f32,
    pub(crate) kept: Kept<S::Ref<'a, W>, S::Ref<'a, u8>>,
    pub(crate) dx: Option<S::Mut<'a, W>>,
    pub(crate) to_logits: Option<ToLogits<'a, S, W>>,
    pub(crate) workspace: Option<S::Mut<'a, u8>>,
}

impl<'l, 'a, S: Space, L: Logit, W: Float> Backward<'l, 'a, S, L, W> {
    /// A backward pass that as yet writes nothing.
    #[must_use]
    pub fn new(layer: Layer<'l, S, L, W>, tokens: usize, dy: S::Ref<'a, W>) -> Self {
        let problem = Problem::new(tokens, layer.shape);
        let (kept, dx, to_logits, workspace) = (Kept::Nothing, None, None, None);
        Self { layer, problem, dy, regulariser: 0.0, kept, dx, to_logits, workspace }
    }

    /// Overwrites `dx` with `dY (W∘M)`. Unless the forward pass kept something, the mask is sampled again.
    #[must_use]
    pub fn input_gradient(mut self, dx: S::Mut<'a, W>) -> Self {
        self.dx = Some(dx);
        self
    }

    /// `W∘M` as [`Forward::keep_masked`] left it.
    #[must_use]
    pub fn kept_masked(mut self, masked: S::Ref<'a, W>) -> Self {
        self.kept = Kept::Masked(masked);
        self
    }

    /// The codes as [`Forward::keep_codes`] left them.
    #[must_use]
    pub fn kept_codes(mut self, codes: S::Ref<'a, u8>) -> Self {
        self.kept = Kept::Codes(codes);
        self
    }

    /// Overwrites `logit_gradient` with `dL/dlogits`.
    #[must_use]
    pub fn logit_gradient(mut self, x: S::Ref<'a, W>, logit_gradient: S::Mut<'a, f32>) -> Self {
        self.to_logits = Some(ToLogits { x, logit_gradient, accumulate: false });
        self
    }

    /// Adds `dL/dlogits` to `logit_gradient`.
    #[must_use]
    pub fn accumulate_logit_gradient(mut self, x: S::Ref<'a, W>, logit_gradient: S::Mut<'a, f32>) -> Self {
        self.to_logits = Some(ToLogits { x, logit_gradient, accumulate: true });
        self
    }

    /// The coefficient λ of `−λ Σ (W∘M)²` in the loss, finite; 0 unless given. It acts on the logits alone.
    #[must_use]
    pub fn regulariser(mut self, lambda: f32) -> Self {
        self.regulariser = lambda;
        self
    }

    /// Memory to work in, at least [`Plan::workspace_bytes`]; its content is lost. The CPU executor needs none.
    #[must_use]
    pub fn workspace(mut self, workspace: S::Mut<'a, u8>) -> Self {
        self.workspace = Some(workspace);
        self
    }

    /// Checks shapes, lengths and scalars; every executor does it first.
    ///
    /// # Errors
    /// As [`Forward::check`]; and [`Error::Missing`] if nothing is to be written, or for the logits' gradient of argmax
    /// or frozen masks, which have none.
    pub fn check(&self) -> Result<()> {
        self.problem.check()?;
        self.layer.check()?;
        length("dy", Some(&self.dy), self.problem.outputs())?;
        self.kept.check(self.problem.shape, self.layer.masks())?;
        length("dx", self.dx.as_ref(), self.problem.inputs())?;
        match &self.to_logits {
            Some(to_logits) => {
                length("x", Some(&to_logits.x), self.problem.inputs())?;
                self.check_mask_backward(to_logits)
            }
            None if self.dx.is_none() => {
                Err(Error::Missing { what: "a gradient", missing: "no output was given to write it to" })
            }
            None => Ok(()),
        }
    }

    fn check_mask_backward(&self, to_logits: &ToLogits<'a, S, W>) -> Result<()> {
        let Layer { shape, shard, masks, weight } = &self.layer;
        let Source::Sampled { kind, sampling, logits } = masks else {
            return Err(Error::Missing { what: "a gradient", missing: "a frozen layer has no logits" });
        };
        let gradient = RawSlice { address: 0, elements: shape.weights() };
        let [logits, weight] = [bare(logits), bare(weight)];
        let args = mask::Backward::<Raw, f32, f32, f32>::new(*shape, *kind, *sampling, logits, weight, gradient);
        let args = args.shard(*shard).regulariser(self.regulariser);
        args.logit_gradient(bare(&to_logits.logit_gradient)).check()
    }
}

/// An operand's length alone: the checks of `mask` see nothing else.
fn bare(operand: &impl Operand) -> RawSlice {
    RawSlice { address: 0, elements: operand.elements() }
}
