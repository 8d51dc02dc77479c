//! Feed-forwards with their own memory, made from a seed, and what comes of them in `f64`.

use crate::case::{activation, numbers, rng};
use crate::common::TestExecutor;
use crate::oracle::neuron;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use twofour::Float;
use twofour::glu::{Activation, Axis, Factor, FeedForward, Neurons, Plan, Route, words};

/// A weight `[f, d]`: in f64 as it counts, `None` where it is dropped; and as it is given.
#[derive(Debug, Clone)]
pub(crate) struct Weight<L> {
    pub(crate) counts: Vec<Option<f64>>,
    pub(crate) values: Vec<L>,
    pub(crate) codes: Option<Vec<u8>>,
}

const LEGAL: [u8; 6] = [0x4, 0x8, 0xc, 0x9, 0xd, 0xe];

impl<L: Float> Weight<L> {
    pub(crate) fn dense(values: Vec<L>) -> Self {
        let counts = values.iter().map(|value| Some(f64::from(value.to_f32()))).collect();
        Self { counts, values, codes: None }
    }

    /// Of kept values and a code for each two of them.
    pub(crate) fn kept(values: Vec<L>, codes: &[u8]) -> Self {
        let mut counts = vec![None; 2 * values.len()];
        for (i, value) in values.iter().enumerate() {
            let code = codes[i / 2] >> (i % 2 * 2) & 3;
            counts[i / 2 * 4 + usize::from(code)] = Some(f64::from(value.to_f32()));
        }
        let bytes = codes.chunks(2).map(|two| two[0] | two.get(1).map_or(0x40, |code| code << 4)).collect();
        Self { counts, values, codes: Some(bytes) }
    }

    fn random(rng: &mut StdRng, elements: usize, kept: bool, exact: bool) -> Self {
        let count = if kept { elements / 2 } else { elements };
        let values = if exact { integers(rng, count) } else { numbers(rng, count, false) };
        if !kept {
            return Self::dense(values);
        }
        let codes: Vec<u8> = (0..elements / 4).map(|_| *LEGAL.choose(rng).unwrap()).collect();
        Self::kept(values, &codes)
    }
}

/// So small that sums of their products are exact.
fn integers<L: Float>(rng: &mut StdRng, count: usize) -> Vec<L> {
    (0..count).map(|_| L::from_f32(rng.random_range(-2..=2) as f32)).collect()
}

#[derive(Debug, Clone)]
pub(crate) struct Ffn<L> {
    pub(crate) tokens: usize,
    pub(crate) size: [usize; 2],
    pub(crate) activation: Activation,
    pub(crate) x: Vec<L>,
    /// Gate, up and down.
    pub(crate) weights: [Weight<L>; 3],
    pub(crate) before: Option<Vec<L>>,
    pub(crate) given: Option<Vec<u32>>,
    pub(crate) route: Route,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Made<L> {
    pub(crate) y: Vec<L>,
    pub(crate) mask: Vec<u32>,
    pub(crate) lost: Vec<u32>,
    pub(crate) rows: Vec<u32>,
}

impl<L: Float + Factor> Ffn<L> {
    /// By chance, but that the seed decides what kernels there are; of a tall one rows are longer than a warp's step, or neurons more than a list holds.
    pub(crate) fn new(seed: u64, tall: bool) -> Self {
        let mut rng = rng(seed);
        // Every kernel as often as the others.
        let tokens = [1, rng.random_range(2..=4), rng.random_range(5..=8)][seed as usize / 2 % 3];
        let kept = [rng.random(), rng.random(), seed / 6 % 2 == 1];
        let kept = if L::DTYPE == twofour::DType::F32 { [false; 3] } else { kept };
        let step = match kept.contains(&true) {
            true => [4, 8, 16][rng.random_range(0..3)],
            false => [1, 8, 16][rng.random_range(0..3)],
        };
        let [width, neurons] = match tall {
            true if rng.random_ratio(1, 2) => [step * rng.random_range(1..=3), rng.random_range(4000..5000)],
            true => [step * (rng.random_range(1000..2600) / step), rng.random_range(1..60)],
            false => [step * rng.random_range(1..=300 / step), rng.random_range(1..150)],
        };
        let (exact, special) = (rng.random_ratio(1, 2), rng.random_ratio(1, 6));
        let mut x = if exact { integers(&mut rng, tokens * width) } else { numbers(&mut rng, tokens * width, false) };
        if special {
            let at = rng.random_range(0..x.len());
            x[at] = L::from_f32(*[f32::NAN, f32::INFINITY].choose(&mut rng).unwrap());
        }
        let weights = kept.map(|kept| Weight::random(&mut rng, width * neurons, kept, exact));
        let before = rng.random_ratio(1, 3).then(|| numbers(&mut rng, tokens * width, false));
        let given = rng.random_ratio(1, 3).then(|| {
            let share: u32 = rng.random_range(1..8);
            let mut word = || (0..32).fold(0, |word, bit| word | u32::from(rng.random_ratio(share, 8)) << bit);
            (0..tokens * words(neurons)).map(|_| word()).collect()
        });
        let route = if rng.random_ratio(1, 5) { Route::Whole } else { Route::Skip };
        let activation = activation(rng.random());
        Self { tokens, size: [width, neurons], activation, x, weights, before, given, route }
    }

