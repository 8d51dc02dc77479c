//! A model whose masks are learnt, and the two ways of a step.

use super::prior::Prior;
use super::summed::Summed;
use super::{Memory, Settings};
use crate::Failure;
use crate::model::{Model, Network, Teaching, read};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Module;
use twofour::learn::Recipe;
use twofour_candle::{FusedLinear, Learner, MaskedLinear, Mode, Moments, Sampler};

/// A layer whose mask is learnt.
#[derive(Debug)]
pub enum Masked {
    /// It makes its step itself, in the backward pass: there is no gradient of its logits.
    Fused(FusedLinear),
    /// Gradients of its logits are summed over micro-batches.
    Plain(MaskedLinear),
}

impl Masked {
    /// The layer without its optimiser.
    #[must_use]
    pub fn masked(&self) -> &MaskedLinear {
        match self {
            Self::Fused(layer) => layer.masked(),
            Self::Plain(layer) => layer,
        }
    }
}

impl Module for Masked {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Fused(layer) => layer.forward(x),
            Self::Plain(layer) => layer.forward(x),
        }
    }
}

/// What makes steps.
pub(super) enum By {
    /// One micro-batch a step.
    Learner(Learner),
    /// Several, each with its own draw of the masks, as MaskLLM has it; clipped by the norm of their mean.
    Summed(Summed),
}

/// Masks in the making: a frozen model, the logits of its masks, and their optimiser.
pub struct Learning {
    pub(super) network: Network<Masked>,
    pub(super) by: By,
    pub(super) recipe: Recipe,
    sampler: Sampler,
    distil: Option<Teaching>,
    pub(super) device: Device,
    /// Sum over all weights and the configuration.
    digest: String,
}

impl Learning {
    /// Of a checkpoint, from a prior, before the first step.
    ///
    /// # Errors
    /// Settings that no step would take; a weight that cannot be read; a prior that does not fit.
    pub fn new(model: &Model, settings: &Settings, prior: &Prior) -> Result<Self, Failure> {
        settings.check()?;
        let sampler = Sampler::new(settings.seed);
        let (dtype, moments) = match settings.memory {
            Memory::Full => (DType::F32, Moments::F32),
            Memory::Small => (DType::BF16, Moments::Eight),
        };
        let learner = Learner::new(&sampler, moments);
        let learner = if settings.clips() { learner.clip(settings.recipe.max_norm)? } else { learner };
        let (mut number, mut digest) = (0, super::Digest::default());
        let network = Network::new(model, |name, linear| {
            let (rows, cols) = linear.weight().dims2()?;
            if !cols.is_multiple_of(4) {
                return Err(
                    format!("`{name}` has rows of {cols}, which is no multiple of 4, so it has no groups").into()
                );
            }
            digest.add_tensor(linear.weight())?;
            linear.bias().map_or(Ok(()), |bias| digest.add_tensor(bias))?;
            let logits = Var::zeros((rows, cols / 4, 6), dtype, linear.weight().device())?;
            let layer = MaskedLinear::new(linear.weight(), linear.bias(), logits, number, &sampler)?;
            let codes = prior.codes(name, &linear)?;
            layer.initialise(settings.recipe.sigma, codes.as_deref().map(|codes| (codes, settings.recipe.alpha)))?;
            number += 1;
            Ok(match settings.accumulate {
                1 => Masked::Fused(layer.fused(&learner)?),
                _ => Masked::Plain(layer),
            })
        })?;
        network.frozen().try_for_each(|tensor| digest.add_tensor(tensor))?;
        digest.add(format!("{:?}", model.config()).as_bytes());
        let by = match settings.accumulate {
            1 => By::Learner(learner),
            _ => By::Summed(Summed::new(network.linears().map(|(name, layer)| (name, layer.masked())), settings)),
        };
        let network = network.recompute(settings.recompute);
        let (recipe, device, digest) = (settings.recipe.clone(), model.device().clone(), digest.finish());
        Ok(Self { network, by, recipe, sampler, distil: settings.distil, device, digest })
    }

