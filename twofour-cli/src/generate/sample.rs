//! The choice of the next token.

use crate::Failure;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// How a token is chosen by its logits.
pub(super) struct Sampling {
    temperature: f64,
    top_k: usize,
    random: StdRng,
}

impl Sampling {
    pub(super) fn new(temperature: f64, top_k: Option<usize>, seed: u64) -> Result<Self, Failure> {
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(format!("--temperature is {temperature}: it must be finite and not negative").into());
        }
        if top_k == Some(0) {
            return Err("--top-k is 0, and leaves no token: 1 takes the likeliest".into());
        }
        Ok(Self { temperature, top_k: top_k.unwrap_or(usize::MAX), random: StdRng::seed_from_u64(seed) })
    }

    /// The likeliest at temperature 0, the first of several; else one by `softmax(logits / temperature)` over the
    /// likeliest.
    pub(super) fn next(&mut self, logits: &[f32]) -> Result<u32, Failure> {
        if let Some(wrong) = logits.iter().find(|logit| !logit.is_finite()) {
            return Err(format!("a logit is {wrong}: hidden states left the range of their type").into());
        }
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let most = self.top_k.min(logits.len());
        let by_logit = |&a: &u32, &b: &u32| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b));
        let wanted = if self.temperature == 0.0 { 1 } else { most };
        if wanted < order.len() {
            order.select_nth_unstable_by(wanted - 1, by_logit);
            order.truncate(wanted);
        }
        order.sort_unstable_by(by_logit);
        let first = *order.first().ok_or("there are no tokens to choose from")?;
        if order.len() == 1 {
            return Ok(first);
        }
        let share = |id: &u32| (f64::from(logits[*id as usize] - logits[first as usize]) / self.temperature).exp();
        let mut left = self.random.random::<f64>() * order.iter().map(share).sum::<f64>();
        let chosen = order.iter().find(|id| {
            left -= share(id);
            left < 0.0
        });
        Ok(chosen.copied().unwrap_or(first))
    }
}

#[cfg(test)]
mod tests {
    use super::Sampling;
    use std::collections::BTreeMap;

    #[test]
    fn tokens_come_as_often_as_they_are_likely() -> Result<(), crate::Failure> {
        let logits = [0.0, 2.0, 1.0, 2.0f32.ln() + 1.0, -30.0];
        assert_eq!(Sampling::new(0.0, None, 1)?.next(&logits)?, 1);
        let mut sampling = Sampling::new(2.0, Some(3), 1)?;
        let mut counts = BTreeMap::new();
        for _ in 0..20_000 {
            *counts.entry(sampling.next(&logits)?).or_insert(0) += 1;
        }
        let weights = [(1, 1.0f64.exp()), (2, 0.5f64.exp()), (3, (2.0f64.sqrt()) * 0.5f64.exp())];
        let all: f64 = weights.iter().map(|(_, weight)| weight).sum();
        assert_eq!(counts.len(), 3, "{counts:?}");
        for (id, weight) in weights {
            assert!((f64::from(counts[&id]) / 20_000.0 - weight / all).abs() < 0.015, "{id}: {counts:?}");
        }
        assert!(Sampling::new(f64::NAN, None, 1).is_err() && Sampling::new(1.0, Some(0), 1).is_err());
        assert!(sampling.next(&[0.0, f32::NAN]).is_err());
        Ok(())
    }
}
