//! The CPU executor of `matmul`: the masks of [`crate::mask::cpu`] around dense products on all threads of rayon's
//! pool. Results do not depend on how many threads there are.

use super::{Masked, ToInput, ToLogits};
use crate::element::{Element, Logit};
use crate::error::Result;
use crate::mask;
use crate::space::Host;
use product::{Matrix, multiply};

mod product;

/// [`super::Layer`] over slices.
pub type Layer<'a, L, W> = super::Layer<'a, Host, L, W>;
/// [`super::Forward`] over slices.
pub type Forward<'l, 'a, L, W> = super::Forward<'l, 'a, Host, L, W>;
/// [`super::Backward`] over slices.
pub type Backward<'l, 'a, L, W> = super::Backward<'l, 'a, Host, L, W>;

/// Writes `W∘M` and `Y = X (W∘M)ᵀ`.
///
/// # Errors
/// What [`check`](super::Forward::check) finds.
pub fn forward_into<L: Logit, W: Element>(args: Forward<'_, '_, L, W>) -> Result<()> {
    args.check()?;
    let (n, k) = (args.problem.shape.rows, args.problem.shape.cols);
    sample(&args.layer, args.masked)?;
    multiply(k, &Matrix::new(args.x, k), &Matrix::new(args.masked, k).transposed(), args.y, n);
    Ok(())
}

/// `Y = X (W∘M)ᵀ`, `[T, N]`, in a new vector.
///
/// # Errors
/// What [`check`](super::Forward::check) finds.
pub fn forward<L: Logit, W: Element>(layer: Layer<'_, L, W>, tokens: usize, x: &[W]) -> Result<Vec<W>> {
    let problem = super::Problem::new(tokens, layer.shape);
    problem.check()?;
    let mut masked = vec![W::zeroed(); layer.weight.len()];
    let mut y = vec![W::zeroed(); problem.outputs()];
    forward_into(Forward::new(layer, tokens, x, &mut masked, &mut y))?;
    Ok(y)
}

/// Writes the gradients that were asked for.
///
/// # Errors
/// What [`check`](super::Backward::check) finds.
pub fn backward_into<L: Logit, W: Element>(args: Backward<'_, '_, L, W>) -> Result<()> {
    args.check()?;
    let (n, k) = (args.problem.shape.rows, args.problem.shape.cols);
    let dy = Matrix::new(args.dy, n);
    if let Some(ToInput { masked, dx }) = args.to_input {
        let masked = match masked {
            Masked::Kept(masked) => masked,
            Masked::Resampled(masked) => {
                sample(&args.layer, masked)?;
                masked
            }
        };
        multiply(n, &dy, &Matrix::new(masked, k), dx, k);
    }
    if let Some(ToLogits { x, gradient, logit_gradient, accumulate }) = args.to_logits {
        multiply(args.problem.tokens, &dy.transposed(), &Matrix::new(x, k), gradient, k);
        let Layer { shape, shard, kind, sampling, logits, weight } = args.layer;
        let mask = mask::cpu::Backward::new(shape, kind, sampling, logits, weight, gradient);
        let mask = mask.shard(shard).regulariser(args.regulariser);
        mask::cpu::backward_into(match accumulate {
            true => mask.accumulate_logit_gradient(logit_gradient),
            false => mask.logit_gradient(logit_gradient),
        })?;
    }
    Ok(())
}

/// Writes `W∘M`.
fn sample<L: Logit, W: Element>(layer: &Layer<'_, L, W>, masked: &mut [W]) -> Result<()> {
    let mask = mask::cpu::Forward::new(layer.shape, layer.kind, layer.sampling, layer.logits);
    mask::cpu::forward_into(mask.shard(layer.shard).weight(layer.weight).masked(masked))
}
