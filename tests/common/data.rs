//! Random operands: normal data with a sprinkling of special values, and proptest strategies for passes.

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use twofour::sample::{Kind, Sampling};
use twofour::{Shape, Shard};

/// A pass over sampled masks, without its operands.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    pub shape: Shape,
    pub shard: Shard,
    pub kind: Kind,
    pub sampling: Sampling,
    /// Seed of the operands.
    pub data: u64,
    /// Which types the operands have.
    pub types: usize,
    /// Whether special values are among the operands.
    pub special: bool,
}

/// Passes over small weights, whole or slices, of `types` kinds of operands.
pub fn passes(types: usize) -> impl Strategy<Value = Pass> {
    let shape = (1..=7usize, prop_oneof![5 => 1..=40usize, 1 => 300..=800usize])
        .prop_map(|(rows, groups)| Shape::new(rows, 4 * groups));
    let kind = prop_oneof![3 => Just(Kind::Soft), 3 => Just(Kind::Hard), 1 => Just(Kind::Argmax)];
    let kappa = prop_oneof![Just(0.0f32), Just(1.0), Just(100.0), Just(500.0)];
    let tau = prop_oneof![Just(0.05f32), Just(0.5), Just(1.0), Just(4.0)];
    let sampling = (any::<u64>(), any::<u64>(), kappa, tau).prop_map(|(seed, draw, kappa, tau)| Sampling {
        seed,
        draw,
        kappa,
        tau,
    });
    // Many rows, or rows of so many groups that 32 bits hold no number of one.
    let places = prop_oneof![(0..1u64 << 33, 0..1u64 << 20), (0..1u64 << 20, 0..1u64 << 40)];
    let offsets = proptest::option::of((places, 0..3u64));
    (shape, kind, sampling, offsets, any::<u64>(), 0..types, prop::bool::weighted(0.3)).prop_map(
        |(shape, kind, sampling, offsets, data, types, special)| {
            let cols = shape.cols as u64;
            let shard = offsets.map_or(Shard::whole(cols), |((row_offset, before), after)| Shard {
                row_offset,
                col_offset: 4 * before,
                global_cols: 4 * (before + after) + cols,
            });
            Pass { shape, shard, kind, sampling, data, types, special }
        },
    )
}

/// `count` normal values of a spread, with special ones among them if asked.
pub fn normal(rng: &mut StdRng, count: usize, spread: f32, special: &[f32]) -> Vec<f32> {
    let mut value = || {
        if !special.is_empty() && rng.random_ratio(1, 16) {
            special[rng.random_range(0..special.len())]
        } else {
            rng.sample::<f32, _>(StandardNormal) * spread
        }
    };
    (0..count).map(|_| value()).collect()
}

pub const SPECIAL_LOGITS: [f32; 6] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 0.0, 3.0e38];
pub const SPECIAL_WEIGHTS: [f32; 6] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 1.0e-40, 3.0e38];

impl Pass {
    pub fn rng(&self) -> StdRng {
        StdRng::seed_from_u64(self.data)
    }

    /// Logits small enough that the noise matters, some of them equal.
    pub fn logits(&self, rng: &mut StdRng) -> Vec<f32> {
        let special = if self.special { &SPECIAL_LOGITS[..] } else { &[] };
        let mut logits = normal(rng, self.shape.logits(), 0.02, special);
        for i in (0..logits.len()).step_by(7).skip(1) {
            logits[i] = logits[i - 1];
        }
        logits
    }

    pub fn weights(&self, rng: &mut StdRng) -> Vec<f32> {
        normal(rng, self.shape.weights(), 0.5, if self.special { &SPECIAL_WEIGHTS } else { &[] })
    }
}
