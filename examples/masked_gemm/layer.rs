//! The layer itself, on any executor, and which one takes it: this is what a user of the crate writes.

use crate::data::Operands;
use crate::{DeviceArg, Failure, Job};
use std::time::{Duration, Instant};
use twofour::mask::{self, Kind, Statistics};
use twofour::matmul::{Backward, Forward, Keep, Layer, Plan};
use twofour::{Cpu, Error, Executor, Float, Logit};

/// Runs of a part, of which the fastest counts.
const RUNS: usize = 3;

/// What came out, and how long it took.
pub(crate) struct Results<L: Logit, W: Float> {
    pub(crate) place: Place,
    pub(crate) plan: Plan<L, W>,
    pub(crate) mask: Vec<W>,
    pub(crate) statistics: Statistics,
    pub(crate) y: Vec<W>,
    pub(crate) dx: Vec<W>,
    /// Empty for `Kind::Argmax`, which has no gradient to the logits.
    pub(crate) logit_gradient: Vec<f32>,
    pub(crate) times: Times,
}

/// Where it ran.
pub(crate) struct Place {
    /// In words.
    pub(crate) device: String,
    /// The device that the plan is for, in words.
    pub(crate) planned_for: String,
    /// Whether sums were truncated, not rounded.
    pub(crate) tensor_cores: bool,
}

/// Times of the parts; each includes what it needs of the masks.
#[derive(Default)]
pub(crate) struct Times {
    pub(crate) masks: Duration,
    pub(crate) y: Duration,
    /// `Y` once more, without making masks, if `W∘M` was kept.
    pub(crate) product: Option<Duration>,
    pub(crate) dx: Duration,
    pub(crate) logit_gradient: Duration,
}

/// Runs the layer where the job says.
pub(crate) fn run<L: Logit, W: Float>(job: &Job, operands: &Operands<L, W>) -> Result<Results<L, W>, Failure> {
    match job.device {
        DeviceArg::Cpu => on_cpu(job, operands, ""),
        DeviceArg::Cuda => on_gpu(job, operands)?.map_err(Failure::from),
        DeviceArg::Auto => match on_gpu(job, operands)? {
            Ok(results) => Ok(results),
            Err(Error::DriverUnavailable { .. }) => on_cpu(job, operands, " (no CUDA driver)"),
            Err(Error::NoDevice { .. }) => on_cpu(job, operands, " (no CUDA device)"),
            Err(unusable) => on_cpu(job, operands, &format!(" ({unusable})")),
        },
    }
}

fn on_cpu<L: Logit, W: Float>(job: &Job, operands: &Operands<L, W>, why: &str) -> Result<Results<L, W>, Failure> {
    let place = Place {
        device: format!("CPU, {} threads{why}", rayon::current_num_threads()),
        planned_for: "as it would be on an H200 (this ran on the CPU, where there is one route)".into(),
        tensor_cores: false,
    };
    Ok(step(&mut Cpu, |_| Ok(()), place, job, operands)?)
}

/// On the first GPU. The inner result is why there is none to run on.
#[cfg(feature = "cuda")]
fn on_gpu<L: Logit, W: Float>(job: &Job, operands: &Operands<L, W>) -> Result<twofour::Result<Results<L, W>>, Failure> {
    use twofour::{DType, Gpu, device};
    let opened = device::context(0).and_then(|context| Gpu::new(&context.default_stream()));
    let mut gpu = match opened {
        Ok(gpu) => gpu,
        Err(unusable) => return Ok(Err(unusable)),
    };
    let device = gpu.stream().context().name()?;
    let without = if gpu.libraries().cublaslt { "" } else { ", where there is no cuBLASLt" };
    let place = Place { planned_for: format!("on {device}{without}"), device, tensor_cores: W::DTYPE != DType::F32 };
    // Whatever was queued is done when a value comes back.
    let flag = gpu.zeros::<u8>(1)?;
    Ok(Ok(step(&mut gpu, |gpu| gpu.download(&flag).map(drop), place, job, operands)?))
}

#[cfg(not(feature = "cuda"))]
fn on_gpu<L: Logit, W: Float>(_: &Job, _: &Operands<L, W>) -> Result<twofour::Result<Results<L, W>>, Failure> {
    Ok(Err(Error::DriverUnavailable { reason: "this was built without the feature `cuda`".into() }))
}

