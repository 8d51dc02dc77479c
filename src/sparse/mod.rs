//! The product of a 2:4 weight that is compressed: `Y = X Wᵀ`, with a bias or without.
//!
//! `X` is `[T, K]`, `W` `[N, K]` with half of every group's values kept ([`crate::compress`]), `Y` `[T, N]`; all are
//! row-major. Any of `T`, `N` and `K` may be zero, and `K` is a multiple of 4.
//!
//! | weight and `X` | sums | `Y` and bias | executors and routes |
//! | --- | --- | --- | --- |
//! | `f16`, `bf16` | `f32` | the same | all |
//! | `i8` | `i32`, wrapping | `i32` | all |
//! | `f32` | `f32` | `f32` | CPU; cuBLASLt in IEEE `f32`; cuSPARSELt in tf32, if asked for |
//! | `E4m3` | `f32` | `f32` | CPU; cuSPARSELt |
//!
//! Not offered: `E5m2`, scales of 8-bit types (multiply `Y`), and other results of `i8` and `E4m3`, which
//! [`crate::cusparselt`] has.
//!
//! # Routes to a product
//!
//! On a device there are several, and a [`Plan`] says which one is taken, why, and how much workspace it needs; it can
//! be told otherwise.
//!
//! | route | what it does | where it wins |
//! | --- | --- | --- |
//! | [`Route::Small`] | a kernel of this crate; reads 9/16 of the dense weight's bytes (`i8`: 5/8), once | few tokens |
//! | [`Route::Tile`] | a kernel of this crate on sparse tensor cores (`mma.sp`) | more, until a library wins |
//! | [`Route::Cusparselt`] | NVIDIA's library, searched once; on `wgmma.sp` where the device has it | many tokens |
//! | [`Route::Dense`] | cuBLASLt by the dense weight, which is written to the workspace first unless it is there | where sparse loses; `f32` |
//!
//! By itself a plan takes
//!
//! - `Small` up to [`MAX_SMALL_TOKENS`] tokens;
//! - `Cusparselt` from 512 tokens on Hopper and on Blackwell's data-centre parts, from 1,024 elsewhere, for N and K
//!   above 2,048 (above 1,024 from 2,049 tokens on) and `i8` with K up to 2,048; always for `E4m3`; for `f32` in tf32
//!   only if asked;
//! - `Dense` on Hopper from 1,792 tokens (384 with a dense copy) where cuSPARSELt is not taken; for K that is no
//!   multiple of 16 (`i8`: 32), for other layouts than [`Layout::CutlassSm80`], and for `f32`.
//!
//! [`Plan::with_route`], [`Plan::without_cublaslt`] and [`Plan::without_cusparselt`] choose otherwise; a route that
//! does not serve is an error with the reason, and a slow one says in [`Plan::why`] that it is. The models behind each
//! line are in `src/sparse/plan/table.rs`; no line has met a GPU yet.
//!
//! This crate's kernels read the weight in [`Layout::CutlassSm80`]. What cuSPARSELt reads is its own affair, and it is
//! handed no buffer of ours on trust: [`LibraryWeight`](crate::gpu::library::LibraryWeight) packs for it.
//!
//! `examples/sparse_step` is a training step with hard masks whose forward product runs on the compressed weight:
//! logits to packed weight to `Y`, with `dX` and the logits' gradient from the codes, compared with
//! [`matmul`](crate::matmul).
//!
//! # Numerics
//!
//! - Sums and bias are added up in `f32`, and `Y` is rounded once. With `u = 2⁻²⁴` and `n = K/2 + 1` terms (and one
//!   more for each part of a product that is [split](Plan::splits)), `Y` is within
//!   `n·u/(1 − n·u) · (Σ_k |X_tk W_nk| + |b_n|)` of the exact result, and one rounding more, on the CPU; tensor cores
//!   truncate where others round: there `u = 2⁻²³` (see [`crate::matmul`]). The order of summation differs between
//!   executors and routes, but not from run to run on the CPU and in this crate's kernels. `i8` is exact there, modulo
//!   2³². The CPU's sums of `f32` are fused multiply-adds in an order that the number of tokens, K and the type decide:
//!   the same bits whatever vectors and threads it has.
//! - Long sums are folded as in [`crate::matmul`], counted in terms that are kept. How `mma.sp` adds is not published;
//!   the figures there hold if it does as `mma` does. cuSPARSELt's and cuBLASLt's products are what they are.
//! - In tf32, which cuSPARSELt makes of `f32`, `X` and `W` are each rounded to 11 bits first: add `2⁻¹⁰ Σ_k |X_tk
//!   W_nk|`.
//! - How cuSPARSELt rounds `i32` sums beyond 2²⁴ is not documented, and it is said to saturate: a plan takes it for
//!   `i8` by itself only where sums cannot exceed that.
//! - Hopper's tensor cores are reported to keep some 14 bits of the sums of 8-bit floating point (DeepSeek-V3 technical
//!   report, section 3.3.2): for `E4m3` expect `u = 2⁻¹³` there.
//! - **What is dropped does not count.** A NaN or an infinity in `X_tk` reaches `Y_tn` exactly if `W_nk` is kept (be it
//!   a zero that is kept): on the CPU and in this crate's kernels, `0 · ∞` is not computed. [`Route::Dense`] multiplies
//!   by the zeros that were dropped, so there the whole row `t` of `Y` becomes NaN, as in any dense product. cuSPARSELt
//!   drops what is dropped, but its own packer ([`Packing::Library`]) may keep other zeros than the codes say.
//!
//! # Executors
//!
//! [`Cpu`](crate::Cpu) and, with the feature `cuda`, `Gpu` take the same arguments in their own memory. The CPU takes
//! any layout, needs no plan and allocates what it works in, leaves a workspace and a dense copy alone, and refuses
//! codes that are not legal, which may leave a part of `Y` written; its results do not depend on the number of threads. A
//! device needs a plan, and reads codes as they are: what comes of illegal ones is unspecified.
//!
//! The CPU multiplies by kept values alone, whatever the number of tokens, and reads 9/16 of the dense weight's bytes
//! (`i8`: 5/8). With few tokens that is what counts. From some five hundred on, whoever has memory for the dense weight
//! may be faster with it: at 2,048 tokens of `f32` AVX-512 took 1.3 to 1.4 times as long as a dense product.
//! It is slow without fused multiply-add, which every x86-64 with AVX2 and every AArch64 has.
//!
//! ```
//! use twofour::compress::{Compressed, Layout};
//! use twofour::sparse::{Given, Weight};
//! use twofour::{Cpu, Executor, Result, Shape, bf16};
//!
//! /// `Y = X Wᵀ` of a weight that is compressed, on whatever this is.
//! fn multiply<E: Executor>(on: &mut E, tokens: usize, x: &[bf16], weight: &Compressed<bf16>) -> Result<Vec<bf16>> {
//!     let shape = weight.shape();
//!     let (values, metadata) = (on.upload(weight.values())?, on.upload(&weight.metadata(Layout::CutlassSm80)?)?);
//!     let weight = Weight::new(shape, Layout::CutlassSm80, E::input(&values), E::input(&metadata));
//!     let plan = weight.plan(on, tokens, Given::WEIGHT)?;
//!     let mut scratch = on.scratch(&plan)?;
//!     let (x, mut y) = (on.upload(x)?, on.zeros(tokens * shape.rows)?);
//!     on.run(plan.multiply(&weight, E::input(&x), E::output(&mut y), &mut scratch))?;
//!     on.download(&y)
//! }
//!
//! let dense = [1.0, 2.0, 3.0, 4.0].map(bf16::from_f32).repeat(16 * 16);
//! let weight = Compressed::by_magnitude(Shape::new(16, 64), &dense)?;
//! let y = multiply(&mut Cpu, 1, &[bf16::ONE; 64], &weight)?;
//! assert!(y.iter().all(|y| y.to_f32() == 16.0 * 7.0));
//! # Ok::<(), twofour::Error>(())
//! ```

