//! Launches of the products of `cuda/matmul.cu`, as plain data: tiles on tensor cores, and the sums of their parts. The
//! structs mirror those there.

use super::product::Product;
use super::split;
use crate::device::Limits;
use crate::device::launch::{Launch, Symbol};
use crate::element::DType;
use crate::error::{Error, Result};

/// Rows and columns of C a block makes.
pub(crate) const TILE: usize = 128;
/// Of the contraction in a stage.
const DEPTH: usize = 32;
const THREADS: u32 = 128;
/// Four stages of two tiles.
pub(crate) const RING_BYTES: u32 = 4 * 2 * (TILE * DEPTH * 2) as u32;
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

/// Blocks that a device holds at once, and tiles that a product has.
fn slots_and_tiles(product: &Product, limits: &Limits) -> (usize, usize) {
    let slots = split::slots(limits, RING_BYTES + CODE_BYTES);
    (slots, tiles(product.rows).saturating_mul(tiles(product.cols)).max(1))
}

/// Whether the tiles of C leave half of a device or more with nothing to do.
pub(crate) fn is_too_small(product: &Product, limits: &Limits) -> bool {
    let (slots, tiles) = slots_and_tiles(product, limits);
    2 * tiles <= slots
}

/// In how many parts to take the contraction: as [`split::splits`] says.
pub(crate) fn splits(product: &Product, limits: &Limits) -> u32 {
    let (slots, tiles) = slots_and_tiles(product, limits);
    split::splits(product.depth, DEPTH, [tiles, slots], product.rows.saturating_mul(product.cols)) as u32
}

fn tiles(extent: usize) -> usize {
    extent.div_ceil(TILE)
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
        share: size("depth", split::share(product.depth, splits as usize, DEPTH))?,
        splits,
        unused: 0,
    };
    let codes = if at.codes.is_some() { CODE_BYTES } else { 0 };
    launch(product_symbol(product, at.codes.is_some()), [product.rows, product.cols], splits, RING_BYTES + codes, args)
}

/// A launch with a block for each tile of `[rows, cols]`, times the parts.
pub(crate) fn launch<A>(
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
        DType::F16 => "twofour_matmul_sum_f16",
        DType::Bf16 => "twofour_matmul_sum_bf16",
        _ => "twofour_matmul_sum_f32",
    };
    let elements = product.rows as u64 * product.cols as u64;
    let args = SumArgs { partial, sum, elements, splits, unused: 0 };
    each_run(name, elements.div_ceil(16 / product.result.size() as u64), args)
}

/// A thread for each of so many runs, in at most the blocks a grid may have: kernels step by the grid.
pub(crate) fn each_run<A>(name: &'static str, runs: u64, args: A) -> Launch<A> {
    const THREADS: u32 = 256;
    let blocks = runs.div_ceil(u64::from(THREADS)).min(1 << 20) as u32;
    Launch { symbol: symbol(name), grid: [blocks, 1, 1], block: [THREADS, 1, 1], shared_bytes: 0, args }
}

const fn symbol(name: &'static str) -> Symbol {
    Symbol { module: "matmul", name }
}

/// Kernels count in 32 bits, with room for a tile beyond the end.
pub(crate) fn size(what: &'static str, size: usize) -> Result<u32> {
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
