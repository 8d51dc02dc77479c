//! The two ways of a step: by layers that learn by themselves, or from gradients that are summed over micro-batches.

use crate::Failure;
use crate::logits::Optimiser;
use crate::model::Model;
use crate::prune::Masks;
use crate::train::evaluate;
use candle_core::Tensor;
use std::collections::HashMap;
use twofour::learn::Recipe;
use twofour_candle::{FusedLinear, Learner, MaskedLinear, Moments, Sampler};

/// A model whose masks are learnt, and what steps them.
pub(crate) enum Layers {
    /// One micro-batch a step: the backward pass makes the step, and gradients of logits are never in memory. Nothing
    /// is clipped: the learner can clip by the last step's norm only, which is no part of a checkpoint, and AdamW's
    /// steps hardly depend on the gradient's scale.
    Fused { model: Model<FusedLinear>, learner: Learner },
    /// Several, each with its own draw of the masks, as MaskLLM has it; clipped by the norm of their mean.
    Summed { model: Model<MaskedLinear>, sampler: Sampler, optimiser: Optimiser },
}

impl Layers {
    pub(crate) fn new(
        model: Model<MaskedLinear>,
        sampler: &Sampler,
        micro_batches: u16,
        small: bool,
    ) -> Result<Self, Failure> {
        if micro_batches > 1 {
            let layers = model.linears().map(|(name, layer)| (name, layer.shape(), layer.logits().clone()));
            let optimiser = Optimiser::new(layers, sampler.seed());
            return Ok(Self::Summed { model, sampler: sampler.clone(), optimiser });
        }
        let learner = Learner::new(sampler, if small { Moments::Eight } else { Moments::F32 });
        let model = model.map(|_, layer| layer.clone().fused(&learner))?;
        Ok(Self::Fused { model, learner })
    }

    /// One step by the mean of micro-batches; the mean loss.
    pub(crate) fn step(&mut self, step: u32, recipe: &Recipe, batches: &[Vec<u8>]) -> Result<f64, Failure> {
        let now = recipe.at(u64::from(step));
        let mut sum = 0.0;
        match self {
            Self::Fused { model, learner } => {
                learner.begin(step, &now)?;
                for batch in batches {
                    let loss = model.loss(batch)?;
                    loss.backward()?;
                    sum += f64::from(loss.to_scalar::<f32>()?);
                }
                learner.end()?;
            }
            Self::Summed { model, sampler, optimiser } => {
                sampler.begin(step, &now)?;
                for (number, batch) in batches.iter().enumerate() {
                    sampler.update(|now| now.micro_batch = number as u16)?;
                    let loss = model.loss(batch)?;
                    optimiser.add(&loss.backward()?)?;
                    sum += f64::from(loss.to_scalar::<f32>()?);
                }
                optimiser.step(step, now.adamw, recipe.max_norm, batches.len())?;
            }
        }
        Ok(sum / batches.len() as f64)
    }

    /// The validation loss by argmax masks, which the sampler is to ask for.
    pub(crate) fn evaluate(&self, sequences: &[u8], batch: usize) -> Result<f64, Failure> {
        match self {
            Self::Fused { model, .. } => evaluate(model, sequences, batch),
            Self::Summed { model, .. } => evaluate(model, sequences, batch),
        }
    }

    /// Masks of the largest logits.
    pub(crate) fn masks(&self) -> Result<Masks, Failure> {
        match self {
            Self::Fused { model, .. } => {
                model.linears().map(|(name, layer)| Ok((name, layer.masked().codes()?))).collect()
            }
            Self::Summed { model, .. } => model.linears().map(|(name, layer)| Ok((name, layer.codes()?))).collect(),
        }
    }

    /// Logits and moments, by name.
    pub(crate) fn state(&self) -> Result<Vec<(String, Tensor)>, Failure> {
        match self {
            Self::Summed { optimiser, .. } => optimiser.state(),
            Self::Fused { model, .. } => {
                let mut state = Vec::new();
                for (name, layer) in model.linears() {
                    state.push((format!("logits:{name}"), layer.masked().logits().as_detached_tensor()));
                    state.extend(layer.state()?.into_iter().map(|(what, tensor)| (format!("{what}:{name}"), tensor)));
                }
                Ok(state)
            }
        }
    }

    /// Goes on from a state, between steps.
    pub(crate) fn restore(&mut self, state: &HashMap<String, Tensor>) -> Result<(), Failure> {
        match self {
            Self::Summed { optimiser, .. } => optimiser.restore(state),
            Self::Fused { model, .. } => model.linears().try_for_each(|(name, layer)| {
                let get = |what: &str| state.get(&format!("{what}:{name}")).cloned();
                let logits = get("logits").ok_or_else(|| format!("the checkpoint has no logits of {name}"))?;
                layer.masked().logits().set(&logits)?;
                Ok(layer.set_state(get)?)
            }),
        }
    }

    /// Bytes of weights, logits, moments, and of gradients if there are any.
    pub(crate) fn bytes(&self) -> Result<usize, Failure> {
        let bytes = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        let mut sum = 0;
        match self {
            Self::Summed { model, optimiser, .. } => {
                sum += model.linears().map(|(_, layer)| bytes(layer.weight())).sum::<usize>() + optimiser.bytes();
            }
            Self::Fused { model, .. } => {
                for (_, layer) in model.linears() {
                    sum += bytes(layer.masked().weight()) + bytes(layer.masked().logits());
                    sum += layer.state()?.iter().map(|(_, tensor)| bytes(tensor)).sum::<usize>();
                }
            }
        }
        Ok(sum)
    }
}
