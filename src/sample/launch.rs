//! What sampling needs, as kernels read it. The structs mirror those of `cuda/common`.

use super::Sampling;
use crate::noise;

/// The noise' source as kernels read it (`cuda/common/gumbel.cuh`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct NoiseArgs {
    round_keys: [u32; 20],
    draw: u64,
    one_and_half_step: u32,
    unused: u32,
}

/// [`Sampling`] as kernels read it (`cuda/common/sample.cuh`).
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct SamplingArgs {
    noise: NoiseArgs,
    kappa: f32,
    scale: f32,
}

impl SamplingArgs {
    pub(crate) fn new(sampling: &Sampling) -> Self {
        let noise = NoiseArgs {
            round_keys: noise::round_keys(sampling.seed),
            draw: sampling.draw,
            one_and_half_step: 0x3f80_0002,
            unused: 0,
        };
        Self { noise, kappa: sampling.kappa, scale: sampling.scale() }
    }
}

/// `Differentiation` of `cuda/common/gradient.cuh`: what the gradient to the logits needs besides operands.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Differentiation {
    sampling: SamplingArgs,
    logit_scale: f32,
    minus_2_lambda: f32,
}
const _: () = assert!(size_of::<Differentiation>() == 112);

impl Differentiation {
    pub(crate) fn new(sampling: &Sampling, regulariser: f32) -> Self {
        let logit_scale = sampling.logit_scale();
        Self { sampling: SamplingArgs::new(sampling), logit_scale, minus_2_lambda: -2.0 * regulariser }
    }
}
