//! The contract's formulas in `f64`, one row at a time.

use crate::case::{Case, Teacher};
use twofour::Float;
use twofour::distil::{Divergence, IGNORED, Tail};

/// A number, and how large what it is the sum of is, by which rounding is judged.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Sum {
    pub(crate) value: f64,
    pub(crate) size: f64,
}

impl Sum {
    fn add(&mut self, term: f64) {
        self.value += term;
        self.size += term.abs();
    }
}

/// `ln softmax`.
pub(crate) fn log_softmax(logits: &[f64], temperature: f64) -> Vec<f64> {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, |top, z| if z.is_nan() { z } else { top.max(z) });
    let below: Vec<f64> = logits.iter().map(|z| (z - top) / temperature).collect();
    let sum = below.iter().map(|z| z.exp()).sum::<f64>().ln();
    below.iter().map(|z| z - sum).collect()
}

/// A term with a probability that may be 0.
fn times(p: f64, x: impl Fn() -> f64) -> f64 {
    if p == 0.0 { 0.0 } else { x() }
}

/// The student's logits of a row.
pub(crate) fn student<L: Float>(case: &Case<L>, row: usize) -> Vec<f64> {
    case.student[row * case.vocab..(row + 1) * case.vocab].iter().map(|s| f64::from(s.to_f32())).collect()
}

/// Loss and gradient of a row of a problem, with these logits of the student's.
pub(crate) fn row<L: Float>(case: &Case<L>, row: usize, student: &[f64]) -> (Sum, Vec<Sum>) {
    let weight = case.weights.as_ref().map_or(1.0, |weights| f64::from(weights[row]));
    if weight == 0.0 {
        return (Sum::default(), vec![Sum::default(); case.vocab]);
    }
    let (mut loss, mut gradient) = divergence(case, row, student);
    let label = case.labels.as_ref().map(|labels| labels[row]).filter(|label| *label != IGNORED);
    if let Some(label) = label.filter(|_| case.lambda != 0.0) {
        let lambda = f64::from(case.lambda);
        let log_p = log_softmax(student, 1.0);
        loss.add(-lambda * log_p[label as usize]);
        loss.size += lambda;
        for (v, (gradient, log_p)) in gradient.iter_mut().zip(log_p).enumerate() {
            gradient.add(lambda * log_p.exp());
            gradient.size += times(log_p.exp(), || lambda * log_p.abs() * 0.1);
            if v == label as usize {
                gradient.add(-lambda);
            }
        }
    }
    let scaled = |sum: Sum, by: f64| Sum { value: sum.value * by, size: sum.size * by.abs() };
    let gradient = gradient.into_iter().map(|sum| scaled(sum, weight * f64::from(case.scale))).collect();
    (scaled(loss, weight), gradient)
}

/// `T² D` and its gradient.
fn divergence<L: Float>(case: &Case<L>, row: usize, student: &[f64]) -> (Sum, Vec<Sum>) {
    let t = f64::from(case.temperature);
    let log_p = log_softmax(student, t);
    let p: Vec<f64> = log_p.iter().map(|log_p| log_p.exp()).collect();
    let none = (Sum::default(), vec![Sum::default(); case.vocab]);
    let (mut loss, mut gradient) = match &case.teacher {
        Teacher::None if student.iter().any(|s| s.is_nan() || *s == f64::INFINITY) => {
            let nan = Sum { value: f64::NAN, size: f64::NAN };
            return (nan, vec![nan; case.vocab]);
        }
        Teacher::None => return none,
        Teacher::Logits(by, logits) => {
            let logits: Vec<f64> =
                logits[row * case.vocab..(row + 1) * case.vocab].iter().map(|t| f64::from(t.to_f32())).collect();
            let log_q = log_softmax(&logits, t);
            match by {
                Divergence::Forward | Divergence::Jsd(0.0) => forward(&log_p, &log_q),
                Divergence::Reverse | Divergence::Jsd(1.0) => reverse(&log_p, &log_q),
                Divergence::Jsd(beta) => jsd(&log_p, &log_q, f64::from(*beta)),
            }
        }
        Teacher::TopK { k, tail, tokens, log_probs } => {
            let range = row * k..(row + 1) * k;
            known(*tail, &tokens[range.clone()], &log_probs[range], &log_p)
        }
    };
    // Exponents are rounded relative to themselves.
    for ((gradient, p), log_p) in gradient.iter_mut().zip(&p).zip(&log_p) {
        gradient.size += times(*p, || p * log_p.abs() * 0.1);
        (gradient.value, gradient.size) = (gradient.value * t, gradient.size * t);
    }
    (loss.value, loss.size) = (loss.value * t * t, (loss.size + 1.0) * t * t);
    (loss, gradient)
}

