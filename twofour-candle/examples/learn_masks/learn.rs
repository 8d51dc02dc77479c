//! Learning of masks over a frozen model: MaskLLM (Fang et al. 2024, arXiv 2409.17481).

use crate::Failure;
use crate::layers::Layers;
use crate::model::Model;
use crate::phase::Trained;
use crate::prune::{Masks, difference};
use crate::settings::{Learn, Settings};
use crate::store::Point;
use crate::text::Text;
use crate::train::Batches;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Linear;
use std::collections::HashMap;
use twofour::learn::{Recipe, Schedule};
use twofour_candle::{MaskedLinear, Mode, Sampler};

/// The recipe of a run.
pub(crate) fn recipe(learn: &Learn) -> Recipe {
    Recipe {
        kappa: Schedule::linear(learn.kappa.0, learn.kappa.1),
        tau: Schedule::linear(learn.tau.0, learn.tau.1),
        regulariser: Schedule::linear(learn.regulariser, 0.0),
        rate: Schedule::cosine(learn.rate.0, learn.rate.1),
        decay: learn.decay,
        sigma: learn.sigma,
        alpha: learn.alpha,
        ..Recipe::maskllm(learn.steps as u64)
    }
}

/// Masks in the making.
pub(crate) struct MaskLearning<'a> {
    settings: &'a Settings,
    text: &'a Text,
    batches: Batches,
    recipe: Recipe,
    watched: Vec<u8>,
    sampler: Sampler,
    layers: Layers,
    /// Masks before the first step, and at the last point.
    start: Masks,
    last: Masks,
}

impl<'a> MaskLearning<'a> {
    /// Over a dense model, on a text, from a prior if there is one; `small`: logits in bf16 and moments in eight
    /// bits.
    pub(crate) fn new(
        dense: &Model<Linear>,
        settings: &'a Settings,
        text: &'a Text,
        prior: Option<&Masks>,
        batches: Batches,
        small: bool,
        device: &Device,
    ) -> Result<Self, Failure> {
        let recipe = recipe(&settings.learn);
        let sampler = Sampler::new(batches.seed);
        let dtype = if small { DType::BF16 } else { DType::F32 };
        let mut layer = 0;
        let model = dense.map(|name, linear| {
            let prior = prior.map(|masks| masks.get(name).ok_or_else(|| format!("the prior has no mask for {name}")));
            let prior = prior.transpose()?.map(|codes| (codes.as_slice(), recipe.alpha));
            let (rows, cols) = linear.weight().dims2()?;
            let logits = Var::zeros((rows, cols / 4, 6), dtype, device)?;
            let made = MaskedLinear::new(linear.weight(), None, logits, layer, &sampler)?;
            made.initialise(recipe.sigma, prior)?;
            layer += 1;
            Ok::<_, Failure>(made)
        })?;
        let layers = Layers::new(model, &sampler, settings.learn.micro_batches, small)?;
        let watched = text.validation(settings.watch, settings.shape.context + 1);
        let start = layers.masks()?;
        let last = start.clone();
        Ok(Self { settings, text, batches, recipe, watched, sampler, layers, start, last })
    }

    /// Masks of the largest logits.
    pub(crate) fn masks(&self) -> Result<Masks, Failure> {
        self.layers.masks()
    }

    /// Bytes of weights, logits, moments, and of gradients if there are any.
    pub(crate) fn bytes(&self) -> Result<usize, Failure> {
        self.layers.bytes()
    }
}

impl Trained for MaskLearning<'_> {
    fn step(&mut self, step: usize) -> Result<f64, Failure> {
        self.sampler.update(|now| now.mode = Mode::Soft)?;
        let micro_batches = usize::from(self.settings.learn.micro_batches);
        let batches = (0..micro_batches)
            .map(|batch| self.batches.of(step * micro_batches + batch, &[self.text], self.settings))
            .collect::<Vec<_>>();
        self.layers.step(step as u32, &self.recipe, &batches)
    }

    fn watch(&mut self, point: &mut Point) -> Result<(), Failure> {
        self.sampler.update(|now| now.mode = Mode::Argmax)?;
        point.validation = self.layers.evaluate(&self.watched, self.settings.batch)?;
        let masks = self.masks()?;
        point.moved = difference(&masks, &self.start);
        point.changed = difference(&masks, &self.last);
        self.last = masks;
        Ok(())
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>, Failure> {
        let mut state = self.layers.state()?;
        for (name, codes) in &self.last {
            state.push((format!("last:{name}"), Tensor::from_slice(codes, codes.len(), &Device::Cpu)?));
        }
        Ok(state)
    }

    fn restore(&mut self, _: usize, state: &HashMap<String, Tensor>) -> Result<(), Failure> {
        self.layers.restore(state)?;
        for (name, codes) in &mut self.last {
            let saved = state.get(&format!("last:{name}")).ok_or("the checkpoint has no masks")?;
            *codes = saved.to_vec1()?;
        }
        Ok(())
    }
}
