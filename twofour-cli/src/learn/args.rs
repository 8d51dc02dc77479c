//! The command line of `learn`.

use super::prior::Named;
use super::settings::{Memory, Settings, divergence, schedule};
use crate::Failure;
use crate::device::DeviceArgs;
use crate::model::Teaching;
use clap::Parser;
use std::path::PathBuf;
use twofour::distil::Divergence;
use twofour::learn::{Recipe, Schedule};
use twofour_formats::masks::Form;

/// 2:4 masks learnt on a model's own loss, its weights frozen.
///
/// Six logits a group of four weights are learnt, one for each way to keep two of them, on the loss of the whole model;
/// its weights stay as they are. The masks are those of the largest logits.
///
/// Ctrl-C saves and stops, and --resume goes on; so does a run that was cut off, from where it saved last. A run that
/// goes on ends with the same bits as one that was never stopped.
///
/// A schedule is FROM, FROM:TO, FROM:TO:linear or FROM:TO:cosine. Defaults of the recipe are those of few-steps; where
/// maskllm has others they are named.
#[derive(Debug, Parser)]
pub struct Args {
    /// The model: a folder as of Hugging Face, or a GGUF file [default: a small one is made up]
    pub(super) model: Option<PathBuf>,
    /// What is learnt from: texts, which are joined by two newlines, or token ids if the name ends in .u16 or .u32
    #[arg(long, num_args = 1.., value_name = "FILE", requires = "model")]
    pub(super) text: Vec<PathBuf>,
    /// Where the masks are written [default: beside the model, with `learnt` in the name]
    #[arg(long, visible_alias = "output", value_name = "FILE", requires = "model")]
    pub(super) out: Option<PathBuf>,
    /// The form of the masks [default: base6, or patch if --out is an npz]
    #[arg(long, value_parser = crate::convert::form)]
    pub(super) form: Option<Form>,
    /// Masks to start from: `magnitude`, `none`, or a file: masks of any form, as `prune` makes them or as were learnt
    /// on another text, or a compressed model
    #[arg(long, value_name = "MASKS", default_value = "magnitude", value_parser = |name: &str| Ok::<_, Failure>(Named::from(name)))]
    pub(super) prior: Named,
    /// Steps
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) steps: u32,
    /// Tokens in a window
    #[arg(long, default_value_t = 256)]
    pub(super) window: usize,
    /// Windows in a micro-batch
    #[arg(long, default_value_t = 2)]
    pub(super) batch: usize,
    /// Micro-batches in a step, each with its own draw of the masks: 6 bytes a masked weight more from two on
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) accumulate: u16,
    /// Of masks, of the logits at the start, and of the order of the text
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// What masks are learnt in
    #[arg(long, value_enum, default_value_t)]
    pub(super) memory: Memory,
    /// Learns from what the dense model says of the same tokens, by this divergence: forward, reverse or jsd:BETA. The
    /// teacher is the same weights with the mask off: one forward pass more
    #[arg(long, value_name = "DIVERGENCE", num_args = 0..=1, default_missing_value = "forward", value_parser = divergence)]
    pub(super) distil: Option<Divergence>,
    /// Temperature of both, where the dense model teaches
    #[arg(long, default_value_t = 1.0, requires = "distil")]
    pub(super) temperature: f32,
    /// How much the token that came next counts beside, where the dense model teaches
    #[arg(long, value_name = "LAMBDA", default_value_t = 0.0, requires = "distil")]
    pub(super) labels: f32,
    /// Keeps less from the forward to the backward pass, for a third more work
    #[arg(long)]
    pub(super) recompute: bool,
    #[command(flatten)]
    pub(super) recipe: RecipeArgs,
    /// What the perplexity of the masks is told on, on the way: as --text
    #[arg(long, num_args = 1.., value_name = "FILE", requires = "model")]
    pub(super) validate: Vec<PathBuf>,
    /// Tokens in a window of it
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..))]
    pub(super) validation_window: u32,
    /// Windows of it, at most
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) validation_windows: u32,
    /// Steps between lines that tell how far it is
    #[arg(long, value_name = "STEPS", default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) every: u32,
    /// Steps between saves
    #[arg(long, value_name = "STEPS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) save_every: u32,
    /// Where a run is saved until its masks are written [default: that of the masks, with `.state` behind its name]
    #[arg(long, value_name = "FILE", requires = "model")]
    pub(super) state: Option<PathBuf>,
    /// Goes on with the run that is saved there; without one, begins
    #[arg(long, requires = "model")]
    pub(super) resume: bool,
    /// Writes settings and curve there, as JSON
    #[arg(long, value_name = "FILE", requires = "model")]
    pub(super) report: Option<PathBuf>,
    #[command(flatten)]
    pub(super) device: DeviceArgs,
    /// Stops as Ctrl-C does, after so many steps: for tests
    #[arg(long, value_name = "N", hide = true)]
    pub(super) stop_after: Option<u32>,
}

