//! The executors a suite runs against: the CPU's, the emulator on any schedule, and the GPU where there is one.

use super::array::Array;
use super::{BackwardCase, Backwarded, ForwardCase, Forwarded};
use bytemuck::{Pod, Zeroable};
use std::sync::Arc;
use twofour::cudarc::driver::CudaStream;
use twofour::device::Limits;
use twofour::device::launch::Launch;
use twofour::mask::{self, GradientOf, Statistics, cpu, cuda};
use twofour::space::Raw;
use twofour::{Float, Logit, device};
use twofour_emulator::{Kernel, Options, Schedule};

/// Runs cases.
#[derive(Debug, Clone)]
pub enum Executor {
    Cpu,
    /// With the limits of a small device, so that a thread takes more than one chunk.
    Emulator(Schedule),
    Gpu(Arc<CudaStream>),
}

/// A device so small that tests' sizes are many steps of its grid.
pub const SMALL: Limits = Limits { multiprocessors: 1, ..Limits::A100 };

/// The GPU's executor, or `None` after saying that there is no GPU; fails instead if `TWOFOUR_REQUIRE_GPU=1`.
pub fn gpu() -> Option<Executor> {
    match device::context(0) {
        Ok(context) => Some(Executor::Gpu(context.default_stream())),
        Err(error) if std::env::var_os("TWOFOUR_REQUIRE_GPU").is_some_and(|v| v == "1") => {
            panic!("TWOFOUR_REQUIRE_GPU=1, but {error}")
        }
        Err(error) => {
            println!("skipped: no CUDA device ({error})");
            None
        }
    }
}

impl Executor {
    pub fn forward<L, W>(&self, case: &ForwardCase<L, W>) -> Forwarded<W>
    where
        L: Logit,
        W: Float,
    {
        match self {
            Self::Cpu => forward_on_cpu(case),
            Self::Emulator(schedule) => forward_emulated(case, *schedule, &SMALL),
            Self::Gpu(stream) => forward_on_gpu(case, stream),
        }
    }

    pub fn backward<L, W, G>(&self, case: &BackwardCase<L, W, G>) -> Backwarded<G>
    where
        L: Logit,
        W: Float,
        G: GradientOf<W>,
    {
        match self {
            Self::Cpu => backward_on_cpu(case),
            Self::Emulator(schedule) => backward_emulated(case, *schedule, &SMALL),
            Self::Gpu(stream) => backward_on_gpu(case, stream),
        }
    }
}

/// What an output holds before: bytes that are a NaN in every type, so that an unwritten element shows.
fn poison<T: Pod>(len: usize) -> Vec<T> {
    let mut values = vec![T::zeroed(); len];
    bytemuck::cast_slice_mut::<T, u8>(&mut values).fill(0xff);
    values
}

/// Adds what a case gives and wants to an argument builder.
macro_rules! given {
    ($args:ident, $($method:ident: $value:expr),* $(,)?) => {
        $(if let Some(value) = $value { $args = $args.$method(value); })*
    };
}

fn forward_on_cpu<L: Logit, W: Float>(case: &ForwardCase<L, W>) -> Forwarded<W> {
    let (shape, wants) = (case.shape, case.wants);
    let mut masked = wants.masked.then(|| poison::<W>(shape.weights()));
    let mut mask = wants.mask.then(|| poison::<W>(shape.weights()));
    let mut patterns = wants.patterns.then(|| poison::<u8>(shape.groups()));
    let mut codes = wants.codes.then(|| poison::<u8>(shape.packed_codes()));
    let mut statistics = wants.statistics.then(|| vec![Statistics::zeroed(); Statistics::SLOTS]);
    let mut args = cpu::Forward::new(shape, case.kind, case.sampling, &case.logits).shard(case.shard);
    given!(args, weight: case.weight.as_deref(), masked: masked.as_deref_mut(), mask: mask.as_deref_mut(),
        patterns: patterns.as_deref_mut(), codes: codes.as_deref_mut(), statistics: statistics.as_deref_mut(),
        previous_codes: case.previous_codes.as_deref());
    cpu::forward_into(args).unwrap();
    Forwarded { masked, mask, patterns, codes, statistics: statistics.map(|all| all[0]) }
}

