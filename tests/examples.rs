//! The examples as a stranger meets them: their output, messages and exit codes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use safetensors::tensor::{Dtype, TensorView};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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

fn masked_gemm(arguments: &[&str]) -> Output {
    example("masked_gemm").args(arguments).output().unwrap()
}

/// Runs it and returns what it printed.
#[track_caller]
fn succeeds(arguments: &[&str]) -> String {
    let output = masked_gemm(arguments);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{arguments:?}: {printed}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!printed.contains("FAILED"), "{printed}");
    printed
}

/// Runs it, expects exit code 2 and these words in its message, and nothing else printed.
#[track_caller]
fn is_refused(arguments: &[&str], words: &[&str]) {
    let output = masked_gemm(arguments);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
    assert!(output.stdout.is_empty());
    assert!(message.starts_with("error: "), "{message}");
    for word in words {
        assert!(message.contains(word), "no `{word}` in: {message}");
    }
}

/// A file with tensors of several types and shapes, under its own name so that tests do not meet.
fn weights(name: &str) -> PathBuf {
    let f32s: Vec<u8> = (0..48 * 64).flat_map(|i| ((i % 13) as f32 * 0.1 - 0.6).to_le_bytes()).collect();
    let bf16s: Vec<u8> = f32s.chunks_exact(4).flat_map(|bytes| [bytes[2], bytes[3]]).collect();
    let view = |dtype, shape: &[usize], bytes| TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
    let tensors = [
        ("layer.weight", view(Dtype::F32, &[48, 64], &f32s)),
        ("layer.half", view(Dtype::BF16, &[48, 64], &bf16s)),
        ("layer.odd", view(Dtype::F32, &[64, 6], &f32s[..64 * 6 * 4])),
        ("layer.conv", view(Dtype::F32, &[3, 16, 64], &f32s)),
        ("layer.ids", view(Dtype::I32, &[48, 64], &f32s)),
    ];
    let path = file(name);
    safetensors::serialize_to_file(tensors, None, &path).unwrap();
    path
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

#[test]
fn a_generated_weight_of_every_kind_and_type() {
    for (kind, dtype) in ["soft", "hard", "argmax"].iter().flat_map(|kind| ["f32", "f16", "bf16"].map(|d| (*kind, d))) {
        let printed = succeeds(&["--shape", "70,132", "--tokens", "33", "--kind", kind, "--dtype", dtype]);
        assert!(printed.contains(&format!("70 x 132 {dtype}, 33 tokens")), "{printed}");
        assert!(printed.to_lowercase().contains(&format!("masks     {kind}, κ = 100")), "{printed}");
        assert!(printed.contains("bytes of workspace: ") && printed.contains("GFLOP/s"), "{printed}");
        for (result, points) in [("Y", 33 * 64), ("dX", 33 * 64), ("G", 64 * 64)] {
            let line = printed.lines().find(|line| line.starts_with(&format!("{result} ")) && line.contains("off by"));
            assert!(line.is_some_and(|line| line.ends_with(&format!("at {points} points: ok"))), "{printed}");
        }
    }
}

/// The README shows what the first command prints, whatever the numbers.
#[test]
fn the_readme_shows_the_first_commands_output() {
    let printed = succeeds(&["--shape", "64,64"]);
    if !printed.contains("CPU, ") {
        return; // a device has other plans
    }
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (_, shown) = readme.split_once("```text\n").unwrap();
    let (shown, _) = shown.split_once("```").unwrap();
    let words = |text: &str| -> Vec<Vec<String>> {
        let number = |word: &str| word.starts_with(|c: char| c.is_ascii_digit());
        let word = |word: &str| if number(word) { "#".to_owned() } else { word.to_owned() };
        text.lines().map(|line| line.split_whitespace().map(word).collect()).collect()
    };
    // In this order, but for the device and why there is no other.
    let (shown_lines, printed) = (words(shown), words(&printed));
    let mut printed = printed.iter();
    for line in shown_lines[1..].iter().filter(|line| **line != ["..."]) {
        assert!(printed.any(|printed| printed == line), "the README shows {line:?}");
    }
    assert!(shown.starts_with("device    CPU, 2 threads, with the plan of an H200 ("));
}

#[test]
fn a_device_may_be_required() {
    let output = example("masked_gemm").args(["--shape", "8,8"]).env("TWOFOUR_REQUIRE_GPU", "1").output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() || message.starts_with("error: TWOFOUR_REQUIRE_GPU=1, but "), "{message}");
}

