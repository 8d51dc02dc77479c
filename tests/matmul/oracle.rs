//! `matmul` said again in `f64`, straight from the formulas, with bounds on what an executor may differ by. Only the
//! scores are not `f64`: they are defined to the bit, as one fma of `f32`.

use crate::case::{Case, Outputs, roundoff};
use crate::common::{relative, same};
use twofour::mask::{Kind, Sampling};
use twofour::{Float, Logit, noise};

/// Positions kept, by pattern index.
const KEPT: [[usize; 2]; 6] = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]];
/// Unit roundoff of `f32`.
const U: f64 = 1.0 / (1 << 24) as f64;
/// A bound on the error of a soft mask, in units of `U`. The exponents carry three roundings each, but where an
/// exponent is large its exponential is small: 6 in the end. The exponential itself brings 4, to the sum of six too,
/// which brings 3 more; then the reciprocal 2, the sum of three 2, the product 1.
const SOFT: f64 = 22.0;

/// One group's mask: what is used, and the soft one that gradients go through.
pub(crate) struct Group {
    pub(crate) y: [f64; 6],
    pub(crate) soft: [f64; 4],
    pub(crate) used: [f64; 4],
}

impl Group {
    /// From the scores: the logits themselves for `Argmax`.
    pub(crate) fn new(kind: Kind, z: [f64; 6], tau: f64) -> Self {
        let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let e = z.map(|z| ((z - top) / tau).exp());
        let sum: f64 = e.iter().sum();
        let y = e.map(|e| e / sum);
        let soft = std::array::from_fn(|j| (0..6).filter(|&i| KEPT[i].contains(&j)).map(|i| y[i]).sum());
        let chosen = z.iter().position(|&z| z == top).unwrap();
        let hard = std::array::from_fn(|j| f64::from(u8::from(KEPT[chosen].contains(&j))));
        Self { y, soft, used: if kind == Kind::Soft { soft } else { hard } }
    }

    /// `dL/dlogit_i` from `dL/d(W∘M)`.
    pub(crate) fn logit_gradient(&self, factor: f64, lambda: f64, gradient: [f64; 4], weight: [f64; 4]) -> [f64; 6] {
        let d: [f64; 4] = std::array::from_fn(|j| weight[j] * (gradient[j] - 2.0 * lambda * weight[j] * self.used[j]));
        let mean: f64 = (0..4).map(|j| self.soft[j] * d[j]).sum();
        std::array::from_fn(|i| factor * self.y[i] * (d[KEPT[i][0]] + d[KEPT[i][1]] - mean))
    }
}

/// The groups of a case, in order: the masks that were used, and those that gradients go through.
pub(crate) fn groups<L: Logit, W: Float>(case: &Case<L, W>) -> Vec<[Group; 2]> {
    let Sampling { seed, draw, kappa, tau } = case.spec.sampling;
    let in_row = case.spec.shape.cols / 4;
    let group = |(number, logits): (usize, &[L])| {
        let (row, group) = ((number / in_row) as u64, (number % in_row) as u64);
        let global = (case.shard.row_offset + row) * (case.shard.global_cols / 4) + case.shard.col_offset / 4 + group;
        let noise = noise::gumbels(seed, draw, global);
        let z = std::array::from_fn(|i| match case.spec.kind {
            Kind::Argmax => f64::from(logits[i].to_f32()),
            _ => f64::from(kappa.mul_add(logits[i].to_f32(), noise[i])),
        });
        let kind = if case.spec.frozen && case.spec.kind == Kind::Soft { Kind::Hard } else { case.spec.kind };
        let forward = Group::new(kind, z, f64::from(tau));
        let soft = Group::new(Kind::Soft, relative(kappa, logits, noise).map(f64::from), f64::from(tau));
        let used = if kind == Kind::Soft { soft.soft } else { forward.used };
        [forward, Group { used, ..soft }]
    };
    case.logits.chunks_exact(6).enumerate().map(group).collect()
}

