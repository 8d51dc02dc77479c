//! Random problems of a seed: those of a run with what may go wrong in it, and wilder ones, of sizes that end anywhere
//! in a kernel's unit.

use crate::case::{Bits, FusedCase, InitialCase, Moments, PriorCase, UpdateCase, normal, rng};
use rand::Rng;
use rand::rngs::StdRng;
use twofour::learn::{self, AdamW, Rounding};
use twofour::mask::{GradientOf, Kind, Sampling};
use twofour::{Float, Logit, Pattern, Shape, Shard};

const SPECIAL_LOGITS: [f32; 6] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 0.0, 1.0e38];
const SPECIAL_GRADIENTS: [f32; 8] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 0.0, 1e-30, 1.0e19, -3.0e38];
const SPECIAL_WEIGHTS: [f32; 4] = [f32::NAN, -0.0, 1.0e-40, 3.0e38];
const WILD: [f32; 7] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 1.0e-40, 3.0e38, 1.3e18];

fn pick<T: Copy>(rng: &mut StdRng, from: &[T]) -> T {
    from[rng.random_range(0..from.len())]
}

fn any_shape(rng: &mut StdRng) -> Shape {
    let groups = if rng.random_ratio(1, 6) { rng.random_range(200..700) } else { rng.random_range(1..50) };
    Shape::new(rng.random_range(1..6), 4 * groups)
}

/// Whole units and short ones, and now and then more than a small device's grid takes at once.
fn wild_shape(rng: &mut StdRng) -> Shape {
    let groups = match rng.random_range(0..24) {
        0 => rng.random_range(250..500),
        1..=4 => 64 * rng.random_range(1..4),
        _ => rng.random_range(1..60),
    };
    Shape::new(rng.random_range(1..6), 4 * groups)
}

fn any_shard(rng: &mut StdRng, shape: Shape) -> Shard {
    let cols = shape.cols as u64;
    if rng.random_ratio(1, 2) {
        return Shard::whole(cols);
    }
    // Many rows, or rows of so many groups that 32 bits hold no number of one.
    let [rows, groups] = pick(rng, &[[33, 20], [20, 40]]);
    let (before, after) = (rng.random_range(0..1u64 << groups), rng.random_range(0..3));
    let global_cols = 4 * (before + after) + cols;
    Shard { row_offset: rng.random_range(0..1 << rows), col_offset: 4 * before, global_cols }
}

fn any_adamw(rng: &mut StdRng) -> AdamW {
    AdamW {
        rate: pick(rng, &[0.0, 5e-4, 5e-4, 0.1]),
        beta1: pick(rng, &[0.9, 0.9, 0.0, 0.999]),
        beta2: pick(rng, &[0.95, 0.95, 0.0, 0.9999]),
        epsilon: pick(rng, &[1e-5, 1e-8, 1.0]),
        decay: pick(rng, &[0.1, 0.0, 9.0]),
        step: pick(rng, &[1, 2, 77, 1 << 40]),
    }
}

fn wild_adamw(rng: &mut StdRng) -> AdamW {
    let (beta1, beta2) = pick(rng, &[(0.9, 0.95), (0.0, 0.999), (0.9, 0.0), (0.95, 0.9999)]);
    AdamW {
        rate: pick(rng, &[0.0, 5e-4, 0.3]),
        beta1,
        beta2,
        epsilon: pick(rng, &[1e-5, 1e-8, 1e-20]),
        decay: pick(rng, &[0.0, 0.1]),
        step: pick(rng, &[1, 2, 1000]),
    }
}

impl Moments {
    /// Any that a run may have: some zero, those of eight bits of any code.
    pub(crate) fn any(rng: &mut StdRng, bits: Bits, shape: Shape) -> Self {
        let logits = shape.logits();
        match bits {
            Bits::Full => {
                let v = normal::<f32>(rng, logits, 1e-3, &[0.0]).iter().map(|v| v * v).collect();
                Self::Full { m: normal(rng, logits, 1e-3, &[0.0]), v }
            }
            Bits::Eight => {
                let scales = (0..learn::Moments::scales(shape)).map(|_| 10f32.powf(rng.random_range(-9.0..3.0)));
                let scales = scales.map(|scale| if scale < 1e-8 { 0.0 } else { scale }).collect();
                let (m, v) = (codes_of_a_run(rng, logits), codes_of_a_run(rng, logits));
                Self::Eight { m, v, scales }
            }
        }
    }

