//! Which tensors are layers that masks are made for.

use crate::{Args, Failure};
use std::collections::BTreeMap;
use twofour::Shape;
use twofour::formats::{Reader, TensorInfo, TensorType};

/// Parts of names of what is better left dense: it is looked up and not multiplied, or decides over every token.
const LEFT_DENSE: [&str; 10] =
    ["embed", "wte", "wpe", "lm_head", "norm", "ln_", "classifier", "score", "router", ".gate.weight"];

/// The layers, by name.
pub(crate) type Layers = BTreeMap<String, (Shape, TensorType)>;

/// The layers of a model that the arguments want.
pub(crate) fn layers(args: &Args, readers: &[(&str, Reader<'_>)]) -> Result<Layers, Failure> {
    let possible: Layers = readers.iter().flat_map(|(_, reader)| reader.tensors()).filter_map(possible).collect();
    for pattern in args.include.iter().chain(&args.exclude) {
        if !possible.keys().any(|name| matches(pattern, name)) {
            return Err(format!("the pattern {pattern} matches none of {}", some(possible.keys())).into());
        }
    }
    let any = |patterns: &[String], name: &str| patterns.iter().any(|pattern| matches(pattern, name));
    let wanted = |name: &str| {
        let included = if args.include.is_empty() { is_linear(name) } else { any(&args.include, name) };
        included && !any(&args.exclude, name)
    };
    let layers: Layers = possible.iter().filter(|(name, _)| wanted(name)).map(|(n, l)| (n.clone(), *l)).collect();
    if layers.is_empty() {
        let what = some(possible.keys());
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

fn is_linear(name: &str) -> bool {
    let left_dense = LEFT_DENSE.iter().any(|part| name.contains(part));
    (name == "weight" || name.ends_with(".weight")) && !left_dense
}

/// Whether a name is a pattern's, in which `*` stands for anything. Goes back to the last `*` alone, so that a pattern
/// of many takes no longer than its length times the name's.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, n));
            p += 1;
        } else if pattern.get(p) == Some(&name[n]) {
            (p, n) = (p + 1, n + 1);
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            (p, n) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&rest| rest == b'*')
}

/// The first of many names.
fn some<'n>(names: impl ExactSizeIterator<Item = &'n String>) -> String {
    const MOST: usize = 12;
    let more = names.len().saturating_sub(MOST);
    let list = names.take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
    match (list.as_str(), more) {
        ("", _) => "no tensors of floats that have groups of four".into(),
        (_, 0) => list,
        _ => format!("{list}, and {more} more"),
    }
}
