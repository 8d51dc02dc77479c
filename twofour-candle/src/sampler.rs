//! What the layers of a model share: how masks are drawn just now.

use std::sync::{Arc, PoisonError, RwLock};

use candle_core::Result;
use twofour::learn::StepSettings;
use twofour::mask::{Kind, Sampling};
use twofour::{Error, noise};

use crate::claim::{Claim, Numbers};
use crate::engine::Engine;
use crate::number::wrap;
use crate::ops::Masks;

/// What a masked layer multiplies by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The weight under soft masks: what MaskLLM trains with.
    Soft,
    /// The weight under hard masks, which are drawn; gradients are those of the soft ones (straight-through).
    Hard,
    /// The weight under the masks of the largest logits, without noise: evaluation. No gradient reaches the logits.
    Argmax,
    /// The weight as it is: the dense model to compare with.
    Dense,
}

/// A moment of a run. The default is MaskLLM's first (arXiv 2409.17481): soft masks, κ 100, τ 4, no regulariser.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// What layers multiply by.
    pub mode: Mode,
    /// Training step; another step draws other masks. Below [`twofour::noise::steps`] of the highest layer's number:
    /// 2³² for up to 65,536 layers.
    pub step: u32,
    /// Micro-batch in the step; another one draws other masks.
    pub micro_batch: u16,
    /// Logit scale κ, finite and not negative.
    pub kappa: f32,
    /// Temperature τ, positive.
    pub tau: f32,
    /// The coefficient λ of `−λ Σ (W∘M)²`, which each layer adds to the loss; finite. (It enters the logits' gradient,
    /// not the value of the loss, and does so in every backward pass: where micro-batches are averaged, divide it by
    /// their number.)
    pub regulariser: f32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { mode: Mode::Soft, step: 0, micro_batch: 0, kappa: 100.0, tau: 4.0, regulariser: 0.0 }
    }
}

/// Says to the layers of a model how masks are drawn, and holds what they compute with ([`Engine`]).
///
/// Cloning it gives another handle of the same. A forward pass takes the settings that hold when it is called, and its
/// backward pass the same ones, so they may be changed in between.
///
/// ```
/// use twofour_candle::{Mode, Sampler};
///
/// # fn main() -> candle_core::Result<()> {
/// let sampler = Sampler::new(42);
/// for step in 0..100 {
///     sampler.update(|now| (now.step, now.tau) = (step, 4.0 - 3.95 * step as f32 / 100.0))?;
///     // forward, backward, and the optimiser's step
/// }
/// sampler.update(|now| now.mode = Mode::Argmax)?;
/// // evaluation
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Sampler {
    seed: u64,
    settings: Arc<RwLock<Settings>>,
    engine: Engine,
    numbers: Arc<Numbers>,
}

impl Sampler {
    /// For a run with this seed, with the default [`Settings`].
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, settings: Arc::default(), engine: Engine::default(), numbers: Arc::default() }
    }

    /// Key of the noise.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// What holds now.
    #[must_use]
    pub fn settings(&self) -> Settings {
        *self.settings.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what holds.
    ///
    /// # Errors
    /// A κ, τ or λ outside its domain; then nothing is changed.
    pub fn set(&self, settings: Settings) -> Result<()> {
        settings.check()?;
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
        Ok(())
    }

    /// Changes some of what holds.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn update(&self, change: impl FnOnce(&mut Settings)) -> Result<()> {
        let mut settings = self.settings();
        change(&mut settings);
        self.set(settings)
    }

    /// Sets step, κ, τ and λ to those of a step of a [`Recipe`](twofour::learn::Recipe); micro-batches begin with 0.
    /// The mode stays.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn begin(&self, step: u32, settings: &StepSettings) -> Result<()> {
        let StepSettings { kappa, tau, regulariser, .. } = *settings;
        self.set(Settings { mode: self.settings().mode, step, micro_batch: 0, kappa, tau, regulariser })
    }

    /// What layers compute with.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Whether both are handles of the same.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.settings, &other.settings)
    }

    /// The numbers of its layers.
    pub(crate) fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    /// The masks of a layer now; `None` for [`Mode::Dense`].
    pub(crate) fn masks(&self, layer: &Claim) -> Result<Option<Masks>> {
        let Settings { mode, step, micro_batch, kappa, tau, regulariser } = self.settings();
        let kind = match mode {
            Mode::Soft => Kind::Soft,
            Mode::Hard => Kind::Hard,
            Mode::Argmax => Kind::Argmax,
            Mode::Dense => return Ok(None),
        };
        if kind != Kind::Argmax {
            self.numbers.check(layer)?;
            self.check_step(step)?;
        }
        let sampling = Sampling { seed: self.seed, draw: noise::draw(layer.number(), step, micro_batch), kappa, tau };
        Ok(Some(Masks::new(kind, sampling).regulariser(regulariser)))
    }

    /// Whether the step has draws of its own.
    fn check_step(&self, step: u32) -> Result<()> {
        let last = self.numbers.last();
        let steps = noise::steps(last);
        if u64::from(step) >= steps {
            candle_core::bail!(
                "step {step} would repeat the masks of another: with layers' numbers up to {last} there are {steps} \
                 steps; number the layers from 0 on, or take another seed and begin with step 0"
            )
        }
        Ok(())
    }

    /// The masks of the largest logits, whatever holds.
    pub(crate) fn argmax(&self) -> Masks {
        Masks::new(Kind::Argmax, Sampling { seed: self.seed, draw: 0, kappa: 1.0, tau: 1.0 })
    }
}

impl Settings {
    fn check(&self) -> Result<()> {
        let wrong = |what, value: f32, must| Err(wrap(Error::Scalar { what, value: f64::from(value), must }));
        if !(self.kappa.is_finite() && self.kappa >= 0.0) {
            return wrong("kappa", self.kappa, "finite and not negative");
        }
        // So small a temperature that 1/τ overflows is found where masks are made.
        if !(self.tau.is_finite() && self.tau > 0.0) {
            return wrong("tau", self.tau, "positive and finite");
        }
        if !self.regulariser.is_finite() {
            return wrong("regulariser", self.regulariser, "finite");
        }
        Ok(())
    }
}
