//! Where the new model goes.

use crate::Failure;
use std::fmt;
use std::path::{Path, PathBuf};
use twofour_formats::Model;

/// A file, or a folder of shards.
pub(crate) struct Output {
    pub(crate) path: PathBuf,
    sharded: bool,
}

impl Output {
    /// Where it was asked for, or beside the model. Never over it, nor over the file that masks come from.
    pub(crate) fn new(
        model: &Model,
        asked: Option<&Path>,
        codes: Option<&Path>,
        decompress: bool,
    ) -> Result<Self, Failure> {
        let word = if decompress { "dense" } else { "twofour" };
        let sharded = model.index().is_some();
        let path = match asked {
            Some(path) => path.to_owned(),
            None if sharded => beside_folder(model, word)?,
            None => beside_file(model, word)?,
        };
        let output = Self { path, sharded };
        for file in model.files() {
            let read = [Some(model.path(file)), codes.map(Path::to_owned)];
            if let Some(read) = read.iter().flatten().find(|read| is_same(read, &output.path(file))) {
                return Err(format!("{} would be written over", read.display()).into());
            }
        }
        Ok(output)
    }

    /// The path of one of its files.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        if self.sharded { self.path.join(file) } else { self.path.clone() }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

/// `model.safetensors` to `model.twofour.safetensors`.
fn beside_file(model: &Model, word: &str) -> Result<PathBuf, Failure> {
    let file = model.files().next().ok_or("the model has no files")?;
    let stem = file.strip_suffix(".safetensors").unwrap_or(file);
    let stem = stem.strip_suffix(".twofour").unwrap_or(stem);
    Ok(model.path(&format!("{stem}.{word}.safetensors")))
}

/// `folder` to `folder-twofour`.
fn beside_folder(model: &Model, word: &str) -> Result<PathBuf, Failure> {
    // The folder's own name, were it `.` or `..`.
    let folder = model.path(".");
    let folder = folder.canonicalize().map_err(|e| format!("{}: {e}", folder.display()))?;
    let name = folder.file_name().and_then(|name| name.to_str()).ok_or("where to? Say so with --out")?;
    let name = name.strip_suffix("-twofour").unwrap_or(name);
    Ok(folder.with_file_name(format!("{name}-{word}")))
}

fn is_same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
