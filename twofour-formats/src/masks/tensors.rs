//! Masks in safetensors files: zeros and ones, and base 6.

use super::bits::Flags;
use super::{Fewer, Form, MASK, Mask, base6, weight_of};
use crate::check::zeros;
use crate::error::Result;
use crate::{Reader, TensorInfo, TensorType};
use std::collections::BTreeMap;
use twofour::Shape;

pub(super) const VERSION: &str = "1";
pub(super) const VERSION_ENTRY: &str = "twofour_masks.version";
pub(super) const SHAPE_ENTRY: &str = "twofour_masks.shape.";
pub(super) const BASE6: &str = ".base6";

/// The entry of a weight's mask whose groups run along another dimension than the last, and the only one there is.
pub(super) const AXIS_ENTRY: &str = "twofour_masks.axis.";
pub(super) const AXIS: &str = "-2";

/// A file whose tensors are masks, maybe among others.
#[derive(Debug)]
pub(super) struct Tensors<'a> {
    reader: Reader<'a>,
    masks: Masks,
}

#[derive(Debug)]
enum Masks {
    /// Shapes of masks.
    Base6(BTreeMap<String, Shape>),
    /// Names of tensors, and whether their groups run along the dimension before the last.
    Flags(BTreeMap<String, (String, bool)>),
}

type Problem<T> = std::result::Result<T, String>;

impl<'a> Tensors<'a> {
    /// Finds out which masks there are. What is wrong is said without the file's name.
    pub(super) fn new(reader: Reader<'a>) -> Problem<Self> {
        let version = reader.metadata().find(|(key, _)| *key == VERSION_ENTRY).map(|(_, version)| version.to_owned());
        let masks = match version.as_deref() {
            None => Masks::Flags(flagged(&reader)?),
            Some(VERSION) => Masks::Base6(shapes(&reader)?),
            Some(other) => {
                return Err(format!("`{VERSION_ENTRY}` is `{other}`, and this release of twofour reads {VERSION}"));
            }
        };
        Ok(Self { reader, masks })
    }

    pub(super) fn form(&self) -> Form {
        match self.masks {
            Masks::Base6(_) => Form::Base6,
            Masks::Flags(_) => Form::Flags,
        }
    }

    pub(super) fn names(&self) -> Vec<String> {
        match &self.masks {
            Masks::Base6(shapes) => shapes.keys().cloned().collect(),
            Masks::Flags(tensors) => tensors.keys().cloned().collect(),
        }
    }

    /// The shape of one of the masks. More than two dimensions are rows as the weight's shape has them, if it is given.
    pub(super) fn shape(&self, name: &str, given: Option<Shape>) -> Problem<Shape> {
        let missing = || String::from("is not there");
        let (tensor, across) = match &self.masks {
            Masks::Base6(shapes) => return shapes.get(name).copied().ok_or_else(missing),
            Masks::Flags(tensors) => tensors.get(name).ok_or_else(missing)?,
        };
        let sizes = self.reader.tensor_info(tensor).map(TensorInfo::shape).ok_or_else(missing)?;
        let product = |sizes: &[usize]| sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        let shape = match *sizes {
            [ref above @ .., inputs, outputs] if *across => {
                product(above).and_then(|above| above.checked_mul(outputs)).map(|rows| Shape::new(rows, inputs))
            }
            [rows, cols] => Some(Shape::new(rows, cols)),
            [first, ref below @ .., _] if !below.is_empty() => match given {
                Some(given) if given.rows.checked_mul(given.cols) == product(sizes) => Some(given),
                _ if sizes[sizes.len() - 1].is_multiple_of(4) => {
                    product(&sizes[..sizes.len() - 1]).map(|rows| Shape::new(rows, sizes[sizes.len() - 1]))
                }
                _ => product(&sizes[1..]).map(|cols| Shape::new(first, cols)),
            },
            _ => return Err(format!("is of shape {sizes:?}, and masks are [N, K]")),
        };
        shape.ok_or_else(|| format!("is of shape {sizes:?}, which is too large"))
    }

