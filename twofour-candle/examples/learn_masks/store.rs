//! Files of a run: written beside and renamed, so that there is either the old one or the new one.

use crate::Failure;
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;

/// By name.
type Tensors = HashMap<String, Tensor>;

/// A point of a curve.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Point {
    /// Steps done.
    pub(crate) step: usize,
    /// Mean training loss since the last point, nats a byte.
    #[serde(with = "crate::float")]
    pub(crate) train: f64,
    /// Validation loss of the watched sequences, nats a byte (of masks: by argmax).
    #[serde(with = "crate::float")]
    pub(crate) validation: f64,
    /// Share of groups whose pattern is another than at the start.
    #[serde(with = "crate::float")]
    pub(crate) moved: f64,
    /// Share of groups whose pattern is another than at the last point.
    #[serde(with = "crate::float")]
    pub(crate) changed: f64,
}

/// Where a phase stands.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Standing {
    pub(crate) step: usize,
    #[serde(with = "crate::float")]
    pub(crate) seconds: f64,
    /// Losses since the last point.
    pub(crate) losses: Vec<f64>,
    pub(crate) curve: Vec<Point>,
}

impl Standing {
    /// Writes it with its tensors: one file, which cannot be torn.
    pub(crate) fn save(&self, path: &Path, tensors: Vec<(String, Tensor)>) -> Result<(), Failure> {
        let text = serde_json::to_vec(self)?;
        let text = Tensor::from_slice(&text, text.len(), &Device::Cpu)?;
        save_tensors(path, tensors.into_iter().chain([("standing.json".to_owned(), text)]).collect())
    }

    /// Reads it and its tensors, if there are any.
    pub(crate) fn load(path: &Path, device: &Device) -> Result<Option<(Self, Tensors)>, Failure> {
        if !path.exists() {
            return Ok(None);
        }
        let tensors = load_tensors(path, device)?;
        let text = tensors.get("standing.json").ok_or_else(|| format!("{} is no checkpoint", path.display()))?;
        let text = text.to_vec1::<u8>()?;
        let standing = serde_json::from_slice(&text).map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
        Ok(Some((standing, tensors)))
    }
}

/// A safetensors file.
pub(crate) fn save_tensors(path: &Path, tensors: Tensors) -> Result<(), Failure> {
    beside(path, |path| Ok(candle_core::safetensors::save(&tensors, path)?))
}

pub(crate) fn load_tensors(path: &Path, device: &Device) -> Result<Tensors, Failure> {
    let unread = |e| format!("{} cannot be read ({e}): remove it, or put it back whole", path.display());
    Ok(candle_core::safetensors::load(path, device).map_err(unread)?)
}

pub(crate) fn save_json(path: &Path, value: &impl Serialize) -> Result<(), Failure> {
    beside(path, |path| Ok(std::fs::write(path, serde_json::to_vec_pretty(value)?)?))
}

pub(crate) fn load_json<T: for<'d> Deserialize<'d>>(path: &Path) -> Result<Option<T>, Failure> {
    match std::fs::read(path) {
        Ok(bytes) => {
            let value =
                serde_json::from_slice(&bytes).map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
            Ok(Some(value))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(format!("{} cannot be read: {e}", path.display()).into()),
    }
}

/// Writes a file beside its place, and moves it there.
pub(crate) fn beside(path: &Path, write: impl FnOnce(&Path) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    write(Path::new(&partial)).map_err(|e| format!("{} cannot be written: {e}", path.display()))?;
    Ok(std::fs::rename(&partial, path)?)
}
