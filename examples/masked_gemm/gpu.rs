//! The layer on a GPU.

use crate::data::Operands;
use crate::layer::{Results, Times, plan, time};
use crate::{Failure, Job};
use std::sync::Arc;
use twofour::cudarc::driver::{CudaSlice, CudaStream};
use twofour::mask::{self, Kind, Statistics};
use twofour::matmul::cuda::{self, BlasLt};
use twofour::matmul::{Keep, Plan};
use twofour::{DType, Error, Float, Logit, device};

/// The first GPU. Kernels are loaded at their first use, which the best of several runs leaves out.
pub(crate) struct Gpu {
    stream: Arc<CudaStream>,
    /// None where there is no cuBLASLt: own kernels multiply then.
    blas: Option<BlasLt>,
}

impl Gpu {
    pub(crate) fn open() -> twofour::Result<Self> {
        let stream = device::context(0)?.default_stream();
        let blas = match BlasLt::new(&stream) {
            Ok(blas) => Some(blas),
            Err(Error::LibraryUnavailable { .. }) => None,
            Err(failure) => return Err(failure),
        };
        Ok(Self { stream, blas })
    }

    fn plan<L: Logit, W: Float>(&self, job: &Job) -> twofour::Result<Plan> {
        let plan = plan::<L, W>(job, &device::limits(self.stream.context())?)?;
        if self.blas.is_some() { Ok(plan) } else { plan.without_blaslt() }
    }

    /// As on the CPU, with arrays on the device.
    pub(crate) fn run<L: Logit, W: Float>(
        &mut self,
        job: &Job,
        operands: &Operands<L, W>,
    ) -> Result<Results<W>, Failure> {
        let plan = self.plan::<L, W>(job)?;
        let Self { stream, blas } = self;
        let (shape, tokens) = (job.problem.shape, job.problem.tokens);
        let logits = stream.clone_htod(&operands.logits)?;
        let weight = stream.clone_htod(&operands.weight)?;
        let (x, dy) = (stream.clone_htod(&operands.x)?, stream.clone_htod(&operands.dy)?);
        let layer = || cuda::Layer::new(shape, job.kind, job.sampling, logits.as_view(), weight.as_view());
        let mut workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes().max(1))?;
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

        let mut codes = stream.alloc_zeros::<u8>(shape.packed_codes())?;
        let mut y = room::<W>(stream, job.problem.outputs())?;
        times.y = time(|| {
            let args = cuda::Forward::new(layer(), tokens, x.as_view(), y.as_view_mut());
            let args = args.workspace(workspace.as_view_mut());
            let args = match job.keep {
                Keep::Nothing => args,
                Keep::Masked => args.keep_masked(masked.as_view_mut()),
                Keep::Codes => args.keep_codes(codes.as_view_mut()),
            };
            waited(cuda::forward_into(stream, blas.as_mut(), &plan, args))
        })?;
        if job.keep == Keep::Masked {
            times.product = Some(time(|| {
                let args = cuda::Forward::new(layer(), tokens, x.as_view(), y.as_view_mut());
                let args = args.workspace(workspace.as_view_mut()).kept_masked(masked.as_view());
                waited(cuda::forward_into(stream, blas.as_mut(), &plan, args))
            })?);
        }

        let mut dx = room::<W>(stream, job.problem.inputs())?;
        times.dx = time(|| {
            let args = cuda::Backward::new(layer(), tokens, dy.as_view());
            let args = with_kept(args, job.keep, &masked, &codes);
            let args = args.input_gradient(dx.as_view_mut()).workspace(workspace.as_view_mut());
            waited(cuda::backward_into(stream, blas.as_mut(), &plan, args))
        })?;

        let mut logit_gradient = Vec::new();
        if job.kind != Kind::Argmax {
            let mut of_logits = room::<f32>(stream, shape.logits())?;
            times.logit_gradient = time(|| {
                let args = cuda::Backward::new(layer(), tokens, dy.as_view()).regulariser(job.lambda);
                let args = with_kept(args, job.keep, &masked, &codes).workspace(workspace.as_view_mut());
                let args = args.logit_gradient(x.as_view(), of_logits.as_view_mut());
                waited(cuda::backward_into(stream, blas.as_mut(), &plan, args))
            })?;
            logit_gradient = stream.clone_dtoh(&of_logits)?;
        }
        let device = stream.context().name()?;
        Ok(Results {
            planned_for: format!("on {device}{}", if blas.is_some() { "" } else { ", where there is no cuBLASLt" }),
            device,
            plan,
            tensor_cores: W::DTYPE != DType::F32,
            mask: stream.clone_dtoh(&mask)?,
            statistics: stream.clone_dtoh(&statistics)?[0],
            y: stream.clone_dtoh(&y)?,
            dx: stream.clone_dtoh(&dx)?,
            logit_gradient,
            times,
        })
    }
}

/// Hands the backward pass what the forward pass kept.
fn with_kept<'l, 'a, L: Logit, W: Float>(
    args: cuda::Backward<'l, 'a, L, W>,
    keep: Keep,
    masked: &'a CudaSlice<W>,
    codes: &'a CudaSlice<u8>,
) -> cuda::Backward<'l, 'a, L, W> {
    match keep {
        Keep::Nothing => args,
        Keep::Masked => args.kept_masked(masked.as_view()),
        Keep::Codes => args.kept_codes(codes.as_view()),
    }
}

/// An array that is written before it is read.
fn room<T: Float>(stream: &Arc<CudaStream>, elements: usize) -> Result<CudaSlice<T>, Failure> {
    Ok(stream.clone_htod(&vec![T::zeroed(); elements])?)
}

fn wait(stream: &CudaStream) -> twofour::Result<()> {
    let failed = |e: twofour::cudarc::driver::DriverError| {
        let (call, name, code) = ("cuStreamSynchronize", format!("{:?}", e.0), e.0 as i64);
        Error::Cuda { call, name, code }
    };
    stream.synchronize().map_err(failed)
}
