//! The types of numbers that candle and twofour share, and what turns the one's arrays and errors into the other's.

use std::ops::Range;

use candle_core::{CpuStorage, DType, Layout, Result, Tensor, WithDType};

/// What arrays of both crates hold, in both memories.
pub(crate) trait Stored: WithDType + twofour::space::Plain + OnDevice {
    /// An array of this type on the CPU, to be written.
    fn on_cpu(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

macro_rules! stored {
    ($($type:ty => $variant:ident),+) => {$(
        impl Stored for $type {
            fn on_cpu(storage: &mut CpuStorage) -> Option<&mut [Self]> {
                if let CpuStorage::$variant(elements) = storage { Some(elements) } else { None }
            }
        }
    )+};
}
stored!(f32 => F32, f64 => F64, u8 => U8, u32 => U32, twofour::f16 => F16, twofour::bf16 => BF16);

#[cfg(feature = "cuda")]
pub(crate) use candle_core::cuda::CudaDType as OnDevice;
/// What candle asks of an element of a device's array.
#[cfg(not(feature = "cuda"))]
pub(crate) trait OnDevice {}
#[cfg(not(feature = "cuda"))]
impl<T> OnDevice for T {}

/// `f32`, `f16` or `bf16`.
pub(crate) trait Number: twofour::Float + Stored {}
impl<T: twofour::Float + Stored> Number for T {}

/// A type of logits: `f32` or `bf16`.
pub(crate) trait Score: Number + twofour::Logit {}
impl<T: Number + twofour::Logit> Score for T {}

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

/// `$body` with `$W` the type of a weight that has no logits; an error for others.
macro_rules! with_weight {
    ($weights:expr, <$W:ident> $body:expr) => {{
        macro_rules! case {
            ($w:ty) => {{
                type $W = $w;
                $body
            }};
        }
        match $weights {
            candle_core::DType::F32 => case!(f32),
            candle_core::DType::F16 => case!(twofour::f16),
            candle_core::DType::BF16 => case!(twofour::bf16),
            weights => Err($crate::number::no_such_weight(weights)),
        }
    }};
}
pub(crate) use with_weight;

/// Whether this is a type of weights.
pub(crate) fn check_weight(weights: DType) -> Result<()> {
    with_weight!(weights, <W> Ok(size_of::<W>())).map(drop)
}

pub(crate) fn no_such_weight(weights: DType) -> candle_core::Error {
    let message = format!("the weight is {}, and must be f32, f16 or bf16 (`to_dtype`)", weights.as_str());
    candle_core::Error::Msg(message).bt()
}

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

/// Where a contiguous tensor's elements are.
pub(crate) fn contiguous_range(layout: &Layout) -> Result<Range<usize>> {
    let range = layout.contiguous_offsets().map(|(from, to)| from..to);
    range.ok_or_else(|| {
        let op = "an operand of twofour, which must be contiguous";
        candle_core::Error::RequiresContiguous { op }.bt()
    })
}

/// The tensor, or a copy of it that is contiguous and starts on a 16-byte boundary, as kernels read.
pub(crate) fn ready(tensor: &Tensor) -> Result<Tensor> {
    if !tensor.is_contiguous() {
        return tensor.contiguous();
    }
    let bytes = tensor.layout().start_offset() * tensor.dtype().size_in_bytes();
    if tensor.device().is_cuda() && !bytes.is_multiple_of(16) { tensor.force_contiguous() } else { Ok(tensor.clone()) }
}
