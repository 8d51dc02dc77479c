//! What is wrong is found before the first step, and leaves nothing behind.

use super::{Runs, said};
use std::fs;

#[track_caller]
fn refuses(runs: &Runs, more: &[&str], parts: &[&str]) {
    let output = runs.learn("masks.safetensors", more);
    let words = said(&output);
    assert_eq!(output.status.code(), Some(2), "{more:?}: {words}");
    assert!(output.stdout.is_empty(), "{more:?}: before the first step: {words}");
    for part in parts {
        assert!(words.contains(part), "{more:?}: no `{part}` in {words}");
    }
    let left = ["masks.safetensors", "masks.safetensors.state", "report.json"].map(|name| runs.path(name).exists());
    assert_eq!(left, [false; 3], "{more:?}");
}

#[test]
fn values_that_no_step_takes() {
    let runs = Runs::new();
    for (more, part) in [
        (&["--rate", "nan"][..], "rate"),
        (&["--rate=-1"], "rate"),
        (&["--rate", "inf"], "rate"),
        // It would turn logits round.
        (&["--rate", "11"], "rate"),
        (&["--rate", "1e-3:1e-4:square"], "--rate: `1e-3:1e-4:square` is no schedule"),
        (&["--rate", "fast"], "FROM:TO"),
        (&["--kappa", "100:-1"], "kappa"),
        (&["--tau", "1:0"], "tau"),
        (&["--lambda", "nan"], "regulariser"),
        (&["--sigma=-0.1"], "sigma"),
        (&["--alpha", "nan"], "alpha"),
        (&["--clip", "0"], "max_norm"),
        (&["--clip", "short"], "--clip"),
        (&["--decay", "nan"], "decay"),
        (&["--beta1", "1"], "beta1"),
        (&["--epsilon=-1"], "epsilon"),
        (&["--distil", "backward"], "forward, reverse and jsd:BETA"),
        (&["--distil", "jsd:1.5"], "BETA"),
        (&["--distil", "--temperature", "0"], "--temperature"),
        (&["--distil", "--labels=-1"], "--labels"),
        (&["--labels", "1"], "--distil"),
        (&["--steps", "0"], "--steps"),
        (&["--batch", "0"], "--batch"),
        (&["--accumulate", "0"], "--accumulate"),
        (&["--every", "0"], "--every"),
        (&["--save-every", "0"], "--save-every"),
        (&["--validation-windows", "0"], "--validation-windows"),
        (&["--validation-window", "1"], "--validation-window"),
        // As many as there are numbers, and more than a step's tokens have.
        (&["--window", "18446744073709551615"], "--window 18446744073709551615"),
        (&["--batch", "4294967296"], "--batch 4294967296"),
        (&["--batch", "2000000", "--accumulate", "65535"], "--accumulate 65535"),
    ] {
        refuses(&runs, more, &[part]);
    }
}

