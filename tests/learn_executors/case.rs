//! Problems with their own memory, made from a seed.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use twofour::learn::{AdamW, Rounding, State, Statistics};
use twofour::mask::{GradientOf, Kind, Sampling};
use twofour::space::Host;
use twofour::{Float, Logit, Shape, Shard};

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Moments {
    F32 { m: Vec<f32>, v: Vec<f32> },
    Eight { m: Vec<u8>, v: Vec<u8>, scales: Vec<f32> },
}

/// A step from a gradient in memory.
#[derive(Debug, Clone)]
pub(crate) struct UpdateCase<L> {
    pub(crate) shape: Shape,
    pub(crate) shard: Shard,
    pub(crate) by: AdamW,
    pub(crate) factor: Option<f32>,
    pub(crate) scale: f32,
    pub(crate) rounding: Rounding,
    pub(crate) logits: Vec<L>,
    pub(crate) gradient: Vec<f32>,
    pub(crate) zero: bool,
    pub(crate) moments: Moments,
    /// What the running sum holds before, if squares are wanted.
    pub(crate) norm: Option<f64>,
    pub(crate) statistics: bool,
}

/// What a step leaves.
#[derive(Debug, Clone)]
pub(crate) struct Stepped<L> {
    pub(crate) logits: Vec<L>,
    pub(crate) moments: Moments,
    pub(crate) gradient: Vec<f32>,
    pub(crate) norm: Option<f64>,
    pub(crate) statistics: Option<Statistics>,
}

/// A step that makes its gradient: the fields that `update` has not.
#[derive(Debug, Clone)]
pub(crate) struct FusedCase<L, W, G> {
    /// Without gradient; scale and rounding are not read.
    pub(crate) update: UpdateCase<L>,
    pub(crate) kind: Kind,
    pub(crate) sampling: Sampling,
    pub(crate) regulariser: f32,
    pub(crate) weight: Vec<W>,
    pub(crate) gradient: Vec<G>,
}

#[derive(Debug, Clone)]
pub(crate) struct StartCase<L> {
    pub(crate) shape: Shape,
    pub(crate) shard: Shard,
    pub(crate) seed: u64,
    pub(crate) sigma: f64,
    pub(crate) alpha: f64,
    pub(crate) codes: Option<Vec<u8>>,
    /// For a prior.
    pub(crate) logits: Vec<L>,
}

pub(crate) fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

const WILD: [f32; 7] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 1.0e-40, 3.0e38, 1.3e18];

/// Normal values of a spread, some of them special if asked.
pub(crate) fn normal<T: Float>(rng: &mut StdRng, count: usize, spread: f32, special: bool) -> Vec<T> {
    let mut value = || match special && rng.random_ratio(1, 40) {
        true => WILD[rng.random_range(0..WILD.len())],
        false => rng.sample::<f32, _>(StandardNormal) * spread,
    };
    (0..count).map(|_| T::from_f32(value())).collect()
}

/// Whole units and short ones, and now and then more than a small device's grid takes at once.
fn shape(rng: &mut StdRng) -> Shape {
    let groups = match rng.random_range(0..24) {
        0 => rng.random_range(250..500),
        1..=4 => 64 * rng.random_range(1..4),
        _ => rng.random_range(1..60),
    };
    Shape::new(rng.random_range(1..6), 4 * groups)
}

fn shard(rng: &mut StdRng, cols: usize) -> Shard {
    if rng.random_ratio(1, 2) {
        return Shard::whole(cols as u64);
    }
    let (before, after) = (rng.random_range(0..1u64 << 20), rng.random_range(0..3));
    let row_offset = rng.random_range(0..1 << 33);
    Shard { row_offset, col_offset: 4 * before, global_cols: 4 * (before + after) + cols as u64 }
}

fn hyper_parameters(rng: &mut StdRng) -> AdamW {
    let (beta1, beta2) = [(0.9, 0.95), (0.0, 0.999), (0.9, 0.0), (0.95, 0.9999)][rng.random_range(0..4)];
    AdamW {
        rate: [0.0, 5e-4, 0.3][rng.random_range(0..3)],
        beta1,
        beta2,
        epsilon: [1e-5, 1e-8, 1e-20][rng.random_range(0..3)],
        decay: [0.0, 0.1][rng.random_range(0..2)],
        step: [1, 2, 1000][rng.random_range(0..3)],
    }
}

impl Moments {
    /// About as large as gradients of a spread make them; of a shape, and now and then as before the first step.
    pub(crate) fn new(rng: &mut StdRng, shape: Shape, eight: bool, spread: f32) -> Self {
        let logits = shape.logits();
        let fresh = rng.random_ratio(1, 6);
        if !eight {
            let spread = if fresh { 0.0 } else { spread };
            let roots = normal::<f32>(rng, logits, spread, false);
            return Self::F32 {
                m: normal(rng, logits, spread, false),
                v: roots.iter().map(|root| root * root).collect(),
            };
        }
        let mut scales: Vec<f32> =
            (0..State::<Host>::scales(shape)).map(|_| spread * rng.random_range(0.1..4.0)).collect();
        let (mut m, mut v) = (vec![0; logits], vec![0; logits]);
        if fresh {
            scales.fill(0.0);
        } else {
            rng.fill(&mut m[..]);
            rng.fill(&mut v[..]);
        }
        Self::Eight { m, v, scales }
    }
}