fn forward(log_p: &[f64], log_q: &[f64]) -> (Sum, Vec<Sum>) {
    let (mut loss, mut gradient) = (Sum::default(), vec![Sum::default(); log_p.len()]);
    for ((gradient, log_p), log_q) in gradient.iter_mut().zip(log_p).zip(log_q) {
        let q = log_q.exp();
        loss.add(times(q, || q * log_q));
        loss.add(times(q, || -q * log_p));
        gradient.add(log_p.exp());
        gradient.add(-q);
        gradient.size += times(q, || q * log_q.abs() * 0.1);
    }
    (loss, gradient)
}

fn reverse(log_p: &[f64], log_q: &[f64]) -> (Sum, Vec<Sum>) {
    let mut loss = Sum::default();
    for (log_p, log_q) in log_p.iter().zip(log_q) {
        let p = log_p.exp();
        loss.add(times(p, || p * log_p));
        loss.add(times(p, || -p * log_q));
    }
    let gradient = log_p.iter().zip(log_q).map(|(log_p, log_q)| {
        let p = log_p.exp();
        let mut gradient = Sum::default();
        gradient.add(times(p, || p * log_p));
        gradient.add(times(p, || -p * log_q));
        gradient.add(-p * loss.value);
        gradient.size += p * loss.size;
        gradient
    });
    let gradient = gradient.collect();
    (loss, gradient)
}

fn jsd(log_p: &[f64], log_q: &[f64], beta: f64) -> (Sum, Vec<Sum>) {
    let (mut loss, mut mean) = (Sum::default(), Sum::default());
    let log_m: Vec<f64> =
        log_p.iter().zip(log_q).map(|(p, q)| ((1.0 - beta) * p.exp() + beta * q.exp()).ln()).collect();
    for ((log_p, log_q), log_m) in log_p.iter().zip(log_q).zip(&log_m) {
        let (p, q) = (log_p.exp(), log_q.exp());
        loss.add(times(q, || beta * q * (log_q - log_m)));
        loss.add(times(p, || (1.0 - beta) * p * (log_p - log_m)));
        loss.size += p + q;
        mean.add(times(p, || p * (log_p - log_m)));
        mean.size += p;
    }
    let gradient = log_p.iter().zip(&log_m).map(|(log_p, log_m)| {
        let p = log_p.exp();
        let mut gradient = Sum::default();
        gradient.add(times(p, || p * (log_p - log_m) * (1.0 - beta)));
        gradient.add(-p * mean.value * (1.0 - beta));
        gradient.size += p * (1.0 + mean.size + log_p.abs().min(1e3) * 0.1);
        gradient
    });
    let gradient = gradient.collect();
    (loss, gradient)
}

fn known(tail: Tail, tokens: &[u32], log_probs: &[f32], log_p: &[f64]) -> (Sum, Vec<Sum>) {
    let mut q: Vec<f64> = log_probs.iter().map(|log_q| f64::from(*log_q).exp()).collect();
    let mass = q.iter().sum::<f64>();
    if tail == Tail::Renormalised {
        q.iter_mut().for_each(|q| *q /= mass);
    }
    let mut loss = Sum::default();
    let is_known = |v: usize| tokens.iter().position(|&token| token as usize == v);
    for (q, &token) in q.iter().zip(tokens) {
        loss.add(times(*q, || q * q.ln()));
        loss.add(times(*q, || -q * log_p[token as usize]));
    }
    let others = (0..log_p.len()).filter(|&v| is_known(v).is_none()).map(|v| log_p[v].exp()).sum::<f64>();
    let rest = if tail == Tail::Renormalised || tokens.len() == log_p.len() { 0.0 } else { 1.0 - mass };
    let rest = if rest < 2f64.powi(-20) { 0.0 } else { rest };
    loss.add(times(rest, || rest * rest.ln()));
    loss.add(times(rest, || -rest * others.ln()));
    let gradient = (0..log_p.len()).map(|v| {
        let (p, mut gradient) = (log_p[v].exp(), Sum::default());
        gradient.add(p);
        gradient.add(match is_known(v) {
            Some(place) => -q[place],
            None => times(rest, || -p * rest / others),
        });
        gradient
    });
    let gradient = gradient.collect();
    (loss, gradient)
}
