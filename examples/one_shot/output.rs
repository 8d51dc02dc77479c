//! Where masks and weights go: never over what is read.

use crate::{Args, Failure};
use std::path::{Path, PathBuf};
use twofour::formats::Model;
use twofour::formats::masks::Form;

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

/// Refuses to write over what is read, or one thing over another.
pub(crate) fn check(read: &[PathBuf], written: &[PathBuf]) -> Result<(), Failure> {
    for (i, to) in written.iter().enumerate() {
        if read.iter().any(|from| is_same(from, to)) {
            return Err(format!("{} would be written over", to.display()).into());
        }
        if written[..i].contains(to) {
            return Err(format!("{} would be written twice", to.display()).into());
        }
    }
    Ok(())
}

fn is_same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
