//! The launches of the `learn` kernels as plain data: from checked arguments in bare addresses to symbol, grid and
//! argument struct. The CUDA executor and the emulator run the same ones. The structs mirror those of
//! `cuda/learn.cu` and `cuda/learn_start.cu`.

use super::{Clip, Fused, Gradient, Initial, Measure, Norm, Prior, Rounding, Scalars, State, Statistics, Step, Update};
use super::{INITIAL, ROUNDING_LOGITS, ROUNDING_MOMENTS};
use crate::device::Limits;
use crate::device::launch::{Launch, Symbol, address};
use crate::element::{DType, Element, Logit};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::noise;
use crate::sample::launch::Differentiation;
use crate::sample::walk::Walk;
use crate::sample::{GradientOf, Kind};
use crate::shape::{Shape, Shard};
use crate::space::{Raw, RawSlice};

/// Threads of a block.
const THREADS: u32 = 256;
/// Groups a thread takes at a time; a warp's are a unit, which is a block of 8-bit moments.
const CHUNK: u64 = 2;
/// Blocks a multiprocessor holds at once.
const STEPS_PER_MULTIPROCESSOR: u32 = 2;
const STARTS_PER_MULTIPROCESSOR: u32 = 4;

/// `Step` of `cuda/learn.cu`: what steps have in common.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct StepArgs {
    logits: u64,
    first: u64,
    second: u64,
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
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct UpdateArgs {
    step: StepArgs,
    gradient: u64,
    scale: f32,
    zero: u32,
}
const _: () = assert!(size_of::<UpdateArgs>() == 312);

/// `LearnFusedArgs`.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct FusedArgs {
    step: StepArgs,
    weight: u64,
    gradient: u64,
    differentiation: Differentiation,
    hard: u32,
    unused: u32,
}
const _: () = assert!(size_of::<FusedArgs>() == 432);

/// `LearnPriorArgs`: of logits at the start, and of a prior on some.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct PriorArgs {
    logits: u64,
    codes: u64,
    walk: Walk,
    keys: [u32; 20],
    spread: f32,
    shift: f32,
}
const _: () = assert!(size_of::<PriorArgs>() == 144);

/// `LearnNormArgs`.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct NormArgs {
    gradient: u64,
    norm_squares: u64,
    groups: u64,
    scale: f32,
    unused: u32,
}

/// `LearnFinishArgs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct FinishArgs {
    statistics: u64,
    norm_squares: u64,
    blocks: u64,
}

/// `LearnClipArgs`.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct ClipArgs {
    norm_squares: u64,
    factor: u64,
    norm: u64,
    max_norm: f64,
}

/// `$prefix` followed by the name of the logits' type, and by what follows that.
macro_rules! by_logits {
    ($prefix:literal, $logits:expr $(, $suffix:literal)?) => {
        match $logits {
            DType::Bf16 => concat!($prefix, "_bf16" $(, $suffix)?),
            _ => concat!($prefix, "_f32" $(, $suffix)?),
        }
    };
}

/// A pass over the groups, and a second kernel that adds up the blocks' shares if sums are wanted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pass<A> {
    /// The pass.
    pub pass: Launch<A>,
    /// Adds up the blocks' shares.
    pub finish: Option<Launch<FinishArgs>>,
}

fn launch<A>(name: &'static str, grid: u32, threads: u32, args: A) -> Launch<A> {
    let symbol = Symbol { module: "learn", name };
    Launch { symbol, grid: [grid, 1, 1], block: [threads, 1, 1], shared_bytes: 0, args }
}

/// Of `cuda/learn_start.cu`.
fn launch_start<A>(name: &'static str, grid: u32, args: A) -> Launch<A> {
    let symbol = Symbol { module: "learn_start", name };
    Launch { symbol, grid: [grid, 1, 1], block: [THREADS, 1, 1], shared_bytes: 0, args }
}

/// So many blocks that each thread has a chunk, and not more than `most`.
fn grid(shape: Shape, most: u32) -> u32 {
    let wanted = (shape.groups() as u64).div_ceil(CHUNK * u64::from(THREADS));
    wanted.clamp(1, u64::from(most)) as u32
}

fn resident(limits: &Limits, blocks: u32) -> u32 {
    limits.multiprocessors.max(1).saturating_mul(blocks)
}

fn walk(shape: Shape, shard: &Shard, grid: u32) -> Result<Walk> {
    Walk::new(shape, shard, CHUNK, u64::from(grid) * u64::from(THREADS))
}

/// The sums that a pass is asked for.
#[derive(Clone, Copy)]
struct Sums {
    statistics: Option<RawSlice>,
    norm_squares: Option<RawSlice>,
}

impl Sums {
    /// Blocks of a pass: as many as leave shares, or as fit the device.
    fn grid(self, shape: Shape, limits: &Limits) -> u32 {
        match (self.statistics, self.norm_squares) {
            (None, None) => grid(shape, resident(limits, STEPS_PER_MULTIPROCESSOR)),
            _ => grid(shape, Statistics::MAX_BLOCKS),
        }
    }

