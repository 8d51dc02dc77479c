//! The step on the first GPU.

use crate::{Data, LAMBDA, Result, Results};
use std::sync::Arc;
use twofour::compress::Layout;
use twofour::compress::cuda::{Pack, pack_into};
use twofour::cudarc::driver::{CudaSlice, CudaStream, DriverError};
use twofour::mask::{Kind, Sampling};
use twofour::matmul::cuda::{Backward, BlasLt, Forward, Layer, backward_into, forward_into};
use twofour::matmul::{self, Keep, Masks};
use twofour::sparse::cuda::{Multiply, Weight, With, multiply_into};
use twofour::sparse::{self, Given, Libraries};
use twofour::{DType, Float, bf16, device};

/// The step's memory.
pub(crate) struct Steps {
    stream: Arc<CudaStream>,
    blas: Option<BlasLt>,
    masked: matmul::Plan,
    sparse: sparse::Plan,
    logits: CudaSlice<f32>,
    weight: CudaSlice<bf16>,
    x: CudaSlice<bf16>,
    dy: CudaSlice<bf16>,
    packed: Packed,
    codes: CudaSlice<u8>,
    y: CudaSlice<bf16>,
    dx: CudaSlice<bf16>,
    dlogits: CudaSlice<f32>,
    workspace: CudaSlice<u8>,
}

/// Values and codes of a weight, as the product reads them.
struct Packed {
    values: CudaSlice<bf16>,
    metadata: CudaSlice<u8>,
}

const LAYOUT: Layout = Layout::CutlassSm80;

impl Steps {
    pub(crate) fn new(data: &Data) -> Result<Self> {
        let stream = device::context(0)?.default_stream();
        let (limits, problem) = (device::limits(stream.context())?, data.problem);
        let blas = BlasLt::new(&stream).ok();
        // A weight that changes with every step is not worth packing for cuSPARSELt.
        let libraries = Libraries { cublaslt: blas.is_some(), cusparselt: false };
        let sparse = sparse::Plan::new::<bf16>(&limits, problem, Given::WEIGHT, libraries)?;
        let masked = matmul::Plan::new::<f32, bf16>(&limits, problem, Masks::Sampled(Kind::Hard), Keep::Codes)?;
        let masked = if blas.is_some() { masked } else { masked.without_blaslt()? };
        let sizes = LAYOUT.sizes(problem.shape, DType::Bf16.into())?;
        let halves = |elements: usize| stream.alloc_zeros::<bf16>(elements);
        let bytes = |count: usize| -> std::result::Result<_, DriverError> { stream.alloc_zeros::<u8>(count.max(1)) };
        Ok(Self {
            blas,
            logits: stream.clone_htod(&data.logits)?,
            weight: stream.clone_htod(&data.weight)?,
            x: stream.clone_htod(&data.x)?,
            dy: stream.clone_htod(&data.dy)?,
            packed: Packed { values: halves(sizes.values)?, metadata: bytes(sizes.metadata)? },
            codes: bytes(problem.shape.packed_codes())?,
            y: halves(problem.outputs())?,
            dx: halves(problem.inputs())?,
            dlogits: stream.alloc_zeros(problem.shape.logits())?,
            workspace: bytes(masked.workspace_bytes().max(sparse.workspace_bytes()))?,
            masked,
            sparse,
            stream,
        })
    }

    fn backward(&mut self, sampling: Sampling) -> Result<()> {
        let problem = self.masked.problem();
        let layer = Layer::new(problem.shape, Kind::Hard, sampling, self.logits.as_view(), self.weight.as_view());
        let args = Backward::new(layer, problem.tokens, self.dy.as_view()).regulariser(LAMBDA);
        let args = args.kept_codes(self.codes.as_view()).input_gradient(self.dx.as_view_mut());
        let args = args.logit_gradient(self.x.as_view(), self.dlogits.as_view_mut());
        Ok(backward_into(&self.stream, self.blas.as_mut(), &self.masked, args.workspace(self.workspace.as_view_mut()))?)
    }
}

impl crate::Steps for Steps {
    fn describe(&self) -> Result<String> {
        Ok(format!("device      {}\nplan        {}", self.stream.context().name()?, self.sparse))
    }

    fn sparse(&mut self, sampling: Sampling) -> Result<()> {
        let problem = self.sparse.problem();
        let Packed { values, metadata } = &mut self.packed;
        // From logits to the packed weight in one pass; the codes are for the way back.
        let pack = Pack::from_logits(problem.shape, Kind::Hard, sampling, self.logits.as_view(), self.weight.as_view());
        let pack = pack.layout(LAYOUT).values(values.as_view_mut()).metadata(metadata.as_view_mut());
        pack_into(&self.stream, pack.codes(self.codes.as_view_mut()))?;
        let weight = Weight::new(problem.shape, LAYOUT, values.as_view(), metadata.as_view());
        let args = Multiply::new(weight, problem.tokens, self.x.as_view(), self.y.as_view_mut());
        let with = With { blas: self.blas.as_mut(), library: None };
        multiply_into(&self.stream, with, &self.sparse, args.workspace(self.workspace.as_view_mut()))?;
        self.backward(sampling)
    }

    fn masked(&mut self, sampling: Sampling) -> Result<()> {
        let problem = self.masked.problem();
        let layer = Layer::new(problem.shape, Kind::Hard, sampling, self.logits.as_view(), self.weight.as_view());
        let args = Forward::new(layer, problem.tokens, self.x.as_view(), self.y.as_view_mut());
        let args = args.keep_codes(self.codes.as_view_mut()).workspace(self.workspace.as_view_mut());
        forward_into(&self.stream, self.blas.as_mut(), &self.masked, args)?;
        self.backward(sampling)
    }

    fn wait(&self) -> Result<()> {
        Ok(self.stream.synchronize()?)
    }

    fn results(&self) -> Result<Results> {
        let widen = |values: Vec<bf16>| values.into_iter().map(Float::to_f32).collect();
        Ok(Results {
            codes: self.stream.clone_dtoh(&self.codes)?,
            y: widen(self.stream.clone_dtoh(&self.y)?),
            dx: widen(self.stream.clone_dtoh(&self.dx)?),
            dlogits: self.stream.clone_dtoh(&self.dlogits)?,
        })
    }
}
