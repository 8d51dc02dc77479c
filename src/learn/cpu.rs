//! The CPU executor of `learn`: sixteen groups at a time in the lanes of `crate::sample`, over pieces that rayon
//! spreads on threads. The gradient is made by the code of the mask's backward pass.

use super::{NORM_SLOTS, Statistics};
use crate::element::{Float, Logit};
use crate::error::Result;
use crate::noise;
use crate::sample::cpu::{Context, Numbering, PIECE, Rule};
use crate::sample::{GradientOf, Kind};
use crate::space::Host;
use moments::{Eight, Full, Moments};
use rayon::prelude::*;
use source::{Memory, OfMask, OfMemory, Source};
use step::{Piece, Stepping};

mod initial;
mod moments;
mod source;
mod step;

pub use initial::{initial_into, prior_into};

/// [`super::Initial`] over slices.
pub type Initial<'a, L> = super::Initial<'a, Host, L>;
/// [`super::Prior`] over slices.
pub type Prior<'a, L> = super::Prior<'a, Host, L>;
/// [`super::Update`] over slices.
pub type Update<'a, L> = super::Update<'a, Host, L>;
/// [`super::Fused`] over slices.
pub type Fused<'a, L, W, G> = super::Fused<'a, Host, L, W, G>;
/// [`super::Measure`] over slices.
pub type Measure<'a, L, W, G> = super::Measure<'a, Host, L, W, G>;
/// [`super::Norm`] over slices.
pub type Norm<'a> = super::Norm<'a, Host>;
/// [`super::Clip`] over slices.
pub type Clip<'a> = super::Clip<'a, Host>;
/// [`super::State`] over slices.
pub type State<'a> = super::State<'a, Host>;
/// [`super::Step`] over slices.
pub type Step<'a> = super::Step<'a, Host>;
/// [`super::Gradient`] over slices.
pub type Gradient<'a> = super::Gradient<'a, Host>;

/// Steps by a gradient in memory, on all threads of rayon's pool.
///
/// # Errors
/// What [`check`](super::Update::check) finds.
pub fn update_into<L: Logit>(args: Update<'_, L>) -> Result<()> {
    args.check()?;
    let scale = args.scale;
    let of_memory = |gradient| OfMemory { gradient, scale };
    let sources: Vec<_> = match args.gradient {
        Gradient::Read(gradient) => gradient.chunks(6 * PIECE).map(|piece| of_memory(Memory::Read(piece))).collect(),
        Gradient::Zero(gradient) => {
            gradient.chunks_mut(6 * PIECE).map(|piece| of_memory(Memory::Zero(piece))).collect()
        }
    };
    let [seed, draw] = args.rounding.map_or([0; 2], |rounding| [rounding.seed, rounding.draw]);
    let numbering = Numbering::new(args.shape, args.shard);
    let stepping = Stepping::new(&args.step, numbering, seed, draw, args.statistics.is_some());
    let sums = step(&stepping, args.logits, sources, args.step);
    give(sums, args.norm_squares, args.statistics);
    Ok(())
}

/// Makes the gradient of the logits and steps by it, on all threads of rayon's pool.
///
/// # Errors
/// What [`check`](super::Fused::check) finds.
pub fn fused_into<L: Logit, W: Float, G: GradientOf<W>>(args: Fused<'_, L, W, G>) -> Result<()> {
    args.check()?;
    let context = Context::new(args.kind, &args.sampling, args.shape, args.shard);
    let rule = Rule::new(&args.sampling, args.regulariser);
    let counts = args.statistics.is_some();
    let sources = of_mask(&context, &rule, args.kind, args.weight, args.gradient, counts);
    let numbering = Numbering::new(args.shape, args.shard);
    let stepping = Stepping::new(&args.step, numbering, args.sampling.seed, args.sampling.draw, counts);
    let sums = step(&stepping, args.logits, sources, args.step);
    give(sums, args.norm_squares, args.statistics);
    Ok(())
}

/// Adds the squares of the gradient that [`fused_into`] would step by.
///
/// # Errors
/// What [`check`](super::Measure::check) finds.
pub fn measure_into<L: Logit, W: Float, G: GradientOf<W>>(args: Measure<'_, L, W, G>) -> Result<()> {
    args.check()?;
    let context = Context::new(args.kind, &args.sampling, args.shape, args.shard);
    let rule = Rule::new(&args.sampling, args.regulariser);
    let sources = of_mask(&context, &rule, args.kind, args.weight, args.gradient, false);
    let pieces = args.logits.chunks(6 * PIECE).zip(sources).enumerate().collect::<Vec<_>>();
    let measure = |(i, (logits, source)): (usize, (&[L], _))| {
        step::measure_piece::<L, _>(i * PIECE, logits.len() / 6, logits, source)
    };
    let shares = pieces.into_par_iter().map(measure).collect::<Vec<_>>();
    add_squares(args.norm_squares, shares.iter().sum());
    Ok(())
}

