//! What a device is given for the passes: from operands to addresses, and from a plan's routes to launches and calls of
//! cuBLASLt, one after the other. The struct mirrors that of `cuda/matmul.cu`.

use super::backward::ToLogits;
use super::{Backward, Dense, Forward, InputRoute, Layer, LogitRoute, OutputRoute, Plan, Saved, small};
use crate::dense::{Product, tile};
use crate::device::Symbol;
use crate::element::{DType, Float, Logit};
use crate::error::Result;
use crate::mask;
use crate::pass::{Binder, DeviceSpace, Queue};
use crate::sample::launch::Differentiation;
use crate::sample::{Kind, Source};
use crate::shape::{Shape, Shard};
use crate::space::{Raw, RawSlice};

use works::{Works, Workspace};

mod works;

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

pub(super) fn forward<'g, S: DeviceSpace, L: Logit, W: Float>(
    pass: &'g mut Forward<'_, S, L, W>,
    binder: &mut Binder<'g, S>,
    queue: &mut Queue,
) -> Result<()> {
    let plan = pass.plan;
    let layer = bind(&pass.layer, binder)?;
    let x = binder.input("x", &pass.x)?.address;
    let y = binder.output("y", &mut pass.y)?.address;
    let saved = match &mut pass.saved {
        Saved::Nothing => Saved::Nothing,
        Saved::Masked(masked) => Saved::Masked(binder.output("masked", masked)?),
        Saved::Codes(codes) => Saved::Codes(binder.output("codes", codes)?),
    };
    let made = binder.input_if("masked", &pass.made)?;
    let workspace = bind_workspace(&mut pass.workspace, binder)?;

    let choice = plan.output();
    let workspace = Workspace::new(workspace, choice.workspace_bytes)?;
    let mut works = Works { queue, layer: &layer, problem: plan.problem(), workspace };
    let product = Product::output(plan.problem(), W::DTYPE);
    match choice.route {
        OutputRoute::Sampled => works.small(x, y, None, choice.splits),
        OutputRoute::Codes => {
            let codes = works.codes(saved)?;
            if small::takes(plan.problem()) {
                works.small(x, y, Some(codes), choice.splits)
            } else {
                works.product(Dense::Own, &product, [x, layer.weight.address, y], Some(codes), choice.splits)
            }
        }
        OutputRoute::Masked(dense) => {
            let masked = if pass.made.is_some() { made } else { works.masked(saved)? };
            works.product(dense, &product, [x, masked, y], None, choice.splits)
        }
    }
}

pub(super) fn backward<'g, S: DeviceSpace, L: Logit, W: Float>(
    pass: &'g mut Backward<'_, S, L, W>,
    binder: &mut Binder<'g, S>,
    queue: &mut Queue,
) -> Result<()> {
    let plan = pass.plan;
    let layer = bind(&pass.layer, binder)?;
    let dy = binder.input("dy", &pass.dy)?;
    let saved = match &pass.saved {
        Saved::Nothing => Saved::Nothing,
        Saved::Masked(masked) => Saved::Masked(binder.input("masked", masked)?),
        Saved::Codes(codes) => Saved::Codes(binder.input("codes", codes)?),
    };
    let dx = pass.dx.as_mut().map(|dx| binder.output("dx", dx)).transpose()?;
    let to_logits = match &mut pass.to_logits {
        Some(ToLogits { x, logit_gradient, accumulate }) => Some(ToLogits {
            x: binder.input("x", x)?,
            logit_gradient: binder.output("logit_gradient", logit_gradient)?,
            accumulate: *accumulate,
        }),
        None => None,
    };
    let workspace = bind_workspace(&mut pass.workspace, binder)?;
    if let Some(dx) = dx {
        let workspace = Workspace::new(workspace, plan.input_gradient().workspace_bytes)?;
        let works = Works { queue, layer: &layer, problem: plan.problem(), workspace };
        input_gradient(works, &plan, [dy.address, dx.address], saved)?;
    }
    if let Some(to_logits) = &to_logits {
        let workspace = Workspace::new(workspace, plan.logit_gradient().workspace_bytes)?;
        let works = Works { queue, layer: &layer, problem: plan.problem(), workspace };
        logit_gradient(works, &plan, dy, to_logits, pass.regulariser)?;
    }
    Ok(())
}

