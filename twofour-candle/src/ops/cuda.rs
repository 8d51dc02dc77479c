//! The operations on a CUDA device: twofour's executors on candle's stream, from candle's slices to new ones.

use std::sync::Arc;
use twofour::Factor;

use candle_core::cuda::{CudaDevice, CudaStorage};
use candle_core::{Layout, Result, Tensor};
use twofour::cudarc::driver::{CudaSlice, CudaView};
use twofour::mask::cuda as mask;
use twofour::matmul::{Problem, cuda};
use twofour::space::Cuda;
use twofour::sparse::{self, Given};

use super::codes::Codes;
use super::compressed::{Multiply, elsewhere};
use super::linear::Product;
use super::weight::MaskedWeight;
use crate::engine::cuda::lock;
use crate::number::{Number, OnDevice, Score, contiguous_range, out_of_range, wrap};

/// A tensor's storage, and how it lies there.
type Operand<'s> = (&'s CudaStorage, &'s Layout);

pub(super) fn product<L: Score, W: Number>(
    op: &Product,
    x: Operand<'_>,
    logits: Operand<'_>,
    weight: Operand<'_>,
) -> Result<CudaStorage> {
    let Problem { tokens, shape } = op.problem;
    let device = &x.0.device;
    let layer = op.masks.layer::<Cuda, L, W>(shape, view(logits)?, view(weight)?);
    let shared = op.engine.on(device)?;
    let mut shared = lock(&shared);
    let plan = shared.masked::<L, W>(op.problem, layer.masks())?;
    let (mut y, mut workspace) =
        (array::<W>(device, op.problem.outputs())?, workspace(device, plan.output().workspace_bytes)?);
    let args = cuda::Forward::new(layer, tokens, view(x)?, y.as_view_mut()).workspace(workspace.as_view_mut());
    let stream = Arc::clone(&shared.stream);
    cuda::forward_into(&stream, shared.blas.as_mut(), &plan, args).map_err(wrap)?;
    Ok(CudaStorage::wrap_cuda_slice(y, device.clone()))
}

pub(super) fn input_gradient<L: Score, W: Number>(
    op: &Product,
    dy: Operand<'_>,
    (logits, weight): (Operand<'_>, Operand<'_>),
) -> Result<CudaStorage> {
    let Problem { tokens, shape } = op.problem;
    let device = &dy.0.device;
    let layer = op.masks.layer::<Cuda, L, W>(shape, view(logits)?, view(weight)?);
    let shared = op.engine.on(device)?;
    let mut shared = lock(&shared);
    let plan = shared.masked::<L, W>(op.problem, layer.masks())?;
    let (mut dx, mut workspace) =
        (array::<W>(device, op.problem.inputs())?, workspace(device, plan.input_gradient().workspace_bytes)?);
    let args = cuda::Backward::new(layer, tokens, view(dy)?).input_gradient(dx.as_view_mut());
    let stream = Arc::clone(&shared.stream);
    cuda::backward_into(&stream, shared.blas.as_mut(), &plan, args.workspace(workspace.as_view_mut())).map_err(wrap)?;
    Ok(CudaStorage::wrap_cuda_slice(dx, device.clone()))
}

pub(super) fn logit_gradient<L: Score, W: Number>(
    op: &Product,
    dy: Operand<'_>,
    x: Operand<'_>,
    (logits, weight): (Operand<'_>, Operand<'_>),
) -> Result<CudaStorage> {
    let Problem { tokens, shape } = op.problem;
    let device = &dy.0.device;
    let layer = op.masks.layer::<Cuda, L, W>(shape, view(logits)?, view(weight)?);
    let shared = op.engine.on(device)?;
    let mut shared = lock(&shared);
    let plan = shared.masked::<L, W>(op.problem, layer.masks())?;
    let (mut dlogits, mut workspace) =
        (array::<f32>(device, shape.logits())?, workspace(device, plan.logit_gradient().workspace_bytes)?);
    let args = cuda::Backward::new(layer, tokens, view(dy)?).logit_gradient(view(x)?, dlogits.as_view_mut());
    let args = args.regulariser(op.masks.regulariser).workspace(workspace.as_view_mut());
    let stream = Arc::clone(&shared.stream);
    cuda::backward_into(&stream, shared.blas.as_mut(), &plan, args).map_err(wrap)?;
    Ok(CudaStorage::wrap_cuda_slice(dlogits, device.clone()))
}

