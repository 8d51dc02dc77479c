//! AdamW's hyper-parameters of one step, and the scalars that executors make of them.

use crate::check::{not_negative, scalar};
use crate::error::Result;

/// Hyper-parameters of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate, not negative.
    pub rate: f64,
    /// Decay of the first moment, from 0 to less than 1.
    pub beta1: f64,
    /// Decay of the second moment, from 0 to less than 1.
    pub beta2: f64,
    /// What is added to the square root of the second moment, from 1e-20 to 1e20.
    pub epsilon: f64,
    /// Weight decay, not negative; a step multiplies logits by `1 − rate·decay`, which must be positive.
    pub decay: f64,
    /// The number of the step, from 1 on: moments start at zero, and what that costs is corrected.
    pub step: u64,
}

/// What executors read, each rounded once. The layout is that of the device.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Scalars {
    pub(super) beta1: f32,
    pub(super) one_minus_beta1: f32,
    pub(super) beta2: f32,
    pub(super) one_minus_beta2: f32,
    /// `1 − rate·decay`.
    pub(super) keep: f32,
    /// `rate/(1 − β1ᵗ)`.
    pub(super) rate: f32,
    /// `1/√(1 − β2ᵗ)`.
    pub(super) root: f32,
    pub(super) epsilon: f32,
}
const _: () = assert!(size_of::<Scalars>() == 32);

impl AdamW {
    /// Checks that every hyper-parameter lies in its domain, and in that of `f32`.
    ///
    /// # Errors
    /// [`Error::Scalar`](crate::Error::Scalar).
    pub fn check(&self) -> Result<()> {
        let Self { rate, beta1, beta2, epsilon, decay, step } = *self;
        not_negative("rate", rate)?;
        // Rounded to f32, 1 − β must not be 0, nor β be 1.
        let beta = |value: f64| (0.0..1.0).contains(&value) && (value as f32) < 1.0;
        if !beta(beta1) {
            return scalar("beta1", beta1, "at least 0 and less than 1, in f32 too");
        }
        if !beta(beta2) {
            return scalar("beta2", beta2, "at least 0 and less than 1, in f32 too");
        }
        // A gradient below 4e-23 has no square in f32: epsilon must count before that.
        if !(1e-20..=1e20).contains(&epsilon) {
            return scalar("epsilon", epsilon, "from 1e-20 to 1e20");
        }
        not_negative("decay", decay)?;
        if rate * decay >= 1.0 {
            return scalar("rate * decay", rate * decay, "less than 1: a step would turn logits round");
        }
        if step == 0 {
            return scalar("step", 0.0, "1 for the first step");
        }
        let scalars = self.scalars();
        if !(scalars.rate.is_finite() && scalars.root.is_finite()) {
            return scalar("rate / (1 - beta1^step)", rate, "finite in f32: lower the rate");
        }
        Ok(())
    }

    pub(super) fn scalars(&self) -> Scalars {
        let Self { rate, beta1, beta2, epsilon, decay, step } = *self;
        Scalars {
            beta1: beta1 as f32,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            keep: (1.0 - rate * decay) as f32,
            rate: (rate / (1.0 - power(beta1, step))) as f32,
            root: (1.0 / (1.0 - power(beta2, step)).sqrt()) as f32,
            epsilon: epsilon as f32,
        }
    }
}

/// `base^exponent` by multiplications alone, so that every machine makes the same step of it.
fn power(base: f64, exponent: u64) -> f64 {
    let (mut power, mut square, mut rest) = (1.0, base, exponent);
    while rest > 0 {
        if rest & 1 == 1 {
            power *= square;
        }
        square *= square;
        rest >>= 1;
    }
    power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epsilon_is_what_a_step_can_divide_by() {
        let by = AdamW { rate: 1e-3, beta1: 0.9, beta2: 0.95, epsilon: 1e-5, decay: 0.1, step: 1 };
        for (epsilon, is_right) in [(0.0, false), (9e-21, false), (1e-20, true), (1e20, true), (1.1e20, false)] {
            assert_eq!(AdamW { epsilon, ..by }.check().is_ok(), is_right, "{epsilon:e}");
        }
        assert!(AdamW { epsilon: f64::NAN, ..by }.check().is_err());
    }
}
