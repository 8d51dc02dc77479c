//! Decode of a feed-forward that skips neurons that are off, as candle's operation.

use candle_core::{DType, Device, Result, Tensor};
use twofour::compress::Layout;
use twofour::glu::{self, Activation, Axis, Decode, Factor, FeedForward};
use twofour::space::Space;
use twofour_formats::Weight;

use super::custom::{Custom, Op};
use crate::engine::Engine;
use crate::number::{Number, ready, with_weight, wrap};
use crate::place::{Operand, Place};

/// A weight `[f, d]`, a row a neuron, dense or 2:4 along its rows.
#[derive(Debug, Clone)]
pub struct Neurons {
    shape: [usize; 2],
    values: Tensor,
    codes: Option<Tensor>,
}

impl Neurons {
    /// All weights `[f, d]`.
    ///
    /// # Errors
    /// What is no matrix.
    pub fn dense(weight: &Tensor) -> Result<Self> {
        let (neurons, width) = weight.dims2()?;
        Ok(Self { shape: [neurons, width], values: ready(&weight.detach())?, codes: None })
    }

    /// A compressed weight of `f16` or `bf16`, copied to the device.
    ///
    /// # Errors
    /// A weight of another type; what copying may give.
    pub fn kept(weight: &Weight, device: &Device) -> Result<Self> {
        let shape = weight.shape();
        let (values, codes) = match weight {
            Weight::F16(weight) => (Tensor::new(weight.values(), device)?, weight.metadata(Layout::Plain)),
            Weight::Bf16(weight) => (Tensor::new(weight.values(), device)?, weight.metadata(Layout::Plain)),
            other => candle_core::bail!("the weight's values are {}, and must be f16 or bf16", other.value_type()),
        };
        let codes = Some(Tensor::new(codes.map_err(wrap)?, device)?);
        Ok(Self { shape: [shape.rows, shape.cols], values, codes })
    }

    /// `[f, d]`.
    #[must_use]
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The type of its values.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.values.dtype()
    }

    /// Bytes of values and codes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let codes = self.codes.as_ref().map_or(0, Tensor::elem_count);
        self.values.elem_count() * self.values.dtype().size_in_bytes() + codes
    }
}

/// `h down`, `h = a(x gateᵀ) ⊙ b(x upᵀ)`, of `x [.., d]`, weights `[f, d]` each; rows of up and down of neurons that are
/// off for all of eight tokens are not read ([`twofour::glu`]). More tokens are taken eight at a time, for which whole
/// weights are better. It has no gradient.
///
/// # Errors
/// Shapes, types or devices that do not fit; what the pass may give.
pub fn relu_decode(x: &Tensor, weights: [&Neurons; 3], activation: Activation, engine: &Engine) -> Result<Tensor> {
    let [gate, up, down] = weights;
    super::same_device([x, &gate.values, &up.values])?;
    super::same_device([x, &down.values, &down.values])?;
    let [neurons, width] = gate.shape;
    if [up.shape, down.shape] != [gate.shape; 2] || [up.dtype(), down.dtype()] != [gate.dtype(); 2] {
        let shapes = weights.map(|weight| (weight.shape, weight.dtype()));
        candle_core::bail!("gate, up and down are {shapes:?}: all must be [{neurons}, {width}], a row a neuron")
    }
    let y = |x: &Tensor, tokens: usize| {
        let op = FeedForwardOf { tokens, weights: weights.map(Neurons::clone), activation, engine: engine.clone() };
        ready(x)?.apply_op1(Custom(op))
    };
    super::over_tokens(x, gate.dtype(), twofour::Shape::new(width, width), |x, tokens| {
        if tokens <= glu::MAX_TOKENS {
            return y(x, tokens);
        }
        let some = (0..tokens).step_by(glu::MAX_TOKENS).map(|first| {
            let count = glu::MAX_TOKENS.min(tokens - first);
            y(&x.narrow(0, first, count)?, count)
        });
        Tensor::cat(&some.collect::<Result<Vec<_>>>()?, 0)
    })
}

/// `Y [T, d]` of `x [T, d]`.
struct FeedForwardOf {
    tokens: usize,
    weights: [Neurons; 3],
    activation: Activation,
    engine: Engine,
}

impl Op<1> for FeedForwardOf {
    const NAME: &'static str = "twofour decode";

    fn forward<P: Place>(&self, [x]: [Operand<'_, P>; 1]) -> Result<(P::Storage, candle_core::Shape)> {
        let y = with_weight!(x.dtype(), <W> self.make::<P, W>(x))?;
        Ok((y, (self.tokens, self.weights[0].shape[1]).into()))
    }
}

impl FeedForwardOf {
    fn make<P: Place, W: Number + Factor>(&self, x: Operand<'_, P>) -> Result<P::Storage> {
        let [neurons, width] = self.weights[0].shape;
        let held = self.weights.each_ref().map(|weight| {
            let codes = weight.codes.as_ref().map(Tensor::storage_and_layout);
            (weight.values.storage_and_layout(), codes)
        });
        let of = |which: usize| -> Result<glu::Neurons<'_, P::Space, W>> {
            let ((values, layout), codes) = &held[which];
            let values = Operand::<P>::of(values, layout)?.elements::<W>()?;
            Ok(match codes {
                Some((codes, layout)) => {
                    let codes = Operand::<P>::of(codes, layout)?.elements::<u8>()?;
                    glu::Neurons::kept(Axis::Width, values, codes)
                }
                None => glu::Neurons::dense(values),
            })
        };
        let weights = FeedForward::new([width, neurons], of(0)?, of(1)?, of(2)?);
        let plan = glu::Plan::<W>::new(self.tokens, [width, neurons], self.activation).map_err(wrap)?;
        let from = x.elements::<W>()?;
        P::made::<W>(&self.engine, x.device(), self.tokens * width, |on, y| {
            let mut workspace = on.workspace(plan.workspace_bytes())?;
            let x = P::Space::share(&from);
            let pass = Decode::new(&weights, self.tokens, self.activation, x, P::output(y)).plan(plan);
            on.run(match &mut workspace {
                Some(workspace) => pass.workspace(P::output(workspace)),
                None => pass,
            })
        })
    }
}