    /// About as large as gradients of a spread make them, of any code; and now and then as before the first step.
    pub(crate) fn wild(rng: &mut StdRng, bits: Bits, shape: Shape, spread: f32) -> Self {
        if rng.random_ratio(1, 6) {
            return Self::zero(bits, shape);
        }
        let logits = shape.logits();
        match bits {
            Bits::Full => {
                let v = normal::<f32>(rng, logits, spread, &[]).iter().map(|root| root * root).collect();
                Self::Full { m: normal(rng, logits, spread, &[]), v }
            }
            Bits::Eight => {
                let scales = 0..learn::Moments::scales(shape);
                let scales = scales.map(|_| spread * rng.random_range(0.1..4.0)).collect();
                let (mut m, mut v) = (vec![0; logits], vec![0; logits]);
                rng.fill(&mut m[..]);
                rng.fill(&mut v[..]);
                Self::Eight { m, v, scales }
            }
        }
    }
}

/// Codes of which a third is zero, and none is minus zero, which no step writes.
fn codes_of_a_run(rng: &mut StdRng, count: usize) -> Vec<u8> {
    let mut code = || {
        let any: u8 = rng.random();
        if any == 0x80 || rng.random_ratio(1, 3) { 0 } else { any }
    };
    (0..count).map(|_| code()).collect()
}

pub(crate) fn random_codes(rng: &mut StdRng, groups: usize) -> Vec<u8> {
    let mut code = || Pattern::ALL[rng.random_range(0..6)].code();
    let mut codes: Vec<u8> = (0..groups.div_ceil(2)).map(|_| code() | code() << 4).collect();
    if let (1, Some(last)) = (groups % 2, codes.last_mut()) {
        // The unused half is nobody's business.
        *last = *last & 15 | 0x70;
    }
    codes
}

/// Codes of which a tenth may be any bits.
fn illegal_codes(rng: &mut StdRng, groups: usize) -> Vec<u8> {
    let mut code = || if rng.random_ratio(1, 10) { rng.random_range(0..16) } else { pick(rng, &Pattern::ALL).code() };
    (0..groups.div_ceil(2)).map(|_| code() | code() << 4).collect()
}

impl<L: Logit> UpdateCase<L> {
    pub(crate) fn random(seed: u64, bits: Bits) -> Self {
        let rng = &mut rng(seed);
        let shape = any_shape(rng);
        let special = rng.random_ratio(1, 2);
        let spread = 10f32.powi(rng.random_range(-6..2));
        Self {
            shape,
            shard: any_shard(rng, shape),
            by: any_adamw(rng),
            gradient: normal(rng, shape.logits(), spread, if special { &SPECIAL_GRADIENTS } else { &[0.0] }),
            zero: rng.random(),
            scale: pick(rng, &[1.0, 0.125, 1.0 / 3.0]),
            logits: normal(rng, shape.logits(), 0.02, if special { &SPECIAL_LOGITS } else { &[0.0] }),
            moments: if rng.random() { Moments::zero(bits, shape) } else { Moments::any(rng, bits, shape) },
            factor: pick(rng, &[None, Some(1.0), Some(0.37), Some(0.0)]),
            rounding: Rounding { seed: rng.random(), draw: rng.random() },
            norm_squares: pick(rng, &[None, Some(0.0), Some(2.5)]),
            statistics: rng.random(),
        }
    }

    pub(crate) fn wild(seed: u64, bits: Bits) -> Self {
        let rng = &mut rng(seed);
        let shape = wild_shape(rng);
        let special = rng.random_ratio(1, 4);
        let specials = if special { &WILD[..] } else { &[] };
        let spread = pick(rng, &[1e-9, 1e-4, 1.0, 1e5]);
        let mut gradient = normal::<f32>(rng, shape.logits(), spread, specials);
        // Blocks in which nothing is stepped, and groups without a gradient.
        if special && rng.random() {
            gradient[..shape.logits().min(384)].fill(f32::NAN);
        }
        gradient.chunks_mut(6).step_by(9).for_each(|group| group.fill(0.0));
        Self {
            shape,
            shard: any_shard(rng, shape),
            by: wild_adamw(rng),
            gradient,
            zero: rng.random(),
            scale: pick(rng, &[1.0, 0.25, -1.0]),
            logits: normal(rng, shape.logits(), 0.02, specials),
            moments: Moments::wild(rng, bits, shape, spread),
            factor: [None, Some(1.0), Some(0.37), Some(0.0), Some(f32::NAN), Some(1.5)]
                [rng.random_range(0..12usize).saturating_sub(6)],
            rounding: Rounding { seed: rng.random(), draw: rng.random() },
            norm_squares: rng.random_ratio(1, 3).then(|| rng.random_range(0.0..4.0)),
            statistics: rng.random_ratio(1, 3),
        }
    }
}

