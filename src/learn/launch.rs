//! The launches of the `learn` kernels. The structs mirror those of `cuda/common/step.cuh`, `cuda/learn.cu` and
//! `cuda/learn_start.cu`.

use super::adamw::Scalars;
use super::update::Gradient;
use super::{Clip, Fused, Initial, Measure, Moments, Norm, Prior, Rounding, Statistics, Step, Update};
use super::{INITIAL, ROUNDING_LOGITS, ROUNDING_MOMENTS};
use crate::device::{Launch, Limits, Symbol};
use crate::element::{DType, Float, Logit};
use crate::error::Result;
use crate::noise;
use crate::pass::{Binder, DeviceSpace, Queue};
use crate::sample::launch::Differentiation;
use crate::sample::walk::{self, THREADS, Walk};
use crate::sample::{GradientOf, Kind, Sampling, statistics};
use crate::shape::{Shape, Shard};
use crate::space::Raw;

/// Groups a thread takes at a time; a warp's are a unit, which is a block of 8-bit moments.
const CHUNK: u64 = 2;
/// Blocks a multiprocessor holds at once.
const STEPS_PER_MULTIPROCESSOR: u32 = 2;
const STARTS_PER_MULTIPROCESSOR: u32 = 4;

/// `Step` of `cuda/common/step.cuh`: what a step is besides the gradient.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct StepArgs {
    logits: u64,
    m: u64,
    v: u64,
    scales: u64,
    factor: u64,
    statistics: u64,
    norm_squares: u64,
    walk: Walk,
    draw: u64,
    logit_keys: [u32; 20],
    moment_keys: [u32; 20],
    by: Scalars,
}
const _: () = assert!(size_of::<StepArgs>() == 296);

/// `LearnUpdateArgs`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct UpdateArgs {
    step: StepArgs,
    gradient: u64,
    scale: f32,
    zero: u32,
}
const _: () = assert!(size_of::<UpdateArgs>() == 312);

/// `LearnFusedArgs`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct FusedArgs {
    step: StepArgs,
    weight: u64,
    gradient: u64,
    differentiation: Differentiation,
    hard: u32,
    unused: u32,
}
const _: () = assert!(size_of::<FusedArgs>() == 432);

/// `LearnPriorArgs`: of logits at the start, and of a prior on some.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct PriorArgs {
    logits: u64,
    codes: u64,
    walk: Walk,
    keys: [u32; 20],
    spread: f32,
    shift: f32,
}
const _: () = assert!(size_of::<PriorArgs>() == 144);

/// `LearnNormArgs`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct NormArgs {
    gradient: u64,
    norm_squares: u64,
    groups: u64,
    scale: f32,
    unused: u32,
}
const _: () = assert!(size_of::<NormArgs>() == 32);

/// `LearnFinishArgs`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct FinishArgs {
    statistics: u64,
    norm_squares: u64,
    shares: u64,
    shares_of_norm: u64,
    blocks: u64,
}
const _: () = assert!(size_of::<FinishArgs>() == 40);

/// `LearnClipArgs`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct ClipArgs {
    norm_squares: u64,
    factor: u64,
    norm: u64,
    max_norm: f64,
}
const _: () = assert!(size_of::<ClipArgs>() == 32);

/// Blocks of a step: as many as leave shares where sums are wanted, or else as fit the device.
fn blocks(shape: Shape, sums: bool, limits: &Limits) -> u32 {
    if sums { shares(shape) } else { walk::blocks(shape, CHUNK, limits.blocks(STEPS_PER_MULTIPROCESSOR)) }
}

fn walk(shape: Shape, shard: &Shard, blocks: u32) -> Result<Walk> {
    Walk::new(shape, shard, CHUNK, u64::from(blocks) * u64::from(THREADS))
}

fn symbol(variant: &str, types: &[&str]) -> Symbol {
    Symbol::new("learn", variant, types)
}

/// Where sums are, or blocks' shares of them, one after the other; 0 where they are not wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sums {
    statistics: u64,
    norm_squares: u64,
}

