//! Problems with their own memory, and how they are run. `random.rs` makes some of a seed.

use crate::common::{TestExecutor, given, same};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use twofour::learn::{self, AdamW, Clip, Fused, Initial, Measure, NORM_SLOTS, Norm, Prior, Rounding, Statistics};
use twofour::learn::{Step, Update};
use twofour::mask::{Backward, GradientOf, Kind, Sampling};
use twofour::{Float, Logit, Result, Shape, Shard};

/// Which moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bits {
    Full,
    Eight,
}

/// Both moments, with their own memory.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Moments {
    Full { m: Vec<f32>, v: Vec<f32> },
    Eight { m: Vec<u8>, v: Vec<u8>, scales: Vec<f32> },
}

impl Moments {
    /// As before the first step.
    pub(crate) fn zero(bits: Bits, shape: Shape) -> Self {
        let logits = shape.logits();
        match bits {
            Bits::Full => Self::Full { m: vec![0.0; logits], v: vec![0.0; logits] },
            Bits::Eight => {
                let scales = vec![0.0; learn::Moments::scales(shape)];
                Self::Eight { m: vec![0; logits], v: vec![0; logits], scales }
            }
        }
    }

    /// Those of `f32`.
    pub(crate) fn full(&self) -> Option<(&[f32], &[f32])> {
        match self {
            Self::Full { m, v } => Some((m, v)),
            Self::Eight { .. } => None,
        }
    }
}

/// Moments in an executor's memory.
enum Held<E: TestExecutor> {
    Full { m: E::Buffer<f32>, v: E::Buffer<f32> },
    Eight { m: E::Buffer<u8>, v: E::Buffer<u8>, scales: E::Buffer<f32> },
}

impl<E: TestExecutor> Held<E> {
    fn new(on: &E, moments: &Moments) -> Self {
        match moments {
            Moments::Full { m, v } => Self::Full { m: on.upload(m).unwrap(), v: on.upload(v).unwrap() },
            Moments::Eight { m, v, scales } => {
                let scales = on.upload(scales).unwrap();
                Self::Eight { m: on.upload(m).unwrap(), v: on.upload(v).unwrap(), scales }
            }
        }
    }

    fn moments(&mut self) -> learn::Moments<'_, E::Space> {
        match self {
            Self::Full { m, v } => learn::Moments::f32(E::output(m), E::output(v)),
            Self::Eight { m, v, scales } => learn::Moments::eight(E::output(m), E::output(v), E::output(scales)),
        }
    }

    fn read(&self, on: &E) -> Moments {
        match self {
            Self::Full { m, v } => Moments::Full { m: on.download(m).unwrap(), v: on.download(v).unwrap() },
            Self::Eight { m, v, scales } => {
                let scales = on.download(scales).unwrap();
                Moments::Eight { m: on.download(m).unwrap(), v: on.download(v).unwrap(), scales }
            }
        }
    }
}

/// What a step leaves.
#[derive(Debug, Clone)]
pub(crate) struct Stepped<L> {
    pub(crate) logits: Vec<L>,
    pub(crate) moments: Moments,
    /// What the gradient in memory holds afterwards; of [`FusedCase`] nothing.
    pub(crate) gradient: Vec<f32>,
    pub(crate) norm_squares: Option<f64>,
    pub(crate) statistics: Option<Statistics>,
}

/// A step from a gradient in memory.
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

/// A step that makes its gradient.
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

/// A running sum, and a workspace full of NaN.
pub(crate) fn sum_of(before: f64) -> Vec<f64> {
    let mut sum = vec![f64::NAN; NORM_SLOTS];
    sum[0] = before;
    sum
}

/// Factor and norm of a sum, which is zero afterwards.
pub(crate) fn clip<E: TestExecutor>(on: &mut E, max_norm: f64, sum: f64) -> [f32; 2] {
    let mut sums = on.upload(&sum_of(sum)).unwrap();
    let (mut factor, mut norm) = (on.poisoned::<f32>(1), on.poisoned::<f32>(1));
    let pass = Clip::new(max_norm, E::output(&mut sums), E::output(&mut factor)).norm(E::output(&mut norm));
    on.run(pass).unwrap();
    assert_eq!(on.download(&sums).unwrap()[0].to_bits(), 0, "the running sum begins anew");
    [factor, norm].map(|one| on.download(&one).unwrap()[0])
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

    pub(crate) fn run<E: TestExecutor>(&self, on: &mut E) -> Stepped<L> {
        let (mut logits, mut gradient) = (on.upload(&self.logits).unwrap(), on.upload(&self.gradient).unwrap());
        let factor = self.factor.map(|factor| on.upload(&[factor]).unwrap());
        let mut sum = self.norm_squares.map(|before| on.upload(&sum_of(before)).unwrap());
        let mut statistics = self.statistics.then(|| on.poisoned::<Statistics>(Statistics::SLOTS));
        let mut moments = Held::new(on, &self.moments);
        let step = given!(Step::new(self.by, moments.moments()), factor: factor.as_ref().map(E::input));
        // What is only read is read-only.
        let pass = match self.zero {
            true => Update::zeroing(self.shape, E::output(&mut gradient), E::output(&mut logits), step),
            false => Update::new(self.shape, E::input(&gradient), E::output(&mut logits), step),
        };
        let pass = pass.shard(self.shard).scale(self.scale).rounding(self.rounding);
        let pass = given!(pass, norm_squares: sum.as_mut().map(E::output),
            statistics: statistics.as_mut().map(E::output));
        on.run(pass).unwrap();
        Stepped {
            logits: on.download(&logits).unwrap(),
            moments: moments.read(on),
            gradient: on.download(&gradient).unwrap(),
            norm_squares: on.read(sum.as_ref()).map(|sum| sum[0]),
            statistics: on.read(statistics.as_ref()).map(|statistics| statistics[0]),
        }
    }

    /// The running sum after the squares of the gradient are added to it.
    pub(crate) fn norm<E: TestExecutor>(&self, on: &mut E, before: f64) -> f64 {
        let (gradient, mut sum) = (on.upload(&self.gradient).unwrap(), on.upload(&sum_of(before)).unwrap());
        on.run(Norm::new(self.shape, E::input(&gradient), E::output(&mut sum)).scale(self.scale)).unwrap();
        on.download(&sum).unwrap()[0]
    }
}

