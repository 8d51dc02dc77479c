//! One-shot masks of the dense model: magnitude, Wanda, SparseGPT.
//!
//! Wanda and SparseGPT see what the layers of the *dense* model are given on training text, all layers in one pass,
//! as MaskLLM makes its priors; the papers prune layer by layer and let a layer see what is left of those before it.

use crate::Failure;
use crate::model::Model;
use candle_core::{D, DType, Tensor};
use candle_nn::{Linear, Module};
use std::cell::RefCell;
use std::collections::BTreeMap;
use twofour::compress::Sparsity;
use twofour::compress::convert::mask_from_codes;
use twofour::select::{ByScore, Cholesky, Hessian, Squares, Sweep};
use twofour::{Cpu, Executor, Shape};

/// Packed codes of each linear layer.
pub(crate) type Masks = BTreeMap<String, Vec<u8>>;

/// What is known of a linear layer's inputs.
struct Inputs {
    tokens: u64,
    /// `[K]`, squares summed.
    squares: Vec<f64>,
    /// `[K, K]`.
    hessian: Vec<f32>,
}

/// A linear layer that looks at its inputs, `[.., K]`.
struct Tap {
    linear: Linear,
    inputs: RefCell<Inputs>,
}

impl Module for Tap {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let cols = x.dim(D::Minus1)?;
        let values = x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let tokens = values.len() / cols.max(1);
        let mut inputs = self.inputs.borrow_mut();
        let Inputs { tokens: before, squares, hessian } = &mut *inputs;
        Cpu.run(Squares::new(tokens, cols, &values, squares)).map_err(candle_core::Error::wrap)?;
        Cpu.run(Hessian::new(tokens, cols, &values, *before, hessian)).map_err(candle_core::Error::wrap)?;
        *before += tokens as u64;
        self.linear.forward(x)
    }
}

/// Masks of each method, and SparseGPT's weights.
pub(crate) struct OneShot {
    pub(crate) magnitude: Masks,
    pub(crate) wanda: Masks,
    /// Of the weight as it is.
    pub(crate) sparsegpt: Masks,
    /// Of the weight as updated, and that weight.
    pub(crate) sparsegpt_updated: Masks,
    pub(crate) updated: Model<Linear>,
}

impl OneShot {
    /// Of a dense model, with sequences of training text to calibrate with.
    pub(crate) fn new(dense: &Model<Linear>, calibration: &[u8], batch: usize) -> Result<Self, Failure> {
        let tapped = dense.map(|_, linear| {
            let cols = linear.weight().dim(1)?;
            let inputs = Inputs { tokens: 0, squares: vec![0.0; cols], hessian: vec![0.0; cols * cols] };
            candle_core::Result::Ok(Tap { linear: linear.clone(), inputs: RefCell::new(inputs) })
        })?;
        for batch in calibration.chunks(batch * (dense.shape.context + 1)) {
            tapped.loss(batch)?;
        }
        let [mut magnitude, mut wanda, mut sparsegpt, mut sparsegpt_updated] = [const { Masks::new() }; 4];
        let updated = tapped.map(|name, tap| {
            let (weight, shape) = host(tap.linear.weight())?;
            let inputs = tap.inputs.borrow();
            let norms: Vec<f32> = inputs.squares.iter().map(|sum| sum.sqrt() as f32).collect();
            let factor = Cholesky::new(shape.cols, &inputs.hessian, Cholesky::DAMPING)?;
            magnitude.insert(name.to_owned(), chosen(shape, &weight, None)?);
            wanda.insert(name.to_owned(), chosen(shape, &weight, Some(&norms))?);
            sparsegpt.insert(name.to_owned(), chosen(shape, &weight, Some(factor.scale()))?);
            let (mut codes, mut updated) = (vec![0; shape.packed_codes()], vec![0.0; weight.len()]);
            let sweep = Sweep::new(shape, &weight, factor.upper(), factor.scale());
            Cpu.run(sweep.codes(&mut codes).updated(&mut updated))?;
            sparsegpt_updated.insert(name.to_owned(), codes);
            let updated = Tensor::from_vec(updated, (shape.rows, shape.cols), tap.linear.weight().device())?;
            Ok::<_, Failure>(Linear::new(updated, None))
        })?;
        Ok(Self { magnitude, wanda, sparsegpt, sparsegpt_updated, updated })
    }
}

/// Codes of the largest magnitudes, times a scale of each column.
fn chosen(shape: Shape, weight: &[f32], scale: Option<&[f32]>) -> twofour::Result<Vec<u8>> {
    let mut codes = vec![0; shape.packed_codes()];
    let scores = match scale {
        Some(scale) => ByScore::scaled(shape, weight, scale),
        None => ByScore::magnitude(shape, weight),
    };
    Cpu.run(scores.codes(&mut codes))?;
    Ok(codes)
}

/// A weight as the host's executors take it.
pub(crate) fn host(weight: &Tensor) -> Result<(Vec<f32>, Shape), Failure> {
    let (rows, cols) = weight.dims2()?;
    Ok((weight.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?, Shape::new(rows, cols)))
}

/// The model under masks.
pub(crate) fn masked(dense: &Model<Linear>, masks: &Masks) -> Result<Model<Linear>, Failure> {
    dense.map(|name, linear| {
        let weight = linear.weight();
        let (rows, cols) = weight.dims2()?;
        let codes = masks.get(name).ok_or_else(|| format!("there is no mask for {name}"))?;
        let kept: Vec<u8> = mask_from_codes(Sparsity::TwoFour, Shape::new(rows, cols), codes)?;
        let kept = Tensor::from_vec(kept, (rows, cols), weight.device())?.to_dtype(weight.dtype())?;
        Ok(Linear::new((weight * kept)?, None))
    })
}

/// The share of groups whose patterns differ.
pub(crate) fn difference(one: &Masks, other: &Masks) -> f64 {
    let (mut differ, mut groups) = (0, 0);
    for (one, other) in one.values().flatten().zip(other.values().flatten()) {
        let different = one ^ other;
        differ += usize::from(different & 15 != 0) + usize::from(different & 240 != 0);
        groups += 2;
    }
    differ as f64 / f64::from(groups.max(1))
}
