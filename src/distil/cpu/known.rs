//! What is known of single tokens: labels, and the k of a top-k teacher.

use super::super::{LEAST_REST, Tail};
use super::sums::{Form, Sums, powers, raise_student};
use crate::element::Float;
use crate::error::{Error, Result};
use rayon::prelude::*;

/// The k tokens of a row's teacher, in ascending order; none for other teachers.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) tokens: Vec<u32>,
    /// Their log-probabilities.
    log_probs: Vec<f32>,
    /// The student's logits; how far they are below the largest.
    below: Vec<f32>,
    /// Their exponentials, at the temperature and at 1.
    exponentials: Vec<f32>,
    apart: Vec<f32>,
    order: Vec<u32>,
    /// Of the student's sum, what is not theirs.
    others: f64,
    /// What is written in their places.
    pub(super) gradients: Vec<f32>,
}

impl Known {
    /// Reads a row's.
    pub(super) fn read<L: Float>(&mut self, student: &[L], tokens: &[u32], log_probs: &[f32]) {
        self.order.clear();
        self.order.extend(0..tokens.len() as u32);
        self.order.sort_unstable_by_key(|&place| tokens[place as usize]);
        let places = || self.order.iter().map(|&place| place as usize);
        self.tokens.clear();
        self.tokens.extend(places().map(|place| tokens[place]));
        self.log_probs.clear();
        self.log_probs.extend(places().map(|place| log_probs[place]));
        self.below.clear();
        self.below.extend(self.tokens.iter().map(|&token| student[token as usize].to_f32()));
    }

    /// Adds their exponentials to the sums of the other tokens.
    pub(super) fn add_to(&mut self, form: &Form, all: &mut Sums) {
        if self.tokens.is_empty() {
            return;
        }
        all.lost |= self.below.iter().any(|logit| logit.is_nan() || *logit == f32::INFINITY);
        let top = self.below.iter().fold(f32::NEG_INFINITY, |top, &logit| if logit > top { logit } else { top });
        raise_student(form, all, top);
        self.others = all.student;
        self.below.iter_mut().for_each(|logit| *logit -= all.top[0]);
        let powers_of = |exponent: f32, to: &mut Vec<f32>| {
            to.clear();
            to.extend(self.below.iter().map(|below| below * exponent));
            powers(to);
            to.iter().map(|&power| f64::from(power)).sum::<f64>()
        };
        all.student += powers_of(form.exponent, &mut self.exponentials);
        if form.apart {
            all.apart += powers_of(std::f32::consts::LOG2_E, &mut self.apart);
        }
    }

    /// The forward divergence of the row, and how much of the student's gradient the other tokens have.
    pub(super) fn divergence(&mut self, tail: Tail, vocab: usize, all: &Sums, temperature: f64) -> (f64, f64) {
        let all_log_probs = self.log_probs.iter().map(|&log_prob| f64::from(log_prob));
        let known = match tail {
            Tail::Renormalised => all_log_probs.map(f64::exp).sum::<f64>().ln(),
            Tail::Lumped => 0.0,
        };
        let (mut divergence, mut rest) = (0.0, 1.0);
        self.gradients.clear();
        for ((&log_prob, &below), &e) in self.log_probs.iter().zip(&self.below).zip(&self.exponentials) {
            let log_prob = f64::from(log_prob) - known;
            let q = log_prob.exp();
            if q != 0.0 {
                divergence += q * (log_prob - (f64::from(below) / temperature - all.student.ln()));
            }
            rest -= q;
            self.gradients.push((f64::from(e) / all.student - q) as f32);
        }
        let is_all = tail == Tail::Renormalised || self.tokens.len() == vocab || rest < f64::from(LEAST_REST);
        match self.others / all.student {
            _ if is_all => (divergence, 1.0),
            0.0 => (divergence + f64::INFINITY, 1.0),
            others => (divergence + rest * (rest.ln() - others.ln()), 1.0 - rest / others),
        }
    }

    /// Finishes the gradients of the k: those of the divergence times a factor, and those of labels.
    pub(super) fn finish(&mut self, form: &Form, factor: f32, of_label: f32) {
        let at_one = if form.apart { &self.apart } else { &self.exponentials };
        for (gradient, e) in self.gradients.iter_mut().zip(at_one) {
            *gradient = *gradient * factor + e * of_label;
        }
    }
}

/// Checks that labels are in the vocabulary, or ignored, but for rows that are skipped.
pub(super) fn check_labels(
    ignored: u32,
    vocab: usize,
    labels: &[u32],
    is_skipped: impl Fn(usize) -> bool,
) -> Result<()> {
    let mut labels = labels.iter().copied().enumerate();
    match labels.find(|&(row, label)| label != ignored && label as usize >= vocab && !is_skipped(row)) {
        Some((row, label)) => Err(beyond("labels", row, label, vocab)),
        None => Ok(()),
    }
}

fn beyond(what: &'static str, row: usize, token: u32, vocab: usize) -> Error {
    Error::Token { what, row: row as u64, token, vocab: vocab as u64 }
}

/// Checks that each row's tokens are in the vocabulary and differ, but for rows that are skipped.
pub(super) fn check_tokens(
    k: usize,
    vocab: usize,
    tokens: &[u32],
    is_skipped: impl Fn(usize) -> bool + Sync,
) -> Result<()> {
    let check = |sorted: &mut Vec<u32>, (row, tokens): (usize, &[u32])| {
        if is_skipped(row) {
            return Ok(());
        }
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab) {
            return Err(beyond("tokens", row, token, vocab));
        }
        sorted.clear();
        sorted.extend_from_slice(tokens);
        sorted.sort_unstable();
        match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::TokenTwice { row: row as u64, token: pair[0] }),
            None => Ok(()),
        }
    };
    // The first row that is wrong, on however many threads.
    let wrong = tokens.par_chunks(k).enumerate().map_init(Vec::new, check).find_first(Result::is_err);
    wrong.unwrap_or(Ok(()))
}
