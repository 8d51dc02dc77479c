//! AdamW for the dense model, with clipping, and a state that can be saved. (candle's own keeps its moments to
//! itself.)

use candle_core::backprop::GradStore;
use candle_core::{DType, Result, Tensor, Var};
use std::collections::HashMap;

/// AdamW (Loshchilov and Hutter 2019) with decay of matrices only.
pub(crate) struct AdamW {
    parameters: Vec<Parameter>,
    step: i32,
}

struct Parameter {
    name: String,
    value: Var,
    first: Tensor,
    second: Tensor,
}

/// As language models are usually trained.
const BETAS: (f64, f64) = (0.9, 0.95);
const EPSILON: f64 = 1e-8;
const DECAY: f64 = 0.1;
const LARGEST_NORM: f64 = 1.0;

impl AdamW {
    pub(crate) fn new(parameters: impl Iterator<Item = (String, Var)>) -> Result<Self> {
        let parameters = parameters.map(|(name, value)| {
            Ok(Parameter { name, first: value.zeros_like()?, second: value.zeros_like()?, value })
        });
        Ok(Self { parameters: parameters.collect::<Result<_>>()?, step: 0 })
    }

    /// A step down the gradients, clipped together.
    pub(crate) fn step(&mut self, gradients: &GradStore, rate: f64) -> Result<()> {
        self.step += 1;
        let gradients: Vec<_> = self.parameters.iter().map(|p| gradients.get(&p.value)).collect();
        let mut squares = 0.0;
        for gradient in gradients.iter().flatten() {
            squares += f64::from(gradient.sqr()?.sum_all()?.to_dtype(DType::F32)?.to_scalar::<f32>()?);
        }
        let (first, second) = BETAS;
        let factor = (LARGEST_NORM / (squares.sqrt() + 1e-6)).min(1.0);
        let (unbias_first, unbias_second) = (1.0 - first.powi(self.step), 1.0 - second.powi(self.step));
        for (parameter, gradient) in self.parameters.iter_mut().zip(gradients) {
            let Some(gradient) = gradient else { continue };
            // Without this, a moment would hold on to the graph of every step before.
            let gradient = (gradient.detach() * factor)?;
            parameter.first = ((&parameter.first * first)? + (&gradient * (1.0 - first))?)?;
            parameter.second = ((&parameter.second * second)? + (gradient.sqr()? * (1.0 - second))?)?;
            let root = ((&parameter.second / unbias_second)?.sqrt()? + EPSILON)?;
            let change = ((&parameter.first * (rate / unbias_first))? / root)?;
            let decay = if parameter.value.rank() > 1 { DECAY } else { 0.0 };
            let kept = (parameter.value.as_detached_tensor() * (1.0 - rate * decay))?;
            parameter.value.set(&(kept - change)?)?;
        }
        Ok(())
    }

    /// Values and moments, by name.
    pub(crate) fn state(&self) -> Vec<(String, Tensor)> {
        let tensors = self.parameters.iter().flat_map(|Parameter { name, value, first, second }| {
            let value = value.as_detached_tensor();
            [
                (format!("value:{name}"), value),
                (format!("first:{name}"), first.clone()),
                (format!("second:{name}"), second.clone()),
            ]
        });
        tensors.collect()
    }

    /// Goes on from a state after `step` steps.
    pub(crate) fn restore(&mut self, step: usize, state: &HashMap<String, Tensor>) -> Result<()> {
        let get = |kind: &str, name: &str| match state.get(&format!("{kind}:{name}")) {
            Some(tensor) => Ok(tensor.clone()),
            None => candle_core::bail!("the checkpoint has no {kind} of {name}"),
        };
        for parameter in &mut self.parameters {
            parameter.value.set(&get("value", &parameter.name)?)?;
            parameter.first = get("first", &parameter.name)?;
            parameter.second = get("second", &parameter.name)?;
        }
        self.step = step as i32;
        Ok(())
    }
}