    /// Reads a mask of this shape, which has been checked.
    pub(super) fn read(&self, name: &str, shape: Shape, fewer: Fewer) -> Result<std::result::Result<Mask, Failure>> {
        let (tensor, across) = match &self.masks {
            Masks::Base6(_) => {
                let packed = self.reader.tensor(&format!("{name}{BASE6}"))?;
                let codes = base6::unpack(shape, &packed).map(|codes| Mask::of_checked(shape, codes));
                return Ok(codes.map_err(Failure::Error));
            }
            Masks::Flags(tensors) => match tensors.get(name) {
                Some(tensor) => tensor,
                None => return Ok(Err(Failure::Problem("is not there".into()))),
            },
        };
        let Some(info) = self.reader.tensor_info(tensor) else {
            return Ok(Err(Failure::Problem("is not there".into())));
        };
        let mut bytes = self.reader.tensor(tensor)?;
        if let (true, &[.., inputs, outputs]) = (*across, info.shape()) {
            match transposed(&bytes, inputs, outputs, info.dtype().bits() / 8) {
                Ok(rows) => bytes = rows.into(),
                Err(error) => return Ok(Err(Failure::Error(error))),
            }
        }
        Ok(match info.dtype() {
            TensorType::Bool | TensorType::U8 | TensorType::I8 => flags::<1>(shape, fewer, &bytes, whole),
            TensorType::I16 | TensorType::U16 => flags::<2>(shape, fewer, &bytes, whole),
            TensorType::I32 | TensorType::U32 => flags::<4>(shape, fewer, &bytes, whole),
            TensorType::I64 | TensorType::U64 => flags::<8>(shape, fewer, &bytes, whole),
            TensorType::F16 => flags(shape, fewer, &bytes, |b| truth(twofour::f16::from_le_bytes(b).to_f32())),
            TensorType::Bf16 => flags(shape, fewer, &bytes, |b| truth(twofour::bf16::from_le_bytes(b).to_f32())),
            TensorType::F32 => flags(shape, fewer, &bytes, |bytes| truth(f32::from_le_bytes(bytes))),
            other => {
                let known = "and masks are BOOL, integers, F16, BF16 or F32";
                Err(Failure::Problem(format!("is of type {other}, {known}")))
            }
        })
    }
}

/// The masks of zeros and ones, by the names of their weights.
fn flagged(reader: &Reader<'_>) -> Problem<BTreeMap<String, (String, bool)>> {
    let mut axes = BTreeMap::new();
    for (key, axis) in reader.metadata() {
        let Some(name) = key.strip_prefix(AXIS_ENTRY) else { continue };
        if axis != AXIS {
            return Err(format!("`{key}` is `{axis}`, and {AXIS} is the only one that is known"));
        }
        axes.insert(name, ());
    }
    let mut masks = BTreeMap::new();
    for tensor in reader.tensors() {
        let name = tensor.name();
        // What ends in `_mask` may be of something else, attention say, but no vector is a mask of weights.
        let Some(weight) = weight_of(name).filter(|_| name.ends_with(MASK) || tensor.shape().len() > 1) else {
            continue;
        };
        let mask = (name.to_owned(), axes.contains_key(weight));
        if let Some((other, _)) = masks.insert(weight.to_owned(), mask) {
            return Err(format!("there are two masks of `{weight}`: `{other}` and `{name}`"));
        }
    }
    Ok(masks)
}

/// Matrices `[rows, cols]`, one after another, each transposed; of elements of so many bytes.
pub(super) fn transposed(bytes: &[u8], rows: usize, cols: usize, size: usize) -> twofour::Result<Vec<u8>> {
    let mut to = zeros("a mask", bytes.len())?;
    let matrix = rows.saturating_mul(cols).saturating_mul(size).max(1);
    for (to, from) in to.chunks_exact_mut(matrix).zip(bytes.chunks_exact(matrix)) {
        for (i, element) in from.chunks_exact(size.max(1)).enumerate() {
            let at = (i % cols * rows + i / cols) * size;
            to[at..at + size].copy_from_slice(element);
        }
    }
    Ok(to)
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

/// 0 or 1, of either sign of 0; or what it is instead.
pub(super) fn truth(value: f32) -> std::result::Result<bool, &'static str> {
    match value {
        0.0 => Ok(false),
        1.0 => Ok(true),
        _ if value.is_nan() => Err("NaN, as of logits that are NaN"),
        _ => Err(NEITHER),
    }
}

const NEITHER: &str = "neither 0 nor 1";

/// An integer that is 0 or 1.
pub(super) fn whole<const B: usize>(bytes: [u8; B]) -> std::result::Result<bool, &'static str> {
    match bytes.split_first() {
        Some((flag @ (0 | 1), above)) if above.iter().all(|&byte| byte == 0) => Ok(*flag == 1),
        _ => Err(NEITHER),
    }
}

/// Makes a mask of elements that are 0 or 1.
fn flags<const B: usize>(
    shape: Shape,
    fewer: Fewer,
    bytes: &[u8],
    truth: impl Fn([u8; B]) -> std::result::Result<bool, &'static str>,
) -> std::result::Result<Mask, Failure> {
    let elements = bytes.as_chunks::<B>().0;
    let mut neither = None;
    let mut mask = Flags::new(shape, fewer, shape.packed_codes());
    let pushed = mask.push(elements.iter().enumerate().map(|(i, &element)| {
        truth(element).unwrap_or_else(|what| {
            neither.get_or_insert((i, what));
            false
        })
    }));
    // A value that is neither is the cause of a group that keeps too few.
    if let Some((i, what)) = neither {
        let [row, column] = [i / shape.cols, i % shape.cols];
        return Err(Failure::Problem(format!("row {row}, column {column} is {what}: is this a mask?")));
    }
    pushed?;
    Ok(mask.finish()?)
}
