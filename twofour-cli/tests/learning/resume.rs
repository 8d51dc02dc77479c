//! Runs that are stopped: they go on with the same bits, and are not mixed with others.

use super::{Runs, report, said};
use std::fs;

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

/// What was saved on the way is enough: a run that was cut off goes on from there.
#[test]
fn a_run_that_was_cut_off_is_the_same() {
    let runs = Runs::new();
    let steps = ["--steps", "8", "--save-every", "3", "--every", "8"];
    runs.learns("whole.safetensors", &steps);
    let stopped = runs.learn("torn.safetensors", &[&steps[..], &["--stop-after", "3"]].concat());
    assert_eq!(stopped.status.code(), Some(130));
    // As if two steps more had been lost, and a file that was being written with them.
    fs::write(runs.path("torn.safetensors.state.partial"), b"half of it").unwrap();
    runs.learns("torn.safetensors", &[&steps[..], &["--resume"]].concat());
    let [whole, torn] = ["whole", "torn"].map(|name| fs::read(runs.path(&format!("{name}.safetensors"))).unwrap());
    assert!(whole == torn, "masks differ");
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