impl Sums {
    pub(crate) fn bind<'g, S: DeviceSpace>(
        statistics: &'g mut Option<S::Mut<'_, Statistics>>,
        norm_squares: &'g mut Option<S::Mut<'_, f64>>,
        binder: &mut Binder<'g, S>,
    ) -> Result<Self> {
        let statistics = binder.output_if("statistics", statistics)?;
        Ok(Self { statistics, norm_squares: binder.output_if("norm_squares", norm_squares)? })
    }

    pub(crate) fn are_wanted(self) -> bool {
        self != Self::default()
    }

    /// So many elements further on.
    pub(crate) fn after(self, elements: u64) -> Self {
        let after = |address, size: usize| if address == 0 { 0 } else { address + elements * size as u64 };
        let Self { statistics, norm_squares } = self;
        Self {
            statistics: after(statistics, size_of::<Statistics>()),
            norm_squares: after(norm_squares, size_of::<f64>()),
        }
    }

    /// Room for the shares of so many blocks, of the sums that are wanted here.
    pub(crate) fn shares_at(self, address: u64, blocks: u64) -> Self {
        let norm_squares = address + blocks * size_of::<Statistics>() as u64;
        Self {
            statistics: if self.statistics == 0 { 0 } else { address },
            norm_squares: if self.norm_squares == 0 { 0 } else { norm_squares },
        }
    }

    /// What that takes.
    pub(crate) const fn bytes_of_shares(blocks: usize) -> usize {
        blocks.saturating_mul(size_of::<Statistics>() + size_of::<f64>())
    }
}

/// How many blocks of a step leave shares.
pub(crate) fn shares(shape: Shape) -> u32 {
    walk::blocks(shape, CHUNK, statistics::MAX_BLOCKS)
}

/// The kernel that adds up the shares of so many blocks.
pub(crate) fn finish(Sums { statistics, norm_squares }: Sums, shares: Sums, blocks: u64) -> Launch {
    let Sums { statistics: shares, norm_squares: shares_of_norm } = shares;
    let args = FinishArgs { statistics, norm_squares, shares, shares_of_norm, blocks };
    Launch::new(symbol("finish", &[]), 1, THREADS, &args)
}

impl<S: DeviceSpace> Step<'_, S> {
    pub(crate) fn bind<'g>(&'g mut self, binder: &mut Binder<'g, S>) -> Result<Step<'static, Raw>> {
        let moments = match &mut self.moments {
            Moments::F32 { m, v } => Moments::F32 { m: binder.output("m", m)?, v: binder.output("v", v)? },
            Moments::Eight { m, v, scales } => {
                let scales = binder.output("scales", scales)?;
                Moments::Eight { m: binder.output("m", m)?, v: binder.output("v", v)?, scales }
            }
        };
        let factor = self.factor.as_ref().map(|factor| binder.input("factor", factor)).transpose()?;
        Ok(Step { by: self.by, moments, factor })
    }
}

impl StepArgs {
    /// A step of these logits, whose blocks leave their shares of the sums there.
    pub(crate) fn new(
        step: &Step<'_, Raw>,
        logits: u64,
        walk: Walk,
        rounding: Option<Rounding>,
        Sums { statistics, norm_squares }: Sums,
    ) -> Self {
        let [m, v, scales] = match &step.moments {
            Moments::F32 { m, v } => [m.address, v.address, 0],
            Moments::Eight { m, v, scales } => [m.address, v.address, scales.address],
        };
        // Where nothing is rounded, no random number is drawn.
        let Rounding { seed, draw } = rounding.unwrap_or(Rounding { seed: 0, draw: 0 });
        Self {
            logits,
            m,
            v,
            scales,
            factor: step.factor.map_or(0, |factor| factor.address),
            statistics,
            norm_squares,
            walk,
            draw,
            logit_keys: noise::round_keys(seed ^ ROUNDING_LOGITS),
            moment_keys: noise::round_keys(seed ^ ROUNDING_MOMENTS),
            by: step.by.scalars(),
        }
    }
}

pub(super) fn initial<'g, S: DeviceSpace, L: Logit>(
    pass: &'g mut Initial<'_, S, L>,
    binder: &mut Binder<'g, S>,
    queue: &mut Queue,
) -> Result<()> {
    let (spread, shift) = (pass.spread(), pass.shift());
    let blocks = walk::blocks(pass.shape, CHUNK, queue.limits().blocks(STARTS_PER_MULTIPROCESSOR));
    let args = PriorArgs {
        logits: binder.output("logits", &mut pass.logits)?.address,
        codes: binder.input_if("codes", &pass.codes)?,
        walk: walk(pass.shape, &pass.shard, blocks)?,
        keys: noise::round_keys(pass.seed ^ INITIAL),
        spread,
        shift,
    };
    queue.launch(Launch::new(Symbol::new("learn_start", "initial", &[L::DTYPE.name()]), blocks, THREADS, &args));
    Ok(())
}

