//! Maintenance of the workspace, run as `cargo xtask <task>`: what is generated and checked in comes from here.

use anyhow::Result;
use clap::Parser;
use std::path::{Path, PathBuf};

mod noise;

#[derive(Parser)]
#[command(name = "cargo xtask", about)]
enum Task {
    /// Generate the Gumbel table, or with --check compare it with what is checked in.
    Noise {
        /// Compare instead of writing.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> Result<()> {
    match Task::parse() {
        Task::Noise { check } => noise::run(&root(), check),
    }
}

/// The workspace's root folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}
