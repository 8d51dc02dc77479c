//! The product of a compressed weight as candle's operation.

use candle_core::{DType, Device, Result, Tensor};
use twofour::compress::{self, Layout as CodeLayout};
use twofour::matmul::Problem;
use twofour::space::Space;
use twofour::sparse::{self, Given, Weight};
use twofour::{Cpu, Element, Executor, Factor, Shape, bf16, f16};
use twofour_formats::Weight as WeightOfFile;

use super::custom::{Custom, Op};
use crate::engine::Engine;
use crate::number::{Number, ready, wrap};
use crate::place::{Operand, Place};

/// A compressed weight `[N, K]` in candle's memory: kept values, and codes in the order in which the device reads them.
#[derive(Debug, Clone)]
pub struct Compressed {
    shape: Shape,
    layout: CodeLayout,
    values: Tensor,
    metadata: Tensor,
}

impl Compressed {
    /// A weight of `f16` or `bf16` values, copied to the device.
    ///
    /// # Errors
    /// Values of another type, which candle has no product for; what copying may give.
    pub fn new(weight: &WeightOfFile, device: &Device) -> Result<Self> {
        match weight {
            WeightOfFile::F16(weight) => Self::of(weight, device),
            WeightOfFile::Bf16(weight) => Self::of(weight, device),
            other => candle_core::bail!("the weight's values are {}, and must be f16 or bf16", other.value_type()),
        }
    }

    fn of<W: Number + Factor>(weight: &compress::Compressed<W>, device: &Device) -> Result<Self> {
        let layout = if device.is_cpu() { CodeLayout::Plain } else { CodeLayout::CutlassSm80 };
        let shape = weight.shape();
        let sizes = layout.sizes(shape, <W as Element>::DTYPE).map_err(wrap)?;
        // Rows padded as the layout wants them.
        let (mut values, kept) = (Cpu.zeros::<W>(sizes.values).map_err(wrap)?, shape.cols / 2);
        if kept > 0 {
            let rows = values.chunks_mut(sizes.pitch).zip(weight.values().chunks(kept));
            rows.for_each(|(to, from)| to[..kept].copy_from_slice(from));
        }
        let metadata = weight.metadata(layout).map_err(wrap)?;
        let values = Tensor::from_vec(values, sizes.values, device)?;
        let metadata = Tensor::from_vec(metadata, sizes.metadata, device)?;
        Ok(Self { shape, layout, values, metadata })
    }

    /// `[N, K]` of the dense weight.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The type of values, and so of what is multiplied.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.values.dtype()
    }

    /// Where it is.
    #[must_use]
    pub fn device(&self) -> &Device {
        self.values.device()
    }

    /// Bytes of values and codes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.values.elem_count() * self.values.dtype().size_in_bytes() + self.metadata.elem_count()
    }
}

/// `x Wᵀ + b`: `x [.., K]` and a compressed weight `[N, K]` to `[.., N]`; the bias `[N]` is added before the one
/// rounding. It has no gradient: candle says so if a backward pass comes to it.
///
/// # Errors
/// Shapes, types or devices that do not fit; what the product may give.
pub fn compressed_linear(x: &Tensor, weight: &Compressed, bias: Option<&Tensor>, engine: &Engine) -> Result<Tensor> {
    let shape = weight.shape;
    super::same_device([x, &weight.values, bias.unwrap_or(x)])?;
    super::check_bias(shape, bias, weight.dtype())?;
    let bias = bias.map(|bias| ready(&bias.detach())).transpose()?;
    super::over_tokens(x, weight.dtype(), shape, |x, tokens| {
        let problem = Problem::new(tokens, shape);
        let op = Multiply { problem, layout: weight.layout, bias, engine: engine.clone() };
        x.apply_op3(&weight.values, &weight.metadata, Custom(op))
    })
}

/// `Y = X Wᵀ + b` of `(x [T, K], values, metadata)`.
struct Multiply {
    problem: Problem,
    layout: CodeLayout,
    bias: Option<Tensor>,
    engine: Engine,
}

impl Op<3> for Multiply {
    const NAME: &'static str = "twofour compressed linear";

    fn forward<P: Place>(
        &self,
        [x, values, metadata]: [Operand<'_, P>; 3],
    ) -> Result<(P::Storage, candle_core::Shape)> {
        let y = match values.dtype() {
            DType::F16 => self.multiply::<P, f16>(x, values, metadata),
            DType::BF16 => self.multiply::<P, bf16>(x, values, metadata),
            other => {
                let message = format!("kept values are {}, and must be f16 or bf16", other.as_str());
                Err(candle_core::Error::Msg(message).bt())
            }
        }?;
        Ok((y, (self.problem.tokens, self.problem.shape.rows).into()))
    }
}

impl Multiply {
    fn multiply<P: Place, W: Number + Factor<Output = W>>(
        &self,
        x: Operand<'_, P>,
        values: Operand<'_, P>,
        metadata: Operand<'_, P>,
    ) -> Result<P::Storage> {
        let Problem { tokens, shape } = self.problem;
        let bias = self.bias.as_ref().map(Tensor::storage_and_layout);
        let bias = bias.as_ref().map(|(bias, layout)| Operand::<P>::of(bias, layout)?.elements::<W>()).transpose()?;
        let weight = Weight::new(shape, self.layout, values.elements::<W>()?, metadata.elements::<u8>()?);
        let (from, given) = (x.elements::<W>()?, Given { bias: bias.is_some(), ..Given::WEIGHT });
        P::made::<W>(&self.engine, x.device(), self.problem.outputs(), |on, y| {
            // The CPU, which has its weight like this, needs no plan.
            let plan = match self.layout {
                CodeLayout::Plain => None,
                _ => Some(weight.plan(on, tokens, given)?),
            };
            let mut workspace = on.workspace(plan.map_or(0, |plan| plan.workspace_bytes()))?;
            let pass = sparse::Multiply::new(&weight, tokens, P::Space::share(&from), P::output(y));
            let pass = if let Some(bias) = &bias { pass.bias(P::Space::share(bias)) } else { pass };
            let pass = if let Some(plan) = &plan { pass.plan(plan) } else { pass };
            on.run(match &mut workspace {
                Some(workspace) => pass.workspace(P::output(workspace)),
                None => pass,
            })
        })
    }
}
