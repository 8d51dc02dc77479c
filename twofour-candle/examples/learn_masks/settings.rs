//! All that a run depends on, but for its seed. Kept with its results: a run is continued with the same settings
//! only.

use crate::Failure;
use crate::model::Shape;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Size {
    /// Seconds: to see that all works; the model learns next to nothing
    Mini,
    /// Some minutes on two cores
    Small,
    /// The documented one: some ten minutes a seed on two cores
    Large,
}

/// What masks are learnt in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Memory {
    /// Logits and moments in f32
    Full,
    /// Logits in bf16, moments in 8 bits
    Small,
    /// Full, and for the prior SparseGPT small too
    Both,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) size: Size,
    pub(crate) shape: Shape,
    /// Whether masks move from one domain to another, and the dense model learns both.
    pub(crate) transfer: bool,
    /// At most so many bytes of text are read.
    pub(crate) text_bytes: usize,
    /// What was read, as sums; filled in when it has been.
    pub(crate) text: Vec<String>,
    /// A dense model that was given, as a sum of its file.
    pub(crate) model: Option<String>,
    /// Sequences of a micro-batch.
    pub(crate) batch: usize,
    pub(crate) dense: Dense,
    /// Training sequences that Wanda and SparseGPT see.
    pub(crate) calibration: usize,
    /// Validation sequences that perplexities are of.
    pub(crate) validation: usize,
    /// Validation sequences that curves are of.
    pub(crate) watch: usize,
    /// Points of a curve.
    pub(crate) points: usize,
    pub(crate) learn: Learn,
}

/// Training of the dense model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Dense {
    pub(crate) steps: usize,
    pub(crate) rate: f64,
    pub(crate) warmup: usize,
}

/// Learning of masks: MaskLLM's recipe, its rate scaled to fewer steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Learn {
    pub(crate) steps: usize,
    /// Micro-batches of a step, each with its own draw of the masks.
    pub(crate) micro_batches: u16,
    pub(crate) memory: Memory,
    pub(crate) rate: (f64, f64),
    pub(crate) kappa: (f64, f64),
    pub(crate) tau: (f64, f64),
    pub(crate) regulariser: f64,
    pub(crate) decay: f64,
    pub(crate) sigma: f64,
    pub(crate) alpha: f64,
}

impl Settings {
    pub(crate) fn of(size: Size) -> Self {
        let learn = |steps| Learn {
            steps,
            micro_batches: 1,
            memory: Memory::Full,
            rate: scaled_rate(steps),
            kappa: (100.0, 500.0),
            tau: (4.0, 0.05),
            regulariser: 1e-5,
            decay: 0.1,
            sigma: 0.01,
            alpha: 3.0,
        };
        let large = Self {
            size,
            shape: Shape { layers: 4, width: 128, heads: 4, hidden: 352, context: 128 },
            transfer: false,
            text_bytes: 8 << 20,
            text: Vec::new(),
            model: None,
            batch: 16,
            dense: Dense { steps: 1000, rate: 3e-3, warmup: 50 },
            calibration: 128,
            validation: 512,
            watch: 64,
            points: 20,
            learn: Learn { memory: Memory::Both, ..learn(250) },
        };
        match size {
            Size::Mini => Self {
                shape: Shape { layers: 2, width: 32, heads: 2, hidden: 64, context: 32 },
                text_bytes: 1 << 20,
                batch: 8,
                dense: Dense { steps: 300, rate: 1e-2, warmup: 10 },
                calibration: 16,
                validation: 256,
                watch: 32,
                points: 5,
                learn: learn(100),
                ..large
            },
            Size::Small => Self {
                shape: Shape { layers: 3, width: 96, heads: 3, hidden: 256, context: 128 },
                dense: Dense { steps: 1500, ..large.dense },
                learn: learn(400),
                ..large
            },
            Size::Large => large,
        }
    }

    /// Whether every step will take these: otherwise it would be found when the dense model has been trained.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        Ok(crate::learn::recipe(&self.learn).check().map_err(|e| format!("mask learning cannot run so: {e}"))?)
    }

    /// Bytes that a step sees.
    pub(crate) fn step_bytes(&self) -> usize {
        self.batch * self.shape.context
    }

    /// Which settings differ, as `name: here, there`.
    pub(crate) fn differences(&self, other: &Self) -> Result<Vec<String>, Failure> {
        let (here, there) = (flat(self)?, flat(other)?);
        let differ = here.iter().zip(&there).filter(|(here, there)| here != there);
        Ok(differ.map(|((name, here), (_, there))| format!("{name}: {here}, there {there}")).collect())
    }
}

/// In all, logits can travel as far as in MaskLLM's 2000 steps, up to a limit.
fn scaled_rate(steps: usize) -> (f64, f64) {
    let factor = (2000.0 / steps.max(1) as f64).min(20.0);
    (5e-4 * factor, 5e-5 * factor)
}

fn flat(settings: &Settings) -> Result<Vec<(String, String)>, Failure> {
    fn add(name: &str, value: &serde_json::Value, flat: &mut Vec<(String, String)>) {
        match value {
            serde_json::Value::Object(fields) => {
                fields.iter().for_each(|(field, value)| add(&format!("{name}.{field}"), value, flat));
            }
            value => flat.push((name.trim_start_matches('.').to_owned(), value.to_string())),
        }
    }
    let mut names = Vec::new();
    add("", &serde_json::to_value(settings)?, &mut names);
    Ok(names)
}
