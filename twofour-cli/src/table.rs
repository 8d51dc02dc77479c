//! What commands print: tables, and how far they are.

use crate::names::plain;
use indicatif::{ProgressBar, ProgressStyle};

/// Prints rows under a head; the first column to the left, numbers to the right.
pub(crate) fn print<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) {
    let line = |cell: String| plain(&cell).into_owned();
    let rows: Vec<_> = std::iter::once(head.map(str::to_owned)).chain(rows.map(|row| row.map(line))).collect();
    let widths: [usize; N] = std::array::from_fn(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0));
    for row in &rows {
        let cells = row.iter().zip(widths).enumerate().map(|(i, (cell, width))| match i {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

/// A share of all; of nothing there is none.
pub(crate) fn percent(share: Option<f64>) -> String {
    match share {
        Some(share) if !share.is_nan() => format!("{:.2} %", 100.0 * share),
        _ => "-".into(),
    }
}

/// Sizes, with crosses between them.
pub(crate) fn sizes(sizes: &[usize]) -> String {
    sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ")
}

/// How far a command is, of so many bytes. On a terminal; else nothing is drawn.
pub(crate) fn progress_bar(bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {msg}");
    ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// The same, of so many blocks.
pub(crate) fn progress_of_blocks(blocks: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} blocks, {eta} left {msg}");
    ProgressBar::new(blocks as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// What it is at.
pub(crate) fn at(progress: &ProgressBar, what: &str) {
    progress.set_message(plain(what).into_owned());
}
