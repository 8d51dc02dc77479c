//! Problems with their own memory, made from a seed.

use crate::common::{TestExecutor, given, same};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use std::any::TypeId;
use twofour::select::{ByScore, Squares, Statistics, Sweep};
use twofour::space::Host;
use twofour::{Error, Float, Result, Shape};

/// What scores are made of.
#[derive(Debug, Clone)]
pub(crate) enum By {
    Magnitude,
    Scaled(Vec<f32>),
    Given(Vec<f32>),
}

#[derive(Debug, Clone)]
pub(crate) struct ScoreCase<W> {
    pub(crate) shape: Shape,
    pub(crate) by: By,
    pub(crate) weight: Vec<W>,
    /// masked, patterns, codes, statistics.
    pub(crate) wants: [bool; 4],
}

#[derive(Debug, Clone)]
pub(crate) struct Scored<W> {
    pub(crate) masked: Option<Vec<W>>,
    pub(crate) patterns: Option<Vec<u8>>,
    pub(crate) codes: Option<Vec<u8>>,
    pub(crate) statistics: Option<Statistics>,
}

#[derive(Debug, Clone)]
pub(crate) struct SquaresCase<X> {
    pub(crate) tokens: usize,
    pub(crate) cols: usize,
    pub(crate) x: Vec<X>,
    pub(crate) sums: Vec<f64>,
    pub(crate) norms: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct SweepCase<W> {
    pub(crate) shape: Shape,
    pub(crate) weight: Vec<W>,
    pub(crate) upper: Vec<f32>,
    pub(crate) scale: Vec<f32>,
    /// updated, patterns, codes, losses.
    pub(crate) wants: [bool; 4],
}

#[derive(Debug, Clone)]
pub(crate) struct Swept<W> {
    pub(crate) updated: Option<Vec<W>>,
    pub(crate) patterns: Option<Vec<u8>>,
    pub(crate) codes: Option<Vec<u8>>,
    pub(crate) losses: Option<Vec<f64>>,
    /// Updated weights that left the range of their type, which the CPU counts.
    pub(crate) lost: u64,
    /// Those that are not finite, which devices count.
    pub(crate) faults: u32,
}

/// Whether these are scales that the CPU refuses; a device takes them as they are.
pub(crate) fn is_refused<E: TestExecutor>(_: &E, scale: &[f32]) -> bool {
    let wrong = scale.iter().any(|s| !(s.is_finite() && *s >= 0.0)) || scale.iter().all(|&s| s == 0.0);
    wrong && TypeId::of::<E::Space>() == TypeId::of::<Host>()
}

pub(crate) fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// Normal values, some of them special if asked, some equal to their neighbours.
pub(crate) fn normal<T: Float>(rng: &mut StdRng, count: usize, special: &[f32]) -> Vec<T> {
    let mut last = 0.0f32;
    let mut value = || {
        last = match rng.random_range(0..32) {
            0 | 1 if !special.is_empty() => special[rng.random_range(0..special.len())],
            2..=6 => last,
            7 | 8 => -last,
            _ => rng.sample::<f32, _>(StandardNormal),
        };
        T::from_f32(last)
    };
    (0..count).map(|_| value()).collect()
}

pub(crate) const SPECIAL: [f32; 7] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 0.0, 1.0e-40, 3.0e38];

fn wants(rng: &mut StdRng) -> [bool; 4] {
    let mut wants: [bool; 4] = rng.random();
    wants[rng.random_range(0..4)] = true;
    wants
}

fn shape(rng: &mut StdRng) -> Shape {
    let groups = if rng.random_ratio(1, 8) { rng.random_range(100..400) } else { rng.random_range(1..40) };
    Shape::new(rng.random_range(1..8), 4 * groups)
}

