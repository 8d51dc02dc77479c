//! A weight as rows of groups.
//!
//! Groups of four run along the dimension that a product sums over. A tensor is taken as `[N, K]`, N rows of outputs
//! and K inputs:
//!
//! | tensor | is | N | K |
//! | --- | --- | --- | --- |
//! | `[N, K]` | a linear layer, as `torch.nn.Linear` has it | N | K |
//! | `[in, out]` | the same transposed, as GPT-2's `Conv1D` has it | out | in |
//! | `[E, N, K]` | experts on top of each other | E·N | K |
//! | `[E, in, out]` | the same transposed | E·out | in |
//! | `[out, in, k]`, `[out, in, kh, kw]`, … | a convolution | out | in·k, in·kh·kw, … |
//!
//! Of three dimensions are experts and convolutions of one: a name with a part that begins with `conv` is one of these,
//! and so is a weight whose last size is below 16 and whose name has no part that begins with `expert` or `moe`.

use crate::names::has_part;
use crate::table::sizes;
use std::borrow::Cow;
use twofour::Shape;
use twofour_formats::{TensorInfo, TensorType};

/// The largest kernel of a convolution that has no name.
const MOST_KERNEL: usize = 15;

/// A weight that has groups.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) name: String,
    pub(crate) dtype: TensorType,
    /// The tensor's own.
    pub(crate) sizes: Vec<usize>,
    /// Rows of groups.
    pub(crate) shape: Shape,
    pub(crate) transposed: bool,
}

impl Layer {
    /// A tensor as rows of groups, or why it is none.
    pub(crate) fn new(tensor: &TensorInfo, transposed: bool) -> Result<Self, String> {
        let (name, own) = (tensor.name(), tensor.shape());
        let product = |sizes: &[usize]| sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        let last = own.last().copied().unwrap_or_default();
        let convolution = match own.len() {
            0 | 1 => return Err("it is no matrix".into()),
            2 => false,
            3 => {
                has_part(name, "conv")
                    || last <= MOST_KERNEL && !["expert", "moe"].iter().any(|part| has_part(name, part))
            }
            _ => true,
        };
        let (rows, cols) = match own {
            _ if own.contains(&0) => return Err("it is empty".into()),
            _ if transposed && (own.len() > 3 || convolution) => {
                return Err("only [in, out] and [E, in, out] can be transposed".into());
            }
            [experts @ .., input, output] if transposed => {
                (product(experts).and_then(|e| e.checked_mul(*output)), Some(*input))
            }
            [output, inputs @ ..] if convolution => (Some(*output), product(inputs)),
            [rows @ .., cols] => (product(rows), Some(*cols)),
            [] => (None, None),
        };
        let (Some(rows), Some(cols)) = (rows, cols) else { return Err("it is too large".into()) };
        if !cols.is_multiple_of(4) {
            return Err(format!("a row of its groups would be {cols} long, which is no multiple of 4"));
        }
        let shape = Shape::new(rows, cols);
        shape.check().map_err(|e| e.to_string())?;
        Ok(Self { name: name.to_owned(), dtype: tensor.dtype(), sizes: own.to_vec(), shape, transposed })
    }

    /// Whether the tensor is `[N, K]` itself.
    pub(crate) fn is_plain(&self) -> bool {
        self.sizes.len() == 2 && !self.transposed
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.dtype.bytes(&self.sizes).unwrap_or_default()
    }

    /// The tensor's bytes as rows of groups.
    pub(crate) fn rows<'b>(&self, own: Cow<'b, [u8]>) -> Cow<'b, [u8]> {
        match self.sizes.as_slice() {
            &[.., input, output] if self.transposed => transposed(&own, input, output, self.dtype.bits() / 8).into(),
            _ => own,
        }
    }

    /// Rows of groups as the tensor's bytes: what [`rows`](Self::rows) undoes.
    pub(crate) fn own<'b>(&self, rows: Cow<'b, [u8]>) -> Cow<'b, [u8]> {
        match self.sizes.as_slice() {
            &[.., input, output] if self.transposed => transposed(&rows, output, input, self.dtype.bits() / 8).into(),
            _ => rows,
        }
    }

    /// What is to be said of a tensor that is not `[N, K]`, beside its mask.
    pub(crate) fn note(&self) -> Option<String> {
        let Shape { rows, cols } = self.shape;
        let own = sizes(&self.sizes);
        match (self.transposed, self.is_plain()) {
            (true, _) => Some(format!("{own}, transposed: groups along the inputs, {rows} rows of {cols}")),
            (false, false) => Some(format!("{own}: {rows} rows of {cols}")),
            (false, true) => None,
        }
    }
}

/// Matrices `[rows, cols]`, one after another, each transposed.
fn transposed(bytes: &[u8], rows: usize, cols: usize, size: usize) -> Vec<u8> {
    let mut to = vec![0; bytes.len()];
    for (to, from) in to.chunks_exact_mut(rows * cols * size).zip(bytes.chunks_exact(rows * cols * size)) {
        for (i, element) in from.chunks_exact(size).enumerate() {
            let at = (i % cols * rows + i / cols) * size;
            to[at..at + size].copy_from_slice(element);
        }
    }
    to
}
