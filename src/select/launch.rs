//! The launches of the `select` kernels as plain data: from checked arguments in bare addresses to symbol, grid and
//! argument struct. The CUDA executor and the emulator run the same ones. The structs mirror those of `cuda/select.cu`.

use super::activations::SLAB;
use super::sweep::BLOCK;
use super::{ByScore, Kept, Squares, Sweep};
use crate::device::Limits;
use crate::device::launch::{Launch, Symbol, address};
use crate::element::{DType, Float};
use crate::error::{Error, Result};
use crate::sample::walk::Walk;
use crate::space::Raw;

/// Threads of a block, and warps.
const THREADS: u32 = 256;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct ScoreArgs {
    weight: u64,
    column_scale: u64,
    scores: u64,
    masked: u64,
    patterns: u64,
    codes: u64,
    kept: u64,
    walk: Walk,
}
const _: () = assert!(size_of::<ScoreArgs>() == 96);

/// `SelectKeptArgs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct KeptArgs {
    kept: u64,
    blocks: u64,
}

/// `SelectSquaresArgs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct SquaresArgs {
    x: u64,
    partial: u64,
    tokens: u64,
    cols: u64,
    strips: u32,
    wide: u32,
}

/// `SelectNormsArgs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct NormsArgs {
    partial: u64,
    sums: u64,
    norms: u64,
    slabs: u64,
    cols: u64,
}

/// `SelectSweepArgs`: of every step of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct SweepArgs {
    weight: u64,
    upper: u64,
    scale: u64,
    work: u64,
    errors: u64,
    patterns: u64,
    updated: u64,
    codes: u64,
    losses: u64,
    rows: u64,
    cols: u64,
    start: u64,
}
const _: () = assert!(size_of::<SweepArgs>() == 96);

/// A choice by score: one kernel, and a second that adds up what is kept, if that is wanted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoreLaunch {
    /// The pass over the weight.
    pub pass: Launch<ScoreArgs>,
    /// Adds up the blocks' shares.
    pub kept: Option<Launch<KeptArgs>>,
}

/// Sums of squares: slabs of the batch, then all of them onto the running sums.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SquaresLaunch {
    /// Sums each slab; none where there are no tokens.
    pub slabs: Option<Launch<SquaresArgs>>,
    /// Adds the slabs, and takes the roots.
    pub sums: Launch<NormsArgs>,
}

fn launch<A>(name: &'static str, grid: u32, args: A) -> Launch<A> {
    let symbol = Symbol { module: "select", name };
    Launch { symbol, grid: [grid, 1, 1], block: [THREADS, 1, 1], shared_bytes: 0, args }
}

/// So many blocks, at least one and at most `most`.
fn blocks(wanted: u64, most: u32) -> u32 {
    wanted.clamp(1, u64::from(most)) as u32
}

/// `$prefix` followed by a type's name.
macro_rules! by_type {
    ($prefix:literal, $type:expr) => {
        match $type {
            DType::F16 => concat!($prefix, "_f16"),
            DType::Bf16 => concat!($prefix, "_bf16"),
            _ => concat!($prefix, "_f32"),
        }
    };
}

