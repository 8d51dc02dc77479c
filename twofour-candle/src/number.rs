//! The types of numbers that candle and twofour share, and what turns the one's arrays and errors into the other's.

use candle_core::{CpuStorage, DType, Layout, Result, Tensor};

/// `f32`, `f16` or `bf16`: in both crates, in both memories.
pub(crate) trait Number: twofour::Float + candle_core::WithDType + OnDevice {}
impl<T: twofour::Float + candle_core::WithDType + OnDevice> Number for T {}

/// A type of logits: `f32` or `bf16`.
pub(crate) trait Score: Number + twofour::Logit {}
impl<T: Number + twofour::Logit> Score for T {}

/// What candle and cudarc ask of an element of a device's array.
#[cfg(feature = "cuda")]
pub(crate) trait OnDevice: candle_core::cuda::CudaDType + twofour::cudarc::driver::DeviceRepr {}
#[cfg(feature = "cuda")]
impl<T: candle_core::cuda::CudaDType + twofour::cudarc::driver::DeviceRepr> OnDevice for T {}
#[cfg(not(feature = "cuda"))]
pub(crate) trait OnDevice {}
#[cfg(not(feature = "cuda"))]
impl<T> OnDevice for T {}

/// `$body` with `$L` the type of the logits and `$W` that of the weight; an error for others.
macro_rules! with_types {
    ($logits:expr, $weights:expr, <$L:ident, $W:ident> $body:expr) => {{
        macro_rules! case {
            ($l:ty, $w:ty) => {{
                type $L = $l;
                type $W = $w;
                $body
            }};
        }
        match ($logits, $weights) {
            (candle_core::DType::F32, candle_core::DType::F32) => case!(f32, f32),
            (candle_core::DType::F32, candle_core::DType::F16) => case!(f32, twofour::f16),
            (candle_core::DType::F32, candle_core::DType::BF16) => case!(f32, twofour::bf16),
            (candle_core::DType::BF16, candle_core::DType::F32) => case!(twofour::bf16, f32),
            (candle_core::DType::BF16, candle_core::DType::F16) => case!(twofour::bf16, twofour::f16),
            (candle_core::DType::BF16, candle_core::DType::BF16) => case!(twofour::bf16, twofour::bf16),
            (logits, weights) => Err($crate::number::no_such_types(logits, weights)),
        }
    }};
}
pub(crate) use with_types;

/// Whether these are types of logits and of weights.
pub(crate) fn check_types(logits: DType, weights: DType) -> Result<()> {
    let (score, number) =
        (matches!(logits, DType::F32 | DType::BF16), matches!(weights, DType::F32 | DType::F16 | DType::BF16));
    if score && number { Ok(()) } else { Err(no_such_types(logits, weights)) }
}

pub(crate) fn no_such_types(logits: DType, weights: DType) -> candle_core::Error {
    let (l, w) = (logits.as_str(), weights.as_str());
    candle_core::Error::Msg(format!(
        "logits are {l} and the weight is {w}: logits must be f32 or bf16, the weight f32, f16 or bf16 (`to_dtype`)"
    ))
    .bt()
}

/// twofour's error as candle's, with its message.
pub(crate) fn wrap(error: twofour::Error) -> candle_core::Error {
    candle_core::Error::wrap(error)
}

/// The elements of a contiguous tensor on the CPU.
pub(crate) fn elements<'s, T: Number>(storage: &'s CpuStorage, layout: &Layout) -> Result<&'s [T]> {
    let (from, to) = contiguous_range(layout)?;
    let all = storage.as_slice::<T>()?;
    all.get(from..to).ok_or_else(|| out_of_range(to, all.len()))
}

pub(crate) fn contiguous_range(layout: &Layout) -> Result<(usize, usize)> {
    layout.contiguous_offsets().ok_or_else(|| {
        let op = "an operand of twofour, which must be contiguous";
        candle_core::Error::RequiresContiguous { op }.bt()
    })
}

pub(crate) fn out_of_range(to: usize, len: usize) -> candle_core::Error {
    candle_core::Error::Msg(format!("a tensor ends at element {to} of a storage of {len}")).bt()
}

/// The tensor, or a copy of it that is contiguous and starts on a 16-byte boundary, as kernels read.
pub(crate) fn ready(tensor: &Tensor) -> Result<Tensor> {
    if !tensor.is_contiguous() {
        return tensor.contiguous();
    }
    let bytes = tensor.layout().start_offset() * tensor.dtype().size_in_bytes();
    if tensor.device().is_cuda() && !bytes.is_multiple_of(16) { tensor.force_contiguous() } else { Ok(tensor.clone()) }
}

pub(crate) fn zeros<T: Number>(elements: usize) -> Vec<T> {
    vec![T::from_f32(0.0); elements]
}

/// An array as candle's.
pub(crate) fn owned<T: Number>(elements: Vec<T>) -> CpuStorage {
    T::to_cpu_storage_owned(elements)
}
