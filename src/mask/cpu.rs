//! The CPU executor of `mask`: sixteen groups at a time in arrays of lanes, which compilers turn into vector code, over
//! pieces that rayon spreads on threads. Choices and noise are the same bits as on a device.
//!
//! The lane code is compiled a second time for processors with AVX2 and FMA and chosen at run time: without a fused
//! multiply-add instruction the noise is right but slow.

use super::Statistics;
use crate::element::{Float, Logit};
use crate::error::Result;
use crate::sample::cpu::{Context, PIECE, Rule, piece, pieces_mut};
use crate::sample::lanes::{self, Block, LANES};
use crate::sample::{GradientOf, Kind, Sampling};
use crate::shape::Shape;
use crate::space::Host;
use multiversion::multiversion;
use rayon::prelude::*;

/// [`super::Forward`] over slices.
pub type Forward<'a, L, W> = super::Forward<'a, Host, L, W>;
/// [`super::Backward`] over slices.
pub type Backward<'a, L, W, G> = super::Backward<'a, Host, L, W, G>;

/// Samples masks and writes what was asked for, on all threads of rayon's pool.
///
/// # Errors
/// What [`check`](super::Forward::check) finds.
pub fn forward_into<L: Logit, W: Float>(args: Forward<'_, L, W>) -> Result<()> {
    args.check()?;
    let context = Context::new(args.kind, &args.sampling, args.shape, args.shard);
    let statistics = args.statistics;
    let mut masked = pieces_mut(args.masked, 4 * PIECE);
    let mut mask = pieces_mut(args.mask, 4 * PIECE);
    let mut patterns = pieces_mut(args.patterns, PIECE);
    let mut codes = pieces_mut(args.codes, PIECE / 2);
    let logits = args.logits.chunks(6 * PIECE);
    let pieces = logits.enumerate().map(|(i, logits)| ForwardPiece {
        first: i * PIECE,
        logits,
        weight: piece(args.weight, i, 4 * PIECE),
        masked: masked.next(),
        mask: mask.next(),
        patterns: patterns.next(),
        codes: codes.next(),
        previous_codes: piece(args.previous_codes, i, PIECE / 2),
        counts: statistics.is_some(),
    });
    let pieces = pieces.collect::<Vec<_>>();
    let shares = pieces.into_par_iter().map(|piece| forward_piece(&context, piece)).collect::<Vec<_>>();
    if let Some([result, ..]) = statistics {
        *result = add_up(&shares);
    }
    Ok(())
}

/// The masked weight `W∘M`, `[N, K]`, in a new vector.
///
/// # Errors
/// What [`check`](super::Forward::check) finds.
pub fn masked_weight<L: Logit, W: Float>(
    shape: Shape,
    kind: Kind,
    sampling: Sampling,
    logits: &[L],
    weight: &[W],
) -> Result<Vec<W>> {
    let mut masked = vec![W::zeroed(); weight.len()];
    forward_into(Forward::new(shape, kind, sampling, logits).weight(weight).masked(&mut masked))?;
    Ok(masked)
}

/// Takes the gradient of the masked weight to the logits, on all threads of rayon's pool.
///
/// # Errors
/// What [`check`](super::Backward::check) finds.
pub fn backward_into<L: Logit, W: Float, G: GradientOf<W>>(args: Backward<'_, L, W, G>) -> Result<()> {
    args.check()?;
    let context = Context::new(args.kind, &args.sampling, args.shape, args.shard);
    let rule = Rule::new(&args.sampling, args.regulariser);
    let mut logit_gradient = pieces_mut(args.logit_gradient, 6 * PIECE);
    let mut weight_gradient = pieces_mut(args.weight_gradient, 4 * PIECE);
    let operands =
        args.logits.chunks(6 * PIECE).zip(args.weight.chunks(4 * PIECE)).zip(args.gradient.chunks(4 * PIECE));
    let pieces = operands.enumerate().map(|(i, ((logits, weight), gradient))| BackwardPiece {
        first: i * PIECE,
        logits,
        weight,
        gradient,
        logit_gradient: logit_gradient.next(),
        weight_gradient: weight_gradient.next(),
        accumulate: args.accumulate,
    });
    let pieces = pieces.collect::<Vec<_>>();
    pieces.into_par_iter().for_each(|piece| backward_piece(&context, &rule, piece));
    Ok(())
}

struct ForwardPiece<'a, L, W> {
    first: usize,
    logits: &'a [L],
    weight: Option<&'a [W]>,
    masked: Option<&'a mut [W]>,
    mask: Option<&'a mut [W]>,
    patterns: Option<&'a mut [u8]>,
    codes: Option<&'a mut [u8]>,
    previous_codes: Option<&'a [u8]>,
    counts: bool,
}

