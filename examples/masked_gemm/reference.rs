//! A naive dense reference in `f64`, straight from the formulas, and the bounds within which results must agree with
//! it.
//!
//! Where a result is large, entries on an even grid of its rows and columns are checked, the last of each among them.

use crate::Job;
use crate::data::Operands;
use crate::layer::Results;
use twofour::mask::Kind;
use twofour::{DType, Float, Logit, noise};

/// Positions kept, by pattern index.
const KEPT: [[usize; 2]; 6] = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]];
/// Unit roundoff of `f32`.
const U: f64 = 1.0 / (1 << 24) as f64;
/// The same for sums in tensor cores, which truncate.
const TRUNCATED: f64 = 2.0 * U;
/// How far a soft mask may be off, in units of `U`: roundings of the exponent, the exponential, the sums and the
/// quotient.
const SOFT: f64 = 22.0;
/// The same for a gradient to the logits, relative to what goes into its group.
const GRADIENT: f64 = 90.0;
/// The smallest `f32`: what a rounding may be off where a number is subnormal, whatever its size.
const TINY: f64 = f32::from_bits(1) as f64;
/// Rows and columns of a result that are checked at most.
const GRID: usize = 64;

/// How one result compares with the reference.
pub(crate) struct Check {
    pub(crate) name: &'static str,
    /// Rows and columns checked, and those there are.
    pub(crate) checked: [usize; 2],
    pub(crate) size: [usize; 2],
    pub(crate) largest_error: f64,
    /// The error nearest to its bound, or furthest beyond, as a multiple of it.
    pub(crate) worst: f64,
}

impl Check {
    /// Compares on a grid. `entry(row, col)` gives pairs of the result, of type `O`, and the reference with its bound.
    fn new<O: Float, I>(name: &'static str, size: [usize; 2], mut entry: impl FnMut(usize, usize) -> I) -> Self
    where
        I: IntoIterator<Item = (f64, Expected)>,
    {
        let (rows, cols) = (grid(size[0]), grid(size[1]));
        let mut check = Self { name, checked: [rows.len(), cols.len()], size, largest_error: 0.0, worst: 0.0 };
        for (row, col) in rows.iter().flat_map(|&row| cols.iter().map(move |&col| (row, col))) {
            for (got, expected) in entry(row, col) {
                let (error, share) = expected.compare::<O>(got);
                check.largest_error = check.largest_error.max(error);
                check.worst = check.worst.max(share);
            }
        }
        check
    }

    pub(crate) fn passed(&self) -> bool {
        self.worst <= 1.0
    }
}

/// A value and how far a result may be from it.
struct Expected {
    value: f64,
    bound: f64,
    /// The largest number that may be met on the way to it, in `f32`.
    on_the_way: f64,
}

impl Expected {
    fn exact(value: f64) -> Self {
        Self { value, bound: 0.0, on_the_way: value.abs() }
    }