pub(super) fn prior<'g, S: DeviceSpace, L: Logit>(
    pass: &'g mut Prior<'_, S, L>,
    binder: &mut Binder<'g, S>,
    queue: &mut Queue,
) -> Result<()> {
    let blocks = walk::blocks(pass.shape, CHUNK, queue.limits().blocks(STARTS_PER_MULTIPROCESSOR));
    let args = PriorArgs {
        logits: binder.output("logits", &mut pass.logits)?.address,
        codes: binder.input("codes", &pass.codes)?.address,
        walk: walk(pass.shape, &Shard::whole(pass.shape.cols as u64), blocks)?,
        keys: [0; 20],
        spread: 0.0,
        shift: pass.strength,
    };
    queue.launch(Launch::new(Symbol::new("learn_start", "prior", &[L::DTYPE.name()]), blocks, THREADS, &args));
    Ok(())
}

pub(super) fn update<'g, S: DeviceSpace, L: Logit>(
    pass: &'g mut Update<'_, S, L>,
    binder: &mut Binder<'g, S>,
    queue: &mut Queue,
) -> Result<()> {
    let sums = Sums::bind(&mut pass.statistics, &mut pass.norm_squares, binder)?;
    let blocks = blocks(pass.shape, sums.are_wanted(), queue.limits());
    let types = [L::DTYPE.name(), pass.step.moments.dtype()];
    let (gradient, zero) = match &mut pass.gradient {
        Gradient::Read(gradient) => (binder.input("gradient", gradient)?.address, 0),
        Gradient::Zero(gradient) => (binder.output("gradient", gradient)?.address, 1),
    };
    let (logits, walk) = (binder.output("logits", &mut pass.logits)?.address, walk(pass.shape, &pass.shard, blocks)?);
    let step = StepArgs::new(&pass.step.bind(binder)?, logits, walk, pass.rounding, sums.after(1));
    let args = UpdateArgs { step, gradient, scale: pass.scale, zero };
    queue.launch(Launch::new(symbol("update", &types), blocks, THREADS, &args));
    if sums.are_wanted() {
        queue.launch(finish(sums, sums.after(1), u64::from(blocks)));
    }
    Ok(())
}

pub(super) fn fused<'g, S: DeviceSpace, L: Logit, W: Float, G: GradientOf<W>>(
    pass: &'g mut Fused<'_, S, L, W, G>,
    binder: &mut Binder<'g, S>,
    queue: &mut Queue,
) -> Result<()> {
    let sums = Sums::bind(&mut pass.statistics, &mut pass.norm_squares, binder)?;
    let (logits, weight) = (binder.output("logits", &mut pass.logits)?, binder.input("weight", &pass.weight)?);
    let (gradient, step) = (binder.input("gradient", &pass.gradient)?, pass.step.bind(binder)?);
    let bound = Fused::<Raw, L, W, G>::new(pass.shape, pass.kind, pass.sampling, logits, weight, gradient, step);
    let blocks = fused_part(&bound.shard(pass.shard).regulariser(pass.regulariser), sums.after(1), queue)?;
    if sums.are_wanted() {
        queue.launch(finish(sums, sums.after(1), u64::from(blocks)));
    }
    Ok(())
}

/// A fused step whose operands are addresses by now, and whose blocks leave their shares of the sums there; gives how
/// many blocks.
pub(crate) fn fused_part<L: Logit, W: Float, G: GradientOf<W>>(
    pass: &Fused<'_, Raw, L, W, G>,
    shares: Sums,
    queue: &mut Queue,
) -> Result<u32> {
    let blocks = blocks(pass.shape, shares.are_wanted(), queue.limits());
    let types = [L::DTYPE.name(), pass.step.moments.dtype(), W::DTYPE.name(), G::DTYPE.name()];
    let Sampling { seed, draw, .. } = pass.sampling;
    let (walk, rounding) = (walk(pass.shape, &pass.shard, blocks)?, Rounding { seed, draw });
    let args = FusedArgs {
        step: StepArgs::new(&pass.step, pass.logits.address, walk, Some(rounding), shares),
        weight: pass.weight.address,
        gradient: pass.gradient.address,
        differentiation: Differentiation::new(&pass.sampling, pass.regulariser),
        hard: u32::from(pass.kind == Kind::Hard),
        unused: 0,
    };
    queue.launch(Launch::new(symbol("fused", &types), blocks, THREADS, &args));
    Ok(blocks)
}

