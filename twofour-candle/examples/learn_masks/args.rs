//! The command line.

use crate::Failure;
use crate::settings::{Memory, Settings, Size};
use clap::{Parser, ValueEnum};
use std::path::PathBuf;

/// Learns 2:4 masks of a small language model, and compares them with one-shot ones.
///
/// Trains a dense decoder of bytes on the Rust sources in cargo's registry cache (or on --text), prunes its linear
/// layers to 2:4 by magnitude, Wanda, SparseGPT and MaskLLM with three priors, and prints the validation perplexity,
/// per byte, of each. Ctrl-C saves and stops; --resume goes on.
#[derive(Debug, Parser)]
#[command(name = "learn_masks")]
pub(crate) struct Args {
    /// Sizes of the model and lengths of the training
    #[arg(long, value_enum, default_value_t = Size::Small)]
    pub(crate) setting: Size,
    /// Seeds, a whole run each
    #[arg(long, value_delimiter = ',', default_value = "1", value_name = "SEED,..")]
    pub(crate) seeds: Vec<u64>,
    /// Where results go [default: target/learn_masks/<SETTING>, with --transfer <SETTING>-transfer]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Continues the run that is there, or starts one
    #[arg(long)]
    pub(crate) resume: bool,
    /// Rust sources: a folder with .rs files, or a single file of any kind [default: the registry cache]
    #[arg(long, value_name = "DIR|FILE")]
    pub(crate) text: Option<PathBuf>,
    /// The second domain of --transfer: a folder with .md files, or a single file [default: the registry cache]
    #[arg(long, value_name = "DIR|FILE", requires = "transfer")]
    pub(crate) prose: Option<PathBuf>,
    /// A dense model of the setting's shape, as this example saves it, and not a new one
    #[arg(long, value_name = "FILE")]
    pub(crate) model: Option<PathBuf>,
    /// A mask learnt on code as a prior for prose, against learning from scratch
    #[arg(long)]
    pub(crate) transfer: bool,
    /// What masks are learnt in [default: full; for large: both]
    #[arg(long, value_enum)]
    pub(crate) memory: Option<Memory>,
    /// Micro-batches of a mask learning step, each with its own draw
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) accumulate: Option<u16>,
    /// Training steps of the dense model [default: the setting's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) dense_steps: Option<u32>,
    /// Mask learning steps [default: the setting's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) learn_steps: Option<u32>,
    /// First rate of mask learning; the last is a tenth [default: the setting's]
    #[arg(long, value_name = "RATE")]
    pub(crate) learn_rate: Option<f64>,
    /// Where tensors live
    #[arg(long, value_enum, default_value_t = On::Cpu)]
    pub(crate) device: On,
    /// Steps between checkpoints
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) save_every: u32,
    /// Runs nothing: prints the table of the results in this folder, as Markdown
    #[arg(long, value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,
    /// Stops as Ctrl-C does, after so many steps: for tests
    #[arg(long, value_name = "N", hide = true)]
    pub(crate) stop_after: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum On {
    Cpu,
    /// The first CUDA device; needs the feature `cuda`
    Cuda,
}

impl Args {
    /// The settings asked for, as yet without what the text is.
    pub(crate) fn settings(&self) -> Settings {
        let mut settings = Settings::of(self.setting);
        let Settings { dense, learn, .. } = &mut settings;
        if let Some(steps) = self.dense_steps {
            dense.steps = steps as usize;
            dense.warmup = dense.warmup.min(dense.steps / 2);
        }
        if let Some(steps) = self.learn_steps {
            learn.steps = steps as usize;
        }
        if let Some(rate) = self.learn_rate {
            learn.rate = (rate, rate / 10.0);
        }
        if let Some(micro_batches) = self.accumulate {
            learn.micro_batches = micro_batches;
        }
        if let Some(memory) = self.memory {
            learn.memory = memory;
        }
        settings.transfer = self.transfer;
        settings
    }

    pub(crate) fn out(&self) -> PathBuf {
        let name = self.setting.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let suffix = if self.transfer { "-transfer" } else { "" };
        self.out.clone().unwrap_or_else(|| PathBuf::from("target/learn_masks").join(format!("{name}{suffix}")))
    }

    pub(crate) fn device(&self) -> Result<candle_core::Device, Failure> {
        Ok(match self.device {
            On::Cpu => candle_core::Device::Cpu,
            On::Cuda => candle_core::Device::new_cuda(0)?,
        })
    }
}
