//! Results of layers that are kept as they are made, so that a run that failed or was ended goes on where it was.
//!
//! A folder has a file a layer, which says what it was made from. What does not agree with that is made again.

use super::Made;
use crate::Failure;
use crate::layer::Layer;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use twofour_formats::masks::Mask;
use twofour_formats::{Manifest, Reader, TensorType};

const CODES: &str = "codes";
const UPDATED: &str = "updated";

/// A folder of results.
pub(crate) struct Kept {
    folder: PathBuf,
    /// What all layers are made by: the method and its options, and what is known of inputs.
    by: String,
}

impl Kept {
    /// Opens a folder, which is made if it is not there.
    pub(crate) fn open(folder: &Path, by: String) -> Result<Self, Failure> {
        std::fs::create_dir_all(folder).map_err(|e| format!("{} cannot be made: {e}", folder.display()))?;
        Ok(Self { folder: folder.to_owned(), by })
    }

    /// Where results are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, layer: &Layer) -> PathBuf {
        self.folder.join(format!("{:016x}.safetensors", digest(layer.name.as_bytes())))
    }

    /// What a layer's result says that it was made from.
    fn entries(&self, layer: &Layer, dense: &[u8]) -> [(&'static str, String); 4] {
        let shape = format!("{} {} x {}", layer.dtype, layer.shape.rows, layer.shape.cols);
        let weight = format!("{:016x}", digest(dense));
        [("layer", layer.name.clone()), ("by", self.by.clone()), ("shape", shape), ("weight", weight)]
    }

    /// The result of a layer with this weight, if there is one.
    pub(crate) fn get(&self, layer: &Layer, dense: &[u8]) -> Option<Made> {
        let reader = Reader::open(self.path(layer)).ok()?;
        let entry = |key: &str| reader.metadata().find(|(of, _)| *of == key).map(|(_, value)| value.to_owned());
        if !self.entries(layer, dense).iter().all(|(key, value)| entry(key).as_ref() == Some(value)) {
            return None;
        }
        let mask = Mask::new(layer.shape, reader.tensor(CODES).ok()?.into_owned()).ok()?;
        let updated = match reader.tensor_info(UPDATED) {
            Some(_) => Some(reader.tensor(UPDATED).ok()?.into_owned()),
            None => None,
        };
        let number = |key: &str| entry(key).and_then(|number| number.parse().ok());
        let [score, error, unswapped] = ["score", "error", "unswapped"].map(number);
        Some(Made { mask, updated, score, error, unswapped, empty: entry("empty")?.parse().ok()? })
    }

    /// Keeps the result of a layer.
    pub(crate) fn put(&self, layer: &Layer, dense: &[u8], made: &Made) -> Result<(), Failure> {
        let mut manifest = Manifest::new();
        self.entries(layer, dense).iter().try_for_each(|(key, value)| manifest.metadata(key, value))?;
        manifest.metadata("empty", &made.empty.to_string())?;
        for (key, number) in [("score", made.score), ("error", made.error), ("unswapped", made.unswapped)] {
            number.iter().try_for_each(|number| manifest.metadata(key, &number.to_string()))?;
        }
        manifest.tensor(CODES, TensorType::U8, &[made.mask.codes().len()])?;
        if let Some(updated) = &made.updated {
            manifest.tensor(UPDATED, TensorType::U8, &[updated.len()])?;
        }
        manifest.save::<Failure>(self.path(layer), |file| {
            file.tensor(CODES, made.mask.codes())?;
            Ok(made.updated.iter().try_for_each(|updated| file.tensor(UPDATED, updated))?)
        })
    }

    /// What is said after a failure. A folder in which nothing was kept is removed.
    pub(crate) fn left_after(&self, failure: &Failure) -> Failure {
        if std::fs::remove_dir(&self.folder).is_ok() {
            return failure.to_string().into();
        }
        let folder = self.folder.display();
        format!("{failure}; the layers before it are kept in {folder}, and the same command goes on from there").into()
    }

    /// Removes what was kept of these layers, and the folder if nothing else is in it.
    pub(crate) fn remove<'l>(&self, layers: impl Iterator<Item = &'l Layer>) {
        layers.for_each(|layer| drop(std::fs::remove_file(self.path(layer))));
        let _ = std::fs::remove_dir(&self.folder);
    }
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
