//! How far a run is, and what it looked like on the way.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What is known after some steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Steps made.
    pub step: u64,
    /// Tokens learnt from.
    pub tokens: u64,
    /// Mean training loss since the point before, in nats a token; of none before the first step.
    pub loss: Option<f64>,
    /// Perplexity a token of the masks of the largest logits on the validation text, if there is one.
    pub perplexity: Option<f64>,
    /// Share of groups whose pattern is another than at the start.
    pub moved: f64,
    /// Mean over groups of the largest share of a pattern in the last step's masks.
    pub confidence: Option<f64>,
    /// Seconds of steps and of validation, from the start on, pauses left out.
    pub seconds: f64,
}

/// All points of a run, and what came since the last of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// From the start on.
    pub points: Vec<Point>,
    /// Losses since the last point.
    pub losses: Vec<f64>,
    /// Seconds so far.
    pub seconds: f64,
}

impl Curve {
    /// The mean of the losses since the last point, which are forgotten.
    pub(super) fn loss(&mut self) -> Option<f64> {
        let losses = std::mem::take(&mut self.losses);
        (!losses.is_empty()).then(|| losses.iter().sum::<f64>() / losses.len() as f64)
    }
}

impl Point {
    /// A line of it; `left` is how long the rest is going to take.
    pub(super) fn line(&self, steps: u64, left: Option<Duration>) -> String {
        let Self { step, tokens, loss, perplexity, moved, confidence, seconds } = *self;
        let or_dash = |value: Option<f64>, digits| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
        let (loss, perplexity, confidence) = (or_dash(loss, 4), or_dash(perplexity, 2), or_dash(confidence, 4));
        let left = left.map_or(String::new(), |left| format!("{:>9} left", clock(left)));
        let seconds = clock(Duration::from_secs_f64(seconds));
        let moved = format!("{:.2}", 100.0 * moved);
        format!(
            "{step:>6}/{steps:<6} {loss:>8} {perplexity:>10} {moved:>7} {confidence:>10} {tokens:>9} {seconds:>8}{left}"
        )
    }

    /// What stands over these lines.
    pub(super) const HEAD: &'static str = "  step/of        loss perplexity moved,% confidence    tokens     time";
}

/// `h:mm:ss`.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
