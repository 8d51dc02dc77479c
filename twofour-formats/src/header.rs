//! The header of a safetensors file, parsed and written.
//!
//! Not by the `safetensors` crate. With its `Metadata` in place of [`Raw`] `tests/hostile.rs` fails, in its
//! `greedy_headers`: 14.7 bytes of memory for a byte of a file, where 12 are promised. Written by it, entries are in
//! the order of a hash map, another one every time, and `the_same_masks_make_the_same_bytes` of
//! `tests/masks/writing.rs` fails.

use super::dtype::TensorType;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// The longest header, as in the `safetensors` crate.
pub(super) const MAX_HEADER: u64 = 100_000_000;
/// More dimensions than any framework has.
const MAX_DIMENSIONS: usize = 64;
const METADATA: &str = "__metadata__";

/// A tensor in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    pub(super) name: String,
    pub(super) dtype: TensorType,
    pub(super) shape: Vec<usize>,
    /// In the part of the file behind the header.
    pub(super) range: Range<u64>,
}

impl TensorInfo {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type of its elements.
    #[must_use]
    pub fn dtype(&self) -> TensorType {
        self.dtype
    }

    /// Its shape.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// A header whose tensors fill the rest of the file without gaps.
#[derive(Debug)]
pub(super) struct Header {
    /// By name.
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) metadata: BTreeMap<String, String>,
}

impl Header {
    /// Parses a header whose tensors must fill `data` bytes.
    pub(super) fn parse(json: &[u8], data: u64) -> Result<Self, String> {
        let text = std::str::from_utf8(json).map_err(|e| format!("the header is not UTF-8: {e}"))?;
        let Raw { mut tensors, metadata } =
            serde_json::from_str(text).map_err(|e| format!("the header is not that of a safetensors file: {e}"))?;
        tensors.sort_unstable_by_key(|tensor| (tensor.range.start, tensor.range.end));
        let mut end = 0;
        for tensor in &tensors {
            end = follow(tensor, end, data)?;
        }
        if end != data {
            return Err(format!("the tensors are {end} bytes and {data} follow the header"));
        }
        tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        match tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
            Some(pair) => Err(format!("there are two tensors named `{}`", pair[0].name)),
            None => Ok(Self { tensors, metadata }),
        }
    }

    /// Takes out tensors.
    pub(super) fn leave_out(&mut self, out: impl Fn(&TensorInfo) -> bool) -> Vec<TensorInfo> {
        let (left_out, tensors) = std::mem::take(&mut self.tensors).into_iter().partition(out);
        self.tensors = tensors;
        left_out
    }

    /// The tensor of a name.
    pub(super) fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.position(name).map(|i| &self.tensors[i])
    }

    /// Its place among [`tensors`](Self::tensors).
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).ok()
    }
}

/// Checks a tensor that must begin at `begin`; where it ends.
fn follow(tensor: &TensorInfo, begin: u64, data: u64) -> Result<u64, String> {
    let TensorInfo { name, dtype, shape, range } = tensor;
    if range.end > data || range.start > range.end {
        return Err(format!("tensor `{name}` lies at {range:?} of {data} bytes: is the file cut short?"));
    }
    if range.start != begin {
        return Err(format!("tensor `{name}` begins at {}, and the one before it ends at {begin}", range.start));
    }
    match dtype.bytes(shape) {
        Some(bytes) if bytes == tensor.bytes() => Ok(range.end),
        Some(bytes) => Err(format!(
            "tensor `{name}` is {} bytes, but {dtype} {shape:?} takes {bytes}: is the file cut short?",
            tensor.bytes()
        )),
        None => Err(format!("the size of tensor `{name}`, {dtype} {shape:?}, is no number of bytes")),
    }
}

/// What is in a header, unchecked.
struct Raw {
    tensors: Vec<TensorInfo>,
    metadata: BTreeMap<String, String>,
}