impl<W: Float> ByScore<'_, Raw, W> {
    /// The launch of this choice on a device with these limits.
    ///
    /// # Errors
    /// What [`ByScore::check`] finds, [`Error::Misaligned`], and [`Error::Overflow`] if a row that is scaled has 2³¹
    /// groups or more.
    pub fn launch(&self, limits: &Limits) -> Result<ScoreLaunch> {
        self.check()?;
        // Groups a thread takes at a time: 32 bytes of the weight.
        let chunk = 8 / W::DTYPE.size() as u64;
        let most = match self.kept {
            Some(_) => Kept::MAX_BLOCKS,
            None => limits.multiprocessors.max(1).saturating_mul(BLOCKS_PER_MULTIPROCESSOR),
        };
        let grid = blocks((self.shape.groups() as u64).div_ceil(chunk * u64::from(THREADS)), most);
        let args = ScoreArgs {
            weight: address("weight", self.weight)?,
            column_scale: address("column_scale", self.column_scale)?,
            scores: address("scores", self.scores)?,
            masked: address("masked", self.masked)?,
            patterns: address("patterns", self.patterns)?,
            codes: address("codes", self.codes)?,
            kept: address("kept", self.kept)?,
            walk: self.walk(chunk * u64::from(grid) * u64::from(THREADS))?,
        };
        let kept = self.kept.map(|_| {
            let args = KeptArgs { kept: args.kept, blocks: u64::from(grid) };
            launch("twofour_select_kept", 1, args)
        });
        Ok(ScoreLaunch { pass: launch(by_type!("twofour_select_score", W::DTYPE), grid, args), kept })
    }

    /// The walk over the groups in steps of so many; where a row ends matters if columns have scales.
    fn walk(&self, step: u64) -> Result<Walk> {
        let (groups, in_row) = (self.shape.groups() as u64, self.shape.cols as u64 / 4);
        let row_groups = match (self.column_scale, u32::try_from(in_row)) {
            (None, _) | (_, Ok(0)) => 1 << 31,
            (_, Ok(in_row)) if in_row < 1 << 31 => in_row,
            _ => return Err(Error::Overflow { what: "a row", rows: 1, cols: self.shape.cols as u64 }),
        };
        let step_in_row = (step % u64::from(row_groups)) as u32;
        Ok(Walk { groups, first: 0, row_jump: 0, step_global: step, row_groups, step_in_row })
    }
}

impl<X: Float> Squares<'_, Raw, X> {
    /// The launches of these sums.
    ///
    /// # Errors
    /// What [`Squares::check`] finds, [`Error::Misaligned`], [`Error::Workspace`], and [`Error::Overflow`] for more
    /// than 2³¹ blocks.
    pub fn launch(&self) -> Result<SquaresLaunch> {
        self.check()?;
        let Self { tokens, cols, .. } = *self;
        let needed = Self::workspace_len(tokens, cols);
        let got = self.workspace.map_or(0, |workspace| workspace.elements);
        if got < needed {
            return Err(Error::Workspace { needed: 8 * needed as u64, got: 8 * got as u64 });
        }
        let (slabs, partial) = (tokens.div_ceil(SLAB) as u64, address("workspace", self.workspace)?);
        // Columns of a lane: 16 bytes of a token if all rows are aligned for that, else 8.
        let wide = cols.is_multiple_of(16 / X::DTYPE.size());
        let strip = 32 * if wide { 16 / X::DTYPE.size() } else { 4 };
        let strips = cols.div_ceil(strip) as u64;
        let too_many = || Error::Overflow { what: "x", rows: tokens as u64, cols: cols as u64 };
        let grid = slabs.checked_mul(strips).filter(|&blocks| blocks <= MOST_BLOCKS).ok_or_else(too_many)?;
        let (tokens, cols) = (tokens as u64, cols as u64);
        let x = address("x", Some(self.x))?;
        let args = SquaresArgs { x, partial, tokens, cols, strips: strips as u32, wide: u32::from(wide) };
        let of_slabs = launch(by_type!("twofour_select_squares", X::DTYPE), grid as u32, args);
        let sums = address("sums", Some(self.sums))?;
        let args = NormsArgs { partial, sums, norms: address("norms", self.norms)?, slabs, cols };
        let grid = blocks(cols.div_ceil(u64::from(THREADS)), i32::MAX as u32);
        let sums = launch("twofour_select_norms", grid, args);
        Ok(SquaresLaunch { slabs: (slabs * strips > 0).then_some(of_slabs), sums })
    }
}