/// Adds the squares of a gradient in memory.
///
/// # Errors
/// What [`check`](super::Norm::check) finds.
pub fn norm_into(args: Norm<'_>) -> Result<()> {
    args.check()?;
    let measure = |gradient: &[f32]| {
        let source = OfMemory { gradient: Memory::Read(gradient), scale: args.scale };
        step::measure_piece::<f32, _>(0, gradient.len() / 6, &[], source)
    };
    let shares = args.gradient.par_chunks(6 * PIECE).map(measure).collect::<Vec<_>>();
    add_squares(args.norm_squares, shares.iter().sum());
    Ok(())
}

/// Makes the clip factor and resets the running sum.
///
/// # Errors
/// What [`check`](super::Clip::check) finds.
pub fn clip_into(args: Clip<'_>) -> Result<()> {
    args.check()?;
    let ([sum, ..], [factor]) = (args.norm_squares, args.factor) else { return Ok(()) };
    let norm = sum.sqrt();
    let ratio = args.max_norm / (norm + 1e-6);
    *factor = if ratio >= 1.0 { 1.0 } else { ratio as f32 };
    if let Some([out]) = args.norm {
        *out = norm as f32;
    }
    *sum = 0.0;
    Ok(())
}

/// The pieces of a gradient that is made on the way.
fn of_mask<'a, W: Float, G: Float>(
    context: &'a Context,
    rule: &'a Rule,
    kind: Kind,
    weight: &'a [W],
    gradient: &'a [G],
    counts: bool,
) -> Vec<OfMask<'a, W, G>> {
    debug_assert!(kind != Kind::Argmax, "checked");
    let operands = weight.chunks(4 * PIECE).zip(gradient.chunks(4 * PIECE));
    operands.map(|(weight, gradient)| OfMask { context, rule, weight, gradient, counts }).collect()
}

/// Steps piece by piece; gives the sums of all, the confidence not yet a mean.
fn step<L: Logit, S: Source>(stepping: &Stepping, logits: &mut [L], sources: Vec<S>, step: Step<'_>) -> Statistics {
    match step.state {
        State::F32 { m, v } => {
            let moments = m.chunks_mut(6 * PIECE).zip(v.chunks_mut(6 * PIECE));
            step_pieces(stepping, logits, sources, moments.map(|(m, v)| Full { m, v }))
        }
        State::Eight { m, v, scales } => {
            let of_piece = 2 * PIECE / State::BLOCK_GROUPS;
            let moments = m.chunks_mut(6 * PIECE).zip(v.chunks_mut(6 * PIECE)).zip(scales.chunks_mut(of_piece));
            step_pieces(stepping, logits, sources, moments.map(|((m, v), scales)| Eight { m, v, scales }))
        }
    }
}

fn step_pieces<L: Logit, S: Source, M: Moments>(
    stepping: &Stepping,
    logits: &mut [L],
    sources: Vec<S>,
    moments: impl Iterator<Item = M>,
) -> Statistics {
    let operands = logits.chunks_mut(6 * PIECE).zip(sources).zip(moments).enumerate();
    let pieces = operands.map(|(i, ((logits, source), moments))| Piece { first: i * PIECE, logits, source, moments });
    let pieces = pieces.collect::<Vec<_>>();
    let shares = pieces.into_par_iter().map(|piece| step::step_piece(stepping, piece)).collect::<Vec<_>>();
    // In order, so that threads do not change the result.
    shares.iter().fold(Statistics::default(), |sum, share| Statistics {
        gradient_squares: sum.gradient_squares + share.gradient_squares,
        kept_energy: sum.kept_energy + share.kept_energy,
        confidence: sum.confidence + share.confidence,
        moved: sum.moved + share.moved,
        skipped: sum.skipped + share.skipped,
        groups: sum.groups + share.groups,
    })
}

/// Gives the sums to those outputs that were asked for.
fn give(sums: Statistics, norm_squares: Option<&mut [f64]>, statistics: Option<&mut [Statistics]>) {
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
    debug_assert_eq!(norm_squares.len(), NORM_SLOTS, "checked");
    if let [sum, ..] = norm_squares {
        *sum += squares;
    }
}

/// The keys of a stream of random numbers of its own.
fn keys(seed: u64, stream: u64) -> [u32; 20] {
    noise::round_keys(seed ^ stream)
}
