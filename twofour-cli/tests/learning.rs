//! `twofour learn` and `twofour generate`: gradients against finite differences, the whole story in miniature, runs
//! that are stopped, masks through every form of file, and what is refused before the first step.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
#[path = "learning/generate.rs"]
mod generate;
#[path = "learning/gradient.rs"]
mod gradient;
#[path = "learning/refused.rs"]
mod refused;
#[path = "learning/resume.rs"]
mod resume;
#[path = "learning/speed.rs"]
mod speed;
#[path = "learning/steps.rs"]
mod steps;
#[path = "learning/story.rs"]
mod story;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Output;
use twofour_cli::demo::Demo;

/// The small model that is made up, its text, and short runs.
struct Runs {
    demo: Demo,
}

impl Runs {
    fn new() -> Self {
        Self { demo: Demo::new().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.demo.folder().join(name)
    }

    fn at(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn model(&self) -> String {
        self.demo.model().display().to_string()
    }

    fn text(&self) -> String {
        self.demo.text().display().to_string()
    }

    /// These arguments of `learn`, and where they do not say otherwise a text, windows of 32 and four of them a step.
    fn arguments(&self, out: &str, more: &[&str]) -> Vec<String> {
        let (model, text, out) = (self.model(), self.text(), self.at(out));
        let mut args = vec!["learn", &model, "--out", &out];
        for own in [["--text", &text], ["--window", "32"], ["--batch", "4"]] {
            if !more.contains(&own[0]) {
                args.extend(own);
            }
        }
        args.iter().chain(more).map(|&argument| argument.to_owned()).collect()
    }

    /// What `learn` says with them.
    fn learn(&self, out: &str, more: &[&str]) -> Output {
        let args = self.arguments(out, more);
        common::twofour(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The same, where all is well.
    #[track_caller]
    fn learns(&self, out: &str, more: &[&str]) -> String {
        let output = self.learn(out, more);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(0), "{more:?}: {said}");
        said
    }

    /// The perplexity that `eval` says.
    #[track_caller]
    fn perplexity(&self, more: &[&str]) -> f64 {
        let (model, text) = (self.model(), self.text());
        common::perplexity(&common::printed(&[&["eval", "--model", &model, "--text", &text], more].concat()))
    }
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

/// A report, without what differs from run to run.
fn report(path: &Path) -> Value {
    let mut report: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for point in report["curve"].as_array_mut().unwrap() {
        point["seconds"] = Value::Null;
    }
    report
}
