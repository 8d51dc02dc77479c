//! `mask` said again, group by group in `f64`, straight from the formulas. Only the scores are not: they are defined to
//! the bit, as one fma of `f32`.

use crate::case::{BackwardCase, ForwardCase};
use crate::common::relative;
use twofour::mask::{GradientOf, Kind, Sampling};
use twofour::{Float, Logit, noise};

/// Positions kept, by pattern index.
pub(crate) const KEPT: [[usize; 2]; 6] = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]];
/// Hardware codes, by pattern index.
pub(crate) const CODE: [u8; 6] = [4, 8, 12, 9, 13, 14];

/// One group's mask.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    /// Softmax over the patterns.
    pub(crate) y: [f64; 6],
    pub(crate) soft: [f64; 4],
    /// The chosen pattern; none without a finite largest score.
    pub(crate) chosen: Option<usize>,
    /// How far rounding may move each `y`, relatively, in units of 2⁻²²: by its exponent, which carries a relative
    /// error, and by the sum's.
    pub(crate) wobble: [f64; 6],
}

impl Group {
    pub(crate) fn new(kind: Kind, sampling: &Sampling, number: u64, logits: [f32; 6]) -> Self {
        let (z, factor) = match kind {
            Kind::Argmax => (logits, sampling.kappa),
            _ => (scores(sampling, number, logits), 1.0),
        };
        Self::of(z, z, f64::from(factor) / f64::from(sampling.tau))
    }

    /// As gradients have it: the soft mask is that of scores relative to the largest logit.
    pub(crate) fn backward(_: Kind, sampling: &Sampling, number: u64, logits: [f32; 6]) -> Self {
        let noise = noise::gumbels(sampling.seed, sampling.draw, number);
        let z = scores(sampling, number, logits);
        Self::of(z, relative(sampling.kappa, &logits, noise), 1.0 / f64::from(sampling.tau))
    }

    /// The choice that `z` makes and the softmax of `factor` times these scores.
    fn of(z: [f32; 6], soft_scores: [f32; 6], factor: f64) -> Self {
        let nan = z.iter().any(|z| z.is_nan());
        let top = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let valid = !nan && top.is_finite();
        let soft_top = soft_scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exponents = soft_scores.map(|z| (f64::from(z) - f64::from(soft_top)) * factor);
        let e = exponents.map(f64::exp);
        let sum: f64 = e.iter().sum();
        let y = if valid { e.map(|e| e / sum) } else { [f64::NAN; 6] };
        let soft = std::array::from_fn(|j| (0..6).filter(|&i| KEPT[i].contains(&j)).map(|i| y[i]).sum());
        let of_sum: f64 = (0..6).filter(|&i| y[i] > 0.0).map(|i| y[i] * exponents[i].abs()).sum();
        let wobble = exponents.map(|x| 4.0 + x.abs() + of_sum);
        Self { y, soft, chosen: valid.then(|| z.iter().position(|&z| z == top).unwrap()), wobble }
    }

    /// The mask as an executor gives it: hard, soft, or NaN.
    pub(crate) fn mask(&self, kind: Kind) -> [f64; 4] {
        match (kind, self.chosen) {
            (_, None) => [f64::NAN; 4],
            (Kind::Soft, _) => self.soft,
            (_, Some(chosen)) => std::array::from_fn(|j| f64::from(u8::from(KEPT[chosen].contains(&j)))),
        }
    }

    /// A bound on the error of a soft mask's value.
    pub(crate) fn mask_error(&self, j: usize) -> f64 {
        let of = |i: usize| if self.y[i] > 0.0 { self.y[i] * self.wobble[i] } else { 0.0 };
        (0..6).filter(|&i| KEPT[i].contains(&j)).map(of).sum::<f64>() * 2f64.powi(-22)
    }

