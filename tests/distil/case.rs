//! Problems with their own memory, made from a seed.

use crate::common::{TestExecutor, given};
use rand::rngs::StdRng;
use rand::seq::index::sample;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use twofour::distil::{Distil, Divergence, IGNORED, Tail};
use twofour::{Float, Result};

/// What the student is to be like.
#[derive(Debug, Clone)]
pub(crate) enum Teacher<L> {
    None,
    Logits(Divergence, Vec<L>),
    TopK { k: usize, tail: Tail, tokens: Vec<u32>, log_probs: Vec<f32> },
}

#[derive(Debug, Clone)]
pub(crate) struct Case<L> {
    pub(crate) rows: usize,
    pub(crate) vocab: usize,
    pub(crate) student: Vec<L>,
    pub(crate) teacher: Teacher<L>,
    pub(crate) temperature: f32,
    pub(crate) lambda: f32,
    pub(crate) labels: Option<Vec<u32>>,
    pub(crate) weights: Option<Vec<f32>>,
    pub(crate) scale: f32,
}

/// Losses, and the gradient where it was wanted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Distilled<L> {
    pub(crate) loss: Vec<f32>,
    pub(crate) gradient: Option<Vec<L>>,
}

pub(crate) fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// Logits of such a spread around some number.
pub(crate) fn logits<L: Float>(rng: &mut StdRng, count: usize, spread: f32, offset: f32) -> Vec<L> {
    (0..count).map(|_| L::from_f32(offset + spread * rng.sample::<f32, _>(StandardNormal))).collect()
}

/// What can be asked for, by number: cross-entropy alone, three divergences, top-k teachers.
pub(crate) const FORMS: u64 = 5;

impl<L: Float> Case<L> {
    /// Of a form, with everything else by chance; `tall` for rows that are longer than a sweep's step.
    pub(crate) fn new(seed: u64, form: u64, tall: bool) -> Self {
        let mut rng = rng(seed);
        let rows = rng.random_range(1..4);
        // A thread of a device takes more than one run of logits from 4,096 on.
        let vocab = if tall { rng.random_range(2000..6000) } else { rng.random_range(1..200) };
        let spread = [0.5, 2.0, 6.0][rng.random_range(0..3)];
        let offset = [0.0, 0.0, 30.0, -200.0][rng.random_range(0..4)];
        let student = logits(&mut rng, rows * vocab, spread, offset);
        let mut case = Self {
            rows,
            vocab,
            student,
            teacher: Teacher::None,
            temperature: [1.0, 0.7, 2.0, 5.0][rng.random_range(0..4)],
            lambda: [0.0, 0.3, 2.0][rng.random_range(0..3)],
            labels: None,
            weights: None,
            scale: [1.0, 0.125, -300.0][rng.random_range(0..3)],
        };
        case.teacher = case.any_teacher(&mut rng, form, spread);
        if form == 0 {
            (case.temperature, case.lambda) = (1.0, case.lambda.max(0.5));
        }
        if form == 0 || rng.random() {
            let label = |rng: &mut StdRng| rng.random_range(0..vocab as u32);
            let labels = (0..rows).map(|_| if rng.random_ratio(1, 6) { IGNORED } else { label(&mut rng) });
            case.labels = Some(labels.collect());
        }
        if rng.random() {
            let weight = |rng: &mut StdRng| if rng.random_ratio(1, 5) { 0.0 } else { rng.random_range(0.1..2.0) };
            case.weights = Some((0..rows).map(|_| weight(&mut rng)).collect());
        }
        case.pad(&mut rng);
        if rng.random_ratio(1, 6) {
            case.spoil(&mut rng);
        }
        case
    }

