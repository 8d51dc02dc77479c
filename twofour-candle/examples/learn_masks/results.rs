//! What came of a run, as it is kept in JSON, and the tables of it.

use crate::Failure;
use crate::settings::Settings;
use crate::store::{Point, load_json};
use crate::text::Domain;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::Path;

/// A model that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// What it was measured on.
    pub(crate) domain: Domain,
    pub(crate) method: String,
    /// Nats a byte, on the validation text.
    #[serde(with = "crate::float")]
    pub(crate) loss: f64,
    /// `exp(loss)`.
    #[serde(with = "crate::float")]
    pub(crate) perplexity: f64,
    /// Of making it, evaluation of the curve included.
    #[serde(with = "crate::float")]
    pub(crate) seconds: f64,
    /// Bytes of training text that it was made of.
    pub(crate) bytes_seen: usize,
    /// Share of groups whose pattern is not the prior's (without one: not that of the initial noise).
    pub(crate) moved: Option<f64>,
    /// Memory of weights, logits and optimiser while it was learnt, a masked weight.
    pub(crate) bytes_per_weight: Option<f64>,
    pub(crate) curve: Vec<Point>,
}

/// What came of a seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) seed: u64,
    pub(crate) settings: Settings,
    pub(crate) masked_weights: usize,
    pub(crate) rows: Vec<Row>,
}

/// The methods that bound the gap.
pub(crate) const DENSE: &str = "dense";
pub(crate) const BASELINE: &str = "SparseGPT";

impl Results {
    pub(crate) fn row(&self, domain: Domain, method: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.domain == domain && row.method == method)
    }

    /// The share of SparseGPT's distance to the dense model that a method closes, of its domain.
    pub(crate) fn closed(&self, row: &Row) -> Option<f64> {
        let (dense, baseline) = (self.row(row.domain, DENSE)?, self.row(row.domain, BASELINE)?);
        let of = |row: &Row| row.perplexity;
        (row.method != DENSE).then(|| (of(baseline) - of(row)) / (of(baseline) - of(dense)))
    }

    /// Reads the seeds that are finished or under way in a folder.
    pub(crate) fn of_folder(folder: &Path) -> Result<Vec<Self>, Failure> {
        let unread = |e| format!("{} cannot be read: {e}", folder.display());
        let mut all = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(unread)? {
            let path = entry?.path();
            if path.is_dir() {
                all.extend(load_json::<Self>(&path.join("results.json"))?);
            }
        }
        all.sort_by_key(|results: &Self| results.seed);
        if all.is_empty() { Err(format!("{} has no results", folder.display()).into()) } else { Ok(all) }
    }
}

/// A method over seeds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    pub(crate) domain: Domain,
    pub(crate) method: String,
    pub(crate) perplexity: Spread,
    pub(crate) closed: Option<Spread>,
    pub(crate) moved: Option<Spread>,
    pub(crate) bytes_per_weight: Option<Spread>,
    pub(crate) bytes_seen: usize,
    pub(crate) seconds: Spread,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Spread {
    #[serde(with = "crate::float")]
    pub(crate) mean: f64,
    #[serde(with = "crate::float")]
    pub(crate) least: f64,
    #[serde(with = "crate::float")]
    pub(crate) most: f64,
}

impl Spread {
    fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().collect();
        let least = values.iter().copied().reduce(f64::min)?;
        let most = values.iter().copied().reduce(f64::max)?;
        Some(Self { mean: values.iter().sum::<f64>() / values.len() as f64, least, most })
    }

    /// `mean (least – most)` with so many digits after the point; of one value itself.
    fn show(&self, digits: usize) -> String {
        let Self { mean, least, most } = self;
        match most > least {
            true => format!("{mean:.digits$} ({least:.digits$} to {most:.digits$})"),
            false => format!("{mean:.digits$}"),
        }
    }
}

/// The methods in the order of the first seed, of those that all seeds have.
pub(crate) fn summary(all: &[Results]) -> Vec<Line> {
    let Some(first) = all.first() else { return Vec::new() };
    let lines = first.rows.iter().filter_map(|Row { domain, method, bytes_seen, .. }| {
        let rows: Vec<_> =
            all.iter().map(|results| Some((results, results.row(*domain, method)?))).collect::<Option<_>>()?;
        let each = |value: fn(&Row) -> Option<f64>| Spread::of(rows.iter().filter_map(|(_, row)| value(row)));
        Some(Line {
            domain: *domain,
            method: method.clone(),
            perplexity: each(|row| Some(row.perplexity))?,
            closed: Spread::of(rows.iter().filter_map(|(results, row)| results.closed(row))),
            moved: each(|row| row.moved),
            bytes_per_weight: each(|row| row.bytes_per_weight),
            bytes_seen: *bytes_seen,
            seconds: each(|row| Some(row.seconds))?,
        })
    });
    lines.collect()
}

/// The summary as Markdown.
pub(crate) fn table(all: &[Results]) -> String {
    let lines = summary(all);
    let mut table = String::new();
    let two_domains = lines.iter().any(|line| line.domain != Domain::Code);
    let domain = if two_domains { "| on " } else { "" };
    let rule = if two_domains { "| --- " } else { "" };
    // Writing to a string cannot fail.
    let _ = writeln!(
        table,
        "{domain}| method | perplexity a byte | gap closed, % | patterns moved, % | B/weight | kB seen | seconds |"
    );
    let _ = writeln!(table, "{rule}| --- | --: | --: | --: | --: | --: | --: |");
    for line in lines {
        if two_domains {
            let _ = write!(table, "| {} ", line.domain);
        }
        let percent = |spread: Option<Spread>| {
            spread.map_or_else(String::new, |s| {
                Spread { mean: 100.0 * s.mean, least: 100.0 * s.least, most: 100.0 * s.most }.show(1)
            })
        };
        let _ = writeln!(
            table,
            "| {} | {} | {} | {} | {} | {} | {:.0} |",
            line.method,
            line.perplexity.show(4),
            percent(line.closed),
            percent(line.moved),
            line.bytes_per_weight.map_or_else(String::new, |spread| spread.show(2)),
            line.bytes_seen / 1000,
            line.seconds.mean,
        );
    }
    table
}
