//! The linear layer whose mask stays as it is, and whose weight trains.

use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::{Linear, VarBuilder};
use twofour::select::ByScore;
use twofour::{Cpu, Executor, Shape};
use twofour_formats::Weight;
use twofour_formats::masks::{Fewer, Mask};

use crate::compressed::{CompressedLinear, compressed_as};
use crate::engine::Engine;
use crate::number::{check_weight, ready, with_weight, wrap};
use crate::ops;
use crate::place::Operand;

/// A linear layer `y = x (W∘M)ᵀ + b` under a mask `M` that does not move, whose weight trains: the recovery of a pruned
/// model (retraining, sparse fine-tuning).
///
/// The weight and the bias train if they are variables, with any of candle's optimisers; otherwise they are frozen, as
/// for a LoRA beside the layer. The gradient of the weight is `G∘M`, with `G = dYᵀ X` that of `W∘M`: exactly 0 where the
/// mask drops. So a dropped weight stays where it is (decay aside), and whatever it is, it has no part in anything:
/// neither in products nor in what is exported. (In `f16` candle's AdamW, whose ε is 0 there, makes NaN of it.)
///
/// ```
/// use candle_core::{DType, Device, Module, Tensor, Var};
/// use candle_nn::{AdamW, Linear, Optimizer, ParamsAdamW};
/// use twofour_candle::{Engine, FrozenMaskLinear};
///
/// # fn main() -> candle_core::Result<()> {
/// let dense = Linear::new(Tensor::randn(0f32, 0.1, (64, 32), &Device::Cpu)?, None);
/// let x = Tensor::randn(0f32, 1.0, (4, 16, 32), &Device::Cpu)?;
/// let target = dense.forward(&x)?;
///
/// let weight = Var::from_tensor(dense.weight())?;
/// let layer = FrozenMaskLinear::by_magnitude(&Linear::new(weight.as_tensor().clone(), None), &Engine::default())?;
/// let mut optimiser = AdamW::new(vec![weight], ParamsAdamW::default())?;
/// for _ in 0..3 {
///     optimiser.backward_step(&(layer.forward(&x)? - &target)?.sqr()?.mean_all()?)?;
/// }
/// // 2:4, in the memory that it takes.
/// let weight = layer.compressed_as(DType::BF16)?;
/// assert_eq!(weight.codes(), layer.mask().codes());
/// # Ok(())
/// # }
/// ```
///
/// # Memory
///
/// Beside what any trained layer takes, the codes: an eighth of a byte a weight. Nothing but `x` is kept from the
/// forward pass to the backward pass. The backward pass makes `G`, and of it `G∘M`, in the weight's type.
#[derive(Debug, Clone)]
pub struct FrozenMaskLinear {
    weight: Tensor,
    bias: Option<Tensor>,
    mask: Mask,
    /// The mask's, where the weight is.
    codes: Tensor,
    engine: Engine,
}

impl FrozenMaskLinear {
    /// In place of a layer, with its weight `[N, K]` of `f32`, `f16` or `bf16` and its bias, under this mask. `engine`
    /// is what the layers of a model share.
    ///
    /// # Errors
    /// A mask of another shape; shapes, types or devices that do not fit.
    pub fn new(linear: &Linear, mask: Mask, engine: &Engine) -> Result<Self> {
        let (weight, bias) = (linear.weight(), linear.bias());
        let (shape, masked) = (ops::shape_of(weight)?, mask.shape());
        if shape != masked {
            let [n, k, rows, cols] = [shape.rows, shape.cols, masked.rows, masked.cols];
            candle_core::bail!("the mask is of a weight [{rows}, {cols}], and must be of one [{n}, {k}]")
        }
        check_weight(weight.dtype())?;
        ops::same_device([weight, bias.unwrap_or(weight), weight])?;
        ops::check_bias(shape, bias, weight.dtype())?;
        let codes = Tensor::from_slice(mask.codes(), mask.codes().len(), weight.device())?;
        Ok(Self { weight: weight.clone(), bias: bias.cloned(), mask, codes, engine: engine.clone() })
    }

    /// The same with a mask that is given by its packed codes ([`MaskedLinear::codes`](crate::MaskedLinear::codes)).
    ///
    /// # Errors
    /// As [`new`](Self::new); another number of codes, and codes that are not legal, by the first group's number.
    pub fn with_codes(linear: &Linear, codes: Vec<u8>, engine: &Engine) -> Result<Self> {
        let mask = Mask::new(ops::shape_of(linear.weight())?, codes).map_err(wrap)?;
        Self::new(linear, mask, engine)
    }