/// Compares everything the passes wrote with the oracle. Products are compared with the exact product of what went into
/// them (`masked` as the executor has it), so that errors do not hide behind one another. `unit` bounds the relative
/// error of an addition of the executor's.
pub(crate) fn compare<L: Logit, W: Float>(case: &Case<L, W>, out: &Outputs<W>, unit: f64) {
    let spec = &case.spec;
    let [t, n, k] = [spec.tokens, spec.shape.rows, spec.shape.cols];
    let groups = groups(case);
    compare_masked(case, &groups, &out.masked);
    if let Some(saved) = &out.saved_masked {
        assert!(
            saved.len() == n * k && saved.iter().zip(&out.masked).all(|(a, b)| same(*a, *b)),
            "saved masked weight"
        );
    }
    if let Some(saved) = &out.saved_codes {
        assert_eq!(saved, &case.codes, "saved codes");
    }
    let (dy, masked) = (Matrix(&case.dy, n), Matrix(&out.masked, k));
    if spec.wants[0] {
        let x = Matrix(&case.x, k);
        compare_product("y", &out.y, [t, k, n], unit, |t, k| x.at(t, k), |k, n| masked.at(n, k));
    }
    if spec.wants[1] {
        compare_product("dx", &out.dx, [t, n, k], unit, |t, n| dy.at(t, n), |n, k| masked.at(n, k));
    }
    if spec.wants[2] && spec.has_logit_gradient() {
        compare_logit_gradient(case, &groups, out, unit);
    }
}

/// `G = dYᵀ X` with a bound on what an executor may differ by, row-major.
pub(crate) fn gradient<L: Logit, W: Float>(case: &Case<L, W>, unit: f64) -> Vec<(f64, f64)> {
    let [t, n, k] = [case.spec.tokens, case.spec.shape.rows, case.spec.shape.cols];
    let (x, dy) = (Matrix(&case.x, k), Matrix(&case.dy, n));
    let one = |i: usize| {
        let terms = (0..t).map(|t| dy.at(t, i / k) * x.at(t, i % k));
        let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
        (sum, gamma(t, unit) * size)
    };
    (0..n * k).map(one).collect()
}

/// The same as an executor wrote it, in any type.
pub(crate) fn compare_weight_gradient<L: Logit, W: Float, G: Float>(case: &Case<L, W>, got: &[G], unit: f64) {
    let [t, n, k] = [case.spec.tokens, case.spec.shape.rows, case.spec.shape.cols];
    let (x, dy) = (Matrix(&case.x, k), Matrix(&case.dy, n));
    compare_product("weight_gradient", got, [n, t, k], unit, |n, t| dy.at(t, n), |t, k| x.at(t, k));
}

/// A row-major matrix with this many columns.
struct Matrix<'a, T>(&'a [T], usize);

impl<T: Float> Matrix<'_, T> {
    fn at(&self, row: usize, col: usize) -> f64 {
        f64::from(self.0[row * self.1 + col].to_f32())
    }
}

fn compare_masked<L: Logit, W: Float>(case: &Case<L, W>, groups: &[[Group; 2]], masked: &[W]) {
    let (u, tiny) = roundoff::<W>();
    for (i, (got, weight)) in masked.iter().zip(&case.weight).enumerate() {
        let (got, w) = (f64::from(got.to_f32()), f64::from(weight.to_f32()));
        let expected = w * groups[i / 4][0].used[i % 4];
        let bound = match case.spec.kind {
            Kind::Soft if !case.spec.frozen => (1.0 + u) * SOFT * U * w.abs() + u * expected.abs() + tiny,
            _ => 0.0,
        };
        close("masked", i, got, expected, bound);
    }
}

