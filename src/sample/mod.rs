//! From logits to a mask: what every op that samples stands on. [`crate::mask`] says what the words mean and what comes
//! out; here is the sampling itself, on lanes of the CPU and as arguments of kernels.
//!
//! | what | where |
//! | --- | --- |
//! | how a mask is drawn, and with what scalars | [`Kind`], [`Sampling`] |
//! | sixteen groups side by side, for the CPU executors | `lanes`, `cpu` |
//! | the same as kernels read it | [`launch`] |
//! | how a grid of threads walks over the groups | [`walk`] |
//! | sums over the groups, made on such a walk | `statistics` |

use crate::check::{not_negative, scalar};
use crate::element::Float;
use crate::error::{Error, Result};
use crate::shape::{Shape, Shard};
use crate::space::Space;

pub(crate) mod cpu;
pub(crate) mod lanes;
pub(crate) mod statistics;
pub(crate) mod vector;

// Arguments of kernels as plain data: for this repository's emulator, not a stable API.
#[doc(hidden)]
pub mod launch;
#[doc(hidden)]
pub mod walk;

/// How a group's scores become its mask; see [`crate::mask`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A mixture of the six patterns.
    Soft,
    /// One pattern, drawn.
    Hard,
    /// One pattern, the likeliest.
    Argmax,
}

/// Where masks come from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source<L, C> {
    /// They are made of logits.
    Sampled { kind: Kind, sampling: Sampling, logits: L },
    /// They no longer change, and are given by their codes.
    Frozen { codes: C },
}

/// What sampling needs besides logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Key of the noise, one a run.
    pub seed: u64,
    /// Counter of the noise: no two masks of a run share it ([`crate::noise::draw`] makes one).
    pub draw: u64,
    /// Logit scale κ, finite and not negative.
    pub kappa: f32,
    /// Temperature τ, positive.
    pub tau: f32,
}

impl Sampling {
    /// `log2(e)/τ`: softmax in base two.
    pub(crate) fn scale(&self) -> f32 {
        exponent(self.tau)
    }

    /// `κ/τ`: the gradient's factor.
    pub(crate) fn logit_scale(&self) -> f32 {
        (f64::from(self.kappa) / f64::from(self.tau)) as f32
    }

    pub(crate) fn check(&self) -> Result<()> {
        let Self { kappa, tau, .. } = *self;
        not_negative("kappa", kappa)?;
        temperature("tau", tau)?;
        match self.logit_scale() {
            scale if scale.is_finite() => Ok(()),
            scale => scalar("kappa / tau", f64::from(scale), "finite: raise tau or lower kappa"),
        }
    }
}

/// `log2(e)/T`: what a softmax in base two multiplies by.
pub(crate) fn exponent(temperature: f32) -> f32 {
    (std::f64::consts::LOG2_E / f64::from(temperature)) as f32
}

/// Checks the temperature of a softmax.
pub(crate) fn temperature(what: &'static str, temperature: f32) -> Result<()> {
    let exponent = exponent(temperature);
    match temperature.is_finite() && temperature > 0.0 && exponent.is_finite() && exponent > 0.0 {
        true => Ok(()),
        false => scalar(
            what,
            f64::from(temperature),
            "positive, finite, and not so small that 1.4427 divided by it overflows",
        ),
    }
}

/// Checks what sampling the masks of a weight needs besides operands: its shape, where it lies in the whole, and
/// scalars.
pub(crate) fn check(shape: Shape, shard: &Shard, sampling: &Sampling) -> Result<()> {
    shape.check()?;
    shard.check(shape.rows as u64, shape.cols as u64)?;
    sampling.check()
}

/// Checks that masks of a kind have a gradient.
pub(crate) fn has_gradient(kind: Kind) -> Result<()> {
    if kind == Kind::Argmax {
        let missing = "argmax masks have none: use Soft or Hard (Forward on G gives G∘M for any kind)";
        return Err(Error::Missing { what: "a gradient", missing });
    }
    Ok(())
}

/// Which types the gradient of a weight of type `W` may have: `W` itself, or `f32`. Sealed by its supertrait.
pub trait GradientOf<W: Float>: Float {
    /// An output of this type, where the type is no longer known.
    #[doc(hidden)]
    fn wide_or_own<S: Space>(output: S::Mut<'_, Self>) -> WideOrOwn<S::Mut<'_, f32>, S::Mut<'_, W>>;
}
impl<W: Float> GradientOf<W> for f32 {
    fn wide_or_own<S: Space>(output: S::Mut<'_, Self>) -> WideOrOwn<S::Mut<'_, f32>, S::Mut<'_, W>> {
        WideOrOwn::Wide(output)
    }
}
impl GradientOf<half::f16> for half::f16 {
    fn wide_or_own<S: Space>(output: S::Mut<'_, Self>) -> WideOrOwn<S::Mut<'_, f32>, S::Mut<'_, Self>> {
        WideOrOwn::Own(output)
    }
}
impl GradientOf<half::bf16> for half::bf16 {
    fn wide_or_own<S: Space>(output: S::Mut<'_, Self>) -> WideOrOwn<S::Mut<'_, f32>, S::Mut<'_, Self>> {
        WideOrOwn::Own(output)
    }
}

/// A weight's gradient in `f32`, or in the weight's type.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub enum WideOrOwn<F, O> {
    Wide(F),
    Own(O),
}
