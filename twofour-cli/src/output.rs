//! Where files go: never over what is read, nor over each other, nor where a later command would stumble over them.

use crate::Failure;
use std::path::{Path, PathBuf};
use twofour_formats::{Model, Reader};

/// What was given, a file without its endings or a folder, by name; and the folder that what is made of it goes to.
/// Beside a file; beside a folder and not into it, for there it would be one more model; and not into the snapshots of
/// Hugging Face's cache, which knows all that is in it: then it is the folder that the command runs in.
fn origin(given: &Path) -> Result<(PathBuf, String), Failure> {
    let folder = given.is_dir();
    let path = if folder { canonical(given)? } else { given.to_owned() };
    let name = path.file_name().ok_or("where to? Say so with --out")?.to_string_lossy();
    let endings = [".safetensors.index.json", ".safetensors", ".npz"];
    let stem = if folder { None } else { endings.iter().find_map(|ending| name.strip_suffix(ending)) };
    let parent = path.parent().unwrap_or(Path::new("")).to_owned();
    let within = canonical(if parent.as_os_str().is_empty() { Path::new(".") } else { &parent })?;
    let snapshots = within.ancestors().find(|folder| folder.file_name().is_some_and(|name| name == "snapshots"));
    let repository = snapshots.and_then(Path::parent).and_then(Path::file_name).map(|name| name.to_string_lossy());
    match repository.as_deref().and_then(|name| name.strip_prefix("models--")) {
        Some(repository) => {
            let stem = stem.filter(|stem| *stem != "model").unwrap_or(repository.rsplit("--").next().unwrap_or(""));
            Ok((PathBuf::new(), stem.to_owned()))
        }
        None => Ok((parent, stem.unwrap_or(&name).to_owned())),
    }
}

fn canonical(path: &Path) -> Result<PathBuf, Failure> {
    path.canonicalize().map_err(|e| format!("{}: {e}", path.display()).into())
}

/// `model.safetensors` to `model.<word>.<extension>`, `folder` to `folder.<word>.<extension>`, both beside.
pub(crate) fn beside(given: &Path, word: &str, extension: &str) -> Result<PathBuf, Failure> {
    let (folder, stem) = origin(given)?;
    let stem = [".masks", ".twofour"].iter().find_map(|ending| stem.strip_suffix(ending)).unwrap_or(&stem);
    Ok(folder.join(format!("{stem}.{word}.{extension}")))
}

/// The place of a new model: a file, or of shards a folder.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    sharded: bool,
}

impl Place {
    /// Where it was asked for. What was given as a folder becomes one, unless a file is asked for by name.
    pub(crate) fn asked(model: &Model, given: &Path, path: &Path) -> Self {
        let named = path.extension().is_some_and(|end| end == "safetensors");
        Self { path: path.to_owned(), sharded: model.index().is_some() || given.is_dir() && !named }
    }

    /// Copies into a new folder what makes a folder with weights a model, if there is any.
    pub(crate) fn complete(&self, given: &Path) -> Result<(), Failure> {
        match self.sharded && given.is_dir() {
            true => crate::model::copy_beside(given, &self.path),
            false => Ok(()),
        }
    }

    /// Beside the model, with a word in its name.
    pub(crate) fn beside(model: &Model, given: &Path, word: &str) -> Result<Self, Failure> {
        if model.index().is_none() {
            return Ok(Self { path: beside(given, word, "safetensors")?, sharded: false });
        }
        // The folder's own name, were it `.` or `..`, or had its index been named.
        let (folder, stem) = origin(&canonical(&model.path("."))?)?;
        let stem = stem.strip_suffix("-twofour").unwrap_or(&stem);
        Ok(Self { path: folder.join(format!("{stem}-{word}")), sharded: true })
    }

    /// The path of one of its files.
    pub(crate) fn file(&self, file: &str) -> PathBuf {
        if self.sharded { self.path.join(file) } else { self.path.clone() }
    }

    /// All files that there will be, the index among them.
    pub(crate) fn files(&self, model: &Model) -> Vec<PathBuf> {
        names(model).map(|file| self.file(file)).collect()
    }

    /// The folder that [`make`](Self::make) makes, if there is to be one.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.sharded.then_some(&self.path)
    }

    /// Makes the folder of shards.
    pub(crate) fn make(&self) -> Result<Option<Folder<'_>>, Failure> {
        self.folder().map(Folder::make).transpose()
    }
}

/// The names of a model's files: its tensors', and the index of shards.
fn names(model: &Model) -> impl Iterator<Item = &str> {
    model.files().chain(model.index().map(|(name, _)| name))
}

/// The files that a model is.
pub(crate) fn read(model: &Model) -> Vec<PathBuf> {
    names(model).map(|file| model.path(file)).collect()
}

/// Refuses to write over what is read, or one thing over another, or where nothing can be written: all of `written` are
/// files. A folder that they go to is there, or it is the one that the command makes.
pub(crate) fn check(read: &[PathBuf], written: &[PathBuf], made: Option<&Path>) -> Result<(), Failure> {
    for (i, to) in written.iter().enumerate() {
        let is_to = |other: &PathBuf| place(other) == place(to);
        if read.iter().any(is_to) {
            return Err(format!("{} would be written over: say another place", to.display()).into());
        }
        if written[..i].iter().any(is_to) {
            return Err(format!("{} would be written twice: say another place", to.display()).into());
        }
        // Before any work, and not when the first file is begun.
        if to.is_dir() {
            return Err(format!("{} is a folder, and a file is to be written: name one", to.display()).into());
        }
        let path = absolute(to);
        if let Some(folder) =
            path.parent().filter(|folder| !folder.exists() && made.map(absolute).as_deref() != Some(*folder))
        {
            let (to, folder) = (to.display(), folder.display());
            return Err(format!("{to} cannot be written: there is no folder {folder}: make it first").into());
        }
        let folder = path.ancestors().skip(1).find(|folder| folder.exists()).unwrap_or(Path::new("."));
        tempfile::tempfile_in(folder).map_err(|e| format!("{} cannot be written: {e}", to.display()))?;
    }
    Ok(())
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// One path for all that lead to a file, which need not be there yet.
fn place(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    path.canonicalize()
        .or_else(|_| Ok(folder.canonicalize()?.join(path.file_name().unwrap_or_default())))
        .unwrap_or_else(|_: std::io::Error| path.to_owned())
}

/// A folder for the files of a model. If it was made here and nothing is put in it, it is gone afterwards.
pub(crate) struct Folder<'a>(Option<&'a Path>);

impl<'a> Folder<'a> {
    fn make(path: &'a Path) -> Result<Self, Failure> {
        let made = !path.is_dir();
        std::fs::create_dir_all(path).map_err(|e| format!("{} cannot be made: {e}", path.display()))?;
        Ok(Self(made.then_some(path)))
    }
}

impl Drop for Folder<'_> {
    fn drop(&mut self) {
        // One that is not empty stays.
        let _ = self.0.map(std::fs::remove_dir);
    }
}

/// Prints what is in the files but not in the model.
pub(crate) fn print_left_out(readers: &[(&str, Reader<'_>)]) {
    for (file, tensor) in readers.iter().flat_map(|(file, reader)| reader.left_out().map(move |of| (file, of))) {
        let name = crate::names::plain(tensor.name());
        println!("left out: {name} in {}, for the index does not have it there", crate::names::plain(file));
    }
}