/// `got [rows, cols] = a [rows, depth] · b [depth, cols]`: the sum is within `γ·Σ|ab|` with `γ = depth·u/(1 − depth·u)`
/// whatever its order (Higham, section 3.5), and is then rounded.
fn compare_product<O: Float>(
    what: &str,
    got: &[O],
    [rows, depth, cols]: [usize; 3],
    unit: f64,
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
) {
    assert_eq!(got.len(), rows * cols, "{what}");
    let (u, tiny) = roundoff::<O>();
    // Rounding to f32 is the last of the sum's own roundings.
    let u = if u == U { 0.0 } else { u };
    for (i, got) in got.iter().enumerate() {
        let (row, col) = (i / cols, i % cols);
        let terms = (0..depth).map(|d| a(row, d) * b(d, col));
        let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
        let of_sum = gamma(depth, unit) * size;
        close(what, i, f64::from(got.to_f32()), sum, of_sum + u * (sum.abs() + of_sum) + tiny);
    }
}

fn gamma(depth: usize, unit: f64) -> f64 {
    let error = depth as f64 * unit;
    error / (1.0 - error)
}

/// `dL/dlogits` from any `G`.
pub(crate) fn logit_gradient<L: Logit, W: Float>(case: &Case<L, W>, gradient: &[f64]) -> Vec<f64> {
    let lambda = f64::from(case.spec.regulariser);
    let factor = f64::from(case.spec.sampling.kappa) / f64::from(case.spec.sampling.tau);
    let of_group = |(g, [_, group]): (usize, &[Group; 2])| {
        let weight = std::array::from_fn(|j| f64::from(case.weight[4 * g + j].to_f32()));
        group.logit_gradient(factor, lambda, std::array::from_fn(|j| gradient[4 * g + j]), weight)
    };
    groups(case).iter().enumerate().flat_map(of_group).collect()
}

/// With `d_j = G_j W_j − 2λ W_j² m_j` and `D = Σ_j |G_j W_j| + 2|λ| W_j² m_j`, each `d_j` has three roundings of `D_j`
/// and the mask's error times `2|λ| W_j²`; so the pair's sum less the top's and the mean of those by `y` have at most 34
/// roundings of `D` and 88 of `|λ| Σ W²`. The error of `y` brings `SOFT` of `|v − mean| ≤ 2 D`, and four products are
/// left. That is below 90 of `Σ |G W| + 3 |λ| Σ W²`. And the error of `G` moves each `d_j` by that times `|W_j|`: the
/// pair's sum by two of them, the mean by a mix of four.
fn compare_logit_gradient<L: Logit, W: Float>(case: &Case<L, W>, groups: &[[Group; 2]], out: &Outputs<W>, unit: f64) {
    let lambda = f64::from(case.spec.regulariser);
    let factor = f64::from(case.spec.sampling.kappa) / f64::from(case.spec.sampling.tau);
    let gradient = gradient(case, unit);
    for (g, [_, group]) in groups.iter().enumerate() {
        let weight: [f64; 4] = std::array::from_fn(|j| f64::from(case.weight[4 * g + j].to_f32()));
        let of_group: [(f64, f64); 4] = std::array::from_fn(|j| gradient[4 * g + j]);
        let expected = group.logit_gradient(factor, lambda, of_group.map(|(g, _)| g), weight);
        let squares: f64 = weight.iter().map(|w| w * w).sum();
        let sum_of = |term: &dyn Fn(f64, f64) -> f64| -> f64 {
            of_group.iter().zip(weight).map(|(&(g, error), w)| term(g, error) * w.abs()).sum()
        };
        let size = sum_of(&|g, error| g.abs() + error) + 3.0 * lambda.abs() * squares;
        let moved = sum_of(&|_, error| error);
        let (mut sum, mut slack) = (0.0, 0.0);
        for (i, expected) in expected.into_iter().enumerate() {
            let at = 6 * g + i;
            let got = f64::from(out.logit_gradient[at]);
            let before = if case.spec.accumulate { f64::from(case.before[at]) } else { 0.0 };
            let total = before + expected;
            let of_unit_y = factor * (90.0 * U * size + 2.0 * group.y[i] * (1.0 + SOFT * U) * moved);
            let bound = of_unit_y + U * (total.abs() + of_unit_y);
            close("logit_gradient", at, got, total, bound);
            // The group's error of G leaves the sum at zero, but for rounding.
            (sum, slack) = (sum + got - before, slack + bound);
        }
        close("a group's sum", g, sum, 0.0, slack);
    }
}