pub(super) fn masked_weight<L: Score, W: Number>(
    op: &MaskedWeight,
    logits: Operand<'_>,
    weight: Operand<'_>,
) -> Result<CudaStorage> {
    let MaskedWeight { masks, shape } = *op;
    let device = &weight.0.device;
    let mut masked = array::<W>(device, shape.weights())?;
    let args = mask::Forward::<L, W>::new(shape, masks.kind, masks.sampling, view(logits)?);
    let args = args.shard(masks.shard_of(shape)).weight(view(weight)?).masked(masked.as_view_mut());
    mask::forward_into(&device.cuda_stream(), args).map_err(wrap)?;
    Ok(CudaStorage::wrap_cuda_slice(masked, device.clone()))
}

pub(super) fn mask_gradient<L: Score, W: Number + twofour::mask::GradientOf<W>>(
    op: &MaskedWeight,
    gradient: Operand<'_>,
    (logits, weight): (Operand<'_>, Operand<'_>),
) -> Result<CudaStorage> {
    let MaskedWeight { masks, shape } = *op;
    let device = &weight.0.device;
    let mut dlogits = array::<f32>(device, shape.logits())?;
    let [weight, gradient] = [view::<W>(weight)?, view::<W>(gradient)?];
    let args = mask::Backward::<L, W, W>::new(shape, masks.kind, masks.sampling, view(logits)?, weight, gradient);
    let args = args.shard(masks.shard_of(shape)).regulariser(masks.regulariser);
    mask::backward_into(&device.cuda_stream(), args.logit_gradient(dlogits.as_view_mut())).map_err(wrap)?;
    Ok(CudaStorage::wrap_cuda_slice(dlogits, device.clone()))
}

pub(super) fn codes<L: Score, W: Number>(op: &Codes, logits: Operand<'_>) -> Result<CudaStorage> {
    let Codes { masks, shape } = *op;
    let device = &logits.0.device;
    let mut codes = array::<u8>(device, shape.packed_codes())?;
    let args = mask::Forward::<L, W>::new(shape, masks.kind, masks.sampling, view(logits)?);
    let args = args.shard(masks.shard_of(shape)).codes(codes.as_view_mut());
    mask::forward_into(&device.cuda_stream(), args).map_err(wrap)?;
    Ok(CudaStorage::wrap_cuda_slice(codes, device.clone()))
}

pub(super) fn multiply<W: Number + Factor<Output = W>>(
    op: &Multiply,
    x: Operand<'_>,
    values: Operand<'_>,
    metadata: Operand<'_>,
) -> Result<CudaStorage> {
    let Problem { tokens, shape } = op.problem;
    let device = &x.0.device;
    let bias = op.bias.as_ref().map(Tensor::storage_and_layout);
    let bias = match &bias {
        Some((bias, layout)) => match &**bias {
            candle_core::Storage::Cuda(bias) => Some(view::<W>((bias, *layout))?),
            _ => return Err(elsewhere()),
        },
        None => None,
    };
    let given = Given { layout: op.layout, dense: false, bias: bias.is_some() };
    let shared = op.engine.on(device)?;
    let mut shared = lock(&shared);
    let plan = shared.compressed::<W>(op.problem, given)?;
    let mut workspace = workspace(device, plan.workspace_bytes())?;
    let mut y = array::<W>(device, op.problem.outputs())?;
    let weight = sparse::cuda::Weight::<W>::new(shape, op.layout, view(values)?, view(metadata)?);
    let args = sparse::cuda::Multiply::new(weight, tokens, view(x)?, y.as_view_mut());
    let args = match bias {
        Some(bias) => args.bias(bias),
        None => args,
    };
    let stream = Arc::clone(&shared.stream);
    let with = sparse::cuda::With { blas: shared.blas.as_mut(), library: None };
    sparse::cuda::multiply_into(&stream, with, &plan, args.workspace(workspace.as_view_mut())).map_err(wrap)?;
    Ok(CudaStorage::wrap_cuda_slice(y, device.clone()))
}

/// The elements of a contiguous tensor.
fn view<T: OnDevice>((storage, layout): Operand<'_>) -> Result<CudaView<'_, T>> {
    let (from, to) = contiguous_range(layout)?;
    let all = storage.as_cuda_slice::<T>()?;
    all.try_slice(from..to).ok_or_else(|| out_of_range(to, all.len()))
}

fn workspace(device: &CudaDevice, bytes: usize) -> Result<CudaSlice<u8>> {
    // The driver gives no empty array.
    array(device, bytes.max(1))
}

/// An array that is written before it is read.
fn array<T: OnDevice>(device: &CudaDevice, elements: usize) -> Result<CudaSlice<T>> {
    // SAFETY: whoever asks for it hands it as an output that is overwritten, or as a work space, to an executor that is
    // queued on the same stream before anything that reads it; after an error it is dropped unread.
    unsafe { device.alloc::<T>(elements) }
}
