//! Problems with their own memory, made from a seed.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;

use twofour::learn::cpu::State;
use twofour::learn::{AdamW, Rounding, Statistics};
use twofour::mask::{GradientOf, Kind, Sampling};
use twofour::{Float, Logit, Pattern, Shape, Shard};

/// Both moments, with their own memory.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Moments {
    Full { m: Vec<f32>, v: Vec<f32> },
    Eight { m: Vec<u8>, v: Vec<u8>, scales: Vec<f32> },
}

/// Which moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bits {
    Full,
    Eight,
}

impl Moments {
    /// As before the first step.
    pub(crate) fn zero(bits: Bits, shape: Shape) -> Self {
        let logits = shape.logits();
        match bits {
            Bits::Full => Self::Full { m: vec![0.0; logits], v: vec![0.0; logits] },
            Bits::Eight => {
                let scales = vec![0.0; State::scales(shape)];
                Self::Eight { m: vec![0; logits], v: vec![0; logits], scales }
            }
        }
    }

    /// Any that a run may have: some zero, those of eight bits of any code.
    pub(crate) fn any(rng: &mut StdRng, bits: Bits, shape: Shape) -> Self {
        let logits = shape.logits();
        match bits {
            Bits::Full => {
                let v = normal::<f32>(rng, logits, 1e-3, &[0.0]).iter().map(|v| v * v).collect();
                Self::Full { m: normal(rng, logits, 1e-3, &[0.0]), v }
            }
            Bits::Eight => {
                let scales = (0..State::scales(shape)).map(|_| 10f32.powf(rng.random_range(-9.0..3.0)));
                let scales = scales.map(|scale| if scale < 1e-8 { 0.0 } else { scale }).collect();
                let mut codes = || {
                    let mut codes = vec![0; logits];
                    rng_fill(rng, &mut codes);
                    codes
                };
                let (m, v) = (codes(), codes());
                Self::Eight { m, v, scales }
            }
        }
    }

    pub(crate) fn state(&mut self) -> State<'_> {
        match self {
            Self::Full { m, v } => State::f32(m, v),
            Self::Eight { m, v, scales } => State::eight(m, v, scales),
        }
    }

    /// Those of some rows.
    pub(crate) fn full(&self) -> Option<(&[f32], &[f32])> {
        match self {
            Self::Full { m, v } => Some((m, v)),
            Self::Eight { .. } => None,
        }
    }
}

/// Codes of which a third is zero, and none is minus zero, which no step writes.
fn rng_fill(rng: &mut StdRng, codes: &mut [u8]) {
    for code in codes {
        let any: u8 = rng.random();
        *code = if any == 0x80 || rng.random_ratio(1, 3) { 0 } else { any };
    }
}

/// A step's part that both forms share.
#[derive(Debug, Clone)]
pub(crate) struct Stepped<L> {
    pub(crate) logits: Vec<L>,
    pub(crate) moments: Moments,
    /// What the gradient in memory holds afterwards; of [`FusedCase`] nothing.
    pub(crate) gradient: Vec<f32>,
    pub(crate) norm_squares: Option<f64>,
    pub(crate) statistics: Option<Statistics>,
}

