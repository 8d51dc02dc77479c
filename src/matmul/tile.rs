//! Launches of the tile kernels, `cuda/matmul.cu`, and of the mask from codes, as plain data. The structs mirror those
//! there.

use super::product::Product;
use crate::device::Limits;
use crate::device::launch::{Launch, Symbol};
use crate::element::DType;
use crate::error::{Error, Result};
use crate::mask::Kind;
use crate::mask::launch::Differentiation;
use crate::shape::{Shape, Shard};

/// Rows and columns of C a block makes.
pub(crate) const TILE: usize = 128;
/// Of the contraction in a stage.
const DEPTH: usize = 32;
const THREADS: u32 = 128;
/// Threads of a block that takes runs of elements or groups.
const RUN_THREADS: u32 = 256;
/// Four stages of two tiles.
const RING_BYTES: u32 = 4 * 2 * (TILE * DEPTH * 2) as u32;
/// Codes of four stages, a byte for eight weights.
const CODE_BYTES: u32 = 4 * (TILE * DEPTH / 8) as u32;

/// `MatmulArgs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct TileArgs {
    a: u64,
    b: u64,
    codes: u64,
    c: u64,
    partial: u64,
    a_pitch: u32,
    b_pitch: u32,
    rows: u32,
    cols: u32,
    depth: u32,
    share: u32,
    splits: u32,
    unused: u32,
}
const _: () = assert!(size_of::<TileArgs>() == 72);

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

/// `MatmulSumArgs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct SumArgs {
    partial: u64,
    sum: u64,
    elements: u64,
    splits: u32,
    unused: u32,
}

/// `MaskFrozenArgs` of `cuda/mask_frozen.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct MaskArgs {
    weight: u64,
    codes: u64,
    masked: u64,
    groups: u64,
}

/// Where the operands of a product are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) a: u64,
    pub(crate) b: u64,
    /// The codes of B, if it is to be masked.
    pub(crate) codes: Option<u64>,
    pub(crate) c: u64,
    /// `[splits, rows, cols]` of `f32`, where the contraction is split.
    pub(crate) partial: u64,
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

/// Blocks that a device holds at once, and tiles that a product has.
fn slots_and_tiles(product: &Product, limits: &Limits) -> (usize, usize) {
    let block_bytes = RING_BYTES + CODE_BYTES + Limits::SYSTEM_SHARED_BYTES;
    let per_multiprocessor = (limits.shared_bytes_per_multiprocessor / block_bytes).clamp(1, 2);
    let slots = (limits.multiprocessors.max(1) * per_multiprocessor) as usize;
    (slots, tiles(product.rows).saturating_mul(tiles(product.cols)).max(1))
}

/// Whether the tiles of C leave half of a device or more with nothing to do.
pub(crate) fn is_too_small(product: &Product, limits: &Limits) -> bool {
    let (slots, tiles) = slots_and_tiles(product, limits);
    2 * tiles <= slots
}

/// In how many parts to take the contraction, so that the waves of blocks are full: parts of at least 256, which keep a
/// ring of stages busy, and their sums in at most 64 MiB. Model: a wave takes as long as a part, and a part more costs 3 %
/// for its sums.
pub(crate) fn splits(product: &Product, limits: &Limits) -> u32 {
    const LEAST: usize = 256;
    const MOST_BYTES: usize = 64 << 20;
    let (slots, tiles) = slots_and_tiles(product, limits);
    let bytes = product.rows.saturating_mul(product.cols).saturating_mul(4).max(1);
    let most = (product.depth / LEAST).min(MOST_BYTES / bytes).clamp(1, slots);
    let time = |parts: usize| {
        let waves = tiles.saturating_mul(parts).div_ceil(slots) as f64;
        waves / parts as f64 * (1.0 + 0.03 * (parts - 1) as f64)
    };
    let wanted = (1..=most).min_by(|&a, &b| time(a).total_cmp(&time(b))).unwrap_or(1);
    // Shares are whole stages, so the last of them may turn out empty.
    product.depth.div_ceil(share(product.depth, wanted)).max(1) as u32
}

fn tiles(extent: usize) -> usize {
    extent.div_ceil(TILE)
}

/// What each of so many parts takes of the depth.
fn share(depth: usize, splits: usize) -> usize {
    depth.div_ceil(splits).div_ceil(DEPTH).max(1) * DEPTH
}

