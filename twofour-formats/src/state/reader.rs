//! Reading the state of a run.

use super::entries::Entries;
use super::{LayerInfo, Moments, Run, tensor_name};
use crate::error::{Error, Result};
use crate::{TensorType, wrong};
use std::ops::RangeInclusive;
use std::path::Path;
use twofour::{DType, Logit, Shape};

/// Steps skip gradients whose squares reach 2¹²⁰, so moments' magnitudes and roots stay below 2⁶⁰; that and a rounding.
/// The square of a larger scale might be infinite, and then a step would make NaN logits of it.
const LARGEST_SCALE: f32 = (1_u64 << 61) as f32;

/// A file of state. Opening reads and checks the header; a layer is read when it is asked for.
#[derive(Debug)]
pub struct Reader<'a> {
    reader: crate::Reader<'a>,
    label: String,
    run: Run,
    layers: Vec<LayerInfo>,
}

impl<'a> Reader<'a> {
    /// Reads a whole file in memory.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::InWeight`]: the bytes are no whole safetensors file, are of another version or of
    /// no run's state, or a layer is not what the file says of it.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self> {
        Self::new(crate::Reader::from_bytes(bytes)?, "safetensors bytes".to_owned())
    }

    fn new(reader: crate::Reader<'a>, label: String) -> Result<Self> {
        let entries = Entries(reader.metadata().collect());
        let run = entries.run().map_err(|problem| wrong(&label, problem))?;
        let mut layers = Vec::new();
        for layer in entries.layers() {
            let (name, shape) = layer.map_err(|problem| wrong(&label, problem))?;
            shape.check().map_err(|error| crate::in_weight(&label, name, error))?;
            let info = layer_of(&reader, name, shape);
            layers.push(info.map_err(|problem| wrong(&label, format_args!("layer `{name}`: {problem}")))?);
        }
        Ok(Self { reader, label, run, layers })
    }

    /// What the file says of the run.
    #[must_use]
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// The layers, by name.
    pub fn layers(&self) -> impl ExactSizeIterator<Item = &LayerInfo> {
        self.layers.iter()
    }

    /// The logits of a layer, `[N, K/4, 6]`.
    ///
    /// # Errors
    /// [`Error::File`]: there is no such layer, its logits are of another type, or it cannot be read.
    pub fn logits<L: Logit>(&self, layer: &str) -> Result<Vec<L>> {
        self.known(layer)?;
        self.reader.elements(&tensor_name(layer, "logits"))
    }

    /// The moments of a layer.
    ///
    /// # Errors
    /// [`Error::File`]: there is no such layer, it cannot be read, or its moments are none: not finite, second ones or
    /// scales that are negative, or scales that no step makes.
    pub fn moments(&self, layer: &str) -> Result<Moments<'static>> {
        let floats = |part: &str, range: RangeInclusive<f32>| -> Result<Vec<f32>> {
            let values: Vec<f32> = self.reader.elements(&tensor_name(layer, part))?;
            match values.iter().find(|value| !range.contains(*value)) {
                Some(value) => Err(self.wrong(format!("layer `{layer}`: there is a {value} among `{part}`"))),
                None => Ok(values),
            }
        };
        let codes = |part| Ok::<_, Error>(self.reader.tensor(&tensor_name(layer, part))?.into_owned());
        if self.known(layer)?.eight {
            let scales = floats("scales", 0.0..=LARGEST_SCALE)?;
            Ok(Moments::Eight { m: codes("m")?.into(), v: codes("v")?.into(), scales: scales.into() })
        } else {
            Ok(Moments::F32 { m: floats("m", f32::MIN..=f32::MAX)?.into(), v: floats("v", 0.0..=f32::MAX)?.into() })
        }
    }

    fn known(&self, layer: &str) -> Result<&LayerInfo> {
        let found = self.layers.iter().find(|info| info.name == layer);
        found.ok_or_else(|| self.wrong(format!("there is no layer `{layer}`")))
    }

    fn wrong(&self, problem: String) -> Error {
        wrong(&self.label, problem)
    }
}

impl Reader<'static> {
    /// Opens a file on disk, of which only the header is read.
    ///
    /// # Errors
    /// As [`from_bytes`](Reader::from_bytes), and if the file cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::new(crate::Reader::open(path)?, path.display().to_string())
    }
}

/// A layer by its tensors, each of which must be there in its type and shape.
fn layer_of(reader: &crate::Reader<'_>, name: &str, shape: Shape) -> std::result::Result<LayerInfo, String> {
    let dtype = |part| reader.tensor_info(&tensor_name(name, part)).map(crate::TensorInfo::dtype);
    let logits = if dtype("logits") == Some(TensorType::Bf16) { DType::Bf16 } else { DType::F32 };
    let eight = dtype("m") == Some(TensorType::U8);
    let info = LayerInfo { name: name.to_owned(), shape, logits, eight };
    for (part, dtype, shape) in info.tensors() {
        let tensor = tensor_name(name, part);
        match reader.tensor_info(&tensor) {
            Some(found) if found.dtype() == dtype && found.shape() == shape => {}
            Some(found) => {
                let (got_type, got) = (found.dtype(), found.shape());
                return Err(format!("tensor `{tensor}` is {got_type} {got:?}, and {dtype} {shape:?} is needed"));
            }
            None => return Err(format!("there is no tensor `{tensor}`")),
        }
    }
    Ok(info)
}
