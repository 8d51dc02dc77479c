//! Steps by gradients that are summed over micro-batches: AdamW on the host, clipped by the norm of their mean.

use super::{Memory, Settings};
use crate::Failure;
use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var, WithDType};
use twofour::learn::{self, AdamW, Clip, NORM_SLOTS, Norm, Rounding, Step, Update};
use twofour::{Cpu, Executor, Logit, Shape, bf16, noise};
use twofour_candle::MaskedLinear;
use twofour_formats::state::Moments as Saved;

/// The optimiser of all layers' logits.
pub(super) struct Summed {
    layers: Vec<Layer>,
    seed: u64,
    norm_squares: Vec<f64>,
}

struct Layer {
    name: String,
    shape: Shape,
    logits: Var,
    /// Summed over the micro-batches of a step.
    gradient: Vec<f32>,
    moments: Saved<'static>,
}

impl Summed {
    pub(super) fn new<'l>(layers: impl Iterator<Item = (&'l str, &'l MaskedLinear)>, settings: &Settings) -> Self {
        let layers = layers.map(|(name, layer)| {
            let (shape, count) = (layer.shape(), layer.shape().logits());
            let moments = match settings.memory {
                Memory::Small => {
                    let scales = vec![0.0; learn::Moments::scales(shape)].into();
                    Saved::Eight { m: vec![0; count].into(), v: vec![0; count].into(), scales }
                }
                Memory::Full => Saved::F32 { m: vec![0.0; count].into(), v: vec![0.0; count].into() },
            };
            let (name, logits) = (name.to_owned(), layer.logits().clone());
            Layer { name, shape, logits, gradient: vec![0.0; count], moments }
        });
        Self { layers: layers.collect(), seed: settings.seed, norm_squares: vec![0.0; NORM_SLOTS] }
    }

    /// Adds a layer's gradient of a micro-batch. Layers are numbered in the order of the model.
    pub(super) fn add(&mut self, layer: &MaskedLinear, gradients: &mut GradStore) -> Result<(), Failure> {
        let own = self.layers.get_mut(layer.layer() as usize).ok_or("there is no such layer")?;
        let gradient = gradients.remove(layer.logits()).ok_or_else(|| format!("`{}` has no gradient", own.name))?;
        let gradient = gradient.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        own.gradient.iter_mut().zip(gradient).for_each(|(sum, gradient)| *sum += gradient);
        Ok(())
    }

    /// Steps by the mean of what was added.
    pub(super) fn step(&mut self, step: u32, by: AdamW, max_norm: f64, micro_batches: usize) -> Result<(), Failure> {
        let scale = 1.0 / micro_batches as f32;
        for layer in &self.layers {
            Cpu.run(Norm::new(layer.shape, &layer.gradient, &mut self.norm_squares).scale(scale))?;
        }
        let mut factor = [1.0];
        Cpu.run(Clip::new(max_norm, &mut self.norm_squares, &mut factor))?;
        for (number, layer) in (0..).zip(&mut self.layers) {
            let rounding = Rounding { seed: self.seed, draw: noise::draw(number, step, 0) };
            match layer.logits.dtype() {
                DType::BF16 => layer.step::<bf16>(by, &factor, scale, rounding)?,
                _ => layer.step::<f32>(by, &factor, scale, rounding)?,
            }
        }
        Ok(())
    }

    /// The moments of a layer, by its number.
    pub(super) fn moments(&self, number: usize) -> Result<&Saved<'static>, Failure> {
        Ok(&self.layers.get(number).ok_or("there is no such layer")?.moments)
    }

    /// Puts back moments, between steps.
    pub(super) fn set_moments(&mut self, number: usize, moments: Saved<'static>) -> Result<(), Failure> {
        self.layers.get_mut(number).ok_or("there is no such layer")?.moments = moments;
        Ok(())
    }
}

impl Layer {
    fn step<L: Logit + WithDType>(
        &mut self,
        by: AdamW,
        factor: &[f32],
        scale: f32,
        rounding: Rounding,
    ) -> Result<(), Failure> {
        let mut logits = self.logits.flatten_all()?.to_vec1::<L>()?;
        let moments = match &mut self.moments {
            Saved::F32 { m, v } => learn::Moments::f32(m.to_mut(), v.to_mut()),
            Saved::Eight { m, v, scales } => learn::Moments::eight(m.to_mut(), v.to_mut(), scales.to_mut()),
        };
        let step = Step::new(by, moments).factor(factor);
        let update = Update::zeroing(self.shape, &mut self.gradient, &mut logits, step);
        Cpu.run(update.scale(scale).rounding(rounding))?;
        Ok(self.logits.set(&Tensor::from_vec(logits, self.logits.shape(), self.logits.device())?)?)
    }
}
