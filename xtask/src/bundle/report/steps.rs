//! The steps of a run: what was run, what became of it, and what the device's clocks were meanwhile.

use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::fs;
use std::path::Path;

/// A line of `steps.tsv`, and what the step's log and the record of clocks tell.
#[derive(Serialize)]
pub(super) struct Step {
    pub(super) part: String,
    pub(super) name: String,
    /// `passed`, `failed`, `timed out`, `skipped`, or `unavailable`.
    pub(super) outcome: String,
    /// The exit status; none of a step that was skipped.
    pub(super) status: Option<i32>,
    pub(super) seconds: f64,
    /// In local time, as nvidia-smi writes it.
    begin: String,
    end: String,
    pub(super) log: String,
    pub(super) note: String,
    pub(super) tests: Tests,
    pub(super) clocks: Option<Clocks>,
}

/// What libtest says, counted.
#[derive(Serialize, Default, PartialEq, Debug)]
pub(super) struct Tests {
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) ignored: usize,
    /// Passing tests that say that they skipped something.
    pub(super) skipped: usize,
}

/// Of the device during a step: the least, the median and the most.
#[derive(Serialize, PartialEq, Debug)]
pub(super) struct Clocks {
    samples: usize,
    pub(super) sm_mhz: [f64; 3],
    pub(super) memory_mhz: [f64; 3],
    pub(super) watts: [f64; 3],
    pub(super) celsius: [f64; 3],
}

pub(super) fn read(work: &Path, text: &str) -> Result<Vec<Step>> {
    let clocks = fs::read_to_string(work.join("clocks.csv")).unwrap_or_default();
    text.lines().map(|line| step(work, line, &clocks).with_context(|| format!("read the step `{line}`"))).collect()
}

fn step(work: &Path, line: &str, clocks: &str) -> Result<Step> {
    let fields: Vec<String> = line.split('\t').map(String::from).collect();
    let Ok([part, name, outcome, status, milliseconds, begin, end, log, note]) = <[String; 9]>::try_from(fields) else {
        bail!("a step has nine fields");
    };
    let seconds = milliseconds.parse::<f64>()? / 1e3;
    let clocks = samples(clocks, &begin, &end);
    let mut step = Step {
        part,
        name,
        outcome,
        status: status.parse().ok(),
        seconds,
        begin,
        end,
        log,
        note,
        tests: Tests::default(),
        clocks,
    };
    if step.has_log() {
        let said = step.output(work);
        step.tests = tests(&said);
        if let Some((_, summary)) = said.lines().find_map(|line| line.split_once(" SUMMARY: ")) {
            step.note =
                [&*step.note, summary].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
        }
    }
    Ok(step)
}

impl Step {
    pub(super) fn has_log(&self) -> bool {
        self.log != "-"
    }

    /// What it printed, as far as it can be read.
    pub(super) fn output(&self, work: &Path) -> String {
        let bytes = fs::read(work.join("logs").join(&self.log)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Counts the lines `test ... ok`, which are there even if the program does not come to its end.
fn tests(said: &str) -> Tests {
    let mut tests = Tests::default();
    for line in said.lines() {
        if line.starts_with("skipped:") {
            tests.skipped += 1;
        }
        let Some((_, result)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) else { continue };
        match result.split([' ', ',']).next() {
            Some("ok") => tests.passed += 1,
            Some("FAILED") => tests.failed += 1,
            Some("ignored") => tests.ignored += 1,
            _ => {}
        }
    }
    tests
}

/// The samples between two moments, which sort as text.
fn samples(csv: &str, begin: &str, end: &str) -> Option<Clocks> {
    let mut columns: [Vec<f64>; 4] = Default::default();
    for line in csv.lines() {
        let mut fields = line.split(", ");
        let moment = fields.next().unwrap_or_default();
        if moment < begin || moment > end {
            continue;
        }
        for (column, field) in columns.iter_mut().zip(fields) {
            column.extend(field.trim().parse::<f64>());
        }
    }
    let [sm, memory, watts, celsius] = columns.each_ref().map(|values| spread(values));
    Some(Clocks { samples: columns[0].len(), sm_mhz: sm?, memory_mhz: memory?, watts: watts?, celsius: celsius? })
}

/// The least, the median and the most; none of nothing.
fn spread(values: &[f64]) -> Option<[f64; 3]> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    Some([*sorted.first()?, *sorted.get(sorted.len() / 2)?, *sorted.last()?])
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn tests_are_counted_without_an_end() {
        let said = "running 4 tests\ntest a ... ok\ntest b ... FAILED\ntest c ... ignored, slow\ntest d - should panic ... ok\n\
                    skipped: no NVRTC (x)\n";
        assert_eq!(tests(said), Tests { passed: 2, failed: 1, ignored: 1, skipped: 1 });
    }

    #[test]
    fn clocks_are_those_of_the_time_between() {
        let csv = "2026/01/01 10:00:00.100, 300, 2000, 70.5, 30\n2026/01/01 10:00:01.100, 1980, 3201, 600.0, 50\n\
                   2026/01/01 10:00:02.100, 1900, 3201, 650.0, 55\n2026/01/01 10:00:03.100, 345, 3201, [N/A], 40\n";
        let clocks = samples(csv, "2026/01/01 10:00:01.000", "2026/01/01 10:00:02.999").map(|clocks| clocks.sm_mhz);
        assert_eq!(clocks, Some([1900.0, 1980.0, 1980.0]));
        assert_eq!(samples(csv, "2026/01/01 10:00:05.000", "2026/01/01 10:00:06.000"), None);
    }
}