/// The kernel of a fused step, without moments: it writes its shares alone.
pub(super) fn measure<'g, S: DeviceSpace, L: Logit, W: Float, G: GradientOf<W>>(
    pass: &'g mut Measure<'_, S, L, W, G>,
    binder: &mut Binder<'g, S>,
    queue: &mut Queue,
) -> Result<()> {
    let blocks = shares(pass.shape);
    let norm_squares = binder.output("norm_squares", &mut pass.norm_squares)?.address;
    let sums = Sums { statistics: 0, norm_squares };
    let step = StepArgs {
        logits: binder.input("logits", &pass.logits)?.address,
        norm_squares: sums.after(1).norm_squares,
        walk: walk(pass.shape, &pass.shard, blocks)?,
        ..bytemuck::Zeroable::zeroed()
    };
    let args = FusedArgs {
        step,
        weight: binder.input("weight", &pass.weight)?.address,
        gradient: binder.input("gradient", &pass.gradient)?.address,
        differentiation: Differentiation::new(&pass.sampling, pass.regulariser),
        hard: u32::from(pass.kind == Kind::Hard),
        unused: 0,
    };
    let types = [L::DTYPE, DType::F32, W::DTYPE, G::DTYPE].map(DType::name);
    queue.launch(Launch::new(symbol("fused", &types), blocks, THREADS, &args));
    queue.launch(finish(sums, sums.after(1), u64::from(blocks)));
    Ok(())
}

pub(super) fn norm<'g, S: DeviceSpace>(
    pass: &'g mut Norm<'_, S>,
    binder: &mut Binder<'g, S>,
    queue: &mut Queue,
) -> Result<()> {
    let blocks = shares(pass.shape);
    let norm_squares = binder.output("norm_squares", &mut pass.norm_squares)?.address;
    let sums = Sums { statistics: 0, norm_squares };
    let args = NormArgs {
        gradient: binder.input("gradient", &pass.gradient)?.address,
        norm_squares: sums.after(1).norm_squares,
        groups: pass.shape.groups() as u64,
        scale: pass.scale,
        unused: 0,
    };
    queue.launch(Launch::new(symbol("norm", &[]), blocks, THREADS, &args));
    queue.launch(finish(sums, sums.after(1), u64::from(blocks)));
    Ok(())
}

pub(super) fn clip<'g, S: DeviceSpace>(
    pass: &'g mut Clip<'_, S>,
    binder: &mut Binder<'g, S>,
    queue: &mut Queue,
) -> Result<()> {
    let args = ClipArgs {
        norm_squares: binder.output("norm_squares", &mut pass.norm_squares)?.address,
        factor: binder.output("factor", &mut pass.factor)?.address,
        norm: binder.output_if("norm", &mut pass.norm)?,
        max_norm: pass.max_norm,
    };
    queue.launch(Launch::new(symbol("clip", &[]), 1, 32, &args));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::constants::Cuda;
    use crate::learn::{TOO_LARGE, eight};

    #[test]
    fn constants_are_those_of_the_kernels() {
        let [step, start] = ["learn.cu", "learn_start.cu"].map(Cuda::read);
        for cuda in [&step, &start] {
            assert_eq!(u64::from(THREADS), cuda.constant("kThreads"));
            assert_eq!(CHUNK, cuda.constant("kLaneGroups"));
            assert_eq!(Moments::BLOCK_GROUPS as u64, cuda.constant("kUnitGroups"));
        }
        for symbol in ["twofour_learn_update_L_name", "twofour_learn_fused_L_name_W_G"] {
            assert_eq!(u64::from(STEPS_PER_MULTIPROCESSOR), step.bounds(symbol)[1]);
        }
        for symbol in ["twofour_learn_initial_L", "twofour_learn_prior_L"] {
            assert_eq!(u64::from(STARTS_PER_MULTIPROCESSOR), start.bounds(symbol)[1]);
        }
        assert_eq!(u64::from(TOO_LARGE.to_bits()), step.constant("kWildBits"));
        assert_eq!(u64::from(eight::LEAST.to_bits()), step.constant("kNothingBits"));
    }
}