/// `C` of a product, or its parts where it is split.
pub(crate) fn product(product: &Product, at: &Addresses, splits: u32) -> Result<Launch<TileArgs>> {
    let [[.., a_pitch], [.., b_pitch], _] = product.stored();
    let args = TileArgs {
        a: at.a,
        b: at.b,
        codes: at.codes.unwrap_or(0),
        c: at.c,
        partial: at.partial,
        a_pitch: size("a", a_pitch)?,
        b_pitch: size("b", b_pitch)?,
        rows: size("rows", product.rows)?,
        cols: size("cols", product.cols)?,
        depth: size("depth", product.depth)?,
        share: size("depth", share(product.depth, splits as usize))?,
        splits,
        unused: 0,
    };
    let codes = if at.codes.is_some() { CODE_BYTES } else { 0 };
    launch(product_symbol(product, at.codes.is_some()), [product.rows, product.cols], splits, RING_BYTES + codes, args)
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

fn launch<A>(
    name: &'static str,
    [rows, cols]: [usize; 2],
    splits: u32,
    shared_bytes: u32,
    args: A,
) -> Result<Launch<A>> {
    let blocks = tiles(rows).checked_mul(tiles(cols)).and_then(|blocks| u32::try_from(blocks).ok());
    let blocks = blocks.filter(|&blocks| blocks < 1 << 31);
    let overflow = Error::Overflow { what: "the grid", rows: rows as u64, cols: cols as u64 };
    let grid = [blocks.ok_or(overflow)?, splits, 1];
    Ok(Launch { symbol: symbol(name), grid, block: [THREADS, 1, 1], shared_bytes, args })
}

/// Adds up the parts of a split product.
pub(crate) fn sum(product: &Product, partial: u64, sum: u64, splits: u32) -> Launch<SumArgs> {
    let name = match product.result {
        DType::F32 => "twofour_matmul_sum_f32",
        DType::F16 => "twofour_matmul_sum_f16",
        DType::Bf16 => "twofour_matmul_sum_bf16",
    };
    let elements = product.rows as u64 * product.cols as u64;
    let args = SumArgs { partial, sum, elements, splits, unused: 0 };
    each_run(symbol(name), elements.div_ceil(16 / product.result.size() as u64), args)
}

/// `W∘M` from a weight and its codes.
pub(crate) fn mask(dtype: DType, groups: usize, [weight, codes, masked]: [u64; 3]) -> Launch<MaskArgs> {
    let name = match dtype {
        DType::F32 => "twofour_mask_frozen_f32",
        DType::F16 => "twofour_mask_frozen_f16",
        DType::Bf16 => "twofour_mask_frozen_bf16",
    };
    let groups = groups as u64;
    let symbol = Symbol { module: "mask_frozen", name };
    each_run(symbol, groups.div_ceil(2), MaskArgs { weight, codes, masked, groups })
}

/// A thread for each of so many runs, in at most the blocks a grid may have: kernels step by the grid.
fn each_run<A>(symbol: Symbol, runs: u64, args: A) -> Launch<A> {
    let blocks = runs.div_ceil(u64::from(RUN_THREADS)).min(1 << 20) as u32;
    Launch { symbol, grid: [blocks, 1, 1], block: [RUN_THREADS, 1, 1], shared_bytes: 0, args }
}

const fn symbol(name: &'static str) -> Symbol {
    Symbol { module: "matmul", name }
}

/// Kernels count in 32 bits, with room for a tile beyond the end.
fn size(what: &'static str, size: usize) -> Result<u32> {
    match u32::try_from(size) {
        Ok(small) if small < (1 << 31) - 2 * TILE as u32 => Ok(small),
        _ => Err(Error::Overflow { what, rows: size as u64, cols: 1 }),
    }
}

fn product_symbol(product: &Product, masked: bool) -> &'static str {
    let bf16 = product.operands == DType::Bf16;
    match (product.a_transposed, product.b_transposed, masked, bf16) {
        (true, _, _, false) => "twofour_matmul_gradient_f16",
        (true, _, _, true) => "twofour_matmul_gradient_bf16",
        (_, true, false, false) => "twofour_matmul_output_dense_f16",
        (_, true, false, true) => "twofour_matmul_output_dense_bf16",
        (_, true, true, false) => "twofour_matmul_output_codes_f16",
        (_, true, true, true) => "twofour_matmul_output_codes_bf16",
        (_, false, false, false) => "twofour_matmul_input_dense_f16",
        (_, false, false, true) => "twofour_matmul_input_dense_bf16",
        (_, false, true, false) => "twofour_matmul_input_codes_f16",
        (_, false, true, true) => "twofour_matmul_input_codes_bf16",
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::constants::Cuda;

    #[test]
    fn constants_are_those_of_the_kernels() {
        let cuda = Cuda::read("matmul.cu");
        assert_eq!(TILE as u64, cuda.constant("kTile"));
        assert_eq!(DEPTH as u64, cuda.constant("kDepth"));
        assert_eq!(u64::from(THREADS), cuda.constant("kTileThreads"));
        assert_eq!(u64::from(RING_BYTES), cuda.constant("kRingBytes"));
        assert_eq!(u64::from(CODE_BYTES), cuda.constant("kStages") * cuda.constant("kCodeBytes"));
        assert_eq!(u64::from(RUN_THREADS), cuda.bounds("twofour_matmul_sum_C")[0]);
        assert_eq!(u64::from(RUN_THREADS), Cuda::read("mask_frozen.cu").bounds("twofour_mask_frozen_W")[0]);
    }
}