fn close(what: &str, index: usize, got: f64, expected: f64, bound: f64) {
    let error = (got - expected).abs();
    assert!(
        error <= bound,
        "{what}[{index}] is {got}, expected {expected} within {bound:e}, but the error is {error:e}"
    );
}

/// The loss `Σ dY∘Y − λ Σ (W∘M)²` under a soft mask of these logits, all in `f64`: what the logits' gradient is of.
pub(crate) fn loss<L: Logit, W: Float>(case: &Case<L, W>, logits: &[f64]) -> f64 {
    let spec = &case.spec;
    let [t, n, k] = [spec.tokens, spec.shape.rows, spec.shape.cols];
    let (kappa, tau, lambda) =
        (f64::from(spec.sampling.kappa), f64::from(spec.sampling.tau), f64::from(spec.regulariser));
    let masked: Vec<f64> = (0..n * k)
        .map(|i| {
            let noise = noise::gumbels(spec.sampling.seed, spec.sampling.draw, i as u64 / 4);
            let z = std::array::from_fn(|p| kappa * logits[i / 4 * 6 + p] + f64::from(noise[p]));
            f64::from(case.weight[i].to_f32()) * Group::new(Kind::Soft, z, tau).soft[i % 4]
        })
        .collect();
    let (x, dy) = (Matrix(&case.x, k), Matrix(&case.dy, n));
    let y = |t: usize, n: usize| (0..k).map(|i| x.at(t, i) * masked[n * k + i]).sum::<f64>();
    let of_output: f64 = (0..t * n).map(|i| dy.at(i / n, i % n) * y(i / n, i % n)).sum();
    of_output - lambda * masked.iter().map(|m| m * m).sum::<f64>()
}

/// `Y` of a case by this `W∘M`, its contraction in so many parts.
pub(crate) struct Sums<'a, L, W> {
    pub(crate) case: &'a Case<L, W>,
    pub(crate) masked: &'a [W],
    pub(crate) splits: usize,
    /// A bound on the relative error of an addition.
    pub(crate) unit: f64,
}

impl<L: Logit, W: Float> Sums<'_, L, W> {
    /// Compares `y`: parts are sums more, whatever their order (Higham, section 3.5), and a rounding at the end.
    pub(crate) fn compare(&self, y: &[W]) {
        let (u, tiny) = roundoff::<W>();
        self.each(|at, sum, bound| {
            same_or_close("y", at, f64::from(y[at].to_f32()), sum, bound + u * (sum.abs() + bound) + tiny);
        });
    }

    /// Compares the sums of `parts [splits, T, N]`.
    pub(crate) fn compare_parts(&self, parts: &[f32]) {
        let outputs = self.case.spec.problem().outputs();
        assert_eq!(parts.len(), self.splits * outputs);
        self.each(|at, sum, bound| {
            let got = (0..self.splits).map(|split| f64::from(parts[split * outputs + at])).sum::<f64>();
            same_or_close("parts of y", at, got, sum, bound);
        });
    }

    /// Every exact sum, with what it may differ by before it is rounded.
    fn each(&self, check: impl Fn(usize, f64, f64)) {
        let (cols, rows) = (self.case.spec.shape.cols, self.case.spec.shape.rows);
        let (x, masked) = (Matrix(&self.case.x, cols), Matrix(self.masked, cols));
        for at in 0..self.case.spec.problem().outputs() {
            let terms = (0..cols).map(|k| x.at(at / rows, k) * masked.at(at % rows, k));
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
            check(at, sum, gamma(cols + self.splits, self.unit) * size);
        }
    }
}

/// As [`close`], where infinities and NaN are what they are.
fn same_or_close(what: &str, index: usize, got: f64, expected: f64, bound: f64) {
    if got != expected && !(got.is_nan() && expected.is_nan()) {
        close(what, index, got, expected, bound);
    }
}
