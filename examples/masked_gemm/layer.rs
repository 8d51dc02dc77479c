//! The layer itself, on the CPU or on a GPU: this is what a user of the crate writes.

use crate::data::Operands;
use crate::{DeviceArg, Failure, Job};
use std::time::{Duration, Instant};
use twofour::mask::{self, GradientOf, Kind, Statistics};
use twofour::matmul::cpu;
use twofour::{Element, Error, Logit};

/// Runs of a part, of which the fastest counts.
const RUNS: usize = 3;

/// What both executors take.
#[cfg(feature = "cuda")]
pub(crate) trait Number: Element + twofour::cudarc::driver::DeviceRepr {}
#[cfg(feature = "cuda")]
impl<T: Element + twofour::cudarc::driver::DeviceRepr> Number for T {}
#[cfg(not(feature = "cuda"))]
pub(crate) trait Number: Element {}
#[cfg(not(feature = "cuda"))]
impl<T: Element> Number for T {}

/// What came out, and how long it took.
pub(crate) struct Results<W> {
    pub(crate) device: String,
    pub(crate) mask: Vec<W>,
    pub(crate) statistics: Statistics,
    pub(crate) y: Vec<W>,
    pub(crate) dx: Vec<W>,
    /// Empty for `Kind::Argmax`, which has no gradient to the logits.
    pub(crate) logit_gradient: Vec<f32>,
    pub(crate) times: Times,
}

/// Times of the parts; each but the first includes what it needs of the masks.
#[derive(Default)]
pub(crate) struct Times {
    pub(crate) masks: Duration,
    pub(crate) y: Duration,
    pub(crate) dx: Duration,
    pub(crate) logit_gradient: Duration,
}

