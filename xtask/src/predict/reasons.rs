//! What a kernel must reach of its roof, and why some do not.

use super::table::Row;

/// Ops whose kernels must be near their roofs.
const OPS: [&str; 5] = ["mask", "learn", "compress", "select", "distil"];

/// The least share of the roof on H200: of a weight of 4096 x 4096, and of one of 14336 x 4096.
pub(super) const LEAST: [f64; 2] = [0.85, 0.90];

/// The beginning of cases' names, and what binds them and why no more can be had.
pub(super) const REASONS: &[(&str, &str)] = &[];

/// Cases that are below, and of which no reason speaks; and reasons that speak of none.
pub(super) fn missing(rows: &[Row]) -> Vec<String> {
    let mut complaints = Vec::new();
    for row in rows.iter().filter(|row| is_below(row)) {
        if reason(row).is_none() {
            let [usual, large] = [row.usual.share, row.large.share].map(|share| format!("{:.0} %", 100.0 * share));
            complaints.push(format!("{}: {usual} and {large} of its roof, and no reason is given", row.name()));
        }
    }
    for (case, _) in REASONS {
        if !rows.iter().any(|row| is_below(row) && row.name().starts_with(case)) {
            complaints.push(format!("a reason is given for {case}, which needs none"));
        }
    }
    complaints
}

fn is_below(row: &Row) -> bool {
    let of_op = row.name().split('/').next().is_some_and(|op| OPS.contains(&op));
    of_op && (row.usual.share < LEAST[0] || row.case.name.contains("4096x4096") && row.large.share < LEAST[1])
}

fn reason(row: &Row) -> Option<&'static str> {
    REASONS.iter().find(|(case, _)| row.name().starts_with(case)).map(|&(_, reason)| reason)
}

/// The reasons, below the table.
pub(super) fn text(rows: &[Row]) -> String {
    let mut text = format!(
        "## Below {:.0} % of the roof at 4096 x 4096, or {:.0} % at 14336 x 4096\n\n",
        100.0 * LEAST[0],
        100.0 * LEAST[1]
    );
    for (case, reason) in REASONS.iter().filter(|(case, _)| rows.iter().any(|row| row.name().starts_with(case))) {
        text += &format!("- `{case}`: {reason}\n");
    }
    text
}
