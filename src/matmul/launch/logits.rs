//! From `G` to the logits: their gradient, or their step, where `G` stands in registers or by panels of rows. The structs
//! mirror those of `cuda/matmul.cu`.

use super::works::Works;
use crate::dense::{Product, tile};
use crate::device::Symbol;
use crate::element::{DType, Float, Logit};
use crate::error::Result;
use crate::learn::{self, Rounding, Sums};
use crate::mask;
use crate::matmul::backward::ToLogits;
use crate::matmul::{Choice, Dense, Layer, LogitRoute, Plan};
use crate::pass::Queue;
use crate::sample::launch::Differentiation;
use crate::sample::walk::Walk;
use crate::sample::{Kind, Sampling, Source};
use crate::shape::{Shape, Shard};
use crate::space::{Raw, RawSlice};
use std::ops::Range;

/// `MatmulLogitsArgs`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct LogitsArgs {
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

/// `MatmulStepArgs`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct StepArgs {
    step: learn::StepArgs,
    dy: u64,
    x: u64,
    weight: u64,
    by: Differentiation,
    rows: u32,
    cols: u32,
    tokens: u32,
    unused: u32,
}
const _: () = assert!(size_of::<StepArgs>() == 448);

/// A layer's logits, and what they make masks with.
type Logits<L> = (Kind, Sampling, RawSlice<L>);

impl<L: Logit, W: Float> Works<'_, L, W> {
    /// Those of a sampled layer; `check` has refused others.
    fn logits(&self) -> Option<Logits<L>> {
        match self.layer.source {
            Source::Sampled { kind, sampling, logits } => Some((kind, sampling, logits)),
            Source::Frozen { .. } => None,
        }
    }

    /// A kernel that makes `G` in registers, a block a tile.
    fn tiles<A: bytemuck::Pod>(&mut self, of: &str, kind: Kind, args: &A) -> Result<()> {
        let Shape { rows, cols } = self.layer.shape;
        let variant = format!("{of}_{}", if kind == Kind::Hard { "hard" } else { "soft" });
        let symbol = Symbol::new("matmul", &variant, &[L::DTYPE, W::DTYPE].map(DType::name));
        self.queue.launch(tile::launch(symbol, [rows, cols], 1, tile::RING_BYTES, args)?);
        Ok(())
    }

    /// `G` of some rows at a time; what is to be done with them is queued by `of_rows`.
    fn panels(
        &mut self,
        by: Panels,
        [dy, x]: [RawSlice<W>; 2],
        mut of_rows: impl FnMut(&mut Queue, &Panel<L, W>) -> Result<()>,
    ) -> Result<()> {
        let (layer, whole) = (self.layer, Product::weight_gradient(self.problem, W::DTYPE));
        let Some((_, _, logits)) = self.logits() else { return Ok(()) };
        let (Shape { rows: all, cols }, six) = (layer.shape, layer.shape.cols / 4 * 6);
        for first in (0..all).step_by(by.rows.max(1)) {
            let rows = by.rows.min(all - first);
            // A part of its rows' values: the pitch stays.
            let dy = dy.address + (first * W::DTYPE.size()) as u64;
            self.product_in(by.dense, &whole.panel(rows), [dy, x.address, by.g], None, by.splits, by.g)?;
            let panel = Panel {
                shape: Shape::new(rows, cols),
                shard: Shard { row_offset: layer.shard.row_offset + first as u64, ..layer.shard },
                groups: first * (cols / 4)..(first + rows) * (cols / 4),
                logits: logits.part(first * six, rows * six),
                weight: layer.weight.part(first * cols, rows * cols),
                g: RawSlice::new(by.g, rows * cols),
            };
            of_rows(self.queue, &panel)?;
        }
        Ok(())
    }
}

/// How `G` is made by panels, and where.
struct Panels {
    dense: Dense,
    splits: u32,
    rows: usize,
    g: u64,
}

/// Some rows.
struct Panel<L, W> {
    shape: Shape,
    shard: Shard,
    groups: Range<usize>,
    logits: RawSlice<L>,
    weight: RawSlice<W>,
    g: RawSlice<f32>,
}

