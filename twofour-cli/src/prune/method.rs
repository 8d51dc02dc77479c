//! The mask of a layer, by its weight and what is known of its inputs.

use super::activations::Activations;
use super::{Args, Made, Method, Source};
use crate::choose::Layers;
use crate::layer::Layer;
use crate::{Failure, number};
use std::collections::BTreeMap;
use twofour::select::{ByScore, Cholesky, ColumnScale, Statistics, Sweep};
use twofour::{Cpu, Executor, Float, Shape, bf16, f16};
use twofour_formats::TensorType;
use twofour_formats::masks::Mask;

/// How masks are chosen, and by what.
pub(crate) struct Chooser<'a> {
    method: Method,
    activations: Option<Activations>,
    /// Of every layer, for Wanda.
    norms: BTreeMap<String, ColumnScale>,
    args: &'a Args,
}

/// Whether the arguments of methods go together.
pub(crate) fn check(args: &Args) -> Result<(), Failure> {
    let sparsegpt = args.method == Method::Sparsegpt;
    if args.as_is && !sparsegpt {
        return Err("--as-is is of --method sparsegpt: other methods update no weights".into());
    }
    if args.swaps && sparsegpt && !args.as_is {
        let why = "SparseGPT's update makes up for the mask that it chose";
        return Err(format!("--swaps goes with --as-is: {why}, and would be wrong under another").into());
    }
    if !(args.damping.is_finite() && args.damping >= 0.0) {
        return Err(format!("--damping is {}: it must be finite and not negative", args.damping).into());
    }
    Ok(())
}

impl<'a> Chooser<'a> {
    pub(crate) fn new(args: &'a Args) -> Result<Self, Failure> {
        let method = args.method;
        match (&args.activations, method) {
            (None, Method::Wanda | Method::Sparsegpt) => {
                Err("Wanda and SparseGPT choose by a layer's inputs: give --calibration FILE, or --activations FILE"
                    .into())
            }
            (Some(_), Method::Magnitude) => {
                Err("magnitude does not look at activations: say --method wanda or sparsegpt".into())
            }
            (path, _) => {
                let activations = path.as_deref().map(Activations::open).transpose()?;
                Ok(Self { method, activations, norms: BTreeMap::new(), args })
            }
        }
    }
}

impl Source for Chooser<'_> {
    fn check(&mut self, layers: &Layers) -> Result<(), Failure> {
        let Some(activations) = &self.activations else { return Ok(()) };
        for (name, Layer { shape, dtype, .. }) in layers {
            if self.method == Method::Wanda {
                self.norms.insert(name.clone(), activations.norms(name, shape.cols)?);
                continue;
            }
            if !self.args.as_is && dtype.bits() < 16 {
                let problem = "and SparseGPT's update would be lost in it";
                return Err(format!("`{name}` is {dtype}, {problem}: --as-is makes its mask without").into());
            }
            activations.check_hessian(name, shape.cols)?;
        }
        Ok(())
    }

    fn by(&self) -> Result<String, Failure> {
        let Args { method, damping, as_is, activations, .. } = self.args;
        let meta = activations.as_ref().map(std::fs::metadata).transpose()?;
        let written = meta.map(|meta| Ok::<_, Failure>((meta.len(), meta.modified()?))).transpose()?;
        Ok(format!("{method:?}, damping {damping}, as is {as_is}, activations {written:?}"))
    }

    fn layer(&mut self, layer: &Layer, dense: &[u8]) -> Result<Made, Failure> {
        match (&self.activations, self.norms.get(&layer.name)) {
            (_, Some(norms)) => Ok(Made { empty: norms.empty(), ..by_score(layer, dense, Some(norms.scale()))? }),
            (Some(activations), None) => {
                let cols = layer.shape.cols;
                let factor = Cholesky::new(cols, &activations.hessian(&layer.name, cols)?, self.args.damping);
                let factor = factor.map_err(|e| format!("the Hessian of `{}`: {e}", layer.name))?;
                sparsegpt(self.args, layer, dense, &factor)
            }
            (None, None) => by_score(layer, dense, None),
        }
    }
}

/// By `|W|`, or `|W|` times a number a column.
pub(crate) fn by_score(layer: &Layer, dense: &[u8], scale: Option<&[f32]>) -> Result<Made, Failure> {
    let Layer { name, shape, dtype, .. } = layer;
    let dense = number::widened(*dtype, dense)?;
    let mut codes = vec![0; shape.packed_codes()];
    let mut statistics = vec![Statistics::default(); Statistics::SLOTS];
    let pass = match scale {
        Some(scale) => ByScore::scaled(*shape, &dense, scale),
        None => ByScore::magnitude(*shape, &dense),
    };
    let run = Cpu.run(pass.codes(&mut codes).statistics(&mut statistics));
    run.map_err(|e| format!("`{name}`: {e}"))?;
    let score = Some(statistics[0].fraction());
    Ok(Made { mask: mask(name, *shape, codes)?, updated: None, score, error: None, unswapped: None, empty: 0 })
}

/// A group with a NaN has no code, and then there is no mask.
pub(crate) fn mask(name: &str, shape: Shape, codes: Vec<u8>) -> Result<Mask, Failure> {
    Mask::new(shape, codes).map_err(|e| format!("`{name}` has weights or activations that are NaN: {e}").into())
}

/// By SparseGPT, with what comes of the inputs' Hessian.
pub(crate) fn sparsegpt(args: &Args, layer: &Layer, dense: &[u8], factor: &Cholesky) -> Result<Made, Failure> {
    if args.as_is {
        return Ok(Made { empty: factor.empty(), ..by_score(layer, dense, Some(factor.scale()))? });
    }
    match layer.dtype {
        TensorType::F32 => swept::<f32>(layer, dense, factor),
        TensorType::F16 => swept::<f16>(layer, dense, factor),
        TensorType::Bf16 => swept::<bf16>(layer, dense, factor),
        other => Err(format!("`{}` is {other}, and no update is written in it", layer.name).into()),
    }
}

fn swept<T: Float>(layer: &Layer, dense: &[u8], factor: &Cholesky) -> Result<Made, Failure> {
    let Layer { name, shape, .. } = layer;
    let dense = number::values::<T>(dense);
    let (mut codes, mut updated) = (vec![0; shape.packed_codes()], vec![T::zeroed(); dense.len()]);
    let sweep = Sweep::new(*shape, &*dense, factor.upper(), factor.scale());
    Cpu.run(sweep.codes(&mut codes).updated(&mut updated)).map_err(|e| format!("`{name}`: {e}"))?;
    let mask = mask(name, *shape, codes)?;
    let updated = Some(number::bytes(&updated));
    Ok(Made { mask, updated, score: None, error: None, unswapped: None, empty: factor.empty() })
}