#[test]
fn a_weight_of_a_file() {
    let path = weights("good.safetensors");
    let path = path.to_str().unwrap();
    let printed = succeeds(&["--weights", path, "--tensor", "layer.weight", "--tokens", "9", "--kind", "hard"]);
    assert!(printed.contains("48 x 64 f32, 9 tokens"), "{printed}");
    let printed = succeeds(&["--weights", path, "--tensor", "layer.half", "--tokens", "9"]);
    assert!(printed.contains("48 x 64 bf16, 9 tokens"), "{printed}");
    let printed = succeeds(&["--weights", path, "--tensor", "layer.half", "--dtype", "f16"]);
    assert!(printed.contains("48 x 64 f16"), "{printed}");
}

/// Weights at the ends of their types: results that are right, subnormal or infinite, are not called wrong.
#[test]
fn gemm_false_alarm() {
    let path = file("ends.safetensors");
    let of = |largest: f32| (0..8 * 64).map(move |i| largest * ((i * 37 % 64) as f32 / 31.5 - 1.0));
    let f32s = |largest: f32| of(largest).flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
    let f16s = |largest: f32| of(largest).flat_map(|w| twofour::f16::from_f32(w).to_le_bytes()).collect::<Vec<u8>>();
    let bf16s = |largest: f32| of(largest).flat_map(|w| twofour::bf16::from_f32(w).to_le_bytes()).collect::<Vec<u8>>();
    let ends = [
        ("sub", Dtype::F32, f32s(1e-42)),
        ("sub16", Dtype::F16, f16s(3e-6)),
        ("sub-b", Dtype::BF16, bf16s(1e-39)),
        ("huge16", Dtype::F16, f16s(65_504.0)),
        ("huge-b", Dtype::BF16, bf16s(3.3e38)),
        ("huge", Dtype::F32, f32s(3.4e38)),
    ];
    let views = ends.iter().map(|(name, dtype, bytes)| (*name, TensorView::new(*dtype, vec![8, 64], bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &path).unwrap();
    for ((name, ..), kind) in ends.iter().flat_map(|end| ["soft", "hard"].map(|kind| (end, kind))) {
        succeeds(&["--weights", path.to_str().unwrap(), "--tensor", name, "--tokens", "8", "--kind", kind]);
    }
}

#[test]
fn nothing_to_do_is_no_error() {
    for (shape, tokens) in [("8,16", "0"), ("0,16", "3"), ("8,0", "3")] {
        succeeds(&["--shape", shape, "--tokens", tokens]);
    }
}

#[test]
fn files_that_are_wrong() {
    let good = weights("cut.safetensors");
    let bytes = std::fs::read(&good).unwrap();
    let cut = file("cut-short.safetensors");
    std::fs::write(&cut, &bytes[..bytes.len() - 100]).unwrap();
    let noise = file("noise.safetensors");
    std::fs::write(&noise, b"this is no safetensors file, whatever its name says").unwrap();
    let empty = file("empty.safetensors");
    std::fs::write(&empty, b"").unwrap();
    let missing = file("not-there.safetensors");

    let refused = |path: &Path, words: &[&str]| {
        is_refused(&["--weights", path.to_str().unwrap(), "--tensor", "layer.weight"], words);
    };
    refused(&missing, &["cannot read it", "not-there.safetensors"]);
    for path in [&cut, &noise, &empty] {
        refused(path, &["not a whole safetensors file", path.to_str().unwrap()]);
    }
    refused(Path::new(env!("CARGO_TARGET_TMPDIR")), &["cannot read"]);
}

#[test]
fn tensors_that_are_wrong() {
    let path = weights("wrong.safetensors");
    let path = path.to_str().unwrap();
    let refused = |tensor: &str, words: &[&str]| is_refused(&["--weights", path, "--tensor", tensor], words);
    refused(
        "layer.wieght",
        &["no tensor named layer.wieght", "layer.conv", "layer.half", "layer.ids", "layer.odd", "layer.weight"],
    );
    refused("layer.conv", &["layer.conv", "[3, 16, 64]", "not two dimensions"]);
    refused("layer.ids", &["layer.ids", "I32", "F32, F16 or BF16"]);
    refused("layer.odd", &["layer.odd", "[64, 6]", "not a multiple of 4"]);
}

#[test]
fn arguments_that_are_wrong() {
    is_refused(&["--shape", "8,6"], &["6 columns", "not a multiple of 4"]);
    is_refused(&["--shape", "4611686018427387904,8"], &["overflows"]);
    is_refused(&["--shape", "8"], &["--shape", "4096,1024"]);
    is_refused(&["--shape", "8,8,8"], &["--shape", "4096,1024"]);
    is_refused(&["--shape", "8,x"], &["--shape", "invalid digit"]);
    is_refused(&["--dtype", "int8"], &["--dtype", "f32, f16, bf16"]);
    is_refused(&["--weights", "some.safetensors"], &["--tensor"]);
    is_refused(&["--weight", "some.safetensors"], &["--weight"]);
    is_refused(&["--kind", "medium"], &["--kind", "soft, hard or argmax"]);
}

#[test]
fn help_says_what_every_argument_means() {
    let help = succeeds(&["--help"]);
    for argument in ["weights", "tensor", "shape", "tokens", "kind", "dtype"] {
        assert!(help.contains(&format!("--{argument} ")), "{argument}");
    }
}

#[test]
fn masks_are_printed() {
    let output = example("sample_masks").output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 6);
}

/// Without a device it says so, and fails where there must be one. (A device runs a small stack.)
#[test]
fn masks_of_the_next_layer_are_overlapped() {
    let overlap = |require: &str| {
        let mut command = example("overlap");
        command.args(["--width", "256", "--tokens", "160", "--layers", "3", "--steps", "2"]);
        command.env("TWOFOUR_REQUIRE_GPU", require).output().unwrap()
    };
    let output = overlap("0");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    if printed.contains("equal to the bit") {
        return;
    }
    assert!(printed.starts_with("skipped: no CUDA device ("), "{printed}");
    let required = overlap("1");
    assert_eq!(required.status.code(), Some(2));
    assert!(required.stdout.is_empty());
    assert!(String::from_utf8(required.stderr).unwrap().starts_with("error: TWOFOUR_REQUIRE_GPU=1, but "));
}

#[test]
fn a_step_through_the_packed_weight_agrees() {
    let run = |arguments: &[&str], require: &str| {
        example("sparse_step").args(arguments).env("TWOFOUR_REQUIRE_GPU", require).output().unwrap()
    };
    for size in [["--rows", "70", "--cols", "132", "--tokens", "33"], ["--rows", "30", "--cols", "20", "--tokens", "7"]]
    {
        let output = run(&size, "0");
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && printed.contains("equal to the bit"), "{printed}");
    }
    assert_eq!(run(&["--cols", "6"], "0").status.code(), Some(2));
    let output = run(&["--device", "cuda", "--rows", "256", "--cols", "256"], "0");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}");
    if printed.starts_with("skipped: no CUDA device (") {
        assert_eq!(run(&["--device", "cuda"], "1").status.code(), Some(2));
    }
}

