//! `mask` on the first GPU.

use super::super::mask::{Case, Inputs, Op, for_types};
use super::{Cache, Result, Timed, replayed, sets, stream};
use std::sync::Arc;
use twofour::cudarc::driver::{CudaSlice, CudaStream};
use twofour::mask::{self, GradientOf, Statistics};
use twofour::{Float, Logit};

/// A case on the first GPU.
pub fn on_cuda(case: Case, cache: Cache) -> Result<Box<dyn Timed>> {
    for_types!(case, captured(case, cache))
}

fn captured<L, W>(case: Case, cache: Cache) -> Result<Box<dyn Timed>>
where
    L: Logit,
    W: Float + GradientOf<W>,
{
    let stream = stream()?;
    let operands: Result<Vec<_>> =
        (0..sets(cache, case.bytes())).map(|set| Operands::<L, W>::new(&stream, &case, set)).collect();
    replayed(&stream, operands?, |set, draw| {
        if case.op != Op::Backward {
            set.forward(&stream, &case, draw)?;
        }
        if case.op != Op::Forward {
            set.backward(&stream, &case, draw)?;
        }
        Ok(())
    })
}

struct Operands<L, W> {
    logits: CudaSlice<L>,
    weight: CudaSlice<W>,
    gradient: CudaSlice<W>,
    masked: CudaSlice<W>,
    logit_gradient: CudaSlice<f32>,
    codes: [CudaSlice<u8>; 2],
    statistics: CudaSlice<Statistics>,
}

impl<L: Logit, W: Float + GradientOf<W>> Operands<L, W> {
    fn new(stream: &Arc<CudaStream>, case: &Case, set: usize) -> Result<Self> {
        let inputs = Inputs::<L, W>::new(case.shape, set);
        let codes = || stream.alloc_zeros(case.shape.packed_codes());
        Ok(Self {
            logits: stream.clone_htod(&inputs.logits)?,
            weight: stream.clone_htod(&inputs.weight)?,
            gradient: stream.clone_htod(&inputs.gradient)?,
            masked: stream.clone_htod(&inputs.weight)?,
            logit_gradient: stream.alloc_zeros(case.shape.logits())?,
            codes: [codes()?, codes()?],
            statistics: stream.alloc_zeros(Statistics::SLOTS)?,
        })
    }

    fn forward(&mut self, stream: &Arc<CudaStream>, case: &Case, draw: u64) -> Result<()> {
        let Self { logits, weight, masked, codes, statistics, .. } = self;
        let mut args = mask::cuda::Forward::new(case.shape, case.kind, case.sampling(draw), logits.as_view());
        if case.metrics {
            let [now, before] = codes;
            args = args.codes(now.as_view_mut()).previous_codes(before.as_view()).statistics(statistics.as_view_mut());
        }
        mask::cuda::forward_into(stream, args.weight(weight.as_view()).masked(masked.as_view_mut()))?;
        self.codes.swap(0, 1);
        Ok(())
    }

    fn backward(&mut self, stream: &Arc<CudaStream>, case: &Case, draw: u64) -> Result<()> {
        let Self { logits, weight, gradient, logit_gradient, .. } = self;
        let operands = (logits.as_view(), weight.as_view(), gradient.as_view());
        let sampling = case.sampling(draw);
        let args = mask::cuda::Backward::new(case.shape, case.kind, sampling, operands.0, operands.1, operands.2);
        let args = args.regulariser(case.regulariser()).logit_gradient(logit_gradient.as_view_mut());
        Ok(mask::cuda::backward_into(stream, args)?)
    }
}
