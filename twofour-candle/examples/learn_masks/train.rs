//! Training of the dense model, and the measure of all models.

use crate::Failure;
use crate::model::{Model, Parameters, initial};
use crate::optimiser::AdamW;
use crate::phase::Trained;
use crate::settings::{Dense, Settings};
use crate::store::Point;
use crate::text::Text;
use candle_core::{Device, Tensor, Var};
use candle_nn::{Linear, Module};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::HashMap;

/// Batches of a phase of a run: any step's can be made without those before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batches {
    pub(crate) seed: u64,
    /// A number for each use, so that no two see the same.
    pub(crate) stream: u64,
}

impl Batches {
    pub(crate) fn random(self, step: usize) -> StdRng {
        let mut seed = [0; 32];
        for (to, from) in seed.chunks_exact_mut(8).zip([self.seed, self.stream, step as u64]) {
            to.copy_from_slice(&from.to_le_bytes());
        }
        StdRng::from_seed(seed)
    }

    /// The sequences of a step, of the texts by turns.
    pub(crate) fn of(self, step: usize, texts: &[&Text], settings: &Settings) -> Vec<u8> {
        let text = texts[step % texts.len()];
        text.draw(&mut self.random(step), settings.batch, settings.shape.context + 1)
    }
}

/// Mean loss over sequences, nats a byte.
pub(crate) fn evaluate<L: Module>(model: &Model<L>, sequences: &[u8], batch: usize) -> Result<f64, Failure> {
    let length = model.shape.context + 1;
    let mut sum = 0.0;
    for batch in sequences.chunks(batch * length) {
        sum += f64::from(model.loss(batch)?.to_scalar::<f32>()?) * (batch.len() / length) as f64;
    }
    Ok(sum / (sequences.len() / length) as f64)
}

/// The last rate, of the highest.
const LAST_RATE: f64 = 0.1;

/// A rate that rises to its full height over the warm-up, and falls by half a cosine to a tenth.
fn rate_at(step: usize, dense: &Dense) -> f64 {
    if step < dense.warmup {
        return dense.rate * (step + 1) as f64 / dense.warmup as f64;
    }
    let done = (step - dense.warmup) as f64 / (dense.steps - dense.warmup).max(1) as f64;
    dense.rate * (LAST_RATE + (1.0 - LAST_RATE) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()))
}

/// A dense model in training.
pub(crate) struct DenseTraining<'a> {
    settings: &'a Settings,
    texts: &'a [&'a Text],
    batches: Batches,
    /// The rate of all steps, where it does not follow the schedule.
    rate: Option<f64>,
    watched: Vec<u8>,
    parameters: Parameters,
    model: Model<Linear>,
    optimiser: AdamW,
}

impl<'a> DenseTraining<'a> {
    /// From parameters on, on texts by turns.
    fn new(
        settings: &'a Settings,
        texts: &'a [&'a Text],
        batches: Batches,
        rate: Option<f64>,
        parameters: Parameters,
    ) -> Result<Self, Failure> {
        let tensors = parameters.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        let optimiser = AdamW::new(parameters.iter().map(|(name, var)| (name.clone(), var.clone())))?;
        let length = settings.shape.context + 1;
        let watched = texts.iter().flat_map(|text| text.validation(settings.watch / texts.len(), length)).collect();
        let model = Model::dense(&settings.shape, &tensors)?;
        Ok(Self { settings, texts, batches, rate, watched, parameters, model, optimiser })
    }

    /// From the start.
    pub(crate) fn from_scratch(
        settings: &'a Settings,
        texts: &'a [&'a Text],
        batches: Batches,
        device: &Device,
    ) -> Result<Self, Failure> {
        Self::new(settings, texts, batches, None, initial(&settings.shape, batches.seed, device)?)
    }

    /// A model that has been trained, at the last rate of that.
    pub(crate) fn onwards(
        settings: &'a Settings,
        texts: &'a [&'a Text],
        batches: Batches,
        trained: &HashMap<String, Tensor>,
    ) -> Result<Self, Failure> {
        let parameters = trained.iter().map(|(name, tensor)| Ok((name.clone(), Var::from_tensor(tensor)?)));
        let rate = Some(settings.dense.rate * LAST_RATE);
        Self::new(settings, texts, batches, rate, parameters.collect::<candle_core::Result<_>>()?)
    }

    pub(crate) fn model(&self) -> &Model<Linear> {
        &self.model
    }

    /// The parameters as tensors that are not trained any more.
    pub(crate) fn tensors(&self) -> HashMap<String, Tensor> {
        self.parameters.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect()
    }
}

impl Trained for DenseTraining<'_> {
    fn step(&mut self, step: usize) -> Result<f64, Failure> {
        let loss = self.model.loss(&self.batches.of(step, self.texts, self.settings))?;
        let rate = self.rate.unwrap_or_else(|| rate_at(step, &self.settings.dense));
        self.optimiser.step(&loss.backward()?, rate)?;
        Ok(f64::from(loss.to_scalar::<f32>()?))
    }

    fn watch(&mut self, point: &mut Point) -> Result<(), Failure> {
        point.validation = evaluate(&self.model, &self.watched, self.settings.batch)?;
        Ok(())
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>, Failure> {
        Ok(self.optimiser.state())
    }

    fn restore(&mut self, step: usize, state: &HashMap<String, Tensor>) -> Result<(), Failure> {
        Ok(self.optimiser.restore(step, state)?)
    }
}
