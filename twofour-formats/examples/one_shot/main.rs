//! One-shot 2:4 masks for a model in safetensors: by magnitude, which needs the weights alone; or, with what is known of
//! each layer's inputs, by Wanda or SparseGPT. Writes them as MaskLLM, PATCH and this crate have masks, and the masked
//! model if asked. Or converts a file of masks from any of these forms to another.
//!
//! A layer is in memory at a time, not the model. Without arguments a small model is made up and shown.
//!
//! Exit code 0 if all is well, 1 if what was read back is not what was written, 2 if the arguments or a file are wrong.

mod activations;
mod choose;
mod convert;
mod demo;
mod method;
#[path = "../common/names.rs"]
mod names;
mod number;
mod output;
mod report;
#[path = "../common/shards.rs"]
mod shards;
mod write;

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;
use std::process::ExitCode;
use twofour_formats::masks::Form;

type Failure = Box<dyn std::error::Error>;

/// Makes one-shot 2:4 masks for the linear layers of a model, or converts masks.
///
/// The model is a safetensors file, an index of shards, or a folder with either. Layers are the two-dimensional tensors
/// of f32, f16 or bf16 named *.weight whose rows are a multiple of 4 long, without embeddings, heads and norms. Rows are
/// outputs, as torch.nn.Linear has them: transpose the weights of GPT-2's Conv1D before, or groups lie the wrong way.
///
/// Forms: `maskllm` (npz, MaskLLM's mask_compressed.npz), `patch` (npz, PATCH's mask.npz), `flags` (safetensors of zeros
/// and ones), `base6` (safetensors, 0.667 bit a weight).
#[derive(Debug, Parser)]
#[command(name = "one_shot")]
struct Args {
    /// The model; with --convert, where shapes are from [default: a small one is made up]
    model: Option<PathBuf>,
    /// How masks are chosen
    #[arg(long, value_enum, default_value_t = Method::Magnitude, conflicts_with = "convert")]
    method: Method,
    /// What is known of the layers' inputs, a safetensors file: for each layer <name>.squares [K], sums of squares;
    /// <name>.hessian [K, K]; or <name>, inputs [T, K]
    #[arg(long, value_name = "FILE", requires = "model", conflicts_with = "convert")]
    activations: Option<PathBuf>,
    /// SparseGPT: share of the Hessian's mean diagonal that is added to its diagonal
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, conflicts_with = "convert")]
    damping: f64,
    /// SparseGPT: masks of the weights as they are, without update, as MaskLLM takes them for a prior
    #[arg(long, conflicts_with = "convert")]
    as_is: bool,
    /// Only layers of such names, where * stands for anything; embeddings and heads too, if they match
    #[arg(long, value_name = "PATTERN", conflicts_with = "convert")]
    include: Vec<String>,
    /// No layers of such names
    #[arg(long, value_name = "PATTERN", conflicts_with = "convert")]
    exclude: Vec<String>,
    /// Where masks are written [default: beside the model or the masks, with `masks` in the name]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The form of the masks [default: base6, or patch if --out is an npz]
    #[arg(long, value_parser = form)]
    form: Option<Form>,
    /// Writes the masked model too, or as SparseGPT updated it: to a file, for shards to a folder
    #[arg(long, value_name = "PATH", requires = "model", conflicts_with = "convert")]
    weights: Option<PathBuf>,
    /// Converts masks, from whichever form
    #[arg(long, value_name = "FILE")]
    convert: Option<PathBuf>,
    /// With --convert: fills groups that keep fewer than two, at their highest free positions
    #[arg(long, requires = "convert")]
    fill: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Method {
    /// The largest weights
    Magnitude,
    /// The largest products of weight and norm of input
    Wanda,
    /// Those that others make up for least; updates the others
    Sparsegpt,
}

fn form(name: &str) -> Result<Form, String> {
    let names = || Form::ALL.map(Form::name).join(", ");
    Form::from_name(name).ok_or_else(|| format!("masks are written as one of {}", names()))
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match (&args.convert, &args.model) {
        (Some(masks), model) => convert::run(&args, masks, model.as_deref()),
        (None, Some(model)) => write::run(&args, model),
        (None, None) => demo::run(),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(2)
        }
    }
}

/// On a terminal; else nothing is drawn.
fn progress_bar(bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {msg}");
    ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
