//! Speed of `sparse`: `cargo bench --bench sparse`, or a part with `-- cuda/bf16`. The product of a compressed weight;
//! elements per second are floating-point operations of the dense product per second.
//!
//! On the CPU: with rayon's pool, the dense product of the same shape beside it. On the first GPU, if there is one, every
//! route that a plan could take, cuSPARSELt's searched and with either packer, and in the same rounds cuBLASLt's dense
//! product and, for few tokens, a copy that moves as many bytes as the packed weight, its codes, `X` and `Y` have: what
//! memory gives at best. A table of their ratios comes at the end. Packing is not timed (`benches/compress.rs`). How it is
//! timed is as in `benches/mask.rs`.
//!
//! | `TWOFOUR_BENCH` | on the GPU |
//! | --- | --- |
//! | unset | three shapes, four numbers of tokens, `bf16`, cold: some minutes |
//! | `quick` | less of the same |
//! | `full` | five shapes of language models, 1 to 16,384 tokens, `bf16`, `f16` and `i8`, cold and hot: hours |
//! | `smoke` | tiny shapes, to see that everything runs; on the CPU too |

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::Place;
use common::sparse::{Case, dense, ready};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use twofour::{DType, Shape};

criterion_group! {
    name = benches;
    config = common::config();
    targets = cpu, on_cuda
}
criterion_main!(benches);

/// Tokens, out and in features.
fn cpu(criterion: &mut Criterion) {
    let problems: &[_] = if common::smoke() {
        &[(1, 8, 64), (30, 8, 64)]
    } else {
        &[(1, 4096, 4096), (16, 4096, 4096), (128, 2048, 2048)]
    };
    let mut group = criterion.benchmark_group("sparse/cpu");
    for &(tokens, rows, cols) in problems {
        for values in [DType::Bf16, DType::F32, DType::I8] {
            let case = Case { values, tokens, shape: Shape::new(rows, cols) };
            let operations = Throughput::Elements(case.operations());
            common::bench(&mut group, &format!("sparse/{}", case.name()), operations.clone(), || {
                ready(case, Place::Cpu)
            });
            if values != DType::I8 {
                common::bench(&mut group, &format!("dense/{}", case.name()), operations, || dense(case, Place::Cpu));
            }
        }
    }
}

#[cfg(feature = "cuda")]
use on_gpu::on_cuda;

#[cfg(not(feature = "cuda"))]
fn on_cuda(_: &mut Criterion) {}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::common::cuda::sparse::{Done, Race, print};
    use super::common::{self, Cache, Timed};
    use super::{Case, Criterion, DType, Shape, Throughput};
    use criterion::BenchmarkGroup;
    use criterion::measurement::WallTime;
    use std::time::Duration;

    /// Out and in features, tokens, types, and caches.
    struct Extent {
        shapes: &'static [(usize, usize)],
        tokens: &'static [usize],
        values: &'static [DType],
        caches: &'static [Cache],
        rounds: usize,
    }

    impl Extent {
        const SMOKE: Self = Self {
            shapes: &[(64, 64)],
            tokens: &[1, 16, 160],
            values: &[DType::Bf16, DType::F16, DType::I8, DType::F32],
            caches: &[Cache::Cold, Cache::Hot],
            rounds: 2,
        };
        const QUICK: Self = Self {
            shapes: &[(4096, 4096), (14336, 4096)],
            tokens: &[1, 16, 4096],
            values: &[DType::Bf16],
            caches: &[Cache::Cold],
            rounds: 15,
        };
        const USUAL: Self = Self {
            shapes: &[(4096, 4096), (14336, 4096), (28672, 8192)],
            tokens: &[1, 16, 128, 4096],
            values: &[DType::Bf16],
            caches: &[Cache::Cold],
            rounds: 30,
        };
        const FULL: Self = Self {
            shapes: &[(4096, 4096), (11008, 4096), (4096, 11008), (14336, 4096), (28672, 8192)],
            tokens: &[1, 16, 64, 128, 256, 512, 1024, 2048, 4096, 16384],
            values: &[DType::Bf16, DType::F16, DType::I8],
            caches: &[Cache::Cold, Cache::Hot],
            rounds: 30,
        };

        fn asked() -> Self {
            match std::env::var("TWOFOUR_BENCH").as_deref() {
                Ok("smoke") => Self::SMOKE,
                Ok("quick") => Self::QUICK,
                Ok("full") => Self::FULL,
                _ => Self::USUAL,
            }
        }

        fn cases(&self) -> Vec<(Case, Cache)> {
            let mut cases = Vec::new();
            for &(rows, cols) in self.shapes {
                for &tokens in self.tokens {
                    for &values in self.values {
                        let case = Case { values, tokens, shape: Shape::new(rows, cols) };
                        cases.extend(self.caches.iter().map(|&cache| (case, cache)));
                    }
                }
            }
            cases
        }
    }

    pub(super) fn on_cuda(criterion: &mut Criterion) {
        if let Err(error) = twofour::device::available() {
            println!("sparse/cuda skipped: no CUDA device ({error})");
            return;
        }
        let extent = Extent::asked();
        let mut group = criterion.benchmark_group("sparse/cuda");
        if !common::smoke() {
            // The comparisons have rounds of their own; criterion's own time is for its records.
            group.sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(500));
        }
        let races: Vec<Done> = extent
            .cases()
            .into_iter()
            .filter_map(|(case, cache)| race(&mut group, case, cache, extent.rounds))
            .collect();
        print(&races);
    }

    /// Every route to a product; criterion then times the plan's. None if it is filtered out.
    fn race(group: &mut BenchmarkGroup<'_, WallTime>, case: Case, cache: Cache, rounds: usize) -> Option<Done> {
        let name = format!("{}/{cache:?}", case.name()).to_lowercase();
        group.throughput(Throughput::Elements(case.operations()));
        let mut race = None;
        group.bench_function(name, |bencher| {
            // A bench that cannot be set up or run is a fault of this program.
            let race = race.get_or_insert_with(|| Race::run(case, cache, rounds).unwrap());
            let chosen = race.chosen().unwrap();
            bencher.iter_custom(|iterations| chosen.time(iterations).unwrap());
        });
        race.map(Race::done)
    }
}
