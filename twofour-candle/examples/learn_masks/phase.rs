//! What training and learning have in common: steps, progress, curves, checkpoints, interruption.

use crate::store::{Point, Standing};
use crate::{Failure, Stopped};
use candle_core::{Device, Tensor};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

/// Whether to go on: Ctrl-C says no, and `--stop-after`.
#[derive(Clone)]
pub(crate) struct Going {
    stop: Arc<AtomicBool>,
    left: Arc<AtomicUsize>,
}

impl Going {
    /// Until Ctrl-C, or for so many steps. A second Ctrl-C ends at once.
    pub(crate) fn new(steps: Option<usize>) -> Result<Self, Failure> {
        let going = Self {
            stop: Arc::new(AtomicBool::new(false)),
            left: Arc::new(AtomicUsize::new(steps.unwrap_or(usize::MAX))),
        };
        let stop = going.stop.clone();
        ctrlc::set_handler(move || {
            if stop.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            eprintln!("stopping after this step (again: at once, without saving)");
        })?;
        Ok(going)
    }

    /// Counts a step; whether it was the last.
    fn step(&self) -> bool {
        let left = self.left.fetch_sub(1, Ordering::Relaxed);
        left == 1 || self.stop.load(Ordering::Relaxed)
    }
}

/// What is trained.
pub(crate) trait Trained {
    /// One step; the training loss.
    fn step(&mut self, step: usize) -> Result<f64, Failure>;
    /// The validation loss, and what else the point has, after so many steps.
    fn watch(&mut self, point: &mut Point) -> Result<(), Failure>;
    fn state(&self) -> Result<Vec<(String, Tensor)>, Failure>;
    fn restore(&mut self, step: usize, state: &HashMap<String, Tensor>) -> Result<(), Failure>;
}

/// A run of steps.
pub(crate) struct Phase {
    pub(crate) name: String,
    pub(crate) steps: usize,
    /// Points of the curve.
    pub(crate) points: usize,
    pub(crate) checkpoint: PathBuf,
    /// Steps between checkpoints.
    pub(crate) save_every: usize,
    pub(crate) step_bytes: usize,
}

impl Phase {
    /// Takes the steps, from the checkpoint on if there is one, which is removed by [`done`](Self::done).
    pub(crate) fn run(&self, trained: &mut impl Trained, going: &Going, device: &Device) -> Result<Standing, Failure> {
        let mut standing = Standing::default();
        if let Some((saved, state)) = Standing::load(&self.checkpoint, device)? {
            trained.restore(saved.step, &state)?;
            standing = saved;
        }
        let progress = self.progress(standing.step);
        let (before, start) = (standing.seconds, Instant::now());
        let every = self.steps.div_ceil(self.points).max(1);
        while standing.step < self.steps {
            let loss = trained.step(standing.step)?;
            if !loss.is_finite() {
                return Err(
                    format!("{}: the loss is {loss} at step {}; try a lower rate", self.name, standing.step).into()
                );
            }
            standing.step += 1;
            standing.losses.push(loss);
            if standing.step % every == 0 || standing.step == self.steps {
                let train = standing.losses.iter().sum::<f64>() / standing.losses.len() as f64;
                let mut point = Point { step: standing.step, train, ..Point::default() };
                trained.watch(&mut point)?;
                standing.curve.push(point);
                standing.losses.clear();
                progress.set_message(format!("loss {train:.3}, validation {:.3}", point.validation));
            }
            progress.inc(1);
            standing.seconds = before + start.elapsed().as_secs_f64();
            let stop = going.step();
            if stop || standing.step % self.save_every == 0 {
                standing.save(&self.checkpoint, trained.state()?)?;
            }
            if stop {
                progress.abandon();
                return Err(Box::new(Stopped { phase: self.name.clone(), step: standing.step, of: self.steps }));
            }
        }
        progress.finish_and_clear();
        Ok(standing)
    }

    /// After the result is in its place.
    pub(crate) fn done(&self) -> Result<(), Failure> {
        match std::fs::remove_file(&self.checkpoint) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// On a terminal; else nothing is drawn.
    fn progress(&self, done: usize) -> ProgressBar {
        let bytes = self.step_bytes;
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {rate} {eta} left  {msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let rate = move |state: &indicatif::ProgressState, to: &mut dyn std::fmt::Write| {
            // Nowhere to send what fails to be drawn.
            let _ = write!(to, "{:.1} kB/s", state.per_sec() * bytes as f64 / 1e3);
        };
        let progress = ProgressBar::new(self.steps as u64).with_style(style.with_key("rate", rate));
        progress.set_prefix(self.name.clone());
        progress.set_position(done as u64);
        progress.reset_eta();
        progress
    }
}
