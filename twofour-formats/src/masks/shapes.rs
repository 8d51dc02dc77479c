//! The shapes of a model's weights, for files of masks that hold none.

use crate::error::Result;
use crate::{Model, Reader};
use std::collections::BTreeMap;
use twofour::Shape;

/// Shapes by the names of weights.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shapes(BTreeMap<String, Shape>);

impl Shapes {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a weight, in place of an earlier one of this name.
    pub fn insert(&mut self, name: impl Into<String>, shape: Shape) {
        self.0.insert(name.into(), shape);
    }

    /// The shape of a weight.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Shape> {
        self.0.get(name).copied()
    }

    /// Names and shapes, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, Shape)> {
        self.0.iter().map(|(name, &shape)| (name.as_str(), shape))
    }

    /// Adds what a file's header says of its two-dimensional tensors and compressed weights.
    pub fn add(&mut self, reader: &Reader<'_>) {
        for tensor in reader.tensors() {
            if let &[rows, cols] = tensor.shape() {
                self.insert(tensor.name(), Shape::new(rows, cols));
            }
        }
        for weight in reader.weights() {
            self.insert(weight.name(), weight.shape());
        }
    }

    /// The shapes of a model: the headers of its files are read.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn of_model(model: &Model) -> Result<Self> {
        let mut shapes = Self::new();
        for file in model.files() {
            shapes.add(&model.open(file)?);
        }
        Ok(shapes)
    }
}

impl<N: Into<String>> FromIterator<(N, Shape)> for Shapes {
    fn from_iter<I: IntoIterator<Item = (N, Shape)>>(shapes: I) -> Self {
        Self(shapes.into_iter().map(|(name, shape)| (name.into(), shape)).collect())
    }
}
