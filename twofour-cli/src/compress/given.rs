//! By which masks layers are compressed.

use crate::choose::Chosen;
use crate::layer::Layer;
use crate::names::plain;
use crate::{Failure, number};
use std::path::Path;
use twofour::compress::{Compressed, Sparsity, convert};
use twofour::{E4m3, E5m2, Element, Error, bf16, f16};
use twofour_formats::masks::{Masks, Shapes};
use twofour_formats::{Reader, TensorInfo, TensorType, Weight};

/// Where masks come from.
pub(super) enum Given {
    /// Nowhere: magnitude chooses; in weights that have been pruned already, only if that was asked for.
    Magnitude {
        again: bool,
    },
    /// From a compressed model, or tensors of codes.
    Codes(Reader<'static>),
    Masks(Masks<'static>),
}

impl Given {
    pub(super) fn open(
        path: Option<&Path>,
        again: bool,
        shapes: impl FnOnce() -> Result<Shapes, Failure>,
    ) -> Result<Self, Failure> {
        let Some(path) = path else { return Ok(Self::Magnitude { again }) };
        // Tensors of codes are asked for first, for a compressed model may have others that are named as masks are.
        let codes = Reader::open(path).ok().filter(has_any_codes);
        if let Some(reader) = codes {
            return Ok(Self::Codes(reader));
        }
        let masks = Masks::open(path)?;
        if masks.names().len() == 0 {
            return Err(format!("{} has neither masks nor codes", path.display()).into());
        }
        Ok(Self::Masks(masks.with_shapes(shapes()?)))
    }

    /// Why a layer is not compressed, if there is no mask for it.
    pub(super) fn check(&self, name: &str) -> Result<(), String> {
        let has = match self {
            Self::Magnitude { .. } => true,
            Self::Codes(reader) => has_codes(reader, name),
            Self::Masks(masks) => masks.names().any(|mask| mask == name),
        };
        if has { Ok(()) } else { Err("no mask was given for it".into()) }
    }

    /// Prints what was given and is of no layer.
    pub(super) fn print_unused(&self, chosen: &Chosen) {
        let Self::Masks(masks) = self else { return };
        for name in masks.names().filter(|name| !chosen.layers.contains_key(*name)) {
            println!("not used: the mask of {}, which is no layer that was compressed", plain(name));
        }
    }

    /// Compresses a layer.
    pub(super) fn compress(&self, layer: &Layer, dense: &[u8]) -> Result<Weight, Failure> {
        match layer.dtype {
            TensorType::F16 => self.typed::<f16>(layer, dense).map(Weight::F16),
            TensorType::Bf16 => self.typed::<bf16>(layer, dense).map(Weight::Bf16),
            TensorType::F32 => self.typed::<f32>(layer, dense).map(Weight::F32),
            TensorType::F8E4m3 => self.typed::<E4m3>(layer, dense).map(Weight::E4m3),
            TensorType::F8E5m2 => self.typed::<E5m2>(layer, dense).map(Weight::E5m2),
            other => Err(format!("there are no layers of {other}").into()),
        }
    }

    fn typed<T: Element>(&self, layer: &Layer, dense: &[u8]) -> Result<Compressed<T>, Failure> {
        let Layer { name, shape, .. } = layer;
        let values = number::values::<T>(dense);
        let with = |codes: &[u8]| {
            let compressed = Compressed::with_codes(*shape, &values, codes);
            compressed.map_err(|e| Failure::from(format!("the codes given for {name} do not fit it: {e}{}", hint(&e))))
        };
        match self {
            Self::Magnitude { again } => by_magnitude(layer, dense, &values, *again),
            Self::Codes(given) => match given.weight_info(name) {
                Some(info) if info.shape() != *shape || Sparsity::of(info.value_type()) != Sparsity::of(T::DTYPE) => {
                    let (rows, cols) = (info.shape().rows, info.shape().cols);
                    Err(format!("the codes given for {name} are of {} {rows} x {cols}", info.value_type()).into())
                }
                _ => with(&codes(given, name)?.ok_or_else(|| format!("no codes are given for {name}"))?),
            },
            Self::Masks(_) if Sparsity::of(T::DTYPE) == Sparsity::OneTwo => {
                let kept = "f32 is kept 1:2, for that is how sparse tensor cores read it";
                Err(format!("{name}: its mask is 2:4, and {kept}: convert the model to bf16 or f16 first").into())
            }
            Self::Masks(masks) => with(masks.read(name)?.codes()),
        }
    }
}

/// By magnitude. A weight that somebody has pruned, and that would lose values all the same, is not pruned once more
/// unless that was asked for. Two of five values that are zero are no chance, and some groups of a weight that was to
/// be 2:4 may keep three.
fn by_magnitude<T: Element>(layer: &Layer, dense: &[u8], values: &[T], again: bool) -> Result<Compressed<T>, Failure> {
    let Layer { name, shape, .. } = layer;
    let chosen = Compressed::by_magnitude(*shape, values);
    let way_out = "--prune-again lets magnitude choose all the same, --exclude leaves it dense";
    let compressed = match chosen {
        Err(Error::TwoFourOfF32 { .. }) if again => largest_of_two(layer, dense, values)?,
        Err(e @ Error::TwoFourOfF32 { .. }) => return Err(format!("{name}: {e}; {way_out}").into()),
        chosen => chosen.map_err(|e| format!("{name}: {e}"))?,
    };
    let count = number::zeros(dense, size_of::<T>());
    if again || 5 * count < 2 * shape.weights() {
        return Ok(compressed);
    }
    let kept = compressed.values().len() - number::zeros(&number::bytes(compressed.values()), size_of::<T>());
    let lost = shape.weights() - count - kept;
    if lost > 0 {
        let all = shape.weights();
        let sparsity = if Sparsity::of(T::DTYPE) == Sparsity::OneTwo { "1:2, as f32 is kept" } else { "2:4" };
        let found = format!("{count} of its {all} values are zero already, and it is not {sparsity}");
        let found = format!("{found}: {lost} values that are not zero would be dropped");
        return Err(format!("{name}: {found}; prune it with `twofour prune`, or give --masks; {way_out}").into());
    }
    Ok(compressed)
}

/// Of `f32` that is 2:4: the larger of two.
fn largest_of_two<T: Element>(layer: &Layer, dense: &[u8], values: &[T]) -> Result<Compressed<T>, Failure> {
    let wide = number::widened(layer.dtype, dense)?;
    let pairs = wide.chunks_exact(2).flat_map(|two| {
        let first = two[0].abs() >= two[1].abs();
        [first, !first]
    });
    let codes = convert::codes_from_mask(Sparsity::OneTwo, layer.shape, &pairs.collect::<Vec<bool>>())?;
    Ok(Compressed::with_codes(layer.shape, values, &codes)?)
}

/// What is known of a code that is none.
fn hint(error: &Error) -> &'static str {
    match error {
        Error::IllegalCode { value: 0, .. } => " (groups whose logits are NaN have code 0: was the mask made of such?)",
        _ => "",
    }
}

fn codes_name(name: &str) -> String {
    format!("{name}.codes")
}

fn has_codes(codes: &Reader<'_>, name: &str) -> bool {
    let plain = || codes.tensor_info(&codes_name(name)).is_some_and(|tensor| tensor.dtype() == TensorType::U8);
    codes.weight_info(name).is_some() || plain()
}

/// Whether a file has codes of any weight: a compressed weight's, or a tensor of codes.
pub(crate) fn has_any_codes(codes: &Reader<'_>) -> bool {
    let of = |tensor: &TensorInfo| tensor.name().strip_suffix(".codes").is_some_and(|name| has_codes(codes, name));
    codes.weights().len() > 0 || codes.tensors().any(of)
}

/// The packed codes of a weight, if a file has them.
pub(crate) fn codes(codes: &Reader<'_>, name: &str) -> Result<Option<Vec<u8>>, Failure> {
    match (codes.weight_info(name), has_codes(codes, name)) {
        (Some(_), _) => Ok(Some(codes.weight(name)?.codes().to_vec())),
        (None, true) => Ok(Some(codes.tensor(&codes_name(name))?.into_owned())),
        (None, false) => Ok(None),
    }
}
