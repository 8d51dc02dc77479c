//! The launches of the `select` kernels. The structs mirror those of `cuda/select.cu`.

use super::activations::SLAB;
use super::sweep::BLOCK;
use super::{ByScore, Squares, Swaps, Sweep};
use crate::device::{Launch, Symbol};
use crate::element::Float;
use crate::error::{Error, Result};
use crate::pass::{Binder, DeviceSpace, Queue};
use crate::sample::statistics;
use crate::sample::walk::{self, THREADS, Walk};
use crate::shape::Shape;
use crate::space::Array;

/// Warps of a block.
const WARPS: u32 = THREADS / 32;
/// Blocks that a multiprocessor is given to walk over a weight.
const BLOCKS_PER_MULTIPROCESSOR: u32 = 8;
/// Blocks of the sweep that a multiprocessor holds, for each keeps a part of the factor in shared memory.
const SWEEPS_PER_MULTIPROCESSOR: u32 = 3;
/// Bytes of that part.
const SWEEP_SHARED: u32 = (BLOCK * BLOCK * size_of::<f32>()) as u32;
/// Rows and columns that a block makes up for errors in.
const TILE: usize = 128;
/// Blocks of a grid along x, at most.
const MOST_BLOCKS: u64 = i32::MAX as u64;

/// `SelectScoreArgs`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct ScoreArgs {
    weight: u64,
    column_scale: u64,
    scores: u64,
    masked: u64,
    patterns: u64,
    codes: u64,
    statistics: u64,
    walk: Walk,
}
const _: () = assert!(size_of::<ScoreArgs>() == 96);

/// `SelectSquaresArgs`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct SquaresArgs {
    x: u64,
    partial: u64,
    tokens: u64,
    cols: u64,
    strips: u32,
    wide: u32,
}
const _: () = assert!(size_of::<SquaresArgs>() == 40);

/// `SelectNormsArgs`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct NormsArgs {
    partial: u64,
    sums: u64,
    norms: u64,
    slabs: u64,
    cols: u64,
}
const _: () = assert!(size_of::<NormsArgs>() == 40);

/// `SelectSweepArgs`: of every step of a sweep.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct SweepArgs {
    weight: u64,
    upper: u64,
    scale: u64,
    work: u64,
    errors: u64,
    patterns: u64,
    updated: u64,
    codes: u64,
    losses: u64,
    faults: u64,
    rows: u64,
    cols: u64,
    start: u64,
}
const _: () = assert!(size_of::<SweepArgs>() == 104);

/// `SelectSwapsArgs`: of every step of swaps.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct SwapsArgs {
    weight: u64,
    hessian: u64,
    before: u64,
    products: u64,
    of_groups: u64,
    patterns: u64,
    masked: u64,
    codes: u64,
    losses_before: u64,
    losses: u64,
    swaps: u64,
    rows: u64,
    cols: u64,
    limit: u64,
}
const _: () = assert!(size_of::<SwapsArgs>() == 112);

fn symbol(variant: &str, types: &[&str]) -> Symbol {
    Symbol::new("select", variant, types)
}

/// So many blocks, at least one and at most `most`.
fn blocks(wanted: u64, most: u32) -> u32 {
    wanted.clamp(1, u64::from(most)) as u32
}

/// Checks that there is as much memory to work in as is needed.
fn enough<A: Array>(workspace: Option<&A>, needed: usize) -> Result<()> {
    match workspace.map_or(0, Array::elements) {
        got if got < needed => Err(Error::Workspace { needed: needed as u64, got: got as u64 }),
        _ => Ok(()),
    }
}

/// Tiles of a weight's rows and so many columns.
fn tiles(Shape { rows, cols }: Shape, wide: u64) -> Result<u32> {
    let (rows, cols, tile) = (rows as u64, cols as u64, TILE as u64);
    let tiles = wide.div_ceil(tile).checked_mul(rows.div_ceil(tile)).filter(|&tiles| tiles <= MOST_BLOCKS);
    tiles.map(|tiles| tiles as u32).ok_or(Error::Overflow { what: "the weight", rows, cols })
}

/// One kernel, and a second that adds up what is kept, if that is wanted.
pub(super) fn by_score<'g, S: DeviceSpace, W: Float>(
    pass: &'g mut ByScore<'_, S, W>,
    binder: &mut Binder<'g, S>,
    queue: &mut Queue,
) -> Result<()> {
    // Groups a thread takes at a time: 32 bytes of the weight.
    let chunk = 8 / W::DTYPE.size() as u64;
    let counts = pass.statistics.is_some();
    let most = if counts { statistics::MAX_BLOCKS } else { queue.limits().blocks(BLOCKS_PER_MULTIPROCESSOR) };
    let blocks = walk::blocks(pass.shape, chunk, most);
    let walk = score_walk(pass, chunk * u64::from(blocks) * u64::from(THREADS));
    let args = ScoreArgs {
        weight: binder.input_if("weight", &pass.weight)?,
        column_scale: binder.input_if("column_scale", &pass.column_scale)?,
        scores: binder.input_if("scores", &pass.scores)?,
        masked: binder.output_if("masked", &mut pass.masked)?,
        patterns: binder.output_if("patterns", &mut pass.patterns)?,
        codes: binder.output_if("codes", &mut pass.codes)?,
        statistics: binder.output_if("statistics", &mut pass.statistics)?,
        walk: walk?,
    };
    queue.launch(Launch::new(symbol("score", &[W::DTYPE.name()]), blocks, THREADS, &args));
    if counts {
        queue.launch(statistics::add_up("select", args.statistics, blocks));
    }
    Ok(())
}