impl<L: Logit, W: Float, G: GradientOf<W>> FusedCase<L, W, G> {
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

    pub(crate) fn run<E: TestExecutor>(&self, on: &mut E) -> Stepped<L> {
        let Self { shape, kind, sampling, .. } = *self;
        let mut logits = on.upload(&self.logits).unwrap();
        let (weight, gradient) = (on.upload(&self.weight).unwrap(), on.upload(&self.gradient).unwrap());
        let factor = self.factor.map(|factor| on.upload(&[factor]).unwrap());
        let mut sum = self.norm_squares.map(|before| on.upload(&sum_of(before)).unwrap());
        let mut statistics = self.statistics.then(|| on.poisoned::<Statistics>(Statistics::SLOTS));
        let mut moments = Held::new(on, &self.moments);
        let step = given!(Step::new(self.by, moments.moments()), factor: factor.as_ref().map(E::input));
        let (of_weight, of_gradient) = (E::input(&weight), E::input(&gradient));
        let pass = Fused::new(shape, kind, sampling, E::output(&mut logits), of_weight, of_gradient, step);
        let pass = given!(pass.shard(self.shard).regulariser(self.regulariser),
            norm_squares: sum.as_mut().map(E::output), statistics: statistics.as_mut().map(E::output));
        on.run(pass).unwrap();
        Stepped {
            logits: on.download(&logits).unwrap(),
            moments: moments.read(on),
            gradient: vec![],
            norm_squares: on.read(sum.as_ref()).map(|sum| sum[0]),
            statistics: on.read(statistics.as_ref()).map(|statistics| statistics[0]),
        }
    }

    /// The gradient of the logits that it steps by, by the mask's backward pass of the same executor.
    pub(crate) fn backward<E: TestExecutor>(&self, on: &mut E) -> Vec<f32> {
        let Self { shape, kind, sampling, .. } = *self;
        let (logits, weight) = (on.upload(&self.logits).unwrap(), on.upload(&self.weight).unwrap());
        let (gradient, mut made) = (on.upload(&self.gradient).unwrap(), on.poisoned::<f32>(shape.logits()));
        let (logits, weight, gradient) = (E::input(&logits), E::input(&weight), E::input(&gradient));
        let pass = Backward::new(shape, kind, sampling, logits, weight, gradient).shard(self.shard);
        on.run(pass.regulariser(self.regulariser).logit_gradient(E::output(&mut made))).unwrap();
        on.download(&made).unwrap()
    }

    /// The running sum after a measure.
    pub(crate) fn measure<E: TestExecutor>(&self, on: &mut E, before: f64) -> f64 {
        let Self { shape, kind, sampling, .. } = *self;
        let (logits, weight) = (on.upload(&self.logits).unwrap(), on.upload(&self.weight).unwrap());
        let (gradient, mut sum) = (on.upload(&self.gradient).unwrap(), on.upload(&sum_of(before)).unwrap());
        let (logits, weight, gradient) = (E::input(&logits), E::input(&weight), E::input(&gradient));
        let pass = Measure::new(shape, kind, sampling, logits, weight, gradient, E::output(&mut sum));
        on.run(pass.shard(self.shard).regulariser(self.regulariser)).unwrap();
        on.download(&sum).unwrap()[0]
    }
}

impl InitialCase {
    /// Refuses illegal codes on the CPU.
    pub(crate) fn run<L: Logit, E: TestExecutor>(&self, on: &mut E) -> Result<Vec<L>> {
        let codes = self.prior.as_ref().map(|(codes, _)| on.upload(codes).unwrap());
        let mut logits = on.poisoned::<L>(self.shape.logits());
        let mut pass = Initial::new(self.shape, self.seed, self.sigma, E::output(&mut logits)).shard(self.shard);
        if let (Some(codes), Some((_, alpha))) = (&codes, &self.prior) {
            pass = pass.prior(E::input(codes), *alpha);
        }
        on.run(pass)?;
        on.download(&logits)
    }
}

impl<L: Logit> PriorCase<L> {
    /// As [`InitialCase::run`].
    pub(crate) fn run<E: TestExecutor>(&self, on: &mut E) -> Result<Vec<L>> {
        let (codes, mut logits) = (on.upload(&self.codes).unwrap(), on.upload(&self.logits).unwrap());
        on.run(Prior::new(self.shape, E::input(&codes), self.strength, E::output(&mut logits)))?;
        on.download(&logits)
    }
}

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

#[track_caller]
pub(crate) fn all_same<T: Float>(got: &[T], expected: &[T], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        assert!(same(got, expected), "{what}: {i} is {got:?}, not {expected:?}");
    }
}
