//! Sampling on the CPU: what is the same for all pieces of a pass, and what of it a block of lanes needs.

use super::lanes::{self, Block, Choice, Soft};
use super::vector::{LANES, Vector};
use super::{Kind, Sampling};
use crate::shape::{Shape, Shard};

/// Groups of a piece: one task of a thread, one share of the statistics.
pub(crate) const PIECE: usize = 4096;

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
    pub(crate) kind: Kind,
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
    pub(crate) fn scores<V: Vector>(&self, first: usize, logits: Block<V, 6>) -> Block<V, 6> {
        let mut z = logits;
        if self.kind != Kind::Argmax {
            z.mul_add(self.kappa, &self.noise(first));
        }
        z
    }

    #[inline(always)]
    fn noise<V: Vector>(&self, first: usize) -> Block<V, 6> {
        lanes::gumbels(&self.round_keys, self.draw, &self.numbering.globals(first))
    }

    /// What turns a difference of scores into an exponent of two.
    #[inline(always)]
    pub(crate) fn exponent_scale(&self) -> f32 {
        if self.kind == Kind::Argmax { self.kappa * self.scale } else { self.scale }
    }

    /// The masks of the groups from `first` on, as a backward pass needs them.
    #[inline(always)]
    pub(crate) fn sample<V: Vector>(&self, first: usize, logits: Block<V, 6>) -> Sampled<V> {
        let noise = self.noise(first);
        let (scores, top) = logits.relative_scores(self.kappa, &noise);
        let soft = scores.soft_mask(top, self.scale);
        let mut chosen = None;
        if self.kind != Kind::Soft {
            let mut z = logits;
            z.mul_add(self.kappa, &noise);
            chosen = Some(z.choose(z.largest()));
        }
        Sampled { soft, chosen }
    }
}

/// Masks with what their gradient needs.
pub(crate) struct Sampled<V: Vector> {
    pub(crate) soft: Soft<V>,
    /// The patterns of a hard mask.
    chosen: Option<Choice<V>>,
}

impl<V: Vector> Sampled<V> {
    /// Masks a block by the mask that was used: product if soft, selection if hard.
    #[inline(always)]
    pub(crate) fn apply(&self, block: Block<V, 4>) -> Block<V, 4> {
        match &self.chosen {
            Some(chosen) => block.keep(chosen),
            None => block.times(&self.soft.mask),
        }
    }

    /// The gradient of the logits, given that of the masked weight.
    #[inline(always)]
    pub(crate) fn logit_gradient(&self, rule: &Rule, weight: &Block<V, 4>, gradient: &Block<V, 4>) -> Block<V, 6> {
        let of_mask = weight.mask_gradient(gradient, &self.apply(Block::splat(1.0)), rule.minus_2_lambda);
        self.soft.logit_gradient(&of_mask, rule.logit_scale)
    }
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

/// A piece of an operand that may be absent.
pub(crate) fn piece<T>(whole: Option<&[T]>, index: usize, size: usize) -> Option<&[T]> {
    whole.map(|whole| &whole[index * size..whole.len().min((index + 1) * size)])
}

/// The pieces of an output, or nothing for ever.
pub(crate) fn pieces_mut<T>(whole: Option<&mut [T]>, size: usize) -> impl Iterator<Item = &mut [T]> {
    whole.into_iter().flat_map(move |whole| whole.chunks_mut(size))
}
