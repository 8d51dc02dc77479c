//! The CPU executor of `matmul`: the masks of [`crate::mask::cpu`] around dense products on all threads of rayon's
//! pool. Results do not depend on how many threads there are. It allocates what it works in, and leaves a work space
//! alone.

use super::{Kept, Source, ToLogits};
use crate::dense::cpu::{Matrix, multiply};
use crate::element::{Float, Logit};
use crate::error::Result;
use crate::mask;
use crate::pattern::Pattern;
use crate::shape::{Shape, Shard};
use crate::space::Host;
use rayon::prelude::*;

/// [`super::Layer`] over slices.
pub type Layer<'a, L, W> = super::Layer<'a, Host, L, W>;
/// [`super::Forward`] over slices.
pub type Forward<'l, 'a, L, W> = super::Forward<'l, 'a, Host, L, W>;
/// [`super::Backward`] over slices.
pub type Backward<'l, 'a, L, W> = super::Backward<'l, 'a, Host, L, W>;

/// Bytes of the weight's gradient that are held at a time: rows of a few tiles each, and no more than caches hold.
const PANEL_BYTES: usize = 4 << 20;

/// Writes `Y = X (W∘M)ᵀ`, and what is to be kept.
///
/// # Errors
/// What [`check`](super::Forward::check) finds.
pub fn forward_into<L: Logit, W: Float>(args: Forward<'_, '_, L, W>) -> Result<()> {
    args.check()?;
    let (n, k) = (args.problem.shape.rows, args.problem.shape.cols);
    let mut own = Vec::new();
    let masked = if let Some(made) = args.made {
        made
    } else {
        let (masked, codes): (&mut [W], _) = match args.kept {
            Kept::Masked(masked) => (masked, None),
            Kept::Codes(codes) => (allocate(&mut own, n * k), Some(codes)),
            Kept::Nothing => (allocate(&mut own, n * k), None),
        };
        sample(&args.layer, masked, codes)?;
        masked
    };
    multiply(k, &Matrix::new(args.x, k), &Matrix::new(masked, k).transposed(), args.y, n);
    Ok(())
}

/// `Y = X (W∘M)ᵀ`, `[T, N]`, in a new vector.
///
/// # Errors
/// What [`check`](super::Forward::check) finds.
pub fn forward<L: Logit, W: Float>(layer: Layer<'_, L, W>, tokens: usize, x: &[W]) -> Result<Vec<W>> {
    let problem = super::Problem::new(tokens, layer.shape);
    problem.check()?;
    let mut y = vec![W::zeroed(); problem.outputs()];
    forward_into(Forward::new(layer, tokens, x, &mut y))?;
    Ok(y)
}

/// Writes the gradients that were asked for.
///
/// # Errors
/// What [`check`](super::Backward::check) finds.
pub fn backward_into<L: Logit, W: Float>(args: Backward<'_, '_, L, W>) -> Result<()> {
    args.check()?;
    let (n, k) = (args.problem.shape.rows, args.problem.shape.cols);
    if let Some(dx) = args.dx {
        let mut own = Vec::new();
        let masked = match args.kept {
            Kept::Masked(masked) => masked,
            Kept::Codes(codes) => {
                keep(codes, args.layer.weight, allocate(&mut own, n * k));
                &own
            }
            Kept::Nothing => {
                sample(&args.layer, allocate(&mut own, n * k), None)?;
                &own
            }
        };
        multiply(n, &Matrix::new(args.dy, n), &Matrix::new(masked, k), dx, k);
    }
    if let Some(to_logits) = args.to_logits {
        logit_gradient(&args.layer, args.problem.tokens, args.dy, args.regulariser, to_logits)?;
    }
    Ok(())
}

/// `G = dYᵀ X`, some rows at a time, and from them the gradient of their logits.
fn logit_gradient<L: Logit, W: Float>(
    layer: &Layer<'_, L, W>,
    tokens: usize,
    dy: &[W],
    regulariser: f32,
    ToLogits { x, logit_gradient, accumulate }: ToLogits<'_, Host, W>,
) -> Result<()> {
    let Source::Sampled { kind, sampling, logits } = layer.masks else { return Ok(()) };
    let Shape { rows: n, cols: k } = layer.shape;
    let six = k / 4 * 6;
    let panel_rows = (PANEL_BYTES / (4 * k.max(1))).max(1);
    let mut gradient = vec![0.0; panel_rows.min(n) * k];
    for first in (0..n).step_by(panel_rows) {
        let rows = panel_rows.min(n - first);
        let gradient = &mut gradient[..rows * k];
        let of_rows = Matrix::new(dy, n).starting_at(first).transposed();
        multiply(tokens, &of_rows, &Matrix::new(x, k), gradient, k);
        let (at, to) = (first * six, (first + rows) * six);
        let weight = &layer.weight[first * k..(first + rows) * k];
        let shape = Shape::new(rows, k);
        let mask = mask::cpu::Backward::new(shape, kind, sampling, &logits[at..to], weight, gradient);
        let mask = mask.shard(Shard { row_offset: layer.shard.row_offset + first as u64, ..layer.shard });
        let mask = mask.regulariser(regulariser);
        let logit_gradient = &mut logit_gradient[at..to];
        mask::cpu::backward_into(match accumulate {
            true => mask.accumulate_logit_gradient(logit_gradient),
            false => mask.logit_gradient(logit_gradient),
        })?;
    }
    Ok(())
}

fn allocate<W: Float>(own: &mut Vec<W>, elements: usize) -> &mut [W] {
    own.resize(elements, W::zeroed());
    own
}

/// Writes `W∘M`, and the codes if they are wanted.
fn sample<L: Logit, W: Float>(layer: &Layer<'_, L, W>, masked: &mut [W], codes: Option<&mut [u8]>) -> Result<()> {
    match layer.masks {
        Source::Frozen { codes } => {
            keep(codes, layer.weight, masked);
            Ok(())
        }
        Source::Sampled { kind, sampling, logits } => {
            let mask = mask::cpu::Forward::new(layer.shape, kind, sampling, logits);
            let mask = mask.shard(layer.shard).weight(layer.weight).masked(masked);
            mask::cpu::forward_into(match codes {
                Some(codes) => mask.codes(codes),
                None => mask,
            })
        }
    }
}

/// Writes `W∘M` from codes: `+0` where a weight is dropped, NaN where a code is none of the six.
fn keep<W: Float>(codes: &[u8], weight: &[W], masked: &mut [W]) {
    /// Groups of a task: an even number, so that it starts on a byte.
    const GROUPS: usize = 1 << 14;
    let tasks = masked.par_chunks_mut(4 * GROUPS).zip(weight.par_chunks(4 * GROUPS)).zip(codes.par_chunks(GROUPS / 2));
    tasks.for_each(|((masked, weight), codes)| {
        for (group, (masked, weight)) in masked.chunks_exact_mut(4).zip(weight.chunks_exact(4)).enumerate() {
            let code = codes[group / 2] >> (4 * (group % 2)) & 15;
            match Pattern::from_code(code) {
                Some(pattern) => {
                    for (position, (masked, weight)) in masked.iter_mut().zip(weight).enumerate() {
                        *masked = if pattern.bits() >> position & 1 == 1 { *weight } else { W::zeroed() };
                    }
                }
                None => masked.fill(W::from_f32(f32::NAN)),
            }
        }
    });
}
