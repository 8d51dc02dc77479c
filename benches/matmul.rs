//! Speed of `matmul`: `cargo bench --bench matmul`, or a part with `-- cuda/step`. The masked linear layer, sampling
//! included; elements per second are floating-point operations of the dense products per second.
//!
//! On the CPU: forward, backward, and the step of the logits after the backward pass (`learn`) and in one pass with it
//! (`learnonce`), with rayon's pool. On the first GPU, if there is one, each product and the whole
//! step by every route that a plan could take, with cuBLASLt's dense product of the same shape in the same rounds;
//! tables of their ratios, and of the memory that a step takes, come at the end. How it is timed is as in
//! `benches/mask.rs`.
//!
//! | `TWOFOUR_BENCH` | on the GPU |
//! | --- | --- |
//! | unset | two shapes, four numbers of tokens, cold: some minutes |
//! | `quick` | less of the same: a minute or two |
//! | `full` | five shapes of language models, 1 to 16,384 tokens, cold and hot: hours |
//! | `smoke` | tiny shapes, to see that everything runs; on the CPU too |

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::Place;
use common::matmul::{Case, Does};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use twofour::mask::Kind;
use twofour::{DType, Shape};

criterion_group! {
    name = benches;
    config = common::config();
    targets = on_cpu, on_cuda
}
criterion_main!(benches);

const TYPES: [(DType, DType); 3] = [(DType::F32, DType::F32), (DType::F32, DType::Bf16), (DType::Bf16, DType::Bf16)];

/// Tokens, out and in features.
fn on_cpu(criterion: &mut Criterion) {
    let problems: &[_] = if common::smoke() { &[(4, 8, 64)] } else { &[(16, 1024, 1024), (512, 2048, 2048)] };
    let mut group = criterion.benchmark_group("matmul/cpu");
    for &(tokens, rows, cols) in problems {
        for (logits, weights) in TYPES {
            for does in [Does::Forward, Does::Backward, Does::Learn, Does::LearnOnce] {
                let case = Case { does, kind: Kind::Soft, logits, weights, tokens, shape: Shape::new(rows, cols) };
                let operations = Throughput::Elements(case.operations());
                common::bench(&mut group, &case.name(), operations, || common::matmul::ready(case, Place::Cpu));
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
    use super::common::cuda::matmul::{Arena, Part, arena};
    use super::common::cuda::memory;
    use super::common::cuda::routes::Race;
    use super::common::{self, Cache, table};
    use super::{Case, Criterion, DType, Does, Kind, Shape, Throughput};
    use criterion::BenchmarkGroup;
    use criterion::measurement::WallTime;
    use std::time::Duration;
    use twofour::matmul::Keep;

    /// Out and in features, tokens, masks with the type of their logits, and caches.
    struct Extent {
        shapes: &'static [(usize, usize)],
        tokens: &'static [usize],
        masks: &'static [(Kind, DType)],
        caches: &'static [Cache],
        rounds: usize,
    }

    const MASKS: [(Kind, DType); 3] = [(Kind::Soft, DType::F32), (Kind::Hard, DType::F32), (Kind::Soft, DType::Bf16)];

    impl Extent {
        const SMOKE: Self =
            Self { shapes: &[(8, 64)], tokens: &[4], masks: &MASKS, caches: &[Cache::Cold, Cache::Hot], rounds: 2 };
        const QUICK: Self = Self {
            shapes: &[(4096, 4096), (14336, 4096)],
            tokens: &[16, 512, 4096],
            masks: &[MASKS[0]],
            caches: &[Cache::Cold],
            rounds: 15,
        };
        const USUAL: Self = Self {
            shapes: &[(4096, 4096), (14336, 4096)],
            tokens: &[16, 128, 512, 4096],
            masks: &MASKS,
            caches: &[Cache::Cold],
            rounds: 30,
        };
        const FULL: Self = Self {
            shapes: &[(4096, 4096), (11008, 4096), (4096, 11008), (14336, 4096), (28672, 8192)],
            tokens: &[1, 16, 64, 128, 512, 4096, 16384],
            masks: &MASKS,
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
                    for &(kind, logits) in self.masks {
                        let (does, shape) = (Does::Step, Shape::new(rows, cols));
                        let case = Case { does, kind, logits, weights: DType::Bf16, tokens, shape };
                        cases.extend(self.caches.iter().map(|&cache| (case, cache)));
                    }
                }
            }
            cases
        }
    }

    pub(super) fn on_cuda(criterion: &mut Criterion) {
        if let Err(error) = twofour::device::available() {
            println!("matmul/cuda skipped: no CUDA device ({error})");
            return;
        }
        let extent = Extent::asked();
        let mut group = criterion.benchmark_group("matmul/cuda");
        if !common::smoke() {
            // The comparisons have rounds of their own; criterion's own time is for its records.
            group.sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(500));
        }
        let (mut races, mut operands) = (Vec::new(), None);
        for (case, cache) in extent.cases() {
            for part in Part::ALL {
                races.extend(race(&mut group, &mut operands, case, cache, part, extent.rounds));
            }
        }
        drop(operands);
        // Only of what was not filtered out, and with what is kept in either case.
        let mut memory = Vec::new();
        for race in races.iter().filter(|race: &&Race| race.part == Part::Step && race.cache == Cache::Cold) {
            let hard = race.case.kind != Kind::Soft;
            for keep in [Some(Keep::Nothing), Some(Keep::Masked), hard.then_some(Keep::Codes)].into_iter().flatten() {
                memory.push(memory::taken(race.case, keep).unwrap());
            }
        }
        table::print(&races, &memory);
    }

    /// Every route through a part; criterion then times the plan's. None if it is filtered out.
    fn race(
        group: &mut BenchmarkGroup<'_, WallTime>,
        operands: &mut Option<Box<dyn Arena>>,
        case: Case,
        cache: Cache,
        part: Part,
        rounds: usize,
    ) -> Option<Race> {
        let Case { kind, logits, weights, tokens, shape, .. } = case;
        let name = format!("{part:?}/{kind:?}_{logits}_{weights}/{tokens}x{}x{}/{cache:?}", shape.rows, shape.cols);
        group.throughput(Throughput::Elements((part.products() * case.problem().operations()) as u64));
        let mut race = None;
        group.bench_function(name.to_lowercase(), |bencher| {
            let race = race.get_or_insert_with(|| {
                if !operands.as_ref().is_some_and(|operands| operands.is_of(&case, cache)) {
                    // The old ones go before the new ones come: both may not fit.
                    drop(operands.take());
                    *operands = Some(arena(case, cache).unwrap());
                }
                // A bench that cannot be set up or run is a fault of this program.
                operands.as_mut().unwrap().race(part, rounds).unwrap()
            });
            let chosen = race.chosen().unwrap();
            bencher.iter_custom(|iterations| common::Timed::time(chosen, iterations).unwrap());
        });
        race.map(Race::done)
    }
}
