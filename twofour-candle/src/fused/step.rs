//! The step of one layer: the gradient of some rows' logits, then AdamW on those rows, and on to the next.

use candle_core::{DType, Layout, Result, Tensor, Var};
use twofour::learn::{self, AdamW, NORM_SLOTS, Rounding};
use twofour::{Shape, Shard};

use super::OwnMoments;
use crate::array::{Write, write};
use crate::learner::{Clipping, Learner, OnDevice};
use crate::number::{Score, contiguous_range, ready};
use crate::ops::linear::Product;
use crate::place::{Operand, Place, part, part_mut};

pub(super) struct Step<'s> {
    pub(super) product: &'s Product,
    pub(super) logits: &'s Var,
    pub(super) weight: &'s Tensor,
    pub(super) learner: &'s Learner,
    pub(super) adamw: AdamW,
    pub(super) rounding: Rounding,
}

/// Some rows of a layer.
struct Panel {
    first: usize,
    shape: Shape,
    shard: Shard,
}

impl Step<'_> {
    /// Moves the logits, and notes which passes did. `dy [T, N]`, `x [T, K]`.
    pub(super) fn make(&self, dy: &Tensor, x: &Tensor, moments: &mut OwnMoments) -> Result<()> {
        let whole = self.product.problem.shape;
        let shard = self.product.masks.shard_of(whole);
        let most = panel_rows(whole, self.learner.panel());
        self.learner.with_device(dy.device(), |on| {
            let passes = on.passes();
            for first in (0..whole.rows).step_by(most) {
                let rows = most.min(whole.rows - first);
                let shard = Shard { row_offset: shard.row_offset + first as u64, ..shard };
                let panel = Panel { first, shape: Shape::new(rows, whole.cols), shard };
                let gradient = self.gradient(&panel, dy, x)?;
                write(self.logits, Update { step: self, panel: &panel, gradient: &gradient, moments, on })?;
            }
            moments.passes = Some(on.passes_since(passes));
            Ok(())
        })
    }

    /// `dL/dlogits` of a panel, `f32`.
    fn gradient(&self, panel: &Panel, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
        let Panel { first, shape, shard } = *panel;
        let mut product = self.product.clone();
        product.problem.shape = shape;
        product.masks = product.masks.shard(shard);
        let of_rows = |tensor: &Tensor, dim| ready(&tensor.narrow(dim, first, shape.rows)?);
        let logits = of_rows(&self.logits.as_detached_tensor(), 0)?;
        product.logit_gradient(&of_rows(dy, 1)?, x, &logits, &of_rows(self.weight, 0)?)
    }
}

/// AdamW on the rows of a panel.
struct Update<'u> {
    step: &'u Step<'u>,
    panel: &'u Panel,
    /// `f32`.
    gradient: &'u Tensor,
    moments: &'u mut OwnMoments,
    on: &'u mut OnDevice,
}

impl Write for Update<'_> {
    fn write<P: Place>(self, logits: &mut P::Storage, layout: &Layout) -> Result<()> {
        match self.step.logits.dtype() {
            DType::F32 => self.run::<P, f32>(logits, layout),
            _ => self.run::<P, twofour::bf16>(logits, layout),
        }
    }
}

impl Update<'_> {
    fn run<P: Place, L: Score>(self, logits: &mut P::Storage, layout: &Layout) -> Result<()> {
        let Self { step, panel, gradient, moments: OwnMoments { m, v, scales, .. }, on } = self;
        let (gradient, gradient_layout) = gradient.storage_and_layout();
        let gradient = Operand::<P>::of(&gradient, gradient_layout)?;
        let (six, start) = (panel.logits(), contiguous_range(layout)?.start);
        let logits = P::elements_mut::<L>(logits, start + six.start..start + six.end)?;
        let moments = match scales {
            None => learn::Moments::f32(part_mut::<P, f32>(m, six.clone())?, part_mut::<P, f32>(v, six)?),
            Some(scales) => {
                let [m, v] = [part_mut::<P, u8>(m, six.clone())?, part_mut::<P, u8>(v, six)?];
                learn::Moments::eight(m, v, part_mut::<P, f32>(scales, panel.scales())?)
            }
        };
        let (clipping, statistics) = on.next::<P>(gradient.device())?;
        let by = learn::Step::new(step.adamw, moments);
        let (by, squares) = match clipping {
            None => (by, None),
            Some(Clipping { squares, factor, .. }) => {
                (by.factor(part::<P, f32>(factor, 0..1)?), Some(part_mut::<P, f64>(squares, 0..NORM_SLOTS)?))
            }
        };
        let pass = learn::Update::new(panel.shape, gradient.elements::<f32>()?, logits, by);
        let pass = pass.shard(panel.shard).rounding(step.rounding).statistics(statistics);
        let pass = if let Some(squares) = squares { pass.norm_squares(squares) } else { pass };
        P::with(&step.product.engine, gradient.device(), |on| on.run(pass))
    }
}

impl Panel {
    /// Where its logits are among the layer's.
    fn logits(&self) -> std::ops::Range<usize> {
        let six = self.shape.cols / 4 * 6;
        self.first * six..(self.first + self.shape.rows) * six
    }

    /// Where the scales of its 8-bit moments are: it begins with a block, and ends with one or with the layer.
    fn scales(&self) -> std::ops::Range<usize> {
        let start = 2 * (self.first * (self.shape.cols / 4) / learn::Moments::BLOCK_GROUPS);
        start..start + learn::Moments::scales(self.shape)
    }
}

/// Rows of a panel: no more than `bytes` of gradient, but whole blocks of 8-bit moments, so that panels do not show in
/// them. (And of 64 groups, 16-byte boundaries.) Many are made a multiple of 128, as tiles of kernels are.
fn panel_rows(shape: Shape, bytes: usize) -> usize {
    let groups = shape.cols / 4;
    if groups == 0 {
        return shape.rows.max(1);
    }
    let blocks = learn::Moments::BLOCK_GROUPS >> groups.trailing_zeros().min(6);
    let rows = bytes / (24 * groups);
    let unit = if rows >= 128 { 128 } else { blocks };
    (rows / unit).max(1) * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_are_whole_blocks_within_their_bytes() {
        for (groups, bytes) in [(1, 1), (2, 1 << 12), (3, 1 << 20), (64, 1), (1024, 16 << 20), (96, 0), (0, 5)] {
            let rows = panel_rows(Shape::new(7, 4 * groups), bytes);
            assert!(
                rows > 0 && (rows * groups).is_multiple_of(learn::Moments::BLOCK_GROUPS),
                "{groups} {bytes}: {rows}"
            );
            let least = learn::Moments::BLOCK_GROUPS;
            assert!(24 * groups * rows <= bytes.max(24 * groups * least), "{groups} {bytes}: {rows}");
        }
        assert_eq!(panel_rows(Shape::new(11008, 4096), 16 << 20), 640);
    }
}
