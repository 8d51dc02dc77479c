//! What was done, printed.

use crate::names::plain;
use crate::table::{self, percent, sizes};
use indicatif::BinaryBytes;
use std::path::Path;
use twofour::compress::Sparsity;
use twofour::{DType, Shape};
use twofour_formats::{Encoding, WeightInfo};

/// A layer that was compressed or decompressed.
pub(super) struct Done {
    name: String,
    shape: Shape,
    value_type: DType,
    sparsity: &'static str,
    before: usize,
    after: usize,
    /// The sum of squares of kept values over that of all; not known of a layer that was compressed before.
    kept: Option<f64>,
}

impl Done {
    pub(super) fn compressed(
        name: &str,
        shape: Shape,
        value_type: DType,
        (before, after): (usize, usize),
        kept: f64,
    ) -> Self {
        let sparsity = sparsity(value_type);
        Self { name: name.to_owned(), shape, value_type, sparsity, before, after, kept: Some(kept) }
    }

    pub(super) fn decompressed(info: &WeightInfo, (before, after): (usize, usize)) -> Self {
        let (shape, value_type) = (info.shape(), info.value_type());
        let sparsity = match info.encoding() {
            Encoding::Codes => sparsity(value_type),
            Encoding::Bitmask => "2:4",
            _ => "any",
        };
        Self { name: info.name().to_owned(), shape, value_type, sparsity, before, after, kept: None }
    }

    fn cells(&self) -> [String; 7] {
        [
            self.name.clone(),
            sizes(&[self.shape.rows, self.shape.cols]),
            self.value_type.to_string(),
            self.sparsity.to_owned(),
            BinaryBytes(self.before as u64).to_string(),
            BinaryBytes(self.after as u64).to_string(),
            self.kept.map(|kept| percent(Some(kept))).unwrap_or_default(),
        ]
    }
}

fn sparsity(value_type: DType) -> &'static str {
    match Sparsity::of(value_type) {
        Sparsity::TwoFour => "2:4",
        Sparsity::OneTwo => "1:2",
    }
}

/// What came of a model.
#[derive(Default)]
pub(super) struct Report {
    pub(super) layers: Vec<Done>,
    /// Bytes of all tensors.
    pub(super) before: u64,
    pub(super) after: u64,
    checked: usize,
    wrong: Vec<String>,
}

impl Report {
    /// Takes note of what was read back.
    pub(super) fn check(&mut self, name: &str, well: bool) {
        self.checked += 1;
        if !well {
            self.wrong.push(name.to_owned());
        }
    }

    pub(super) fn is_well(&self) -> bool {
        self.wrong.is_empty()
    }

    pub(super) fn print(&self, to: &Path) {
        let head = ["layer", "shape", "type", "kept", "before", "after", "energy"];
        table::print(head, self.layers.iter().map(Done::cells));
        let share = 100.0 * self.after as f64 / self.before.max(1) as f64;
        let (before, after) = (BinaryBytes(self.before), BinaryBytes(self.after));
        let (layers, to) = (self.layers.len(), to.display().to_string());
        println!("\n{layers} layers; the model: {before} -> {after} ({share:.1} %), in {}", plain(&to));
        match self.wrong.as_slice() {
            [] => println!("read back: all {} entries are as they should be, bit for bit", self.checked),
            wrong => {
                println!("read back: FAILED for {} of {}: {}", wrong.len(), self.checked, plain(&wrong.join(", ")));
            }
        }
    }
}
