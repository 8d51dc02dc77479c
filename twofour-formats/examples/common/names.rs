//! Which tensors of a model are its linear layers, and patterns of their names.

/// Parts of names of what is better left dense: it is looked up and not multiplied, or decides over every token.
const LEFT_DENSE: [&str; 10] =
    ["embed", "wte", "wpe", "lm_head", "norm", "ln_", "classifier", "score", "router", ".gate.weight"];

/// Whether a tensor of two dimensions is a linear layer, by its name.
pub(crate) fn is_linear(name: &str) -> bool {
    let left_dense = LEFT_DENSE.iter().any(|part| name.contains(part));
    (name == "weight" || name.ends_with(".weight")) && !left_dense
}

/// Whether a name is one of the patterns'.
pub(crate) fn any(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, name))
}

/// Whether a name is a pattern's, in which `*` stands for anything. One pass over the name: what is between two `*` may
/// be taken where it is found first, for all that follows may begin there or later.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(mut left) = name.strip_prefix(first).and_then(|name| name.strip_suffix(last)) else { return false };
    middle.split('*').all(|part| match left.split_once(part) {
        Some((_, behind)) => {
            left = behind;
            true
        }
        None => false,
    })
}

/// The first of many names, or what there is instead of any.
pub(crate) fn some<'n>(names: impl ExactSizeIterator<Item = &'n String>, none: &str) -> String {
    const MOST: usize = 12;
    let more = names.len().saturating_sub(MOST);
    let list = names.take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
    match (list.as_str(), more) {
        ("", _) => none.to_owned(),
        (_, 0) => list,
        _ => format!("{list}, and {more} more"),
    }
}
