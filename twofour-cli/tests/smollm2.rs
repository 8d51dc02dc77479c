//! The real model: runs where `TWOFOUR_SMOLLM2` names the folder that `twofour fetch smollm2` made.
//!
//!     TWOFOUR_SMOLLM2=smollm2 cargo test --release --package twofour-cli --test smollm2 -- --nocapture
//!
//! Reference figures are an independent run in PyTorch, f32, of the dequantised weights.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use candle_core::Device;
use common::{perplexity, printed};
use std::path::PathBuf;
use twofour_cli::eval::tokens;
use twofour_cli::model::Model;

/// Of the first 16,384 tokens of `test.txt`, in windows of 512.
const DENSE: f64 = 41.672;

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("TWOFOUR_SMOLLM2").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: TWOFOUR_SMOLLM2 names no folder of `twofour fetch smollm2`");
    }
    folder
}

#[test]
fn its_perplexity_is_that_of_another_implementation() {
    let Some(folder) = folder() else { return };
    let [model, tokens] = ["SmolLM2-135M-Instruct.Q4_1.gguf", "test.u16"].map(|name| folder.join(name));
    let out = printed(&["eval", "--model", model.to_str().unwrap(), "--tokens", tokens.to_str().unwrap()]);
    println!("{out}");
    assert!((perplexity(&out) / DENSE - 1.0).abs() < 1e-3, "{out}");
    let megabytes = |part: &str| -> f64 { part.split_whitespace().rev().nth(1).unwrap().parse().unwrap() };
    let line = out.lines().find_map(|line| line.strip_prefix("memory")).unwrap();
    if let Some((peak, model)) = line.split_once(" at most; the model in f32 is ") {
        let (peak, model) = (megabytes(&format!("{peak} ")), megabytes(model));
        assert!(peak < 1.3 * model, "{line}");
    }
}

#[test]
fn its_tokenizer_makes_the_tokens_of_the_reference() {
    let Some(folder) = folder() else { return };
    let model = Model::open(folder.join("SmolLM2-135M-Instruct.Q4_1.gguf"), &Device::Cpu).unwrap();
    for name in ["test", "calibration"] {
        let ids = tokens::of_texts(&model, &[folder.join(format!("{name}.txt"))]).unwrap();
        let want = tokens::of_file(&folder.join(format!("{name}.u16"))).unwrap();
        assert!(ids.len() > want.len() && ids.starts_with(&want), "{name}");
    }
}