    fn any_teacher(&self, rng: &mut StdRng, form: u64, spread: f32) -> Teacher<L> {
        let (rows, vocab) = (self.rows, self.vocab);
        let by = match form {
            0 => return Teacher::None,
            1 => Divergence::Forward,
            2 => Divergence::Reverse,
            // Its ends are the other two divergences (`edges`, `launches`).
            3 => Divergence::Jsd([0.05, 0.1, 0.5, 0.9, 0.95][rng.random_range(0..5)]),
            _ => {
                let k = rng.random_range(1..=vocab.min(40));
                let tail = [Tail::Renormalised, Tail::Lumped][rng.random_range(0..2)];
                let mut tokens = vec![];
                let mut log_probs = vec![];
                for _ in 0..rows {
                    tokens.extend(sample(rng, vocab, k).into_iter().map(|token| token as u32));
                    let own: Vec<f64> = (0..k).map(|_| f64::from(rng.sample::<f32, _>(StandardNormal)).exp()).collect();
                    let rest = if k == vocab { 0.0 } else { rng.random_range(0.01..1.0) };
                    let all = own.iter().sum::<f64>() / (1.0 - rest);
                    log_probs.extend(own.iter().map(|one| (one / all).ln() as f32));
                }
                return Teacher::TopK { k, tail, tokens, log_probs };
            }
        };
        // Sometimes near the student, as a model that learns from itself is.
        let teacher = match rng.random_range(0..4) {
            0 => self
                .student
                .iter()
                .map(|s| L::from_f32(s.to_f32() + 0.01 * rng.sample::<f32, _>(StandardNormal)))
                .collect(),
            _ => logits(rng, rows * vocab, spread, 3.0),
        };
        Teacher::Logits(by, teacher)
    }

    /// A padded vocabulary: the last columns −∞ in both, where losses stay finite.
    fn pad(&mut self, rng: &mut StdRng) {
        let padding = rng.random_range(0..self.vocab.min(20));
        if !rng.random_ratio(1, 3) || matches!(self.teacher, Teacher::TopK { .. }) {
            return;
        }
        let kept = self.vocab - padding;
        let none = L::from_f32(f32::NEG_INFINITY);
        self.student.chunks_mut(self.vocab).for_each(|row| row[kept..].fill(none));
        if let Teacher::Logits(by, logits) = &mut self.teacher {
            // Of these two the divergence is finite if not.
            let apart = matches!(by, Divergence::Jsd(beta) if *beta > 0.0 && *beta < 1.0);
            let kept = if apart { self.vocab - rng.random_range(0..self.vocab.min(20)) } else { kept };
            logits.chunks_mut(self.vocab).for_each(|row| row[kept..].fill(none));
        }
        for label in self.labels.iter_mut().flatten().filter(|label| **label != IGNORED) {
            *label = (*label).min(kept as u32 - 1);
        }
    }

    /// A value that makes its row NaN.
    fn spoil(&mut self, rng: &mut StdRng) {
        let wild = L::from_f32([f32::NAN, f32::INFINITY][rng.random_range(0..2)]);
        let at = rng.random_range(0..self.student.len());
        match &mut self.teacher {
            Teacher::Logits(_, teacher) if rng.random() => teacher[at] = wild,
            _ => self.student[at] = wild,
        }
    }

    /// Runs it, on a loss full of NaN.
    pub(crate) fn run<E: TestExecutor>(&self, on: &mut E, gradient: bool) -> Distilled<L> {
        self.try_run(on, gradient).unwrap()
    }

    pub(crate) fn try_run<E: TestExecutor>(&self, on: &mut E, gradient: bool) -> Result<Distilled<L>> {
        let (rows, vocab) = (self.rows, self.vocab);
        let mut student = on.upload(&self.student)?;
        let mut loss = on.poisoned::<f32>(rows);
        let labels = self.labels.as_ref().map(|labels| on.upload(labels)).transpose()?;
        let weights = self.weights.as_ref().map(|weights| on.upload(weights)).transpose()?;
        let teacher = match &self.teacher {
            Teacher::Logits(_, logits) => Some(on.upload(logits)?),
            _ => None,
        };
        let known = match &self.teacher {
            Teacher::TopK { tokens, log_probs, .. } => Some((on.upload(tokens)?, on.upload(log_probs)?)),
            _ => None,
        };
        let pass = match gradient {
            true => Distil::gradient(rows, vocab, E::output(&mut student), E::output(&mut loss)),
            false => Distil::loss(rows, vocab, E::input(&student), E::output(&mut loss)),
        };
        let pass = match (&self.teacher, &teacher, &known) {
            (Teacher::Logits(by, _), Some(logits), _) => pass.teacher(*by, self.temperature, E::input(logits)),
            (Teacher::TopK { k, tail, .. }, _, Some((tokens, log_probs))) => {
                pass.top_k(*k, *tail, self.temperature, E::input(tokens), E::input(log_probs))
            }
            _ => pass,
        };
        let pass = match &labels {
            Some(labels) => pass.labels(self.lambda, E::input(labels)),
            None => pass,
        };
        on.run(given!(pass, weights: weights.as_ref().map(E::input)).scale(self.scale))?;
        Ok(Distilled {
            loss: on.download(&loss)?,
            gradient: if gradient { Some(on.download(&student)?) } else { None },
        })
    }
}