fn backward_on_cpu<L: Logit, W: Float, G: GradientOf<W>>(case: &BackwardCase<L, W, G>) -> Backwarded<G> {
    let mut logit_gradient = case.before.clone().unwrap_or_else(|| poison(case.shape.logits()));
    let mut weight_gradient = poison::<G>(case.shape.weights());
    let args = cpu::Backward::new(case.shape, case.kind, case.sampling, &case.logits, &case.weight, &case.gradient);
    let args = args.shard(case.shard).regulariser(case.regulariser).weight_gradient(&mut weight_gradient);
    let args = match case.before {
        Some(_) => args.accumulate_logit_gradient(&mut logit_gradient),
        None => args.logit_gradient(&mut logit_gradient),
    };
    cpu::backward_into(args).unwrap();
    Backwarded { logit_gradient, weight_gradient }
}

/// Runs a launch in the emulator, as the driver would run it.
pub fn emulate<A: Pod>(launch: &Launch<A>, schedule: Schedule) {
    let of_emulator = twofour_emulator::Launch {
        kernel: Kernel::find(launch.symbol.name).unwrap(),
        grid: launch.grid,
        block: launch.block,
        shared_bytes: launch.shared_bytes,
        args: bytemuck::bytes_of(&launch.args),
    };
    if let Err(fault) = twofour_emulator::run(&of_emulator, &Options { schedule, ..Options::default() }) {
        panic!("{fault}");
    }
}

pub fn forward_emulated<L, W>(case: &ForwardCase<L, W>, schedule: Schedule, limits: &Limits) -> Forwarded<W>
where
    L: Logit,
    W: Float,
{
    let (shape, wants) = (case.shape, case.wants);
    let logits = Array::input("logits", &case.logits);
    let weight = case.weight.as_ref().map(|weight| Array::input("weight", weight));
    let previous = case.previous_codes.as_ref().map(|codes| Array::input("previous_codes", codes));
    let masked = wants.masked.then(|| Array::<W>::output("masked", shape.weights()));
    let mask = wants.mask.then(|| Array::<W>::output("mask", shape.weights()));
    let patterns = wants.patterns.then(|| Array::<u8>::output("patterns", shape.groups()));
    let codes = wants.codes.then(|| Array::<u8>::output("codes", shape.packed_codes()));
    let statistics = wants.statistics.then(|| Array::<Statistics>::output("statistics", Statistics::SLOTS));
    let mut args = mask::Forward::<Raw, L, W>::new(shape, case.kind, case.sampling, logits.raw()).shard(case.shard);
    given!(args, weight: weight.as_ref().map(Array::raw), masked: masked.as_ref().map(Array::raw),
        mask: mask.as_ref().map(Array::raw), patterns: patterns.as_ref().map(Array::raw),
        codes: codes.as_ref().map(Array::raw), statistics: statistics.as_ref().map(Array::raw),
        previous_codes: previous.as_ref().map(Array::raw));
    let plan = args.launch(limits).unwrap();
    emulate(&plan.pass, schedule);
    if let Some(statistics) = &plan.statistics {
        emulate(statistics, schedule);
    }
    Forwarded {
        masked: masked.map(|array| array.read()),
        mask: mask.map(|array| array.read()),
        patterns: patterns.map(|array| array.read()),
        codes: codes.map(|array| array.read()),
        statistics: statistics.map(|array| array.read()[0]),
    }
}

pub fn backward_emulated<L, W, G>(case: &BackwardCase<L, W, G>, schedule: Schedule, limits: &Limits) -> Backwarded<G>
where
    L: Logit,
    W: Float,
    G: GradientOf<W>,
{
    let logits = Array::input("logits", &case.logits);
    let weight = Array::input("weight", &case.weight);
    let gradient = Array::input("gradient", &case.gradient);
    let logit_gradient = match &case.before {
        Some(before) => Array::in_place("logit_gradient", before),
        None => Array::<f32>::output("logit_gradient", case.shape.logits()),
    };
    let weight_gradient = Array::<G>::output("weight_gradient", case.shape.weights());
    let args = mask::Backward::<Raw, L, W, G>::new(
        case.shape,
        case.kind,
        case.sampling,
        logits.raw(),
        weight.raw(),
        gradient.raw(),
    );
    let args = args.shard(case.shard).regulariser(case.regulariser).weight_gradient(weight_gradient.raw());
    let args = match case.before {
        Some(_) => args.accumulate_logit_gradient(logit_gradient.raw()),
        None => args.logit_gradient(logit_gradient.raw()),
    };
    emulate(&args.launch(limits).unwrap(), schedule);
    Backwarded { logit_gradient: logit_gradient.read(), weight_gradient: weight_gradient.read() }
}

