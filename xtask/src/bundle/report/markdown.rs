//! The report as a page to read.

use std::fmt::Write as _;
use std::path::Path;

use super::benches::Bench;
use super::steps::{Step, Tests};
use super::{Run, Table};

/// Lines of a log that are shown of a step that did not pass: from the first complaint on, and at the end.
const COMPLAINT: usize = 15;
const TAIL: usize = 12;

pub(super) fn text(run: &Run, work: &Path) -> String {
    let mut text = head(run);
    if run.device.problem.is_some() {
        text += "\n## Machine\n\n";
        text += &pairs(&[&run.version, &run.facts]);
        return text;
    }
    text += "\n## Machine\n\n";
    text += &pairs(&[&run.version, &device(run), &run.facts]);
    text += &steps(&run.steps);
    text += &troubles(&run.steps, work);
    text += &peers(run);
    text += &tables(&run.tables);
    text += &benches(&run.benches);
    text += &examples(&run.steps, work);
    text
}

/// The title and the whole in a sentence.
fn head(run: &Run) -> String {
    if let Some(problem) = &run.device.problem {
        return format!("# No GPU\n\nNothing was run, and nothing is claimed: {problem}.\n");
    }
    let count = |outcome: &str| run.steps.iter().filter(|step| step.outcome == outcome).count();
    let counts = ["passed", "failed", "timed out", "unavailable", "skipped"].map(|outcome| (outcome, count(outcome)));
    let counts = counts.iter().filter(|(_, count)| *count > 0).map(|(outcome, count)| format!("{count} {outcome}"));
    let counts = counts.collect::<Vec<_>>().join(", ");
    let time = match run.seconds {
        Some(seconds) => format!("in {seconds} s"),
        None => "and then **the run was cut off, or still goes on**".into(),
    };
    format!("# twofour on {}\n\nOf {} steps: {counts}, {time}.\n", run.device.name, run.steps.len())
}

