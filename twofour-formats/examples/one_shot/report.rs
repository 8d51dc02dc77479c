//! What was done, printed.

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
    /// Columns that saw no input.
    pub(crate) empty: usize,
    /// Of the codes, to compare with what is read back.
    digest: u64,
}

impl Layer {
    pub(crate) fn new(name: &str, mask: &Mask, dtype: String, score: Option<f64>, energy: Option<f64>) -> Self {
        Self { name: name.to_owned(), shape: mask.shape(), dtype, score, energy, empty: 0, digest: digest(mask) }
    }

    fn cells(&self) -> [String; 5] {
        // A layer of zeros has kept all of nothing.
        let share = |share: Option<f64>| match share {
            Some(share) if !share.is_nan() => format!("{:.2} %", 100.0 * share),
            _ => "-".into(),
        };
        let shape = format!("{} x {}", self.shape.rows, self.shape.cols);
        [self.name.clone(), shape, self.dtype.clone(), share(self.score), share(self.energy)]
    }
}

fn digest(mask: &Mask) -> u64 {
    let mut hasher = DefaultHasher::new();
    mask.codes().hash(&mut hasher);
    hasher.finish()
}

/// Prints the layers, and reads the file back. Whether it holds what was written.
pub(crate) fn finish(layers: &[Layer], form: Form, path: &Path) -> Result<bool, crate::Failure> {
    print_table(layers);
    for Layer { name, shape, empty, .. } in layers.iter().filter(|layer| layer.empty > 0) {
        let of = format!("{empty} of {} columns", shape.cols);
        println!("{name}: {of} saw no input, and magnitude chose among them");
    }
    let weights: u64 = layers.iter().map(|layer| layer.shape.weights() as u64).sum();
    let bytes = std::fs::metadata(path)?.len();
    let bits = 8.0 * bytes as f64 / weights.max(1) as f64;
    let size = BinaryBytes(bytes);
    println!("\n{} masks, {form}: {size}, {bits:.3} bit a weight, in {}", layers.len(), path.display());
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
        false => println!("read back: FAILED for {} of {}: {}", wrong.len(), layers.len(), wrong.join(", ")),
    }
    Ok(well)
}

fn print_table(layers: &[Layer]) {
    let head = ["layer", "shape", "type", "score", "energy"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(layers.iter().map(Layer::cells)).collect();
    let widths: [usize; 5] = std::array::from_fn(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0));
    for row in &rows {
        let cells = row.iter().zip(widths).enumerate().map(|(i, (cell, width))| match i {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
