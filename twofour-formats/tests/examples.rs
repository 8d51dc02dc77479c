//! The examples as a stranger meets them: their output, messages and exit codes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "examples/cases.rs"]
mod cases;
#[path = "examples/compress_model.rs"]
mod compress_model;
#[allow(dead_code, reason = "the examples'")]
#[path = "../examples/common/names.rs"]
mod names;
#[path = "examples/one_shot.rs"]
mod one_shot;

use std::path::{Path, PathBuf};
use std::process::Command;

/// Examples lie beside the folder of tests.
fn example(name: &str) -> Command {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push("examples");
    path.push(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    let built =
        "is not built: `cargo test` builds it, with `--test examples` alone `cargo build --examples` must come first";
    assert!(path.exists(), "{} {built}", path.display());
    Command::new(path)
}

/// What it says, by trying every place for every `*`.
fn matches_anywhere(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(name) = name.strip_prefix(first) else { return false };
    (0..=name.len()).filter(|&at| name.is_char_boundary(at)).any(|at| matches_anywhere(rest, &name[at..]))
}

#[test]
fn patterns_of_names() {
    let words = |letters: &[char], most: u32| {
        let of = |length: u32, number: usize| -> String {
            (0..length).map(|i| letters[number / letters.len().pow(i) % letters.len()]).collect()
        };
        let all = (0..=most).flat_map(|length| (0..letters.len().pow(length)).map(move |number| (length, number)));
        all.map(|(length, number)| of(length, number)).collect::<Vec<_>>()
    };
    for pattern in words(&['a', 'é', '*'], 5) {
        for name in words(&['a', 'é'], 5) {
            assert_eq!(names::matches(&pattern, &name), matches_anywhere(&pattern, &name), "{pattern} {name}");
        }
    }
    // Trying every place would take longer than the universe has.
    let (pattern, name) = (format!("{}b", "*a".repeat(10_000)), "a".repeat(100_000));
    assert!(!names::matches(&pattern, &name) && names::matches(&pattern[..20_000], &name));
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}
