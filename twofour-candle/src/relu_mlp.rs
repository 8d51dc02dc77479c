//! The gated feed-forward whose neurons are mostly off.

use candle_core::{Module, Result, Tensor};
use twofour::glu::Activation;

use crate::engine::Engine;
use crate::ops::{self, Neurons};

/// A gated feed-forward `y = down(a(gate(x)) ⊙ b(up(x)))` of any three linear layers of candle's or of this crate's:
/// dense, masked while masks are learnt, compressed. With dReLU and its kin most of the product is exactly 0, and so are
/// the gradients there. For a token at a time, [`ReluDecoder`] reads no row that meets such a zero.
///
/// ```
/// use candle_core::{DType, Device, Module, Tensor};
/// use candle_nn::Linear;
/// use twofour::glu::Activation;
/// use twofour_candle::ops::Neurons;
/// use twofour_candle::{Engine, ReluDecoder, ReluMlp};
///
/// # fn main() -> candle_core::Result<()> {
/// let (device, engine) = (&Device::Cpu, Engine::default());
/// let weight = |rows, cols| Tensor::randn(0f32, 0.2, (rows, cols), device)?.to_dtype(DType::BF16);
/// let (gate, up, down) = (weight(96, 32)?, weight(96, 32)?, weight(32, 96)?);
/// let layers = [&gate, &up, &down].map(|weight| Linear::new(weight.clone(), None));
/// let [of_gate, of_up, of_down] = layers;
/// let mlp = ReluMlp::new(of_gate, of_up, of_down, Activation::DRelu, &engine);
///
/// // Down a row a neuron, once.
/// let neurons = [Neurons::dense(&gate)?, Neurons::dense(&up)?, Neurons::dense(&down.t()?)?];
/// let decoder = ReluDecoder::new(neurons, Activation::DRelu, &engine)?;
/// let x = Tensor::randn(0f32, 1.0, (1, 32), device)?.to_dtype(DType::BF16)?;
/// let apart = (mlp.forward(&x)?.to_dtype(DType::F32)? - decoder.forward(&x)?.to_dtype(DType::F32)?)?;
/// assert!(apart.abs()?.max_all()?.to_scalar::<f32>()? < 0.05);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ReluMlp<G, U = G, D = G> {
    gate: G,
    up: U,
    down: D,
    activation: Activation,
    engine: Engine,
}

impl<G, U, D> ReluMlp<G, U, D> {
    /// Of three layers: `[.., d]` to `[.., f]` twice, and back.
    #[must_use]
    pub fn new(gate: G, up: U, down: D, activation: Activation, engine: &Engine) -> Self {
        Self { gate, up, down, activation, engine: engine.clone() }
    }

    /// Its layers: gate, up and down.
    #[must_use]
    pub const fn layers(&self) -> (&G, &U, &D) {
        (&self.gate, &self.up, &self.down)
    }

    /// What is made of gate and up.
    #[must_use]
    pub const fn activation(&self) -> Activation {
        self.activation
    }
}

impl<G: Module, U: Module, D: Module> Module for ReluMlp<G, U, D> {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (gate, up) = (self.gate.forward(x)?, self.up.forward(x)?);
        self.down.forward(&ops::glu(&gate, &up, self.activation, &self.engine)?)
    }
}

/// The same feed-forward for a few tokens at a time: rows of neurons that are off are not read. Without biases, in `f16`
/// or `bf16`, on the CPU also in `f32`; each weight dense or 2:4 along its rows. Prompts are better off with [`ReluMlp`].
#[derive(Debug, Clone)]
pub struct ReluDecoder {
    weights: [Neurons; 3],
    activation: Activation,
    engine: Engine,
}

impl ReluDecoder {
    /// Of gate, up and down, `[f, d]` each: a stock down projection `[d, f]` is transposed first.
    ///
    /// # Errors
    /// Weights of different shapes or types.
    pub fn new(weights: [Neurons; 3], activation: Activation, engine: &Engine) -> Result<Self> {
        let [first, rest @ ..] = &weights;
        if rest.iter().any(|other| (other.shape(), other.dtype()) != (first.shape(), first.dtype())) {
            let all = weights.each_ref().map(|weight| (weight.shape(), weight.dtype()));
            candle_core::bail!("gate, up and down are {all:?}: all must be of one shape [f, d], a row a neuron")
        }
        Ok(Self { weights, activation, engine: engine.clone() })
    }

    /// Bytes of its weights.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.weights.iter().map(Neurons::bytes).sum()
    }
}

impl Module for ReluDecoder {
    /// `x [.., d]`, of the weights' type, to `[.., d]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::relu_decode(x, self.weights.each_ref(), self.activation, &self.engine)
    }
}
