//! Runs that are stopped: they go on with the same bits, and are not mixed with others.

use super::{Runs, report, said};
use serde_json::Value;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Once without a stop, and once stopped after so many steps each time. Masks and reports are the same.
#[track_caller]
fn whole_and_torn(more: &[&str], stops: &[&str]) {
    let runs = Runs::new();
    let text = runs.text();
    let steps = ["--steps", "11", "--every", "4", "--save-every", "3", "--validate", &text];
    let of = |name: &str, also: &[&str]| {
        let told = runs.at(&format!("{name}.json"));
        runs.learn(&format!("{name}.safetensors"), &[&steps[..], more, &["--report", &told], also].concat())
    };
    let output = of("whole", &[]);
    assert!(output.status.success(), "{}", said(&output));
    for stop in stops {
        let output = of("torn", &["--resume", "--stop-after", stop]);
        assert_eq!(output.status.code(), Some(130), "{}", said(&output));
        assert!(said(&output).contains("--resume goes on from there"), "{}", said(&output));
    }
    assert!(!runs.path("torn.safetensors").exists() && runs.path("torn.safetensors.state").exists());
    let output = of("torn", &["--resume"]);
    assert!(output.status.success(), "{}", said(&output));
    let [whole, torn] = ["whole", "torn"].map(|name| fs::read(runs.path(&format!("{name}.safetensors"))).unwrap());
    assert!(whole == torn, "masks differ");
    let [whole, torn] = ["whole.json", "torn.json"].map(|name| report(&runs.path(name)));
    assert_eq!(whole, torn);
    assert!(!runs.path("torn.safetensors.state").exists(), "with the masks in their place it is gone");
}

#[test]
fn a_run_that_was_stopped_is_the_same() {
    // Between saves, at one, and right before the last step.
    whole_and_torn(&[], &["4", "2", "4"]);
}

#[test]
fn with_clipping_by_the_last_step() {
    whole_and_torn(&["--clip", "1e-3", "--prior", "none"], &["5"]);
}

#[test]
fn in_small_memory() {
    whole_and_torn(&["--memory", "small", "--recompute"], &["1", "7"]);
}

#[test]
fn with_micro_batches() {
    whole_and_torn(&["--accumulate", "2", "--clip", "1e-3"], &["6"]);
    whole_and_torn(&["--accumulate", "3", "--memory", "small"], &["2"]);
}

const CUT: [&str; 6] = ["--steps", "80", "--save-every", "3", "--every", "20"];

/// This run, in a process of its own, as soon as there is a state.
fn begun(runs: &Runs) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_twofour"))
        .args(runs.arguments("torn.safetensors", &CUT))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while !runs.path("torn.safetensors.state").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it has ended, and was never saved");
        std::thread::sleep(Duration::from_millis(2));
    }
    child
}

#[track_caller]
fn goes_on_to_the_same(runs: &Runs, more: &[&str]) {
    assert!(!runs.path("torn.safetensors").exists() && runs.path("torn.safetensors.state").exists());
    runs.learns("torn.safetensors", &[&CUT, more].concat());
    runs.learns("whole.safetensors", &CUT);
    let [whole, torn] = ["whole", "torn"].map(|name| fs::read(runs.path(&format!("{name}.safetensors"))).unwrap());
    assert!(whole == torn, "masks differ");
    assert!(!runs.path("torn.safetensors.state").exists());
}

/// What was saved on the way is enough: a process that was killed goes on from there.
#[test]
fn a_run_that_was_cut_off_is_the_same() {
    let runs = Runs::new();
    let mut child = begun(&runs);
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "it had ended");
    goes_on_to_the_same(&runs, &["--resume"]);
}

/// Masks that cannot be written at the end are written by a run that goes on.
#[test]
fn steps_are_not_lost_with_the_masks() {
    let runs = Runs::new();
    let child = begun(&runs);
    fs::create_dir(runs.path("torn.safetensors")).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    for part in ["torn.safetensors", "all steps are saved", "--resume writes their masks"] {
        assert!(said(&output).contains(part), "no `{part}` in {}", said(&output));
    }
    fs::remove_dir(runs.path("torn.safetensors")).unwrap();
    // It would stop if there were a step to make.
    goes_on_to_the_same(&runs, &["--resume", "--stop-after", "1"]);
}

#[test]
fn another_run_is_not_gone_on_with() {
    let runs = Runs::new();
    let steps = ["--steps", "9", "--every", "3"];
    let of = |more: &[&str]| runs.learn("masks.safetensors", &[&steps[..], more].concat());
    assert_eq!(of(&["--stop-after", "2"]).status.code(), Some(130));
    let state = runs.path("masks.safetensors.state");
    let saved = fs::read(&state).unwrap();
    let refused = |more: &[&str], parts: &[&str]| {
        let output = of(more);
        let words = said(&output);
        assert_eq!(output.status.code(), Some(2), "{more:?}: {words}");
        for part in parts {
            assert!(words.contains(part), "{more:?}: no `{part}` in {words}");
        }
        assert!(!words.contains("step/of") && fs::read(&state).unwrap() == saved, "{more:?}: {words}");
    };
    refused(&[], &["--resume goes on with it"]);
    refused(&["--resume", "--seed", "2"], &["seed: 2, there 1"]);
    refused(&["--resume", "--window", "16"], &["window: 16, there 32"]);
    refused(&["--resume", "--prior", "none"], &["prior"]);
    refused(&["--resume", "--memory", "small"], &["memory"]);
    refused(&["--resume", "--distil"], &["distil"]);
    refused(&["--resume", "--rate", "1e-3"], &["the recipe"]);
    // The same weights under masks, and others beside.
    let (weights, config) = (runs.path("model/model.safetensors"), runs.path("model/config.json"));
    let (bytes, made) = (fs::read(&weights).unwrap(), fs::read_to_string(&config).unwrap());
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    for name in ["model.embed_tokens.weight", "model.norm.weight", "model.layers.1.post_attention_layernorm.weight"] {
        let mut bytes = bytes.clone();
        bytes[header + tensors[name]["data_offsets"][0].as_u64().unwrap() as usize] ^= 1;
        fs::write(&weights, bytes).unwrap();
        refused(&["--resume"], &["model: "]);
    }
    fs::write(&weights, bytes).unwrap();
    fs::write(&config, made.replace("10000.0", "10001.0")).unwrap();
    refused(&["--resume"], &["model: "]);
    fs::write(&config, made).unwrap();
    let text = runs.path("short.txt");
    fs::write(&text, "two of four. ".repeat(30)).unwrap();
    refused(&["--resume", "--validate", text.to_str().unwrap()], &["validation"]);
    fs::write(&state, &saved[..saved.len() / 2]).unwrap();
    let cut = of(&["--resume"]);
    assert_eq!(cut.status.code(), Some(2));
    assert!(said(&cut).contains("masks.safetensors.state"), "{}", said(&cut));
    fs::write(&state, &saved).unwrap();
    assert!(of(&["--resume"]).status.success());
}