    /// How far a result of type `O` is off, and that as a multiple of the bound.
    fn compare<O: Float>(&self, got: f64) -> (f64, f64) {
        // As the result was: to numbers that the type has, and to infinity where it ends.
        let round = |value: f64| wide(O::from_f32(value as f32));
        let [low, value, high] = [self.value - self.bound, self.value, self.value + self.bound].map(round);
        // Equal infinities agree, and so do two NaNs; what is NaN on one side alone is as far off as can be.
        if got == value || (got.is_nan() && value.is_nan()) {
            return (0.0, 0.0);
        }
        // Beyond the end of `f32` on the way, a sum is an infinity, or a NaN of two.
        if !got.is_finite() && self.on_the_way > f64::from(f32::MAX) {
            return (0.0, 0.0);
        }
        let error = (got - self.value).abs();
        if (low..=high).contains(&got) {
            let error = error.min(self.bound);
            return (error, error / self.bound);
        }
        let [error, share] = [error, error / self.bound].map(|v| if v.is_nan() { f64::INFINITY } else { v });
        // Outside, by a rounding at least.
        (error, share.max(1.0 + f64::EPSILON))
    }
}

fn grid(count: usize) -> Vec<usize> {
    let points = count.min(GRID);
    (1..=points).map(|i| i * count / points - 1).collect()
}

/// Checks `Y`, `dX` and, where there is one, the gradient of the logits.
pub(crate) fn check<L: Logit, W: Float>(job: &Job, operands: &Operands<L, W>, results: &Results<L, W>) -> Vec<Check> {
    let unit = if results.place.tensor_cores { TRUNCATED } else { U };
    let (t, n, k) = (job.problem.tokens, job.problem.shape.rows, job.problem.shape.cols);
    let groups: Vec<Group> = (0..job.problem.shape.groups()).map(|i| Group::new(job, &operands.logits, i)).collect();
    let weight =
        |n: usize, j: usize| groups[(n * k + j) / 4].masked::<W>(job.kind, j % 4, wide(operands.weight[n * k + j]));
    let (x, dy) =
        (|t: usize, j: usize| wide(operands.x[t * k + j]), |t: usize, n: usize| wide(operands.dy[t * n_of(job) + n]));
    let mut checks = vec![
        Check::new::<W, _>("Y", [t, n], |t, n| {
            let terms = (0..k).map(|j| (x(t, j), weight(n, j)));
            [(wide(results.y[t * n_of(job) + n]), product::<W>(unit, k, terms))]
        }),
        Check::new::<W, _>("dX", [t, k], |t, j| {
            let terms = (0..n).map(|n| (dy(t, n), weight(n, j)));
            [(wide(results.dx[t * k + j]), product::<W>(unit, n, terms))]
        }),
    ];
    if !results.logit_gradient.is_empty() {
        checks.push(Check::new::<f32, _>("dlogits", [n, k / 4], |n, group| {
            let at = n * (k / 4) + group;
            let gradient = [0, 1, 2, 3].map(|j| {
                let terms = (0..t).map(|t| (dy(t, n), Expected::exact(x(t, 4 * group + j))));
                product::<f32>(unit, t, terms)
            });
            let weight = [0, 1, 2, 3].map(|j| wide(operands.weight[4 * at + j]));
            let expected = groups[at].logit_gradient(job, &gradient, weight);
            let got = [0, 1, 2, 3, 4, 5].map(|i| f64::from(results.logit_gradient[6 * at + i]));
            got.into_iter().zip(expected)
        }));
    }
    checks
}

fn n_of(job: &Job) -> usize {
    job.problem.shape.rows
}

fn wide<T: Float>(value: T) -> f64 {
    f64::from(value.to_f32())
}

/// Unit roundoff of a type and half its smallest number.
fn roundoff<T: Float>() -> (f64, f64) {
    match T::DTYPE {
        DType::F32 => (U, 2f64.powi(-150)),
        DType::F16 => (2f64.powi(-11), 2f64.powi(-25)),
        _ => (2f64.powi(-8), 2f64.powi(-134)),
    }
}

/// A sum of `depth` products in `f32` with this unit roundoff, in any order (Higham, "Accuracy and stability of
/// numerical algorithms", section 3.5), of which the second factors have errors of their own, rounded to `O`.
fn product<O: Float>(unit: f64, depth: usize, terms: impl Iterator<Item = (f64, Expected)>) -> Expected {
    let gamma = depth as f64 * unit / (1.0 - depth as f64 * unit);
    let (mut value, mut bound, mut on_the_way) = (0.0, depth as f64 * TINY, 0.0);
    for (a, b) in terms {
        value += a * b.value;
        bound += a.abs() * (b.bound + gamma * (b.value.abs() + b.bound));
        on_the_way += a.abs() * (b.value.abs() + b.bound);
    }
    let (u, tiny) = roundoff::<O>();
    Expected { value, bound: bound + u * (value.abs() + bound) + tiny, on_the_way }
}

/// One group's mask.
struct Group {
    y: [f64; 6],
    soft: [f64; 4],
    hard: [f64; 4],
}

impl Group {
    fn new<L: Logit>(job: &Job, logits: &[L], number: usize) -> Self {
        let (sampling, tau) = (&job.sampling, f64::from(job.sampling.tau));
        let logits = &logits[6 * number..6 * number + 6];
        let noise = noise::gumbels(sampling.seed, sampling.draw, number as u64);
        let z: [f64; 6] = std::array::from_fn(|i| match job.kind {
            Kind::Argmax => wide(logits[i]),
            // The scores are defined to the bit, as one fma of `f32`.
            _ => f64::from(sampling.kappa.mul_add(logits[i].to_f32(), noise[i])),
        });
        let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let e = z.map(|z| ((z - top) / tau).exp());
        let sum: f64 = e.iter().sum();
        let y = e.map(|e| e / sum);
        let kept = |i: usize, j: usize| KEPT[i].contains(&j);
        let soft = std::array::from_fn(|j| (0..6).filter(|&i| kept(i, j)).map(|i| y[i]).sum());
        let chosen = z.iter().position(|&z| z == top).unwrap_or(0);
        Self { y, soft, hard: std::array::from_fn(|j| f64::from(u8::from(kept(chosen, j)))) }
    }

    /// A masked weight, rounded to `W`.
    fn masked<W: Float>(&self, kind: Kind, j: usize, w: f64) -> Expected {
        if kind != Kind::Soft {
            return Expected::exact(w * self.hard[j]);
        }
        let (u, tiny) = roundoff::<W>();
        let value = w * self.soft[j];
        let bound = (1.0 + u) * SOFT * U * w.abs() + u * value.abs() + tiny + TINY;
        Expected { value, bound, on_the_way: w.abs() }
    }

    fn logit_gradient(&self, job: &Job, gradient: &[Expected; 4], w: [f64; 4]) -> [Expected; 6] {
        let lambda = f64::from(job.lambda);
        let factor = f64::from(job.sampling.kappa) / f64::from(job.sampling.tau);
        let used = if job.kind == Kind::Soft { self.soft } else { self.hard };
        let d: [f64; 4] = std::array::from_fn(|j| w[j] * (gradient[j].value - 2.0 * lambda * w[j] * used[j]));
        let mean: f64 = (0..4).map(|j| self.soft[j] * d[j]).sum();
        let sum = |term: &dyn Fn(usize) -> f64| (0..4).map(term).sum::<f64>();
        let size = sum(&|j| (gradient[j].value * w[j]).abs()) + 3.0 * lambda.abs() * sum(&|j| w[j] * w[j]);
        // A mean of the d and a pair of them: each d counts twice at most.
        let passed_on = 2.0 * sum(&|j| gradient[j].bound * w[j].abs());
        // Roundings of subnormal numbers on the way, some made larger by a weight or the factor, and the last one.
        let tiny = factor * TINY * (16.0 + 4.0 * sum(&|j| w[j].abs())) + TINY;
        let bound = factor * (GRADIENT * U * (size + passed_on) + passed_on) + tiny;
        let on_the_way = factor.max(1.0) * (2.0 * size + passed_on) + sum(&|j| gradient[j].on_the_way);
        let value = |i: usize| factor * self.y[i] * (d[KEPT[i][0]] + d[KEPT[i][1]] - mean);
        std::array::from_fn(|i| Expected { value: value(i), bound, on_the_way })
    }
}
