//! Maintenance of the workspace, run as `cargo xtask <task>`: what is generated and checked in comes from here.

use anyhow::Result;
use clap::Parser;
use std::path::{Path, PathBuf};

mod cost;
mod noise;

#[derive(Parser)]
#[command(name = "cargo xtask", about)]
enum Task {
    /// Compile every kernel for every architecture and write what it costs to cuda/COST.md.
    Cost(cost::Options),
    /// Generate the Gumbel table, or with --check compare it with what is checked in.
    Noise {
        /// Compare instead of writing.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> Result<()> {
    match Task::parse() {
        Task::Cost(options) => cost::run(&root(), &options),
        Task::Noise { check } => noise::run(&root(), check),
    }
}

/// The workspace's root folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}