    fn finish(self, blocks: u32) -> Result<Option<Launch<FinishArgs>>> {
        if self.statistics.is_none() && self.norm_squares.is_none() {
            return Ok(None);
        }
        let statistics = address("statistics", self.statistics)?;
        let norm_squares = address("norm_squares", self.norm_squares)?;
        let args = FinishArgs { statistics, norm_squares, blocks: u64::from(blocks) };
        Ok(Some(launch("twofour_learn_finish", 1, THREADS, args)))
    }
}

impl StepArgs {
    /// Without a step, and without moments: what only measures.
    fn new(logits: RawSlice, sums: Sums, walk: Walk) -> Result<Self> {
        Ok(Self {
            logits: address("logits", Some(logits))?,
            statistics: address("statistics", sums.statistics)?,
            norm_squares: address("norm_squares", sums.norm_squares)?,
            walk,
            ..bytemuck::Zeroable::zeroed()
        })
    }

    fn with(self, step: &Step<'_, Raw>, rounding: Option<Rounding>) -> Result<Self> {
        let (m, v, scales) = match step.state {
            State::F32 { m, v } => (m, v, None),
            State::Eight { m, v, scales } => (m, v, Some(scales)),
        };
        // Where nothing is rounded, no random number is drawn.
        let Rounding { seed, draw } = rounding.unwrap_or(Rounding { seed: 0, draw: 0 });
        Ok(Self {
            first: address("m", Some(m))?,
            second: address("v", Some(v))?,
            scales: address("scales", scales)?,
            factor: address("factor", step.factor)?,
            draw,
            logit_keys: noise::round_keys(seed ^ ROUNDING_LOGITS),
            moment_keys: noise::round_keys(seed ^ ROUNDING_MOMENTS),
            by: step.by.scalars(),
            ..self
        })
    }
}

impl<L: Logit> Initial<'_, Raw, L> {
    /// The launch of this pass on a device with these limits.
    ///
    /// # Errors
    /// What [`Initial::check`] finds, and [`Error::Misaligned`].
    pub fn launch(&self, limits: &Limits) -> Result<Launch<PriorArgs>> {
        self.check()?;
        let blocks = grid(self.shape, resident(limits, STARTS_PER_MULTIPROCESSOR));
        let args = PriorArgs {
            logits: address("logits", Some(self.logits))?,
            codes: address("codes", self.codes)?,
            walk: walk(self.shape, &self.shard, blocks)?,
            keys: noise::round_keys(self.seed ^ INITIAL),
            spread: self.spread(),
            shift: self.shift(),
        };
        Ok(launch_start(by_logits!("twofour_learn_initial", L::DTYPE), blocks, args))
    }
}

impl<L: Logit> Prior<'_, Raw, L> {
    /// The launch of this pass on a device with these limits.
    ///
    /// # Errors
    /// What [`Prior::check`] finds, and [`Error::Misaligned`].
    pub fn launch(&self, limits: &Limits) -> Result<Launch<PriorArgs>> {
        self.check()?;
        let blocks = grid(self.shape, resident(limits, STARTS_PER_MULTIPROCESSOR));
        let args = PriorArgs {
            logits: address("logits", Some(self.logits))?,
            codes: address("codes", Some(self.codes))?,
            walk: walk(self.shape, &Shard::whole(self.shape.cols as u64), blocks)?,
            keys: [0; 20],
            spread: 0.0,
            shift: self.strength,
        };
        Ok(launch_start(by_logits!("twofour_learn_prior", L::DTYPE), blocks, args))
    }
}

impl<L: Logit> Update<'_, Raw, L> {
    /// The launches of this step on a device with these limits.
    ///
    /// # Errors
    /// What [`Update::check`] finds, and [`Error::Misaligned`].
    pub fn launch(&self, limits: &Limits) -> Result<Pass<UpdateArgs>> {
        self.check()?;
        let sums = Sums { statistics: self.statistics, norm_squares: self.norm_squares };
        let blocks = sums.grid(self.shape, limits);
        let step = StepArgs::new(self.logits, sums, walk(self.shape, &self.shard, blocks)?)?;
        let (gradient, zero) = match self.gradient {
            Gradient::Read(gradient) => (gradient, 0),
            Gradient::Zero(gradient) => (gradient, 1),
        };
        let gradient = address("gradient", Some(gradient))?;
        let step = step.with(&self.step, self.rounding)?;
        let args = UpdateArgs { step, gradient, scale: self.scale, zero };
        let name = match self.step.state {
            State::F32 { .. } => by_logits!("twofour_learn_update", L::DTYPE, "_f32"),
            State::Eight { .. } => by_logits!("twofour_learn_update", L::DTYPE, "_u8"),
        };
        Ok(Pass { pass: launch(name, blocks, THREADS, args), finish: sums.finish(blocks)? })
    }
}