fn device(run: &Run) -> Vec<(String, String)> {
    let device = &run.device;
    let gib = device.memory_bytes as f64 / f64::from(1 << 30);
    let size = format!(
        "compute capability {}, {} multiprocessors, {gib:.0} GiB, {} MiB level-2 cache",
        device.capability,
        device.multiprocessors,
        device.l2_bytes >> 20
    );
    let seen = format!("{} (first of {})", device.name, device.devices);
    let rows = [("device", seen), ("its size", size), ("the driver's CUDA", device.cuda.clone())];
    rows.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

fn pairs(tables: &[&[(String, String)]]) -> String {
    let mut text = String::from("| | |\n| --- | --- |\n");
    for (name, value) in tables.iter().copied().flatten() {
        row(&mut text, &[name.clone(), value.clone()]);
    }
    text
}

fn steps(steps: &[Step]) -> String {
    let mut text = String::from(
        "\n## Steps\n\n\
         Tests are passed / failed / ignored; clocks and power are medians during the step, over all samples of a second.\n\n\
         | part | step | outcome | s | tests | said `skipped` | SM MHz | memory MHz | W | remark |\n\
         | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n",
    );
    for step in steps {
        let median = |pick: fn(&super::steps::Clocks) -> [f64; 3]| {
            step.clocks.as_ref().map_or_else(String::new, |clocks| format!("{:.0}", pick(clocks)[1]))
        };
        let Tests { passed, failed, ignored, skipped } = step.tests;
        let has_tests = step.tests != Tests::default();
        row(
            &mut text,
            &[
                step.part.clone(),
                step.name.clone(),
                if step.outcome == "passed" { "passed".into() } else { format!("**{}**", step.outcome) },
                format!("{:.1}", step.seconds),
                if has_tests { format!("{passed} / {failed} / {ignored}") } else { String::new() },
                if has_tests { skipped.to_string() } else { String::new() },
                median(|clocks| clocks.sm_mhz),
                median(|clocks| clocks.memory_mhz),
                median(|clocks| clocks.watts),
                step.note.clone(),
            ],
        );
    }
    text
}

/// What the logs say of what did not pass.
fn troubles(steps: &[Step], work: &Path) -> String {
    let mut text = String::new();
    for step in steps.iter().filter(|step| step.has_log() && step.outcome != "passed") {
        let said = step.output(work);
        let status = step.status.unwrap_or_default();
        let _ = write!(
            text,
            "\n### {} {}: {}, exit status {status}\n\nFrom `logs/{}`:\n\n```text\n{}\n```\n",
            step.part,
            step.name,
            step.outcome,
            step.log,
            excerpt(&said)
        );
    }
    if text.is_empty() { text } else { format!("\n## What did not pass\n{text}") }
}

/// The first panic, error, or finding of compute-sanitizer, and the end.
fn excerpt(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    let complains = |line: &&str| {
        let finding = line.starts_with("========= ") && !line.contains("COMPUTE-SANITIZER");
        finding || line.contains("panicked at") || line.starts_with("error")
    };
    let tail = lines.len().saturating_sub(TAIL);
    let first = lines.iter().position(complains).unwrap_or(tail).min(tail);
    let end = (first + COMPLAINT).min(tail);
    let gap = if end < tail { "[...]\n" } else { "" };
    let part = |range: std::ops::Range<usize>| lines[range].iter().map(|line| format!("{line}\n")).collect::<String>();
    (part(first..end) + gap + &part(tail..lines.len())).trim_end().to_owned()
}

/// What the examples print, which is short.
fn examples(steps: &[Step], work: &Path) -> String {
    let mut text = String::new();
    for step in steps.iter().filter(|step| step.part == "examples" && step.outcome == "passed") {
        let _ = write!(text, "\n`{}`:\n\n```text\n{}\n```\n", step.name, step.output(work).trim_end());
    }
    if text.is_empty() { text } else { format!("\n## Examples\n{text}") }
}

fn peers(run: &Run) -> String {
    let Some(first) = run.peers.iter().find(|peers| !peers.header.is_empty()) else { return String::new() };
    let mut text = String::from("\n## Against PyTorch\n\nBoth sides in turn, in one run; ratio: theirs / ours.\n\n");
    first.about.iter().for_each(|line| text += &format!("{line}\n"));
    text += &format!("\n{}\n", first.header.join("\n"));
    for line in run.peers.iter().flat_map(|peers| &peers.rows) {
        text += &format!("{line}\n");
    }
    text
}

/// As they were printed.
fn tables(tables: &[Table]) -> String {
    let mut text = String::new();
    for Table { title, lines } in tables {
        let _ = write!(text, "\n{title}:\n\n{}\n", lines.join("\n"));
    }
    if text.is_empty() { text } else { format!("\n## Ways to a product\n{text}") }
}

fn benches(benches: &[Bench]) -> String {
    if benches.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "\n## Benches\n\n\
         Medians with their 95 % interval. Bytes are the least that must move; of copy: bytes per second, divided by those \
         of a plain copy there in the same run.\n\n\
         | bench | µs | 95 % | G elements/s | GB/s | of copy |\n\
         | --- | ---: | --- | ---: | ---: | ---: |\n",
    );
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.1}"));
    for bench in benches {
        row(
            &mut text,
            &[
                bench.name.clone(),
                format!("{:.2}", bench.nanoseconds / 1e3),
                format!("{:.2} to {:.2}", bench.low / 1e3, bench.high / 1e3),
                number(bench.giga(bench.elements)),
                number(bench.giga(bench.bytes)),
                bench.of_copy.map_or_else(String::new, |share| format!("{:.0} %", 100.0 * share)),
            ],
        );
    }
    text
}

/// A row of a Markdown table.
fn row(text: &mut String, cells: &[String]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_has_the_first_complaint_and_the_end() {
        let mut said = String::from("before\nthread 'a' panicked at b:\nwhy\n");
        said += &"more\n".repeat(100);
        let excerpt = excerpt(&(said + "last\n"));
        assert!(excerpt.starts_with("thread 'a' panicked at b:\nwhy\n"), "{excerpt}");
        assert!(excerpt.ends_with("more\nlast") && excerpt.contains("[...]"), "{excerpt}");
        assert_eq!(excerpt.lines().count(), COMPLAINT + 1 + TAIL);
    }

    #[test]
    fn a_short_log_is_shown_whole() {
        assert_eq!(excerpt("a\nerror: b\n"), "a\nerror: b");
        assert_eq!(excerpt(""), "");
    }
}
