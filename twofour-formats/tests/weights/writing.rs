//! The writer: what it refuses, and that a file is there whole or as it was.

use crate::make;
use std::path::Path;
use twofour::{DType, Shape, bf16, f16};
use twofour_formats::{Error, Manifest, Reader, TensorType, Writer};

const SHAPE: Shape = Shape::new(4, 8);

fn manifest() -> Manifest {
    let mut manifest = Manifest::new();
    manifest.weight("w", DType::F16, SHAPE).unwrap();
    manifest.tensor("bias", TensorType::F16, &[4]).unwrap();
    manifest
}

/// Fills a file and expects these words in the error.
#[track_caller]
fn refuses(words: &str, fill: impl FnOnce(&mut Writer<'_>) -> Result<(), Error>) {
    let error = manifest().to_bytes(fill).unwrap_err().to_string();
    assert!(error.starts_with("safetensors bytes: ") && error.contains(words), "{error}");
}

#[test]
fn what_was_not_planned() {
    let weight = make::random::<f16>(SHAPE, 1);
    refuses("tensor `bia` was not planned", |file| file.tensor("bia", &[0; 8]));
    refuses("weight `v` was not planned", |file| file.weight("v", &weight));
    refuses("weight `bias` was not planned", |file| file.weight("bias", &weight));
    refuses("tensor `w` was not planned", |file| file.tensor("w", &[0; 64]));
    refuses("`w.codes` belongs to a weight", |file| file.tensor("w.codes", &[0; 4]));
    refuses("`bias` is 7 bytes, and 8 were planned", |file| file.tensor("bias", &[0; 7]));
    refuses("`bias` is 9 bytes, and 8 were planned", |file| file.tensor("bias", &[0; 9]));
    let other = make::random::<bf16>(SHAPE, 1);
    refuses("weight `w` is bf16 4 x 8, and f16 4 x 8 was planned", |file| file.weight("w", &other));
    // The same number of bytes.
    let other = make::random::<f16>(Shape::new(8, 4), 1);
    refuses("weight `w` is f16 8 x 4, and f16 4 x 8 was planned", |file| file.weight("w", &other));
}

#[test]
fn what_is_written_twice_or_never() {
    let weight = make::random::<f16>(SHAPE, 1);
    refuses("tensor `bias` was written before", |file| {
        file.tensor("bias", &[0; 8])?;
        file.tensor("bias", &[0; 8])
    });
    refuses("1 planned tensors were not written, `bias`", |file| file.weight("w", &weight));
    refuses("2 planned tensors were not written, `w.codes`", |file| file.tensor("bias", &[0; 8]));
    refuses("3 planned tensors were not written, `bias`", |_| Ok(()));
}

#[test]
fn names_that_are_taken() {
    let refuses = |result: Result<(), Error>, words: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.starts_with("the planned file: ") && error.contains(words), "{error}");
    };
    let mut manifest = manifest();
    refuses(manifest.tensor("bias", TensorType::U8, &[1]), "`bias`");
    refuses(manifest.tensor("w", TensorType::U8, &[1]), "`w`");
    refuses(manifest.tensor("w.values", TensorType::U8, &[1]), "`w.values`");
    refuses(manifest.weight("w", DType::F16, SHAPE), "`w`");
    refuses(manifest.weight("bias", DType::F16, SHAPE), "`bias`");
    manifest.tensor("v.codes", TensorType::U8, &[1]).unwrap();
    refuses(manifest.weight("v", DType::F16, SHAPE), "`v.codes`");
    refuses(manifest.tensor("__metadata__", TensorType::U8, &[1]), "`__metadata__`");
    refuses(manifest.metadata("twofour.version", "2"), "`twofour.version`");
    refuses(manifest.tensor("large", TensorType::U8, &[usize::MAX]), "`large`");
    refuses(manifest.tensor("larger", TensorType::U8, &[usize::MAX, 4]), "`larger`");
    refuses(manifest.tensor("half", TensorType::F4, &[3]), "`half`");
    assert!(matches!(
        manifest.weight("x", DType::F16, Shape::new(4, 6)),
        Err(Error::Core(twofour::Error::NotGrouped { .. }))
    ));
    assert!(matches!(
        manifest.weight("x", DType::F16, Shape::new(usize::MAX, 8)),
        Err(Error::Core(twofour::Error::Overflow { .. }))
    ));
    // A refused weight leaves nothing behind.
    let names: Vec<_> = manifest.tensor_names().collect();
    assert_eq!(names, ["bias", "v.codes", "w.codes", "w.values"]);
    assert_eq!(manifest.data_bytes(), 8 + 1 + 4 + 32);
}

