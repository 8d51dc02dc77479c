//! The linear layer with a compressed weight.

use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use twofour::compress;
use twofour::{Cpu, Factor, Shape, bf16, f16};
use twofour_formats::Weight;

use crate::engine::Engine;
use crate::number::{Number, ready, wrap};
use crate::ops::{self, Compressed};
use crate::place::Operand;

/// A linear layer `y = x Wᵀ + b` with a compressed 2:4 weight, for inference: 9/16 of the memory of the dense one. On a
/// CUDA device it runs on sparse tensor cores where that is faster. No gradient goes through it.
///
/// ```
/// use candle_core::{DType, Device, Module, Tensor};
/// use twofour::compress::Compressed;
/// use twofour::{Shape, bf16};
/// use twofour_candle::{CompressedLinear, Engine};
/// use twofour_formats::Weight;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let dense: Vec<bf16> = [1., 0., 0., 2.].map(bf16::from_f32).to_vec();
/// let weight = Weight::Bf16(Compressed::from_sparse(Shape::new(1, 4), &dense)?);
/// let layer = CompressedLinear::new(&weight, None, &Device::Cpu, &Engine::default())?;
/// let x = Tensor::new(&[1_f32, 10., 100., 1000.], &Device::Cpu)?.to_dtype(DType::BF16)?;
/// assert_eq!(layer.forward(&x)?.to_dtype(DType::F32)?.to_vec1::<f32>()?, [2000.0]); // 2001, in eight bits
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct CompressedLinear {
    weight: Compressed,
    bias: Option<Tensor>,
    engine: Engine,
}

impl CompressedLinear {
    /// From a weight of `f16` or `bf16`, as files hold it ([`twofour_formats::Reader::weight`]), and a bias `[N]` of
    /// its type.
    ///
    /// # Errors
    /// A weight of another type, a bias that does not fit, and what copying to the device may give.
    pub fn new(weight: &Weight, bias: Option<&Tensor>, device: &Device, engine: &Engine) -> Result<Self> {
        let weight = Compressed::new(weight, device)?;
        ops::check_bias(weight.shape(), bias, weight.dtype())?;
        let bias = bias.map(|bias| bias.detach().to_device(device)).transpose()?;
        Ok(Self { weight, bias, engine: engine.clone() })
    }

    /// With the weight `[out_dim, in_dim]` of a [`VarBuilder`] of `f16` or `bf16`: compressed, `weight.values` and
    /// `weight.codes` as files of [`twofour_formats`] hold it, or `weight`, dense, of which no group of four has more
    /// than two that are not zero. And with `bias`, if there is to be one. Nothing of it becomes a variable.
    ///
    /// # Errors
    /// What is not there, or of another shape or type; codes that are not legal, and a dense weight that is not 2:4, by
    /// the group's number.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_nn::VarBuilder;
    /// use twofour_candle::{CompressedLinear, Engine};
    ///
    /// # fn main() -> candle_core::Result<()> {
    /// let weight = Tensor::new(&[[0_f32, 1., 2., 0., 0., 0., 3., 0.]], &Device::Cpu)?;
    /// let vb = VarBuilder::from_tensors([("up.weight".to_owned(), weight)].into(), DType::BF16, &Device::Cpu);
    /// let layer = CompressedLinear::load(8, 1, false, vb.pp("up"), &Engine::default())?;
    /// assert_eq!(layer.weight().bytes(), 4 * 2 + 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn load(in_dim: usize, out_dim: usize, bias: bool, vb: VarBuilder<'_>, engine: &Engine) -> Result<Self> {
        let shape = Shape::new(out_dim, in_dim);
        shape.check().map_err(wrap)?;
        let weight = match vb.dtype() {
            DType::F16 => Weight::F16(loaded::<f16>(shape, &vb)?),
            DType::BF16 => Weight::Bf16(loaded::<bf16>(shape, &vb)?),
            other => candle_core::bail!(
                "the builder's type is {}, and a 2:4 weight is compressed as f16 or bf16: use `vb.to_dtype(DType::BF16)`",
                other.as_str()
            ),
        };
        let bias = if bias { Some(vb.get(out_dim, "bias")?) } else { None };
        Self::new(&weight, bias.as_ref(), vb.device(), engine)
    }

    /// `[N, K]` of the dense weight.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.weight.shape()
    }

    /// The weight.
    #[must_use]
    pub fn weight(&self) -> &Compressed {
        &self.weight
    }

    /// The bias.
    #[must_use]
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }
}

impl Module for CompressedLinear {
    /// `x [.., K]`, of the weight's type, to `[.., N]`, with any leading dimensions.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::compressed_linear(x, &self.weight, self.bias.as_ref(), &self.engine)
    }
}

/// A weight `[N, K]` under a mask, rounded to `f16` or `bf16` and compressed, on the host.
pub(crate) fn compressed_as(weight: &Tensor, shape: Shape, codes: &[u8], dtype: DType) -> Result<Weight> {
    let weight = || ready(&weight.detach().to_dtype(dtype)?.to_device(&Device::Cpu)?);
    match dtype {
        DType::F16 => Ok(Weight::F16(compressed::<f16>(&weight()?, shape, codes)?)),
        DType::BF16 => Ok(Weight::Bf16(compressed::<bf16>(&weight()?, shape, codes)?)),
        other => candle_core::bail!(
            "a 2:4 weight is compressed as f16 or bf16, not as {}: use `compressed_as(DType::BF16)`",
            other.as_str()
        ),
    }
}

/// The weight of a builder, compressed there or dense.
fn loaded<W: Number + Factor>(shape: Shape, vb: &VarBuilder<'_>) -> Result<compress::Compressed<W>> {
    let here = |tensor: Tensor| ready(&tensor.detach().to_device(&Device::Cpu)?);
    if vb.contains_tensor("weight.values") {
        let values = here(vb.get((shape.rows, shape.cols / 2), "weight.values")?)?.flatten_all()?.to_vec1::<W>()?;
        let codes = vb.get_with_hints_dtype(shape.packed_codes(), "weight.codes", Init::default(), DType::U8)?;
        return compress::Compressed::new(shape, values, codes.to_vec1::<u8>()?).map_err(wrap);
    }
    let weight = here(vb.get((shape.rows, shape.cols), "weight")?)?;
    let (storage, layout) = weight.storage_and_layout();
    compress::Compressed::from_sparse(shape, Operand::<Cpu>::of(&storage, layout)?.elements::<W>()?).map_err(wrap)
}

fn compressed<W: Number + Factor>(weight: &Tensor, shape: Shape, codes: &[u8]) -> Result<compress::Compressed<W>> {
    let (storage, layout) = weight.storage_and_layout();
    let dense = Operand::<Cpu>::of(&storage, layout)?.elements::<W>()?;
    compress::Compressed::with_codes(shape, dense, codes).map_err(wrap)
}
