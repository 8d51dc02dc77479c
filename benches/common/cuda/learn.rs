//! `learn` on the first GPU.

use super::super::learn::{BY, Case, LAMBDA, Op, for_types, state};
use super::super::mask::Inputs;
use super::{Cache, Result, Timed, replayed, sets, stream};
use std::sync::Arc;
use twofour::cudarc::driver::{CudaSlice, CudaStream};
use twofour::learn::{Gradient, Step, cuda};
use twofour::mask::{self, GradientOf, Kind};
use twofour::space::Cuda;
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
    replayed(&stream, operands?, |set, draw| set.run(&stream, &case, draw))
}

struct Operands<L, W> {
    logits: CudaSlice<L>,
    weight: CudaSlice<W>,
    of_masked: CudaSlice<W>,
    masked: CudaSlice<W>,
    gradient: CudaSlice<f32>,
    wide: [CudaSlice<f32>; 2],
    narrow: [CudaSlice<u8>; 2],
    scales: CudaSlice<f32>,
}

impl<L: Logit, W: Float + GradientOf<W>> Operands<L, W> {
    fn new(stream: &Arc<CudaStream>, case: &Case, set: usize) -> Result<Self> {
        let inputs = Inputs::<L, W>::new(case.shape, set);
        let lengths = case.lengths();
        // A device has no empty arrays.
        let gradient = if matches!(case.op, Op::Update | Op::Unfused) { case.gradient(set) } else { vec![0.0] };
        let wide = || stream.alloc_zeros(lengths.wide);
        let narrow = || stream.alloc_zeros(lengths.narrow);
        Ok(Self {
            logits: stream.clone_htod(&inputs.logits)?,
            weight: stream.clone_htod(&inputs.weight)?,
            of_masked: stream.clone_htod(&inputs.gradient)?,
            masked: stream.clone_htod(&inputs.weight[..if case.op == Op::Train { inputs.weight.len() } else { 1 }])?,
            gradient: stream.clone_htod(&gradient)?,
            wide: [wide()?, wide()?],
            narrow: [narrow()?, narrow()?],
            scales: stream.alloc_zeros(lengths.scales)?,
        })
    }

    fn run(&mut self, stream: &Arc<CudaStream>, case: &Case, draw: u64) -> Result<()> {
        let Case { op, eight, shape, .. } = *case;
        let Self { logits, weight, of_masked, masked, gradient, wide, narrow, scales } = self;
        let sampling = case.sampling(draw);
        if op == Op::Train {
            let args = mask::cuda::Forward::new(shape, Kind::Soft, sampling, logits.as_view()).weight(weight.as_view());
            mask::cuda::forward_into(stream, args.masked(masked.as_view_mut()))?;
        }
        let operands = (weight.as_view(), of_masked.as_view());
        if op == Op::Unfused {
            let logits = logits.as_view();
            let (weight, of_masked) = (weight.as_view(), of_masked.as_view());
            let args = mask::cuda::Backward::new(shape, Kind::Soft, sampling, logits, weight, of_masked);
            let args = args.regulariser(LAMBDA).logit_gradient(gradient.as_view_mut());
            mask::cuda::backward_into(stream, args)?;
        }
        let ([m, v], [narrow_m, narrow_v]) = (wide, narrow);
        let wide = (m.as_view_mut(), v.as_view_mut());
        let narrow = (narrow_m.as_view_mut(), narrow_v.as_view_mut(), scales.as_view_mut());
        let step = Step::new(BY, state::<Cuda>(eight, wide, narrow));
        let logits = logits.as_view_mut();
        if matches!(op, Op::Fused | Op::Train) {
            let args = cuda::Fused::new(shape, Kind::Soft, sampling, logits, operands.0, operands.1, step);
            return Ok(cuda::fused_into(stream, args.regulariser(LAMBDA))?);
        }
        let args = cuda::Update::new(shape, Gradient::Read(gradient.as_view()), logits, step);
        Ok(cuda::update_into(stream, args.rounding(case.rounding(draw)))?)
    }
}
