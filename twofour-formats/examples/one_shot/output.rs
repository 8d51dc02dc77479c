//! Where masks and weights go: never over what is read.

use crate::{Args, Failure};
use std::path::{Path, PathBuf};
use twofour_formats::Model;
use twofour_formats::masks::Form;

/// The form of the masks, and their file.
pub(crate) fn masks(args: &Args, beside: &Path) -> Result<(Form, PathBuf), Failure> {
    let npz = args.out.as_ref().is_some_and(|out| out.extension().is_some_and(|extension| extension == "npz"));
    let form = args.form.unwrap_or(if npz { Form::Patch } else { Form::Base6 });
    if let Some(out) = &args.out {
        return Ok((form, out.clone()));
    }
    // `model.safetensors` to `model.masks.safetensors`, `folder` to `folder.masks.safetensors`.
    let name = if beside.is_dir() { beside.canonicalize()? } else { beside.to_owned() };
    let name = name.file_name().and_then(|name| name.to_str()).ok_or("where to? Say so with --out")?;
    let stem = [".safetensors.index.json", ".safetensors", ".npz"].iter().find_map(|ending| name.strip_suffix(ending));
    let stem = stem.unwrap_or(name);
    let stem = stem.strip_suffix(".masks").unwrap_or(stem);
    let place = if beside.is_dir() { beside.canonicalize()? } else { beside.to_owned() };
    Ok((form, place.with_file_name(format!("{stem}.masks.{}", form.extension()))))
}

/// The path of a file of the new model.
pub(crate) fn weights(model: &Model, out: &Path, file: &str) -> PathBuf {
    if model.index().is_some() { out.join(file) } else { out.to_owned() }
}

/// The files that a model is: its tensors', and the index of shards.
pub(crate) fn read(model: &Model) -> Vec<PathBuf> {
    model.files().chain(model.index().map(|(name, _)| name)).map(|file| model.path(file)).collect()
}

/// Refuses to write over what is read, or one thing over another.
pub(crate) fn check(read: &[PathBuf], written: &[PathBuf]) -> Result<(), Failure> {
    for (i, to) in written.iter().enumerate() {
        let is_to = |other: &PathBuf| place(other) == place(to);
        if read.iter().any(is_to) {
            return Err(format!("{} would be written over: say another place", to.display()).into());
        }
        if written[..i].iter().any(is_to) {
            return Err(format!("{} would be written twice: say another place", to.display()).into());
        }
    }
    Ok(())
}

/// One path for all that lead to a file, which need not be there yet.
fn place(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    path.canonicalize()
        .or_else(|_| Ok(folder.canonicalize()?.join(path.file_name().unwrap_or_default())))
        .unwrap_or_else(|_: std::io::Error| path.to_owned())
}
