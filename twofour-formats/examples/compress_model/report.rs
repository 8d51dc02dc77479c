//! What was done, printed.

use crate::output::Output;
use indicatif::BinaryBytes;
use twofour::compress::Sparsity;
use twofour::{DType, Shape};
use twofour_formats::WeightInfo;

/// A layer that was compressed or decompressed.
pub(crate) struct Layer {
    name: String,
    shape: Shape,
    value_type: DType,
    before: usize,
    after: usize,
    /// The sum of squares of kept values over that of all; not known of a layer that was compressed before.
    kept: Option<f64>,
}

impl Layer {
    pub(crate) fn compressed(
        name: &str,
        shape: Shape,
        value_type: DType,
        (before, after): (usize, usize),
        kept: f64,
    ) -> Self {
        Self { name: name.to_owned(), shape, value_type, before, after, kept: Some(kept) }
    }

    pub(crate) fn decompressed(info: &WeightInfo, (before, after): (usize, usize)) -> Self {
        let (shape, value_type) = (info.shape(), info.value_type());
        Self { name: info.name().to_owned(), shape, value_type, before, after, kept: None }
    }

    fn cells(&self) -> [String; 7] {
        let sparsity = match Sparsity::of(self.value_type) {
            Sparsity::TwoFour => "2:4",
            Sparsity::OneTwo => "1:2",
        };
        // A layer of zeros has kept all of nothing.
        let kept = self.kept.map(|kept| if kept.is_nan() { "-".into() } else { format!("{:.2} %", 100.0 * kept) });
        [
            self.name.clone(),
            format!("{} x {}", self.shape.rows, self.shape.cols),
            self.value_type.to_string(),
            sparsity.to_owned(),
            BinaryBytes(self.before as u64).to_string(),
            BinaryBytes(self.after as u64).to_string(),
            kept.unwrap_or_default(),
        ]
    }
}

/// What came of a model.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) layers: Vec<Layer>,
    /// Bytes of all tensors.
    pub(crate) before: u64,
    pub(crate) after: u64,
    checked: usize,
    wrong: Vec<String>,
}

impl Report {
    /// Takes note of what was read back.
    pub(crate) fn check(&mut self, name: &str, well: bool) {
        self.checked += 1;
        if !well {
            self.wrong.push(name.to_owned());
        }
    }

    pub(crate) fn is_well(&self) -> bool {
        self.wrong.is_empty()
    }

    pub(crate) fn print(&self, output: &Output) {
        print_table(&self.layers);
        let share = 100.0 * self.after as f64 / self.before.max(1) as f64;
        let (before, after) = (BinaryBytes(self.before), BinaryBytes(self.after));
        println!("\n{} layers; the model: {before} -> {after} ({share:.1} %), in {output}", self.layers.len());
        match self.wrong.as_slice() {
            [] => println!("read back: all {} entries are as they should be, bit for bit", self.checked),
            wrong => println!("read back: FAILED for {} of {}: {}", wrong.len(), self.checked, wrong.join(", ")),
        }
    }
}

fn print_table(layers: &[Layer]) {
    let head = ["layer", "shape", "type", "kept", "before", "after", "energy"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(layers.iter().map(Layer::cells)).collect();
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    for row in &rows {
        let cells = row.iter().zip(widths).enumerate().map(|(i, (cell, width))| match i {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
