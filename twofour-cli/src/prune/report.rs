//! What was done, printed.

use crate::names::plain;
use crate::table::{self, percent, sizes};
use indicatif::BinaryBytes;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use twofour::Shape;
use twofour_formats::masks::{Form, Mask, Masks, Shapes};

/// A layer whose mask was written.
pub(crate) struct Layer {
    pub(crate) name: String,
    pub(crate) shape: Shape,
    pub(crate) dtype: String,
    pub(crate) score: Option<f64>,
    pub(crate) energy: Option<f64>,
    /// What is lost of the layer's output, and what was before swaps.
    pub(crate) error: Option<f64>,
    pub(crate) unswapped: Option<f64>,
    /// Lines to be printed.
    pub(crate) notes: Vec<String>,
    /// Of the codes, to compare with what is read back.
    digest: u64,
}

impl Layer {
    pub(crate) fn new(name: &str, mask: &Mask, dtype: String, score: Option<f64>, energy: Option<f64>) -> Self {
        let (name, digest) = (name.to_owned(), digest(mask));
        let (shape, notes) = (mask.shape(), Vec::new());
        Self { name, shape, dtype, score, energy, error: None, unswapped: None, notes, digest }
    }

    fn cells(&self) -> [String; 5] {
        let shape = sizes(&[self.shape.rows, self.shape.cols]);
        [self.name.clone(), shape, self.dtype.clone(), percent(self.score), percent(self.energy)]
    }

    /// With what is known of outputs.
    fn cells_of_calibration(&self) -> [String; 7] {
        let [name, shape, dtype, score, energy] = self.cells();
        [name, shape, dtype, score, energy, percent(self.unswapped), percent(self.error)]
    }
}

fn digest(mask: &Mask) -> u64 {
    let mut hasher = DefaultHasher::new();
    mask.codes().hash(&mut hasher);
    hasher.finish()
}

/// Prints what is lost of outputs on calibration tokens, in the mean over layers.
fn print_errors(layers: &[Layer]) {
    let mean = |of: fn(&Layer) -> Option<f64>| {
        let all: Vec<_> = layers.iter().filter_map(of).collect();
        percent(Some(all.iter().sum::<f64>() / all.len() as f64))
    };
    println!("\nlost of a layer's output: {} in the mean", mean(|layer| layer.error));
    let swapped: Vec<_> = layers.iter().filter_map(|layer| layer.error.zip(layer.unswapped)).collect();
    if !swapped.is_empty() {
        let less = swapped.iter().filter(|(error, unswapped)| error < unswapped).count();
        let (of, before) = (swapped.len(), mean(|layer| layer.unswapped));
        println!("swaps made it less in {less} of {of} layers; before, it was {before} in the mean");
    }
}

/// Prints the layers, and reads the file back. Whether it holds what was written.
pub(crate) fn finish(layers: &[Layer], form: Form, path: &Path) -> Result<bool, crate::Failure> {
    if layers.iter().any(|layer| layer.error.is_some()) {
        let head = ["layer", "shape", "type", "score", "energy", "unswapped", "error"];
        table::print(head, layers.iter().map(Layer::cells_of_calibration));
        print_errors(layers);
    } else {
        table::print(["layer", "shape", "type", "score", "energy"], layers.iter().map(Layer::cells));
    }
    for (name, note) in layers.iter().flat_map(|layer| layer.notes.iter().map(|note| (&layer.name, note))) {
        println!("{}: {note}", plain(name));
    }
    let weights: u64 = layers.iter().map(|layer| layer.shape.weights() as u64).sum();
    let bytes = std::fs::metadata(path)?.len();
    let bits = 8.0 * bytes as f64 / weights.max(1) as f64;
    let (size, to) = (BinaryBytes(bytes), path.display().to_string());
    println!("\n{} masks, {form}: {size}, {bits:.3} bit a weight, in {}", layers.len(), plain(&to));
    let shapes: Shapes = layers.iter().map(|layer| (layer.name.as_str(), layer.shape)).collect();
    let written = Masks::open(path)?.with_shapes(shapes);
    let mut wrong = Vec::new();
    for layer in layers {
        if digest(&written.read(&layer.name)?) != layer.digest {
            wrong.push(layer.name.as_str());
        }
    }
    let well = wrong.is_empty() && written.names().len() == layers.len();
    match well {
        true => println!("read back: all {} masks are as they should be", layers.len()),
        false => println!("read back: FAILED for {} of {}: {}", wrong.len(), layers.len(), plain(&wrong.join(", "))),
    }
    Ok(well)
}
