//! The CPU executor of `mask`: sixteen groups at a time in arrays of lanes, which compilers turn into vector code, over
//! pieces that rayon spreads on threads. Choices and noise are the same bits as on a device.
//!
//! The lane code is compiled a second time for processors with AVX2 and FMA and chosen at run time: without a fused
//! multiply-add instruction the noise is right but slow.

use super::{GradientOf, Kind, Sampling, Statistics};
use crate::element::{Element, Logit};
use crate::error::Result;
use crate::shape::{Shape, Shard};
use crate::space::Host;
use lanes::{Block, Choice, LANES, Soft};
use multiversion::multiversion;
use rayon::prelude::*;

pub(crate) mod lanes;

/// [`super::Forward`] over slices.
pub type Forward<'a, L, W> = super::Forward<'a, Host, L, W>;
/// [`super::Backward`] over slices.
pub type Backward<'a, L, W, G> = super::Backward<'a, Host, L, W, G>;

/// Groups of a piece: one task of a thread, one share of the statistics.
pub(crate) const PIECE: usize = 4096;

/// Samples masks and writes what was asked for, on all threads of rayon's pool.
///
/// # Errors
/// What [`check`](super::Forward::check) finds.
pub fn forward_into<L: Logit, W: Element>(args: Forward<'_, L, W>) -> Result<()> {
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
pub fn masked_weight<L: Logit, W: Element>(
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
pub fn backward_into<L: Logit, W: Element, G: GradientOf<W>>(args: Backward<'_, L, W, G>) -> Result<()> {
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

/// Numbers the groups of a shard as the whole does.
#[derive(Clone, Copy)]
pub(crate) struct Numbering {
    row_groups: usize,
    shard: Shard,
}

impl Numbering {
    pub(crate) fn new(shape: Shape, shard: Shard) -> Self {
        Self { row_groups: shape.cols / 4, shard }
    }

    /// The global numbers of `LANES` groups from `first` on; those past the end of the shard are of no consequence.
    #[inline(always)]
    pub(crate) fn globals(&self, first: usize) -> [u64; LANES] {
        let (mut row, mut group) = (first / self.row_groups, first % self.row_groups);
        let start = self.shard.group(row as u64, group as u64);
        let mut globals = std::array::from_fn(|lane| start + lane as u64);
        if group + LANES > self.row_groups {
            for global in &mut globals {
                *global = self.shard.group(row as u64, group as u64);
                group += 1;
                if group == self.row_groups {
                    (row, group) = (row + 1, 0);
                }
            }
        }
        globals
    }
}

/// The same for all pieces of a pass.
pub(crate) struct Context {
    kind: Kind,
    round_keys: [u32; 20],
    draw: u64,
    kappa: f32,
    scale: f32,
    numbering: Numbering,
}

impl Context {
    pub(crate) fn new(kind: Kind, sampling: &Sampling, shape: Shape, shard: Shard) -> Self {
        Self {
            kind,
            round_keys: crate::noise::round_keys(sampling.seed),
            draw: sampling.draw,
            kappa: sampling.kappa,
            scale: sampling.scale(),
            numbering: Numbering::new(shape, shard),
        }
    }

    /// Scores of the patterns: noisy, or the logits themselves for `Argmax`.
    #[inline(always)]
    fn scores(&self, first: usize, logits: Block<6>) -> Block<6> {
        let mut z = logits;
        if self.kind != Kind::Argmax {
            let noise = lanes::gumbels(&self.round_keys, self.draw, &self.numbering.globals(first));
            z.mul_add(self.kappa, &noise);
        }
        z
    }

    /// What turns a difference of scores into an exponent of two.
    #[inline(always)]
    fn exponent_scale(&self) -> f32 {
        if self.kind == Kind::Argmax { self.kappa * self.scale } else { self.scale }
    }

    /// The masks of the groups from `first` on, as a backward pass needs them.
    #[inline(always)]
    pub(crate) fn sample(&self, first: usize, logits: Block<6>) -> Sampled {
        let z = self.scores(first, logits);
        let top = z.largest();
        let soft = z.soft_mask(&top, self.scale);
        Sampled { soft, chosen: (self.kind != Kind::Soft).then(|| z.choose(&top)) }
    }
}

/// Masks with what their gradient needs.
pub(crate) struct Sampled {
    pub(crate) soft: Soft,
    /// The patterns of a hard mask.
    chosen: Option<Choice>,
}

impl Sampled {
    /// Masks a block by the mask that was used: product if soft, selection if hard.
    #[inline(always)]
    pub(crate) fn apply(&self, block: Block<4>) -> Block<4> {
        match &self.chosen {
            Some(chosen) => block.keep(chosen),
            None => block.times(&self.soft.mask),
        }
    }

    /// The gradient of the logits, given that of the masked weight.
    #[inline(always)]
    pub(crate) fn logit_gradient(&self, rule: &Rule, weight: &Block<4>, gradient: &Block<4>) -> Block<6> {
        let of_mask = weight.mask_gradient(gradient, &self.apply(Block::ones()), rule.minus_2_lambda);
        self.soft.logit_gradient(&of_mask, rule.logit_scale)
    }
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
fn forward_piece<L: Logit, W: Element>(context: &Context, mut piece: ForwardPiece<'_, L, W>) -> Statistics {
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

/// What the gradient needs besides the operands.
pub(crate) struct Rule {
    logit_scale: f32,
    minus_2_lambda: f32,
}

impl Rule {
    pub(crate) fn new(sampling: &Sampling, regulariser: f32) -> Self {
        Self { logit_scale: sampling.logit_scale(), minus_2_lambda: -2.0 * regulariser }
    }
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
fn backward_piece<L: Logit, W: Element, G: Element>(
    context: &Context,
    rule: &Rule,
    mut piece: BackwardPiece<'_, L, W, G>,
) {
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

pub(crate) fn piece<T>(whole: Option<&[T]>, index: usize, size: usize) -> Option<&[T]> {
    whole.map(|whole| &whole[index * size..whole.len().min((index + 1) * size)])
}

/// The pieces of an output, or nothing for ever.
pub(crate) fn pieces_mut<T>(whole: Option<&mut [T]>, size: usize) -> impl Iterator<Item = &mut [T]> {
    whole.into_iter().flat_map(move |whole| whole.chunks_mut(size))
}
