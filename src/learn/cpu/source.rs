//! Where a step's gradient comes from: memory, or the mask's backward pass.

use crate::element::Float;
use crate::sample::cpu::{Context, Rule};
use crate::sample::lanes::{Block, LANES, Lane};
use multiversion::multiversion;
use std::ops::Range;

/// The gradient of sixteen groups, and what is counted beside it.
pub(super) struct Made {
    pub(super) gradient: Block<6>,
    /// The largest `y`.
    pub(super) confidence: Lane,
    /// Σ (W∘M)².
    pub(super) energy: Lane,
}

/// A piece's gradient.
pub(super) trait Source: Send {
    /// That of `count` groups from `start` of the piece on; `first` is the number of the first of them in the shard.
    fn make(&mut self, first: usize, start: usize, count: usize, logits: &Block<6>) -> Made;
}

pub(super) enum Memory<'a> {
    Read(&'a [f32]),
    Zero(&'a mut [f32]),
}

pub(super) struct OfMemory<'a> {
    pub(super) gradient: Memory<'a>,
    pub(super) scale: f32,
}

impl Source for OfMemory<'_> {
    #[inline(always)]
    fn make(&mut self, _first: usize, start: usize, count: usize, _logits: &Block<6>) -> Made {
        let range = 6 * start..6 * (start + count);
        let mut gradient = match &mut self.gradient {
            Memory::Read(gradient) => Block::read(&gradient[range]),
            Memory::Zero(gradient) => {
                let read = Block::read(&gradient[range.clone()]);
                gradient[range].fill(0.0);
                read
            }
        };
        for values in &mut gradient.0 {
            for value in values {
                *value *= self.scale;
            }
        }
        Made { gradient, confidence: [0.0; LANES], energy: [0.0; LANES] }
    }
}

pub(super) struct OfMask<'a, W, G> {
    pub(super) context: &'a Context,
    pub(super) rule: &'a Rule,
    pub(super) weight: &'a [W],
    pub(super) gradient: &'a [G],
    /// Whether confidence and energy are wanted.
    pub(super) counts: bool,
}

impl<W: Float, G: Float> Source for OfMask<'_, W, G> {
    #[inline(always)]
    fn make(&mut self, first: usize, start: usize, count: usize, logits: &Block<6>) -> Made {
        make_of_mask(self, first, 4 * start..4 * (start + count), logits)
    }
}

/// A function of its own, compiled for the processor at hand as the step is: both inlined into one are long to compile.
#[multiversion(targets("x86_64+avx2+fma+f16c"))]
fn make_of_mask<W: Float, G: Float>(
    of: &OfMask<'_, W, G>,
    first: usize,
    weights: Range<usize>,
    logits: &Block<6>,
) -> Made {
    let sampled = of.context.sample(first, *logits);
    let weight = Block::<4>::read(&of.weight[weights.clone()]);
    let gradient = sampled.logit_gradient(of.rule, &weight, &Block::read(&of.gradient[weights]));
    let energy = if of.counts { sampled.apply(weight).squares() } else { [0.0; LANES] };
    Made { gradient, confidence: sampled.soft.confidence, energy }
}