    pub(crate) fn plan(&self) -> Plan<L> {
        Plan::new(self.tokens, self.size, self.activation).unwrap().with_route(self.route)
    }

    pub(crate) fn decode<E: TestExecutor>(&self, on: &mut E) -> Made<L> {
        let x = on.upload(&self.x).unwrap();
        let weights = self.weights.each_ref().map(|weight| {
            let codes = weight.codes.as_ref().map(|codes| on.upload(codes).unwrap());
            (on.upload(&weight.values).unwrap(), codes)
        });
        let [gate, up, down] = weights.each_ref().map(|(values, codes)| match codes {
            Some(codes) => Neurons::kept(Axis::Width, E::input(values), E::input(codes)),
            None => Neurons::dense(E::input(values)),
        });
        let (weights, plan) = (FeedForward::new(self.size, gate, up, down), self.plan());
        let given = self.given.as_ref().map(|given| on.upload(given).unwrap());
        let mut y = on.started(self.before.as_ref(), self.x.len());
        let mut mask = on.poisoned::<u32>(self.tokens * words(self.size[1]));
        let (mut lost, mut rows) = (on.poisoned::<u32>(self.tokens), on.poisoned::<u32>(3));
        let mut scratch = on.scratch(&plan).unwrap();
        let pass = plan.decode(&weights, self.activation, E::input(&x), E::output(&mut y), &mut scratch);
        let pass = pass.mask(E::output(&mut mask)).lost(E::output(&mut lost)).rows(E::output(&mut rows));
        let pass = if self.before.is_some() { pass.accumulate() } else { pass };
        let pass = if let Some(given) = &given { pass.given(E::input(given)) } else { pass };
        on.run(pass).unwrap();
        let read = |of| on.download(of).unwrap();
        Made { y: on.download(&y).unwrap(), mask: read(&mask), lost: read(&lost), rows: read(&rows) }
    }

    fn is_given(&self, token: usize, neuron: usize) -> bool {
        let word = token * words(self.size[1]) + neuron / 32;
        self.given.as_ref().is_none_or(|given| given[word] >> (neuron % 32) & 1 == 1)
    }

    /// A neuron's product with a token, and by how much sums in f32 may miss it.
    fn product(&self, weight: &Weight<L>, token: usize, neuron: usize) -> [f64; 2] {
        let width = self.size[0];
        let terms = weight.counts[neuron * width..][..width].iter().zip(&self.x[token * width..]);
        let terms = terms.filter_map(|(weight, x)| weight.map(|weight| weight * f64::from(x.to_f32())));
        let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
        [sum, size * f64::from(f32::EPSILON) * (width as f64 / 32.0 + 16.0)]
    }

