//! The product of a compressed weight as candle's operation.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, DType, Device, Layout, Result, Tensor};
use twofour::compress::{self, Layout as CodeLayout};
use twofour::matmul::Problem;
use twofour::sparse::{self, Factor};
use twofour::{Shape, bf16, f16};
use twofour_formats::Weight;

use crate::engine::Engine;
use crate::number::{Number, elements, owned, ready, wrap, zeros};

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
    pub fn new(weight: &Weight, device: &Device) -> Result<Self> {
        match weight {
            Weight::F16(weight) => Self::of(weight, device),
            Weight::Bf16(weight) => Self::of(weight, device),
            other => candle_core::bail!("the weight's values are {}, and must be f16 or bf16", other.value_type()),
        }
    }

    fn of<W: Number + Factor>(weight: &compress::Compressed<W>, device: &Device) -> Result<Self> {
        let layout = if device.is_cpu() { CodeLayout::Plain } else { CodeLayout::CutlassSm80 };
        let shape = weight.shape();
        let sizes = layout.sizes(shape, W::FORMAT).map_err(wrap)?;
        // Rows padded as the layout wants them.
        let (mut values, kept) = (zeros::<W>(sizes.values), shape.cols / 2);
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

/// `x Wᵀ + b`: `x [.., K]` and a compressed weight `[N, K]` to `[.., N]`; the bias `[N]` is added before the one rounding.
/// It has no gradient: candle says so if a backward pass comes to it.
///
/// # Errors
/// Shapes, types or devices that do not fit; what the product may give.
pub fn compressed_linear(x: &Tensor, weight: &Compressed, bias: Option<&Tensor>, engine: &Engine) -> Result<Tensor> {
    let shape = weight.shape;
    super::same_device([x, &weight.values, bias.unwrap_or(x)])?;
    if let Some(bias) = bias
        && (bias.dims() != [shape.rows] || bias.dtype() != weight.dtype())
    {
        let (dims, dtype, wanted) = (bias.dims(), bias.dtype().as_str(), weight.dtype().as_str());
        candle_core::bail!("the bias is {dims:?} {dtype}, and must be [{}] {wanted}", shape.rows)
    }
    let bias = bias.map(|bias| ready(&bias.detach())).transpose()?;
    super::over_tokens(x, weight.dtype(), shape, |x, tokens| {
        let problem = Problem::new(tokens, shape);
        let op = Multiply { problem, layout: weight.layout, bias, engine: engine.clone() };
        x.apply_op3(&weight.values, &weight.metadata, op)
    })
}

/// `Y = X Wᵀ + b` of `(x [T, K], values, metadata)`.
pub(super) struct Multiply {
    pub(super) problem: Problem,
    pub(super) layout: CodeLayout,
    pub(super) bias: Option<Tensor>,
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "the CPU shares nothing"))]
    pub(super) engine: Engine,
}

impl CustomOp3 for Multiply {
    fn name(&self) -> &'static str {
        "twofour compressed linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        values: &CpuStorage,
        values_layout: &Layout,
        metadata: &CpuStorage,
        metadata_layout: &Layout,
    ) -> Result<(CpuStorage, candle_core::Shape)> {
        let (from, to) = crate::number::contiguous_range(metadata_layout)?;
        let codes = metadata.as_slice::<u8>()?;
        let codes = codes.get(from..to).ok_or_else(|| crate::number::out_of_range(to, codes.len()))?;
        let y = match values.dtype() {
            DType::F16 => self.on_cpu::<f16>((x, x_layout), (values, values_layout), codes),
            DType::BF16 => self.on_cpu::<bf16>((x, x_layout), (values, values_layout), codes),
            other => Err(no_such_type(other)),
        }?;
        Ok((y, (self.problem.tokens, self.problem.shape.rows).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        values: &CudaStorage,
        values_layout: &Layout,
        metadata: &CudaStorage,
        metadata_layout: &Layout,
    ) -> Result<(CudaStorage, candle_core::Shape)> {
        let (x, metadata, kept) = ((x, x_layout), (metadata, metadata_layout), (values, values_layout));
        let y = match values.dtype() {
            DType::F16 => super::cuda::multiply::<f16>(self, x, kept, metadata),
            DType::BF16 => super::cuda::multiply::<bf16>(self, x, kept, metadata),
            other => Err(no_such_type(other)),
        }?;
        Ok((y, (self.problem.tokens, self.problem.shape.rows).into()))
    }
}

impl Multiply {
    fn on_cpu<W: Number + Factor<Output = W>>(
        &self,
        (x, x_layout): (&CpuStorage, &Layout),
        (values, values_layout): (&CpuStorage, &Layout),
        codes: &[u8],
    ) -> Result<CpuStorage> {
        let Problem { tokens, shape } = self.problem;
        let weight = sparse::cpu::Weight::<W>::new(shape, self.layout, elements(values, values_layout)?, codes);
        let bias = self.bias.as_ref().map(Tensor::storage_and_layout);
        let bias = match &bias {
            Some((bias, layout)) => match &**bias {
                candle_core::Storage::Cpu(bias) => Some(elements::<W>(bias, layout)?),
                _ => return Err(elsewhere()),
            },
            None => None,
        };
        let y = sparse::cpu::multiply(weight, tokens, elements(x, x_layout)?, bias).map_err(wrap)?;
        Ok(owned(y))
    }
}

/// Of a bias that was on the same device when it was checked.
pub(super) fn elsewhere() -> candle_core::Error {
    candle_core::Error::Msg("the bias is on another device than the weight".to_owned()).bt()
}

fn no_such_type(dtype: DType) -> candle_core::Error {
    candle_core::Error::Msg(format!("kept values are {}, and must be f16 or bf16", dtype.as_str())).bt()
}
