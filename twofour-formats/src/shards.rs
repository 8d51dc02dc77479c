//! Models of several files, with an index that says which tensor is in which.

use super::atomic::{Staged, unwritable};
use super::header::{TensorInfo, Unique};
use super::reader::Reader;
use super::wrong;
use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

/// As for headers: a model of a million tensors has an index of a tenth of it.
const MAX_INDEX: u64 = super::header::MAX_HEADER;
const SUFFIX: &str = ".index.json";
/// What the application `twofour` adds to the names of files that it makes of a model's.
const MADE: [&str; 3] = [".twofour.safetensors", ".dense.safetensors", ".masks.safetensors"];

/// A model on disk: one safetensors file, or several and their index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    folder: PathBuf,
    files: Vec<String>,
    index: Option<(String, Index)>,
}

impl Model {
    /// Finds a model. The path is a safetensors file; or an index, `….safetensors.index.json`; or a folder with an
    /// index or, without, one safetensors file. Beside another, files that the application `twofour` makes of a model
    /// do not count: `….twofour.safetensors`, `….dense.safetensors`, `….masks.safetensors`.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File): there is no model, or several; the index is not one.
    pub fn find(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if !path.is_dir() {
            return Self::of_file(path);
        }
        let mut found = Vec::new();
        let unreadable = |e| wrong(path.display(), format_args!("cannot be read: {e}"));
        for entry in fs::read_dir(path).map_err(unreadable)? {
            found.push(entry.map_err(unreadable)?.file_name());
        }
        // Those that are not UTF-8 too, which are refused by name.
        found.sort();
        let with =
            |suffix: &str| -> Vec<_> { found.iter().filter(|name| name.to_string_lossy().ends_with(suffix)).collect() };
        let (indices, mut files) = (with(&format!(".safetensors{SUFFIX}")), with(".safetensors"));
        let made = |name: &OsString| MADE.iter().any(|ending| name.to_string_lossy().ends_with(ending));
        if !files.iter().all(|name| made(name)) {
            files.retain(|name| !made(name));
        }
        match (indices.as_slice(), files.as_slice()) {
            ([one], _) | ([], [one]) => Self::of_file(&path.join(one)),
            ([], []) => Err(wrong(path.display(), "has no safetensors files")),
            _ => {
                let found = [indices, files].concat();
                let found = found.iter().map(|name| name.to_string_lossy()).collect::<Vec<_>>().join(", ");
                Err(wrong(path.display(), format_args!("which model in this folder? Name one of {found}")))
            }
        }
    }

    fn of_file(path: &Path) -> Result<Self> {
        let name = path.file_name().ok_or_else(|| wrong(path.display(), "names no file"))?;
        let not_utf8 = "the file's name is not UTF-8, as names of a model's files are: rename it";
        let name = name.to_str().ok_or_else(|| wrong(path.display(), not_utf8))?.to_owned();
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        if !name.ends_with(SUFFIX) {
            return Ok(Self { folder, files: vec![name], index: None });
        }
        let index = Index::open(path)?;
        let files = index.files().map(str::to_owned).collect();
        Ok(Self { folder, files, index: Some((name, index)) })
    }

    /// Names of its files.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &str> {
        self.files.iter().map(String::as_str)
    }

    /// The path of one of its files.
    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// The index and its file's name, if it has one.
    #[must_use]
    pub fn index(&self) -> Option<(&str, &Index)> {
        self.index.as_ref().map(|(name, index)| (name.as_str(), index))
    }

    /// Opens one of its files, and checks that it has the tensors that the index says it has. Others that are in it do
    /// not count: the index decides which copy of a tensor is the model's ([`Reader::left_out`]).
    ///
    /// # Errors
    /// As [`Reader::open`]; [`Error::File`](crate::Error::File) if a tensor is missing.
    pub fn open(&self, file: &str) -> Result<Reader<'static>> {
        let path = self.path(file);
        let Some((_, index)) = &self.index else { return Reader::open(&path) };
        let reader = Reader::open_part(&path, |tensor| index.file(tensor) == Some(file))?;
        let mut here = index.files.iter().filter(|(_, of)| *of == file).map(|(tensor, _)| tensor);
        match here.find(|tensor| reader.tensor_info(tensor).is_none()) {
            Some(missing) => {
                Err(wrong(path.display(), format_args!("the index says that `{missing}` is here, and it is not")))
            }
            None => Ok(reader),
        }
    }

    /// [Opens](Self::open) all of its files, by name, and compares copies of a tensor that do not count with the one
    /// that does.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Error::File`](crate::Error::File) for a copy of another shape or type, which is of
    /// another model.
    pub fn open_all(&self) -> Result<Vec<(&str, Reader<'static>)>> {
        let readers = self.files().map(|file| Ok((file, self.open(file)?))).collect::<Result<Vec<_>>>()?;
        let Some((name, index)) = &self.index else { return Ok(readers) };
        for (file, copy) in readers.iter().flat_map(|(file, reader)| reader.left_out().map(move |copy| (file, copy))) {
            let Some(place) = index.file(copy.name()) else { continue };
            let of = readers.iter().find(|(file, _)| *file == place);
            let Some(counts) = of.and_then(|(_, reader)| reader.tensor_info(copy.name())) else { continue };
            if (counts.shape(), counts.dtype()) != (copy.shape(), copy.dtype()) {
                let is = |tensor: &TensorInfo| format!("{} {:?}", tensor.dtype(), tensor.shape());
                let (tensor, one, other) = (copy.name(), is(counts), is(copy));
                return Err(wrong(
                    self.path(name).display(),
                    format_args!(
                        "`{tensor}` is {one} in {place}, where the index has it, and {other} in {file}: take the copy \
                         that is left over out of its file"
                    ),
                ));
            }
        }
        Ok(readers)
    }
}

