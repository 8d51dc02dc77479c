//! What users found of runs that are interrupted, and of files that are not whole.

use super::{json, run_to, write_text};
use candle_core::{DType, Device, Tensor, safetensors};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Three steps of each, saved after every one.
struct Runs {
    folder: TempDir,
}

impl Runs {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        write_text(folder.path(), "rs", "// sums");
        Self { folder }
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    /// What a run says that ends so.
    #[track_caller]
    fn ends(&self, code: i32, more: &[&str]) -> String {
        let (text, out) = (self.folder.path().to_str().unwrap(), self.out());
        let short = ["--dense-steps", "3", "--learn-steps", "3", "--save-every", "1", "--out", out.to_str().unwrap()];
        run_to(code, &[&["--text", text], &short[..], more].concat())
    }
}

fn cut(path: &Path, bytes: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() - bytes).unwrap();
}

/// Numbers that are read and written again are the same to the last bit: a resumed run is the whole one.
#[test]
fn floats_keep_their_last_bit() {
    let runs = Runs::new();
    runs.ends(130, &["--stop-after", "5"]);
    let path = runs.out().join("seed-1/results.json");
    let mut results = json(&path);
    // Numbers of all their digits, in every place where there are any.
    let mut state = 1_u64;
    let mut any = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from_bits(0x3ff0_0000_0000_0000 + (state >> 3))
    };
    let curve: Vec<Value> = (0..200)
        .map(|step| json!({ "step": step, "train": any(), "validation": any(), "moved": any(), "changed": any() }))
        .collect();
    let row = &mut results["rows"][0];
    row["curve"] = curve.into();
    for field in ["loss", "perplexity", "seconds"] {
        row[field] = any().into();
    }
    let row = row.clone();
    std::fs::write(&path, results.to_string()).unwrap();
    runs.ends(0, &["--resume"]);
    let now = json(&path);
    assert!(now["rows"].as_array().unwrap().len() > 5, "it was written again");
    assert_eq!(now["rows"][0], row);
}

/// A model with a NaN stops the run, and its results are read again, by the report and by the next run.
#[test]
fn nan_is_written_and_read() {
    let runs = Runs::new();
    runs.ends(130, &["--stop-after", "4"]);
    let mut tensors = safetensors::load(runs.out().join("seed-1/dense.safetensors"), &Device::Cpu).unwrap();
    let norm = tensors.get_mut("model.norm.weight").unwrap();
    *norm = Tensor::full(f32::NAN, norm.dims(), &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
    let model = runs.folder.path().join("nan.safetensors");
    safetensors::save(&tensors, &model).unwrap();
    std::fs::remove_dir_all(runs.out()).unwrap();

    let given = ["--model", model.to_str().unwrap()];
    let first = runs.ends(2, &given);
    assert!(first.contains("the loss is NaN at step 0"), "{first}");
    let results = json(&runs.out().join("seed-1/results.json"));
    assert_eq!(results["rows"][0]["perplexity"], "NaN", "{results}");
    let again = runs.ends(2, &[&given[..], &["--resume"]].concat());
    assert!(again.contains("the loss is NaN at step 0"), "{again}");
    let report = run_to(0, &["--report", runs.out().to_str().unwrap()]);
    assert!(report.contains("| dense | NaN |"), "{report}");

    // As they were written before.
    let text = results.to_string().replace("\"NaN\"", "null");
    std::fs::write(runs.out().join("seed-1/results.json"), text).unwrap();
    assert_eq!(run_to(0, &["--report", runs.out().to_str().unwrap()]), report);
}

/// Whatever file of a run is cut short, its name is said.
#[test]
fn a_file_that_is_cut_short_is_named() {
    let runs = Runs::new();
    // In the middle of learning without a prior.
    runs.ends(130, &["--stop-after", "8"]);
    let folder = runs.out().join("seed-1");
    let names = ["maskllm-no-prior.checkpoint.safetensors", "dense.safetensors", "results.json", "dense.json"];
    for name in names.map(|name| folder.join(name)).into_iter().chain([runs.out().join("settings.json")]) {
        let whole = std::fs::read(&name).unwrap();
        cut(&name, if name.extension().unwrap() == "json" { 5 } else { 100 });
        let said = runs.ends(2, &["--resume"]);
        assert!(said.contains(name.to_str().unwrap()) && said.contains("cannot be read"), "{}: {said}", name.display());
        std::fs::write(&name, whole).unwrap();
    }
    runs.ends(0, &["--resume"]);
}

/// Settings that no step would take are refused before anything is trained, or even read.
#[test]
fn settings_are_refused_at_once() {
    let runs = Runs::new();
    let refused: [(&[&str], &str); 7] = [
        (&["--learn-rate", "nan"], "rate"),
        (&["--learn-rate=-1"], "rate"),
        (&["--learn-rate", "inf"], "rate"),
        // It would turn logits round.
        (&["--learn-rate", "11"], "rate"),
        (&["--accumulate", "0"], "--accumulate"),
        (&["--save-every", "0"], "--save-every"),
        (&["--prose", "there/is/none"], "--transfer"),
    ];
    for (settings, what) in refused {
        let said = runs.ends(2, settings);
        assert!(said.contains(what) && !said.contains("bytes to train on"), "{settings:?}: {said}");
        assert!(!runs.out().exists(), "{settings:?}");
    }
}
