//! The layer itself on the CPU, and which executor takes it: this is what a user of the crate writes.

use crate::data::Operands;
use crate::{DeviceArg, Failure, Job};
use std::time::{Duration, Instant};
use twofour::device::Limits;
use twofour::mask::{self, Kind, Statistics};
use twofour::matmul::{Keep, Masks, Plan, cpu};
use twofour::{Error, Float, Logit};

/// Runs of a part, of which the fastest counts.
const RUNS: usize = 3;

/// What came out, and how long it took.
pub(crate) struct Results<W> {
    pub(crate) device: String,
    pub(crate) plan: Plan,
    /// The device that the plan is for, in words.
    pub(crate) planned_for: String,
    /// Whether sums were truncated, not rounded.
    pub(crate) tensor_cores: bool,
    pub(crate) mask: Vec<W>,
    pub(crate) statistics: Statistics,
    pub(crate) y: Vec<W>,
    pub(crate) dx: Vec<W>,
    /// Empty for `Kind::Argmax`, which has no gradient to the logits.
    pub(crate) logit_gradient: Vec<f32>,
    pub(crate) times: Times,
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
pub(crate) fn run<L: Logit, W: Float>(job: &Job, operands: &Operands<L, W>) -> Result<Results<W>, Failure> {
    let on_cpu = |why: &str| on_cpu(job, operands, format!("CPU, {} threads{why}", rayon::current_num_threads()));
    // The driver gives no empty arrays.
    let empty = job.problem.tokens == 0 || job.problem.shape.weights() == 0;
    match job.device {
        DeviceArg::Cpu => on_cpu(""),
        DeviceArg::Auto if empty => on_cpu(" (there is nothing to do)"),
        DeviceArg::Cuda if empty => Err("an empty problem cannot be shown on a GPU: use --device cpu".into()),
        DeviceArg::Cuda => on_gpu(job, operands)?.map_err(Failure::from),
        DeviceArg::Auto => match on_gpu(job, operands)? {
            Ok(results) => Ok(results),
            Err(Error::DriverUnavailable { .. }) => on_cpu(" (no CUDA driver)"),
            Err(Error::NoDevice { .. }) => on_cpu(" (no CUDA device)"),
            Err(unusable) => on_cpu(&format!(" ({unusable})")),
        },
    }
}

/// The inner result is why there is no GPU to run on.
fn on_gpu<L, W>(job: &Job, operands: &Operands<L, W>) -> Result<Result<Results<W>, Error>, Failure>
where
    L: Logit,
    W: Float,
{
    #[cfg(feature = "cuda")]
    return match crate::gpu::Gpu::open() {
        Ok(mut gpu) => gpu.run(job, operands).map(Ok),
        Err(unusable) => Ok(Err(unusable)),
    };
    #[cfg(not(feature = "cuda"))]
    {
        let _ = (job, operands);
        Ok(Err(Error::DriverUnavailable { reason: "this was built without the feature `cuda`".into() }))
    }
}

/// The job's plan for a device.
pub(crate) fn plan<L: Logit, W: Float>(job: &Job, limits: &Limits) -> twofour::Result<Plan> {
    Plan::new::<L, W>(limits, job.problem, Masks::Sampled(job.kind), job.keep)
}

/// The fastest of some runs.
pub(crate) fn time(mut run: impl FnMut() -> twofour::Result<()>) -> twofour::Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed());
    }
    Ok(best)
}

fn on_cpu<L: Logit, W: Float>(job: &Job, operands: &Operands<L, W>, device: String) -> Result<Results<W>, Failure> {
    let Operands { logits, weight, x, dy } = operands;
    let (shape, tokens) = (job.problem.shape, job.problem.tokens);
    let layer = cpu::Layer::new(shape, job.kind, job.sampling, logits, weight);
    let plan = plan::<L, W>(job, &Limits::H200)?;
    let mut times = Times::default();

    let mut masked = vec![W::zeroed(); shape.weights()];
    times.masks = time(|| {
        let args = mask::cpu::Forward::new(shape, job.kind, job.sampling, logits).weight(weight);
        mask::cpu::forward_into(args.masked(&mut masked))
    })?;
    let mut mask = vec![W::zeroed(); shape.weights()];
    let mut statistics = vec![Statistics::default(); Statistics::SLOTS];
    let survey = mask::cpu::Forward::new(shape, job.kind, job.sampling, logits).weight(weight);
    mask::cpu::forward_into(survey.mask(&mut mask).statistics(&mut statistics))?;

    let mut codes = vec![0; shape.packed_codes()];
    let mut y = vec![W::zeroed(); job.problem.outputs()];
    times.y = time(|| {
        let args = cpu::Forward::new(layer, tokens, x, &mut y);
        cpu::forward_into(match job.keep {
            Keep::Nothing => args,
            Keep::Masked => args.keep_masked(&mut masked),
            Keep::Codes => args.keep_codes(&mut codes),
        })
    })?;
    if job.keep == Keep::Masked {
        let again = || cpu::forward_into(cpu::Forward::new(layer, tokens, x, &mut y).kept_masked(&masked));
        times.product = Some(time(again)?);
    }

    let mut dx = vec![W::zeroed(); job.problem.inputs()];
    times.dx = time(|| {
        let args = cpu::Backward::new(layer, tokens, dy).input_gradient(&mut dx);
        cpu::backward_into(match job.keep {
            Keep::Nothing => args,
            Keep::Masked => args.kept_masked(&masked),
            Keep::Codes => args.kept_codes(&codes),
        })
    })?;

    let mut logit_gradient = Vec::new();
    if job.kind != Kind::Argmax {
        logit_gradient.resize(shape.logits(), 0.0);
        times.logit_gradient = time(|| {
            let args = cpu::Backward::new(layer, tokens, dy).regulariser(job.lambda);
            cpu::backward_into(args.logit_gradient(x, &mut logit_gradient))
        })?;
    }
    let planned_for = "as it would be on an H200 (this ran on the CPU, where there is one way)".into();
    let (tensor_cores, statistics) = (false, statistics[0]);
    Ok(Results { device, plan, planned_for, tensor_cores, mask, statistics, y, dx, logit_gradient, times })
}
