//! Criterion's results: `<group>/<bench>/new/{benchmark,estimates}.json`.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

/// One bench.
#[derive(Serialize)]
pub(super) struct Bench {
    /// As `mask/soft_forward/f32_bf16/2048x4096/cold`.
    pub(super) name: String,
    /// The median of a run's time, and its 95 % interval of confidence.
    pub(super) nanoseconds: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    /// In a run: weights, or operations.
    pub(super) elements: Option<u64>,
    pub(super) bytes: Option<u64>,
    /// Bytes per second, divided by those of the copy that the same run measured.
    pub(super) of_copy: Option<f64>,
}

#[derive(Deserialize)]
struct Benchmark {
    full_id: String,
    throughput: Option<Throughput>,
}

#[derive(Deserialize)]
enum Throughput {
    Bytes(u64),
    BytesDecimal(u64),
    Elements(u64),
    ElementsAndBytes { elements: u64, bytes: u64 },
    Bits(u64),
}

#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
    confidence_interval: Interval,
}

#[derive(Deserialize)]
struct Interval {
    lower_bound: f64,
    upper_bound: f64,
}

impl Bench {
    /// Per second, in thousands of millions.
    pub(super) fn giga(&self, amount: Option<u64>) -> Option<f64> {
        amount.map(|amount| amount as f64 / self.nanoseconds)
    }
}

/// All benches below criterion's folder, by name.
pub(super) fn read(criterion: &Path) -> Result<Vec<Bench>> {
    let mut benches = Vec::new();
    for file in crate::bundle::files(criterion)? {
        if file.ends_with("new/benchmark.json") {
            // A run that was cut off may have left half a file.
            benches.extend(bench(&file).inspect_err(|error| eprintln!("{error:#}")).ok());
        }
    }
    benches.sort_by(|a, b| a.name.cmp(&b.name));
    compare_with_copy(&mut benches);
    Ok(benches)
}

fn bench(file: &Path) -> Result<Bench> {
    let benchmark: Benchmark = json(file)?;
    let Estimate { point_estimate, confidence_interval } =
        json::<Estimates>(&file.with_file_name("estimates.json"))?.median;
    let (elements, bytes) = match benchmark.throughput {
        Some(Throughput::Bytes(bytes) | Throughput::BytesDecimal(bytes)) => (None, Some(bytes)),
        Some(Throughput::Elements(elements)) => (Some(elements), None),
        Some(Throughput::ElementsAndBytes { elements, bytes }) => (Some(elements), Some(bytes)),
        Some(Throughput::Bits(bits)) => (None, Some(bits / 8)),
        None => (None, None),
    };
    Ok(Bench {
        name: benchmark.full_id,
        nanoseconds: point_estimate,
        low: confidence_interval.lower_bound,
        high: confidence_interval.upper_bound,
        elements,
        bytes,
        of_copy: None,
    })
}

fn json<T: for<'a> Deserialize<'a>>(file: &Path) -> Result<T> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("read {}", file.display()))
}

/// The yardstick of what is bound by memory is the largest copy in the same memory, of whichever op has one.
fn compare_with_copy(benches: &mut [Bench]) {
    for on_gpu in [false, true] {
        let here = |bench: &Bench| bench.name.ends_with("/cpu") != on_gpu;
        let copies = benches.iter().filter(|bench| here(bench) && bench.name.contains("/copy/"));
        // Hot ones, which are small, say nothing of memory.
        let copies = copies.filter(|bench| !bench.name.ends_with("/hot"));
        let copy = copies.max_by_key(|bench| bench.bytes).and_then(|copy| copy.giga(copy.bytes));
        let Some(copy) = copy else { continue };
        for bench in benches.iter_mut().filter(|bench| here(bench)) {
            bench.of_copy = bench.giga(bench.bytes).map(|speed| speed / copy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_the_yardstick_of_its_own_memory() {
        let bench = |name: &str, bytes, nanoseconds| Bench {
            name: name.into(),
            nanoseconds,
            low: nanoseconds,
            high: nanoseconds,
            elements: None,
            bytes: Some(bytes),
            of_copy: None,
        };
        let mut benches = [
            bench("mask/copy/512MiB/cold", 800, 1.0),
            bench("compress/copy/50MiB/cold", 80, 0.2),
            bench("compress/copy/50MiB/hot", 1600, 1.0),
            bench("mask/copy/512MiB/cpu", 800, 100.0),
            bench("mask/soft_forward/f32_f32/8x64/hot", 400, 1.0),
            bench("mask/soft_forward/f32_f32/8x64/cpu", 400, 100.0),
        ];
        compare_with_copy(&mut benches);
        assert_eq!(benches.map(|bench| bench.of_copy), [1.0, 0.5, 2.0, 1.0, 0.5, 0.5].map(Some));
    }
}
