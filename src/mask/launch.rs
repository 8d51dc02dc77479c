//! The launches of the `mask` kernels as plain data: from checked arguments in bare addresses to symbol, grid and argument
//! struct. The CUDA executor and the emulator run the same ones. The structs mirror those of `cuda/mask.cu`.

use super::{Backward, Forward, GradientOf, Kind, Sampling, Statistics};
use crate::device::Limits;
use crate::device::launch::{Launch, Symbol, address};
use crate::device::walk::Walk;
use crate::element::{DType, Element, Logit};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::noise;
use crate::space::Raw;

/// Threads of a block.
const THREADS: u32 = 256;
/// Blocks a multiprocessor holds at once; more would only load the noise table again.
const BLOCKS_PER_MULTIPROCESSOR: u32 = 4;

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

/// `MaskForwardArgs`.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct ForwardArgs {
    logits: u64,
    weight: u64,
    masked: u64,
    mask: u64,
    patterns: u64,
    codes: u64,
    previous_codes: u64,
    statistics: u64,
    walk: Walk,
    sampling: SamplingArgs,
    kind: u32,
    unused: u32,
}
const _: () = assert!(size_of::<ForwardArgs>() == 216);

/// `MaskBackwardArgs`.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct BackwardArgs {
    logits: u64,
    weight: u64,
    gradient: u64,
    logit_gradient: u64,
    weight_gradient: u64,
    walk: Walk,
    by: Differentiation,
    accumulate: u32,
    unused: u32,
}
const _: () = assert!(size_of::<BackwardArgs>() == 200);

/// `MaskStatisticsArgs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct StatisticsArgs {
    statistics: u64,
    blocks: u64,
}

/// A forward pass: one kernel, and a second that adds up the statistics if they are wanted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ForwardLaunch {
    /// The pass over the weight.
    pub pass: Launch<ForwardArgs>,
    /// Adds up the blocks' shares.
    pub statistics: Option<Launch<StatisticsArgs>>,
}

/// Groups a thread takes at a time: those whose logits are 48 bytes.
const fn chunk(logits: DType) -> u64 {
    8 / logits.size() as u64
}

/// A grid that covers the chunks without more blocks than the device holds.
fn grid(groups: usize, chunk: u64, blocks: u32) -> [u32; 3] {
    let wanted = (groups as u64).div_ceil(chunk * u64::from(THREADS));
    [wanted.clamp(1, u64::from(blocks)) as u32, 1, 1]
}

impl<L: Logit, W: Element> Forward<'_, Raw, L, W> {
    /// The launch of this pass on a device with these limits.
    ///
    /// # Errors
    /// What [`Forward::check`] finds, and [`Error::Misaligned`].
    pub fn launch(&self, limits: &Limits) -> Result<ForwardLaunch> {
        self.check()?;
        let blocks = match self.statistics {
            Some(_) => Statistics::MAX_BLOCKS,
            None => limits.multiprocessors.max(1).saturating_mul(BLOCKS_PER_MULTIPROCESSOR),
        };
        let grid = grid(self.shape.groups(), chunk(L::DTYPE), blocks);
        let threads = u64::from(grid[0]) * u64::from(THREADS);
        let args = ForwardArgs {
            logits: address("logits", Some(self.logits))?,
            weight: address("weight", self.weight)?,
            masked: address("masked", self.masked)?,
            mask: address("mask", self.mask)?,
            patterns: address("patterns", self.patterns)?,
            codes: address("codes", self.codes)?,
            previous_codes: address("previous_codes", self.previous_codes)?,
            statistics: address("statistics", self.statistics)?,
            walk: Walk::new(self.shape, &self.shard, chunk(L::DTYPE), threads)?,
            sampling: SamplingArgs::new(&self.sampling),
            kind: match self.kind {
                Kind::Soft => 0,
                Kind::Hard => 1,
                Kind::Argmax => 2,
            },
            unused: 0,
        };
        let name = forward_symbol(self.kind, self.only_masked(), L::DTYPE, W::DTYPE);
        let statistics = self.statistics.map(|_| Launch {
            symbol: Symbol { module: "mask", name: "twofour_mask_statistics" },
            grid: [1, 1, 1],
            block: [THREADS, 1, 1],
            shared_bytes: 0,
            args: StatisticsArgs { statistics: args.statistics, blocks: u64::from(grid[0]) },
        });
        Ok(ForwardLaunch { pass: launch(name, grid, args), statistics })
    }
}

