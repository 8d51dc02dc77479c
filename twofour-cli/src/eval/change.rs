//! What is evaluated in the place of a model's weights.

use crate::Failure;
use crate::model::{Block, Model, dense};
use candle_core::Tensor;
use std::collections::HashMap;
use std::path::Path;
use twofour::Shape;
use twofour_formats::masks::{Mask, Masks};
use twofour_formats::{Model as Files, Reader, Weight};

/// Masks, and compressed weights. All names and shapes have been checked against the model's.
#[derive(Debug, Default)]
pub struct Change {
    masks: Option<Masks<'static>>,
    compressed: HashMap<String, usize>,
    readers: Vec<Reader<'static>>,
}

impl Change {
    /// Opens a file of masks, of any form, and a compressed model, for those linear layers of the model that are in
    /// them. A mask is applied to what the compressed model has, if that has its layer.
    ///
    /// # Errors
    /// A file cannot be read; it has a weight that is no linear layer of the model's blocks, or of another shape, or
    /// nothing.
    pub fn open(model: &Model, masks: Option<&Path>, compressed: Option<&Path>) -> Result<Self, Failure> {
        let layers: HashMap<String, Shape> = model.linears().into_iter().collect();
        let mut change = Self::default();
        if let Some(path) = masks {
            change.masks = Some(checked_masks(model, &layers, path)?);
        }
        if let Some(path) = compressed {
            let files = Files::find(path)?;
            change.readers = files.open_all()?.into_iter().map(|(_, reader)| reader).collect();
            for (i, reader) in change.readers.iter().enumerate() {
                for weight in reader.weights() {
                    check(model, &layers, path, weight.name(), weight.shape())?;
                    change.compressed.insert(weight.name().to_owned(), i);
                }
            }
            if change.compressed.is_empty() {
                return Err(format!("{}: there are no compressed weights in it", path.display()).into());
            }
        }
        Ok(change)
    }

    /// How many layers have masks, and how many compressed weights.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.masks.as_ref().map_or(0, |masks| masks.names().len()), self.compressed.len())
    }

    /// Changes the weights of a block.
    ///
    /// # Errors
    /// A mask or weight cannot be read.
    pub fn apply(&self, block: &mut Block) -> Result<(), Failure> {
        let linears: Vec<_> = block.linears().iter().map(|linear| linear.name().to_owned()).collect();
        for (i, name) in linears.iter().enumerate() {
            if let Some(weight) = self.compressed(name)? {
                block.set(name, &dense(&weight)?)?;
            }
            if let Some(mask) = self.mask(name)? {
                let weight = block.linears()[i].weight();
                let flags: Vec<u8> = mask.flags()?;
                let flags: Vec<f32> = flags.into_iter().map(f32::from).collect();
                let kept = (weight * Tensor::from_vec(flags, weight.shape(), weight.device())?)?;
                block.set(name, &kept)?;
            }
        }
        Ok(())
    }

    /// The compressed weight of a layer, if there is one.
    pub(crate) fn compressed(&self, name: &str) -> Result<Option<Weight>, Failure> {
        let reader = self.compressed.get(name).and_then(|&i| self.readers.get(i));
        Ok(reader.map(|reader| reader.weight(name)).transpose()?)
    }

    /// The mask of a layer, if there is one.
    pub(crate) fn mask(&self, name: &str) -> Result<Option<Mask>, Failure> {
        let masks = self.masks.as_ref().filter(|masks| has(masks, name));
        Ok(masks.map(|masks| masks.read(name)).transpose()?)
    }
}

fn has(masks: &Masks<'_>, name: &str) -> bool {
    masks.names().any(|known| known == name)
}

fn checked_masks(model: &Model, layers: &HashMap<String, Shape>, path: &Path) -> Result<Masks<'static>, Failure> {
    let masks = Masks::open(path)?.with_shapes(model.shapes());
    if masks.names().len() == 0 {
        return Err(format!("{}: there are no masks in it", path.display()).into());
    }
    for name in masks.names() {
        if !layers.contains_key(name) {
            return Err(foreign(model, path, name));
        }
        check(model, layers, path, name, masks.shape(name)?)?;
    }
    Ok(masks)
}

fn check(model: &Model, layers: &HashMap<String, Shape>, path: &Path, name: &str, shape: Shape) -> Result<(), Failure> {
    match layers.get(name) {
        Some(own) if *own == shape => Ok(()),
        Some(own) => Err(format!(
            "{}: `{name}` is of {} x {}, and in {} of {} x {}: are they of another model?",
            path.display(),
            shape.rows,
            shape.cols,
            model.path().display(),
            own.rows,
            own.cols
        )
        .into()),
        None => Err(foreign(model, path, name)),
    }
}

fn foreign(model: &Model, path: &Path, name: &str) -> Failure {
    let (path, model) = (path.display(), model.path().display());
    format!("{path}: `{name}` is no linear layer of the blocks of {model}: are they of another model?").into()
}
