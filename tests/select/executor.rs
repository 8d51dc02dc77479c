//! The executors: the CPU's, the emulator's, which runs the launches that a device would be given, and the GPU's.

use crate::array::Array;
use crate::case::{By, ScoreCase, Scored, SquaresCase, SweepCase, Swept};
use bytemuck::{Pod, Zeroable};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};
use twofour::Float;
use twofour::cudarc::driver::{CudaSlice, CudaStream, DeviceRepr};
use twofour::device::launch::Launch;
use twofour::device::{self, Limits};
use twofour::select::{self, Kept, cpu, cuda};
use twofour::space::Raw;
use twofour_emulator::{Kernel, Options, Schedule};

/// How often each kernel has run in this process.
pub(crate) static RUNS: LazyLock<Mutex<HashMap<&'static str, usize>>> = LazyLock::new(Mutex::default);

/// A device so small that tests' sizes are many steps of its grid.
const SMALL: Limits = Limits { multiprocessors: 1, ..Limits::A100 };

#[derive(Debug, Clone)]
pub(crate) enum Executor {
    Cpu,
    Emulator(Schedule, Limits),
    Gpu(Arc<CudaStream>),
}

/// The GPU's executor, or `None` after saying that there is no GPU; fails instead if `TWOFOUR_REQUIRE_GPU=1`.
pub(crate) fn gpu() -> Option<Executor> {
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

impl Executor {
    /// The emulator on any schedule, by a number.
    pub(crate) fn emulator(number: u64) -> Self {
        let schedule = [Schedule::RoundRobin, Schedule::Solo(number), Schedule::Random(number)][number as usize % 3];
        Self::Emulator(schedule, [SMALL, Limits::H200][number as usize / 3 % 2])
    }

    pub(crate) fn score<W: Float>(&self, case: &ScoreCase<W>) -> Scored<W> {
        match self {
            Self::Cpu => score_on_cpu(case),
            Self::Emulator(schedule, limits) => score_emulated(case, *schedule, limits),
            Self::Gpu(stream) => score_on_gpu(case, stream),
        }
    }

    /// Sums and norms.
    pub(crate) fn squares<X: Float>(&self, case: &SquaresCase<X>) -> (Vec<f64>, Option<Vec<f32>>) {
        let SquaresCase { tokens, cols, .. } = *case;
        let needed = cpu::Squares::<X>::workspace_len(tokens, cols);
        match self {
            Self::Cpu => {
                let (mut sums, mut norms) = (case.sums.clone(), case.norms.then(|| poison::<f32>(cols)));
                let mut args = cpu::Squares::new(tokens, cols, &case.x, &mut sums);
                given!(args, norms: norms.as_deref_mut());
                cpu::squares_into(args).unwrap();
                (sums, norms)
            }
            Self::Emulator(schedule, _) => {
                let (x, sums) = (Array::input("x", &case.x), Array::in_place("sums", &case.sums));
                let norms = case.norms.then(|| Array::<f32>::output("norms", cols));
                let workspace = Array::<f64>::output("workspace", needed);
                let mut args = select::Squares::<Raw, X>::new(tokens, cols, x.raw(), sums.raw());
                given!(args, norms: norms.as_ref().map(Array::raw), workspace: Some(workspace.raw()));
                let plan = args.launch().unwrap();
                plan.slabs.iter().for_each(|slabs| emulate(slabs, *schedule));
                emulate(&plan.sums, *schedule);
                (sums.read(), norms.map(|norms| norms.read()))
            }
            Self::Gpu(stream) => {
                let (x, mut sums) = (upload(stream, &case.x), upload(stream, &case.sums));
                let mut norms = case.norms.then(|| upload(stream, &poison::<f32>(cols)));
                let mut workspace = upload(stream, &poison::<f64>(needed));
                let mut args = cuda::Squares::new(tokens, cols, x.as_view(), sums.as_view_mut());
                given!(args, norms: norms.as_mut().map(|s| s.as_view_mut()), workspace: Some(workspace.as_view_mut()));
                cuda::squares_into(stream, args).unwrap();
                let sums = download(stream, &sums);
                (sums, norms.map(|norms| download(stream, &norms)))
            }
        }
    }

    pub(crate) fn sweep<W: Float>(&self, case: &SweepCase<W>) -> Swept<W> {
        match self {
            Self::Cpu => sweep_on_cpu(case),
            Self::Emulator(schedule, limits) => sweep_emulated(case, *schedule, limits),
            Self::Gpu(stream) => sweep_on_gpu(case, stream),
        }
    }
}

/// Runs a launch as the driver would. A grid without blocks is nothing to do.
fn emulate<A: Pod>(launch: &Launch<A>, schedule: Schedule) {
    if launch.grid.contains(&0) {
        return;
    }
    *RUNS.lock().unwrap().entry(launch.symbol.name).or_default() += 1;
    let of_emulator = twofour_emulator::Launch {
        kernel: Kernel::find(launch.symbol.name).unwrap(),
        grid: launch.grid,
        block: launch.block,
        shared_bytes: launch.shared_bytes,
        args: bytemuck::bytes_of(&launch.args),
    };
    let options = Options { schedule, workers: 1, ..Options::default() };
    if let Err(fault) = twofour_emulator::run(&of_emulator, &options) {
        panic!("{}: {fault}", launch.symbol.name);
    }
}

/// Copies to the GPU; what is empty there still has an address.
fn upload<T: Pod + DeviceRepr>(stream: &Arc<CudaStream>, values: &[T]) -> CudaSlice<T> {
    stream.clone_htod(values).unwrap()
}

fn download<T: Pod + DeviceRepr>(stream: &Arc<CudaStream>, values: &CudaSlice<T>) -> Vec<T> {
    let values = stream.clone_dtoh(values).unwrap();
    stream.synchronize().unwrap();
    values
}

fn parts(by: &By) -> (Option<&[f32]>, Option<&[f32]>) {
    match by {
        By::Magnitude => (None, None),
        By::Scaled(scale) => (Some(scale), None),
        By::Given(scores) => (None, Some(scores)),
    }
}

fn score_on_cpu<W: Float>(case: &ScoreCase<W>) -> Scored<W> {
    let (shape, [masked, patterns, codes, kept]) = (case.shape, case.wants);
    let mut masked = masked.then(|| poison::<W>(shape.weights()));
    let mut patterns = patterns.then(|| poison::<u8>(shape.groups()));
    let mut codes = codes.then(|| poison::<u8>(shape.packed_codes()));
    let mut kept = kept.then(|| vec![Kept::zeroed(); Kept::SLOTS]);
    let mut args = match parts(&case.by) {
        (None, None) => cpu::ByScore::magnitude(shape, &case.weight),
        (Some(scale), _) => cpu::ByScore::scaled(shape, &case.weight, scale),
        (_, Some(scores)) if masked.is_some() => cpu::ByScore::given(shape, scores).weight(&case.weight),
        (_, Some(scores)) => cpu::ByScore::given(shape, scores),
    };
    given!(args, masked: masked.as_deref_mut(), patterns: patterns.as_deref_mut(), codes: codes.as_deref_mut(),
        kept: kept.as_deref_mut());
    cpu::by_score_into(args).unwrap();
    Scored { masked, patterns, codes, kept: kept.map(|kept| kept[0]) }
}

fn score_emulated<W: Float>(case: &ScoreCase<W>, schedule: Schedule, limits: &Limits) -> Scored<W> {
    let (shape, [masked, patterns, codes, kept]) = (case.shape, case.wants);
    let weight = Array::input("weight", &case.weight);
    let (scale, scores) = parts(&case.by);
    let scale = scale.map(|scale| Array::input("column_scale", scale));
    let scores = scores.map(|scores| Array::input("scores", scores));
    let masked = masked.then(|| Array::<W>::output("masked", shape.weights()));
    let patterns = patterns.then(|| Array::<u8>::output("patterns", shape.groups()));
    let codes = codes.then(|| Array::<u8>::output("codes", shape.packed_codes()));
    let kept = kept.then(|| Array::<Kept>::output("kept", Kept::SLOTS));
    let mut args = match (&scale, &scores) {
        (None, None) => select::ByScore::<Raw, W>::magnitude(shape, weight.raw()),
        (Some(scale), _) => select::ByScore::scaled(shape, weight.raw(), scale.raw()),
        (_, Some(scores)) if masked.is_some() => select::ByScore::given(shape, scores.raw()).weight(weight.raw()),
        (_, Some(scores)) => select::ByScore::given(shape, scores.raw()),
    };
    given!(args, masked: masked.as_ref().map(Array::raw), patterns: patterns.as_ref().map(Array::raw),
        codes: codes.as_ref().map(Array::raw), kept: kept.as_ref().map(Array::raw));
    let plan = args.launch(limits).unwrap();
    emulate(&plan.pass, schedule);
    plan.kept.iter().for_each(|kept| emulate(kept, schedule));
    Scored {
        masked: masked.map(|array| array.read()),
        patterns: patterns.map(|array| array.read()),
        codes: codes.map(|array| array.read()),
        kept: kept.map(|array| array.read()[0]),
    }
}

fn score_on_gpu<W: Float>(case: &ScoreCase<W>, stream: &Arc<CudaStream>) -> Scored<W> {
    let (shape, [masked, patterns, codes, kept]) = (case.shape, case.wants);
    let weight = upload(stream, &case.weight);
    let (scale, scores) = parts(&case.by);
    let (scale, scores) = (scale.map(|scale| upload(stream, scale)), scores.map(|scores| upload(stream, scores)));
    let mut masked = masked.then(|| upload(stream, &poison::<W>(shape.weights())));
    let mut patterns = patterns.then(|| upload(stream, &poison::<u8>(shape.groups())));
    let mut codes = codes.then(|| upload(stream, &poison::<u8>(shape.packed_codes())));
    let mut kept = kept.then(|| stream.alloc_zeros::<Kept>(Kept::SLOTS).unwrap());
    let mut args = match (&scale, &scores) {
        (None, None) => cuda::ByScore::magnitude(shape, weight.as_view()),
        (Some(scale), _) => cuda::ByScore::scaled(shape, weight.as_view(), scale.as_view()),
        (_, Some(scores)) => cuda::ByScore::given(shape, scores.as_view()).weight(weight.as_view()),
    };
    given!(args, masked: masked.as_mut().map(|s| s.as_view_mut()), patterns: patterns.as_mut().map(|s| s.as_view_mut()),
        codes: codes.as_mut().map(|s| s.as_view_mut()), kept: kept.as_mut().map(|s| s.as_view_mut()));
    cuda::by_score_into(stream, args).unwrap();
    Scored {
        masked: masked.map(|s| download(stream, &s)),
        patterns: patterns.map(|s| download(stream, &s)),
        codes: codes.map(|s| download(stream, &s)),
        kept: kept.map(|s| download(stream, &s)[0]),
    }
}

fn sweep_on_cpu<W: Float>(case: &SweepCase<W>) -> Swept<W> {
    let (shape, [updated, patterns, codes, losses]) = (case.shape, case.wants);
    let mut updated = updated.then(|| poison::<W>(shape.weights()));
    let mut patterns = patterns.then(|| poison::<u8>(shape.groups()));
    let mut codes = codes.then(|| poison::<u8>(shape.packed_codes()));
    let mut losses = losses.then(|| poison::<f64>(shape.rows));
    let mut args = cpu::Sweep::new(shape, &case.weight, &case.upper, &case.scale);
    given!(args, updated: updated.as_deref_mut(), patterns: patterns.as_deref_mut(), codes: codes.as_deref_mut(),
        losses: losses.as_deref_mut());
    cpu::sweep_into(args).unwrap();
    Swept { updated, patterns, codes, losses }
}

fn sweep_emulated<W: Float>(case: &SweepCase<W>, schedule: Schedule, limits: &Limits) -> Swept<W> {
    let (shape, [updated, patterns, codes, losses]) = (case.shape, case.wants);
    let weight = Array::input("weight", &case.weight);
    let (upper, scale) = (Array::input("upper", &case.upper), Array::input("scale", &case.scale));
    let updated = updated.then(|| Array::<W>::output("updated", shape.weights()));
    let patterns = patterns.then(|| Array::<u8>::output("patterns", shape.groups()));
    let codes = codes.then(|| Array::<u8>::output("codes", shape.packed_codes()));
    let losses = losses.then(|| Array::<f64>::output("losses", shape.rows));
    let workspace = Array::<f32>::output("workspace", cpu::Sweep::<W>::workspace_len(shape));
    let mut args = select::Sweep::<Raw, W>::new(shape, weight.raw(), upper.raw(), scale.raw());
    given!(args, updated: updated.as_ref().map(Array::raw), patterns: patterns.as_ref().map(Array::raw),
        codes: codes.as_ref().map(Array::raw), losses: losses.as_ref().map(Array::raw),
        workspace: Some(workspace.raw()));
    args.launches(limits).unwrap().iter().for_each(|step| emulate(step, schedule));
    Swept {
        updated: updated.map(|array| array.read()),
        patterns: patterns.map(|array| array.read()),
        codes: codes.map(|array| array.read()),
        losses: losses.map(|array| array.read()),
    }
}

fn sweep_on_gpu<W: Float>(case: &SweepCase<W>, stream: &Arc<CudaStream>) -> Swept<W> {
    let (shape, [updated, patterns, codes, losses]) = (case.shape, case.wants);
    let (weight, upper, scale) =
        (upload(stream, &case.weight), upload(stream, &case.upper), upload(stream, &case.scale));
    let mut updated = updated.then(|| upload(stream, &poison::<W>(shape.weights())));
    let mut patterns = patterns.then(|| upload(stream, &poison::<u8>(shape.groups())));
    let mut codes = codes.then(|| upload(stream, &poison::<u8>(shape.packed_codes())));
    let mut losses = losses.then(|| upload(stream, &poison::<f64>(shape.rows)));
    let mut workspace = upload(stream, &poison::<f32>(cpu::Sweep::<W>::workspace_len(shape)));
    let mut args = cuda::Sweep::new(shape, weight.as_view(), upper.as_view(), scale.as_view());
    given!(args, updated: updated.as_mut().map(|s| s.as_view_mut()),
        patterns: patterns.as_mut().map(|s| s.as_view_mut()), codes: codes.as_mut().map(|s| s.as_view_mut()), losses: losses.as_mut().map(|s| s.as_view_mut()),
        workspace: Some(workspace.as_view_mut()));
    cuda::sweep_into(stream, args).unwrap();
    Swept {
        updated: updated.map(|s| download(stream, &s)),
        patterns: patterns.map(|s| download(stream, &s)),
        codes: codes.map(|s| download(stream, &s)),
        losses: losses.map(|s| download(stream, &s)),
    }
}