impl<L: Logit, W: Element, G: GradientOf<W>> Fused<'_, Raw, L, W, G> {
    /// The launches of this step on a device with these limits.
    ///
    /// # Errors
    /// What [`Fused::check`] finds, and [`Error::Misaligned`].
    pub fn launch(&self, limits: &Limits) -> Result<Pass<FusedArgs>> {
        self.check()?;
        let sums = Sums { statistics: self.statistics, norm_squares: self.norm_squares };
        let blocks = sums.grid(self.shape, limits);
        let step = StepArgs::new(self.logits, sums, walk(self.shape, &self.shard, blocks)?)?;
        let rounding = Rounding { seed: self.sampling.seed, draw: self.sampling.draw };
        let args = FusedArgs {
            step: step.with(&self.step, Some(rounding))?,
            weight: address("weight", Some(self.weight))?,
            gradient: address("gradient", Some(self.gradient))?,
            differentiation: Differentiation::new(&self.sampling, self.regulariser),
            hard: u32::from(self.kind == Kind::Hard),
            unused: 0,
        };
        let eight = matches!(self.step.state, State::Eight { .. });
        let name = fused_symbol(L::DTYPE, eight, W::DTYPE, G::DTYPE);
        Ok(Pass { pass: launch(name, blocks, THREADS, args), finish: sums.finish(blocks)? })
    }
}

impl<L: Logit, W: Element, G: GradientOf<W>> Measure<'_, Raw, L, W, G> {
    /// The launches of this pass on a device with these limits: those of a step without moments.
    ///
    /// # Errors
    /// What [`Measure::check`] finds, and [`Error::Misaligned`].
    pub fn launch(&self, limits: &Limits) -> Result<Pass<FusedArgs>> {
        self.check()?;
        let sums = Sums { statistics: None, norm_squares: Some(self.norm_squares) };
        let blocks = sums.grid(self.shape, limits);
        let args = FusedArgs {
            step: StepArgs::new(self.logits, sums, walk(self.shape, &self.shard, blocks)?)?,
            weight: address("weight", Some(self.weight))?,
            gradient: address("gradient", Some(self.gradient))?,
            differentiation: Differentiation::new(&self.sampling, self.regulariser),
            hard: u32::from(self.kind == Kind::Hard),
            unused: 0,
        };
        let name = fused_symbol(L::DTYPE, false, W::DTYPE, G::DTYPE);
        Ok(Pass { pass: launch(name, blocks, THREADS, args), finish: sums.finish(blocks)? })
    }
}

impl Norm<'_, Raw> {
    /// The launches of this pass on a device with these limits.
    ///
    /// # Errors
    /// What [`Norm::check`] finds, and [`Error::Misaligned`].
    pub fn launch(&self, limits: &Limits) -> Result<Pass<NormArgs>> {
        self.check()?;
        let sums = Sums { statistics: None, norm_squares: Some(self.norm_squares) };
        let blocks = sums.grid(self.shape, limits);
        let args = NormArgs {
            gradient: address("gradient", Some(self.gradient))?,
            norm_squares: address("norm_squares", Some(self.norm_squares))?,
            groups: self.shape.groups() as u64,
            scale: self.scale,
            unused: 0,
        };
        let pass = launch("twofour_learn_norm", blocks, THREADS, args);
        Ok(Pass { pass, finish: sums.finish(blocks)? })
    }
}

impl Clip<'_, Raw> {
    /// The launch of this end of clipping.
    ///
    /// # Errors
    /// What [`Clip::check`] finds, and [`Error::Misaligned`].
    pub fn launch(&self) -> Result<Launch<ClipArgs>> {
        self.check()?;
        let args = ClipArgs {
            norm_squares: address("norm_squares", Some(self.norm_squares))?,
            factor: address("factor", Some(self.factor))?,
            norm: address("norm", self.norm)?,
            max_norm: self.max_norm,
        };
        Ok(launch("twofour_learn_clip", 1, 32, args))
    }
}

fn fused_symbol(logits: DType, eight: bool, weights: DType, gradient: DType) -> &'static str {
    /// `$prefix` followed by the names of weights' and gradient's types; the latter is the weight's or f32.
    macro_rules! of {
        ($prefix:literal) => {
            match (weights, gradient) {
                (DType::F32, _) => concat!($prefix, "_f32_f32"),
                (DType::F16, DType::F32) => concat!($prefix, "_f16_f32"),
                (DType::F16, _) => concat!($prefix, "_f16_f16"),
                (DType::Bf16, DType::F32) => concat!($prefix, "_bf16_f32"),
                (DType::Bf16, _) => concat!($prefix, "_bf16_bf16"),
            }
        };
    }
    match (logits, eight) {
        (DType::Bf16, false) => of!("twofour_learn_fused_bf16_f32"),
        (DType::Bf16, true) => of!("twofour_learn_fused_bf16_u8"),
        (_, false) => of!("twofour_learn_fused_f32_f32"),
        (_, true) => of!("twofour_learn_fused_f32_u8"),
    }
}