    /// Holds what was made to the formulas. Where a sum in f32 may lie on either side of an edge, either will do.
    pub(crate) fn compare(&self, made: &Made<L>) {
        let (tokens, [width, neurons], is_exact) = (self.tokens, self.size, self.is_exact());
        let (mut lost, mut rows, mut unsure) = (vec![0; tokens], [0u32; 3], false);
        let mut sums = vec![[0.0f64; 2]; tokens * width];
        let mut is_close = vec![true; tokens];
        for j in 0..neurons {
            let (mut some, mut gate_on, mut on) = (false, false, false);
            for t in 0..tokens {
                let is_given = self.is_given(t, j);
                some |= is_given;
                let [[g, of_g], [u, of_u]] = [0, 1].map(|which| self.product(&self.weights[which], t, j));
                let at = |g, u| neuron(self.activation, 0.0, [g, u, 0.0]);
                let here = at(g, u);
                let gate = |g| at(g, 1.0).on;
                let off = |all: &[bool]| all.iter().any(|on| *on != all[0]);
                let corners = [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]];
                let around = corners.map(|[a, b]| at(g + a * of_g, u + b * of_u).on);
                let exact = is_exact || of_g == 0.0 && of_u == 0.0;
                let either = is_given && !exact && off(&around);
                unsure |= either || is_given && !exact && gate(g - of_g) != gate(g + of_g);
                lost[t] += u32::from(is_given && (g.is_nan() || gate(g) && (g * u).is_nan()));
                gate_on |= is_given && gate(g);
                let bit = made.mask[t * words(neurons) + j / 32] >> (j % 32) & 1 == 1;
                assert!(bit == (is_given && here.on) || either, "neuron {j} of token {t}: {g} {u}: {self:?}");
                on |= bit;
                if !bit {
                    continue;
                }
                let h = at(g, u).h;
                // An edge that was not taken here.
                let h = if here.on { h } else { g * u };
                if !h.is_finite() || !g.is_finite() {
                    is_close[t] = false;
                }
                let off = of_g * (u.abs() + of_u) * 1.2 + of_u * (g.abs() + of_g) + 4e-6 * h.abs();
                for (sum, weight) in sums[t * width..].iter_mut().zip(&self.weights[2].counts[j * width..][..width]) {
                    if let Some(weight) = weight {
                        *sum = [sum[0] + h * weight, sum[1] + (off + 2e-5 * h.abs()) * weight.abs()];
                    }
                }
            }
            rows = [rows[0] + u32::from(some), rows[1] + u32::from(gate_on), rows[2] + u32::from(on)];
        }
        if self.route == Route::Whole {
            rows = [neurons as u32; 3];
        }
        if !unsure {
            assert_eq!((&made.lost, made.rows.as_slice()), (&lost, rows.as_slice()), "{self:?}");
        }
        for (at, [sum, off]) in sums.iter().enumerate() {
            let before = self.before.as_ref().map_or(0.0, |before| f64::from(before[at].to_f32()));
            let (got, expected) = (f64::from(made.y[at].to_f32()), sum + before);
            let written = L::from_f32(expected as f32).to_f32();
            // Infinities meet, or a type's end is near.
            if !is_close[at / width] || !written.is_finite() || !got.is_finite() {
                continue;
            }
            let slack = off + crate::common::rounding::<L>(expected) + 1e-6 * before.abs() + 1e-30;
            assert!((got - expected).abs() <= slack, "{got} for {expected} at {at}, {slack}: {self:?}");
        }
    }

    /// Whether gates and ups are.
    fn is_exact(&self) -> bool {
        let whole = |of: &L| of.to_f32().fract() == 0.0 || !of.to_f32().is_finite();
        self.x.iter().all(whole) && self.weights[..2].iter().all(|weight| weight.values.iter().all(whole))
    }
}
