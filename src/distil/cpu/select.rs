//! The k largest logits of a row.

use super::super::TopK;
use super::sums::{Form, Of, sums};
use crate::element::Float;
use crate::sample::exponent;
use crate::space::HostSpace;
use rayon::prelude::*;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Tokens that are looked at together.
const STRIP: usize = 64;

/// Makes the top-k teachers of rows.
pub(in super::super) fn top_k<S: HostSpace, L: Float>(pass: TopK<'_, S, L>) {
    let TopK { vocab, k, temperature, .. } = pass;
    let form = Form { exponent: exponent(temperature), of: Of::Student, apart: false };
    let (tokens, log_probs) = (S::slice_mut(pass.tokens), S::slice_mut(pass.log_probs));
    let teachers = S::slice(pass.teacher).par_chunks(vocab.max(1));
    let rows = teachers.zip(tokens.par_chunks_mut(k)).zip(log_probs.par_chunks_mut(k));
    rows.for_each(|((teacher, tokens), log_probs)| {
        let all = sums(&form, teacher, &[], &[]);
        if !all.is_whole(&form) {
            tokens.iter_mut().zip(0..).for_each(|(token, place)| *token = place);
            log_probs.fill(f32::NAN);
            return;
        }
        let chosen = largest(teacher, k);
        for ((token, log_prob), chosen) in tokens.iter_mut().zip(log_probs).zip(chosen) {
            let below = f64::from(teacher[chosen as usize].to_f32()) - f64::from(all.top[0]);
            (*token, *log_prob) = (chosen, (below / f64::from(temperature) - all.student.ln()) as f32);
        }
    });
}

/// A logit and its token; the larger logit is greater, of equal ones the lower token.
#[derive(PartialEq)]
struct Candidate(f32, u32);

impl Eq for Candidate {}
impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        // No logit is NaN, and −0 equals 0.
        self.0.partial_cmp(&other.0).unwrap_or(Ordering::Equal).then(other.1.cmp(&self.1))
    }
}

/// The tokens of the k largest logits, none of which is NaN, in ascending order.
fn largest<L: Float>(logits: &[L], k: usize) -> Vec<u32> {
    let mut best = BinaryHeap::with_capacity(k + 1);
    let mut strip = [0.0; STRIP];
    for (i, from) in logits.chunks(STRIP).enumerate() {
        L::widen(from, &mut strip);
        let strip = &strip[..from.len()];
        let least = best.peek().filter(|_| best.len() == k).map(|Reverse(Candidate(least, _))| *least);
        // Of equal logits the earlier ones stay.
        if least.is_some_and(|least| strip.iter().all(|&logit| logit <= least)) {
            continue;
        }
        for (&logit, token) in strip.iter().zip((i * STRIP) as u32..) {
            best.push(Reverse(Candidate(logit, token)));
            if best.len() > k {
                best.pop();
            }
        }
    }
    let mut tokens: Vec<u32> = best.into_iter().map(|Reverse(Candidate(_, token))| token).collect();
    tokens.sort_unstable();
    tokens
}
