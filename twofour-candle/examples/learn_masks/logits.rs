//! The optimiser of plain masked layers: twofour's AdamW by gradients that are summed over micro-batches.
//!
//! The moments live on the host, and so does the step: gradients come there and logits go back, which costs nothing
//! where the device is the CPU.

use crate::Failure;
use candle_core::{DType, Device, Tensor, Var, WithDType};
use std::collections::HashMap;
use twofour::learn::{self, AdamW, Clip, NORM_SLOTS, Norm, Rounding, Step, Update};
use twofour::{Cpu, Executor, Logit, Shape, bf16, noise};

/// All layers' logits.
pub(crate) struct Optimiser {
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
    moments: Moments,
}

enum Moments {
    F32 { m: Vec<f32>, v: Vec<f32> },
    Eight { m: Vec<u8>, v: Vec<u8>, scales: Vec<f32> },
}

impl Optimiser {
    /// Of layers by name; moments have eight bits where logits are `bf16`.
    pub(crate) fn new(layers: impl Iterator<Item = (String, Shape, Var)>, seed: u64) -> Self {
        let layers = layers.map(|(name, shape, logits)| {
            let count = shape.logits();
            let moments = match logits.dtype() {
                DType::BF16 => {
                    let scales = learn::Moments::scales(shape);
                    Moments::Eight { m: vec![0; count], v: vec![0; count], scales: vec![0.0; scales] }
                }
                _ => Moments::F32 { m: vec![0.0; count], v: vec![0.0; count] },
            };
            Layer { name, shape, logits, gradient: vec![0.0; count], moments }
        });
        Self { layers: layers.collect(), seed, norm_squares: vec![0.0; NORM_SLOTS] }
    }

    /// Adds the gradients of a micro-batch.
    pub(crate) fn add(&mut self, gradients: &candle_core::backprop::GradStore) -> Result<(), Failure> {
        for layer in &mut self.layers {
            let gradient = gradients.get(&layer.logits).ok_or_else(|| format!("{} has no gradient", layer.name))?;
            let gradient = gradient.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            layer.gradient.iter_mut().zip(gradient).for_each(|(sum, gradient)| *sum += gradient);
        }
        Ok(())
    }

    /// Steps by the mean of what was added, clipped over all layers together.
    pub(crate) fn step(&mut self, step: u32, by: AdamW, max_norm: f64, micro_batches: usize) -> Result<(), Failure> {
        let scale = 1.0 / micro_batches as f32;
        for layer in &self.layers {
            Cpu.run(Norm::new(layer.shape, &layer.gradient, &mut self.norm_squares).scale(scale))?;
        }
        let mut factor = [1.0];
        Cpu.run(Clip::new(max_norm, &mut self.norm_squares, &mut factor))?;
        for (number, layer) in self.layers.iter_mut().enumerate() {
            let rounding = Rounding { seed: self.seed, draw: noise::draw(number as u32, step, 0) };
            match layer.logits.dtype() {
                DType::BF16 => layer.step::<bf16>(by, &factor, scale, rounding)?,
                _ => layer.step::<f32>(by, &factor, scale, rounding)?,
            }
        }
        Ok(())
    }

    /// Logits and moments, by name.
    pub(crate) fn state(&self) -> Result<Vec<(String, Tensor)>, Failure> {
        let mut state = Vec::new();
        for Layer { name, logits, moments, .. } in &self.layers {
            state.push((format!("logits:{name}"), logits.as_detached_tensor()));
            match moments {
                Moments::F32 { m, v } => {
                    state.extend([(format!("m:{name}"), tensor(m)?), (format!("v:{name}"), tensor(v)?)]);
                }
                Moments::Eight { m, v, scales } => {
                    state.extend([(format!("m:{name}"), tensor(m)?), (format!("v:{name}"), tensor(v)?)]);
                    state.push((format!("scales:{name}"), tensor(scales)?));
                }
            }
        }
        Ok(state)
    }

    /// Goes on from a state, between steps.
    pub(crate) fn restore(&mut self, state: &HashMap<String, Tensor>) -> Result<(), Failure> {
        for Layer { name, logits, moments, .. } in &mut self.layers {
            logits.set(saved(state, "logits", name)?)?;
            match moments {
                Moments::F32 { m, v } => {
                    *m = saved(state, "m", name)?.to_vec1()?;
                    *v = saved(state, "v", name)?.to_vec1()?;
                }
                Moments::Eight { m, v, scales } => {
                    *m = saved(state, "m", name)?.to_vec1()?;
                    *v = saved(state, "v", name)?.to_vec1()?;
                    *scales = saved(state, "scales", name)?.to_vec1()?;
                }
            }
        }
        Ok(())
    }

    /// Bytes of logits, their gradients and moments, of all layers.
    pub(crate) fn bytes(&self) -> usize {
        let of = |layer: &Layer| {
            let moments = match &layer.moments {
                Moments::F32 { m, v } => size_of_val(&**m) + size_of_val(&**v),
                Moments::Eight { m, v, scales } => m.len() + v.len() + size_of_val(&**scales),
            };
            layer.logits.elem_count() * layer.logits.dtype().size_in_bytes() + size_of_val(&*layer.gradient) + moments
        };
        self.layers.iter().map(of).sum()
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
            Moments::F32 { m, v } => learn::Moments::f32(m, v),
            Moments::Eight { m, v, scales } => learn::Moments::eight(m, v, scales),
        };
        let step = Step::new(by, moments).factor(factor);
        let update = Update::zeroing(self.shape, &mut self.gradient, &mut logits, step);
        Cpu.run(update.scale(scale).rounding(rounding))?;
        Ok(self.logits.set(&Tensor::from_vec(logits, self.logits.shape(), self.logits.device())?)?)
    }
}

fn tensor<T: WithDType>(values: &[T]) -> candle_core::Result<Tensor> {
    Tensor::from_slice(values, values.len(), &Device::Cpu)
}

fn saved<'s>(state: &'s HashMap<String, Tensor>, what: &str, name: &str) -> Result<&'s Tensor, Failure> {
    Ok(state.get(&format!("{what}:{name}")).ok_or_else(|| format!("the checkpoint has no {what} of {name}"))?)
}
