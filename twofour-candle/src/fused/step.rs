//! The step of one layer: one pass of twofour's from `dy` and `x` to moved logits.

use candle_core::{Layout, Result, Tensor, Var};
use twofour::Shape;
use twofour::learn::{self, AdamW, NORM_SLOTS};
use twofour::matmul::{self, Keep, Plan};

use super::OwnMoments;
use crate::array::{Write, write};
use crate::learner::{Clipping, Learner, OnDevice};
use crate::number::{Number, Score, contiguous_range, with_types};
use crate::ops::linear::Product;
use crate::place::{Operand, Place, part, part_mut};

pub(super) struct Step<'s> {
    pub(super) product: &'s Product,
    pub(super) logits: &'s Var,
    pub(super) weight: &'s Tensor,
    pub(super) learner: &'s Learner,
    pub(super) adamw: AdamW,
}

impl Step<'_> {
    /// Moves the logits, and notes which passes did. `dy [T, N]`, `x [T, K]`.
    pub(super) fn make(&self, dy: &Tensor, x: &Tensor, moments: &mut OwnMoments) -> Result<()> {
        self.learner.with_device(dy.device(), |on| {
            let passes = on.passes();
            write(self.logits, Move { step: self, dy, x, moments, on })?;
            moments.passes = Some(on.passes_since(passes));
            Ok(())
        })
    }

    /// Rows of the weight's gradient, `f32`, that are within the learner's bytes.
    fn panel_rows(&self, shape: Shape) -> usize {
        self.learner.panel() / (4 * shape.cols).max(1)
    }
}

/// A step as it writes the logits.
struct Move<'m> {
    step: &'m Step<'m>,
    dy: &'m Tensor,
    x: &'m Tensor,
    moments: &'m mut OwnMoments,
    on: &'m mut OnDevice,
}

impl Write for Move<'_> {
    fn write<P: Place>(self, logits: &mut P::Storage, layout: &Layout) -> Result<()> {
        with_types!(self.step.logits.dtype(), self.step.weight.dtype(), <L, W> self.run::<P, L, W>(logits, layout))
    }
}

impl Move<'_> {
    fn run<P: Place, L: Score, W: Number>(self, logits: &mut P::Storage, layout: &Layout) -> Result<()> {
        let Self { step, moments: OwnMoments { m, v, scales, .. }, on, .. } = self;
        let Product { masks, problem, engine } = step.product;
        let shape = problem.shape;
        let [(dy, of_dy), (x, of_x), (weight, of_weight)] =
            [self.dy, self.x, step.weight].map(Tensor::storage_and_layout);
        let (dy, x) = (Operand::<P>::of(&dy, of_dy)?, Operand::<P>::of(&x, of_x)?);
        let (weight, device) = (Operand::<P>::of(&weight, of_weight)?, dy.device());
        // Outlives the operands.
        let (plan, mut workspace) = P::with(engine, device, |on| {
            let kind = matmul::Masks::Sampled(masks.kind);
            let plan = Plan::<L, W>::new(&on.limits(), on.libraries(), *problem, kind, Keep::Nothing)?;
            let plan = plan.with_panel_rows(step.panel_rows(shape));
            let plan = if scales.is_some() { plan.with_moments_of_eight_bits() } else { plan };
            Ok((plan, on.workspace(plan.step_route().workspace_bytes)?))
        })?;
        let (dy, x, weight) = (dy.elements::<W>()?, x.elements::<W>()?, weight.elements::<W>()?);
        let (logits, six) = (P::elements_mut::<L>(logits, contiguous_range(layout)?)?, 0..shape.logits());
        let moments = match scales {
            None => learn::Moments::f32(part_mut::<P, f32>(m, six.clone())?, part_mut::<P, f32>(v, six)?),
            Some(scales) => {
                let [m, v] = [part_mut::<P, u8>(m, six.clone())?, part_mut::<P, u8>(v, six)?];
                learn::Moments::eight(m, v, part_mut::<P, f32>(scales, 0..learn::Moments::scales(shape))?)
            }
        };
        let (clipping, statistics) = on.next::<P>(device)?;
        let by = learn::Step::new(step.adamw, moments);
        let (by, squares) = match clipping {
            None => (by, None),
            Some(Clipping { squares, factor, .. }) => {
                (by.factor(part::<P, f32>(factor, 0..1)?), Some(part_mut::<P, f64>(squares, 0..NORM_SLOTS)?))
            }
        };
        let pass = matmul::Step::new(&plan, masks.sampling, logits, weight, dy, x, by);
        let pass = pass.shard(masks.shard_of(shape)).regulariser(masks.regulariser).statistics(statistics);
        let pass = if let Some(squares) = squares { pass.norm_squares(squares) } else { pass };
        let pass = if let Some(workspace) = &mut workspace { pass.workspace(P::output(workspace)) } else { pass };
        P::with(engine, device, |on| on.run(pass))
    }
}
