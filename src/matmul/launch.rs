//! What a device is given for the passes: from operands to addresses, and from a plan's routes to launches and calls of
//! cuBLASLt, one after the other.

use super::backward::{ToLogits, ToWeight};
use super::{Backward, Dense, Forward, InputRoute, Layer, OutputRoute, Plan, Saved, Step, small};
use crate::dense::Product;
use crate::element::{Element, Float, Logit};
use crate::error::Result;
use crate::learn::Sums;
use crate::pass::{Binder, DeviceSpace, Queue};
use crate::sample::{Source, WideOrOwn};
use crate::space::{Raw, RawSlice, Space};

use works::{Works, Workspace};

mod logits;
mod works;

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
    let saved = bind_saved(&pass.saved, binder)?;
    let dx = pass.dx.as_mut().map(|dx| binder.output("dx", dx)).transpose()?;
    let to_weight = match &mut pass.to_weight {
        Some(ToWeight { x, weight_gradient }) => {
            let x = binder.input("x", x)?.address;
            Some(match weight_gradient {
                WideOrOwn::Wide(g) => (x, binder.output("weight_gradient", g)?.address, f32::DTYPE),
                WideOrOwn::Own(g) => (x, binder.output("weight_gradient", g)?.address, W::DTYPE),
            })
        }
        None => None,
    };
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
    if let Some((x, g, result)) = to_weight {
        let choice = plan.weight_gradient();
        let workspace = Workspace::new(workspace, choice.workspace_bytes)?;
        let mut works = Works { queue, layer: &layer, problem: plan.problem(), workspace };
        let product = Product::weight_gradient(plan.problem(), W::DTYPE).rounded_to(result);
        works.product(choice.route, &product, [dy.address, x, g], None, choice.splits)?;
    }
    if let Some(to_logits) = &to_logits {
        let workspace = Workspace::new(workspace, plan.logit_gradient().workspace_bytes)?;
        let works = Works { queue, layer: &layer, problem: plan.problem(), workspace };
        logits::gradient(works, &plan, dy, to_logits, pass.regulariser)?;
    }
    Ok(())
}

pub(super) fn step<'g, S: DeviceSpace, L: Logit, W: Float>(
    pass: &'g mut Step<'_, S, L, W>,
    binder: &mut Binder<'g, S>,
    queue: &mut Queue,
) -> Result<()> {
    let (plan, sampling) = (pass.plan, pass.sampling);
    let (problem, kind) = (plan.problem(), plan.step_kind()?);
    let source = Source::Sampled { kind, sampling, logits: binder.output("logits", &mut pass.logits)? };
    let layer = Layer::<Raw, L, W>::of(problem.shape, source, binder.input("weight", &pass.weight)?).shard(pass.shard);
    let (dy, x) = (binder.input("dy", &pass.dy)?, binder.input("x", &pass.x)?);
    let saved = bind_saved(&pass.saved, binder)?;
    let dx = pass.dx.as_mut().map(|dx| binder.output("dx", dx)).transpose()?;
    let by = pass.step.bind(binder)?;
    let sums = Sums::bind(&mut pass.statistics, &mut pass.norm_squares, binder)?;
    let workspace = bind_workspace(&mut pass.workspace, binder)?;
    if let Some(dx) = dx {
        let workspace = Workspace::new(workspace, plan.input_gradient().workspace_bytes)?;
        let works = Works { queue: &mut *queue, layer: &layer, problem, workspace };
        input_gradient(works, &plan, [dy.address, dx.address], saved)?;
    }
    let workspace = Workspace::new(workspace, plan.step_route().workspace_bytes)?;
    let works = Works { queue, layer: &layer, problem, workspace };
    logits::step(works, &plan, [dy, x], by, pass.regulariser, sums)
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

fn bind_saved<'g, S: DeviceSpace, W: Float>(
    saved: &'g Saved<<S as Space>::Ref<'_, W>, <S as Space>::Ref<'_, u8>>,
    binder: &mut Binder<'g, S>,
) -> Result<Saved<RawSlice<W>, RawSlice<u8>>> {
    Ok(match saved {
        Saved::Nothing => Saved::Nothing,
        Saved::Masked(masked) => Saved::Masked(binder.input("masked", masked)?),
        Saved::Codes(codes) => Saved::Codes(binder.input("codes", codes)?),
    })
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