impl<L: Logit> UpdateCase<L> {
    pub(crate) fn new(seed: u64, eight: bool) -> Self {
        let mut rng = rng(seed);
        let shape = shape(&mut rng);
        let special = rng.random_ratio(1, 4);
        let spread = [1e-9, 1e-4, 1.0, 1e5][rng.random_range(0..4)];
        let mut gradient = normal::<f32>(&mut rng, shape.logits(), spread, special);
        // Blocks in which nothing is stepped, and groups without a gradient.
        if special && rng.random() {
            gradient[..shape.logits().min(384)].fill(f32::NAN);
        }
        gradient.chunks_mut(6).step_by(9).for_each(|group| group.fill(0.0));
        Self {
            shape,
            shard: shard(&mut rng, shape.cols),
            by: hyper_parameters(&mut rng),
            factor: [None, Some(1.0), Some(0.37), Some(0.0), Some(f32::NAN), Some(1.5)]
                [rng.random_range(0..12usize).saturating_sub(6)],
            scale: [1.0, 0.25, -1.0][rng.random_range(0..3)],
            rounding: Rounding { seed: rng.random(), draw: rng.random() },
            logits: normal(&mut rng, shape.logits(), 0.02, special),
            gradient,
            zero: rng.random(),
            moments: Moments::new(&mut rng, shape, eight, spread),
            norm: rng.random_ratio(1, 3).then(|| rng.random_range(0.0..4.0)),
            statistics: rng.random_ratio(1, 3),
        }
    }
}

impl<L: Logit, W: Float, G: GradientOf<W>> FusedCase<L, W, G> {
    pub(crate) fn new(seed: u64, eight: bool) -> Self {
        let mut update = UpdateCase::<L>::new(seed, eight);
        let mut rng = rng(!seed);
        let special = rng.random_ratio(1, 4);
        let (shape, spread) = (update.shape, [1e-6, 1e-3, 1.0][rng.random_range(0..3)]);
        update.moments = Moments::new(&mut rng, shape, eight, spread);
        (update.gradient, update.scale) = (vec![], 1.0);
        let kappa = [0.0, 1.0, 100.0, 500.0][rng.random_range(0..4)];
        let tau = [0.05, 0.5, 1.0, 4.0][rng.random_range(0..4)];
        let sampling = Sampling { seed: update.rounding.seed, draw: update.rounding.draw, kappa, tau };
        Self {
            kind: if rng.random() { Kind::Soft } else { Kind::Hard },
            sampling,
            regulariser: [0.0, 1e-5, 0.3][rng.random_range(0..3)],
            weight: normal(&mut rng, shape.weights(), 0.5, special),
            gradient: normal(&mut rng, shape.weights(), spread, special),
            update,
        }
    }
}

impl<L: Logit> StartCase<L> {
    /// With codes that are none, if asked.
    pub(crate) fn new(seed: u64, illegal: bool) -> Self {
        let mut rng = rng(seed);
        let shape = shape(&mut rng);
        let code = |rng: &mut StdRng| match illegal && rng.random_ratio(1, 10) {
            true => rng.random_range(0..16u8),
            false => [4, 8, 0xc, 9, 0xd, 0xe][rng.random_range(0..6)],
        };
        let mut codes: Vec<u8> = (0..shape.packed_codes()).map(|_| code(&mut rng) | code(&mut rng) << 4).collect();
        if shape.groups() % 2 == 1 {
            *codes.last_mut().unwrap() &= 15;
        }
        Self {
            shape,
            shard: shard(&mut rng, shape.cols),
            seed: rng.random(),
            sigma: [0.0, 0.01, 3.0][rng.random_range(0..3)],
            alpha: [0.0, 3.0, -1.5][rng.random_range(0..3)],
            codes: (illegal || rng.random()).then_some(codes),
            logits: normal(&mut rng, shape.logits(), 0.02, false),
        }
    }
}

/// Equal bits, or both NaN.
pub(crate) fn all_same<T: Float>(got: &[T], expected: &[T], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let (a, b) = (got.to_f32(), expected.to_f32());
        let same = a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        assert!(same, "{what}[{i}], group {}: {got:?} for {expected:?}", i / 6);
    }
}

/// Sums of what is not negative, in any order.
pub(crate) fn close(got: f64, expected: f64, within: f64, what: &str) {
    let equal = got == expected || (got.is_nan() && expected.is_nan());
    assert!(equal || (got - expected).abs() <= within * expected.abs(), "{what}: {got:e} for {expected:e}");
}