fn forward_on_gpu<L, W>(case: &ForwardCase<L, W>, stream: &Arc<CudaStream>) -> Forwarded<W>
where
    L: Logit,
    W: Float,
{
    let (shape, wants) = (case.shape, case.wants);
    let logits = stream.clone_htod(&case.logits).unwrap();
    let weight = case.weight.as_ref().map(|weight| stream.clone_htod(weight).unwrap());
    let previous = case.previous_codes.as_ref().map(|codes| stream.clone_htod(codes).unwrap());
    let mut masked = wants.masked.then(|| stream.clone_htod(&poison::<W>(shape.weights())).unwrap());
    let mut mask = wants.mask.then(|| stream.clone_htod(&poison::<W>(shape.weights())).unwrap());
    let mut patterns = wants.patterns.then(|| stream.clone_htod(&poison::<u8>(shape.groups())).unwrap());
    let mut codes = wants.codes.then(|| stream.clone_htod(&poison::<u8>(shape.packed_codes())).unwrap());
    let mut statistics = wants.statistics.then(|| stream.alloc_zeros::<Statistics>(Statistics::SLOTS).unwrap());
    let mut args = cuda::Forward::new(shape, case.kind, case.sampling, logits.as_view()).shard(case.shard);
    given!(args, weight: weight.as_ref().map(|s| s.as_view()), masked: masked.as_mut().map(|s| s.as_view_mut()),
        mask: mask.as_mut().map(|s| s.as_view_mut()), patterns: patterns.as_mut().map(|s| s.as_view_mut()),
        codes: codes.as_mut().map(|s| s.as_view_mut()), statistics: statistics.as_mut().map(|s| s.as_view_mut()),
        previous_codes: previous.as_ref().map(|s| s.as_view()));
    cuda::forward_into(stream, args).unwrap();
    let result = Forwarded {
        masked: masked.map(|s| stream.clone_dtoh(&s).unwrap()),
        mask: mask.map(|s| stream.clone_dtoh(&s).unwrap()),
        patterns: patterns.map(|s| stream.clone_dtoh(&s).unwrap()),
        codes: codes.map(|s| stream.clone_dtoh(&s).unwrap()),
        statistics: statistics.map(|s| stream.clone_dtoh(&s).unwrap()[0]),
    };
    stream.synchronize().unwrap();
    result
}

fn backward_on_gpu<L, W, G>(case: &BackwardCase<L, W, G>, stream: &Arc<CudaStream>) -> Backwarded<G>
where
    L: Logit,
    W: Float,
    G: GradientOf<W>,
{
    let logits = stream.clone_htod(&case.logits).unwrap();
    let weight = stream.clone_htod(&case.weight).unwrap();
    let gradient = stream.clone_htod(&case.gradient).unwrap();
    let before = case.before.clone().unwrap_or_else(|| poison(case.shape.logits()));
    let mut logit_gradient = stream.clone_htod(&before).unwrap();
    let mut weight_gradient = stream.clone_htod(&poison::<G>(case.shape.weights())).unwrap();
    let args = cuda::Backward::new(
        case.shape,
        case.kind,
        case.sampling,
        logits.as_view(),
        weight.as_view(),
        gradient.as_view(),
    );
    let args = args.shard(case.shard).regulariser(case.regulariser).weight_gradient(weight_gradient.as_view_mut());
    let args = match case.before {
        Some(_) => args.accumulate_logit_gradient(logit_gradient.as_view_mut()),
        None => args.logit_gradient(logit_gradient.as_view_mut()),
    };
    cuda::backward_into(stream, args).unwrap();
    let logit_gradient = stream.clone_dtoh(&logit_gradient).unwrap();
    let weight_gradient = stream.clone_dtoh(&weight_gradient).unwrap();
    stream.synchronize().unwrap();
    Backwarded { logit_gradient, weight_gradient }
}