    /// The same with a mask that keeps the two largest magnitudes of each group, ties at the lower positions.
    ///
    /// # Errors
    /// As [`new`](Self::new), and a weight that is NaN.
    pub fn by_magnitude(linear: &Linear, engine: &Engine) -> Result<Self> {
        let shape = ops::shape_of(linear.weight())?;
        let weight = ready(&linear.weight().detach().to_device(&Device::Cpu)?)?;
        let (storage, layout) = weight.storage_and_layout();
        let mut codes = vec![0; shape.packed_codes()];
        with_weight!(weight.dtype(), <W> {
            let dense = Operand::<Cpu>::of(&storage, layout)?.elements::<W>()?;
            Cpu.run(ByScore::magnitude(shape, dense).codes(&mut codes)).map_err(wrap)
        })?;
        Self::with_codes(linear, codes, engine)
    }

    /// The same with the mask of a weight that is pruned already: it keeps what is not zero. Where a group has fewer
    /// than two of those, its highest positions train as well.
    ///
    /// # Errors
    /// As [`new`](Self::new); a group with more than two that are not zero, by its number.
    pub fn from_sparse(linear: &Linear, engine: &Engine) -> Result<Self> {
        let shape = ops::shape_of(linear.weight())?;
        let weight = ready(&linear.weight().detach().to_device(&Device::Cpu)?)?;
        let (storage, layout) = weight.storage_and_layout();
        let mask = with_weight!(weight.dtype(), <W> {
            let dense = Operand::<Cpu>::of(&storage, layout)?.elements::<W>()?;
            Mask::from_flags(shape, dense, Fewer::Fill).map_err(wrap)
        })?;
        Self::new(linear, mask, engine)
    }

    /// With the weight `[out_dim, in_dim]` and, if there is to be one, the bias that are `weight` and `bias` of a
    /// [`VarBuilder`]: variables if it is a `VarMap`'s. (For the other constructors there is [`candle_nn::linear_b`].)
    ///
    /// # Errors
    /// As [`new`](Self::new); what is not there, or of another shape.
    ///
    /// ```
    /// use candle_core::{DType, Device, Module, Tensor};
    /// use candle_nn::{VarBuilder, VarMap};
    /// use twofour_candle::twofour::Shape;
    /// use twofour_candle::twofour_formats::masks::Mask;
    /// use twofour_candle::{Engine, FrozenMaskLinear};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (vars, device) = (VarMap::new(), &Device::Cpu);
    /// let vb = VarBuilder::from_varmap(&vars, DType::F32, device).pp("mlp").pp("up");
    /// let mask = Mask::new(Shape::new(4, 8), vec![0xe4; 4])?; // positions 0 and 1, then 2 and 3
    /// let layer = FrozenMaskLinear::load(8, 4, true, vb, mask, &Engine::default())?;
    /// layer.forward(&Tensor::ones((2, 8), DType::F32, device)?)?;
    /// assert_eq!(vars.all_vars().len(), 2); // "mlp.up.weight", "mlp.up.bias"
    /// # Ok(())
    /// # }
    /// ```
    pub fn load(
        in_dim: usize,
        out_dim: usize,
        bias: bool,
        vb: VarBuilder<'_>,
        mask: Mask,
        engine: &Engine,
    ) -> Result<Self> {
        Self::new(&ops::load_linear(in_dim, out_dim, bias, vb)?, mask, engine)
    }

    /// The weight as it is, with what the mask drops.
    #[must_use]
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias.
    #[must_use]
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// The mask.
    #[must_use]
    pub fn mask(&self) -> &Mask {
        &self.mask
    }

    /// `[N, K]` of the weight.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.mask.shape()
    }

    /// `W∘M`, on the host and compressed, as [`MaskedLinear::compressed`](crate::MaskedLinear::compressed) gives it.
    ///
    /// # Errors
    /// A weight of `f32`: see [`compressed_as`](Self::compressed_as).
    pub fn compressed(&self) -> Result<Weight> {
        self.compressed_as(self.weight.dtype())
    }

    /// The same with the weight rounded to `f16` or `bf16` first.
    ///
    /// # Errors
    /// Another type.
    pub fn compressed_as(&self, dtype: DType) -> Result<Weight> {
        compressed_as(&self.weight, self.shape(), self.mask.codes(), dtype)
    }

    /// A dense layer with `W∘M` as it is now.
    ///
    /// # Errors
    /// What making it may give.
    pub fn to_linear(&self) -> Result<Linear> {
        let masked = ops::frozen_weight(&self.weight.detach(), &self.codes)?;
        Ok(Linear::new(masked, self.bias.as_ref().map(Tensor::detach)))
    }

    /// A layer with that weight compressed, on the same device.
    ///
    /// # Errors
    /// As [`compressed`](Self::compressed).
    pub fn to_compressed(&self) -> Result<CompressedLinear> {
        CompressedLinear::new(&self.compressed()?, self.bias.as_ref(), self.weight.device(), &self.engine)
    }
}

impl Module for FrozenMaskLinear {
    /// `x [.., K]` to `[.., N]`, with any leading dimensions.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = ops::frozen_linear(x, &self.weight, &self.codes, &self.engine)?;
        ops::biased(y, self.bias.as_ref())
    }
}