/// The walk over the groups in steps of so many; where a row ends matters if columns have scales.
fn score_walk<S: DeviceSpace, W: Float>(pass: &ByScore<'_, S, W>, step: u64) -> Result<Walk> {
    let (groups, in_row) = (pass.shape.groups() as u64, pass.shape.cols as u64 / 4);
    let row_groups = match (&pass.column_scale, u32::try_from(in_row)) {
        (None, _) | (_, Ok(0)) => 1 << 31,
        (_, Ok(in_row)) if in_row < 1 << 31 => in_row,
        _ => return Err(Error::Overflow { what: "a row", rows: 1, cols: pass.shape.cols as u64 }),
    };
    let step_in_row = (step % u64::from(row_groups)) as u32;
    Ok(Walk { groups, first: 0, row_jump: 0, step_global: step, row_groups, step_in_row })
}

/// Sums each slab of the batch, if there are any; then adds all of them to the running sums.
pub(super) fn squares<'g, S: DeviceSpace, X: Float>(
    pass: &'g mut Squares<'_, S, X>,
    binder: &mut Binder<'g, S>,
    queue: &mut Queue,
) -> Result<()> {
    let (tokens, cols) = (pass.tokens, pass.cols);
    enough(pass.workspace.as_ref(), Squares::workspace_bytes(tokens, cols))?;
    let (slabs, partial) = (tokens.div_ceil(SLAB) as u64, binder.output_if("workspace", &mut pass.workspace)?);
    // Columns of a lane: 16 bytes of a token if all rows are aligned for that, else 8.
    let wide = cols.is_multiple_of(16 / X::DTYPE.size());
    let strip = 32 * if wide { 16 / X::DTYPE.size() } else { 4 };
    let strips = cols.div_ceil(strip) as u64;
    let (tokens, cols) = (tokens as u64, cols as u64);
    let too_many = Error::Overflow { what: "x", rows: tokens, cols };
    let grid = slabs.checked_mul(strips).filter(|&blocks| blocks <= MOST_BLOCKS).ok_or(too_many)?;
    let x = binder.input("x", &pass.x)?.address;
    let args = SquaresArgs { x, partial, tokens, cols, strips: strips as u32, wide: u32::from(wide) };
    if grid > 0 {
        queue.launch(Launch::new(symbol("squares", &[X::DTYPE.name()]), grid as u32, THREADS, &args));
    }
    let sums = binder.output("sums", &mut pass.sums)?.address;
    let args = NormsArgs { partial, sums, norms: binder.output_if("norms", &mut pass.norms)?, slabs, cols };
    let grid = blocks(cols.div_ceil(u64::from(THREADS)), i32::MAX as u32);
    queue.launch(Launch::new(symbol("norms", &[]), grid, THREADS, &args));
    Ok(())
}

/// The weight to `f32`; for each block of columns the choice, and the columns to its right; and the outputs.
pub(super) fn sweep<'g, S: DeviceSpace, W: Float>(
    pass: &'g mut Sweep<'_, S, W>,
    binder: &mut Binder<'g, S>,
    queue: &mut Queue,
) -> Result<()> {
    let shape = pass.shape;
    enough(pass.workspace.as_ref(), Sweep::workspace_bytes(shape))?;
    let args = sweep_args(pass, binder)?;
    let SweepArgs { rows, cols, .. } = args;
    let walks = queue.limits().blocks(BLOCKS_PER_MULTIPROCESSOR);
    let sweeps = queue.limits().blocks(SWEEPS_PER_MULTIPROCESSOR);
    let elements = blocks((shape.weights() as u64).div_ceil(8 * u64::from(THREADS)), walks);
    queue.launch(Launch::new(symbol("widen", &[W::DTYPE.name()]), elements, THREADS, &args));
    for start in (0..shape.cols).step_by(BLOCK) {
        let args = SweepArgs { start: start as u64, ..args };
        let of_rows = blocks(rows.div_ceil(u64::from(WARPS)), sweeps);
        let choice = Launch::new(symbol("sweep", &[]), of_rows, THREADS, &args);
        queue.launch(choice.shared_bytes(SWEEP_SHARED));
        let right = cols.saturating_sub(args.start + BLOCK as u64);
        if right > 0 {
            queue.launch(Launch::new(symbol("make_up", &[]), tiles(shape, right)?, THREADS, &args));
        }
    }
    queue.launch(Launch::new(symbol("finish", &[W::DTYPE.name()]), elements, THREADS, &args));
    Ok(())
}

