//! The commands on files, as a stranger meets them: their output, messages and exit codes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "tools/cases.rs"]
mod cases;
#[path = "tools/choice.rs"]
mod choice;
#[path = "tools/compress.rs"]
mod compress;
#[path = "tools/make.rs"]
mod make;
#[path = "tools/masks.rs"]
mod masks;
#[allow(dead_code, reason = "the commands'")]
#[path = "../src/names.rs"]
mod names;
#[path = "tools/prune.rs"]
mod prune;
#[path = "tools/rows.rs"]
mod rows;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A command of the application.
fn command(name: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_twofour"));
    command.arg(name);
    command
}

/// What a command printed that ends well, and says so.
#[track_caller]
fn printed(output: &Output, said: &str) -> String {
    let [printed, errors] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8(bytes.clone()).unwrap());
    assert!(output.status.success() && errors.is_empty() && printed.contains(said), "{printed}{errors}");
    printed
}

/// Expects a sentence with these words, and exit code 2.
#[track_caller]
fn is_refusal(output: &Output, words: &[&str]) {
    let [printed, errors] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8(bytes.clone()).unwrap());
    assert_eq!(output.status.code(), Some(2), "{printed}{errors}");
    assert!(printed.is_empty() && errors.starts_with("error: "), "{printed}{errors}");
    for word in words {
        assert!(errors.contains(word), "no `{word}` in: {errors}");
    }
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