/// Each tensor would be one, and not all of them; of a weight neither part is left behind.
#[test]
fn files_that_would_be_too_large() {
    let refuses = |result: Result<(), Error>, words: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("larger than files can be"), "{error}");
    };
    let mut manifest = Manifest::new();
    for eighth in ["1", "2", "3", "4", "5", "6", "7"] {
        manifest.tensor(eighth, TensorType::U8, &[1 << 60]).unwrap();
    }
    refuses(manifest.tensor("too much", TensorType::U8, &[1 << 60]), "`too much`");
    refuses(manifest.weight("too heavy", DType::F32, Shape::new(1 << 27, 1 << 32)), "`too heavy`");
    assert_eq!((manifest.tensor_names().count(), manifest.data_bytes()), (7, 7 << 60));
}

/// What is in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// A folder with an old file.
fn old(name: &str) -> (std::path::PathBuf, std::path::PathBuf) {
    let folder = make::path(name);
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("model.safetensors");
    std::fs::write(&path, "old").unwrap();
    (folder, path)
}

#[test]
fn a_failed_write_leaves_the_old_file() {
    let (folder, path) = old("failed-write");
    let weight = make::random::<f16>(SHAPE, 1);
    let is_old = || {
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(names(&folder), ["model.safetensors"]);
    };
    // The caller's own error comes back.
    #[derive(Debug, PartialEq)]
    enum Own {
        Error(Error),
        GaveUp,
    }
    impl From<Error> for Own {
        fn from(error: Error) -> Self {
            Self::Error(error)
        }
    }
    let gave_up = manifest().save(&path, |file| {
        file.weight("w", &weight)?;
        Err(Own::GaveUp)
    });
    assert_eq!(gave_up, Err(Own::GaveUp));
    is_old();
    let missing = manifest().save::<Error>(&path, |file| file.weight("w", &weight)).unwrap_err();
    assert!(missing.to_string().starts_with(&path.display().to_string()), "{missing}");
    is_old();
    let panicked = std::panic::catch_unwind(|| manifest().save::<Error>(&path, |_| panic!("while it is written")));
    assert!(panicked.is_err());
    is_old();
    // While it is written, the old file can be read.
    let saved = manifest().save::<Error>(&path, |file| {
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(names(&folder).len(), 2);
        file.weight("w", &weight)?;
        file.tensor("bias", &[0; 8])
    });
    assert_eq!(saved, Ok(()));
    assert_eq!(names(&folder), ["model.safetensors"]);
    assert_eq!(Reader::open(&path).unwrap().compressed::<f16>("w").unwrap(), weight);
}

#[test]
fn paths_that_cannot_be_written() {
    let weight = make::random::<f16>(SHAPE, 1);
    let save = |path: &Path| {
        manifest().save::<Error>(path, |file| {
            file.weight("w", &weight)?;
            file.tensor("bias", &[0; 8])
        })
    };
    let folder = make::path("unwritable");
    let missing = save(&folder.join("model.safetensors")).unwrap_err().to_string();
    assert!(missing.contains("cannot be written"), "{missing}");
    // A folder stands where the file should be: everything is written before that is found.
    std::fs::create_dir_all(folder.join("model/inside")).unwrap();
    assert!(save(&folder.join("model")).unwrap_err().to_string().contains("cannot be written"));
    assert_eq!(names(&folder), ["model"]);
    assert!(save(Path::new("/")).unwrap_err().to_string().contains("names no file"));
    assert!(save(&folder.join("..")).unwrap_err().to_string().contains("names no file"));
}

/// What a full disk does: writing fails half way.
#[cfg(target_os = "linux")]
#[test]
fn a_file_larger_than_may_be_written() {
    let (folder, path) = old("full");
    let mut manifest = Manifest::new();
    manifest.tensor("large", TensorType::U8, &[8 << 20]).unwrap();
    // In a process of its own, which may write files of 4 MiB at most (of 2, if the shell counts in half kilobytes).
    let test = std::env::current_exe().unwrap();
    if std::env::var_os("TWOFOUR_TEST_SMALL_FILES").is_none() {
        let script = "trap '' XFSZ; ulimit -f 4096; exec \"$0\" --exact writing::a_file_larger_than_may_be_written";
        let mut command = std::process::Command::new("sh");
        let output = command.args(["-c", script]).arg(test).env("TWOFOUR_TEST_SMALL_FILES", "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let error = manifest.save::<Error>(&path, |file| file.tensor("large", &vec![1; 8 << 20])).unwrap_err();
    assert!(error.to_string().contains("cannot be written: File too large"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(names(&folder), ["model.safetensors"]);
}

/// Two writers of one file do not meet: the last whole one stays.
#[test]
fn writers_of_one_file() {
    let (folder, path) = old("two-writers");
    let weights: Vec<_> = (0..2).map(|seed| make::random::<f16>(SHAPE, seed)).collect();
    let save = |weight: usize, inside: &dyn Fn()| {
        let saved = manifest().save::<Error>(&path, |file| {
            inside();
            file.weight("w", &weights[weight])?;
            file.tensor("bias", &[0; 8])
        });
        assert_eq!(saved, Ok(()));
    };
    save(0, &|| save(1, &|| ()));
    assert_eq!(Reader::open(&path).unwrap().compressed::<f16>("w").unwrap(), weights[0]);
    assert_eq!(names(&folder), ["model.safetensors"]);
}