/// The Hessian's groups; `H r` of each row; the swaps; and the outputs that groups of two rows may share a byte of.
pub(super) fn swaps<'g, S: DeviceSpace, W: Float>(
    pass: &'g mut Swaps<'_, S, W>,
    binder: &mut Binder<'g, S>,
    queue: &mut Queue,
) -> Result<()> {
    let (shape, dtype) = (pass.shape, W::DTYPE.name());
    enough(pass.workspace.as_ref(), Swaps::workspace_bytes(shape))?;
    let finish = pass.masked.is_some() || pass.codes.is_some();
    let args = swaps_args(pass, binder)?;
    let walks = queue.limits().blocks(BLOCKS_PER_MULTIPROCESSOR);
    let of_groups = (shape.cols / 4).div_ceil(THREADS as usize) as u32;
    queue.launch(Launch::new(symbol("swap_groups", &[]), of_groups, THREADS, &args));
    let tiles = tiles(shape, args.cols)?;
    queue.launch(Launch::new(symbol("swap_product", &[dtype]), tiles, THREADS, &args));
    queue.launch(Launch::new(symbol("swap", &[dtype]), blocks(args.rows, walks), THREADS, &args));
    if finish {
        let elements = blocks((shape.weights() as u64).div_ceil(8 * u64::from(THREADS)), walks);
        queue.launch(Launch::new(symbol("swap_finish", &[dtype]), elements, THREADS, &args));
    }
    Ok(())
}

fn swaps_args<'g, S: DeviceSpace, W: Float>(
    pass: &'g mut Swaps<'_, S, W>,
    binder: &mut Binder<'g, S>,
) -> Result<SwapsArgs> {
    let [products, of_groups, _] = Swaps::workspace_parts(pass.shape);
    let work = binder.output_if("workspace", &mut pass.workspace)?;
    let of_groups_at = work + products as u64;
    let own_patterns = of_groups_at + of_groups as u64;
    let patterns = binder.output_if("patterns", &mut pass.patterns)?;
    Ok(SwapsArgs {
        weight: binder.input("weight", &pass.weight)?.address,
        hessian: binder.input("hessian", &pass.hessian)?.address,
        before: binder.input("codes before", &pass.before)?.address,
        products: work,
        of_groups: of_groups_at,
        patterns: if patterns == 0 { own_patterns } else { patterns },
        masked: binder.output_if("masked", &mut pass.masked)?,
        codes: binder.output_if("codes", &mut pass.codes)?,
        losses_before: binder.output_if("losses before", &mut pass.losses_before)?,
        losses: binder.output_if("losses", &mut pass.losses)?,
        swaps: binder.output_if("swaps", &mut pass.swaps)?,
        rows: pass.shape.rows as u64,
        cols: pass.shape.cols as u64,
        limit: u64::from(pass.limit),
    })
}

fn sweep_args<'g, S: DeviceSpace, W: Float>(
    pass: &'g mut Sweep<'_, S, W>,
    binder: &mut Binder<'g, S>,
) -> Result<SweepArgs> {
    let [weight, errors, _] = Sweep::workspace_parts(pass.shape);
    let work = binder.output_if("workspace", &mut pass.workspace)?;
    let errors_at = work + weight as u64;
    let own_patterns = errors_at + errors as u64;
    let patterns = binder.output_if("patterns", &mut pass.patterns)?;
    Ok(SweepArgs {
        weight: binder.input("weight", &pass.weight)?.address,
        upper: binder.input("upper", &pass.upper)?.address,
        scale: binder.input("scale", &pass.scale)?.address,
        work,
        errors: errors_at,
        patterns: if patterns == 0 { own_patterns } else { patterns },
        updated: binder.output_if("updated", &mut pass.updated)?,
        codes: binder.output_if("codes", &mut pass.codes)?,
        losses: binder.output_if("losses", &mut pass.losses)?,
        faults: binder.output_if("faults", &mut pass.faults)?,
        rows: pass.shape.rows as u64,
        cols: pass.shape.cols as u64,
        start: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::constants::Cuda;
    use crate::select::activations::RUN;
    use crate::select::swaps::SUMS;

    #[test]
    fn constants_are_those_of_the_kernels() {
        let cuda = Cuda::read("select.cu");
        assert_eq!(u64::from(THREADS), cuda.constant("kThreads"));
        assert_eq!(u64::from(WARPS), cuda.constant("kWarps"));
        assert_eq!(BLOCK as u64, cuda.constant("kBlock"));
        assert_eq!(TILE as u64, cuda.constant("kTile"));
        assert_eq!(RUN as u64, cuda.constant("kRun"));
        assert_eq!(SLAB as u64, cuda.constant("kSlab"));
        assert_eq!(SUMS as u64, cuda.constant("kThreads"));
        assert!(u64::from(SWEEPS_PER_MULTIPROCESSOR) >= cuda.bounds(Symbol::new("select", "sweep", &[]).name())[1]);
    }
}
