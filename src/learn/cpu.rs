//! The CPU executor of `learn`: sixteen groups at a time in the lanes of `crate::sample`, over pieces that rayon
//! spreads on threads. The gradient is made by the code of the mask's backward pass.

use super::update::Gradient;
use super::{Clip, Fused, Measure, Moments, Norm, Statistics, Step, Update};
use crate::element::{Float, Logit};
use crate::sample::GradientOf;
use crate::sample::cpu::{Context, Numbering, PIECE, Rule};
use crate::space::HostSpace;
use crate::threads;
use moments::{Eight, Full, PieceMoments};
use source::{Memory, OfMask, OfMemory, Source};
use step::Piece;
use stepping::Stepping;

mod initial;
mod moments;
mod source;
mod step;
mod stepping;

pub(super) use initial::{initial, prior};

/// Steps by a gradient in memory.
pub(super) fn update<S: HostSpace, L: Logit>(pass: Update<'_, S, L>) {
    let scale = pass.scale;
    let of_memory = |gradient| OfMemory { gradient, scale };
    let sources: Vec<_> = match pass.gradient {
        Gradient::Read(gradient) => {
            S::slice(gradient).chunks(6 * PIECE).map(|piece| of_memory(Memory::Read(piece))).collect()
        }
        Gradient::Zero(gradient) => {
            S::slice_mut(gradient).chunks_mut(6 * PIECE).map(|piece| of_memory(Memory::Zero(piece))).collect()
        }
    };
    let [seed, draw] = pass.rounding.map_or([0; 2], |rounding| [rounding.seed, rounding.draw]);
    let Step { by, moments, factor } = pass.step;
    let numbering = Numbering::new(pass.shape, pass.shard);
    let stepping = Stepping::new(&by, factor.map(S::slice), numbering, seed, draw, pass.statistics.is_some());
    let sums = step(&stepping, S::slice_mut(pass.logits), sources, moments);
    give(sums, pass.norm_squares.map(S::slice_mut), pass.statistics.map(S::slice_mut));
}

/// Makes the gradient of the logits and steps by it.
pub(super) fn fused<S: HostSpace, L: Logit, W: Float, G: GradientOf<W>>(mut pass: Fused<'_, S, L, W, G>) {
    let (norm_squares, statistics) = (pass.norm_squares.take(), pass.statistics.take());
    let sums = fused_part(pass, statistics.is_some());
    give(sums, norm_squares.map(S::slice_mut), statistics.map(S::slice_mut));
}

/// The same without its sums, which it gives: the confidence not yet a mean, and all but the gradient's squares only if
/// it `counts`.
pub(crate) fn fused_part<S: HostSpace, L: Logit, W: Float, G: GradientOf<W>>(
    pass: Fused<'_, S, L, W, G>,
    counts: bool,
) -> Statistics {
    let context = Context::new(pass.kind, &pass.sampling, pass.shape, pass.shard);
    let rule = Rule::new(&pass.sampling, pass.regulariser);
    let sources = of_mask(&context, &rule, S::slice(pass.weight), S::slice(pass.gradient), counts);
    let Step { by, moments, factor } = pass.step;
    let numbering = Numbering::new(pass.shape, pass.shard);
    let [seed, draw] = [pass.sampling.seed, pass.sampling.draw];
    let stepping = Stepping::new(&by, factor.map(S::slice), numbering, seed, draw, counts);
    step(&stepping, S::slice_mut(pass.logits), sources, moments)
}

/// Adds the squares of the gradient that [`fused`] would step by.
pub(super) fn measure<S: HostSpace, L: Logit, W: Float, G: GradientOf<W>>(pass: Measure<'_, S, L, W, G>) {
    let context = Context::new(pass.kind, &pass.sampling, pass.shape, pass.shard);
    let rule = Rule::new(&pass.sampling, pass.regulariser);
    let sources = of_mask(&context, &rule, S::slice(pass.weight), S::slice(pass.gradient), false);
    let pieces = S::slice(pass.logits).chunks(6 * PIECE).zip(sources).enumerate();
    let measure = |(i, (logits, source)): (usize, (&[L], _))| {
        step::measure_piece::<L, _>(i * PIECE, logits.len() / 6, logits, source)
    };
    let shares = threads::map(pieces, measure);
    add_squares(S::slice_mut(pass.norm_squares), shares.iter().sum());
}

