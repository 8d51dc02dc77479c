//! The linear layer with a compressed weight.

use candle_core::{Device, Module, Result, Tensor};
use twofour::Shape;
use twofour_formats::Weight;

use crate::engine::Engine;
use crate::ops::{self, Compressed};

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
        let bias = match bias {
            Some(bias) if bias.dims() != [weight.shape().rows] || bias.dtype() != weight.dtype() => {
                let (dims, dtype, wanted) = (bias.dims(), bias.dtype().as_str(), weight.dtype().as_str());
                candle_core::bail!("the bias is {dims:?} {dtype}, and must be [{}] {wanted}", weight.shape().rows)
            }
            Some(bias) => Some(bias.detach().to_device(device)?),
            None => None,
        };
        Ok(Self { weight, bias, engine: engine.clone() })
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
