//! Which tensors are layers that masks are made for.

use crate::names::{any, is_linear, matches, some};
use crate::{Args, Failure};
use std::collections::BTreeMap;
use twofour::Shape;
use twofour_formats::{Reader, TensorInfo, TensorType};

/// What there is instead of names.
const NONE: &str = "no tensors of floats that have groups of four";

/// The layers, by name.
pub(crate) type Layers = BTreeMap<String, (Shape, TensorType)>;

/// The layers of a model that the arguments want.
pub(crate) fn layers(args: &Args, readers: &[(&str, Reader<'_>)]) -> Result<Layers, Failure> {
    let possible: Layers = readers.iter().flat_map(|(_, reader)| reader.tensors()).filter_map(possible).collect();
    for pattern in args.include.iter().chain(&args.exclude) {
        if !possible.keys().any(|name| matches(pattern, name)) {
            return Err(format!("the pattern {pattern} matches none of {}", some(possible.keys(), NONE)).into());
        }
    }
    let wanted = |name: &str| {
        let included = if args.include.is_empty() { is_linear(name) } else { any(&args.include, name) };
        included && !any(&args.exclude, name)
    };
    let layers: Layers = possible.iter().filter(|(name, _)| wanted(name)).map(|(n, l)| (n.clone(), *l)).collect();
    if layers.is_empty() {
        let what = some(possible.keys(), NONE);
        return Err(format!("no layer to make a mask for among {what}; --include PATTERN chooses others").into());
    }
    Ok(layers)
}

/// A tensor that has groups, and of a type that masks are chosen for.
fn possible(tensor: &TensorInfo) -> Option<(String, (Shape, TensorType))> {
    let &[rows, cols] = tensor.shape() else { return None };
    let float = matches!(tensor.dtype(), TensorType::F32 | TensorType::F16 | TensorType::Bf16);
    let grouped = rows > 0 && cols > 0 && cols % 4 == 0;
    (float && grouped).then(|| (tensor.name().to_owned(), (Shape::new(rows, cols), tensor.dtype())))
}