/// Adds the squares of a gradient in memory.
pub(super) fn norm<S: HostSpace>(pass: Norm<'_, S>) {
    let measure = |gradient: &[f32]| {
        let source = OfMemory { gradient: Memory::Read(gradient), scale: pass.scale };
        step::measure_piece::<f32, _>(0, gradient.len() / 6, &[], source)
    };
    let shares = threads::map(S::slice(pass.gradient).chunks(6 * PIECE), measure);
    add_squares(S::slice_mut(pass.norm_squares), shares.iter().sum());
}

/// Makes the clip factor and resets the running sum.
pub(super) fn clip<S: HostSpace>(pass: Clip<'_, S>) {
    let ([sum, ..], [factor]) = (S::slice_mut(pass.norm_squares), S::slice_mut(pass.factor)) else { return };
    let norm = sum.sqrt();
    let ratio = pass.max_norm / (norm + 1e-6);
    *factor = if ratio >= 1.0 { 1.0 } else { ratio as f32 };
    if let Some([out]) = pass.norm.map(S::slice_mut) {
        *out = norm as f32;
    }
    *sum = 0.0;
}

/// The pieces of a gradient that is made on the way.
fn of_mask<'a, W: Float, G: Float>(
    context: &'a Context,
    rule: &'a Rule,
    weight: &'a [W],
    gradient: &'a [G],
    counts: bool,
) -> Vec<OfMask<'a, W, G>> {
    let operands = weight.chunks(4 * PIECE).zip(gradient.chunks(4 * PIECE));
    operands.map(|(weight, gradient)| OfMask { context, rule, weight, gradient, counts }).collect()
}

/// Steps piece by piece; gives the sums of all, the confidence not yet a mean.
fn step<S: HostSpace, L: Logit>(
    stepping: &Stepping,
    logits: &mut [L],
    sources: Vec<impl Source>,
    moments: Moments<'_, S>,
) -> Statistics {
    match moments {
        Moments::F32 { m, v } => {
            let moments = S::slice_mut(m).chunks_mut(6 * PIECE).zip(S::slice_mut(v).chunks_mut(6 * PIECE));
            step_pieces(stepping, logits, sources, moments.map(|(m, v)| Full { m, v }))
        }
        Moments::Eight { m, v, scales } => {
            let of_piece = 2 * PIECE / Moments::BLOCK_GROUPS;
            let moments = S::slice_mut(m).chunks_mut(6 * PIECE).zip(S::slice_mut(v).chunks_mut(6 * PIECE));
            let moments = moments.zip(S::slice_mut(scales).chunks_mut(of_piece));
            step_pieces(stepping, logits, sources, moments.map(|((m, v), scales)| Eight { m, v, scales }))
        }
    }
}

fn step_pieces<L: Logit, S: Source, M: PieceMoments>(
    stepping: &Stepping,
    logits: &mut [L],
    sources: Vec<S>,
    moments: impl Iterator<Item = M>,
) -> Statistics {
    let operands = logits.chunks_mut(6 * PIECE).zip(sources).zip(moments).enumerate();
    let pieces = operands.map(|(i, ((logits, source), moments))| Piece { first: i * PIECE, logits, source, moments });
    let shares = threads::map(pieces, |piece| step::step_piece(stepping, piece));
    // In order, so that threads do not change the result.
    shares.iter().fold(Statistics::default(), |sum, share| sum.plus(share))
}

/// Gives the sums to those outputs that were asked for.
pub(crate) fn give(sums: Statistics, norm_squares: Option<&mut [f64]>, statistics: Option<&mut [Statistics]>) {
    if let Some(norm_squares) = norm_squares {
        add_squares(norm_squares, sums.gradient_squares);
    }
    if let Some([result, ..]) = statistics {
        let stepped = sums.groups - sums.skipped;
        let confidence = if stepped > 0 { sums.confidence / stepped as f64 } else { 0.0 };
        *result = Statistics { confidence, ..sums };
    }
}

fn add_squares(norm_squares: &mut [f64], squares: f64) {
    if let [sum, ..] = norm_squares {
        *sum += squares;
    }
}
