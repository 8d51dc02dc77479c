//! SparseGPT as dense least squares in `f64`: an inverse for every column.

use twofour::Pattern;

/// A square matrix in `f64`.
#[derive(Debug, Clone)]
pub(crate) struct Square {
    pub(crate) size: usize,
    pub(crate) data: Vec<f64>,
}

impl Square {
    pub(crate) fn new(size: usize, of: impl Fn(usize, usize) -> f64) -> Self {
        Self { size, data: (0..size * size).map(|i| of(i / size, i % size)).collect() }
    }

    pub(crate) fn at(&self, row: usize, column: usize) -> f64 {
        self.data[row * self.size + column]
    }

    /// Its rows and columns from `first` on.
    pub(crate) fn from(&self, first: usize) -> Self {
        Self::new(self.size - first, |r, c| self.at(first + r, first + c))
    }

    /// By Gauss-Jordan elimination with pivots.
    pub(crate) fn inverse(&self) -> Self {
        let n = self.size;
        let (mut a, mut b) = (self.clone(), Self::new(n, |r, c| f64::from(u8::from(r == c))));
        for step in 0..n {
            let pivot = (step..n).max_by(|&r, &s| a.at(r, step).abs().total_cmp(&a.at(s, step).abs())).unwrap();
            for c in 0..n {
                a.data.swap(step * n + c, pivot * n + c);
                b.data.swap(step * n + c, pivot * n + c);
            }
            let by = 1.0 / a.at(step, step);
            for c in 0..n {
                a.data[step * n + c] *= by;
                b.data[step * n + c] *= by;
            }
            for r in (0..n).filter(|&r| r != step) {
                let by = a.at(r, step);
                for c in 0..n {
                    a.data[r * n + c] -= by * a.at(step, c);
                    b.data[r * n + c] -= by * b.at(step, c);
                }
            }
        }
        b
    }

    /// `½ δ H δᵀ`.
    pub(crate) fn loss(&self, delta: &[f64]) -> f64 {
        let row = |r: usize| (0..self.size).map(|c| self.at(r, c) * delta[c]).sum::<f64>();
        0.5 * (0..self.size).map(|r| delta[r] * row(r)).sum::<f64>()
    }
}

/// The Hessian of activations, damped, with dead columns' diagonals set to 1.
pub(crate) fn hessian(x: &[f64], cols: usize, damping: f64) -> (Square, Vec<bool>) {
    let tokens = x.len() / cols;
    let product = |r: usize, c: usize| (0..tokens).map(|t| x[t * cols + r] * x[t * cols + c]).sum::<f64>();
    let mut hessian = Square::new(cols, |r, c| 2.0 / tokens as f64 * product(r, c));
    let dead: Vec<bool> = (0..cols).map(|j| hessian.at(j, j) == 0.0).collect();
    let live: Vec<f64> = (0..cols).filter(|&j| !dead[j]).map(|j| hessian.at(j, j)).collect();
    let added = if live.is_empty() { 0.0 } else { damping * live.iter().sum::<f64>() / live.len() as f64 };
    for (j, &dead) in dead.iter().enumerate() {
        hessian.data[j * cols + j] += if dead { 1.0 } else { added };
    }
    (hessian, dead)
}

/// One row of SparseGPT by least squares: when a column has been decided, all columns to its right are set to what is
/// best for them, given the decided ones, by solving for them anew. Weights, and patterns with the margin of each
/// choice.
pub(crate) fn sparsegpt(hessian: &Square, dead: &[bool], weight: &[f64]) -> (Vec<f64>, Vec<(Pattern, f64)>) {
    let cols = weight.len();
    let mut w = weight.to_vec();
    let mut patterns = Vec::new();
    // The inverse of what is left when all columns before one are decided; its corner is U_jj².
    let inverses: Vec<Square> = (0..cols).map(|j| hessian.from(j).inverse()).collect();
    for first in (0..cols).step_by(4) {
        // An empty column loses to all others; among them magnitude decides.
        let of = |j: usize| w[j].abs() * if dead[j] { 1e-30 } else { inverses[j].at(0, 0).sqrt().recip() };
        let scores: Vec<f64> = (first..first + 4).map(of).collect();
        let mut order = [0usize, 1, 2, 3];
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        let pattern = Pattern::from_bits(1 << order[0] | 1 << order[1]).unwrap();
        patterns.push((pattern, (scores[order[1]] - scores[order[2]]) / scores[order[0]].max(1e-300)));
        for j in first..first + 4 {
            if !pattern.keeps(j - first) {
                w[j] = 0.0;
            }
            // δ_rest = −H_rest⁻¹ H_rest,decided δ_decided: the minimum of ½ δ H δᵀ over the rest.
            if j + 1 < cols {
                let delta: Vec<f64> = (0..=j).map(|i| if dead[i] { 0.0 } else { w[i] - weight[i] }).collect();
                let pull = |c: usize| (0..=j).map(|i| hessian.at(j + 1 + c, i) * delta[i]).sum::<f64>();
                let rest = &inverses[j + 1];
                for r in 0..rest.size {
                    w[j + 1 + r] = weight[j + 1 + r] - (0..rest.size).map(|c| rest.at(r, c) * pull(c)).sum::<f64>();
                }
            }
        }
    }
    (w, patterns)
}