    /// The masked value of a weight: product if soft, selection if hard.
    pub(crate) fn masked(&self, kind: Kind, j: usize, w: f64) -> f64 {
        match (kind, self.chosen) {
            (_, None) => f64::NAN,
            (Kind::Soft, _) => w * self.soft[j],
            (_, Some(chosen)) => {
                if KEPT[chosen].contains(&j) {
                    w
                } else {
                    0.0
                }
            }
        }
    }
}

/// The scores of a group, to the bit.
fn scores(sampling: &Sampling, number: u64, logits: [f32; 6]) -> [f32; 6] {
    let noise = noise::gumbels(sampling.seed, sampling.draw, number);
    std::array::from_fn(|i| sampling.kappa.mul_add(logits[i], noise[i]))
}

/// The groups of a forward case, in order.
pub(crate) fn groups<L: Logit, W: Float>(case: &ForwardCase<L, W>) -> Vec<Group> {
    groups_by(case, Group::new)
}

/// The groups of a forward case by another definition.
pub(crate) fn groups_by<L: Logit, W: Float>(
    case: &ForwardCase<L, W>,
    group: impl Fn(Kind, &Sampling, u64, [f32; 6]) -> Group,
) -> Vec<Group> {
    numbers(case.shape.rows, case.shape.cols, &case.shard)
        .zip(case.logits.chunks_exact(6))
        .map(|(n, l)| group(case.kind, &case.sampling, n, std::array::from_fn(|i| l[i].to_f32())))
        .collect()
}

/// Global group numbers of a shard, row by row.
pub(crate) fn numbers(rows: usize, cols: usize, shard: &twofour::Shard) -> impl Iterator<Item = u64> {
    let shard = *shard;
    (0..rows as u64).flat_map(move |row| {
        (0..cols as u64 / 4)
            .map(move |group| (shard.row_offset + row) * (shard.global_cols / 4) + (shard.col_offset / 4 + group))
    })
}

/// A logit gradient and how far an executor may be from it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) value: f64,
    pub(crate) error: f64,
}

/// The logit gradients of a backward case.
pub(crate) fn logit_gradients<L: Logit, W: Float, G: GradientOf<W>>(
    case: &BackwardCase<L, W, G>,
) -> Vec<[Expected; 6]> {
    let lambda = f64::from(case.regulariser);
    let factor = f64::from(case.sampling.kappa) / f64::from(case.sampling.tau);
    let operands = case.logits.chunks_exact(6).zip(case.weight.chunks_exact(4)).zip(case.gradient.chunks_exact(4));
    numbers(case.shape.rows, case.shape.cols, &case.shard)
        .zip(operands)
        .map(|(n, ((l, w), g))| {
            let group = Group::backward(case.kind, &case.sampling, n, std::array::from_fn(|i| l[i].to_f32()));
            let used = group.mask(case.kind);
            let (w, g) =
                ([0, 1, 2, 3].map(|j| f64::from(w[j].to_f32())), [0, 1, 2, 3].map(|j| f64::from(g[j].to_f32())));
            let d: [f64; 4] = std::array::from_fn(|j| g[j] * w[j] - 2.0 * lambda * w[j] * w[j] * used[j]);
            let size: f64 = (0..4).map(|j| (g[j] * w[j]).abs() + 2.0 * (lambda * w[j] * w[j] * used[j]).abs()).sum();
            let mean: f64 = (0..4).map(|j| group.soft[j] * d[j]).sum();
            std::array::from_fn(|i| {
                let value = factor * group.y[i] * (d[KEPT[i][0]] + d[KEPT[i][1]] - mean);
                let own = if group.y[i] > 0.0 { group.y[i] * group.wobble[i] } else { 0.0 };
                // The mean wobbles as the soft mask does, and with it every member of the group.
                let of_mean: f64 = (0..4).map(|j| group.mask_error(j) * d[j].abs()).sum();
                let error = factor * (own * size * 2f64.powi(-22) + group.y[i] * of_mean);
                Expected { value, error: error + factor * size * 2f64.powi(-120) }
            })
        })
        .collect()
}
