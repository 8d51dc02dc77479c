//! Curves and bars as SVG.

use crate::Failure;
use crate::results::{Results, Row, summary};
use crate::store::Point;
use crate::text::Domain;
use plotters::prelude::*;
use std::path::Path;

const SIZE: (u32, u32) = (960, 540);

/// The curves of a seed: losses, and how masks move.
pub(crate) fn curves(folder: &Path, results: &Results) -> Result<(), Failure> {
    let rows: Vec<_> = results.rows.iter().filter(|row| row.moved.is_some()).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let path = folder.join("loss.svg");
    let marks = results.rows.iter().filter(|row| row.moved.is_none()).map(|row| (row.method.as_str(), row.loss));
    lines(
        &path,
        "validation loss by argmax masks, nats a byte",
        &rows,
        |point| point.validation,
        &marks.collect::<Vec<_>>(),
    )?;
    let path = folder.join("moved.svg");
    lines(&path, "patterns that are not the first ones, %", &rows, |point| 100.0 * point.moved, &[])?;
    let path = folder.join("changed.svg");
    lines(&path, "patterns that changed since the last point, %", &rows, |point| 100.0 * point.changed, &[])?;
    match results.row(Domain::Code, crate::results::DENSE).filter(|row| !row.curve.is_empty()) {
        Some(dense) => {
            lines(&folder.join("dense.svg"), "validation loss, nats a byte", &[dense], |point| point.validation, &[])
        }
        None => Ok(()),
    }
}

/// A line a row, and level ones for what is no curve.
fn lines(
    path: &Path,
    caption: &str,
    rows: &[&Row],
    value: fn(&Point) -> f64,
    levels: &[(&str, f64)],
) -> Result<(), Failure> {
    let steps = rows.iter().flat_map(|row| &row.curve).map(|point| point.step).max().unwrap_or(1);
    let values = || rows.iter().flat_map(|row| &row.curve).map(value).chain(levels.iter().map(|level| level.1));
    let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let margin = 0.05 * (most - least).max(1e-3);
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(caption, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(0..steps, least - margin..most + margin)?;
    chart.configure_mesh().x_desc("steps").draw()?;
    for (i, row) in rows.iter().enumerate() {
        let colour = Palette99::pick(i).stroke_width(2);
        let points = row.curve.iter().map(|point| (point.step, value(point)));
        let line = chart.draw_series(LineSeries::new(points, colour))?;
        line.label(name_of(row.domain, &row.method))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour));
    }
    for (i, &(name, level)) in levels.iter().enumerate() {
        let colour = Palette99::pick(rows.len() + i).mix(0.6).stroke_width(1);
        let line = chart.draw_series(LineSeries::new([(0, level), (steps, level)], colour))?;
        line.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).draw()?;
    Ok(root.present()?)
}

/// Perplexities, the mean over seeds with the least and the most.
pub(crate) fn bars(path: &Path, all: &[Results]) -> Result<(), Failure> {
    let lines = summary(all);
    let values = lines.iter().map(|line| line.perplexity);
    let (least, most) =
        values.fold((f64::INFINITY, 0.0_f64), |(least, most), p| (least.min(p.least), most.max(p.most)));
    // Bars from nothing would all look the same; the axis says where they begin.
    let bottom = least - 0.1 * (most - least).max(1e-3);
    let top = most + 0.05 * (most - least).max(1e-3);
    let root = SVGBackend::new(path, (SIZE.0, 60 + 36 * lines.len() as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    let count = lines.len() as f64;
    let mut chart = ChartBuilder::on(&root)
        .caption(format!("validation perplexity a byte, seeds: {}", all.len()), ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(24)
        .y_label_area_size(12)
        .build_cartesian_2d(bottom..top, count..0.0)?;
    chart.configure_mesh().disable_y_mesh().y_labels(0).draw()?;
    for (i, line) in lines.iter().enumerate() {
        let (p, at) = (line.perplexity, i as f64);
        let bar = Rectangle::new([(bottom, at + 0.1), (p.mean, at + 0.9)], Palette99::pick(i).mix(0.5).filled());
        let spread = PathElement::new([(p.least, at + 0.5), (p.most, at + 0.5)], BLACK.stroke_width(2));
        let text = format!("{}: {:.4}", name_of(line.domain, &line.method), p.mean);
        let text = Text::new(text, (bottom + 0.01 * (top - bottom), at + 0.3), ("sans-serif", 16));
        chart.draw_series([bar])?;
        chart.draw_series([spread])?;
        chart.draw_series([text])?;
    }
    Ok(root.present()?)
}

fn name_of(domain: Domain, method: &str) -> String {
    match domain {
        Domain::Code => method.to_owned(),
        Domain::Prose => format!("{method}, on {domain}"),
    }
}
