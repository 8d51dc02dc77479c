//! The CPU executor of `matmul`: the passes of [`crate::mask`] around dense products on all threads of rayon's pool.
//! Results do not depend on how many threads there are. It allocates what it works in, and leaves a workspace alone.

use super::backward::{ToLogits, ToWeight};
use super::{Backward, Forward, Layer, Problem, Saved, Step};
use crate::dense::cpu::{Matrix, multiply};
use crate::element::{Float, Logit};
use crate::error::Result;
use crate::learn::{self, Moments, Statistics};
use crate::mask;
use crate::pass::{Checked, Pass};
use crate::sample::{Source, WideOrOwn};
use crate::shape::{Shape, Shard};
use crate::space::{Host, HostSpace};
use std::ops::Range;

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
    let (layer, dy) = (on_host(pass.layer), S::slice(pass.dy));
    let (problem, panel_rows) = (pass.plan.problem(), pass.plan.panel_rows());
    let of = |x| OfWeight { problem, panel_rows, dy, x };
    if let Some(dx) = pass.dx {
        input_gradient(&layer, saved_on_host::<S, W>(pass.saved), dy, S::slice_mut(dx))?;
    }
    if let Some(ToWeight { x, weight_gradient }) = pass.to_weight {
        match weight_gradient {
            WideOrOwn::Wide(g) => of(S::slice(x)).write(S::slice_mut(g)),
            WideOrOwn::Own(g) => of(S::slice(x)).write(S::slice_mut(g)),
        }
    }
    if let Some(ToLogits { x, logit_gradient: to, accumulate }) = pass.to_logits {
        let to = ToLogits { x: S::slice(x), logit_gradient: S::slice_mut(to), accumulate };
        logit_gradient(&layer, &of(to.x), pass.regulariser, to)?;
    }
    Ok(())
}

/// Writes `dx`, then moves logits and moments.
pub(super) fn step<S: HostSpace, L: Logit, W: Float>(pass: Step<'_, S, L, W>) -> Result<()> {
    let (kind, sampling, shape) = (pass.plan.step_kind()?, pass.sampling, pass.plan.problem().shape);
    let (dy, weight, logits) = (S::slice(pass.dy), S::slice(pass.weight), S::slice_mut(pass.logits));
    if let Some(dx) = pass.dx {
        let layer = Layer::<Host, L, W>::sampled(shape, kind, sampling, &*logits, weight).shard(pass.shard);
        input_gradient(&layer, saved_on_host::<S, W>(pass.saved), dy, S::slice_mut(dx))?;
    }
    let of = OfWeight { problem: pass.plan.problem(), panel_rows: pass.plan.panel_rows(), dy, x: S::slice(pass.x) };
    let (mut by, statistics) = (pass.step.on_host(), pass.statistics.map(S::slice_mut));
    let mut sums = Statistics::default();
    of.panels(|rows, gradient| {
        let panel = Panel::new(shape, pass.shard, rows);
        let (weight, logits, step) =
            (&weight[panel.weights()], &mut logits[panel.logits()], by.part(panel.groups.clone()));
        let part = learn::Fused::new(panel.shape, kind, sampling, logits, weight, gradient, step);
        let part = part.shard(panel.shard).regulariser(pass.regulariser);
        sums = sums.plus(&learn::fused_part_on_host::<Host, L, W, f32>(part, statistics.is_some()));
        Ok(())
    })?;
    learn::give(sums, pass.norm_squares.map(S::slice_mut), statistics);
    Ok(())
}

fn saved_on_host<'a, S: HostSpace, W: Float>(saved: Saved<S::Ref<'a, W>, S::Ref<'a, u8>>) -> Saved<&'a [W], &'a [u8]> {
    match saved {
        Saved::Nothing => Saved::Nothing,
        Saved::Masked(masked) => Saved::Masked(S::slice(masked)),
        Saved::Codes(codes) => Saved::Codes(S::slice(codes)),
    }
}

