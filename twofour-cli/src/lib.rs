//! The application `twofour`: 2:4 sparsity for people with a checkpoint.
//!
//! A library only so that its tests, and whoever wants, can call what the commands call.

use clap::{Parser, Subcommand};
use std::process::ExitCode;

mod choose;
pub mod compress;
pub mod convert;
pub mod demo;
mod device;
pub mod eval;
pub mod fetch;
pub mod generate;
mod layer;
pub mod learn;
pub mod model;
mod names;
mod number;
mod output;
pub mod prune;
mod table;

/// What went wrong, in one sentence.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// 2:4 sparsity for language models' checkpoints.
///
/// Exit code 0 if all is well, 1 if what was read back is not what was written, 2 if the arguments or a file are wrong,
/// 130 if it was stopped and can go on.
#[derive(Debug, Parser)]
#[command(name = "twofour", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What each does, in short and at length, stands over its arguments.
#[derive(Debug, Subcommand)]
enum Command {
    Eval(eval::Args),
    Prune(prune::Args),
    Learn(Box<learn::Args>),
    Generate(generate::Args),
    Convert(convert::Args),
    Compress(compress::Args),
    Fetch(fetch::Args),
}

/// Runs the command line's command.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Eval(args) => eval::run(&args),
        Command::Prune(args) => prune::run(&args),
        Command::Learn(args) => learn::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Compress(args) => compress::run(&args),
        Command::Fetch(args) => fetch::run(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(failure) if failure.is::<learn::Stopped>() => {
            eprintln!("{}", names::plain(&failure.to_string()));
            ExitCode::from(130)
        }
        Err(failure) => {
            eprintln!("error: {}", names::plain(&failure.to_string()));
            ExitCode::from(2)
        }
    }
}
