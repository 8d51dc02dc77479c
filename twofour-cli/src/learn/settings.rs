//! What a run depends on, beside the model and the text.

use crate::Failure;
use crate::model::Teaching;
use clap::ValueEnum;
use twofour::distil::Divergence;
use twofour::learn::{Recipe, Schedule};

/// What masks are learnt in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Memory {
    /// Logits and moments in f32: 18 bytes a masked weight
    #[default]
    Full,
    /// Logits in bf16 and moments in eight bits: 6.03 bytes
    Small,
}

/// How masks are learnt.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Steps, schedules, the optimiser, and how strong the prior is.
    pub recipe: Recipe,
    /// Of masks, of the initial logits, and of the order of the text.
    pub seed: u64,
    /// Tokens of a window.
    pub window: usize,
    /// Windows of a micro-batch.
    pub batch: usize,
    /// Micro-batches of a step, each with its own draw of the masks. With one, the backward pass makes the step, and
    /// gradients of logits are never in memory; with more they are summed: 6 bytes a masked weight more.
    pub accumulate: u16,
    /// What masks are learnt in.
    pub memory: Memory,
    /// What the dense model, the same weights with the mask off, teaches; without, the next token alone does.
    pub distil: Option<Teaching>,
    /// Whether a block's forward pass is made again for its backward pass, so that less is kept. The same bits.
    pub recompute: bool,
}

impl Settings {
    /// [`Recipe::few_steps`], two windows of 256 tokens a step.
    #[must_use]
    pub fn few_steps(steps: u64) -> Self {
        let (recipe, memory) = (Recipe::few_steps(steps), Memory::default());
        Self { recipe, seed: 1, window: 256, batch: 2, accumulate: 1, memory, distil: None, recompute: false }
    }

    /// Whether every step will take these.
    ///
    /// # Errors
    /// The first value that no step would take.
    pub fn check(&self) -> Result<(), Failure> {
        self.recipe.check().map_err(|e| format!("masks cannot be learnt so: {e}"))?;
        for (what, value) in [("--batch", self.batch), ("--accumulate", usize::from(self.accumulate))] {
            if value == 0 {
                return Err(format!("{what} is 0: a step needs one at least").into());
            }
        }
        if let Some(Teaching { temperature, labels, .. }) = self.distil {
            if !(temperature.is_finite() && temperature > 0.0) {
                return Err(format!("--temperature is {temperature}: it must be positive and finite").into());
            }
            if !(labels.is_finite() && labels >= 0.0) {
                return Err(format!("--labels is {labels}: it must be finite and not negative").into());
            }
        }
        let Self { window, batch, accumulate, .. } = *self;
        let tokens = window.checked_add(1).and_then(|of| of.checked_mul(batch)?.checked_mul(accumulate.into()));
        if tokens.is_none_or(|tokens| u32::try_from(tokens).is_err()) {
            let these = format!("--window {window}, --batch {batch} and --accumulate {accumulate}");
            return Err(format!("{these} are too many tokens for a step: it reads fewer than 2^32").into());
        }
        match u32::try_from(self.recipe.steps) {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("--steps {} are too many: there are draws for 2^32", self.recipe.steps).into()),
        }
    }

    /// Whether gradients are clipped.
    #[must_use]
    pub fn clips(&self) -> bool {
        self.recipe.max_norm < f64::MAX
    }

    /// Tokens that a step learns from.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.window * self.batch * usize::from(self.accumulate)
    }
}

/// `FROM`, `FROM:TO` or `FROM:TO:cosine`, with what `TO` is and which form it has where it is not said.
pub(super) fn schedule(text: &str, to: impl Fn(f64) -> f64, cosine: bool) -> Result<Schedule, String> {
    let wrong = || format!("`{text}` is no schedule: say FROM, FROM:TO, FROM:TO:linear or FROM:TO:cosine");
    let mut parts = text.split(':');
    let mut number = || parts.next().map(|number| number.parse::<f64>().map_err(|_| wrong())).transpose();
    let from = number()?.ok_or_else(wrong)?;
    let to = number()?.unwrap_or_else(|| to(from));
    let cosine = match (parts.next(), parts.next()) {
        (None, _) => cosine,
        (Some("linear"), None) => false,
        (Some("cosine"), None) => true,
        _ => return Err(wrong()),
    };
    Ok(if cosine { Schedule::cosine(from, to) } else { Schedule::linear(from, to) })
}

/// As it is given on the command line.
pub(super) fn shown(schedule: &Schedule) -> String {
    let (form, [from, to], warmup) = schedule.parts();
    let warmup = if warmup > 0 { format!(" after {warmup} steps of warm-up") } else { String::new() };
    format!("{from}:{to}:{form}{warmup}")
}

/// `forward`, `reverse`, or `jsd:BETA`.
pub(super) fn divergence(name: &str) -> Result<Divergence, String> {
    let beta = |beta: &str| beta.parse::<f32>().ok().filter(|beta| (0.0..=1.0).contains(beta));
    match (name, name.strip_prefix("jsd:").and_then(beta)) {
        ("forward", _) => Ok(Divergence::Forward),
        ("reverse", _) => Ok(Divergence::Reverse),
        (_, Some(beta)) => Ok(Divergence::Jsd(beta)),
        _ => Err(format!("`{name}` is none of forward, reverse and jsd:BETA, with BETA from 0 to 1")),
    }
}
