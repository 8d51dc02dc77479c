//! Pruning with calibration tokens, a block at a time: against plain sums, cut off and gone on with, and evaluated.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use candle_core::quantized::GgmlDType;
use candle_core::{Device, Tensor};
use common::{Tiny, gguf};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;
use twofour_cli::demo::Demo;
use twofour_cli::eval::tokens;
use twofour_cli::model::{Block, Model};
use twofour_formats::TensorType;
use twofour_formats::masks::Masks;

/// Tokens of a window.
const WINDOW: usize = 64;

fn twofour(arguments: &[&str], paths: &[(&str, &Path)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_twofour"));
    command.args(arguments);
    for (option, path) in paths {
        command.args(Some(option).filter(|option| !option.is_empty())).arg(path);
    }
    command.output().unwrap()
}

fn is_well(output: Output) -> String {
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The sentence of a refusal.
fn refusal(output: Output) -> String {
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

/// The made-up model, and a folder for what comes of it.
struct Case {
    demo: Demo,
    out: TempDir,
}

impl Case {
    fn new() -> Self {
        Self { demo: Demo::new().unwrap(), out: TempDir::new().unwrap() }
    }

    fn to(&self, name: &str) -> PathBuf {
        self.out.path().join(name)
    }

    fn prune(&self, method: &[&str], out: &str, more: &[(&str, &Path)]) -> Output {
        let text = self.demo.text();
        let out = self.to(out);
        let window = WINDOW.to_string();
        let arguments = [&["prune", "--window", &window, "--method"], method].concat();
        let paths = [&[("", self.demo.model()), ("--calibration", &*text), ("--out", &*out)], more].concat();
        twofour(&arguments, &paths)
    }

    fn perplexity(&self, model: &Path, more: &[(&str, &Path)]) -> f64 {
        let text = self.demo.text();
        perplexity(&[&[("--model", model), ("--text", &*text)], more].concat())
    }
}

fn perplexity(paths: &[(&str, &Path)]) -> f64 {
    common::perplexity(&is_well(twofour(&["eval", "--window", "64"], paths)))
}

/// Masks of a file, as flags.
fn flags(path: &Path) -> BTreeMap<String, Vec<bool>> {
    let masks = Masks::open(path).unwrap();
    masks.names().map(|name| (name.to_owned(), masks.read(name).unwrap().flags().unwrap())).collect()
}

/// Hidden states of all windows.
fn embedded(case: &Case, model: &Model) -> Tensor {
    let tokens = tokens::of_texts(model, &[case.demo.text()]).unwrap();
    let windows = (tokens.len() / WINDOW).min(128);
    let tokens = Tensor::from_slice(&tokens[..windows * WINDOW], (windows, WINDOW), &Device::Cpu).unwrap();
    model.embed(&tokens).unwrap()
}

/// What the layers of a block read, `[T, K]`.
fn inputs(block: &Block, x: &Tensor) -> BTreeMap<String, Vec<Vec<f32>>> {
    let mut all = BTreeMap::new();
    let mut look = |names: &[&str], x: &Tensor| {
        let rows: Vec<Vec<f32>> = x.flatten_to(1)?.to_vec2()?;
        all.extend(names.iter().map(|&name| (name.to_owned(), rows.clone())));
        Ok(())
    };
    block.forward(x, &mut look).unwrap();
    all
}

fn masked(block: &mut Block, masks: &BTreeMap<String, Vec<bool>>) {
    let weights: Vec<_> =
        block.linears().iter().map(|linear| (linear.name().to_owned(), linear.weight().clone())).collect();
    for (name, weight) in weights {
        let kept: Vec<f32> = masks[&name].iter().map(|&kept| f32::from(u8::from(kept))).collect();
        let kept = Tensor::from_vec(kept, weight.shape(), &Device::Cpu).unwrap();
        block.set(&name, &(weight * kept).unwrap()).unwrap();
    }
}

/// A score of f64 is kept unless another of its group is larger by more than rounding.
fn check_wanda(name: &str, weight: &Tensor, rows: &[Vec<f32>], kept: &[bool]) {
    let cols = rows[0].len();
    let norms: Vec<f64> =
        (0..cols).map(|j| rows.iter().map(|row| f64::from(row[j]).powi(2)).sum::<f64>().sqrt()).collect();
    let weights: Vec<f32> = weight.flatten_all().unwrap().to_vec1().unwrap();
    let scores: Vec<f64> =
        weights.iter().enumerate().map(|(i, &weight)| f64::from(weight.abs()) * norms[i % cols]).collect();
    for (group, (scores, kept)) in scores.chunks(4).zip(kept.chunks(4)).enumerate() {
        let of = |wanted| scores.iter().zip(kept).filter(move |(_, kept)| **kept == wanted).map(|(score, _)| *score);
        let (least, most) = (of(true).fold(f64::INFINITY, f64::min), of(false).fold(0.0, f64::max));
        assert!(least >= most * (1.0 - 1e-4), "{name}, group {group}: {scores:?} {kept:?}");
    }
}

#[test]
fn wanda_sees_what_the_pruned_blocks_before_make() {
    let case = Case::new();
    is_well(case.prune(&["wanda"], "masks.safetensors", &[]));
    let masks = flags(&case.to("masks.safetensors"));
    let model = Model::open(case.demo.model(), &Device::Cpu).unwrap();
    assert_eq!(masks.len(), model.linears().len());
    let mut x = embedded(&case, &model);
    for i in 0..model.blocks() {
        let mut block = model.block(i).unwrap();
        let inputs = inputs(&block, &x);
        for linear in block.linears() {
            check_wanda(linear.name(), linear.weight(), &inputs[linear.name()], &masks[linear.name()]);
        }
        masked(&mut block, &masks);
        x = block.run(&x).unwrap();
    }
    assert!(!case.to("masks.safetensors.partial").exists());
}

/// The columns `unswapped` and `error` of each layer.
fn errors(said: &str) -> Vec<[f64; 2]> {
    let percent = |line: &str| {
        let cells: Vec<_> = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        let number = |at: usize| cells[at].trim_end_matches(" %").parse::<f64>();
        [number(cells.len() - 2).unwrap_or(f64::NAN), number(cells.len() - 1).unwrap()]
    };
    said.lines().filter(|line| line.starts_with("model.layers.")).map(percent).collect()
}

#[test]
fn swaps_make_errors_smaller() {
    let case = Case::new();
    for method in [&["magnitude", "--swaps"][..], &["wanda", "--swaps"], &["sparsegpt", "--as-is", "--swaps"]] {
        let said = is_well(case.prune(method, "swapped.safetensors", &[]));
        let errors = errors(&said);
        assert_eq!(errors.len(), 14, "{said}");
        assert!(errors.iter().all(|[before, after]| after < before), "{said}");
    }
    // The first block reads the same with swaps and without, so the columns are of the same masks.
    let plain = errors(&is_well(case.prune(&["wanda"], "plain.safetensors", &[])));
    let swapped = errors(&is_well(case.prune(&["wanda", "--swaps"], "swapped.safetensors", &[])));
    for ([_, plain], [before, _]) in plain.iter().zip(&swapped).take(7) {
        assert!((plain - before).abs() <= 0.011, "{plain} {before}");
    }
    let refused = refusal(case.prune(&["sparsegpt", "--swaps"], "no.safetensors", &[]));
    assert!(refused.contains("--as-is"), "{refused}");
}

#[test]
fn a_pruned_model_is_the_model_under_its_masks() {
    let case = Case::new();
    let dense = case.perplexity(case.demo.model(), &[]);
    for method in ["magnitude", "wanda", "sparsegpt"] {
        let pruned = case.to(method);
        is_well(case.prune(&[method], "masks.safetensors", &[("--weights", &pruned)]));
        let own = case.perplexity(&pruned, &[]);
        let under = case.perplexity(case.demo.model(), &[("--masks", &case.to("masks.safetensors"))]);
        // SparseGPT has updated what it keeps.
        assert_eq!(own == under, method != "sparsegpt", "{method}: {own} {under}");
        assert_ne!(own, dense);
    }
}

/// The same weights in a GGUF file and in shards have the same masks, and what is written of either is a model.
#[test]
fn formats_of_models_do_not_matter() {
    let folder = TempDir::new().unwrap();
    let to = |name: &str| folder.path().join(name);
    let (tiny, tokens) = (Tiny::llama(), to("tokens.u16"));
    common::write_tokens(&tokens, &tiny.tokens(1024, 3));
    let (file, shards) = (to("tiny.gguf"), to("shards"));
    let weights = gguf::save(&tiny, &file, &tiny.weights(7), GgmlDType::F32);
    tiny.write(&shards, &weights, TensorType::F32, 2);
    for (method, swaps) in [("magnitude", false), ("wanda", true), ("sparsegpt", false)] {
        let arguments = [&["prune", "--window", "64", "--method", method][..], if swaps { &["--swaps"] } else { &[] }];
        let mut all = Vec::new();
        for model in [&file, &shards] {
            let (masks, new) = (to("masks.npz"), to("new"));
            let paths = [("--calibration", &*tokens), ("--out", &*masks), ("--weights", &*new), ("", model)];
            is_well(twofour(&arguments.concat(), &paths));
            let own = perplexity(&[("--model", &new), ("--tokens", &tokens)]);
            let under = perplexity(&[("--model", model), ("--masks", &masks), ("--tokens", &tokens)]);
            assert_eq!(own == under, method != "sparsegpt", "{method}: {own} {under}");
            all.push((flags(&masks), own.to_bits()));
            fs::remove_dir_all(new).unwrap();
        }
        assert_eq!(all[0], all[1], "{method}");
        assert_eq!(all[0].0.len(), 14);
    }
    // By weights alone, too.
    is_well(twofour(&["prune"], &[("--out", &to("plain.safetensors")), ("", &file)]));
    is_well(twofour(&["prune"], &[("--out", &to("shards.safetensors")), ("", &shards)]));
    assert_eq!(flags(&to("plain.safetensors")), flags(&to("shards.safetensors")));
}

#[test]
fn what_was_done_before_a_failure_is_kept() {
    let case = Case::new();
    is_well(case.prune(&["wanda"], "whole.safetensors", &[]));
    let weights = case.demo.model().join("model.safetensors");
    let (whole, modified) = (fs::read(&weights).unwrap(), fs::metadata(&weights).unwrap().modified().unwrap());
    // The second block's q is not a number: bf16 of ones.
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let text = std::str::from_utf8(&whole[8..header]).unwrap();
    let json: serde_json::Value = serde_json::from_str(text).unwrap();
    let start = json["model.layers.1.self_attn.q_proj.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    let mut broken = whole.clone();
    broken[header + start..header + start + 2].fill(0xff);
    let put = |bytes: &[u8]| {
        fs::write(&weights, bytes).unwrap();
        File::options().write(true).open(&weights).unwrap().set_modified(modified).unwrap();
    };
    put(&broken);
    let refused = refusal(case.prune(&["wanda"], "masks.safetensors", &[]));
    assert!(refused.contains("model.layers.1.self_attn.q_proj.weight") && refused.contains("kept in"), "{refused}");
    assert!(!case.to("masks.safetensors").exists());
    let kept = case.to("masks.safetensors.partial");
    let times = || {
        let all = fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap());
        all.map(|entry| (entry.file_name(), entry.metadata().unwrap().modified().unwrap())).collect::<BTreeMap<_, _>>()
    };
    let before = times();
    assert_eq!(before.len(), 7, "the layers of the first block");
    put(&broken);
    refusal(case.prune(&["wanda"], "masks.safetensors", &[]));
    assert_eq!(times(), before, "the first block was made again");
    // Another method takes nothing of what is there.
    refusal(case.prune(&["magnitude"], "masks.safetensors", &[]));
    assert_ne!(times(), before);
    refusal(case.prune(&["wanda"], "masks.safetensors", &[]));
    put(&whole);
    is_well(case.prune(&["wanda"], "masks.safetensors", &[]));
    assert_eq!(flags(&case.to("masks.safetensors")), flags(&case.to("whole.safetensors")));
    assert!(!case.to("masks.safetensors.partial").exists());
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let case = Case::new();
    let short = case.to("short.u16");
    fs::write(&short, [7; 32]).unwrap();
    let foreign = case.to("foreign.u16");
    fs::write(&foreign, [0xff; 1024]).unwrap();
    let wanda = |calibration: &Path, more: &[&str]| {
        let out = case.to("no.safetensors");
        let arguments = [&["prune", "--method", "wanda"], more].concat();
        let paths = [("", case.demo.model()), ("--calibration", calibration), ("--out", &*out)];
        refusal(twofour(&arguments, &paths))
    };
    let text = case.demo.text();
    for (refused, word) in [
        (wanda(&short, &[]), "16 tokens"),
        (wanda(&foreign, &[]), "vocabulary"),
        (wanda(&text, &["--window", "0"]), "--window is 0"),
        (wanda(&text, &["--windows", "0"]), "--windows 0"),
        (wanda(&case.to("none.txt"), &[]), "none.txt"),
        (wanda(&text, &["--include", "*embed_tokens.weight"]), "--exclude"),
        (wanda(&text, &["--damping", "nan"]), "--damping"),
    ] {
        assert!(refused.contains(word), "{word}: {refused}");
    }
    assert!(!case.to("no.safetensors").exists() && !case.to("no.safetensors.partial").exists());
}
