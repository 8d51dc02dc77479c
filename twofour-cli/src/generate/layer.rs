//! A linear layer as text is made with it.

use crate::Failure;
use crate::eval::Change;
use candle_core::{DType, Device, Result as CandleResult, Tensor};
use candle_nn::{Linear, Module};
use twofour_candle::{CompressedLinear, Engine, FrozenMaskLinear};
use twofour_formats::Weight;

/// Dense, or compressed.
pub(super) enum Decoding {
    Dense(Linear),
    /// In 16 bits, between activations in f32.
    Sparse(CompressedLinear),
}

impl Decoding {
    /// A layer with what it is changed to, if it is; a weight that is not of 16 bits becomes one of this type.
    pub(super) fn new(
        change: &Change,
        name: &str,
        linear: Linear,
        dtype: DType,
        engine: &Engine,
    ) -> Result<Self, Failure> {
        let device = linear.weight().device().clone();
        let made = (|| {
            let Some(weight) = weight(change, name, &linear, dtype, engine)? else { return Ok(None) };
            let dtype = if matches!(weight, Weight::F16(_)) { DType::F16 } else { DType::BF16 };
            let bias = linear.bias().map(|bias| bias.to_dtype(dtype)).transpose()?;
            Ok::<_, Failure>(Some(CompressedLinear::new(&weight, bias.as_ref(), &device, engine)?))
        })();
        match made.map_err(|e| format!("`{name}`: {e}"))? {
            Some(layer) => Ok(Self::Sparse(layer)),
            None => Ok(Self::Dense(linear)),
        }
    }

    /// Whether it computes in f16.
    pub(super) fn is_f16(&self) -> bool {
        matches!(self, Self::Sparse(layer) if layer.weight().dtype() == DType::F16)
    }
}

/// The compressed weight of a layer that has a mask, or is compressed.
fn weight(
    change: &Change,
    name: &str,
    linear: &Linear,
    dtype: DType,
    engine: &Engine,
) -> Result<Option<Weight>, Failure> {
    let compressed = change.compressed(name)?;
    let mask = change.mask(name)?;
    if let (None, Some(weight @ (Weight::F16(_) | Weight::Bf16(_)))) = (&mask, &compressed) {
        return Ok(Some(weight.clone()));
    }
    // A mask is of what is compressed, if both are there; other types are rounded.
    let dense = match &compressed {
        Some(weight) => crate::model::dense(weight)?.to_device(&Device::Cpu)?,
        None => linear.weight().clone(),
    };
    let dense = Linear::new(dense, None);
    let frozen = match (mask, compressed) {
        (Some(mask), _) => FrozenMaskLinear::new(&dense, mask, engine)?,
        (None, Some(_)) => FrozenMaskLinear::from_sparse(&dense, engine)?,
        (None, None) => return Ok(None),
    };
    Ok(Some(frozen.compressed_as(dtype)?))
}

impl Module for Decoding {
    fn forward(&self, x: &Tensor) -> CandleResult<Tensor> {
        match self {
            Self::Dense(linear) => linear.forward(x),
            Self::Sparse(layer) => layer.forward(&x.to_dtype(layer.weight().dtype())?)?.to_dtype(x.dtype()),
        }
    }
}
