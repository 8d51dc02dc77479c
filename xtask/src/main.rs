//! Maintenance of the workspace, run as `cargo xtask <task>`: what is generated and checked in comes from here.

use anyhow::Result;
use clap::Parser;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

mod bindings;
mod bundle;
mod cost;
mod noise;
mod predict;
mod toolkit;

#[derive(Parser)]
#[command(name = "cargo xtask", about)]
enum Task {
    /// Generate src/cusparselt/sys.rs from cuSPARSELt's header, or with --check compare it with what is checked in.
    Bindings {
        /// Compare instead of writing.
        #[arg(long)]
        check: bool,
    },
    /// Gather tests, benches and examples in a folder for a GPU machine without Rust (xtask/bundle/README.md).
    Bundle(bundle::Options),
    /// What the bundle does with this program on that machine.
    #[command(subcommand, hide = true)]
    OnDevice(bundle::OnDevice),
    /// Compile every kernel for every architecture and write what it costs to cuda/COST.md.
    Cost(cost::Options),
    /// Predict how near to its roof each kernel can come, without a device, and write it to cuda/PREDICT.md.
    Predict(predict::Options),
    /// Generate the Gumbel table, or with --check compare it with what is checked in.
    Noise {
        /// Compare instead of writing.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> Result<ExitCode> {
    match Task::parse() {
        Task::Bindings { check } => bindings::run(&root(), check),
        Task::Bundle(options) => bundle::run(&root(), &options),
        Task::OnDevice(task) => return bundle::on_device(&task),
        Task::Cost(options) => cost::run(&root(), &options),
        Task::Predict(options) => predict::run(&root(), &options),
        Task::Noise { check } => noise::run(&root(), check),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// The workspace's root folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}
