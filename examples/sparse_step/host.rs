//! The step on the CPU.

use crate::{Data, LAMBDA, Result, Results};
use twofour::compress::Layout;
use twofour::compress::cpu::{Pack, pack_into};
use twofour::mask::{Kind, Sampling};
use twofour::matmul::cpu::{Backward, Forward, Layer, backward_into, forward_into};
use twofour::sparse::cpu::{Multiply, Weight, multiply_into};
use twofour::{DType, Float, bf16};

/// The step's memory.
pub(crate) struct Steps<'a> {
    data: &'a Data,
    packed: Packed,
    codes: Vec<u8>,
    y: Vec<bf16>,
    dx: Vec<bf16>,
    dlogits: Vec<f32>,
}

/// Values and codes of a weight, as the product reads them.
struct Packed {
    values: Vec<bf16>,
    metadata: Vec<u8>,
}

const LAYOUT: Layout = Layout::CutlassSm80;

impl<'a> Steps<'a> {
    pub(crate) fn new(data: &'a Data) -> Result<Self> {
        let (problem, shape) = (data.problem, data.problem.shape);
        let sizes = LAYOUT.sizes(shape, DType::Bf16.into())?;
        Ok(Self {
            data,
            packed: Packed { values: vec![bf16::ZERO; sizes.values], metadata: vec![0; sizes.metadata] },
            codes: vec![0; shape.packed_codes()],
            y: vec![bf16::ZERO; problem.outputs()],
            dx: vec![bf16::ZERO; problem.inputs()],
            dlogits: vec![0.0; shape.logits()],
        })
    }

    fn layer(&self, sampling: Sampling) -> Layer<'a, f32, bf16> {
        Layer::new(self.data.problem.shape, Kind::Hard, sampling, &self.data.logits, &self.data.weight)
    }

    fn backward(&mut self, sampling: Sampling) -> Result<()> {
        let args = Backward::new(self.layer(sampling), self.data.problem.tokens, &self.data.dy);
        let args = args.regulariser(LAMBDA).kept_codes(&self.codes).input_gradient(&mut self.dx);
        Ok(backward_into(args.logit_gradient(&self.data.x, &mut self.dlogits))?)
    }
}

impl crate::Steps for Steps<'_> {
    fn describe(&self) -> Result<String> {
        Ok("device      CPU".into())
    }

    fn sparse(&mut self, sampling: Sampling) -> Result<()> {
        let Data { problem, logits, weight, x, .. } = self.data;
        let Packed { values, metadata } = &mut self.packed;
        // From logits to the packed weight in one pass; the codes are for the way back.
        let pack = Pack::from_logits(problem.shape, Kind::Hard, sampling, logits, weight).layout(LAYOUT);
        pack_into(pack.values(values).metadata(metadata).codes(&mut self.codes))?;
        let weight = Weight::new(problem.shape, LAYOUT, values, metadata);
        multiply_into(Multiply::new(weight, problem.tokens, x, &mut self.y))?;
        self.backward(sampling)
    }

    fn masked(&mut self, sampling: Sampling) -> Result<()> {
        let args = Forward::new(self.layer(sampling), self.data.problem.tokens, &self.data.x, &mut self.y);
        forward_into(args.keep_codes(&mut self.codes))?;
        self.backward(sampling)
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }

    fn results(&self) -> Result<Results> {
        let widen = |values: &[bf16]| values.iter().map(|value| Float::to_f32(*value)).collect();
        Ok(Results { codes: self.codes.clone(), y: widen(&self.y), dx: widen(&self.dx), dlogits: self.dlogits.clone() })
    }
}
