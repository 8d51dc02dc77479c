//! What came of blocks, in a folder beside the masks until those are written.

use super::super::Made;
use crate::Failure;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use twofour::Shape;
use twofour_formats::masks::Mask;
use twofour_formats::{Manifest, Reader, TensorType};

/// The file that says of which run the others are.
const RUN: &str = "run.txt";
/// The entry of a layer's numbers.
const NUMBERS: &str = "numbers.";

/// A folder with a file a block.
pub(crate) struct Store {
    folder: PathBuf,
}

/// Of a layer, beside its mask.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Numbers {
    shape: [usize; 2],
    score: Option<f64>,
    error: Option<f64>,
    unswapped: Option<f64>,
    empty: usize,
}

impl Store {
    /// `out` with `.partial` behind its name. What is in it is of this run, which `run` describes, or it is refused.
    pub(crate) fn open(out: &Path, run: &str) -> Result<Self, Failure> {
        let mut folder = out.as_os_str().to_owned();
        folder.push(".partial");
        let folder = PathBuf::from(folder);
        let wrong = |e: std::io::Error| format!("{}: {e}", folder.display());
        std::fs::create_dir_all(&folder).map_err(wrong)?;
        let of = folder.join(RUN);
        match std::fs::read_to_string(&of) {
            Ok(text) if text == run => {}
            Ok(_) => {
                let path = folder.display();
                return Err(format!("{path} is of another run, cut off: finish it, or remove the folder").into());
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => std::fs::write(&of, run).map_err(wrong)?,
            Err(e) => return Err(wrong(e).into()),
        }
        Ok(Self { folder })
    }

    fn file(&self, block: usize) -> PathBuf {
        self.folder.join(format!("block-{block:04}.safetensors"))
    }

    /// After a failure: where what was done is. If nothing was, there is no folder.
    pub(crate) fn leave(&self, failure: &Failure) -> Failure {
        if !self.has(0) {
            let _ = std::fs::remove_dir_all(&self.folder);
            return failure.to_string().into();
        }
        let path = self.folder.display();
        format!("{failure}\nwhat was done before is kept in {path}: the same command goes on from there").into()
    }

    pub(crate) fn has(&self, block: usize) -> bool {
        self.file(block).exists()
    }

    pub(crate) fn put(&self, block: usize, all: &[(String, Made)]) -> Result<(), Failure> {
        let mut manifest = Manifest::new();
        for (name, made) in all {
            let Shape { rows, cols } = made.mask.shape();
            let &Made { score, error, unswapped, empty, .. } = made;
            let numbers = Numbers { shape: [rows, cols], score, error, unswapped, empty };
            manifest.metadata(&format!("{NUMBERS}{name}"), &serde_json::to_string(&numbers)?)?;
            manifest.tensor(&codes(name), TensorType::U8, &[made.mask.codes().len()])?;
            if let Some(weight) = &made.updated {
                manifest.tensor(&updated(name), TensorType::U8, &[weight.len()])?;
            }
        }
        manifest.save::<Failure>(&self.file(block), |file| {
            for (name, made) in all {
                file.tensor(&codes(name), made.mask.codes())?;
                if let Some(weight) = &made.updated {
                    file.tensor(&updated(name), weight)?;
                }
            }
            Ok(())
        })
    }

    pub(crate) fn get(&self, block: usize, name: &str) -> Result<Made, Failure> {
        let path = self.file(block);
        let reader = Reader::open(&path)?;
        let entry = format!("{NUMBERS}{name}");
        let numbers = reader.metadata().find(|(key, _)| *key == entry).map(|(_, value)| value.to_owned());
        let numbers = numbers.ok_or_else(|| format!("{}: has nothing of `{name}`", path.display()))?;
        let Numbers { shape: [rows, cols], score, error, unswapped, empty } = serde_json::from_str(&numbers)?;
        let mask = Mask::new(Shape::new(rows, cols), reader.tensor(&codes(name))?.into_owned())?;
        let has_update = reader.tensor_info(&updated(name)).is_some();
        let updated = has_update.then(|| reader.tensor(&updated(name)).map(|bytes| bytes.into_owned())).transpose()?;
        Ok(Made { mask, updated, score, error, unswapped, empty })
    }

    pub(crate) fn remove(self) -> Result<(), Failure> {
        let removed = std::fs::remove_dir_all(&self.folder);
        removed.map_err(|e| format!("{}: cannot be removed: {e}", self.folder.display()).into())
    }
}

fn codes(name: &str) -> String {
    format!("{name}.codes")
}

fn updated(name: &str) -> String {
    format!("{name}.updated")
}
