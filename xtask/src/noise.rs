//! Generates the table behind the Gumbel noise (`src/noise.rs` explains its use).
//!
//! A uniform is `u = (k + ½)·2⁻²¹`; with `t = min(u, 1−u)` the Gumbel variate `g = −ln(−ln u)` is read off a straight
//! line per segment of `t`. A segment is an exponent of `t` and its top six mantissa bits, so there are 21 · 64 of
//! them, each with one line for `u < ½` and one for `u > ½`. The slope is the chord between a segment's outermost
//! values of `t`, the offset halves the largest deviation. Logarithms are taken to 192 bits and rounded once, so the
//! table is the same on every machine.

use anyhow::{Context, Result, bail};
use astro_float::{BigFloat, Consts, RoundingMode};
use std::fmt::Write as _;
use std::path::Path;

const BITS: usize = 192;
const ROUND: RoundingMode = RoundingMode::ToEven;
/// Values of `k` in either half of the unit interval.
const HALF: u32 = 1 << 20;
/// `t.to_bits() >> 17` of the smallest `t`, 2⁻²².
const FIRST_SEGMENT: u32 = 105 << 6;
const SEGMENTS: u32 = 21 * 64;
/// A segment with more values than this is fitted on an even choice of so many.
const SAMPLES: u32 = 64;

/// One line of the table: `g = slope · t + offset`.
#[derive(Clone, Copy, Default)]
struct Line {
    slope: f32,
    offset: f32,
}

/// Writes both generated files, or compares them with what is checked in.
pub(crate) fn run(root: &Path, check: bool) -> Result<()> {
    let lines = table()?;
    for (path, text) in [("src/noise/table.rs", rust(&lines)?), ("cuda/common/gumbel_table.cuh", cuda(&lines)?)] {
        let path = root.join(path);
        if check {
            let found = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            if found != text {
                bail!("{} is not what `cargo xtask noise` generates: run it and commit", path.display());
            }
            println!("{} is up to date", path.display());
        } else {
            std::fs::create_dir_all(path.parent().unwrap_or(root))?;
            std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            println!("wrote {}", path.display());
        }
    }
    Ok(())
}

/// All lines, interleaved: segment `s` above one half at `2s`, below one half at `2s + 1`.
fn table() -> Result<Vec<Line>> {
    let mut consts = Consts::new().map_err(|e| anyhow::anyhow!("constants: {e:?}"))?;
    let mut lines = Vec::new();
    for segment in 0..SEGMENTS {
        for below in [false, true] {
            lines.push(fit(&members(segment), below, &mut consts)?);
        }
    }
    Ok(lines)
}

/// `t` of the `n`-th value counted from the end of the unit interval: exact, for it has 21 significant bits.
fn t_of(n: u32) -> f32 {
    (n as f32 + 0.5) * 2f32.powi(-21)
}

/// The values `n` whose `t` lies in a segment, thinned to an even choice that keeps the ends.
fn members(segment: u32) -> Vec<u32> {
    let inside = |n: u32| (t_of(n).to_bits() >> 17) - FIRST_SEGMENT;
    let all = 0..HALF;
    let first = partition(&all, |n| inside(n) < segment);
    let end = partition(&all, |n| inside(n) <= segment);
    let count = end - first;
    if count <= SAMPLES {
        return (first..end).collect();
    }
    (0..SAMPLES).map(|i| first + (u64::from(i) * u64::from(count - 1) / u64::from(SAMPLES - 1)) as u32).collect()
}

/// The first value in the range for which `before` no longer holds.
fn partition(range: &std::ops::Range<u32>, before: impl Fn(u32) -> bool) -> u32 {
    let (mut low, mut high) = (range.start, range.end);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

/// The line through a segment, zero where no value falls into it.
fn fit(members: &[u32], below: bool, consts: &mut Consts) -> Result<Line> {
    let points =
        members.iter().map(|&n| (BigFloat::from_f32(t_of(n), BITS), gumbel(n, below, consts))).collect::<Vec<_>>();
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Ok(Line::default()) };
    let slope = if points.len() == 1 {
        0.0
    } else {
        to_f32(&last.1.sub(&first.1, BITS, ROUND).div(&last.0.sub(&first.0, BITS, ROUND), BITS, ROUND))?
    };
    let exact_slope = BigFloat::from_f32(slope, BITS);
    let rests = points.iter().map(|(t, g)| g.sub(&exact_slope.mul(t, BITS, ROUND), BITS, ROUND)).collect::<Vec<_>>();
    let mut low = rests[0].clone();
    let mut high = rests[0].clone();
    for rest in &rests {
        low = low.min(rest);
        high = high.max(rest);
    }
    let two = BigFloat::from_f32(2.0, BITS);
    Ok(Line { slope, offset: to_f32(&low.add(&high, BITS, ROUND).div(&two, BITS, ROUND))? })
}

/// `−ln(−ln u)` for the `n`-th value from the lower or the upper end.
fn gumbel(n: u32, below: bool, consts: &mut Consts) -> BigFloat {
    let t = BigFloat::from_f32(t_of(n), BITS);
    let u = if below { t } else { BigFloat::from_f32(1.0, BITS).sub(&t, BITS, ROUND) };
    u.ln(BITS, ROUND, consts).neg().ln(BITS, ROUND, consts).neg()
}

/// Rounds to the nearest `f32`, through a decimal text that is exact to far more digits than `f32` holds.
fn to_f32(value: &BigFloat) -> Result<f32> {
    if value.is_zero() {
        return Ok(0.0);
    }
    let text = value.to_string();
    text.parse().with_context(|| format!("read back {text}"))
}

const HEADER: &str = "// Generated by `cargo xtask noise`; do not edit. Lines g = slope * t + offset as bits of f32: \
                      {slope, offset}.\n// Segment s of t above one half at 2s, below one half at 2s + 1.\n";

fn rust(lines: &[Line]) -> Result<String> {
    let mut text = format!("{HEADER}\n#[rustfmt::skip]\npub(super) static LINES: [[u32; 2]; {}] = [\n", lines.len());
    rows(&mut text, lines, '[', ']')?;
    text.push_str("];\n");
    Ok(text)
}

fn cuda(lines: &[Line]) -> Result<String> {
    let mut text = format!("{HEADER}// clang-format off\nTWOFOUR_TABLE u32x2 kGumbelLines[{}] = {{\n", lines.len());
    rows(&mut text, lines, '{', '}')?;
    text.push_str("};\n// clang-format on\n");
    Ok(text)
}

fn rows(text: &mut String, lines: &[Line], open: char, close: char) -> Result<()> {
    for row in lines.chunks(4) {
        text.push_str("   ");
        for line in row {
            write!(text, " {open}{:#010x}, {:#010x}{close},", line.slope.to_bits(), line.offset.to_bits())?;
        }
        text.push('\n');
    }
    Ok(())
}
