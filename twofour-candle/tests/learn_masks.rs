//! The example `learn_masks` in miniature: files, numbers, interruption. And its operations against candle's own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::Value;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use tempfile::TempDir;

#[path = "../examples/learn_masks/ops.rs"]
#[allow(dead_code)]
mod ops;
#[path = "../examples/learn_masks/rows.rs"]
#[allow(dead_code)]
mod rows;

#[path = "learn_masks/learn_masks_resume.rs"]
mod learn_masks_resume;

/// Where cargo has built it. Along with a single test it builds no examples, so it is asked to; if there is nothing to
/// do, that takes no time.
fn example() -> &'static Path {
    static EXAMPLE: OnceLock<PathBuf> = OnceLock::new();
    EXAMPLE.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--message-format=json", "--example", "learn_masks", "--manifest-path"]);
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
        let own =
            artifacts.find(|message| message["target"]["name"] == "learn_masks" && message["executable"].is_string());
        own.unwrap()["executable"].as_str().unwrap().into()
    })
}

fn run(arguments: &[&str]) -> Output {
    Command::new(example()).args(["--setting", "mini"]).args(arguments).output().unwrap()
}

/// Runs, and expects an exit code.
#[track_caller]
fn run_to(code: i32, arguments: &[&str]) -> String {
    let output = run(arguments);
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?} said: {said}");
    said
}

/// Sums in a language of its own, as text to learn: what a machine has in its registry cache is not for tests.
fn write_text(folder: &Path, extension: &str, opening: &str) {
    let mut state = 1_u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for file in 0..40 {
        let mut text = format!("{opening} {file}\n");
        while text.len() < 8000 {
            let (a, b) = (random(50), random(50));
            writeln!(text, "let sum_{} = {a} + {b}; // {}", random(9), a + b).unwrap();
        }
        std::fs::create_dir_all(folder.join("src")).unwrap();
        std::fs::write(folder.join(format!("src/file_{file}.{extension}")), text).unwrap();
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn perplexity(results: &Value, domain: &str, method: &str) -> f64 {
    let rows = results["rows"].as_array().unwrap();
    let row = rows.iter().find(|row| row["domain"] == domain && row["method"] == method);
    row.unwrap_or_else(|| panic!("no {method} on {domain}"))["perplexity"].as_f64().unwrap()
}

/// All files but those with times in them, by path.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension().and_then(|extension| extension.to_str()) {
                None => folders.push(path),
                Some("json") => {}
                Some(_) => found.push((path.clone(), std::fs::read(path).unwrap())),
            }
        }
    }
    found.iter_mut().for_each(|(path, _)| *path = path.strip_prefix(folder).unwrap().to_owned());
    found.sort();
    found
}

/// Results without times.
fn without_seconds(mut results: Value) -> Value {
    for row in results["rows"].as_array_mut().unwrap() {
        row["seconds"] = Value::Null;
    }
    results
}

/// Runs once without interruption, in `whole`, and once stopped after so many steps each time, in `torn`. Both are the
/// same, and are the results.
#[track_caller]
fn whole_and_torn(folder: &Path, common: &[&str], stops: &[&str]) -> Value {
    let [whole, torn] = ["whole", "torn"].map(|name| folder.join(name));
    let to = |out: &Path, more: &[&str], code| {
        let out = out.to_str().unwrap();
        run_to(code, &[common, &["--out", out, "--save-every", "40"], more].concat())
    };
    to(&whole, &[], 0);
    for stop in stops {
        let said = to(&torn, &["--resume", "--stop-after", stop], 130);
        assert!(said.contains("--resume continues it"), "{said}");
    }
    to(&torn, &["--resume"], 0);
    let [one, other] = [&whole, &torn].map(|out| without_seconds(json(&out.join("seed-1/results.json"))));
    assert_eq!(one, other);
    let (files, others) = (contents(&whole), contents(&torn));
    let names = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
    assert_eq!(names(&files), names(&others));
    for ((path, one), (_, other)) in files.iter().zip(&others) {
        assert!(one == other, "{} differs", path.display());
    }
    one
}

#[test]
fn a_run_is_whole_and_an_interrupted_one_is_the_same() {
    let folder = TempDir::new().unwrap();
    write_text(folder.path(), "rs", "// sums");
    let text = folder.path().to_str().unwrap();
    let common = ["--text", text, "--memory", "both", "--dense-steps", "120", "--learn-steps", "60"];
    // In training and at its end, in the control, in learning, and in learning in small memory.
    let results = whole_and_torn(folder.path(), &common, &["50", "70", "37", "53", "180"]);
    let of = |method: &str| perplexity(&results, "code", method);
    let dense = of("dense");
    assert!(dense > 1.0 && dense < 20.0, "{results}");
    for perplexity in ["magnitude", "Wanda", "SparseGPT"].map(of) {
        assert!(perplexity.is_finite() && perplexity > dense, "{results}");
    }
    for prior in ["magnitude", "SparseGPT"] {
        let learnt = of(&format!("MaskLLM, {prior} prior"));
        assert!(learnt.is_finite() && learnt < of(prior), "{results}");
    }
    let (full, small) = (of("MaskLLM, SparseGPT prior"), of("MaskLLM, SparseGPT prior, small memory"));
    assert!((small / full - 1.0).abs() < 0.05, "{results}");
    for file in ["settings.json", "results.json", "perplexity.svg", "seed-1/loss.svg", "seed-1/moved.svg"] {
        assert!(std::fs::metadata(folder.path().join("whole").join(file)).unwrap().len() > 100, "{file}");
    }

    // A run that is there is neither overwritten nor mixed with another.
    let whole = folder.path().join("whole");
    let whole = whole.to_str().unwrap();
    let again = |more: &[&str]| run_to(2, &[&common, &["--out", whole][..], more].concat());
    assert!(again(&[]).contains("--resume"));
    assert!(again(&["--resume", "--learn-rate", "0.5"]).contains("learn.rate"));

    // The report is made of the results alone.
    let report = run_to(0, &["--report", whole]);
    assert!(
        report.starts_with("| method | perplexity a byte |") && report.contains("| MaskLLM, no prior |"),
        "{report}"
    );
}