use crate::check::length;
use crate::compress::Layout;
use crate::cusparselt::Origin;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::pass::Executor;
use crate::shape::Shape;
use crate::space::{Input, Space};

mod cpu;
mod launch;
mod multiply;
mod plan;
mod scratch;

pub use crate::dense::Problem;
pub use crate::element::Factor;
pub(crate) use cpu::rows::{Rows, Wide};
pub use launch::MAX_SMALL_TOKENS;
pub use multiply::Multiply;
pub use plan::{Given, Packing, Plan, Route};
pub use scratch::Scratch;

/// A compressed weight `[N, K]`.
#[derive(Debug)]
pub struct Weight<'a, S: Space, T: Factor> {
    pub(crate) shape: Shape,
    pub(crate) form: Form<S::Ref<'a, T>, S::Ref<'a, u8>>,
}

/// Who can read it.
#[derive(Debug)]
pub(crate) enum Form<V, M> {
    /// This crate.
    Packed { layout: Layout, values: V, metadata: M },
    /// cuSPARSELt, and it alone.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "the library packs it"))]
    Library { bytes: M, origin: Origin },
}

impl<'a, S: Space, T: Factor> Weight<'a, S, T> {
    /// Kept values and codes in a layout, each as long as [`Layout::sizes`] says.
    #[must_use]
    pub fn new(
        shape: Shape,
        layout: Layout,
        values: impl Input<'a, Space = S, Element = T>,
        metadata: impl Input<'a, Space = S, Element = u8>,
    ) -> Self {
        Self { shape, form: Form::Packed { layout, values: values.input(), metadata: metadata.input() } }
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
            Form::Library { .. } => None,
        }
    }

    /// The best plan for products of this weight as it is packed, by `tokens` rows; what else they are given is in
    /// `given`, whose layout is of no matter. One that is packed for cuSPARSELt goes there, and one that is not does
    /// not, unless nothing else serves: then it must be packed first (`library`), or it is for the CPU alone.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn plan<E: Executor<Space = S>>(&self, on: &E, tokens: usize, given: Given) -> Result<Plan<T>> {
        let (limits, libraries, problem) = (on.limits(), on.libraries(), Problem::new(tokens, self.shape));
        match self.layout() {
            Some(layout) => {
                let plan = Plan::new(&limits, problem, Given { layout, ..given }, libraries)?;
                Ok(plan.without_cusparselt().unwrap_or(plan))
            }
            None => Plan::by(Route::Cusparselt, &limits, problem, given, libraries),
        }
    }

    /// The same for a while.
    fn share<'s>(&'s self) -> Weight<'s, S, T>
    where
        'a: 's,
    {
        let form = match &self.form {
            Form::Packed { layout, values, metadata } => {
                Form::Packed { layout: *layout, values: S::share(values), metadata: S::share(metadata) }
            }
            Form::Library { bytes, origin } => Form::Library { bytes: S::share(bytes), origin: *origin },
        };
        Weight { shape: self.shape, form }
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
            Form::Library { .. } => Ok(()),
        }
    }
}