fn input_gradient<L: Logit, W: Float>(
    layer: &Layer<'_, Host, L, W>,
    saved: Saved<&[W], &[u8]>,
    dy: &[W],
    dx: &mut [W],
) -> Result<()> {
    let Shape { rows: n, cols: k } = layer.shape;
    let mut own = Vec::new();
    let masked = match saved {
        Saved::Masked(masked) => masked,
        Saved::Codes(codes) => {
            let frozen = Layer::<Host, f32, W>::frozen(layer.shape, codes, layer.weight);
            make(&frozen, allocate(&mut own, n * k), None)?;
            &own
        }
        Saved::Nothing => {
            make(layer, allocate(&mut own, n * k), None)?;
            &own
        }
    };
    multiply(n, &Matrix::new(dy, n), &Matrix::new(masked, k), dx, k);
    Ok(())
}

/// What `G = dYᵀ X` is made of.
struct OfWeight<'a, W> {
    problem: Problem,
    panel_rows: usize,
    dy: &'a [W],
    x: &'a [W],
}

impl<W: Float> OfWeight<'_, W> {
    /// The rows of panels. Whole blocks of 8-bit moments, so that a step's panels are those of the gradient.
    fn rows(&self) -> impl Iterator<Item = Range<usize>> + use<W> {
        let Shape { rows, cols } = self.problem.shape;
        let most =
            Moments::rows_of_blocks(self.problem.shape, (PANEL_BYTES / (4 * cols.max(1))).clamp(1, self.panel_rows));
        (0..rows).step_by(most).map(move |first| first..rows.min(first + most))
    }

    /// Writes some rows, each value rounded once.
    fn write_rows<G: Float>(&self, rows: Range<usize>, gradient: &mut [G]) {
        let of_rows = Matrix::new(self.dy, self.problem.shape.rows).starting_at(rows.start).transposed();
        multiply(
            self.problem.tokens,
            &of_rows,
            &Matrix::new(self.x, self.problem.shape.cols),
            gradient,
            self.problem.shape.cols,
        );
    }

    fn write<G: Float>(&self, gradient: &mut [G]) {
        let cols = self.problem.shape.cols;
        self.rows().for_each(|rows| self.write_rows(rows.clone(), &mut gradient[rows.start * cols..rows.end * cols]));
    }

    /// Some rows at a time, in `f32`.
    fn panels(&self, mut of_rows: impl FnMut(Range<usize>, &[f32]) -> Result<()>) -> Result<()> {
        let mut gradient = Vec::new();
        for rows in self.rows() {
            gradient.resize(rows.len() * self.problem.shape.cols, 0.0);
            self.write_rows(rows.clone(), &mut gradient);
            of_rows(rows, &gradient)?;
        }
        Ok(())
    }
}

/// Some rows of a layer.
struct Panel {
    shape: Shape,
    shard: Shard,
    groups: Range<usize>,
}

impl Panel {
    fn new(whole: Shape, shard: Shard, rows: Range<usize>) -> Self {
        let in_row = whole.cols / 4;
        let shard = Shard { row_offset: shard.row_offset + rows.start as u64, ..shard };
        Self { shape: Shape::new(rows.len(), whole.cols), shard, groups: rows.start * in_row..rows.end * in_row }
    }

    fn weights(&self) -> Range<usize> {
        4 * self.groups.start..4 * self.groups.end
    }

    fn logits(&self) -> Range<usize> {
        6 * self.groups.start..6 * self.groups.end
    }
}

/// The gradient of the logits from that of some rows at a time.
fn logit_gradient<L: Logit, W: Float>(
    layer: &Layer<'_, Host, L, W>,
    of: &OfWeight<'_, W>,
    regulariser: f32,
    ToLogits { logit_gradient, accumulate, .. }: ToLogits<'_, Host, W>,
) -> Result<()> {
    let Source::Sampled { kind, sampling, logits } = layer.source else { return Ok(()) };
    of.panels(|rows, gradient| {
        let panel = Panel::new(layer.shape, layer.shard, rows);
        let (weight, logits) = (&layer.weight[panel.weights()], &logits[panel.logits()]);
        let pass = mask::Backward::<Host, L, W, f32>::new(panel.shape, kind, sampling, logits, weight, gradient);
        let pass = pass.shard(panel.shard).regulariser(regulariser);
        let logit_gradient = &mut logit_gradient[panel.logits()];
        Pass::execute(Checked::part(match accumulate {
            true => pass.accumulate_logit_gradient(logit_gradient),
            false => pass.logit_gradient(logit_gradient),
        }))
    })
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