/// Every way of decode gives the same, and those that skip read less.
#[test]
fn decode_by_every_way_agrees() {
    let run = |arguments: &[&str], require: &str| {
        example("relu_decode").args(arguments).env("TWOFOUR_REQUIRE_GPU", require).output().unwrap()
    };
    for tokens in ["1", "5"] {
        let output = run(&["--width", "136", "--neurons", "300", "--rounds", "1", "--tokens", tokens], "0");
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && printed.contains("given mask, 2:4"), "{printed}");
    }
    for wrong in [["--width", "12"], ["--active", "2"], ["--tokens", "9"]] {
        assert_eq!(run(&wrong, "0").status.code(), Some(2), "{wrong:?}");
    }
    let output = run(&["--device", "cuda", "--width", "256", "--neurons", "256"], "0");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}");
    if printed.starts_with("skipped: no CUDA device (") {
        assert_eq!(run(&["--device", "cuda"], "1").status.code(), Some(2));
    }
}

/// Every layout gives back the weight, by magnitude and by codes; what cannot be packed is said.
#[test]
fn a_weight_is_packed_in_every_layout() {
    let run = |arguments: &[&str]| example("pack_weight").args(arguments).output().unwrap();
    for (dtype, layouts, codes) in [("bf16", 8, "4e9d"), ("f16", 8, "8"), ("f32", 7, "4e"), ("i8", 6, "c")] {
        for more in [&[][..], &["--codes", codes]] {
            let output = run(&[&["--rows", "128", "--cols", "192", "--dtype", dtype], more].concat());
            let printed = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(printed.matches(": comes back").count(), layouts, "{printed}");
            assert!(printed.lines().count() == 4 + 10 && printed.contains("cutlass-sm100"), "{printed}");
        }
    }
    let printed = String::from_utf8(run(&["--rows", "2", "--cols", "8", "--codes", "8"]).stdout).unwrap();
    // 2 x 4 bf16 kept, and 4 codes.
    let plain = printed.lines().find(|line| line.starts_with("plain")).unwrap();
    assert_eq!(plain.split_whitespace().collect::<Vec<_>>()[1..5], ["16", "2", "56.2", "%"], "{printed}");
    let kept = printed.lines().find_map(|line| line.split_once("to [")).unwrap().1;
    assert!(kept.split(", ").skip(1).step_by(2).all(|value| value.trim_end_matches(']') == "0.0"), "{printed}");
    for (arguments, word) in [(["--codes", "3"], "code"), (["--codes", "xyz"], "hexadecimal"), (["--cols", "6"], "4")] {
        let output = run(&arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.code() == Some(2) && message.starts_with("error: ") && message.contains(word),
            "{message}"
        );
    }
}