impl<L, W> ForwardPiece<'_, L, W> {
    #[inline(always)]
    fn wants_choice(&self, kind: Kind) -> bool {
        kind != Kind::Soft || self.patterns.is_some() || self.codes.is_some() || self.counts
    }

    #[inline(always)]
    fn wants_soft(&self, kind: Kind) -> bool {
        kind == Kind::Soft || self.counts
    }
}

#[multiversion(targets("x86_64+avx2+fma+f16c"))]
fn forward_piece<L: Logit, W: Float>(context: &Context, mut piece: ForwardPiece<'_, L, W>) -> Statistics {
    let mut share = Statistics::default();
    let groups = piece.logits.len() / 6;
    for start in (0..groups).step_by(LANES) {
        let count = LANES.min(groups - start);
        let range = |each: usize| start * each..(start + count) * each;
        let z = context.scores(piece.first + start, Block::read(&piece.logits[range(6)]));
        let top = z.largest();
        let chosen = piece.wants_choice(context.kind).then(|| z.choose(&top));
        let soft = piece.wants_soft(context.kind).then(|| z.soft_mask(&top, context.exponent_scale()));
        let apply = |block: Block<4>| match (context.kind, &soft, &chosen) {
            (Kind::Soft, Some(soft), _) => block.times(&soft.mask),
            (_, _, Some(chosen)) => block.keep(chosen),
            _ => block,
        };
        let masked = piece.weight.map(|weight| apply(Block::read(&weight[range(4)])));
        if let (Some(out), Some(masked)) = (&mut piece.masked, &masked) {
            masked.write(&mut out[range(4)]);
        }
        if let Some(out) = &mut piece.mask {
            apply(Block::ones()).write(&mut out[range(4)]);
        }
        let bytes = start / 2..(start + count).div_ceil(2);
        if let (Some(out), Some(chosen)) = (&mut piece.patterns, &chosen) {
            chosen.write_indices(&mut out[range(1)]);
        }
        if let (Some(out), Some(chosen)) = (&mut piece.codes, &chosen) {
            chosen.write_codes(count, &mut out[bytes.clone()]);
        }
        if let (true, Some(chosen), Some(soft)) = (piece.counts, &chosen, &soft) {
            share.groups += count as u64;
            share.moved += piece.previous_codes.map_or(0, |codes| chosen.moved(count, &codes[bytes]));
            share.confidence += lanes::sum(&soft.confidence[..count]);
            share.kept_energy += masked.map_or(0.0, |masked| lanes::sum(&masked.squares()[..count]));
        }
    }
    share
}

/// Adds shares in order, so that threads do not change the result.
fn add_up(shares: &[Statistics]) -> Statistics {
    let mut total = Statistics::default();
    for share in shares {
        total.kept_energy += share.kept_energy;
        total.confidence += share.confidence;
        total.moved += share.moved;
        total.groups += share.groups;
    }
    if total.groups > 0 {
        total.confidence /= total.groups as f64;
    }
    total
}

struct BackwardPiece<'a, L, W, G> {
    first: usize,
    logits: &'a [L],
    weight: &'a [W],
    gradient: &'a [G],
    logit_gradient: Option<&'a mut [f32]>,
    weight_gradient: Option<&'a mut [G]>,
    accumulate: bool,
}

#[multiversion(targets("x86_64+avx2+fma+f16c"))]
fn backward_piece<L: Logit, W: Float, G: Float>(context: &Context, rule: &Rule, mut piece: BackwardPiece<'_, L, W, G>) {
    let groups = piece.logits.len() / 6;
    for start in (0..groups).step_by(LANES) {
        let count = LANES.min(groups - start);
        let range = |each: usize| start * each..(start + count) * each;
        let sampled = context.sample(piece.first + start, Block::read(&piece.logits[range(6)]));
        let gradient = Block::<4>::read(&piece.gradient[range(4)]);
        if let Some(out) = &mut piece.weight_gradient {
            sampled.apply(gradient).write(&mut out[range(4)]);
        }
        let Some(out) = &mut piece.logit_gradient else { continue };
        let weight = Block::<4>::read(&piece.weight[range(4)]);
        let mut of_logits = sampled.logit_gradient(rule, &weight, &gradient);
        if piece.accumulate {
            of_logits.add(&Block::read(&out[range(6)]));
        }
        of_logits.write(&mut out[range(6)]);
    }
}