impl<L: Logit, W: Element, G: GradientOf<W>> Backward<'_, Raw, L, W, G> {
    /// The launch of this pass on a device with these limits.
    ///
    /// # Errors
    /// What [`Backward::check`] finds, and [`Error::Misaligned`].
    pub fn launch(&self, limits: &Limits) -> Result<Launch<BackwardArgs>> {
        self.check()?;
        let blocks = limits.multiprocessors.max(1).saturating_mul(BLOCKS_PER_MULTIPROCESSOR);
        let grid = grid(self.shape.groups(), chunk(L::DTYPE), blocks);
        let threads = u64::from(grid[0]) * u64::from(THREADS);
        let args = BackwardArgs {
            logits: address("logits", Some(self.logits))?,
            weight: address("weight", Some(self.weight))?,
            gradient: address("gradient", Some(self.gradient))?,
            logit_gradient: address("logit_gradient", self.logit_gradient)?,
            weight_gradient: address("weight_gradient", self.weight_gradient)?,
            walk: Walk::new(self.shape, &self.shard, chunk(L::DTYPE), threads)?,
            by: Differentiation::new(&self.sampling, self.regulariser),
            accumulate: u32::from(self.accumulate),
            unused: 0,
        };
        let name = backward_symbol(self.kind, L::DTYPE, W::DTYPE, G::DTYPE);
        Ok(launch(name, grid, args))
    }
}

fn launch<A>(name: &'static str, grid: [u32; 3], args: A) -> Launch<A> {
    Launch { symbol: Symbol { module: "mask", name }, grid, block: [THREADS, 1, 1], shared_bytes: 0, args }
}

/// `$prefix` followed by the names of logit and weight types.
macro_rules! by_types {
    ($prefix:literal, $logits:expr, $weights:expr) => {
        match ($logits, $weights) {
            (DType::Bf16, DType::F32) => concat!($prefix, "_bf16_f32"),
            (DType::Bf16, DType::F16) => concat!($prefix, "_bf16_f16"),
            (DType::Bf16, DType::Bf16) => concat!($prefix, "_bf16_bf16"),
            (_, DType::F32) => concat!($prefix, "_f32_f32"),
            (_, DType::F16) => concat!($prefix, "_f32_f16"),
            (_, DType::Bf16) => concat!($prefix, "_f32_bf16"),
        }
    };
}

fn forward_symbol(kind: Kind, only_masked: bool, logits: DType, weights: DType) -> &'static str {
    match (kind, only_masked) {
        (Kind::Soft, true) => by_types!("twofour_mask_soft", logits, weights),
        (Kind::Hard, true) => by_types!("twofour_mask_hard", logits, weights),
        _ => by_types!("twofour_mask_full", logits, weights),
    }
}

fn backward_symbol(kind: Kind, logits: DType, weights: DType, gradient: DType) -> &'static str {
    /// With the gradient's type appended, which is the weight's or f32.
    macro_rules! of_kind {
        ($prefix:literal) => {
            match (logits, weights, gradient) {
                (DType::Bf16, DType::F32, _) => concat!($prefix, "_bf16_f32_f32"),
                (DType::Bf16, DType::F16, DType::F32) => concat!($prefix, "_bf16_f16_f32"),
                (DType::Bf16, DType::F16, _) => concat!($prefix, "_bf16_f16_f16"),
                (DType::Bf16, DType::Bf16, DType::F32) => concat!($prefix, "_bf16_bf16_f32"),
                (DType::Bf16, DType::Bf16, _) => concat!($prefix, "_bf16_bf16_bf16"),
                (_, DType::F32, _) => concat!($prefix, "_f32_f32_f32"),
                (_, DType::F16, DType::F32) => concat!($prefix, "_f32_f16_f32"),
                (_, DType::F16, _) => concat!($prefix, "_f32_f16_f16"),
                (_, DType::Bf16, DType::F32) => concat!($prefix, "_f32_bf16_f32"),
                (_, DType::Bf16, _) => concat!($prefix, "_f32_bf16_bf16"),
            }
        };
    }
    match kind {
        Kind::Hard => of_kind!("twofour_mask_backward_hard"),
        _ => of_kind!("twofour_mask_backward_soft"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::constants::Cuda;

    #[test]
    fn constants_are_those_of_the_kernels() {
        let cuda = Cuda::read("mask.cu");
        assert_eq!(u64::from(THREADS), cuda.constant("kThreads"));
        assert_eq!(u64::from(BLOCKS_PER_MULTIPROCESSOR), cuda.constant("kBlocksLean"));
    }
}