impl<W: Float> Sweep<'_, Raw, W> {
    /// The launches of this sweep on a device with these limits, to be run one after the other: the weight to `f32`;
    /// for each block of columns the choice, and the columns to its right; and the outputs. None for a weight without
    /// elements but for losses, which are then zero.
    ///
    /// # Errors
    /// What [`Sweep::check`] finds, [`Error::Misaligned`], [`Error::Workspace`], and [`Error::Overflow`] for more than
    /// 2³¹ blocks.
    pub fn launches(&self, limits: &Limits) -> Result<Vec<Launch<SweepArgs>>> {
        self.check()?;
        let shape = self.shape;
        let needed = Self::workspace_len(shape);
        let got = self.workspace.map_or(0, |workspace| workspace.elements);
        if got < needed {
            return Err(Error::Workspace { needed: 4 * needed as u64, got: 4 * got as u64 });
        }
        let args = self.args()?;
        let (rows, cols) = (shape.rows as u64, shape.cols as u64);
        let walks = limits.multiprocessors.max(1).saturating_mul(BLOCKS_PER_MULTIPROCESSOR);
        let sweeps = limits.multiprocessors.max(1).saturating_mul(SWEEPS_PER_MULTIPROCESSOR);
        let elements = blocks((shape.weights() as u64).div_ceil(8 * u64::from(THREADS)), walks);
        let mut all = vec![launch(by_type!("twofour_select_widen", W::DTYPE), elements, args)];
        for start in (0..shape.cols).step_by(BLOCK) {
            let args = SweepArgs { start: start as u64, ..args };
            let choice = launch("twofour_select_sweep", blocks(rows.div_ceil(u64::from(WARPS)), sweeps), args);
            all.push(Launch { shared_bytes: SWEEP_SHARED, ..choice });
            let right = cols.saturating_sub(args.start + BLOCK as u64);
            if right > 0 {
                let tiles = right.div_ceil(TILE as u64).checked_mul(rows.div_ceil(TILE as u64));
                let tiles = tiles.filter(|&tiles| tiles <= MOST_BLOCKS);
                let tiles = tiles.ok_or(Error::Overflow { what: "the weight", rows, cols })?;
                all.push(launch("twofour_select_make_up", tiles as u32, args));
            }
        }
        all.push(launch(by_type!("twofour_select_finish", W::DTYPE), elements, args));
        Ok(all)
    }

    fn args(&self) -> Result<SweepArgs> {
        let work = address("workspace", self.workspace)?;
        let [weight, errors, _] = Self::workspace_parts(self.shape);
        // K is a multiple of 4 and a block's errors are 128, so that every part begins on a 16-byte boundary.
        let errors_at = work + 4 * weight as u64;
        let own_patterns = errors_at + 4 * errors as u64;
        let patterns = address("patterns", self.patterns)?;
        Ok(SweepArgs {
            weight: address("weight", Some(self.weight))?,
            upper: address("upper", Some(self.upper))?,
            scale: address("scale", Some(self.scale))?,
            work,
            errors: errors_at,
            patterns: if patterns == 0 { own_patterns } else { patterns },
            updated: address("updated", self.updated)?,
            codes: address("codes", self.codes)?,
            losses: address("losses", self.losses)?,
            rows: self.shape.rows as u64,
            cols: self.shape.cols as u64,
            start: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::constants::Cuda;
    use crate::select::activations::RUN;

    #[test]
    fn constants_are_those_of_the_kernels() {
        let cuda = Cuda::read("select.cu");
        assert_eq!(u64::from(THREADS), cuda.constant("kThreads"));
        assert_eq!(u64::from(WARPS), cuda.constant("kWarps"));
        assert_eq!(BLOCK as u64, cuda.constant("kBlock"));
        assert_eq!(TILE as u64, cuda.constant("kTile"));
        assert_eq!(RUN as u64, cuda.constant("kRun"));
        assert_eq!(SLAB as u64, cuda.constant("kSlab"));
        assert!(u64::from(SWEEPS_PER_MULTIPROCESSOR) >= cuda.bounds("twofour_select_sweep")[1]);
    }
}
