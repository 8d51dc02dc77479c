//! Finding the CUDA toolkit on a developer's machine: where build.rs looks, then the wheels that `.ci/run` installs.

use anyhow::{Context, Result};
use std::env;
use std::path::{Path, PathBuf};

/// The first nvcc of: `TWOFOUR_NVCC`, `NVCC`, the toolkit folders, PATH.
pub(crate) fn nvcc(root: &Path) -> Result<PathBuf> {
    let mut candidates: Vec<PathBuf> = ["TWOFOUR_NVCC", "NVCC"].iter().filter_map(|name| variable(name)).collect();
    candidates.extend(folders(root).into_iter().map(|folder| folder.join("bin/nvcc")));
    candidates.extend(on_path("nvcc"));
    let found = candidates.into_iter().find(|path| path.is_file());
    let found = found.context("there is no nvcc: put it on PATH, or name it in TWOFOUR_NVCC or CUDA_HOME")?;
    // nvcc finds its own parts beside the name it was called by, so a symbolic link is followed.
    Ok(found.canonicalize()?)
}

/// Toolkit folders: those that variables name, the usual ones, then the wheels in `.cuda`.
pub(crate) fn folders(root: &Path) -> Vec<PathBuf> {
    let variables = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"];
    let mut folders: Vec<PathBuf> = variables.iter().filter_map(|name| variable(name)).collect();
    folders.extend(["/usr/local/cuda", "/opt/cuda"].map(PathBuf::from));
    for python in entries(&root.join(".cuda/venv/lib")) {
        folders.extend(entries(&python.join("site-packages/nvidia")));
    }
    folders
}

/// A variable that is set to a path.
pub(crate) fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// A program of PATH.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// What is in a folder, sorted; nothing if there is no such folder.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let listing = std::fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = listing.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.sort();
    paths
}
