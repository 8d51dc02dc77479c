//! The whole story in miniature: one-shot masks, learnt ones that are better, through every form of file, and from one
//! text to another.

use super::{Runs, report};
use crate::common::printed;
use twofour_formats::masks::Form;

#[test]
fn learnt_masks_are_better_and_go_through_every_form_of_file() {
    let runs = Runs::new();
    let (magnitude, text, model) = (runs.at("magnitude.safetensors"), runs.text(), runs.model());
    printed(&["prune", &model, "--out", &magnitude]);
    let one_shot = runs.perplexity(&["--masks", &magnitude]);
    let dense = runs.perplexity(&[]);

    let told = runs.at("report.json");
    let more = ["--prior", &magnitude, "--validate", &text, "--steps", "30", "--every", "10", "--report", &told];
    let out = runs.learns("learnt.safetensors", &more);
    assert!(out.contains("read back: all 14 masks are as they should be"), "{out}");
    let curve = report(runs.path("report.json").as_path())["curve"].as_array().unwrap().clone();
    let steps: Vec<_> = curve.iter().map(|point| point["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [0, 10, 20, 30]);
    let perplexities: Vec<_> = curve.iter().map(|point| point["perplexity"].as_f64().unwrap()).collect();
    assert!(perplexities.windows(2).all(|two| two[1] < two[0]), "{perplexities:?}");
    assert_eq!(curve[3]["tokens"], 30 * 4 * 32);
    let (moved, confidence) = (curve[3]["moved"].as_f64().unwrap(), curve[3]["confidence"].as_f64().unwrap());
    assert!(curve[0]["moved"] == 0.0 && moved > 0.02 && moved < 0.5 && confidence > 0.8 && confidence < 1.0, "{out}");

    let learnt = runs.at("learnt.safetensors");
    let perplexity = runs.perplexity(&["--masks", &learnt]);
    assert!((perplexity / perplexities[3] - 1.0).abs() < 1e-4, "as on the way: {perplexity}, {perplexities:?}");
    assert!(perplexity < 0.5 * one_shot, "learnt {perplexity}, by magnitude {one_shot}, dense {dense}");

    let (prompt, want) = (["--prompt", "two of", "--tokens", "12", "--dtype", "bf16"], perplexity);
    let mut texts = Vec::new();
    for form in Form::ALL {
        let to = runs.at(&format!("converted.{form}.{}", form.extension()));
        printed(&["convert", &learnt, "--model", &model, "--form", form.name(), "--out", &to]);
        assert_eq!(runs.perplexity(&["--masks", &to]), want, "{form}");
        let generated = printed(&[&["generate", &model, "--masks", &to], &prompt[..]].concat());
        texts.push(generated.lines().next().unwrap().to_owned());
        // Written so from the start.
        let direct = runs.at(&format!("direct.{form}.{}", form.extension()));
        let form = form.name();
        runs.learns(&direct, &["--steps", "1", "--form", form]);
        runs.perplexity(&["--masks", &direct]);
    }
    let compressed = runs.at("compressed");
    printed(&["compress", &model, "--masks", &learnt, "--out", &compressed]);
    assert_eq!(runs.perplexity(&["--compressed", &compressed]), want);
    // As weights beside a model, and as a model itself.
    let beside = printed(&[&["generate", &model, "--compressed", &compressed], &prompt[..]].concat());
    let itself = printed(&[&["generate", &compressed], &prompt[..]].concat());
    texts.extend([beside, itself].map(|text| text.lines().next().unwrap().to_owned()));
    assert!(texts[0].starts_with("two of") && texts[0].len() > 12, "{texts:?}");
    assert!(texts.windows(2).all(|two| two[0] == two[1]), "{texts:?}");
}

/// A mask that was learnt on one text is where learning on another begins.
#[test]
fn a_mask_moves_to_another_text() {
    let runs = Runs::new();
    let other: Vec<_> =
        std::fs::read_to_string(runs.demo.text()).unwrap().split(' ').rev().map(str::to_owned).collect();
    std::fs::write(runs.path("other.txt"), other.join(" ")).unwrap();
    runs.learns("first.npz", &["--steps", "20", "--every", "20"]);
    let (first, model, other) = (runs.at("first.npz"), runs.model(), runs.at("other.txt"));
    let start = |prior: &str, out: &str| {
        let (told, out) = (runs.at(&format!("{out}.json")), runs.at(out));
        let own = ["learn", &model, "--text", &other, "--validate", &other, "--prior", prior, "--out", &out];
        printed(&[&own[..], &["--steps", "5", "--window", "32", "--report", &told]].concat());
        report(told.as_ref())["curve"][0]["perplexity"].as_f64().unwrap()
    };
    let [transferred, magnitude, none] =
        [(first.as_str(), "a.npz"), ("magnitude", "b.npz"), ("none", "c.npz")].map(|(prior, out)| start(prior, out));
    assert!(transferred < 0.7 * magnitude.min(none), "{transferred} {magnitude} {none}");
}

/// The dense model teaches: its masks come nearer to what it says, by every divergence and with micro-batches.
#[test]
fn the_dense_model_teaches() {
    let runs = Runs::new();
    let text = runs.text();
    for more in [
        &["--distil"][..],
        &["--distil", "reverse", "--labels", "0.5"],
        &["--distil", "jsd:0.5", "--temperature", "2", "--accumulate", "2"],
    ] {
        let told = runs.at("report.json");
        let own = ["--steps", "20", "--every", "10", "--validate", &text, "--report", &told];
        let out = runs.learns("taught.npz", &[&own[..], more].concat());
        assert!(out.contains("teacher     the dense model"), "{out}");
        let curve = report(told.as_ref())["curve"].clone();
        let [first, last] = [1, 2].map(|i| curve[i]["loss"].as_f64().unwrap());
        assert!(last < first, "{more:?}: {out}");
    }
}