#[test]
fn files_that_are_wrong() {
    let runs = Runs::new();
    let (text, model) = (runs.text(), runs.model());
    let weights = format!("{model}/model.safetensors");
    refuses(&runs, &["--text", "there/is/none"], &["there/is/none"]);
    fs::write(runs.path("empty.txt"), " ").unwrap();
    refuses(&runs, &["--text", &runs.at("empty.txt")], &["no text"]);
    fs::write(runs.path("few.txt"), "two of four").unwrap();
    refuses(&runs, &["--text", &runs.at("few.txt")], &["11 tokens", "--window is 32"]);
    fs::write(runs.path("other.u16"), [0xff; 200]).unwrap();
    refuses(&runs, &["--text", &runs.at("other.u16")], &["--text: token 0 is 65535", "vocabulary"]);
    refuses(&runs, &["--validate", &runs.at("other.u16")], &["--validate: token 0 is 65535"]);
    refuses(&runs, &["--validate", "there/is/none"], &["there/is/none"]);
    refuses(&runs, &["--prior", "there/is/none"], &["there/is/none"]);
    refuses(&runs, &["--prior", &text], &["text.txt"]);
    refuses(&runs, &["--prior", &weights], &["model.safetensors"]);
    refuses(&runs, &["--window", "1"], &["--window 1"]);
    refuses(&runs, &["--report", &text], &["would be written over"]);
    for of_model in [weights, format!("{model}/config.json"), format!("{model}/tokenizer.json")] {
        refuses(&runs, &["--state", &of_model], &["would be written over"]);
    }
    refuses(&runs, &["--report", &runs.at("masks.safetensors")], &["written twice"]);
    let nowhere = runs.at("text.txt/state");
    refuses(&runs, &["--state", &nowhere], &["cannot be written"]);
    let (missing, folder) = (runs.at("there/is/none"), runs.at("folder"));
    fs::create_dir(&folder).unwrap();
    for option in ["--state", "--report"] {
        refuses(&runs, &[option, &missing], &["there/is/none", "make it first"]);
        refuses(&runs, &[option, &folder], &["folder is a folder"]);
    }

    // A prior of another model, and one that lacks a layer.
    let (pruned, part) = (runs.at("pruned.safetensors"), runs.at("part.safetensors"));
    crate::common::printed(&["prune", &model, "--out", &pruned]);
    crate::common::printed(&["prune", &model, "--exclude", "*layers.1.mlp.up*", "--out", &part]);
    refuses(&runs, &["--prior", &part], &["has no mask for `model.layers.1.mlp.up_proj.weight`"]);
    let wide = crate::common::Tiny { hidden: 128, vocabulary: 256, ..crate::common::Tiny::llama() };
    let folder = runs.path("wide");
    wide.write(&folder, &wide.weights(1), twofour_formats::TensorType::F32, 1);
    let other = runs.at("other.safetensors");
    crate::common::printed(&["prune", folder.to_str().unwrap(), "--out", &other]);
    refuses(&runs, &["--prior", &other], &["64 x 128"]);

    // A compressed model as the prior is files that are read.
    let compressed = runs.at("compressed");
    crate::common::printed(&["compress", &model, "--out", &compressed]);
    let within = format!("{compressed}/model.safetensors");
    refuses(&runs, &["--prior", &compressed, "--report", &within], &["would be written over"]);
    runs.learns("from_compressed.safetensors", &["--prior", &compressed, "--steps", "1"]);
}

/// What stands over the options is in the help, and its first sentence in the list of commands.
#[test]
fn help_is_whole() {
    let list = crate::common::printed(&["--help"]);
    for (command, part) in [
        ("prune", "Rows are outputs"),
        ("learn", "A schedule is FROM, FROM:TO"),
        ("generate", "in 16 bits"),
        ("convert", "0.667 bit a weight"),
        ("compress", "bit for bit"),
    ] {
        let help = crate::common::printed(&[command, "--help"]);
        let first = help.lines().next().unwrap().trim_end_matches('.');
        assert!(help.contains(part) && list.contains(first), "{command}: {help}");
    }
}

#[test]
fn a_model_that_is_none() {
    let runs = Runs::new();
    let text = runs.text();
    let of = |model: &str, parts: &[&str]| crate::common::refused(&["learn", model, "--text", &text], parts);
    of("there/is/none", &["there/is/none"]);
    of(&text, &["neither"]);
    crate::common::refused(&["learn", &runs.model()], &["--text"]);
}

/// A loss that is not finite ends the run, and what was saved stays.
#[test]
fn a_loss_that_is_not_a_number() {
    use twofour_formats::TensorType;
    let runs = Runs::new();
    let tiny = crate::common::Tiny { vocabulary: 256, tied: true, ..crate::common::Tiny::llama() };
    let mut weights = tiny.weights(1);
    weights.get_mut("model.norm.weight").unwrap().1[0] = f32::NAN;
    let folder = runs.path("nan");
    tiny.write(&folder, &weights, TensorType::F32, 1);
    fs::copy(format!("{}/tokenizer.json", runs.model()), folder.join("tokenizer.json")).unwrap();
    let (model, text, out) = (runs.at("nan"), runs.text(), runs.at("masks.safetensors"));
    let output = crate::common::twofour(&["learn", &model, "--text", &text, "--out", &out, "--window", "16"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("the loss of step 1 is NaN"), "{}", said(&output));
    assert!(!runs.path("masks.safetensors").exists());
}
