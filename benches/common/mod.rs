//! What the benches share: normal-distributed operands, and each op in a form that can be timed on every executor.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    dead_code,
    unreachable_pub,
    reason = "every bench is a program of its own and uses a part"
)]

pub mod compress;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod data;
pub mod learn;
pub mod mask;
pub mod matmul;
pub mod sparse;
#[cfg(feature = "cuda")]
pub mod table;

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use std::time::{Duration, Instant};

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// An op with its operands, ready to run.
pub trait Timed {
    /// How long so many runs take.
    fn time(&mut self, iterations: u64) -> Result<Duration>;
}

/// Anything on the CPU that can be run again and again.
pub struct Run<F>(pub F);

impl<F: FnMut() -> twofour::Result<()>> Timed for Run<F> {
    fn time(&mut self, iterations: u64) -> Result<Duration> {
        let begun = Instant::now();
        for _ in 0..iterations {
            (self.0)()?;
        }
        Ok(begun.elapsed())
    }
}

/// Whether a GPU's operands lie in its level-2 cache from run to run as far as they fit, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    Hot,
    Cold,
}

/// Whether to go through the motions only: `TWOFOUR_BENCH=smoke` makes shapes tiny and times short, to see that every
/// bench runs.
pub fn smoke() -> bool {
    std::env::var_os("TWOFOUR_BENCH").is_some_and(|value| value == "smoke")
}

/// How much criterion measures.
pub fn config() -> Criterion {
    let criterion = Criterion::default();
    if smoke() {
        let (warm_up, measurement) = (Duration::from_millis(1), Duration::from_millis(10));
        return criterion.sample_size(10).warm_up_time(warm_up).measurement_time(measurement);
    }
    criterion.sample_size(30).warm_up_time(Duration::from_secs(1))
}

/// One bench of a group. Operands are made only if it is not filtered out.
pub fn bench(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    throughput: Throughput,
    ready: impl Fn() -> Result<Box<dyn Timed>>,
) {
    group.throughput(throughput);
    let mut timed = None;
    group.bench_function(name, |bencher| {
        // A bench that cannot be set up or run is a fault of this program.
        let timed = timed.get_or_insert_with(|| ready().unwrap());
        bencher.iter_custom(|iterations| timed.time(iterations).unwrap());
    });
}
