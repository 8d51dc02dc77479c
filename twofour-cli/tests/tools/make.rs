//! Models for tests, and commands run on them.

use super::{command, file};
use std::fs;
use std::path::{Path, PathBuf};
use twofour::{bf16, f16};
use twofour_formats::{Manifest, TensorType};

/// A folder of a test's own.
pub(crate) fn folder(name: &str) -> PathBuf {
    let folder = file(&format!("case-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).unwrap();
    folder
}

/// Runs a command in a folder; its exit code, and what it printed.
pub(crate) fn run(name: &str, folder: &Path, arguments: &str) -> (Option<i32>, String) {
    let output = command(name).current_dir(folder).args(arguments.split(' ')).output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.code(), out + &err)
}

/// Expects exit code 2, these words, and no file beside those that were there.
#[track_caller]
pub(crate) fn is_refused(name: &str, folder: &Path, arguments: &str, words: &[&str]) {
    let there = || {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = there();
    let (code, printed) = run(name, folder, arguments);
    assert_eq!(code, Some(2), "{arguments}: {printed}");
    for word in words {
        assert!(printed.contains(word), "no `{word}` in: {printed}");
    }
    assert_eq!(there(), before, "{arguments}");
}

#[track_caller]
pub(crate) fn succeeds(name: &str, folder: &Path, arguments: &str) -> String {
    let (code, printed) = run(name, folder, arguments);
    assert_eq!(code, Some(0), "{arguments}: {printed}");
    printed
}

/// A tensor's name, type, shape and values.
pub(crate) type Tensor<'n> = (&'n str, TensorType, Vec<usize>, Vec<f32>);

/// A value as it is in a file.
pub(crate) fn bytes(dtype: TensorType, value: f32) -> Vec<u8> {
    match dtype {
        TensorType::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
        TensorType::Bf16 => bf16::from_f32(value).to_le_bytes().to_vec(),
        TensorType::F32 => value.to_le_bytes().to_vec(),
        // Of these, zeros and powers of two.
        TensorType::F8E4m3 => {
            let bits = f16::from_f32(value / 256.0).to_bits();
            vec![(bits >> 8 & 0x80 | bits >> 7 & 0x7f) as u8]
        }
        TensorType::F8E5m2 => vec![(f16::from_f32(value).to_bits() >> 8) as u8],
        _ => vec![value as i64 as u8; dtype.bits() / 8],
    }
}

pub(crate) fn save(path: &Path, tensors: &[Tensor<'_>]) {
    let mut manifest = Manifest::new();
    for (name, dtype, shape, _) in tensors {
        manifest.tensor(name, *dtype, shape).unwrap();
    }
    let fill = |file: &mut twofour_formats::Writer<'_>| {
        tensors.iter().try_for_each(|(name, dtype, _, values)| {
            file.tensor(name, &values.iter().flat_map(|&value| bytes(*dtype, value)).collect::<Vec<_>>())
        })
    };
    manifest.save(path, fill).unwrap();
}

/// Made-up numbers, none of them 0.
pub(crate) fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| (((i * 40503 + seed * 977) % 1009) as f32 - 504.3) / 300.0).collect()
}
