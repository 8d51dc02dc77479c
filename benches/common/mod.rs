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
pub mod select;
pub mod sparse;
#[cfg(feature = "cuda")]
pub mod table;

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use std::time::{Duration, Instant};
use twofour::{Cpu, Executor};

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// An op as it is timed, written once for every executor.
pub trait Op: 'static {
    /// Its operands on one.
    type On<E: Executor + 'static>: Run<E> + 'static;
    /// The least number of bytes a run moves, each operand once.
    fn bytes(&self) -> u64;
    /// Makes them; other numbers for another `set`.
    fn ready<E: Executor + 'static>(&self, on: &mut E, set: usize) -> Result<Self::On<E>>;
}

/// Operands that an op can be run on again and again.
pub trait Run<E: Executor> {
    /// Runs it once. No two runs have the same `number`.
    fn run(&mut self, on: &mut E, number: u64) -> twofour::Result<()>;
}

/// Where an op is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the threads of rayon's current pool.
    Cpu,
    /// On the first GPU, in a captured graph.
    Gpu(Cache),
}

impl Place {
    /// An op there, ready to run.
    pub fn ready(self, op: &impl Op) -> Result<Box<dyn Timed>> {
        match self {
            Self::Cpu => Ok(Box::new(OnCpu { ready: op.ready(&mut Cpu, 0)?, number: 0 })),
            #[cfg(feature = "cuda")]
            Self::Gpu(cache) => cuda::captured(op, cache),
            #[cfg(not(feature = "cuda"))]
            Self::Gpu(_) => Err("built without the feature `cuda`".into()),
        }
    }
}

/// An op with its operands, ready to run.
pub trait Timed {
    /// How long so many runs take.
    fn time(&mut self, iterations: u64) -> Result<Duration>;
}

struct OnCpu<R> {
    ready: R,
    number: u64,
}

impl<R: Run<Cpu>> Timed for OnCpu<R> {
    fn time(&mut self, iterations: u64) -> Result<Duration> {
        let begun = Instant::now();
        for _ in 0..iterations {
            self.number += 1;
            self.ready.run(&mut Cpu, self.number)?;
        }
        Ok(begun.elapsed())
    }
}

/// Anything on the CPU that can be run again and again.
pub struct Again<F>(pub F);

impl<F: FnMut() -> twofour::Result<()>> Timed for Again<F> {
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
