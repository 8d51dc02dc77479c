//! A training recipe as a value: what the scalars of a step are.

use super::{AdamW, Schedule};
use crate::check::{finite, not_negative, scalar};
use crate::error::Result;
use crate::sample::Sampling;

/// All hyper-parameters of a run. A recipe that [checks](Self::check) gives no step an error.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// Steps of the run.
    pub steps: u64,
    /// κ, not negative.
    pub kappa: Schedule,
    /// τ, positive.
    pub tau: Schedule,
    /// λ.
    pub regulariser: Schedule,
    /// Learning rate.
    pub rate: Schedule,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// What is added to the square root of the second moment.
    pub epsilon: f64,
    /// Weight decay.
    pub decay: f64,
    /// The norm that gradients are clipped to.
    pub max_norm: f64,
    /// Deviation σ of the initial logits.
    pub sigma: f64,
    /// Strength α of the prior, in deviations.
    pub alpha: f64,
}

/// The scalars of a step of a recipe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepSettings {
    /// Logit scale.
    pub kappa: f32,
    /// Temperature.
    pub tau: f32,
    /// Coefficient λ.
    pub regulariser: f32,
    /// The optimiser's hyper-parameters, its step counted from 1.
    pub adamw: AdamW,
}

impl StepSettings {
    /// The sampling of this step under a seed and a draw.
    #[must_use]
    pub const fn sampling(&self, seed: u64, draw: u64) -> Sampling {
        Sampling { seed, draw, kappa: self.kappa, tau: self.tau }
    }
}

impl Recipe {
    /// MaskLLM's, from its released LLaMA-2 7B script and code (github.com/NVlabs/MaskLLM), where the paper says
    /// otherwise too: κ 100 to 500, τ 4 to 0.05 and λ 1e-5 to 0, all linear (the paper has a constant λ); rate 5e-4 to
    /// 5e-5 by cosine without warm-up; betas 0.9 and 0.95, ε 1e-5, decay 0.1 on the logits; norm clipped to 1; σ 0.01,
    /// α 3. Theirs are 2000 steps.
    #[must_use]
    pub fn maskllm(steps: u64) -> Self {
        Self {
            steps,
            kappa: Schedule::linear(100.0, 500.0),
            tau: Schedule::linear(4.0, 0.05),
            regulariser: Schedule::linear(1e-5, 0.0),
            rate: Schedule::cosine(5e-4, 5e-5),
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-5,
            decay: 0.1,
            max_norm: 1.0,
            sigma: 0.01,
            alpha: 3.0,
        }
    }

    /// For tens to a few thousands of steps of some hundred tokens, where [`maskllm`](Self::maskllm)'s, made for thousands
    /// of a million, has no time: κ 1000 and τ 10, both constant, so that masks have little noise and are no more decided
    /// at the end than at the start, which would stop learning; rate 8.7e-3 steps^-0.3, but at most 2.5e-3, to a tenth of
    /// it by cosine; α 6, so that noise of σ 0.01 turns few groups of the prior over. Nothing is clipped (`max_norm` is
    /// [`f64::MAX`]). All else is `maskllm`'s.
    #[must_use]
    pub fn few_steps(steps: u64) -> Self {
        let rate = (8.7e-3 * (steps.max(1) as f64).powf(-0.3)).min(2.5e-3);
        Self {
            kappa: Schedule::constant(1000.0),
            tau: Schedule::constant(10.0),
            rate: Schedule::cosine(rate, rate / 10.0),
            max_norm: f64::MAX,
            alpha: 6.0,
            ..Self::maskllm(steps)
        }
    }

    /// The scalars of a step, counted from 0.
    #[must_use]
    pub fn at(&self, step: u64) -> StepSettings {
        let at = |schedule: &Schedule| schedule.at(step, self.steps);
        let Self { beta1, beta2, epsilon, decay, .. } = *self;
        let rate = at(&self.rate);
        StepSettings {
            kappa: at(&self.kappa) as f32,
            tau: at(&self.tau) as f32,
            regulariser: at(&self.regulariser) as f32,
            adamw: AdamW { rate, beta1, beta2, epsilon, decay, step: step.saturating_add(1) },
        }
    }

    /// Checks all that steps will check.
    ///
    /// # Errors
    /// [`Error::Scalar`](crate::Error::Scalar).
    pub fn check(&self) -> Result<()> {
        if self.steps == 0 {
            return scalar("steps", 0.0, "at least 1");
        }
        let inside = |value: f64| (value as f32).is_finite();
        self.kappa.check("kappa", |kappa| inside(kappa) && kappa >= 0.0, "finite and not negative")?;
        self.tau.check("tau", |tau| inside(tau) && tau as f32 > 0.0, "positive and finite")?;
        self.regulariser.check("regulariser", inside, "finite")?;
        self.rate.check("rate", |rate| rate >= 0.0, "finite and not negative")?;
        // The worst of both schedules together (a warm-up begins below both ends), and the largest rate at once.
        let [_, kappa] = self.kappa.range();
        let [tau, _] = self.tau.range();
        Sampling { seed: 0, draw: 0, kappa: kappa as f32, tau: tau as f32 }.check()?;
        let [_, rate] = self.rate.range();
        AdamW { rate, ..self.at(0).adamw }.check()?;
        if !(self.max_norm.is_finite() && self.max_norm > 0.0) {
            return scalar("max_norm", self.max_norm, "positive and finite");
        }
        not_negative("sigma", self.sigma)?;
        finite("alpha", self.alpha)
    }
}
