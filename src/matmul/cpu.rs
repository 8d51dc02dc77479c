//! The CPU executor of `matmul`: the passes of [`crate::mask`] around dense products on all threads of rayon's pool.
//! Results do not depend on how many threads there are. It allocates what it works in, and leaves a workspace alone.

use super::backward::ToLogits;
use super::{Backward, Forward, Layer, Saved};
use crate::dense::cpu::{Matrix, multiply};
use crate::element::{Float, Logit};
use crate::error::Result;
use crate::mask;
use crate::pass::{Checked, Pass};
use crate::sample::Source;
use crate::shape::{Shape, Shard};
use crate::space::{Host, HostSpace};

/// Bytes of the weight's gradient that are held at a time: rows of a few tiles each, and no more than caches hold.
const PANEL_BYTES: usize = 4 << 20;

/// Writes `Y = X (W∘M)ᵀ`, and what is to be saved.
pub(super) fn forward<S: HostSpace, L: Logit, W: Float>(pass: Forward<'_, S, L, W>) -> Result<()> {
    let Shape { rows: n, cols: k } = pass.layer.shape;
    let layer = on_host(pass.layer);
    let mut own = Vec::new();
    let masked = if let Some(made) = pass.made {
        S::slice(made)
    } else {
        let (masked, codes) = match pass.saved {
            Saved::Masked(masked) => (S::slice_mut(masked), None),
            Saved::Codes(codes) => (allocate(&mut own, n * k), Some(S::slice_mut(codes))),
            Saved::Nothing => (allocate(&mut own, n * k), None),
        };
        make(&layer, masked, codes)?;
        masked
    };
    let x = Matrix::new(S::slice(pass.x), k);
    multiply(k, &x, &Matrix::new(masked, k).transposed(), S::slice_mut(pass.y), n);
    Ok(())
}

/// Writes the gradients that were asked for.
pub(super) fn backward<S: HostSpace, L: Logit, W: Float>(pass: Backward<'_, S, L, W>) -> Result<()> {
    let Shape { rows: n, cols: k } = pass.layer.shape;
    let (layer, dy) = (on_host(pass.layer), S::slice(pass.dy));
    if let Some(dx) = pass.dx {
        let mut own = Vec::new();
        let masked = match pass.saved {
            Saved::Masked(masked) => S::slice(masked),
            Saved::Codes(codes) => {
                let frozen = Layer::<Host, f32, W>::frozen(layer.shape, S::slice(codes), layer.weight);
                make(&frozen, allocate(&mut own, n * k), None)?;
                &own
            }
            Saved::Nothing => {
                make(&layer, allocate(&mut own, n * k), None)?;
                &own
            }
        };
        multiply(n, &Matrix::new(dy, n), &Matrix::new(masked, k), S::slice_mut(dx), k);
    }
    if let Some(ToLogits { x, logit_gradient: to, accumulate }) = pass.to_logits {
        let to = ToLogits { x: S::slice(x), logit_gradient: S::slice_mut(to), accumulate };
        logit_gradient(&layer, pass.plan.problem().tokens, dy, pass.regulariser, to)?;
    }
    Ok(())
}

/// `G = dYᵀ X`, some rows at a time, and from them the gradient of their logits.
fn logit_gradient<L: Logit, W: Float>(
    layer: &Layer<'_, Host, L, W>,
    tokens: usize,
    dy: &[W],
    regulariser: f32,
    ToLogits { x, logit_gradient, accumulate }: ToLogits<'_, Host, W>,
) -> Result<()> {
    let Source::Sampled { kind, sampling, logits } = layer.source else { return Ok(()) };
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
        let (shape, logits) = (Shape::new(rows, k), &logits[at..to]);
        let pass = mask::Backward::<Host, L, W, f32>::new(shape, kind, sampling, logits, weight, &*gradient);
        let pass = pass.shard(Shard { row_offset: layer.shard.row_offset + first as u64, ..layer.shard });
        let pass = pass.regulariser(regulariser);
        let logit_gradient = &mut logit_gradient[at..to];
        Pass::execute(Checked::part(match accumulate {
            true => pass.accumulate_logit_gradient(logit_gradient),
            false => pass.logit_gradient(logit_gradient),
        }))?;
    }
    Ok(())
}

/// A layer's operands as slices.
fn on_host<S: HostSpace, L: Logit, W: Float>(layer: Layer<'_, S, L, W>) -> Layer<'_, Host, L, W> {
    let Layer { shape, shard, source, weight } = layer;
    let source = match source {
        Source::Sampled { kind, sampling, logits } => Source::Sampled { kind, sampling, logits: S::slice(logits) },
        Source::Frozen { codes } => Source::Frozen { codes: S::slice(codes) },
    };
    Layer { shape, shard, source, weight: S::slice(weight) }
}

fn allocate<W: Float>(own: &mut Vec<W>, elements: usize) -> &mut [W] {
    own.resize(elements, W::zeroed());
    own
}

/// Writes `W∘M`, and the codes if they are wanted.
fn make<L: Logit, W: Float>(layer: &Layer<'_, Host, L, W>, masked: &mut [W], codes: Option<&mut [u8]>) -> Result<()> {
    let pass = mask::Forward::<Host, L, W>::of(layer.shape, layer.source).shard(layer.shard);
    let pass = pass.weight(layer.weight).masked(masked);
    Pass::execute(Checked::part(match codes {
        Some(codes) => pass.codes(codes),
        None => pass,
    }))
}
