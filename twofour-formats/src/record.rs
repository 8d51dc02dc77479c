//! Which weights a file has: what it says of them, checked against its tensors.

use super::dtype::TensorType;
use super::header::{Header, TensorInfo};
use super::source::Source;
use super::{RESERVED, VERSION, VERSION_ENTRY, WEIGHT_ENTRY, bitmask, in_weight};
use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use twofour::compress::{DTYPES, Sparsity};
use twofour::{DType, Shape};

/// How a file holds a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Encoding {
    /// Values and codes: this crate's [format](super).
    Codes,
    /// Values and a bit for each position: `sparse-24-bitmask`.
    Bitmask,
    /// The same and where rows begin: the older `sparse-bitmask`, which need not be 2:4.
    SparseBitmask,
}

/// A compressed weight in a file. Its tensors are there, of the right types and sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightInfo {
    pub(super) name: String,
    pub(super) shape: Shape,
    pub(super) value_type: DType,
    pub(super) encoding: Encoding,
}

impl WeightInfo {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `[N, K]` of the dense weight. Of [`Encoding::SparseBitmask`] K can be any number.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The type of its values.
    #[must_use]
    pub fn value_type(&self) -> DType {
        self.value_type
    }

    /// How it is held.
    #[must_use]
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Names of the tensors that it is made of.
    pub(super) fn parts(&self) -> Vec<String> {
        match self.encoding {
            Encoding::Codes => vec![values_name(&self.name), codes_name(&self.name)],
            Encoding::Bitmask => bitmask::PARTS.map(|part| bitmask::part(&self.name, part)).to_vec(),
            Encoding::SparseBitmask => {
                let parts = bitmask::PARTS.into_iter().chain([bitmask::OFFSETS]);
                parts.map(|part| bitmask::part(&self.name, part)).collect()
            }
        }
    }
}

pub(super) fn values_name(name: &str) -> String {
    format!("{name}.values")
}

pub(super) fn codes_name(name: &str) -> String {
    format!("{name}.codes")
}

/// What `__metadata__` says of a weight.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record<'a> {
    shape: [usize; 2],
    #[serde(borrow)]
    dtype: &'a str,
    #[serde(borrow)]
    sparsity: &'a str,
    axis: u32,
}

const fn sparsity_name(sparsity: Sparsity) -> &'static str {
    match sparsity {
        Sparsity::TwoFour => "2:4",
        Sparsity::OneTwo => "1:2",
    }
}

/// The entry of a weight.
pub(super) fn record(value_type: DType, shape: Shape) -> std::result::Result<String, String> {
    let sparsity = sparsity_name(Sparsity::of(value_type));
    let record = Record { shape: [shape.rows, shape.cols], dtype: value_type.name(), sparsity, axis: 1 };
    serde_json::to_string(&record).map_err(|e| e.to_string())
}

/// Whether a file with these entries is of this crate's format.
pub(super) fn is_marked(source: &Source<'_>, metadata: &BTreeMap<String, String>) -> Result<bool> {
    match metadata.get(VERSION_ENTRY).map(|version| version.parse::<u32>()) {
        Some(Ok(VERSION)) => Ok(true),
        Some(Ok(newer)) if newer > VERSION => Err(source.wrong(format!(
            "is of version {newer} of the format, and this release of twofour reads version {VERSION}: use a newer one"
        ))),
        Some(_) => {
            Err(source.wrong(format!("`{VERSION_ENTRY}` is `{}`, which is no version", metadata[VERSION_ENTRY])))
        }
        None if metadata.keys().any(|key| key.starts_with(WEIGHT_ENTRY)) => {
            Err(source.wrong(format!("has entries `{WEIGHT_ENTRY}…` but no `{VERSION_ENTRY}`")))
        }
        None => Ok(false),
    }
}

