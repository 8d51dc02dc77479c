//! The mask of a layer.

use crate::activations::Activations;
use crate::number::{Number, energy};
use crate::{Args, Failure, Method};
use twofour::select::{ByScore, Statistics};
use twofour::{Cpu, Executor, Shape};
use twofour_formats::masks::Mask;

/// What came of a layer.
pub(crate) struct Made {
    pub(crate) mask: Mask,
    /// The masked or updated weight, as in a file.
    pub(crate) weight: Vec<u8>,
    /// The share of all scores that is kept; there is none where scores change on the way.
    pub(crate) score: Option<f64>,
    /// The share of the squares of weights that is kept.
    pub(crate) energy: f64,
}

/// How masks are chosen, and by what.
pub(crate) struct Chooser<'a> {
    method: Method,
    activations: Option<Activations>,
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
                Ok(Self { method, activations, args })
            }
        }
    }

    /// Chooses the mask of a layer.
    pub(crate) fn choose<T: Number>(&self, name: &str, shape: Shape, dense: &[T]) -> Result<Made, Failure> {
        match (&self.activations, self.method) {
            (Some(activations), Method::Wanda) => {
                let norms = activations.norms(name, shape.cols)?;
                by_score(name, shape, dense, Some(&norms))
            }
            (Some(activations), Method::Sparsegpt) => {
                let hessian = activations.hessian(name, shape.cols)?;
                sparsegpt(self.args, name, shape, dense, &hessian)
            }
            _ => by_score(name, shape, dense, None),
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
    Cpu.run(pass.codes(&mut codes).masked(&mut masked).statistics(&mut statistics))?;
    let energy = energy(&masked) / energy(dense);
    let score = Some(statistics[0].fraction());
    Ok(Made { mask: mask(name, shape, codes)?, weight: T::bytes(&masked), score, energy })
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
        return by_score(name, shape, dense, Some(factor.scale()));
    }
    let zero = <T as bytemuck::Zeroable>::zeroed();
    let (mut codes, mut updated) = (vec![0; shape.packed_codes()], vec![zero; dense.len()]);
    let sweep = twofour::select::Sweep::new(shape, dense, factor.upper(), factor.scale());
    Cpu.run(sweep.codes(&mut codes).updated(&mut updated))?;
    let mask = mask(name, shape, codes)?;
    // Of the weight as it was.
    let kept: Vec<bool> = mask.flags()?;
    let masked: Vec<T> = dense.iter().zip(kept).map(|(&value, kept)| if kept { value } else { zero }).collect();
    let energy = energy(&masked) / energy(dense);
    Ok(Made { mask, weight: T::bytes(&updated), score: None, energy })
}

#[cfg(not(feature = "sparsegpt"))]
fn sparsegpt<T: Number>(args: &Args, name: &str, _: Shape, _: &[T], _: &[f32]) -> Result<Made, Failure> {
    // `Chooser::new` has said so before anything was read.
    Err(format!("{name}: damping {} and as-is {} are of SparseGPT, which is off", args.damping, args.as_is).into())
}
