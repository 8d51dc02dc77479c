//! The report of a run of the bundle: reads what `run-all.sh` wrote down, and writes `results.json` and `report.md`.

mod benches;
mod markdown;
mod steps;

use anyhow::{Context, Result};
use serde::Serialize;
use std::fs;
use std::path::Path;

use super::device::Device;
use benches::Bench;
use steps::Step;

/// All that is known of a run.
#[derive(Serialize)]
struct Run {
    /// Of the bundle: names and values.
    version: Vec<(String, String)>,
    device: Device,
    /// Of the machine: names and values.
    facts: Vec<(String, String)>,
    /// How many seconds the run took; none if it has not come to its end.
    seconds: Option<u64>,
    steps: Vec<Step>,
    benches: Vec<Bench>,
    /// What benches print of their own.
    tables: Vec<Table>,
    /// The comparisons with PyTorch: what the script says first, and its table.
    peers: Vec<Peers>,
}

/// A Markdown table, and the line before it.
#[derive(Serialize, PartialEq, Debug)]
struct Table {
    title: String,
    lines: Vec<String>,
}

/// What one run of the peers' script printed.
#[derive(Serialize)]
struct Peers {
    about: Vec<String>,
    header: Vec<String>,
    rows: Vec<String>,
}

pub(super) fn write(work: &Path, out: &Path) -> Result<()> {
    let run = read(work)?;
    for (name, text) in
        [("results.json", serde_json::to_string_pretty(&run)? + "\n"), ("report.md", markdown::text(&run, work))]
    {
        let path = out.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn read(work: &Path) -> Result<Run> {
    let text = |name: &str| fs::read_to_string(work.join(name)).with_context(|| format!("read {name}"));
    let device = serde_json::from_str(&text("device.json")?).context("read device.json")?;
    let steps = steps::read(work, &text("steps.tsv")?)?;
    let peers = steps.iter().filter(|step| step.part == "peers" && step.has_log());
    Ok(Run {
        version: pairs(&text("VERSION")?),
        device,
        facts: pairs(&text("facts.tsv")?),
        seconds: fs::read_to_string(work.join("finished")).ok().and_then(|text| text.trim().parse().ok()),
        benches: benches::read(&work.join("criterion"))?,
        peers: peers.map(|step| table(&step.output(work))).collect(),
        tables: steps
            .iter()
            .filter(|step| step.part == "benches" && step.has_log())
            .flat_map(|step| tables(&step.output(work)))
            .collect(),
        steps,
    })
}

/// Lines of a name and a value with a tab between.
fn pairs(text: &str) -> Vec<(String, String)> {
    let pair = |line: &str| line.split_once('\t').map(|(name, value)| (name.to_owned(), value.to_owned()));
    text.lines().filter_map(pair).collect()
}

/// The Markdown table in what the peers' script prints, and the lines before it.
fn table(said: &str) -> Peers {
    let of_table = |line: &&str| line.starts_with('|');
    let about = said.lines().take_while(|line| !of_table(line)).filter(|line| !line.is_empty());
    let mut lines = said.lines().filter(of_table).map(String::from);
    Peers { about: about.map(String::from).collect(), header: lines.by_ref().take(2).collect(), rows: lines.collect() }
}

/// Every Markdown table in what a bench prints.
fn tables(said: &str) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    let (mut title, mut inside) = ("", false);
    for line in said.lines() {
        let row = line.starts_with('|');
        match tables.last_mut() {
            Some(table) if row && inside => table.lines.push(line.to_owned()),
            _ if row => tables.push(Table { title: title.to_owned(), lines: vec![line.to_owned()] }),
            _ if !line.is_empty() => title = line,
            _ => {}
        }
        inside = row;
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_is_found_with_its_title() {
        let table = |title: &str, lines: &[&str]| Table {
            title: title.into(),
            lines: lines.iter().map(|&line| line.into()).collect(),
        };
        let said = "time: [1 2 3]\nWays\n\n| a |\n| - |\n| 1 |\n\nBytes\n| b |\n| - |\nthe end\n";
        assert_eq!(tables(said), [table("Ways", &["| a |", "| - |", "| 1 |"]), table("Bytes", &["| b |", "| - |"])]);
        assert!(tables("no table").is_empty());
    }

    #[test]
    fn a_table_is_found_in_what_is_printed() {
        let peers = table("PyTorch 2\nH\n\n| a |\n| - |\n| 1 |\nTraceback\n| 2 |\n");
        assert_eq!(peers.about, ["PyTorch 2", "H"]);
        assert_eq!(peers.header, ["| a |", "| - |"]);
        assert_eq!(peers.rows, ["| 1 |", "| 2 |"]);
        assert!(table("").header.is_empty());
    }
}
