//! `twofour eval`: perplexity of a model.

use crate::Failure;
use std::path::PathBuf;

/// Arguments of `eval`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model: a folder as of Hugging Face, or a GGUF file [default: a small one is made up]
    #[arg(long)]
    model: Option<PathBuf>,
}

/// Evaluates. Whether all is well.
///
/// # Errors
/// What is wrong with the model, the text or the arguments.
pub fn run(args: &Args) -> Result<bool, Failure> {
    Err(format!("{:?} is not evaluated yet", args.model).into())
}
