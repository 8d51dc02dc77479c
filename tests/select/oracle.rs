//! What is meant, in the plainest form: scores sorted, sums in `f64`, and swaps pair by pair in the order of the contract.

use twofour::{Float, Pattern, Shape};

/// The pattern of the two best scores, or `None` if one is NaN: positions sorted by score, equal ones by position.
pub(crate) fn choose(scores: &[f32]) -> Option<Pattern> {
    if scores.iter().any(|score| score.is_nan()) {
        return None;
    }
    let mut positions = [0usize, 1, 2, 3];
    positions.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap().then(a.cmp(&b)));
    Pattern::from_bits(1 << positions[0] | 1 << positions[1])
}

/// The best of six by exact sums, ties to the lowest index; for scores whose sums are exact.
pub(crate) fn best_of_six(scores: &[f32]) -> Pattern {
    let sum = |pattern: Pattern| pattern.kept().map(|j| f64::from(scores[usize::from(j)])).iter().sum::<f64>();
    Pattern::ALL
        .into_iter()
        .fold(Pattern::ALL[0], |best, pattern| if sum(pattern) > sum(best) { pattern } else { best })
}

/// The code of group `g`.
pub(crate) fn code(codes: &[u8], g: usize) -> u8 {
    codes[g / 2] >> (4 * (g % 2)) & 15
}

/// `W∘M` of a group.
pub(crate) fn masked<W: Float>(pattern: Option<Pattern>, weight: &[W]) -> Vec<W> {
    let of = |(j, &w): (usize, &W)| match pattern {
        None => W::from_f32(f32::NAN),
        Some(pattern) if pattern.keeps(j) => w,
        Some(_) => W::from_f32(0.0),
    };
    weight.iter().enumerate().map(of).collect()
}

/// The group's place in its row, for messages.
pub(crate) fn place(shape: Shape, group: usize) -> String {
    format!("group {} of row {}", group % (shape.cols / 4), group / (shape.cols / 4))
}

/// The share of its first loss by which a swap must lower a row's.
const LEAST: f32 = 1.0 / (1 << 20) as f32;

/// A row and its mask.
#[derive(Clone)]
pub(crate) struct Row<'a> {
    pub(crate) hessian: &'a [f32],
    pub(crate) w: Vec<f32>,
    pub(crate) patterns: Vec<Option<Pattern>>,
}

impl Row<'_> {
    fn h(&self, i: usize, j: usize) -> f32 {
        self.hessian[i * self.w.len() + j]
    }

    fn keeps(&self, j: usize) -> bool {
        self.patterns[j / 4].is_some_and(|pattern| pattern.keeps(j % 4))
    }

    /// The two of the pair change places.
    pub(crate) fn swap(&mut self, [i, j]: [usize; 2]) {
        let bits = self.patterns[i / 4].unwrap().bits() ^ (1 << (i % 4)) ^ (1 << (j % 4));
        self.patterns[i / 4] = Some(Pattern::from_bits(bits).unwrap());
    }

    /// `rᵀHr` in `f64`.
    pub(crate) fn exact(&self) -> f64 {
        let r: Vec<f64> =
            self.w.iter().enumerate().map(|(j, w)| if self.keeps(j) { 0.0 } else { f64::from(*w) }).collect();
        let dropped: Vec<usize> = (0..r.len()).filter(|&j| r[j] != 0.0).collect();
        let of = |&i: &usize| dropped.iter().map(|&j| r[j] * f64::from(self.h(i, j))).sum::<f64>() * r[i];
        dropped.iter().map(of).sum()
    }

    /// Every pair of a group of which one is kept, in order.
    pub(crate) fn pairs(&self) -> Vec<[usize; 2]> {
        let all = (0..self.w.len()).flat_map(|i| (i + 1..(i / 4 + 1) * 4).map(move |j| [i, j]));
        all.filter(|&[i, j]| self.patterns[i / 4].is_some() && self.keeps(i) != self.keeps(j)).collect()
    }

    /// The contract's own words: `H r` as it is added up, the best pair, and what it adds.
    fn products(&self) -> Vec<f32> {
        let mut c = vec![0.0; self.w.len()];
        for j in (0..c.len()).filter(|&j| !self.keeps(j)) {
            let w = if self.patterns[j / 4].is_some() { self.w[j] } else { f32::NAN };
            c.iter_mut().enumerate().for_each(|(i, c)| *c = w.mul_add(self.h(j, i), *c));
        }
        c
    }

    fn change(&self, c: &[f32], [i, j]: [usize; 2]) -> f32 {
        let w = &self.w;
        let alone = |j: usize| {
            let twice = if self.keeps(j) { 2.0 * w[j] } else { -2.0 * w[j] };
            twice.mul_add(c[j], w[j] * w[j] * self.h(j, j))
        };
        alone(i) + alone(j) + w[i] * w[j] * (-2.0 * self.h(i, j))
    }

    /// Sums of every 256th group, of which 32 each are added up as a tree, and those in order.
    fn loss(&self, c: &[f32]) -> f64 {
        let mut sums = vec![0.0; 256];
        for j in (0..c.len()).filter(|&j| !self.keeps(j)) {
            sums[j / 4 % 256] += f64::from(self.w[j]) * f64::from(c[j]);
        }
        let tree = |sums: &[f64]| {
            let mut sums = sums.to_vec();
            while sums.len() > 1 {
                let half = sums.len() / 2;
                sums = (0..half).map(|i| sums[i] + sums[i + half]).collect();
            }
            sums[0]
        };
        sums.chunks(32).map(tree).fold(0.0, |sum, of| sum + of)
    }

    /// Losses and the number of swaps; each swap is also checked against losses in `f64`.
    pub(crate) fn run(&mut self, limit: u32) -> (f64, f64, u32) {
        let mut c = self.products();
        let before = self.loss(&c);
        let enough = -LEAST * before.abs() as f32;
        for count in 0..limit {
            let mut best = (enough, None);
            for pair in self.pairs() {
                let change = self.change(&c, pair);
                if change < best.0 {
                    best = (change, Some(pair));
                }
            }
            let (change, Some([i, j])) = best else { return (0.5 * before, 0.5 * self.loss(&c), count) };
            let (p, u) = if self.keeps(i) { (i, j) } else { (j, i) };
            let exact = self.exact();
            self.swap([i, j]);
            let off = (self.exact() - exact - f64::from(change)).abs();
            assert!(off <= 1e-5 * before.abs() || !off.is_finite(), "{change} for {}", self.exact() - exact);
            for (i, c) in c.iter_mut().enumerate() {
                *c = (-self.w[u]).mul_add(self.h(u, i), self.w[p].mul_add(self.h(p, i), *c));
            }
        }
        (0.5 * before, 0.5 * self.loss(&c), limit)
    }
}
