//! Masks in safetensors files: zeros and ones, and base 6.

use super::bits::Flags;
use super::{Fewer, Form, MASK, Mask, base6};
use crate::error::Result;
use crate::{Reader, TensorInfo, TensorType};
use std::collections::BTreeMap;
use twofour::Shape;

pub(super) const VERSION: &str = "1";
pub(super) const VERSION_ENTRY: &str = "twofour_masks.version";
pub(super) const SHAPE_ENTRY: &str = "twofour_masks.shape.";
pub(super) const BASE6: &str = ".base6";

/// A file whose tensors are masks, maybe among others.
#[derive(Debug)]
pub(super) struct Tensors<'a> {
    reader: Reader<'a>,
    /// Shapes of masks in base 6, or `None` where masks are zeros and ones.
    shapes: Option<BTreeMap<String, Shape>>,
}

impl<'a> Tensors<'a> {
    /// Finds out which masks there are. What is wrong is said without the file's name.
    pub(super) fn new(reader: Reader<'a>) -> std::result::Result<Self, String> {
        let version = reader.metadata().find(|(key, _)| *key == VERSION_ENTRY).map(|(_, version)| version.to_owned());
        let shapes = match version.as_deref() {
            None => None,
            Some(VERSION) => Some(shapes(&reader)?),
            Some(other) => {
                return Err(format!("`{VERSION_ENTRY}` is `{other}`, and this release of twofour reads {VERSION}"));
            }
        };
        Ok(Self { reader, shapes })
    }

    pub(super) fn form(&self) -> Form {
        if self.shapes.is_some() { Form::Base6 } else { Form::Flags }
    }

    pub(super) fn names(&self) -> Vec<String> {
        match &self.shapes {
            Some(shapes) => shapes.keys().cloned().collect(),
            None => self.reader.tensors().filter_map(|t| t.name().strip_suffix(MASK)).map(str::to_owned).collect(),
        }
    }

    /// The shape of one of the masks.
    pub(super) fn shape(&self, name: &str) -> std::result::Result<Shape, String> {
        if let Some(shapes) = &self.shapes {
            return shapes.get(name).copied().ok_or_else(|| "is not there".into());
        }
        match self.reader.tensor_info(&format!("{name}{MASK}")).map(TensorInfo::shape) {
            Some(&[rows, cols]) => Ok(Shape::new(rows, cols)),
            Some(other) => Err(format!("is of shape {other:?}, and masks are [N, K]")),
            None => Err("is not there".into()),
        }
    }

    /// Reads a mask of this shape, which has been checked.
    pub(super) fn read(&self, name: &str, shape: Shape, fewer: Fewer) -> Result<std::result::Result<Mask, Failure>> {
        if self.shapes.is_some() {
            let packed = self.reader.tensor(&format!("{name}{BASE6}"))?;
            let codes = base6::unpack(shape, &packed).map(|codes| Mask::of_checked(shape, codes));
            return Ok(codes.map_err(Failure::Error));
        }
        let tensor = format!("{name}{MASK}");
        let dtype = self.reader.tensor_info(&tensor).map(TensorInfo::dtype);
        let bytes = self.reader.tensor(&tensor)?;
        Ok(match dtype {
            Some(TensorType::Bool | TensorType::U8) => flags(shape, fewer, &bytes, |[byte]| truth(f32::from(byte))),
            Some(TensorType::F16) => flags(shape, fewer, &bytes, |b| truth(twofour::f16::from_le_bytes(b).to_f32())),
            Some(TensorType::Bf16) => flags(shape, fewer, &bytes, |b| truth(twofour::bf16::from_le_bytes(b).to_f32())),
            Some(TensorType::F32) => flags(shape, fewer, &bytes, |bytes| truth(f32::from_le_bytes(bytes))),
            other => {
                let other = other.map_or("nothing", TensorType::name);
                Err(Failure::Problem(format!("is of type {other}, and masks are BOOL, U8, F16, BF16 or F32")))
            }
        })
    }
}

/// Why a mask is none: as an error, or in words.
pub(super) enum Failure {
    Error(twofour::Error),
    Problem(String),
}

impl From<twofour::Error> for Failure {
    fn from(error: twofour::Error) -> Self {
        Self::Error(error)
    }
}

/// The layers that the entries name, each checked against its tensor.
fn shapes(reader: &Reader<'_>) -> std::result::Result<BTreeMap<String, Shape>, String> {
    let mut shapes = BTreeMap::new();
    for (key, text) in reader.metadata() {
        let Some(name) = key.strip_prefix(SHAPE_ENTRY) else { continue };
        let shape = serde_json::from_str::<[usize; 2]>(text);
        let [rows, cols] = shape.map_err(|e| format!("mask `{name}`: its shape is `{text}`: {e}"))?;
        let shape = Shape::new(rows, cols);
        shape.check().map_err(|error| format!("mask `{name}`: {error}"))?;
        let tensor = format!("{name}{BASE6}");
        let expected = base6::packed_len(shape);
        match reader.tensor_info(&tensor).map(|info| (info.dtype(), info.shape())) {
            Some((TensorType::U8, &[bytes])) if bytes == expected => {}
            Some((dtype, got)) => {
                return Err(format!("tensor `{tensor}` is {dtype} {got:?}, and U8 [{expected}] is needed"));
            }
            None => return Err(format!("mask `{name}`: there is no tensor `{tensor}`")),
        }
        shapes.insert(name.to_owned(), shape);
    }
    let stray = |tensor: &&TensorInfo| tensor.name().strip_suffix(BASE6).is_some_and(|name| !shapes.contains_key(name));
    match reader.tensors().find(stray) {
        Some(tensor) => Err(format!("there is no entry `{SHAPE_ENTRY}…` for tensor `{}`", tensor.name())),
        None => Ok(shapes),
    }
}

/// 0 or 1, of either sign of 0.
fn truth(value: f32) -> Option<bool> {
    match value {
        0.0 => Some(false),
        1.0 => Some(true),
        _ => None,
    }
}

/// Makes a mask of elements that are 0 or 1.
fn flags<const B: usize>(
    shape: Shape,
    fewer: Fewer,
    bytes: &[u8],
    truth: impl Fn([u8; B]) -> Option<bool>,
) -> std::result::Result<Mask, Failure> {
    let elements = bytes.as_chunks::<B>().0;
    let mut neither = None;
    let mut mask = Flags::new(shape, fewer, shape.packed_codes());
    let pushed = mask.push(elements.iter().enumerate().map(|(i, &element)| {
        truth(element).unwrap_or_else(|| {
            neither.get_or_insert(i);
            false
        })
    }));
    // A value that is neither is the cause of a group that keeps too few.
    if let Some(i) = neither {
        let [row, column] = [i / shape.cols, i % shape.cols];
        return Err(Failure::Problem(format!("row {row}, column {column} is neither 0 nor 1: is this a mask?")));
    }
    pushed?;
    Ok(mask.finish()?)
}