impl<L: Logit, W: Float, G: GradientOf<W>> FusedCase<L, W, G> {
    pub(crate) fn random(seed: u64, bits: Bits) -> Self {
        let rng = &mut rng(seed);
        let shape = any_shape(rng);
        let special = rng.random_ratio(1, 3);
        let [kappa, tau] = pick(rng, &[[100.0, 4.0], [500.0, 0.05], [1.0, 1.0]]);
        let moments = if rng.random() { Moments::zero(bits, shape) } else { Moments::any(rng, bits, shape) };
        Self {
            shape,
            shard: any_shard(rng, shape),
            kind: if rng.random() { Kind::Soft } else { Kind::Hard },
            sampling: Sampling { seed: rng.random(), draw: rng.random(), kappa, tau },
            regulariser: pick(rng, &[0.0, 1e-5, -0.01]),
            by: any_adamw(rng),
            logits: normal(rng, shape.logits(), 0.01, if special { &SPECIAL_LOGITS } else { &[0.0] }),
            weight: normal(rng, shape.weights(), 0.5, if special { &SPECIAL_WEIGHTS } else { &[0.0] }),
            gradient: normal(rng, shape.weights(), 0.1, if special { &SPECIAL_WEIGHTS } else { &[0.0] }),
            moments,
            factor: pick(rng, &[None, Some(1.0), Some(0.37)]),
            norm_squares: pick(rng, &[None, Some(0.0), Some(2.5)]),
            statistics: rng.random(),
        }
    }

    pub(crate) fn wild(seed: u64, bits: Bits) -> Self {
        let update = UpdateCase::<L>::wild(seed, bits);
        let rng = &mut rng(!seed);
        let special = if rng.random_ratio(1, 4) { &WILD[..] } else { &[] };
        let (shape, spread) = (update.shape, pick(rng, &[1e-6, 1e-3, 1.0]));
        let (kappa, tau) = (pick(rng, &[0.0, 1.0, 100.0, 500.0]), pick(rng, &[0.05, 0.5, 1.0, 4.0]));
        let Rounding { seed, draw } = update.rounding;
        Self {
            shape,
            shard: update.shard,
            kind: if rng.random() { Kind::Soft } else { Kind::Hard },
            sampling: Sampling { seed, draw, kappa, tau },
            regulariser: pick(rng, &[0.0, 1e-5, 0.3]),
            by: update.by,
            logits: update.logits,
            weight: normal(rng, shape.weights(), 0.5, special),
            gradient: normal(rng, shape.weights(), spread, special),
            moments: Moments::wild(rng, bits, shape, spread),
            factor: update.factor,
            norm_squares: update.norm_squares,
            statistics: update.statistics,
        }
    }
}

impl InitialCase {
    pub(crate) fn random(seed: u64) -> Self {
        let rng = &mut rng(seed);
        let shape = any_shape(rng);
        let sigma = pick(rng, &[0.0, 0.01, 0.01, 1.0, 3e5]);
        let alpha = pick(rng, &[3.0, 0.0, -1.5]);
        let prior = rng.random::<bool>().then(|| (random_codes(rng, shape.groups()), alpha));
        Self { shape, shard: any_shard(rng, shape), seed: rng.random(), sigma, prior }
    }

    /// With codes that are none, for a quarter of the seeds.
    pub(crate) fn wild(seed: u64) -> Self {
        let rng = &mut rng(seed);
        let shape = wild_shape(rng);
        let (sigma, alpha) = (pick(rng, &[0.0, 0.01, 3.0]), pick(rng, &[0.0, 3.0, -1.5]));
        let prior = match seed % 8 {
            6 | 7 => Some((illegal_codes(rng, shape.groups()), alpha)),
            _ => rng.random::<bool>().then(|| (random_codes(rng, shape.groups()), alpha)),
        };
        Self { shape, shard: any_shard(rng, shape), seed: rng.random(), sigma, prior }
    }
}

impl<L: Logit> PriorCase<L> {
    pub(crate) fn random(seed: u64) -> Self {
        let rng = &mut rng(seed);
        let shape = any_shape(rng);
        let codes = random_codes(rng, shape.groups());
        let strength = pick(rng, &[0.03, -0.5, 0.0, 1e30]);
        Self { shape, codes, strength, logits: normal(rng, shape.logits(), 0.01, &SPECIAL_LOGITS) }
    }

    /// With codes that are none, for a quarter of the seeds.
    pub(crate) fn wild(seed: u64) -> Self {
        let rng = &mut rng(seed);
        let shape = wild_shape(rng);
        let illegal = seed % 8 >= 6;
        let codes = if illegal { illegal_codes(rng, shape.groups()) } else { random_codes(rng, shape.groups()) };
        let strength = pick(rng, &[0.0, 3.0, -1.5]) * pick(rng, &[0.0, 0.01, 3.0]);
        Self { shape, codes, strength, logits: normal(rng, shape.logits(), 0.02, &[]) }
    }
}
