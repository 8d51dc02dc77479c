//! A value that changes over a run.

use crate::check::scalar;
use crate::error::Result;

/// How a value goes from one to another. Progress is `step/steps` with steps from 0, as MaskLLM counts: the last step
/// is one short of the end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    form: Form,
    from: f64,
    to: f64,
    warmup: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Linear,
    Cosine,
}

impl Schedule {
    /// The same all the way.
    #[must_use]
    pub const fn constant(value: f64) -> Self {
        Self::linear(value, value)
    }

    /// `from + (to − from)·r`.
    #[must_use]
    pub const fn linear(from: f64, to: f64) -> Self {
        Self { form: Form::Linear, from, to, warmup: 0 }
    }

    /// `to + (from − to)·(1 + cos πr)/2`.
    #[must_use]
    pub const fn cosine(from: f64, to: f64) -> Self {
        Self { form: Form::Cosine, from, to, warmup: 0 }
    }

    /// Rises first, in equal parts over so many steps, to where it starts from (the step before the first would be at
    /// 0); the rest of the run is the schedule.
    #[must_use]
    pub const fn warmup(mut self, steps: u64) -> Self {
        self.warmup = steps;
        self
    }

    /// The value at a step, from 0, of so many; from the last on it is the value at the end.
    #[must_use]
    pub fn at(&self, step: u64, steps: u64) -> f64 {
        if step < self.warmup {
            return self.from * ((step + 1) as f64 / self.warmup as f64);
        }
        let (done, all) = (step - self.warmup, steps.saturating_sub(self.warmup));
        if done >= all {
            return self.to;
        }
        let r = done as f64 / all as f64;
        match self.form {
            Form::Linear => self.from + (self.to - self.from) * r,
            Form::Cosine => self.to + (self.from - self.to) * 0.5 * (1.0 + (std::f64::consts::PI * r).cos()),
        }
    }

    /// Its form (`linear` or `cosine`), where it starts from and goes to, and the steps of its warm-up: what a file
    /// says of it. [`linear`](Self::linear) or [`cosine`](Self::cosine), with [`warmup`](Self::warmup), make it again
    /// of them.
    #[must_use]
    pub fn parts(&self) -> (&'static str, [f64; 2], u64) {
        let form = match self.form {
            Form::Linear => "linear",
            Form::Cosine => "cosine",
        };
        (form, [self.from, self.to], self.warmup)
    }

    /// The least and the largest value of the schedule.
    pub(super) fn range(&self) -> [f64; 2] {
        let least = if self.warmup > 0 { self.from / self.warmup as f64 } else { self.from };
        [least, self.from, self.to]
            .into_iter()
            .fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], value| [low.min(value), high.max(value)])
    }

    pub(super) fn check(&self, what: &'static str, inside: impl Fn(f64) -> bool, must: &'static str) -> Result<()> {
        match [self.from, self.to].into_iter().find(|&end| !(end.is_finite() && inside(end))) {
            Some(end) => scalar(what, end, must),
            None => Ok(()),
        }
    }
}
