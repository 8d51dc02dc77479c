//! A run in a file, from which it goes on to the bit.

use super::masked::{By, Learning, Masked};
use super::{Curve, Memory, Settings};
use crate::Failure;
use candle_core::{DType as CandleType, Device, Tensor, WithDType};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::path::Path;
use twofour::{DType, Logit, bf16};
use twofour_candle::MaskedLinear;
use twofour_formats::state::{Manifest, Moments, Reader, Run, Writer};

/// What a run is, so that another is not gone on with.
pub(super) type Identity = Map<String, Value>;

/// What a file says beside the run's own entries.
#[derive(Serialize, Deserialize)]
struct Caller {
    identity: Identity,
    curve: Curve,
    /// Of clipping by the last step's norm.
    factor: Option<f32>,
}

/// Bytes of the file, about.
pub(super) fn bytes(weights: u64, memory: Memory) -> u64 {
    match memory {
        Memory::Full => 18 * weights,
        Memory::Small => 6 * weights + weights / 32,
    }
}

/// Saves a run after so many steps. The file takes the place of an older one when it is whole.
pub(super) fn save(
    path: &Path,
    learning: &Learning,
    settings: &Settings,
    identity: &Identity,
    step: u64,
    curve: &Curve,
) -> Result<(), Failure> {
    let factor = match &learning.by {
        By::Learner(learner) => learner.factor(&learning.device)?,
        By::Summed(_) => None,
    };
    let caller = Caller { identity: identity.clone(), curve: curve.clone(), factor };
    let caller = Some(serde_json::to_string(&caller)?);
    let run = Run { step, seed: settings.seed, recipe: Some(settings.recipe.clone()), caller };
    let mut manifest = Manifest::new(&run)?;
    let small = settings.memory == Memory::Small;
    for (name, layer) in learning.layers() {
        manifest.layer(name, layer.shape(), if small { DType::Bf16 } else { DType::F32 }, small)?;
    }
    manifest.save::<Failure>(path, |file| {
        for (number, (name, layer)) in learning.network.linears().enumerate() {
            let moments = match (layer, &learning.by) {
                (Masked::Fused(layer), _) => Cow::Owned(moments(layer.state()?)?),
                (Masked::Plain(_), By::Summed(summed)) => Cow::Borrowed(summed.moments(number)?),
                (Masked::Plain(_), By::Learner(_)) => return Err("a layer that nobody moves".into()),
            };
            match small {
                true => write::<bf16>(file, name, layer.masked(), &moments)?,
                false => write::<f32>(file, name, layer.masked(), &moments)?,
            }
        }
        Ok(())
    })
}

fn write<L: Logit + WithDType>(
    file: &mut Writer<'_, '_>,
    name: &str,
    layer: &MaskedLinear,
    moments: &Moments<'_>,
) -> Result<(), Failure> {
    let logits = layer.logits().to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<L>()?;
    Ok(file.layer(name, &logits, moments)?)
}

/// What a layer keeps, as a file has it.
fn moments(state: Vec<(&'static str, Tensor)>) -> Result<Moments<'static>, Failure> {
    fn values<T: WithDType>(tensor: &Tensor) -> Result<Cow<'static, [T]>, Failure> {
        Ok(tensor.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<T>()?.into())
    }
    match state.as_slice() {
        [(_, m), (_, v)] => Ok(Moments::F32 { m: values(m)?, v: values(v)? }),
        [(_, m), (_, v), (_, scales)] => Ok(Moments::Eight { m: values(m)?, v: values(v)?, scales: values(scales)? }),
        _ => Err("a layer keeps what no file has".into()),
    }
}

/// Goes on with a run: how many steps it had made, and its curve.
pub(super) fn load(
    path: &Path,
    learning: &mut Learning,
    settings: &Settings,
    identity: &Identity,
) -> Result<(u64, Curve), Failure> {
    let reader = Reader::open(path)?;
    let run = reader.run();
    let named = |problem: String| Failure::from(format!("{}: {problem}", path.display()));
    let caller = run.caller.as_deref().ok_or_else(|| named("is of no run of `learn`".into()))?;
    let caller: Caller = serde_json::from_str(caller).map_err(|e| named(format!("is of no run of `learn`: {e}")))?;
    let mut differences = differences(identity, &caller.identity);
    if run.recipe.as_ref() != Some(&settings.recipe) {
        differences.push("the recipe".into());
    }
    if !differences.is_empty() {
        let differences = differences.join("; ");
        return Err(named(format!("is of a run with other settings ({differences}): name another --state")));
    }
    for (number, (name, layer)) in learning.network.linears().enumerate() {
        let layer_of = layer.masked();
        let logits = match layer_of.logits().dtype() {
            CandleType::BF16 => tensor(reader.logits::<bf16>(name)?, layer_of)?,
            _ => tensor(reader.logits::<f32>(name)?, layer_of)?,
        };
        layer_of.logits().set(&logits)?;
        let moments = reader.moments(name)?;
        match (layer, &mut learning.by) {
            (Masked::Fused(layer), _) => {
                let state = tensors(moments, layer.masked())?;
                layer.set_state(|wanted| state.iter().find(|(name, _)| *name == wanted).map(|(_, t)| t.clone()))?;
            }
            (Masked::Plain(_), By::Summed(summed)) => summed.set_moments(number, moments)?,
            (Masked::Plain(_), By::Learner(_)) => return Err("a layer that nobody moves".into()),
        }
    }
    if let (By::Learner(learner), Some(factor)) = (&learning.by, caller.factor) {
        learner.set_factor(factor, &learning.device)?;
    }
    Ok((run.step, caller.curve))
}

fn tensor<T: WithDType>(values: Vec<T>, layer: &MaskedLinear) -> Result<Tensor, Failure> {
    Ok(Tensor::from_vec(values, layer.logits().dims(), layer.logits().device())?)
}

fn tensors(moments: Moments<'_>, layer: &MaskedLinear) -> Result<Vec<(&'static str, Tensor)>, Failure> {
    Ok(match moments {
        Moments::F32 { m, v } => {
            vec![("m", tensor(m.into_owned(), layer)?), ("v", tensor(v.into_owned(), layer)?)]
        }
        Moments::Eight { m, v, scales } => {
            let scales = Tensor::from_slice(&scales, (scales.len() / 2, 2), layer.logits().device())?;
            vec![("m", tensor(m.into_owned(), layer)?), ("v", tensor(v.into_owned(), layer)?), ("scales", scales)]
        }
    })
}

/// Which of a run's settings differ, as `name: here, there`.
fn differences(here: &Identity, there: &Identity) -> Vec<String> {
    let none = Value::String("not said".into());
    let differ = here.iter().map(|(name, value)| (name, value, there.get(name).unwrap_or(&none)));
    differ.filter(|(_, a, b)| a != b).map(|(name, a, b)| format!("{name}: {a}, there {b}")).collect()
}
