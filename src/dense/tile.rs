//! Launches of the products of `cuda/matmul.cu`, as plain data: tiles on tensor cores, and the sums of their parts. The
//! structs mirror those there.

use super::product::Product;
use super::split;
use crate::device::{Launch, Limits, Symbol};
use crate::error::{Error, Result};

/// Rows and columns of C a block makes.
pub(crate) const TILE: usize = 128;
/// Of the contraction in a stage.
const DEPTH: usize = 32;
const THREADS: u32 = 128;
/// Threads of a block of the kernel that adds parts up, each for a run of 16 bytes.
const RUN_THREADS: u32 = 256;
/// Four stages of two tiles.
pub(crate) const RING_BYTES: u32 = 4 * 2 * (TILE * DEPTH * 2) as u32;
/// Codes of four stages, a byte for eight weights.
const CODE_BYTES: u32 = 4 * (TILE * DEPTH / 8) as u32;

/// `MatmulArgs`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct TileArgs {
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
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct SumArgs {
    partial: u64,
    sum: u64,
    elements: u64,
    splits: u32,
    unused: u32,
}
const _: () = assert!(size_of::<SumArgs>() == 32);

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

/// How many of so many parts have something to do: kernels take no others.
pub(crate) fn filled(product: &Product, splits: u32) -> u32 {
    split::filled(product.depth, split::share(product.depth, splits as usize, DEPTH)) as u32
}

/// Tiles along an extent of C.
pub(crate) fn tiles(extent: usize) -> usize {
    extent.div_ceil(TILE)
}

/// `C` of a product, or its parts where it is split.
pub(crate) fn product(product: &Product, at: &Addresses, splits: u32) -> Result<Launch> {
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
    let (masked, shared) = (at.codes.is_some(), if at.codes.is_some() { CODE_BYTES } else { 0 });
    let variant = match (product.a_transposed, product.b_transposed) {
        (true, _) if product.result == product.operands => "gradient_rounded",
        (true, _) => "gradient",
        (_, true) if masked => "output_codes",
        (_, true) => "output_dense",
        (_, false) if masked => "input_codes",
        (_, false) => "input_dense",
    };
    let symbol = Symbol::new("matmul", variant, &[product.operands.name()]);
    launch(symbol, [product.rows, product.cols], splits, RING_BYTES + shared, &args)
}

/// A launch with a block for each tile of `[rows, cols]`, times the parts.
pub(crate) fn launch<A: bytemuck::Pod>(
    symbol: Symbol,
    [rows, cols]: [usize; 2],
    splits: u32,
    shared_bytes: u32,
    args: &A,
) -> Result<Launch> {
    let blocks = tiles(rows).checked_mul(tiles(cols)).and_then(|blocks| u32::try_from(blocks).ok());
    let blocks = blocks.filter(|&blocks| blocks < 1 << 31);
    let blocks = blocks.ok_or(Error::Overflow { what: "the grid", rows: rows as u64, cols: cols as u64 })?;
    Ok(Launch::new(symbol, blocks, THREADS, args).grid([blocks, splits, 1]).shared_bytes(shared_bytes))
}

/// Adds up the parts of a split product.
pub(crate) fn sum(product: &Product, partial: u64, sum: u64, splits: u32) -> Launch {
    let elements = product.rows as u64 * product.cols as u64;
    let runs = elements.div_ceil(16 / product.result.size() as u64);
    // The kernel steps by the grid.
    let blocks = runs.div_ceil(u64::from(RUN_THREADS)).min(1 << 20) as u32;
    let args = SumArgs { partial, sum, elements, splits, unused: 0 };
    Launch::new(Symbol::new("matmul", "sum", &[product.result.name()]), blocks, RUN_THREADS, &args)
}

/// Kernels count in 32 bits, with room for a tile beyond the end.
pub(crate) fn size(what: &'static str, size: usize) -> Result<u32> {
    match u32::try_from(size) {
        Ok(small) if small < (1 << 31) - 2 * TILE as u32 => Ok(small),
        _ => Err(Error::Overflow { what, rows: size as u64, cols: 1 }),
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
    }
}