/// All weights of a file, by name, each checked against its tensors.
pub(super) fn weights(source: &Source<'_>, header: &Header) -> Result<Vec<WeightInfo>> {
    let mut weights = Vec::new();
    if is_marked(source, &header.metadata)? {
        for (key, text) in &header.metadata {
            if let Some(name) = key.strip_prefix(WEIGHT_ENTRY) {
                let info = of_record(header, name, text);
                weights.push(info.map_err(|problem| source.wrong(format!("weight `{name}`: {problem}")))?);
            }
        }
    }
    for info in &weights {
        info.shape.check().map_err(|error| in_weight(source.label(), &info.name, error))?;
    }
    for tensor in &header.tensors {
        if let Some(module) = bitmask::module(header, tensor) {
            weights.push(bitmask::info(source, header, module)?);
        }
    }
    weights.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let twice = weights.windows(2).find(|pair| pair[0].name == pair[1].name).map(|pair| &pair[0]);
    let dense = || weights.iter().find(|info| header.tensor(&info.name).is_some());
    match twice.or_else(dense) {
        Some(info) => Err(source.wrong(format!("weight `{}` is there twice", info.name))),
        None => Ok(weights),
    }
}

/// Takes out the entries of weights all of whose tensors have been taken out.
pub(super) fn leave_out(header: &mut Header, left_out: &[TensorInfo]) {
    let out = |name: String| left_out.iter().any(|tensor| tensor.name == name);
    header.metadata.retain(|key, _| match key.strip_prefix(WEIGHT_ENTRY) {
        Some(name) => !(out(values_name(name)) && out(codes_name(name))),
        None => true,
    });
}

/// A weight by its entry.
fn of_record(header: &Header, name: &str, text: &str) -> std::result::Result<WeightInfo, String> {
    let record: Record<'_> = serde_json::from_str(text).map_err(|e| format!("its entry is `{text}`: {e}"))?;
    let Record { shape: [rows, cols], dtype, sparsity, axis } = record;
    let value_type = DTYPES.into_iter().find(|value_type| value_type.name() == dtype);
    let types = value_type.and_then(|value_type| Some((value_type, TensorType::of_values(value_type)?)));
    let Some((value_type, values)) = types else {
        return Err(format!("there are no values of type `{dtype}`"));
    };
    let expected = sparsity_name(Sparsity::of(value_type));
    if sparsity != expected {
        return Err(format!("{dtype} values are kept {expected}, not `{sparsity}`"));
    }
    if axis != 1 {
        return Err(format!("its groups run along axis {axis}, and in version {VERSION} they run along axis 1"));
    }
    let shape = Shape::new(rows, cols);
    let codes = Sparsity::of(value_type).packed_codes(shape);
    is(header, &values_name(name), values, &[rows, cols / 2])?;
    is(header, &codes_name(name), TensorType::U8, &[codes])?;
    Ok(WeightInfo { name: name.to_owned(), shape, value_type, encoding: Encoding::Codes })
}

/// Checks that a tensor is there, of this type and shape.
fn is<'h>(
    header: &'h Header,
    name: &str,
    dtype: TensorType,
    shape: &[usize],
) -> std::result::Result<&'h TensorInfo, String> {
    match header.tensor(name) {
        Some(tensor) if tensor.dtype == dtype && tensor.shape == shape => Ok(tensor),
        Some(tensor) => {
            let (got_type, got) = (tensor.dtype, &tensor.shape);
            Err(format!("tensor `{name}` is {got_type} {got:?}, and {dtype} {shape:?} is needed"))
        }
        None => Err(format!("there is no tensor `{name}`")),
    }
}

/// The entries that do not belong to the format.
pub(super) fn foreign(metadata: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    let entries = metadata.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    entries.filter(|(key, _)| !key.starts_with(RESERVED))
}

/// Names of all tensors that belong to weights.
pub(super) fn parts(weights: &[WeightInfo]) -> BTreeSet<String> {
    weights.iter().flat_map(WeightInfo::parts).collect()
}