#[derive(Debug, Clone)]
pub(crate) struct UpdateCase<L> {
    pub(crate) shape: Shape,
    pub(crate) shard: Shard,
    pub(crate) by: AdamW,
    pub(crate) gradient: Vec<f32>,
    /// Whether the gradient is set to zero.
    pub(crate) zero: bool,
    pub(crate) scale: f32,
    pub(crate) logits: Vec<L>,
    pub(crate) moments: Moments,
    pub(crate) factor: Option<f32>,
    pub(crate) rounding: Rounding,
    /// The running sum before, if the squares are added to one.
    pub(crate) norm_squares: Option<f64>,
    pub(crate) statistics: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct FusedCase<L, W, G> {
    pub(crate) shape: Shape,
    pub(crate) shard: Shard,
    pub(crate) kind: Kind,
    pub(crate) sampling: Sampling,
    pub(crate) regulariser: f32,
    pub(crate) by: AdamW,
    pub(crate) logits: Vec<L>,
    pub(crate) weight: Vec<W>,
    pub(crate) gradient: Vec<G>,
    pub(crate) moments: Moments,
    pub(crate) factor: Option<f32>,
    pub(crate) norm_squares: Option<f64>,
    pub(crate) statistics: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct InitialCase {
    pub(crate) shape: Shape,
    pub(crate) shard: Shard,
    pub(crate) seed: u64,
    pub(crate) sigma: f64,
    /// Codes and α.
    pub(crate) prior: Option<(Vec<u8>, f64)>,
}

#[derive(Debug, Clone)]
pub(crate) struct PriorCase<L> {
    pub(crate) shape: Shape,
    pub(crate) codes: Vec<u8>,
    pub(crate) strength: f32,
    pub(crate) logits: Vec<L>,
}

pub(crate) const USUAL: AdamW = AdamW { rate: 5e-4, beta1: 0.9, beta2: 0.95, epsilon: 1e-5, decay: 0.1, step: 1 };

pub(crate) fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// Normal values of a spread, special ones among them.
pub(crate) fn normal<T: Float>(rng: &mut StdRng, count: usize, spread: f32, special: &[f32]) -> Vec<T> {
    let mut value = || {
        if !special.is_empty() && rng.random_ratio(1, 24) {
            special[rng.random_range(0..special.len())]
        } else {
            rng.sample::<f32, _>(StandardNormal) * spread
        }
    };
    (0..count).map(|_| T::from_f32(value())).collect()
}

const SPECIAL_LOGITS: [f32; 6] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 0.0, 1.0e38];
const SPECIAL_GRADIENTS: [f32; 8] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 0.0, 1e-30, 1.0e19, -3.0e38];
const SPECIAL_WEIGHTS: [f32; 4] = [f32::NAN, -0.0, 1.0e-40, 3.0e38];

fn any_shape(rng: &mut StdRng) -> Shape {
    let groups = if rng.random_ratio(1, 6) { rng.random_range(200..700) } else { rng.random_range(1..50) };
    Shape::new(rng.random_range(1..6), 4 * groups)
}

fn any_shard(rng: &mut StdRng, shape: Shape) -> Shard {
    let cols = shape.cols as u64;
    if rng.random_ratio(1, 2) {
        return Shard::whole(cols);
    }
    let (before, after) = (rng.random_range(0..1u64 << 20), rng.random_range(0..3));
    let global_cols = 4 * (before + after) + cols;
    Shard { row_offset: rng.random_range(0..1 << 33), col_offset: 4 * before, global_cols }
}

fn any_adamw(rng: &mut StdRng) -> AdamW {
    let pick = |rng: &mut StdRng, from: &[f64]| from[rng.random_range(0..from.len())];
    AdamW {
        rate: pick(rng, &[0.0, 5e-4, 5e-4, 0.1]),
        beta1: pick(rng, &[0.9, 0.9, 0.0, 0.999]),
        beta2: pick(rng, &[0.95, 0.95, 0.0, 0.9999]),
        epsilon: pick(rng, &[1e-5, 1e-8, 1.0]),
        decay: pick(rng, &[0.1, 0.0, 9.0]),
        step: [1, 2, 77, 1 << 40][rng.random_range(0..4)],
    }
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

impl<L: Logit> UpdateCase<L> {
    /// A usual step with nothing asked for beside it.
    pub(crate) fn plain(shape: Shape, bits: Bits, gradient: Vec<f32>, logits: Vec<L>) -> Self {
        Self {
            shape,
            shard: Shard::whole(shape.cols as u64),
            by: USUAL,
            gradient,
            zero: false,
            scale: 1.0,
            logits,
            moments: Moments::zero(bits, shape),
            factor: None,
            rounding: Rounding { seed: 3, draw: 4 },
            norm_squares: None,
            statistics: false,
        }
    }

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
            scale: [1.0, 0.125, 1.0 / 3.0][rng.random_range(0..3)],
            logits: normal(rng, shape.logits(), 0.02, if special { &SPECIAL_LOGITS } else { &[0.0] }),
            moments: if rng.random() { Moments::zero(bits, shape) } else { Moments::any(rng, bits, shape) },
            factor: [None, Some(1.0), Some(0.37), Some(0.0)][rng.random_range(0..4)],
            rounding: Rounding { seed: rng.random(), draw: rng.random() },
            norm_squares: [None, Some(0.0), Some(2.5)][rng.random_range(0..3)],
            statistics: rng.random(),
        }
    }
}

