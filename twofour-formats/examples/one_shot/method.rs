//! The mask of a layer.

use crate::activations::Activations;
use crate::choose::Layers;
use crate::number::{Number, energy};
use crate::{Args, Failure, Method};
use std::collections::BTreeMap;
use twofour::select::{ByScore, ColumnScale, Statistics};
use twofour::{Cpu, Executor, Shape};
use twofour_formats::masks::Mask;

/// What came of a layer.
pub(crate) struct Made {
    pub(crate) mask: Mask,
    /// The masked or updated weight, as in a file.
    pub(crate) weight: Vec<u8>,
    /// The share of all scores that is kept; there is none where scores change on the way.
    pub(crate) score: Option<f64>,
    /// The squares of the weights as written, over those of the weights as they were.
    pub(crate) energy: f64,
    /// Columns that saw no input, among which magnitude chose.
    pub(crate) empty: usize,
}

/// How masks are chosen, and by what.
pub(crate) struct Chooser<'a> {
    method: Method,
    activations: Option<Activations>,
    /// Of every layer, for Wanda.
    norms: BTreeMap<String, ColumnScale>,
    args: &'a Args,
}

impl<'a> Chooser<'a> {
    pub(crate) fn new(args: &'a Args) -> Result<Self, Failure> {
        let method = args.method;
        if method == Method::Sparsegpt && !cfg!(feature = "sparsegpt") {
            let features = "cargo run --release --features sparsegpt --example one_shot -- …";
            return Err(format!("SparseGPT needs the feature `sparsegpt`, which is off: {features}").into());
        }
        if args.as_is && method != Method::Sparsegpt {
            return Err("--as-is is of --method sparsegpt: other methods update no weights".into());
        }
        match (&args.activations, method) {
            (None, Method::Wanda | Method::Sparsegpt) => {
                Err("Wanda and SparseGPT choose by a layer's inputs: give --activations FILE".into())
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

    /// Looks at the calibration of all layers, before the first is worked on.
    pub(crate) fn check(&mut self, layers: &Layers) -> Result<(), Failure> {
        if !(self.args.damping.is_finite() && self.args.damping >= 0.0) {
            return Err(format!("--damping is {}: it must be finite and not negative", self.args.damping).into());
        }
        let Some(activations) = &self.activations else { return Ok(()) };
        for (name, (shape, _)) in layers {
            if self.method == Method::Wanda {
                self.norms.insert(name.clone(), activations.norms(name, shape.cols)?);
            } else {
                activations.check_hessian(name, shape.cols)?;
            }
        }
        Ok(())
    }

    /// Chooses the mask of a layer.
    pub(crate) fn choose<T: Number>(&self, name: &str, shape: Shape, dense: &[T]) -> Result<Made, Failure> {
        match (&self.activations, self.norms.get(name)) {
            (_, Some(norms)) => Ok(Made { empty: norms.empty(), ..by_score(name, shape, dense, Some(norms.scale()))? }),
            (Some(activations), None) => {
                let hessian = activations.hessian(name, shape.cols)?;
                sparsegpt(self.args, name, shape, dense, &hessian)
            }
            (None, None) => by_score(name, shape, dense, None),
        }
    }
}

fn by_score<T: Number>(name: &str, shape: Shape, dense: &[T], scale: Option<&[f32]>) -> Result<Made, Failure> {
    let (mut codes, mut masked) =
        (vec![0; shape.packed_codes()], vec![<T as bytemuck::Zeroable>::zeroed(); dense.len()]);
    let mut statistics = vec![Statistics::default(); Statistics::SLOTS];
    let pass = match scale {
        Some(scale) => ByScore::scaled(shape, dense, scale),
        None => ByScore::magnitude(shape, dense),
    };
    let run = Cpu.run(pass.codes(&mut codes).masked(&mut masked).statistics(&mut statistics));
    run.map_err(|e| format!("`{name}`: {e}"))?;
    let energy = energy(&masked) / energy(dense);
    let score = Some(statistics[0].fraction());
    Ok(Made { mask: mask(name, shape, codes)?, weight: T::bytes(&masked), score, energy, empty: 0 })
}

/// A group with a NaN has no code, and then there is no mask.
fn mask(name: &str, shape: Shape, codes: Vec<u8>) -> Result<Mask, Failure> {
    Mask::new(shape, codes).map_err(|e| format!("`{name}` has weights or activations that are NaN: {e}").into())
}

#[cfg(feature = "sparsegpt")]
fn sparsegpt<T: Number>(args: &Args, name: &str, shape: Shape, dense: &[T], hessian: &[f32]) -> Result<Made, Failure> {
    let factor = twofour::select::Cholesky::new(shape.cols, hessian, args.damping)
        .map_err(|e| format!("the Hessian of `{name}`: {e}"))?;
    if args.as_is {
        return Ok(Made { empty: factor.empty(), ..by_score(name, shape, dense, Some(factor.scale()))? });
    }
    let zero = <T as bytemuck::Zeroable>::zeroed();
    let (mut codes, mut updated) = (vec![0; shape.packed_codes()], vec![zero; dense.len()]);
    let sweep = twofour::select::Sweep::new(shape, dense, factor.upper(), factor.scale());
    Cpu.run(sweep.codes(&mut codes).updated(&mut updated)).map_err(|e| format!("`{name}`: {e}"))?;
    let energy = energy(&updated) / energy(dense);
    let mask = mask(name, shape, codes)?;
    Ok(Made { mask, weight: T::bytes(&updated), score: None, energy, empty: factor.empty() })
}

#[cfg(not(feature = "sparsegpt"))]
fn sparsegpt<T: Number>(args: &Args, name: &str, _: Shape, _: &[T], _: &[f32]) -> Result<Made, Failure> {
    // `Chooser::new` has said so before anything was read.
    Err(format!("{name}: damping {} and as-is {} are of SparseGPT, which is off", args.damping, args.as_is).into())
}