/// Forward and backward on any executor, with memory of one's own, so that parts can be timed by themselves; a step
/// that is only run takes `on.scratch(&plan)`, `plan.forward(..)` and `plan.backward(..)`. `wait` is for what was
/// queued.
fn step<E: Executor, L: Logit, W: Float>(
    on: &mut E,
    wait: impl Fn(&E) -> twofour::Result<()>,
    place: Place,
    job: &Job,
    operands: &Operands<L, W>,
) -> twofour::Result<Results<L, W>> {
    let (shape, problem) = (job.problem.shape, job.problem);
    let (logits, weight) = (on.upload(&operands.logits)?, on.upload(&operands.weight)?);
    let (x, dy) = (on.upload(&operands.x)?, on.upload(&operands.dy)?);
    let (mut masked, mut mask) = (on.zeros(shape.weights())?, on.zeros(shape.weights())?);
    let (mut codes, mut statistics) = (on.zeros(shape.packed_codes())?, on.zeros(Statistics::SLOTS)?);
    let (mut y, mut dx) = (on.zeros(problem.outputs())?, on.zeros(problem.inputs())?);
    let mut logit_gradient = on.zeros(if job.kind == Kind::Argmax { 0 } else { shape.logits() })?;
    let layer = Layer::sampled(shape, job.kind, job.sampling, E::input(&logits), E::input(&weight));
    let plan = layer.plan(on, problem.tokens, job.keep)?;
    on.prepare(&plan)?;
    let mut workspace = on.workspace(plan.workspace_bytes())?;
    let mut times = Times::default();

    // Macros, for each use borrows its outputs for another time.
    macro_rules! masks {
        () => {
            mask::Forward::new(shape, job.kind, job.sampling, E::input(&logits)).weight(E::input(&weight))
        };
    }
    times.masks = time(|| {
        on.run(masks!().masked(E::output(&mut masked)))?;
        wait(on)
    })?;
    on.run(masks!().mask(E::output(&mut mask)).statistics(E::output(&mut statistics)))?;

    times.y = time(|| {
        let pass = Forward::new(&plan, &layer, E::input(&x), E::output(&mut y));
        let pass = match job.keep {
            Keep::Nothing => pass,
            Keep::Masked => pass.save_masked(E::output(&mut masked)),
            Keep::Codes => pass.save_codes(E::output(&mut codes)),
        };
        on.run(match &mut workspace {
            Some(workspace) => pass.workspace(E::output(workspace)),
            None => pass,
        })?;
        wait(on)
    })?;
    if job.keep == Keep::Masked {
        times.product = Some(time(|| {
            let pass = Forward::new(&plan, &layer, E::input(&x), E::output(&mut y)).use_masked(E::input(&masked));
            on.run(match &mut workspace {
                Some(workspace) => pass.workspace(E::output(workspace)),
                None => pass,
            })?;
            wait(on)
        })?);
    }

    macro_rules! backward {
        () => {{
            let pass = Backward::new(&plan, &layer, E::input(&dy)).regulariser(job.lambda);
            let pass = match job.keep {
                Keep::Nothing => pass,
                Keep::Masked => pass.use_masked(E::input(&masked)),
                Keep::Codes => pass.use_codes(E::input(&codes)),
            };
            match &mut workspace {
                Some(workspace) => pass.workspace(E::output(workspace)),
                None => pass,
            }
        }};
    }
    times.dx = time(|| {
        on.run(backward!().input_gradient(E::output(&mut dx)))?;
        wait(on)
    })?;
    if job.kind != Kind::Argmax {
        times.logit_gradient = time(|| {
            on.run(backward!().logit_gradient(E::input(&x), E::output(&mut logit_gradient)))?;
            wait(on)
        })?;
    }
    Ok(Results {
        place,
        plan,
        mask: on.download(&mask)?,
        statistics: on.download(&statistics)?[0],
        y: on.download(&y)?,
        dx: on.download(&dx)?,
        logit_gradient: on.download(&logit_gradient)?,
        times,
    })
}

/// The fastest of some runs.
fn time(mut run: impl FnMut() -> twofour::Result<()>) -> twofour::Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed());
    }
    Ok(best)
}
