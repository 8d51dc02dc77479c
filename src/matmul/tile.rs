//! Launches of the kernels of `cuda/matmul.cu` that know masks, as plain data: the logits' gradient from tiles, and the
//! masked weight from codes. The structs mirror those there. ([`crate::dense::tile`] has the products.)

use crate::dense::tile::{RING_BYTES, each_run, launch, size};
use crate::device::launch::Launch;
use crate::element::DType;
use crate::error::Result;
use crate::sample::Kind;
use crate::sample::launch::Differentiation;
use crate::shape::{Shape, Shard};

/// `MatmulLogitsArgs`.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct LogitsArgs {
    dy: u64,
    x: u64,
    weight: u64,
    logits: u64,
    logit_gradient: u64,
    first_group: u64,
    row_groups: u64,
    rows: u32,
    cols: u32,
    tokens: u32,
    accumulate: u32,
    by: Differentiation,
}
const _: () = assert!(size_of::<LogitsArgs>() == 184);

/// `MatmulMaskArgs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct MaskArgs {
    weight: u64,
    codes: u64,
    masked: u64,
    groups: u64,
}

/// What the logits' gradient is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Gradient {
    /// T.
    pub(crate) tokens: usize,
    /// N and K.
    pub(crate) shape: Shape,
    /// Where the weight lies in the whole.
    pub(crate) shard: Shard,
    /// Soft or hard.
    pub(crate) kind: Kind,
    /// The types of logits and of everything 16-bit.
    pub(crate) types: [DType; 2],
    /// `dY`, `X`, the weight, the logits and their gradient.
    pub(crate) addresses: [u64; 5],
    /// Whether to add to the gradient.
    pub(crate) accumulate: bool,
    /// Scales.
    pub(crate) by: Differentiation,
}

/// The logits' gradient from registers.
pub(crate) fn logit_gradient(gradient: &Gradient) -> Result<Launch<LogitsArgs>> {
    let Gradient { tokens, shape, shard, kind, types, addresses, accumulate, by } = *gradient;
    let [dy, x, weight, logits, logit_gradient] = addresses;
    let args = LogitsArgs {
        dy,
        x,
        weight,
        logits,
        logit_gradient,
        first_group: shard.group(0, 0),
        row_groups: shard.global_cols / 4,
        rows: size("rows", shape.rows)?,
        cols: size("cols", shape.cols)?,
        tokens: size("tokens", tokens)?,
        accumulate: u32::from(accumulate),
        by,
    };
    launch(logits_symbol(kind, types), [shape.rows, shape.cols], 1, RING_BYTES, args)
}

/// `W∘M` from a weight and its codes.
pub(crate) fn mask(dtype: DType, groups: usize, [weight, codes, masked]: [u64; 3]) -> Launch<MaskArgs> {
    let name = match dtype {
        DType::F16 => "twofour_matmul_mask_f16",
        DType::Bf16 => "twofour_matmul_mask_bf16",
        _ => "twofour_matmul_mask_f32",
    };
    let groups = groups as u64;
    each_run(name, groups.div_ceil(2), MaskArgs { weight, codes, masked, groups })
}

fn logits_symbol(kind: Kind, types: [DType; 2]) -> &'static str {
    match (kind, types) {
        (Kind::Hard, [DType::Bf16, DType::Bf16]) => "twofour_matmul_logits_hard_bf16_bf16",
        (Kind::Hard, [DType::Bf16, _]) => "twofour_matmul_logits_hard_bf16_f16",
        (Kind::Hard, [_, DType::Bf16]) => "twofour_matmul_logits_hard_f32_bf16",
        (Kind::Hard, _) => "twofour_matmul_logits_hard_f32_f16",
        (_, [DType::Bf16, DType::Bf16]) => "twofour_matmul_logits_soft_bf16_bf16",
        (_, [DType::Bf16, _]) => "twofour_matmul_logits_soft_bf16_f16",
        (_, [_, DType::Bf16]) => "twofour_matmul_logits_soft_f32_bf16",
        _ => "twofour_matmul_logits_soft_f32_f16",
    }
}