    /// Makes a step, counted from 0, by the mean over micro-batches of windows of T + 1 tokens each; the mean loss, in
    /// nats a token. After a loss that is not finite the logits are of no use.
    ///
    /// # Errors
    /// No micro-batch, or several where the backward pass makes the step ([`Settings::accumulate`] is 1); tokens that
    /// are no whole windows; what a layer returns.
    pub fn step(&mut self, step: u32, micro_batches: &[Vec<u32>], length: usize) -> Result<f64, Failure> {
        let now = self.recipe.at(u64::from(step));
        let mut sum = 0.0;
        match (&mut self.by, micro_batches) {
            (_, []) => return Err("a step needs one micro-batch at least".into()),
            (By::Learner(learner), [windows]) => {
                learner.begin(step, &now)?;
                let teacher = teacher(&self.network, &self.sampler, self.distil, windows, length)?;
                let teacher = teacher.as_ref().zip(self.distil);
                sum += self.network.backward_of(windows, length, teacher, &mut |_, _| Ok(()))?;
                learner.end()?;
            }
            (By::Learner(_), several) => {
                let count = several.len();
                return Err(format!("a step of {count} micro-batches, and the settings accumulate over one").into());
            }
            (By::Summed(summed), _) => {
                self.sampler.begin(step, &now)?;
                for (number, windows) in micro_batches.iter().enumerate() {
                    let number = u16::try_from(number).map_err(|_| "a step has at most 2^16 micro-batches")?;
                    self.sampler.update(|now| now.micro_batch = number)?;
                    let teacher = teacher(&self.network, &self.sampler, self.distil, windows, length)?;
                    let teacher = teacher.as_ref().zip(self.distil);
                    let done = &mut |layer: &Masked, gradients: &mut _| summed.add(layer.masked(), gradients);
                    sum += self.network.backward_of(windows, length, teacher, done)?;
                }
                summed.step(step, now.adamw, self.recipe.max_norm, micro_batches.len())?;
            }
        }
        Ok(sum / micro_batches.len() as f64)
    }

    /// Negative log-likelihoods, in nats, of all tokens of windows of a length but each one's first, under the masks of
    /// the largest logits.
    ///
    /// # Errors
    /// Tokens that are no whole windows; what a layer returns.
    pub fn losses(&self, tokens: &[u32], length: usize) -> Result<Vec<f32>, Failure> {
        self.sampler.update(|now| now.mode = Mode::Argmax)?;
        // No piece is of no tokens: of length 0 the first is refused.
        let piece = length.max(super::TOGETHER - super::TOGETHER % length.max(1));
        let losses = tokens.chunks(piece).map(|tokens| self.network.losses(tokens, length));
        Ok(losses.collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// The layers by name.
    pub fn layers(&self) -> impl Iterator<Item = (&str, &MaskedLinear)> {
        self.network.linears().map(|(name, layer)| (name, layer.masked()))
    }

    /// Packed codes of the masks of the largest logits, by layer.
    ///
    /// # Errors
    /// A group whose logits have no finite maximum.
    pub fn codes(&self) -> Result<Vec<(String, Vec<u8>)>, Failure> {
        self.layers().map(|(name, layer)| Ok((name.to_owned(), layer.codes()?))).collect()
    }

    /// The mean over groups of the largest share of a pattern in the last step's masks, where the layers make steps
    /// themselves: 1 where masks are decided.
    ///
    /// # Errors
    /// What reading it from the device may give.
    pub fn confidence(&self) -> Result<Option<f64>, Failure> {
        match &self.by {
            By::Learner(learner) => Ok(learner.statistics(&self.device)?.map(|statistics| statistics.confidence)),
            By::Summed(_) => Ok(None),
        }
    }

    /// A sum over the model: all that a step's loss is of, but for its masks.
    pub(super) fn digest(&self) -> &str {
        &self.digest
    }
}

/// What the same weights say with the mask off, as hidden states, if it is taught. Masks are soft from here on.
fn teacher(
    network: &Network<Masked>,
    sampler: &Sampler,
    teaching: Option<Teaching>,
    windows: &[u32],
    length: usize,
) -> Result<Option<Tensor>, Failure> {
    let states = match teaching {
        Some(_) => {
            sampler.update(|now| now.mode = Mode::Dense)?;
            Some(network.states(&read(windows, length)?, length)?)
        }
        None => None,
    };
    sampler.update(|now| now.mode = Mode::Soft)?;
    Ok(states)
}
