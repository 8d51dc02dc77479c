//! The linear layer whose 2:4 mask is learnt.

use std::sync::Arc;

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use candle_nn::{Init, Linear, VarBuilder};
use twofour::compress::{self, Sparsity};
use twofour::matmul::Problem;
use twofour::{Cpu, Executor, Shape, Shard, bf16, learn, noise};
use twofour_formats::Weight;

use crate::claim::Claim;
use crate::compressed::{CompressedLinear, compressed_as};
use crate::number::{Score, check_types, ready, wrap};
use crate::ops::linear::Product;
use crate::ops::{self, Masks};
use crate::sampler::Sampler;

/// A linear layer `y = x (W∘M)ᵀ + b` over a frozen weight, whose mask `M` is drawn from logits that are learnt.
///
/// Takes the place of a [`Linear`]. What it multiplies by, its [`Sampler`] says: `W` under soft or hard masks in
/// training, under those of the largest logits in evaluation. The logits are a variable for any of candle's optimisers.
///
/// ```
/// use candle_core::{DType, Device, Module, Tensor};
/// use candle_nn::{AdamW, Linear, Optimizer, ParamsAdamW};
/// use twofour_candle::{MaskedLinear, Mode, Sampler};
///
/// # fn main() -> candle_core::Result<()> {
/// let linear = Linear::new(Tensor::randn(0f32, 0.1, (64, 32), &Device::Cpu)?, None);
///
/// let sampler = Sampler::new(42);
/// let layer = MaskedLinear::from_linear(&linear, 0, &sampler)?;
/// let mut optimiser = AdamW::new(vec![layer.logits().clone()], ParamsAdamW { lr: 0.01, ..Default::default() })?;
///
/// let x = Tensor::randn(0f32, 1.0, (4, 16, 32), &Device::Cpu)?;
/// let target = linear.forward(&x)?;
/// for step in 0..3 {
///     sampler.update(|now| now.step = step)?;
///     let loss = (layer.forward(&x)? - &target)?.sqr()?.mean_all()?;
///     optimiser.backward_step(&loss)?;
/// }
/// sampler.update(|now| now.mode = Mode::Argmax)?;
/// let y = layer.forward(&x)?;
/// assert_eq!(y.dims(), [4, 16, 64]);
/// // 2:4, in the memory that it takes.
/// let weight = layer.compressed_as(DType::BF16)?;
/// assert_eq!(weight.codes().len(), 64 * 32 / 8);
/// # Ok(())
/// # }
/// ```
///
/// # Memory
///
/// Per masked weight: the weight itself, and a logit and a half, as many gradients, and whatever the optimiser keeps
/// for them. Between forward and backward pass nothing is kept but `x`.
///
/// Logits of `bf16` are for [`FusedLinear`](crate::FusedLinear), which rounds them stochastically: candle's optimisers
/// round to the nearest, and a step below half of a logit's spacing (1/256 of it or so) is lost.
///
/// # Evaluation
///
/// candle does not tell when a variable changes, so nothing made of the logits is ever remembered: under
/// [`Mode::Argmax`](crate::Mode::Argmax) each call makes the mask anew. For many calls use
/// [`to_linear`](Self::to_linear) or [`to_compressed`](Self::to_compressed).
#[derive(Debug, Clone)]
pub struct MaskedLinear {
    weight: Tensor,
    bias: Option<Tensor>,
    logits: Var,
    shape: Shape,
    layer: Arc<Claim>,
    sampler: Sampler,
}