/// Which tensor is in which file, as Hugging Face's libraries read it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Index {
    files: BTreeMap<String, String>,
    bytes: u64,
}

#[derive(Deserialize)]
struct Stored {
    weight_map: Unique,
    #[serde(default)]
    metadata: Option<Totals>,
}

/// Some writers make a float of it.
#[derive(Deserialize, Default)]
struct Totals {
    #[serde(default)]
    total_size: Option<serde_json::Number>,
}

impl Index {
    /// An index of no tensors.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file with its tensors, which take so many bytes.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File): a tensor is in another file already.
    pub fn add<'n>(&mut self, file: &str, tensors: impl IntoIterator<Item = &'n str>, bytes: u64) -> Result<()> {
        for tensor in tensors {
            match self.files.insert(tensor.to_owned(), file.to_owned()) {
                Some(other) if other != file => {
                    return Err(wrong("index of shards", format_args!("`{tensor}` is in {other} and in {file}")));
                }
                _ => {}
            }
        }
        self.bytes = self.bytes.saturating_add(bytes);
        Ok(())
    }

    /// The file that a tensor is in.
    #[must_use]
    pub fn file(&self, tensor: &str) -> Option<&str> {
        self.files.get(tensor).map(String::as_str)
    }

    /// Names of the files, each once, in order.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &str> {
        let files: BTreeSet<&str> = self.files.values().map(String::as_str).collect();
        files.into_iter()
    }

    /// Bytes of all tensors, 0 if the index does not say.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn parse(json: &[u8]) -> std::result::Result<Self, String> {
        let stored: Stored = serde_json::from_slice(json).map_err(|e| format!("is not an index of shards: {e}"))?;
        let files = stored.weight_map.0;
        match files.values().find(|file| !is_plain(file)) {
            Some(file) => Err(format!("`{file}` is not the name of a file in the same folder")),
            None => {
                let bytes = stored.metadata.unwrap_or_default().total_size.and_then(|size| size.as_u64()).unwrap_or(0);
                Ok(Self { files, bytes })
            }
        }
    }

    /// Reads an index in memory.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File): it is no index, or a file's name would lead out of its folder.
    pub fn from_bytes(json: &[u8]) -> Result<Self> {
        Self::parse(json).map_err(|problem| wrong("index of shards", problem))
    }

    /// Reads an index.
    ///
    /// # Errors
    /// As [`from_bytes`](Self::from_bytes), and if it cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut json = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MAX_INDEX + 1).read_to_end(&mut json));
        read.map_err(|e| wrong(path.display(), format_args!("cannot be read: {e}")))?;
        if json.len() as u64 > MAX_INDEX {
            return Err(wrong(path.display(), format_args!("is longer than {MAX_INDEX} bytes: it is not an index")));
        }
        Self::parse(&json).map_err(|problem| wrong(path.display(), problem))
    }

    /// Writes the index, atomically.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File): it cannot be written, or what is there is no regular file.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.stage(path)?.commit()
    }

    /// [`save`](Self::save), but for the file's taking its place.
    ///
    /// # Errors
    /// The same.
    pub fn stage(&self, path: impl AsRef<Path>) -> Result<Staged> {
        #[derive(Serialize)]
        struct Totals {
            total_size: u64,
        }
        #[derive(Serialize)]
        struct Stored<'a> {
            metadata: Totals,
            weight_map: &'a BTreeMap<String, String>,
        }
        let stored = Stored { metadata: Totals { total_size: self.bytes }, weight_map: &self.files };
        let json = serde_json::to_string_pretty(&stored)
            .map_err(|e| unwritable(&path.as_ref().display().to_string(), &e.into()))?;
        Staged::of_bytes(path, (json + "\n").as_bytes())
    }
}

/// A name, and no way to anywhere else, on any system.
fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let one = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    one && !name.contains(['/', '\\', ':', '\0'])
}