/// A layer's operands as addresses.
fn bind<'g, S: DeviceSpace, L: Logit, W: Float>(
    layer: &'g Layer<'_, S, L, W>,
    binder: &mut Binder<'g, S>,
) -> Result<Layer<'static, Raw, L, W>> {
    let source = match &layer.source {
        Source::Sampled { kind, sampling, logits } => {
            Source::Sampled { kind: *kind, sampling: *sampling, logits: binder.input("logits", logits)? }
        }
        Source::Frozen { codes } => Source::Frozen { codes: binder.input("codes", codes)? },
    };
    let weight = binder.input("weight", &layer.weight)?;
    Ok(Layer { shape: layer.shape, shard: layer.shard, source, weight })
}

fn bind_workspace<'g, S: DeviceSpace>(
    workspace: &'g mut Option<S::Mut<'_, u8>>,
    binder: &mut Binder<'g, S>,
) -> Result<RawSlice<u8>> {
    let workspace = workspace.as_mut().map(|workspace| binder.output("workspace", workspace)).transpose()?;
    Ok(workspace.unwrap_or(RawSlice::nowhere(0)))
}

fn input_gradient<L: Logit, W: Float>(
    mut works: Works<'_, L, W>,
    plan: &Plan<L, W>,
    [dy, dx]: [u64; 2],
    saved: Saved<RawSlice<W>, RawSlice<u8>>,
) -> Result<()> {
    let choice = plan.input_gradient();
    let product = Product::input_gradient(plan.problem(), W::DTYPE);
    match choice.route {
        InputRoute::Codes => {
            let codes = match saved {
                Saved::Codes(codes) => codes.address,
                _ => works.codes(Saved::Nothing)?,
            };
            let weight = works.layer.weight.address;
            works.product(Dense::Own, &product, [dy, weight, dx], Some(codes), choice.splits)
        }
        InputRoute::Masked(dense) => {
            let masked = match saved {
                Saved::Masked(masked) => masked.address,
                Saved::Codes(codes) => works.masked_by(codes)?,
                Saved::Nothing => works.masked(Saved::Nothing)?,
            };
            works.product(dense, &product, [dy, masked, dx], None, choice.splits)
        }
    }
}

fn logit_gradient<L: Logit, W: Float>(
    mut works: Works<'_, L, W>,
    plan: &Plan<L, W>,
    dy: RawSlice<W>,
    to: &ToLogits<'_, Raw, W>,
    regulariser: f32,
) -> Result<()> {
    let Layer { shape, shard, source: Source::Sampled { kind, sampling, logits }, weight } = *works.layer else {
        return Ok(()); // `check` has refused it
    };
    let choice = plan.logit_gradient();
    let LogitRoute::Panels(dense) = choice.route else {
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
        let variant = if kind == Kind::Hard { "logits_hard" } else { "logits_soft" };
        let symbol = Symbol::new("matmul", variant, &[L::DTYPE, W::DTYPE].map(DType::name));
        works.queue.launch(tile::launch(symbol, [shape.rows, shape.cols], 1, tile::RING_BYTES, &args)?);
        return Ok(());
    };
    let whole = Product::weight_gradient(plan.problem(), W::DTYPE);
    let g = works.workspace.area(choice.workspace_bytes)?;
    let (cols, six) = (shape.cols, shape.cols / 4 * 6);
    for first in (0..shape.rows).step_by(plan.panel_rows().max(1)) {
        let rows = plan.panel_rows().min(shape.rows - first);
        // A part of its rows' values: the pitch stays.
        let dy = dy.address + (first * W::DTYPE.size()) as u64;
        works.product_in(dense, &whole.panel(rows), [dy, to.x.address, g], None, choice.splits, g)?;
        let pass = mask::Backward::<Raw, L, W, f32>::new(
            Shape::new(rows, cols),
            kind,
            sampling,
            logits.part(first * six, rows * six),
            weight.part(first * cols, rows * cols),
            RawSlice::new(g, rows * cols),
        );
        let pass = pass.shard(Shard { row_offset: shard.row_offset + first as u64, ..shard }).regulariser(regulariser);
        let part = to.logit_gradient.part(first * six, rows * six);
        works.queue.pass(match to.accumulate {
            true => pass.accumulate_logit_gradient(part),
            false => pass.logit_gradient(part),
        })?;
    }
    Ok(())
}