/// A tensor's entry. Keys that are not known are ignored, as the `safetensors` crate does.
#[derive(Deserialize)]
struct Entry {
    dtype: TensorType,
    shape: Dimensions,
    data_offsets: [u64; 2],
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Raw;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
                let (mut tensors, mut metadata) = (Vec::new(), None);
                while let Some(name) = map.next_key::<String>()? {
                    if name != METADATA {
                        let Entry { dtype, shape, data_offsets: [start, end] } = map.next_value()?;
                        tensors.push(TensorInfo { name, dtype, shape: shape.0, range: start..end });
                    } else if metadata.replace(map.next_value::<Option<Unique>>()?).is_some() {
                        return Err(de::Error::custom("there are two entries `__metadata__`"));
                    }
                }
                let metadata = metadata.flatten().unwrap_or_default().0;
                Ok(Raw { tensors, metadata })
            }
        }
        deserializer.deserialize_map(Map)
    }
}

/// A map of strings in which no key comes twice.
#[derive(Default)]
pub(super) struct Unique(pub(super) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Unique;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if entries.contains_key(&key) {
                        return Err(de::Error::custom(format_args!("there are two entries `{key}`")));
                    }
                    entries.insert(key, value);
                }
                Ok(Unique(entries))
            }
        }
        deserializer.deserialize_map(Map)
    }
}

/// A shape, of so many dimensions that a file of nothing but dimensions is refused before it fills the memory.
struct Dimensions(Vec<usize>);

impl<'de> Deserialize<'de> for Dimensions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sequence;
        impl<'de> Visitor<'de> for Sequence {
            type Value = Dimensions;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a shape")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Dimensions, A::Error> {
                let mut shape = Vec::new();
                while shape.len() < MAX_DIMENSIONS {
                    match sequence.next_element()? {
                        Some(size) => shape.push(size),
                        None => return Ok(Dimensions(shape)),
                    }
                }
                match sequence.next_element::<IgnoredAny>()? {
                    Some(_) => Err(de::Error::custom("a tensor has more than 64 dimensions")),
                    None => Ok(Dimensions(shape)),
                }
            }
        }
        deserializer.deserialize_seq(Sequence)
    }
}

impl<'de> Deserialize<'de> for TensorType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = TensorType;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a type")
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<TensorType, E> {
                TensorType::from_name(name)
                    .ok_or_else(|| E::custom(format_args!("there is no type of tensors `{name}`")))
            }
        }
        deserializer.deserialize_str(Name)
    }
}

/// Length and header of a file with these tensors, which are in the order of their ranges.
pub(super) fn write<'a>(
    metadata: &BTreeMap<String, String>,
    tensors: impl Iterator<Item = &'a TensorInfo>,
) -> Result<Vec<u8>, String> {
    #[derive(Serialize)]
    struct Entry<'a> {
        dtype: &'static str,
        shape: &'a [usize],
        data_offsets: [u64; 2],
    }
    let mut bytes = vec![0; 8];
    let to_json = || {
        let mut serializer = serde_json::Serializer::new(&mut bytes);
        let mut map = serializer.serialize_map(None)?;
        if !metadata.is_empty() {
            map.serialize_entry(METADATA, metadata)?;
        }
        for TensorInfo { name, dtype, shape, range } in tensors {
            let entry = Entry { dtype: dtype.name(), shape, data_offsets: [range.start, range.end] };
            map.serialize_entry(name, &entry)?;
        }
        SerializeMap::end(map)
    };
    to_json().map_err(|e: serde_json::Error| e.to_string())?;
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    let length = bytes.len() as u64 - 8;
    if length > MAX_HEADER {
        return Err(format!("the header would take {length} bytes, and readers take {MAX_HEADER} at most"));
    }
    bytes[..8].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Whether a tensor can have this name.
pub(super) fn is_name(name: &str) -> bool {
    name != METADATA
}
