//! The CPU executor of `mask`: sixteen groups at a time in the lanes of `crate::sample`, over pieces that rayon spreads
//! on threads. Choices and noise are the same bits as on a device.

use super::{Backward, Forward, Statistics};
use crate::element::{Float, Logit};
use crate::pattern::Pattern;
use crate::sample::cpu::{Context, PIECE, Rule, piece, pieces_mut};
use crate::sample::lanes::{self, Block, Choice, Soft};
use crate::sample::vector::{LANES, Vector, by_processor};
use crate::sample::{GradientOf, Kind, Source};
use crate::space::HostSpace;
use crate::threads;

/// Samples masks, or takes those of codes, and writes what was asked for.
pub(super) fn forward<S: HostSpace, L: Logit, W: Float>(pass: Forward<'_, S, L, W>) {
    let weight = pass.weight.map(S::slice);
    let masked = pass.masked.map(S::slice_mut);
    let (kind, sampling, logits) = match pass.source {
        Source::Sampled { kind, sampling, logits } => (kind, sampling, S::slice(logits)),
        Source::Frozen { codes } => {
            if let (Some(weight), Some(masked)) = (weight, masked) {
                keep(S::slice(codes), weight, masked);
            }
            return;
        }
    };
    let context = Context::new(kind, &sampling, pass.shape, pass.shard);
    let statistics = pass.statistics.map(S::slice_mut);
    let previous_codes = pass.previous_codes.map(S::slice);
    let mut masked = pieces_mut(masked, 4 * PIECE);
    let mut mask = pieces_mut(pass.mask.map(S::slice_mut), 4 * PIECE);
    let mut patterns = pieces_mut(pass.patterns.map(S::slice_mut), PIECE);
    let mut codes = pieces_mut(pass.codes.map(S::slice_mut), PIECE / 2);
    let pieces = logits.chunks(6 * PIECE).enumerate().map(|(i, logits)| ForwardPiece {
        first: i * PIECE,
        logits,
        weight: piece(weight, i, 4 * PIECE),
        masked: masked.next(),
        mask: mask.next(),
        patterns: patterns.next(),
        codes: codes.next(),
        previous_codes: piece(previous_codes, i, PIECE / 2),
        counts: statistics.is_some(),
    });
    let shares = threads::map(pieces, |piece| forward_piece(&context, piece));
    if let Some([result, ..]) = statistics {
        *result = add_up(&shares);
    }
}

/// Takes the gradient of the masked weight to the logits.
pub(super) fn backward<S: HostSpace, L: Logit, W: Float, G: GradientOf<W>>(pass: Backward<'_, S, L, W, G>) {
    let context = Context::new(pass.kind, &pass.sampling, pass.shape, pass.shard);
    let rule = Rule::new(&pass.sampling, pass.regulariser);
    let mut logit_gradient = pieces_mut(pass.logit_gradient.map(S::slice_mut), 6 * PIECE);
    let mut weight_gradient = pieces_mut(pass.weight_gradient.map(S::slice_mut), 4 * PIECE);
    let (logits, weight) = (S::slice(pass.logits).chunks(6 * PIECE), S::slice(pass.weight).chunks(4 * PIECE));
    let operands = logits.zip(weight).zip(S::slice(pass.gradient).chunks(4 * PIECE));
    let pieces = operands.enumerate().map(|(i, ((logits, weight), gradient))| BackwardPiece {
        first: i * PIECE,
        logits,
        weight,
        gradient,
        logit_gradient: logit_gradient.next(),
        weight_gradient: weight_gradient.next(),
        accumulate: pass.accumulate,
    });
    threads::map(pieces, |piece| backward_piece(&context, &rule, piece));
}

/// Writes `W∘M` from codes: `+0` where a weight is dropped, NaN where a code is none of the six.
fn keep<W: Float>(codes: &[u8], weight: &[W], masked: &mut [W]) {
    /// Groups of a task: an even number, so that it starts on a byte.
    const GROUPS: usize = 1 << 14;
    let tasks = masked.chunks_mut(4 * GROUPS).zip(weight.chunks(4 * GROUPS)).zip(codes.chunks(GROUPS / 2));
    threads::map(tasks, |((masked, weight), codes)| {
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

by_processor! {
fn forward_piece<V, L: Logit, W: Float>(context: &Context, piece: ForwardPiece<'_, L, W>) -> Statistics {
    let (mut share, mut piece) = (Statistics::default(), piece);
    let groups = piece.logits.len() / 6;
    for start in (0..groups).step_by(LANES) {
        let count = LANES.min(groups - start);
        let range = |each: usize| start * each..(start + count) * each;
        let z = context.scores::<V>(piece.first + start, Block::read(&piece.logits[range(6)]));
        let top = z.largest();
        let chosen = if piece.wants_choice(context.kind) { Some(z.choose(top)) } else { None };
        let soft =
            if piece.wants_soft(context.kind) { Some(z.soft_mask(top, context.exponent_scale())) } else { None };
        let mut masked = Block::splat(0.0);
        if let Some(weight) = piece.weight {
            masked = apply(context.kind, &soft, &chosen, Block::read(&weight[range(4)]));
        }
        if let Some(out) = &mut piece.masked {
            masked.write(&mut out[range(4)]);
        }
        if let Some(out) = &mut piece.mask {
            apply(context.kind, &soft, &chosen, Block::splat(1.0)).write(&mut out[range(4)]);
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
            share.confidence += lanes::sum(&soft.confidence.to_array()[..count]);
            share.kept_energy += lanes::sum(&masked.squares().to_array()[..count]);
        }
    }
    share
}
}

#[inline(always)]
fn apply<V: Vector>(kind: Kind, soft: &Option<Soft<V>>, chosen: &Option<Choice<V>>, block: Block<V, 4>) -> Block<V, 4> {
    match (kind, soft, chosen) {
        (Kind::Soft, Some(soft), _) => block.times(&soft.mask),
        (_, _, Some(chosen)) => block.keep(chosen),
        _ => block,
    }
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

by_processor! {
fn backward_piece<V, L: Logit, W: Float, G: Float>(
    context: &Context,
    rule: &Rule,
    piece: BackwardPiece<'_, L, W, G>,
) {
    let mut piece = piece;
    let groups = piece.logits.len() / 6;
    for start in (0..groups).step_by(LANES) {
        let count = LANES.min(groups - start);
        let range = |each: usize| start * each..(start + count) * each;
        let sampled = context.sample::<V>(piece.first + start, Block::read(&piece.logits[range(6)]));
        let gradient = Block::<V, 4>::read(&piece.gradient[range(4)]);
        if let Some(out) = &mut piece.weight_gradient {
            sampled.apply(gradient).write(&mut out[range(4)]);
        }
        let Some(out) = &mut piece.logit_gradient else { continue };
        let weight = Block::<V, 4>::read(&piece.weight[range(4)]);
        let mut of_logits = sampled.logit_gradient(rule, &weight, &gradient);
        if piece.accumulate {
            of_logits.add(&Block::read(&out[range(6)]));
        }
        of_logits.write(&mut out[range(6)]);
    }
}
}
