//! The product of a 2:4 weight that is compressed: `Y = X Wᵀ`, with a bias or without.
//!
//! `X` is `[T, K]`, `W` `[N, K]` with half of every group's values kept ([`crate::compress`]), `Y` `[T, N]`; all are
//! row-major. Any of `T`, `N` and `K` may be zero, and `K` is a multiple of 4.
//!
//! | weight and `X` | sums | `Y` and bias | executors and ways |
//! | --- | --- | --- | --- |
//! | `f16`, `bf16` | `f32` | the same | all |
//! | `i8` | `i32`, wrapping | `i32` | all |
//! | `f32` | `f32` | `f32` | CPU; cuBLASLt in IEEE `f32`; cuSPARSELt in tf32, if asked for |
//! | `E4m3` | `f32` | `f32` | CPU; cuSPARSELt |
//!
//! Not offered: `E5m2`, scales of 8-bit types (multiply `Y`), and other results of `i8` and `E4m3`, which
//! [`crate::cusparselt`] has.
//!
//! # Ways to a product
//!
//! On a device there are several, and a [`Plan`] says which one is taken, why, and how much work space it needs; it can be
//! told otherwise.
//!
//! | way | what it does | where it wins |
//! | --- | --- | --- |
//! | [`Path::Small`] | own kernel for at most [`MAX_SMALL_TOKENS`] tokens, which reads the weight once | few tokens |
//! | [`Path::Tile`] | own kernel on sparse tensor cores (`mma.sp`) | middling numbers of tokens; Ampere and Ada |
//! | [`Path::Cusparselt`] | NVIDIA's library, on `wgmma.sp` where the device has it | many tokens |
//! | [`Path::Dense`] | cuBLASLt by the dense weight, which is written to the work space first unless it is there | where sparse loses; `f32` |
//!
//! Own kernels read the weight in [`Layout::CutlassSm80`]. What cuSPARSELt reads is its own affair: `library` packs for it.
//!
//! # Numerics
//!
//! - Sums and bias are added up in `f32`, and `Y` is rounded once. With `u = 2⁻²⁴` and `n = K/2 + 1` terms (and one more for
//!   each part of a product that is [split](Plan::splits)), `Y` is within `n·u/(1 − n·u) · (Σ_k |X_tk W_nk| + |b_n|)` of
//!   the exact result, and one rounding more, on the CPU; tensor cores truncate where others round: there `u = 2⁻²³` (see
//!   [`crate::matmul`]). The order of summation differs between
//!   executors and ways, but not from run to run on the CPU and in own kernels. `i8` is exact there, modulo 2³².
//! - In tf32, which cuSPARSELt makes of `f32`, `X` and `W` are each rounded to 11 bits first: add `2⁻¹⁰ Σ_k |X_tk W_nk|`.
//! - How cuSPARSELt rounds `i32` sums beyond 2²⁴ is not documented, and it is said to saturate: a plan takes it for `i8`
//!   by itself only where sums cannot exceed that.
//! - Hopper's tensor cores are reported to keep some 14 bits of the sums of 8-bit floating point (DeepSeek-V3 technical
//!   report, section 3.3.2): for `E4m3` expect `u = 2⁻¹³` there.
//! - **What is dropped does not count.** A NaN or an infinity in `X_tk` reaches `Y_tn` exactly if `W_nk` is kept (be it a
//!   zero that is kept): on the CPU and in own kernels, `0 · ∞` is not computed. [`Path::Dense`] multiplies by the zeros
//!   that were dropped, so there the whole row `t` of `Y` becomes NaN, as in any dense product. cuSPARSELt drops what is
//!   dropped, but its own packer ([`Packing::Library`]) may keep other zeros than the codes say.
//!
//! # Executors
//!
//! [`cpu`] and, with the feature of its name, `cuda` take the same arguments in their own memory. The CPU's needs no plan,
//! takes any layout, and refuses codes that are not legal; a device reads codes as they are, and what comes of illegal
//! ones is unspecified.

use crate::check::length;
use crate::compress::Layout;
use crate::dense::Problem;
use crate::element::Factor;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::shape::Shape;
use crate::space::Space;

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "cuda")]
pub mod library;
mod plan;

// Kernels' launches as plain data: for this repository's emulator, not a stable API.
#[doc(hidden)]
pub mod launch;
#[doc(hidden)]
pub mod steps;

pub use launch::MAX_SMALL_TOKENS;
pub use plan::{Given, Libraries, Packing, Path, Plan};

