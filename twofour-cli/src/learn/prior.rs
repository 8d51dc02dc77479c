//! The masks that learning starts from.

use super::Digest;
use crate::Failure;
use crate::compress::{codes, has_any_codes};
use crate::model::Model;
use candle_nn::Linear;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use twofour::Shape;
use twofour_candle::{Engine, FrozenMaskLinear};
use twofour_formats::masks::{Mask, Masks};
use twofour_formats::{Model as Files, Reader, WeightInfo};

/// What is named as a prior.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    None,
    Magnitude,
    File(PathBuf),
}

impl From<&str> for Named {
    fn from(name: &str) -> Self {
        match name {
            "none" => Self::None,
            "magnitude" => Self::Magnitude,
            path => Self::File(path.into()),
        }
    }
}

/// Masks that learning starts from.
#[derive(Debug)]
pub enum Prior {
    /// Chance alone.
    None,
    /// The two largest weights of each group.
    Magnitude,
    /// Those of all linear layers of a model's blocks, by name.
    Masks(BTreeMap<String, Mask>),
}

impl Prior {
    /// As it was named.
    pub(super) fn new(model: &Model, named: &Named) -> Result<Self, Failure> {
        match named {
            Named::None => Ok(Self::None),
            Named::Magnitude => Ok(Self::Magnitude),
            Named::File(path) => Self::open(model, path),
        }
    }

    /// From a file of masks in any form, a compressed model, or a file of codes as `compress` takes it.
    ///
    /// # Errors
    /// A file that cannot be read; a linear layer of the model's blocks without a mask there, or with one of another
    /// shape.
    pub fn open(model: &Model, path: &Path) -> Result<Self, Failure> {
        let mut source = Source::open(model, path)?;
        let masks = model.linears().into_iter().map(|(name, shape)| {
            let mask = source.read(&name, shape)?;
            let mask = mask.ok_or_else(|| format!("{}: has no mask for `{name}`", path.display()))?;
            if mask.shape() != shape {
                let [own, found] = [shape, mask.shape()].map(|shape| format!("{} x {}", shape.rows, shape.cols));
                let problem = format!("`{name}` is of {found}, and in {} of {own}", model.path().display());
                return Err(format!("{}: {problem}: are they of another model?", path.display()).into());
            }
            Ok((name, mask))
        });
        Ok(Self::Masks(masks.collect::<Result<_, Failure>>()?))
    }

    /// The packed codes of a layer, if there is a prior.
    pub(super) fn codes(&self, name: &str, linear: &Linear) -> Result<Option<Vec<u8>>, Failure> {
        match self {
            Self::None => Ok(None),
            Self::Magnitude => {
                let chosen = FrozenMaskLinear::by_magnitude(linear, &Engine::default());
                Ok(Some(chosen.map_err(|e| format!("`{name}`: {e}"))?.mask().codes().to_vec()))
            }
            Self::Masks(masks) => {
                let mask = masks.get(name).ok_or_else(|| format!("the prior has no mask for `{name}`"))?;
                Ok(Some(mask.codes().to_vec()))
            }
        }
    }

    /// What it is, in words that differ if masks do.
    pub(super) fn identity(&self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Magnitude => "magnitude".to_owned(),
            Self::Masks(masks) => {
                let mut digest = Digest::default();
                for (name, mask) in masks {
                    digest.add(name.as_bytes());
                    digest.add(mask.codes());
                }
                digest.finish()
            }
        }
    }
}

/// Where masks are read from.
enum Source {
    Masks(Box<Masks<'static>>),
    Codes(Vec<Reader<'static>>),
}

impl Source {
    fn open(model: &Model, path: &Path) -> Result<Self, Failure> {
        // First, for a compressed model may have tensors that are named as masks are.
        let readers = Files::find(path)
            .and_then(|files| Ok(files.open_all()?.into_iter().map(|(_, reader)| reader).collect::<Vec<_>>()));
        match readers.ok().filter(|readers| readers.iter().any(has_any_codes)) {
            Some(readers) => Ok(Self::Codes(readers)),
            None => Ok(Self::Masks(Box::new(Masks::open(path)?.with_shapes(model.shapes())))),
        }
    }

    /// The mask of a layer, if there is one.
    fn read(&mut self, name: &str, shape: Shape) -> Result<Option<Mask>, Failure> {
        match self {
            Self::Masks(masks) => match masks.names().any(|known| known == name) {
                true => Ok(Some(masks.read(name)?)),
                false => Ok(None),
            },
            Self::Codes(readers) => {
                for reader in readers {
                    if let Some(codes) = codes(reader, name)? {
                        let shape = reader.weight_info(name).map_or(shape, WeightInfo::shape);
                        return Ok(Some(Mask::new(shape, codes)?));
                    }
                }
                Ok(None)
            }
        }
    }
}
