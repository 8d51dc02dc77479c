//! The step of one layer: the gradient of some rows' logits, then AdamW on those rows, and on to the next.

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, Var};
use twofour::learn::{AdamW, Gradient, Rounding, State, cpu};
use twofour::space::{Host, Space};
use twofour::{Logit, Shape, Shard};

use super::OwnMoments;
use crate::array::{Plain, Target, elements_mut, host, other_memory, write};
use crate::learner::{Clipping, Learner};
use crate::number::{elements, ready, wrap};
use crate::ops::linear::Product;

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
    /// Moves the logits. `dy [T, N]`, `x [T, K]`.
    pub(super) fn make(&self, dy: &Tensor, x: &Tensor, moments: &mut OwnMoments) -> Result<()> {
        let whole = self.product.problem.shape;
        let shard = self.product.masks.shard_of(whole);
        let most = panel_rows(whole, self.learner.panel());
        for first in (0..whole.rows).step_by(most) {
            let rows = most.min(whole.rows - first);
            let shard = Shard { row_offset: shard.row_offset + first as u64, ..shard };
            let panel = Panel { first, shape: Shape::new(rows, whole.cols), shard };
            let gradient = self.gradient(&panel, dy, x)?;
            self.learner.with_clipping(dy.device(), |clipping| {
                write(self.logits, |logits, layout| self.update(&panel, &gradient, (logits, layout), moments, clipping))
            })?;
        }
        Ok(())
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

    fn update(
        &self,
        panel: &Panel,
        gradient: &Tensor,
        (logits, layout): (Target<'_>, &Layout),
        moments: &mut OwnMoments,
        clipping: Option<&mut Clipping>,
    ) -> Result<()> {
        let (from, gradient_layout) = gradient.storage_and_layout();
        match (logits, &*from) {
            (Target::Cpu(logits), Storage::Cpu(from)) => {
                let gradient = elements::<f32>(from, gradient_layout)?;
                match self.logits.dtype() {
                    DType::F32 => self.on_cpu::<f32>(panel, gradient, (logits, layout), moments, clipping),
                    _ => self.on_cpu::<twofour::bf16>(panel, gradient, (logits, layout), moments, clipping),
                }
            }
            #[cfg(feature = "cuda")]
            (Target::Cuda(logits), Storage::Cuda(from)) => {
                let gradient = (from, gradient_layout);
                match self.logits.dtype() {
                    DType::F32 => self.on_cuda::<f32>(panel, gradient, (logits, layout), moments, clipping),
                    _ => self.on_cuda::<twofour::bf16>(panel, gradient, (logits, layout), moments, clipping),
                }
            }
            _ => Err(other_memory()),
        }
    }

    fn on_cpu<L: Logit + Plain>(
        &self,
        panel: &Panel,
        gradient: &[f32],
        (logits, layout): (&mut CpuStorage, &Layout),
        OwnMoments { m, v, scales }: &mut OwnMoments,
        clipping: Option<&mut Clipping>,
    ) -> Result<()> {
        let (six, pair) = (panel.logits(), panel.scales());
        let logits = &mut elements_mut::<L>(logits, layout)?[six.clone()];
        let state = match scales {
            None => State::f32(&mut host(m)?[six.clone()], &mut host(v)?[six]),
            Some(scales) => State::eight(&mut host(m)?[six.clone()], &mut host(v)?[six], &mut host(scales)?[pair]),
        };
        let step = twofour::learn::Step::<Host>::new(self.adamw, state);
        let Some(Clipping { squares, factor, .. }) = clipping else {
            return cpu::update_into(self.args(panel, Gradient::Read(gradient), logits, step)).map_err(wrap);
        };
        let args = self.args(panel, Gradient::Read(gradient), logits, step.factor(host(factor)?));
        cpu::update_into(args.norm_squares(host(squares)?)).map_err(wrap)
    }

    #[cfg(feature = "cuda")]
    fn on_cuda<L: Logit + candle_core::cuda::CudaDType>(
        &self,
        panel: &Panel,
        (gradient, gradient_layout): (&candle_core::CudaStorage, &Layout),
        (logits, layout): (&mut candle_core::CudaStorage, &Layout),
        OwnMoments { m, v, scales }: &mut OwnMoments,
        clipping: Option<&mut Clipping>,
    ) -> Result<()> {
        use crate::array::slice;
        use crate::number::contiguous_range;
        let stream = logits.device.cuda_stream();
        let (six, pair) = (panel.logits(), panel.scales());
        let (start, _) = contiguous_range(layout)?;
        let (from, to) = contiguous_range(gradient_layout)?;
        let gradient = Gradient::Read(gradient.as_cuda_slice::<f32>()?.slice(from..to));
        let logits = logits.as_cuda_slice_mut::<L>()?.slice_mut(start + six.start..start + six.end);
        let state = match scales {
            None => State::f32(slice(m)?.slice_mut(six.clone()), slice(v)?.slice_mut(six)),
            Some(scales) => {
                let [m, v] = [slice(m)?.slice_mut(six.clone()), slice(v)?.slice_mut(six)];
                State::eight(m, v, slice(scales)?.slice_mut(pair))
            }
        };
        let step = twofour::learn::Step::<twofour::space::Cuda>::new(self.adamw, state);
        let Some(Clipping { squares, factor, .. }) = clipping else {
            return twofour::learn::cuda::update_into(&stream, self.args(panel, gradient, logits, step)).map_err(wrap);
        };
        let args = self.args(panel, gradient, logits, step.factor(slice::<f32>(factor)?.as_view()));
        let args = args.norm_squares(slice::<f64>(squares)?.as_view_mut());
        twofour::learn::cuda::update_into(&stream, args).map_err(wrap)
    }

    fn args<'a, S: Space, L: Logit>(
        &self,
        panel: &Panel,
        gradient: Gradient<'a, S>,
        logits: S::Mut<'a, L>,
        step: twofour::learn::Step<'a, S>,
    ) -> twofour::learn::Update<'a, S, L> {
        let args = twofour::learn::Update::new(panel.shape, gradient, logits, step);
        args.shard(panel.shard).rounding(self.rounding)
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
        let start = 2 * (self.first * (self.shape.cols / 4) / State::<Host>::BLOCK_GROUPS);
        start..start + State::<Host>::scales(self.shape)
    }
}

/// Rows of a panel: no more than `bytes` of gradient, but whole blocks of 8-bit moments, so that panels do not show in
/// them. (And of 64 groups, 16-byte boundaries.) Many are made a multiple of 128, as tiles of kernels are.
fn panel_rows(shape: Shape, bytes: usize) -> usize {
    let groups = shape.cols / 4;
    if groups == 0 {
        return shape.rows.max(1);
    }
    let blocks = State::<Host>::BLOCK_GROUPS >> groups.trailing_zeros().min(6);
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
                rows > 0 && (rows * groups).is_multiple_of(State::<Host>::BLOCK_GROUPS),
                "{groups} {bytes}: {rows}"
            );
            let least = State::<Host>::BLOCK_GROUPS;
            assert!(24 * groups * rows <= bytes.max(24 * groups * least), "{groups} {bytes}: {rows}");
        }
        assert_eq!(panel_rows(Shape::new(11008, 4096), 16 << 20), 640);
    }
}
