//! Which tensors are layers to be compressed, and by which masks.

use crate::names::{any, is_linear, matches, some};
use crate::number::Number;
use crate::{Args, Failure};
use std::collections::BTreeMap;
use std::path::Path;
use twofour::compress::{Compressed, Sparsity};
use twofour::{DType, Shape};
use twofour_formats::masks::Masks;
use twofour_formats::{Reader, TensorInfo, TensorType};

/// What there is instead of names.
const NONE: &str = "no tensors that have groups of four";

/// The layers to compress, by name.
pub(crate) struct Layers {
    layers: BTreeMap<String, (Shape, DType)>,
    /// Where their masks come from, if they are given.
    codes: Option<Reader<'static>>,
}

impl Layers {
    pub(crate) fn new(args: &Args, readers: &[(&str, Reader<'_>)]) -> Result<Self, Failure> {
        let codes = args.codes.as_deref().map(open).transpose()?;
        let possible = readers.iter().flat_map(|(_, reader)| reader.tensors()).filter_map(|tensor| {
            let (shape, value_type) = compressible(tensor)?;
            Some((tensor.name().to_owned(), (shape, value_type)))
        });
        let possible: BTreeMap<_, _> = possible.collect();
        for pattern in &args.only {
            if !possible.keys().any(|name| matches(pattern, name)) {
                return Err(format!("--only {pattern} matches none of {}", some(possible.keys(), NONE)).into());
            }
        }
        let wanted = |name: &str| {
            let given = codes.as_ref().map(|codes| has_codes(codes, name));
            let named = any(&args.only, name);
            match given {
                Some(given) => given && (named || args.only.is_empty()),
                None => named || args.only.is_empty() && (args.all || is_linear(name)),
            }
        };
        let layers: BTreeMap<_, _> = possible.iter().filter(|(name, _)| wanted(name)).collect();
        if layers.is_empty() {
            let why = if codes.is_some() { "codes were given for none of" } else { "no linear layer among" };
            let what = some(possible.keys(), NONE);
            return Err(format!("nothing to compress: {why} {what}; --only PATTERN or --all choose others").into());
        }
        let layers = layers.into_iter().map(|(name, &layer)| (name.clone(), layer)).collect();
        Ok(Self { layers, codes })
    }

    /// Shape and type of a layer that is to be compressed.
    pub(crate) fn get(&self, name: &str) -> Option<(Shape, DType)> {
        self.layers.get(name).copied()
    }

    /// Compresses a layer.
    pub(crate) fn compress<T: Number>(&self, name: &str, shape: Shape, dense: &[T]) -> Result<Compressed<T>, Failure> {
        let Some(given) = &self.codes else {
            return Compressed::by_magnitude(shape, dense).map_err(|e| format!("{name}: {e}").into());
        };
        let with = |codes: &[u8]| {
            Compressed::with_codes(shape, dense, codes)
                .map_err(|e| format!("the codes given for {name} do not fit it: {e}").into())
        };
        match given.weight_info(name) {
            Some(info) if info.shape() != shape || Sparsity::of(info.value_type()) != Sparsity::of(T::DTYPE) => {
                let (rows, cols) = (info.shape().rows, info.shape().cols);
                Err(format!("the codes given for {name} are of {} {rows} x {cols}", info.value_type()).into())
            }
            Some(_) => with(given.weight(name)?.codes()),
            None => with(&given.tensor(&codes_name(name))?),
        }
    }
}

/// Opens a file with codes. One of masks is not one, though codes could be made of it.
fn open(path: &Path) -> Result<Reader<'static>, Failure> {
    match Masks::open(path) {
        Ok(masks) if masks.names().len() > 0 => {
            let (path, form) = (path.display(), masks.form());
            let taken = "--codes takes a compressed model, or tensors <name>.codes";
            Err(format!("{path} is a file of masks ({form}), and {taken}: masks are not taken here yet").into())
        }
        _ => Ok(Reader::open(path)?),
    }
}

/// A tensor that has groups, and values that magnitudes can be taken of.
fn compressible(tensor: &TensorInfo) -> Option<(Shape, DType)> {
    let &[rows, cols] = tensor.shape() else { return None };
    let value_type = tensor.dtype().value_type().filter(|&value_type| value_type != DType::I8)?;
    (rows > 0 && cols > 0 && cols % 4 == 0).then_some((Shape::new(rows, cols), value_type))
}

fn codes_name(name: &str) -> String {
    format!("{name}.codes")
}

fn has_codes(codes: &Reader<'_>, name: &str) -> bool {
    let plain = || codes.tensor_info(&codes_name(name)).is_some_and(|tensor| tensor.dtype() == TensorType::U8);
    codes.weight_info(name).is_some() || plain()
}