impl MaskedLinear {
    /// In place of a layer, with its weight, which no gradient reaches any more, and its bias. `layer` is the layer's
    /// number in the model ([`new`](Self::new)). All logits are zero, as `f32`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_linear(linear: &Linear, layer: u32, sampler: &Sampler) -> Result<Self> {
        let shape = ops::shape_of(linear.weight())?;
        let size = (shape.rows, shape.cols / 4, 6);
        let logits = Var::zeros(size, DType::F32, linear.weight().device())?;
        Self::new(linear.weight(), linear.bias(), logits, layer, sampler)
    }

    /// With the weight `[out_dim, in_dim]` and, if there is to be one, the bias that are `weight` and `bias` of a
    /// [`VarBuilder`], and with its `logits [N, K/4, 6]`, as `f32`, where it has or makes them (a `VarMap` does both);
    /// otherwise they are zero. `layer` is the layer's number in the model ([`new`](Self::new)).
    ///
    /// # Errors
    /// As [`new`](Self::new); what is not there, or of another shape.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_nn::VarBuilder;
    /// use twofour_candle::{MaskedLinear, Sampler};
    ///
    /// # fn main() -> candle_core::Result<()> {
    /// let weight = Tensor::randn(0f32, 0.1, (64, 32), &Device::Cpu)?;
    /// let checkpoint = [("mlp.up.weight".to_owned(), weight)].into();
    /// let vb = VarBuilder::from_tensors(checkpoint, DType::BF16, &Device::Cpu);
    /// let layer = MaskedLinear::load(32, 64, false, vb.pp("mlp.up"), 0, &Sampler::new(42))?;
    /// assert_eq!(layer.logits().dims(), [64, 8, 6]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn load(
        in_dim: usize,
        out_dim: usize,
        bias: bool,
        vb: VarBuilder<'_>,
        layer: u32,
        sampler: &Sampler,
    ) -> Result<Self> {
        let linear = ops::load_linear(in_dim, out_dim, bias, vb.clone())?;
        let size = (out_dim, in_dim / 4, 6);
        let logits = match vb.get_with_hints_dtype(size, "logits", Init::Const(0.0), DType::F32) {
            Err(_) if !vb.contains_tensor("logits") => Tensor::zeros(size, DType::F32, vb.device())?,
            logits => logits?,
        };
        // A variable that is one already stays the builder's.
        Self::new(linear.weight(), linear.bias(), Var::from_tensor(&logits)?, layer, sampler)
    }

    /// From its parts: `weight [N, K]` of `f32`, `f16` or `bf16`, `logits [N, K/4, 6]` of `f32` or `bf16`, bias `[N]`,
    /// which may be a variable.
    ///
    /// # The layer's number
    ///
    /// Layers with different numbers draw different masks. Numbers from 65,536 on take bits of the step's
    /// ([`noise::draw`]). A number is one weight's, as long as a layer over that weight lives: several layers may be
    /// over one weight in memory (copies of a layer, and layers made of its [`weight`](Self::weight)), and each over a
    /// shard of one ([`with_shard`](Self::with_shard)); but not over two weights, even if their values are the same.
    ///
    /// # Errors
    /// Shapes, types or devices that do not fit; K must be a multiple of 4. A number that is another weight's.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, logits: Var, layer: u32, sampler: &Sampler) -> Result<Self> {
        let shape = ops::shape_of(weight)?;
        ops::check_logits(shape, &logits)?;
        ops::same_device([weight, &logits, bias.unwrap_or(weight)])?;
        check_types(logits.dtype(), weight.dtype())?;
        ops::check_bias(shape, bias, weight.dtype())?;
        // Once here: otherwise a view that kernels do not take as it lies would be copied in every pass, or refused.
        let weight = ready(&weight.detach())?;
        let layer = sampler.numbers().claim(layer, &weight, shape, None)?;
        Ok(Self { weight, bias: bias.cloned(), logits, shape, layer, sampler: sampler.clone() })
    }

    /// Says that the weight is a slice of a larger one; its masks are then the slice of the larger one's. Slices share
    /// the larger one's number. (Made one after the other: say it of one before the next is made.)
    ///
    /// # Errors
    /// A slice that does not lie in the larger weight on group boundaries, or that meets another slice of that number.
    pub fn with_shard(mut self, shard: Shard) -> Result<Self> {
        shard.check(self.shape.rows as u64, self.shape.cols as u64).map_err(wrap)?;
        self.layer = self.sampler.numbers().claim(self.layer(), &self.weight, self.shape, Some(shard))?;
        Ok(self)
    }

    /// Sets the logits to what a run begins with ([`twofour::learn::Initial`]): normal noise of deviation `sigma`, and
    /// with packed codes of a mask that is known, a push towards it by `alpha` deviations. MaskLLM has `sigma` 0.01 and
    /// `alpha` 3, and SparseGPT's mask. The noise depends on the sampler's seed and the layer's number.
    ///
    /// # Errors
    /// Scalars outside their domain, codes of another length or that are not legal.
    pub fn initialise(&self, sigma: f64, prior: Option<(&[u8], f64)>) -> Result<()> {
        let logits = match self.logits.dtype() {
            DType::F32 => self.initial::<f32>(sigma, prior)?,
            _ => self.initial::<bf16>(sigma, prior)?,
        };
        self.logits.set(&logits.to_device(self.logits.device())?)
    }

    fn initial<L: Score>(&self, sigma: f64, prior: Option<(&[u8], f64)>) -> Result<Tensor> {
        let seed = self.sampler.seed() ^ noise::draw(self.layer(), 0, 0);
        let mut logits = Cpu.zeros::<L>(self.shape.logits()).map_err(wrap)?;
        let pass = learn::Initial::new(self.shape, seed, sigma, &mut logits);
        let pass = pass.shard(self.layer.shard().unwrap_or(Shard::whole(self.shape.cols as u64)));
        let pass = match prior {
            Some((codes, alpha)) => pass.prior(codes, alpha),
            None => pass,
        };
        Cpu.run(pass).map_err(wrap)?;
        Tensor::from_vec(logits, self.logits.dims(), &Device::Cpu)
    }

    /// What is learnt.
    #[must_use]
    pub fn logits(&self) -> &Var {
        &self.logits
    }

    /// The frozen weight.
    #[must_use]
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias.
    #[must_use]
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// `[N, K]` of the weight.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Its number in the model.
    #[must_use]
    pub fn layer(&self) -> u32 {
        self.layer.number()
    }

    /// What says how masks are drawn.
    #[must_use]
    pub fn sampler(&self) -> &Sampler {
        &self.sampler
    }

    /// The codes of the masks of the largest logits, on the host, packed: two groups a byte, the even one in the low
    /// half.
    ///
    /// # Errors
    /// A group whose logits have no finite maximum, by its number; what the device may give.
    pub fn codes(&self) -> Result<Vec<u8>> {
        let codes = ops::codes(&self.logits, self.sampler.argmax())?.to_vec1::<u8>()?;
        compress::check_codes(Sparsity::TwoFour, self.shape, &codes).map_err(wrap)?;
        Ok(codes)
    }

    /// The weight under those masks, compressed, on the host: for [`twofour_formats::Manifest`] and its
    /// [`Writer::any_weight`](twofour_formats::Writer::any_weight).
    ///
    /// # Errors
    /// As [`codes`](Self::codes), and a weight of `f32`, of which tensor cores keep one of two: see
    /// [`compressed_as`](Self::compressed_as).
    pub fn compressed(&self) -> Result<Weight> {
        self.compressed_as(self.weight.dtype())
    }

    /// The same with the weight rounded to `f16` or `bf16` first.
    ///
    /// # Errors
    /// As [`codes`](Self::codes), and another type.
    pub fn compressed_as(&self, dtype: DType) -> Result<Weight> {
        compressed_as(&self.weight, self.shape, &self.codes()?, dtype)
    }

    /// A dense layer with the weight under the masks of the largest logits.
    ///
    /// # Errors
    /// What making masks may give.
    pub fn to_linear(&self) -> Result<Linear> {
        let masked = ops::masked_weight(&self.weight, &self.logits, self.sampler.argmax())?;
        Ok(Linear::new(masked, self.bias.clone()))
    }

    /// A layer with that weight compressed, on the same device.
    ///
    /// # Errors
    /// As [`compressed`](Self::compressed).
    pub fn to_compressed(&self) -> Result<CompressedLinear> {
        let bias = self.bias.as_ref().map(Tensor::detach);
        CompressedLinear::new(&self.compressed()?, bias.as_ref(), self.weight.device(), self.sampler.engine())
    }

    /// The masks of now, of this slice; `None` for the dense weight.
    fn masks(&self) -> Result<Option<Masks>> {
        let masks = self.sampler.masks(&self.layer)?;
        Ok(masks.map(|masks| match self.layer.shard() {
            Some(shard) => masks.shard(shard),
            None => masks,
        }))
    }

    /// The forward pass with a product of another making. It takes `x [T, K]`, and the product as it would be.
    pub(crate) fn forward_by(
        &self,
        x: &Tensor,
        product: impl FnOnce(&Tensor, Product) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let Some(masks) = self.masks()? else { return self.forward(x) };
        let y = ops::over_tokens(x, self.weight.dtype(), self.shape, |x, tokens| {
            let (problem, engine) = (Problem::new(tokens, self.shape), self.sampler.engine().clone());
            product(x, Product { masks, problem, engine })
        })?;
        ops::biased(y, self.bias.as_ref())
    }
}

impl Module for MaskedLinear {
    /// `x [.., K]` to `[.., N]`, with any leading dimensions.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = match self.masks()? {
            Some(masks) => ops::masked_linear(x, &self.weight, &self.logits, masks, self.sampler.engine())?,
            None => ops::over_tokens(x, self.weight.dtype(), self.shape, |x, _| x.matmul(&self.weight.t()?))?,
        };
        ops::biased(y, self.bias.as_ref())
    }
}
