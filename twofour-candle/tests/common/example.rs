//! The examples, as tests run them.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

/// Where cargo has built one. Along with a single test it builds no examples, so it is asked to; if there is nothing to
/// do, that takes no time.
pub(crate) fn built(name: &str) -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--message-format=json", "--example", name, "--manifest-path"]);
    cargo.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    cargo.args(["--target-dir", concat!(env!("CARGO_TARGET_TMPDIR"), "/..")]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    if cfg!(feature = "cuda") {
        cargo.args(["--features", "cuda"]);
    }
    let built = cargo.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let messages = built.stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let mut artifacts = messages.map(|line| serde_json::from_slice::<Value>(line).unwrap());
    let own = artifacts.find(|message| message["target"]["name"] == name && message["executable"].is_string());
    own.unwrap()["executable"].as_str().unwrap().into()
}
