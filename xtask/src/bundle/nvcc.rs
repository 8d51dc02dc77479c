//! Finding nvcc.

use anyhow::{Context, Result};
use std::env;
use std::path::{Path, PathBuf};

/// The first nvcc of those that build.rs looks for, in its order; then that of the wheels that `.ci/run` installs.
pub(super) fn find(root: &Path) -> Result<PathBuf> {
    let mut candidates: Vec<PathBuf> = ["TWOFOUR_NVCC", "NVCC"].iter().filter_map(|name| variable(name)).collect();
    let toolkits = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"];
    candidates.extend(toolkits.iter().filter_map(|name| variable(name)).map(|folder| folder.join("bin/nvcc")));
    candidates.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()).map(|folder| folder.join("nvcc")));
    candidates.extend(["/usr/local/cuda/bin/nvcc", "/opt/cuda/bin/nvcc"].map(PathBuf::from));
    for python in entries(&root.join(".cuda/venv/lib")) {
        let toolkits = entries(&python.join("site-packages/nvidia"));
        candidates.extend(toolkits.into_iter().map(|folder| folder.join("bin/nvcc")));
    }
    let found = candidates.into_iter().find(|path| path.is_file());
    let found = found.context(
        "there is no nvcc, and a bundle has machine code inside: put it on PATH, or name it in TWOFOUR_NVCC or CUDA_HOME",
    )?;
    // nvcc finds its own parts beside the name it was called by, so a symbolic link is followed.
    Ok(found.canonicalize()?)
}

fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// What is in a folder, sorted; nothing if there is no such folder.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let listing = std::fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = listing.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.sort();
    paths
}
