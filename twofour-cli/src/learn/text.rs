//! Which tokens a step sees: any step's can be told without those before it.

use crate::Failure;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// Windows of a text, in an order that is chance: all once, then all again, cut at other places.
#[derive(Debug)]
pub struct Windows {
    tokens: Vec<u32>,
    length: usize,
    seed: u64,
    /// The round that was asked for last, where its first window begins, and the order of its windows.
    round: Option<(u64, usize, Vec<u32>)>,
}

impl Windows {
    /// Of so many tokens each, beside the one that follows.
    ///
    /// # Errors
    /// Too few tokens for one window, or windows of none.
    pub fn new(tokens: Vec<u32>, length: usize, seed: u64) -> Result<Self, Failure> {
        if length < 2 {
            return Err(format!("--window {length} is too short: nothing but the token itself would be seen").into());
        }
        if tokens.len() <= length {
            let count = tokens.len();
            return Err(format!("there are {count} tokens to learn from, and --window is {length}").into());
        }
        Ok(Self { tokens, length, seed, round: None })
    }

    /// Tokens of the text.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Some windows, each with the token that follows: from the one of this number on, over all steps.
    pub fn take(&mut self, first: u64, count: usize) -> Vec<u32> {
        let of_round = ((self.tokens.len() - 1) / self.length) as u64;
        let mut taken = Vec::with_capacity(count * (self.length + 1));
        for number in first..first + count as u64 {
            let (offset, order) = self.round(number / of_round);
            let start = offset + order[(number % of_round) as usize] as usize * self.length;
            taken.extend_from_slice(&self.tokens[start..=start + self.length]);
        }
        taken
    }

    fn round(&mut self, number: u64) -> (usize, &[u32]) {
        if self.round.as_ref().is_none_or(|(round, ..)| *round != number) {
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&self.seed.to_le_bytes());
            seed[8..16].copy_from_slice(&number.to_le_bytes());
            let mut random = StdRng::from_seed(seed);
            let count = (self.tokens.len() - 1) / self.length;
            let offset = random.random_range(0..=self.tokens.len() - 1 - count * self.length);
            let mut order: Vec<u32> = (0..count as u32).collect();
            order.shuffle(&mut random);
            self.round = Some((number, offset, order));
        }
        self.round.as_ref().map_or((0, &[]), |(_, offset, order)| (*offset, order))
    }
}

#[cfg(test)]
mod tests {
    use super::Windows;

    #[test]
    fn a_round_sees_every_window_once_and_steps_are_told_alone() -> Result<(), crate::Failure> {
        let mut windows = Windows::new((0..103).collect(), 10, 7)?;
        let whole = windows.take(0, 30);
        for round in whole.chunks(10 * 11) {
            let mut starts: Vec<u32> = round.chunks(11).map(|window| window[0]).collect();
            assert!(round.chunks(11).all(|window| window.windows(2).all(|two| two[0] + 1 == two[1])));
            assert!(starts.windows(2).any(|two| two[0] > two[1]), "in no order");
            starts.sort_unstable();
            assert!(starts.windows(2).all(|two| two[0] + 10 == two[1]) && starts[9] + 10 <= 102, "{starts:?}");
        }
        assert_ne!(whole[..110], whole[110..220], "rounds differ");
        let mut again = Windows::new((0..103).collect(), 10, 7)?;
        assert_eq!(again.take(17, 5), whole[17 * 11..22 * 11]);
        assert!(Windows::new((0..10).collect(), 10, 7).is_err());
        Ok(())
    }
}