/// Values of a recipe, each with a default from [`Recipe::few_steps`] or [`Recipe::maskllm`].
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "The recipe")]
pub(super) struct RecipeArgs {
    /// Where values come from that are not given: few-steps, for tens to thousands of steps of some hundred tokens; or
    /// maskllm, for thousands of a million
    #[arg(long, value_enum, default_value_t)]
    recipe: Which,
    /// Learning rate; FROM alone goes to a tenth, by cosine [default: 2.5e-3, or 8.7e-3 / steps^0.3 if
    /// that is less; maskllm: 5e-4:5e-5:cosine]
    #[arg(long, value_name = "SCHEDULE")]
    rate: Option<String>,
    /// Steps over which the rate rises first
    #[arg(long, value_name = "STEPS", default_value_t = 0)]
    warmup: u64,
    /// What logits are multiplied by; FROM alone stays [default: 1000; maskllm: 100:500:linear]
    #[arg(long, value_name = "SCHEDULE")]
    kappa: Option<String>,
    /// Temperature; FROM alone stays [default: 10; maskllm: 4:0.05:linear]
    #[arg(long, value_name = "SCHEDULE")]
    tau: Option<String>,
    /// Coefficient of the energy that is kept; FROM alone goes to 0, linear [default: 1e-5:0:linear]
    #[arg(long, value_name = "SCHEDULE")]
    lambda: Option<String>,
    /// Strength of the prior, in deviations of the logits [default: 6; maskllm: 3]
    #[arg(long)]
    alpha: Option<f64>,
    /// Deviation of the logits at the start [default: 0.01]
    #[arg(long)]
    sigma: Option<f64>,
    /// Norm that gradients are clipped to; with one micro-batch by the last step's [default: none; maskllm: 1]
    #[arg(long, value_name = "NORM")]
    clip: Option<String>,
    /// Weight decay of the logits [default: 0.1]
    #[arg(long)]
    decay: Option<f64>,
    /// Decay of AdamW's first moment [default: 0.9]
    #[arg(long)]
    beta1: Option<f64>,
    /// Decay of its second moment [default: 0.95]
    #[arg(long)]
    beta2: Option<f64>,
    /// What it adds to the root of its second moment [default: 1e-5]
    #[arg(long)]
    epsilon: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Which {
    #[default]
    FewSteps,
    Maskllm,
}

impl Args {
    /// How masks are to be learnt.
    pub(super) fn settings(&self) -> Result<Settings, Failure> {
        let Self { seed, window, batch, accumulate, memory, recompute, .. } = *self;
        let recipe = self.recipe.recipe(self.steps.into())?;
        let distil = self.distil.map(|by| Teaching { by, temperature: self.temperature, labels: self.labels });
        let settings = Settings { recipe, seed, window, batch, accumulate, memory, distil, recompute };
        settings.check()?;
        Ok(settings)
    }
}

impl RecipeArgs {
    fn recipe(&self, steps: u64) -> Result<Recipe, Failure> {
        let from = match self.recipe {
            Which::FewSteps => Recipe::few_steps(steps),
            Which::Maskllm => Recipe::maskllm(steps),
        };
        let of = |name: &str, text: &Option<String>, or: Schedule, to: fn(f64) -> f64, cosine| match text {
            Some(text) => schedule(text, to, cosine).map_err(|e| format!("--{name}: {e}")),
            None => Ok(or),
        };
        let same = |from| from;
        let rate = of("rate", &self.rate, from.rate, |from| from / 10.0, true)?;
        let max_norm = match self.clip.as_deref() {
            None => from.max_norm,
            Some("none") => f64::MAX,
            Some(norm) => norm.parse().map_err(|_| format!("--clip: `{norm}` is neither a norm nor `none`"))?,
        };
        Ok(Recipe {
            rate: if self.warmup > 0 { rate.warmup(self.warmup) } else { rate },
            kappa: of("kappa", &self.kappa, from.kappa, same, false)?,
            tau: of("tau", &self.tau, from.tau, same, false)?,
            regulariser: of("lambda", &self.lambda, from.regulariser, |_| 0.0, false)?,
            alpha: self.alpha.unwrap_or(from.alpha),
            sigma: self.sigma.unwrap_or(from.sigma),
            decay: self.decay.unwrap_or(from.decay),
            beta1: self.beta1.unwrap_or(from.beta1),
            beta2: self.beta2.unwrap_or(from.beta2),
            epsilon: self.epsilon.unwrap_or(from.epsilon),
            max_norm,
            ..from
        })
    }
}