/// A compressed weight `[N, K]`.
#[derive(Debug, Clone, Copy)]
pub struct Weight<'a, S: Space, T: Factor> {
    pub(crate) shape: Shape,
    pub(crate) form: Form<S::Ref<'a, T>, S::Ref<'a, u8>>,
}

/// Who can read it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Form<V, M> {
    /// This crate.
    Packed { layout: Layout, values: V, metadata: M },
    /// cuSPARSELt, and it alone.
    #[cfg(feature = "cuda")]
    Library { bytes: M, origin: library::Origin },
}

impl<'a, S: Space, T: Factor> Weight<'a, S, T> {
    /// Kept values and codes in a layout, each as long as [`Layout::sizes`] says.
    #[must_use]
    pub fn new(shape: Shape, layout: Layout, values: S::Ref<'a, T>, metadata: S::Ref<'a, u8>) -> Self {
        Self { shape, form: Form::Packed { layout, values, metadata } }
    }

    /// `[N, K]`.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Where its codes lie; `None` for one that cuSPARSELt alone reads.
    #[must_use]
    pub fn layout(&self) -> Option<Layout> {
        match self.form {
            Form::Packed { layout, .. } => Some(layout),
            #[cfg(feature = "cuda")]
            Form::Library { .. } => None,
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.shape.check()?;
        match &self.form {
            Form::Packed { layout, values, metadata } => {
                let sizes = layout.sizes(self.shape, T::DTYPE)?;
                length("values", Some(values), sizes.values)?;
                length("metadata", Some(metadata), sizes.metadata)
            }
            // Its owner has made it as long as the library asked for.
            #[cfg(feature = "cuda")]
            Form::Library { .. } => Ok(()),
        }
    }
}

/// Arguments of the product.
///
/// Shapes: `x [T, K]`, `bias [N]`, `dense [N, K]`, `y [T, N]`, which is overwritten. On a device every operand starts on a
/// 16-byte boundary.
pub struct Multiply<'w, 'a, S: Space, T: Factor> {
    pub(crate) problem: Problem,
    pub(crate) weight: Weight<'w, S, T>,
    pub(crate) x: S::Ref<'a, T>,
    pub(crate) bias: Option<S::Ref<'a, T::Output>>,
    pub(crate) dense: Option<S::Ref<'a, T>>,
    pub(crate) y: S::Mut<'a, T::Output>,
    pub(crate) workspace: Option<S::Mut<'a, u8>>,
}

impl<'w, 'a, S: Space, T: Factor> Multiply<'w, 'a, S, T> {
    /// `tokens` rows of `x` by the weight.
    #[must_use]
    pub fn new(weight: Weight<'w, S, T>, tokens: usize, x: S::Ref<'a, T>, y: S::Mut<'a, T::Output>) -> Self {
        let problem = Problem::new(tokens, weight.shape);
        Self { problem, weight, x, bias: None, dense: None, y, workspace: None }
    }

    /// Adds `bias[n]` to column `n`, before the sums are rounded. For a plan with [`Given::bias`].
    #[must_use]
    pub fn bias(mut self, bias: S::Ref<'a, T::Output>) -> Self {
        self.bias = Some(bias);
        self
    }

    /// The same weight decompressed: [`Path::Dense`] need not write it then. For a plan with [`Given::dense`]; other ways,
    /// and the CPU, leave it alone.
    #[must_use]
    pub fn dense(mut self, dense: S::Ref<'a, T>) -> Self {
        self.dense = Some(dense);
        self
    }

    /// Memory to work in, at least [`Plan::workspace_bytes`]; its content is lost. The CPU executor needs none.
    #[must_use]
    pub fn workspace(mut self, workspace: S::Mut<'a, u8>) -> Self {
        self.workspace = Some(workspace);
        self
    }

    /// What a plan for these arguments is given.
    #[must_use]
    pub fn given(&self) -> Given {
        Given {
            layout: self.weight.layout().unwrap_or(Layout::CutlassSm80),
            dense: self.dense.is_some(),
            bias: self.bias.is_some(),
        }
    }

    /// Checks shapes and lengths; every executor does it first.
    ///
    /// # Errors
    /// [`Error::NotGrouped`], [`Error::Overflow`], [`Error::Layout`] and [`Error::Length`].
    pub fn check(&self) -> Result<()> {
        self.problem.check()?;
        self.weight.check()?;
        length("x", Some(&self.x), self.problem.inputs())?;
        length("bias", self.bias.as_ref(), self.problem.shape.rows)?;
        length("dense", self.dense.as_ref(), self.problem.shape.weights())?;
        length("y", Some(&self.y), self.problem.outputs())
    }
}
