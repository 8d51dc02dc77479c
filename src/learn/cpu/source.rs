//! Where a step's gradient comes from: memory, or the mask's backward pass.

use crate::element::{Float, Logit};
use crate::sample::cpu::{Context, Rule};
use crate::sample::lanes::Block;
use crate::sample::vector::{LANES, Vector, by_processor};
use std::ops::Range;

/// The gradient of sixteen groups, and what is counted beside it.
pub(super) struct Made {
    pub(super) gradient: [[f32; 6]; LANES],
    /// Sums of each group's.
    pub(super) squares: [f32; LANES],
    /// The largest `y`.
    pub(super) confidence: [f32; LANES],
    /// Σ (W∘M)².
    pub(super) energy: [f32; LANES],
}

impl Made {
    const NOTHING: Self =
        Self { gradient: [[0.0; 6]; LANES], squares: [0.0; LANES], confidence: [0.0; LANES], energy: [0.0; LANES] };
}

/// A piece's gradient.
pub(super) trait Source: Send {
    /// Makes that of `count` groups from `start` of the piece on; `first` is the number of the first of them in the
    /// shard. Groups beyond are zero.
    fn make<V: Vector, L: Logit>(&mut self, first: usize, start: usize, count: usize, logits: &[L]) -> Made;
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
    fn make<V: Vector, L: Logit>(&mut self, _first: usize, start: usize, count: usize, _logits: &[L]) -> Made {
        let range = 6 * start..6 * (start + count);
        let mut made = Made::NOTHING;
        let gradient = match &self.gradient {
            Memory::Read(gradient) => &gradient[range.clone()],
            Memory::Zero(gradient) => &gradient[range.clone()],
        };
        let scaled = |(to, from): (&mut f32, &f32)| *to = from * self.scale;
        let flat = made.gradient.as_flattened_mut();
        match gradient.first_chunk::<{ 6 * LANES }>() {
            // A length that the compiler knows.
            Some(all) => flat.iter_mut().zip(all).for_each(scaled),
            None => flat.iter_mut().zip(gradient).for_each(scaled),
        }
        if let Memory::Zero(gradient) = &mut self.gradient {
            gradient[range].fill(0.0);
        }
        made.squares = Block::<V, 6>(V::turn(&made.gradient)).squares().to_array();
        made
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
    fn make<V: Vector, L: Logit>(&mut self, first: usize, start: usize, count: usize, logits: &[L]) -> Made {
        make_of_mask(self, first, 4 * start..4 * (start + count), logits)
    }
}

by_processor! {
/// A function of its own: inlined into the step, both are long to compile.
fn make_of_mask<V, L: Logit, W: Float, G: Float>(
    of: &OfMask<'_, W, G>,
    first: usize,
    weights: Range<usize>,
    logits: &[L],
) -> Made {
    let sampled = of.context.sample::<V>(first, Block::read(logits));
    let weight = Block::<V, 4>::read(&of.weight[weights.clone()]);
    let gradient = sampled.logit_gradient(of.rule, &weight, &Block::read(&of.gradient[weights]));
    let mut made = Made::NOTHING;
    V::turn_back(&gradient.0, &mut made.gradient);
    made.squares = gradient.squares().to_array();
    if of.counts {
        made.confidence = sampled.soft.confidence.to_array();
        made.energy = sampled.apply(weight).squares().to_array();
    }
    made
}
}