pub(super) fn gradient<L: Logit, W: Float>(
    mut works: Works<'_, L, W>,
    plan: &Plan<L, W>,
    dy: RawSlice<W>,
    to: &ToLogits<'_, Raw, W>,
    regulariser: f32,
) -> Result<()> {
    let Some((kind, sampling, logits)) = works.logits() else { return Ok(()) };
    let Layer { shape, shard, weight, .. } = *works.layer;
    let Choice { route, splits, workspace_bytes, .. } = plan.logit_gradient();
    let LogitRoute::Panels(dense) = route else {
        let args = LogitsArgs {
            dy: dy.address,
            x: to.x.address,
            weight: weight.address,
            logits: logits.address,
            logit_gradient: to.logit_gradient.address,
            first_group: shard.group(0, 0),
            row_groups: shard.global_cols / 4,
            rows: tile::size("rows", shape.rows)?,
            cols: tile::size("cols", shape.cols)?,
            tokens: tile::size("tokens", plan.problem().tokens)?,
            accumulate: u32::from(to.accumulate),
            by: Differentiation::new(&sampling, regulariser),
        };
        return works.tiles("logits", kind, &args);
    };
    let g = works.workspace.area(workspace_bytes)?;
    let panels = Panels { dense, splits, rows: plan.panel_rows(), g };
    works.panels(panels, [dy, to.x], |queue, panel| {
        let Panel { shape, shard, logits, weight, g, .. } = *panel;
        let pass = mask::Backward::<Raw, L, W, f32>::new(shape, kind, sampling, logits, weight, g);
        let pass = pass.shard(shard).regulariser(regulariser);
        let part = to.logit_gradient.part(6 * panel.groups.start, 6 * panel.groups.len());
        queue.pass(match to.accumulate {
            true => pass.accumulate_logit_gradient(part),
            false => pass.logit_gradient(part),
        })
    })
}

/// `sums` are wanted; each block's share of them goes to the workspace, as there are more blocks than an array of sums
/// has room for.
pub(super) fn step<L: Logit, W: Float>(
    mut works: Works<'_, L, W>,
    plan: &Plan<L, W>,
    [dy, x]: [RawSlice<W>; 2],
    mut by: learn::Step<'_, Raw>,
    regulariser: f32,
    sums: Sums,
) -> Result<()> {
    let Some((kind, sampling, logits)) = works.logits() else { return Ok(()) };
    let Layer { shape, shard, weight, .. } = *works.layer;
    let (choice, (most, g_bytes)) = (plan.step_route(), plan.step_shares());
    let (g, area) = (works.workspace.area(g_bytes)?, works.workspace.area(Sums::bytes_of_shares(most))?);
    let shares = sums.shares_at(area, most as u64);
    let mut blocks = 0;
    if let LogitRoute::Panels(dense) = choice.route {
        let panels = Panels { dense, splits: choice.splits, rows: plan.step_rows(), g };
        works.panels(panels, [dy, x], |queue, panel| {
            let Panel { shape, shard, logits, weight, g, .. } = *panel;
            let step = by.part(panel.groups.clone());
            let part = learn::Fused::<Raw, L, W, f32>::new(shape, kind, sampling, logits, weight, g, step);
            let part = part.shard(shard).regulariser(regulariser);
            blocks += u64::from(learn::fused_part(&part, shares.after(blocks), queue)?);
            Ok(())
        })?;
    } else {
        let Sampling { seed, draw, .. } = sampling;
        // Of the walk a tile reads where the shard lies, no more.
        let (walk, rounding) = (Walk::new(shape, &shard, 1, 1)?, Rounding { seed, draw });
        let args = StepArgs {
            step: learn::StepArgs::new(&by, logits.address, walk, Some(rounding), shares),
            dy: dy.address,
            x: x.address,
            weight: weight.address,
            by: Differentiation::new(&sampling, regulariser),
            rows: tile::size("rows", shape.rows)?,
            cols: tile::size("cols", shape.cols)?,
            tokens: tile::size("tokens", plan.problem().tokens)?,
            unused: 0,
        };
        works.tiles("step", kind, &args)?;
        blocks = most as u64;
    }
    if sums.are_wanted() {
        works.queue.launch(learn::finish(sums, shares, blocks));
    }
    Ok(())
}