impl<W: Float> ScoreCase<W> {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = rng(seed);
        let shape = shape(&mut rng);
        let special = if rng.random_ratio(1, 3) { &SPECIAL[..] } else { &[] };
        let by = match rng.random_range(0..3) {
            0 => By::Magnitude,
            1 => By::Scaled(normal::<f32>(&mut rng, shape.cols, special).into_iter().map(f32::abs).collect()),
            _ => By::Given(normal(&mut rng, shape.weights(), special)),
        };
        Self { shape, by, weight: normal(&mut rng, shape.weights(), special), wants: wants(&mut rng) }
    }

    /// Runs it, on outputs full of NaN.
    pub(crate) fn run<E: TestExecutor>(&self, on: &mut E) -> Scored<W> {
        self.try_run(on).unwrap()
    }

    pub(crate) fn try_run<E: TestExecutor>(&self, on: &mut E) -> Result<Scored<W>> {
        let (shape, [masked, patterns, codes, statistics]) = (self.shape, self.wants);
        let weight = on.upload(&self.weight).unwrap();
        let mut masked = masked.then(|| on.poisoned::<W>(shape.weights()));
        let mut patterns = patterns.then(|| on.poisoned::<u8>(shape.groups()));
        let mut codes = codes.then(|| on.poisoned::<u8>(shape.packed_codes()));
        let mut statistics = statistics.then(|| on.poisoned::<Statistics>(Statistics::SLOTS));
        let [scale, scores] = match &self.by {
            By::Magnitude => [None, None],
            By::Scaled(scale) => [Some(on.upload(scale).unwrap()), None],
            By::Given(scores) => [None, Some(on.upload(scores).unwrap())],
        };
        let pass = match (&scale, &scores) {
            (Some(scale), _) => ByScore::scaled(shape, E::input(&weight), E::input(scale)),
            (_, Some(scores)) if masked.is_none() => ByScore::given(shape, E::input(scores)),
            (_, Some(scores)) => ByScore::given(shape, E::input(scores)).weight(E::input(&weight)),
            _ => ByScore::magnitude(shape, E::input(&weight)),
        };
        let pass = given!(pass, masked: masked.as_mut().map(E::output), patterns: patterns.as_mut().map(E::output),
            codes: codes.as_mut().map(E::output), statistics: statistics.as_mut().map(E::output));
        on.run(pass)?;
        Ok(Scored {
            masked: on.read(masked.as_ref()),
            patterns: on.read(patterns.as_ref()),
            codes: on.read(codes.as_ref()),
            statistics: on.read(statistics.as_ref()).map(|statistics| statistics[0]),
        })
    }

    /// The scores that are compared.
    pub(crate) fn scores(&self) -> Vec<f32> {
        let magnitude = self.weight.iter().map(|w| w.to_f32().abs());
        match &self.by {
            By::Magnitude => magnitude.collect(),
            By::Scaled(scale) => magnitude.enumerate().map(|(i, w)| w * scale[i % self.shape.cols]).collect(),
            By::Given(scores) => scores.clone(),
        }
    }
}

impl<X: Float> SquaresCase<X> {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = rng(seed);
        let tokens = [rng.random_range(0..20), rng.random_range(0..150), rng.random_range(100..400)][seed as usize % 3];
        let cols = 4 * if rng.random_ratio(1, 6) { rng.random_range(30..80) } else { rng.random_range(1..20) };
        let special = if rng.random_ratio(1, 6) { &SPECIAL[..] } else { &[] };
        let sums = normal::<f32>(&mut rng, cols, &[]).into_iter().map(|sum| f64::from(sum.abs())).collect();
        Self { tokens, cols, x: normal(&mut rng, tokens * cols, special), sums, norms: rng.random() }
    }

    /// Sums and norms.
    pub(crate) fn run<E: TestExecutor>(&self, on: &mut E) -> (Vec<f64>, Option<Vec<f32>>) {
        let Self { tokens, cols, .. } = *self;
        let (x, mut sums) = (on.upload(&self.x).unwrap(), on.upload(&self.sums).unwrap());
        let mut norms = self.norms.then(|| on.poisoned::<f32>(cols));
        let mut workspace = on.poisoned::<u8>(Squares::workspace_bytes(tokens, cols));
        let pass = Squares::new(tokens, cols, E::input(&x), E::output(&mut sums)).workspace(E::output(&mut workspace));
        on.run(given!(pass, norms: norms.as_mut().map(E::output))).unwrap();
        (on.download(&sums).unwrap(), on.read(norms.as_ref()))
    }
}