/// Runs the layer where the job says.
pub(crate) fn run<L: Logit + Number, W: Number>(job: &Job, operands: &Operands<L, W>) -> Result<Results<W>, Failure> {
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
    L: Logit + Number,
    W: Number,
{
    #[cfg(feature = "cuda")]
    return match gpu::Gpu::open() {
        Ok(mut gpu) => gpu.run(job, operands).map(Ok),
        Err(unusable) => Ok(Err(unusable)),
    };
    #[cfg(not(feature = "cuda"))]
    {
        let _ = (job, operands);
        Ok(Err(Error::DriverUnavailable { reason: "this was built without the feature `cuda`".into() }))
    }
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

fn on_cpu<L: Logit, W: Element>(job: &Job, operands: &Operands<L, W>, device: String) -> Result<Results<W>, Failure> {
    let Operands { logits, weight, x, dy } = operands;
    let (shape, tokens) = (job.problem.shape, job.problem.tokens);
    let layer = cpu::Layer::new(shape, job.kind, job.sampling, logits, weight);
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

    let mut y = vec![W::zeroed(); job.problem.outputs()];
    times.y = time(|| cpu::forward_into(cpu::Forward::new(layer, tokens, x, &mut masked, &mut y)))?;

    let mut dx = vec![W::zeroed(); job.problem.inputs()];
    times.dx = time(|| {
        let args = cpu::Backward::new(layer, tokens, dy);
        cpu::backward_into(args.input_gradient(&masked, &mut dx))
    })?;

    let mut logit_gradient = Vec::new();
    if job.kind != Kind::Argmax {
        logit_gradient.resize(shape.logits(), 0.0);
        let mut gradient = vec![0.0; shape.weights()];
        times.logit_gradient = time(|| {
            let args = cpu::Backward::new(layer, tokens, dy).regulariser(job.lambda);
            cpu::backward_into(args.logit_gradient(x, &mut gradient, &mut logit_gradient))
        })?;
    }
    Ok(Results { device, mask, statistics: statistics[0], y, dx, logit_gradient, times })
}

#[cfg(feature = "cuda")]
mod gpu {
    use super::*;
    use std::sync::Arc;
    use twofour::cudarc::driver::{CudaSlice, CudaStream, DeviceRepr};
    use twofour::device;
    use twofour::matmul::cuda::{self, BlasLt};

    /// The first GPU, with everything loaded that the layer needs.
    pub(crate) struct Gpu {
        stream: Arc<CudaStream>,
        blas: BlasLt,
    }

    impl Gpu {
        pub(crate) fn open() -> twofour::Result<Self> {
            let stream = device::context(0)?.default_stream();
            device::prepare(&stream)?;
            let blas = BlasLt::new(&stream)?;
            Ok(Self { stream, blas })
        }

        /// As `on_cpu`, with arrays on the device.
        pub(crate) fn run<L: Logit + Number, W: Number>(
            &mut self,
            job: &Job,
            operands: &Operands<L, W>,
        ) -> Result<Results<W>, Failure>
        where
            f32: GradientOf<W>,
        {
            let Self { stream, blas } = self;
            let (shape, tokens) = (job.problem.shape, job.problem.tokens);
            let logits = stream.clone_htod(&operands.logits)?;
            let weight = stream.clone_htod(&operands.weight)?;
            let (x, dy) = (stream.clone_htod(&operands.x)?, stream.clone_htod(&operands.dy)?);
            let layer = || cuda::Layer::new(shape, job.kind, job.sampling, logits.as_view(), weight.as_view());
            let mut times = Times::default();
            let waited = |queued: twofour::Result<()>| queued.and_then(|()| wait(stream));

            let mut masked = room::<W>(stream, shape.weights())?;
            times.masks = time(|| {
                let args = mask::cuda::Forward::new(shape, job.kind, job.sampling, logits.as_view());
                let args = args.weight(weight.as_view()).masked(masked.as_view_mut());
                waited(mask::cuda::forward_into(stream, args))
            })?;
            let mut mask = room::<W>(stream, shape.weights())?;
            let mut statistics = stream.alloc_zeros::<Statistics>(Statistics::SLOTS)?;
            let survey = mask::cuda::Forward::new(shape, job.kind, job.sampling, logits.as_view());
            let survey = survey.weight(weight.as_view()).mask(mask.as_view_mut()).statistics(statistics.as_view_mut());
            mask::cuda::forward_into(stream, survey)?;

            let mut y = room::<W>(stream, job.problem.outputs())?;
            times.y = time(|| {
                let args = cuda::Forward::new(layer(), tokens, x.as_view(), masked.as_view_mut(), y.as_view_mut());
                waited(cuda::forward_into(stream, blas, args))
            })?;

            let mut dx = room::<W>(stream, job.problem.inputs())?;
            times.dx = time(|| {
                let args = cuda::Backward::new(layer(), tokens, dy.as_view());
                let args = args.input_gradient(masked.as_view(), dx.as_view_mut());
                waited(cuda::backward_into(stream, blas, args))
            })?;

            let mut logit_gradient = Vec::new();
            if job.kind != Kind::Argmax {
                let mut gradient = room::<f32>(stream, shape.weights())?;
                let mut of_logits = room::<f32>(stream, shape.logits())?;
                times.logit_gradient = time(|| {
                    let (gradient, of_logits) = (gradient.as_view_mut(), of_logits.as_view_mut());
                    let args = cuda::Backward::new(layer(), tokens, dy.as_view()).regulariser(job.lambda);
                    waited(cuda::backward_into(stream, blas, args.logit_gradient(x.as_view(), gradient, of_logits)))
                })?;
                logit_gradient = stream.clone_dtoh(&of_logits)?;
            }
            Ok(Results {
                device: stream.context().name()?,
                mask: stream.clone_dtoh(&mask)?,
                statistics: stream.clone_dtoh(&statistics)?[0],
                y: stream.clone_dtoh(&y)?,
                dx: stream.clone_dtoh(&dx)?,
                logit_gradient,
                times,
            })
        }
    }

    /// An array that is written before it is read.
    fn room<T: Element + DeviceRepr>(stream: &Arc<CudaStream>, elements: usize) -> Result<CudaSlice<T>, Failure> {
        Ok(stream.clone_htod(&vec![T::zeroed(); elements])?)
    }

    fn wait(stream: &CudaStream) -> twofour::Result<()> {
        let failed = |e: twofour::cudarc::driver::DriverError| {
            let (call, name, code) = ("cuStreamSynchronize", format!("{:?}", e.0), e.0 as i64);
            twofour::Error::Cuda { call, name, code }
        };
        stream.synchronize().map_err(failed)
    }
}