#[test]
fn a_mask_moves_to_another_text() {
    let folder = TempDir::new().unwrap();
    write_text(folder.path(), "rs", "// sums");
    write_text(folder.path(), "md", "# Sums, in prose");
    let text = folder.path().to_str().unwrap();
    let common = ["--transfer", "--text", text, "--prose", text, "--accumulate", "2", "--memory", "small"];
    let short = ["--dense-steps", "30", "--learn-steps", "10"];
    // In learning on code, and in learning on prose.
    let results = whole_and_torn(folder.path(), &[&common[..], &short].concat(), &["34", "43"]);
    for method in ["dense", "the mask learnt on code", "MaskLLM, no prior", "MaskLLM, the mask learnt on code as prior"]
    {
        assert!(perplexity(&results, "prose", method).is_finite());
    }
}

#[test]
fn what_is_wrong_is_said() {
    let folder = TempDir::new().unwrap();
    let (text, out) = (folder.path().to_str().unwrap(), folder.path().join("out"));
    let out = out.to_str().unwrap();
    assert!(run_to(2, &["--text", text, "--out", out]).contains("too little text"));
    assert!(run_to(2, &["--report", text]).contains("has no results"));
    write_text(folder.path(), "rs", "// sums");
    let model = folder.path().join("src/file_0.rs");
    let model = model.to_str().unwrap();
    assert!(run_to(2, &["--text", text, "--out", out, "--model", model]).contains("error"));
}

mod operations {
    use super::ops::{self, Rotary};
    use candle_core::{D, Device, Result, Tensor, Var};

    fn normal(dims: &[usize]) -> Var {
        Var::from_tensor(&Tensor::randn(0_f32, 1.5, dims, &Device::Cpu).unwrap()).unwrap()
    }

    #[track_caller]
    fn close(one: &Tensor, other: &Tensor) {
        assert_eq!(one.dims(), other.dims());
        let difference = (one - other).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(difference < 2e-5, "they differ by {difference}");
    }

    /// Values and gradients of both, under a weighted sum.
    #[track_caller]
    fn compare(inputs: &[Var], one: impl Fn(&[Var]) -> Result<Tensor>, other: impl Fn(&[Var]) -> Result<Tensor>) {
        let (one, other) = (one(inputs).unwrap(), other(inputs).unwrap());
        close(&one, &other);
        let weights = Tensor::randn(0_f32, 1.0, one.dims(), &Device::Cpu).unwrap();
        let gradients = |y: &Tensor| (y * &weights).unwrap().sum_all().unwrap().backward().unwrap();
        let (one, other) = (gradients(&one), gradients(&other));
        for input in inputs {
            close(one.get(input).unwrap(), other.get(input).unwrap());
        }
    }

    #[test]
    fn norm() {
        compare(
            &[normal(&[37, 24])],
            |x| ops::normalised(&x[0]),
            |x| x[0].broadcast_div(&(x[0].sqr()?.mean_keepdim(D::Minus1)? + 1e-5)?.sqrt()?),
        );
    }

    #[test]
    fn causal_softmax() {
        let hidden: Vec<f32> = (0..81).map(|i| if i % 9 > i / 9 { f32::NEG_INFINITY } else { 0.0 }).collect();
        let hidden = Tensor::from_vec(hidden, (9, 9), &Device::Cpu).unwrap();
        compare(
            &[normal(&[2, 3, 9, 9])],
            |x| ops::causal_softmax(&x[0], 0.3),
            |x| candle_nn::ops::softmax(&(x[0].as_tensor() * 0.3)?.broadcast_add(&hidden)?, D::Minus1),
        );
    }

    #[test]
    fn swiglu() {
        compare(
            &[normal(&[11, 20]), normal(&[11, 20])],
            |x| ops::swiglu(&x[0], &x[1]),
            |x| x[0].silu()? * x[1].as_tensor(),
        );
    }

    #[test]
    fn rotary() {
        let (context, head) = (6, 8);
        let angles: Vec<f32> =
            (0..context * head / 2).map(|i| (i / 4) as f32 * 10_000_f32.powf(-((i % 4) as f32) / 4.0)).collect();
        let angles = Tensor::from_vec(angles, (context, head / 2), &Device::Cpu).unwrap();
        compare(
            &[normal(&[2 * context, 3 * head])],
            |x| Rotary::new(context, head).turn(&x[0]),
            |x| {
                let x = x[0].reshape((2, context, 3, head))?.transpose(1, 2)?.contiguous()?;
                let turned = candle_nn::rotary_emb::rope_slow(&x, &angles.cos()?, &angles.sin()?)?;
                turned.transpose(1, 2)?.reshape((2 * context, 3 * head))
            },
        );
    }

    #[test]
    fn cross_entropy() {
        let targets = [3_u32, 0, 16, 9, 9];
        compare(
            &[normal(&[5, 17])],
            |x| ops::cross_entropy(&x[0], &targets),
            |x| candle_nn::loss::cross_entropy(&x[0], &Tensor::new(&targets, &Device::Cpu)?),
        );
    }
}