impl<W: Float> SweepCase<W> {
    /// With a factor of the right form, not of any Hessian; `wide` for more columns than a block has.
    pub(crate) fn new(seed: u64, wide: bool) -> Self {
        let mut rng = rng(seed);
        let groups = if wide { rng.random_range(33..80) } else { rng.random_range(1..34) };
        let shape = Shape::new(rng.random_range(1..6), 4 * groups);
        Self::of_shape(rng, shape)
    }

    pub(crate) fn of_shape(mut rng: StdRng, shape: Shape) -> Self {
        let special = if rng.random_ratio(1, 4) { &SPECIAL[..] } else { &[] };
        let weight = normal(&mut rng, shape.weights(), special);
        let cols = shape.cols;
        let mut upper = normal::<f32>(&mut rng, cols * cols, &[]);
        let mut scale = vec![0.0; cols];
        for row in 0..cols {
            // What lies below the diagonal is not read.
            upper[row * cols..][..row].fill(f32::NAN);
            upper[row * cols + row + 1..(row + 1) * cols].iter_mut().for_each(|u| *u *= 0.2);
            let diagonal = 0.5 + upper[row * cols + row].abs();
            (upper[row * cols + row], scale[row]) = (diagonal, 1.0 / diagonal);
            if rng.random_ratio(1, 24) {
                scale[row] = 0.0;
                upper[row * cols + row + 1..(row + 1) * cols].fill(0.0);
                (0..row).for_each(|above| upper[above * cols + row] = 0.0);
            }
        }
        Self { shape, weight, upper, scale, wants: wants(&mut rng) }
    }

    /// Runs it, on outputs full of NaN.
    pub(crate) fn run<E: TestExecutor>(&self, on: &mut E) -> Swept<W> {
        let (shape, [updated, patterns, codes, losses]) = (self.shape, self.wants);
        let weight = on.upload(&self.weight).unwrap();
        let (upper, scale) = (on.upload(&self.upper).unwrap(), on.upload(&self.scale).unwrap());
        let mut updated = updated.then(|| on.poisoned::<W>(shape.weights()));
        let mut patterns = patterns.then(|| on.poisoned::<u8>(shape.groups()));
        let mut codes = codes.then(|| on.poisoned::<u8>(shape.packed_codes()));
        let mut losses = losses.then(|| on.poisoned::<f64>(shape.rows));
        let mut workspace = on.poisoned::<u8>(Sweep::workspace_bytes(shape));
        let pass = Sweep::new(shape, E::input(&weight), E::input(&upper), E::input(&scale));
        let pass = given!(pass, updated: updated.as_mut().map(E::output), patterns: patterns.as_mut().map(E::output),
            codes: codes.as_mut().map(E::output), losses: losses.as_mut().map(E::output));
        let before = 40;
        let mut faults = on.upload(&[before]).unwrap();
        let pass = pass.faults(E::output(&mut faults));
        let lost = match on.run(pass.workspace(E::output(&mut workspace))) {
            Err(Error::LeftRange { what: "updated", count, .. }) => count,
            run => run.map(|()| 0).unwrap(),
        };
        Swept {
            lost,
            faults: on.download(&faults).unwrap()[0] - before,
            updated: on.read(updated.as_ref()),
            patterns: on.read(patterns.as_ref()),
            codes: on.read(codes.as_ref()),
            losses: on.read(losses.as_ref()),
        }
    }
}

pub(crate) fn all_same<T: Float>(a: &[T], b: &[T], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (i, (&a, &b)) in a.iter().zip(b).enumerate() {
        assert!(same(a, b), "{what}[{i}]: {a:?} for {b:?}");
    }
}

/// Sums that may be added in another order: of so many terms, all of one sign.
pub(crate) fn close(got: f64, expected: f64, what: &str) {
    let equal = got == expected || (got.is_nan() && expected.is_nan());
    assert!(equal || (got - expected).abs() <= 1e-12 * expected.abs(), "{what}: {got:e} for {expected:e}");
}