impl<L: Logit, W: Float, G: GradientOf<W>> FusedCase<L, W, G> {
    pub(crate) fn random(seed: u64, bits: Bits) -> Self {
        let rng = &mut rng(seed);
        let shape = any_shape(rng);
        let special = rng.random_ratio(1, 3);
        let [kappa, tau] = [[100.0, 4.0], [500.0, 0.05], [1.0, 1.0]][rng.random_range(0..3)];
        let moments = if rng.random() { Moments::zero(bits, shape) } else { Moments::any(rng, bits, shape) };
        Self {
            shape,
            shard: any_shard(rng, shape),
            kind: if rng.random() { Kind::Soft } else { Kind::Hard },
            sampling: Sampling { seed: rng.random(), draw: rng.random(), kappa, tau },
            regulariser: [0.0, 1e-5, -0.01][rng.random_range(0..3)],
            by: any_adamw(rng),
            logits: normal(rng, shape.logits(), 0.01, if special { &SPECIAL_LOGITS } else { &[0.0] }),
            weight: normal(rng, shape.weights(), 0.5, if special { &SPECIAL_WEIGHTS } else { &[0.0] }),
            gradient: normal(rng, shape.weights(), 0.1, if special { &SPECIAL_WEIGHTS } else { &[0.0] }),
            moments,
            factor: [None, Some(1.0), Some(0.37)][rng.random_range(0..3)],
            norm_squares: [None, Some(0.0), Some(2.5)][rng.random_range(0..3)],
            statistics: rng.random(),
        }
    }

    /// The step from the gradient of the logits that this one makes.
    pub(crate) fn update(&self, gradient: Vec<f32>) -> UpdateCase<L> {
        UpdateCase {
            shape: self.shape,
            shard: self.shard,
            by: self.by,
            gradient,
            zero: false,
            scale: 1.0,
            logits: self.logits.clone(),
            moments: self.moments.clone(),
            factor: self.factor,
            rounding: Rounding { seed: self.sampling.seed, draw: self.sampling.draw },
            norm_squares: self.norm_squares,
            statistics: self.statistics,
        }
    }
}

impl InitialCase {
    pub(crate) fn random(seed: u64) -> Self {
        let rng = &mut rng(seed);
        let shape = any_shape(rng);
        let sigma = [0.0, 0.01, 0.01, 1.0, 3e5][rng.random_range(0..5)];
        let alpha = [3.0, 0.0, -1.5][rng.random_range(0..3)];
        let prior = rng.random::<bool>().then(|| (random_codes(rng, shape.groups()), alpha));
        Self { shape, shard: any_shard(rng, shape), seed: rng.random(), sigma, prior }
    }
}

impl<L: Logit> PriorCase<L> {
    pub(crate) fn random(seed: u64) -> Self {
        let rng = &mut rng(seed);
        let shape = any_shape(rng);
        let codes = random_codes(rng, shape.groups());
        let strength = [0.03, -0.5, 0.0, 1e30][rng.random_range(0..4)];
        Self { shape, codes, strength, logits: normal(rng, shape.logits(), 0.01, &SPECIAL_LOGITS) }
    }
}

/// Equal bits, or both NaN.
pub(crate) fn same<T: Float>(a: T, b: T) -> bool {
    let (a, b) = (a.to_f32(), b.to_f32());
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

#[track_caller]
pub(crate) fn all_same<T: Float>(got: &[T], expected: &[T], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        assert!(same(got, expected), "{what}: {i} is {got:?}, not {expected:?}");
    }
}
