//! Speed of `matmul`: `cargo bench --bench matmul`, or a part with `-- step/`. The masked linear layer, sampling included;
//! elements per second are floating-point operations of the dense products per second.
//!
//! Each product, the whole step, and the backward pass with the step of the logits in one pass (`learn`; on the CPU in
//! two, too: `learnapart`). On the first GPU, if there is one, by every route that a plan could take, with
//! cuBLASLt's dense product of the same shape in the same rounds; tables of their ratios, and of the memory that a step
//! takes, come at the end, and criterion has the plan's own route. `TWOFOUR_BENCH=full` takes hours there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::Place;
use common::level::Levels;
use common::matmul::{Case, Part};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use twofour::mask::Kind;
use twofour::{DType, Shape};

criterion_group! {
    name = benches;
    config = common::config();
    targets = matmul
}
criterion_main!(benches);

/// Masks, types of logits and weights.
type Masks = (Kind, DType, DType);

/// Of MaskLLM's settings, with weights of 16 bits.
const TRAINED: [Masks; 3] = [
    (Kind::Soft, DType::F32, DType::Bf16),
    (Kind::Hard, DType::F32, DType::Bf16),
    (Kind::Soft, DType::Bf16, DType::Bf16),
];
const F32: Masks = (Kind::Soft, DType::F32, DType::F32);

/// Out and in features, tokens, and masks.
#[derive(Clone, Copy)]
struct Layers {
    shapes: &'static [(usize, usize)],
    tokens: &'static [usize],
    masks: &'static [Masks],
}

const TINY: Layers = Layers { shapes: &[(8, 64)], tokens: &[4], masks: &TRAINED };

/// What the CPU can do in seconds; all of it but `f32` weights is among a GPU's.
const CPU: Levels<Layers> = Levels {
    smoke: Layers { masks: &[TRAINED[0], TRAINED[1], TRAINED[2], F32], ..TINY },
    quick: Layers { shapes: &[(4096, 4096)], tokens: &[16], masks: &[TRAINED[0], F32] },
    usual: Layers { shapes: &[(4096, 4096)], tokens: &[16, 128], masks: &[TRAINED[0], TRAINED[2], F32] },
    full: Layers { shapes: &[(4096, 4096), (14336, 4096)], tokens: &[1, 16, 128, 512], masks: &TRAINED },
};

impl Layers {
    /// A step of each; its parts are timed, too.
    fn steps(self) -> Vec<Case> {
        let mut steps = Vec::new();
        for &(rows, cols) in self.shapes {
            for &tokens in self.tokens {
                let (part, shape) = (Part::Step, Shape::new(rows, cols));
                let step = |&(kind, logits, weights)| Case { part, kind, logits, weights, tokens, shape };
                steps.extend(self.masks.iter().map(step));
            }
        }
        steps
    }
}

fn matmul(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("matmul");
    let parts = Part::ALL.into_iter().chain([Part::LearnApart]);
    for (step, part) in CPU.asked().steps().into_iter().flat_map(|step| parts.clone().map(move |part| (step, part))) {
        let case = Case { part, ..step };
        let operations = Throughput::Elements(case.operations());
        common::bench(&mut group, &case.name(), &[Place::Cpu], operations, |at| common::matmul::ready(case, at));
    }
    #[cfg(feature = "cuda")]
    on_gpu::matmul(&mut group);
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::common::cuda::matmul::{Arena, arena};
    use super::common::cuda::memory;
    use super::common::cuda::routes::{Race, bench};
    use super::common::{Cache, Group, Place, table};
    use super::{Case, Kind, Layers, Levels, Part, TINY, TRAINED};
    use criterion::Throughput;
    use twofour::matmul::Keep;

    const GPU: Levels<Layers> = Levels {
        smoke: TINY,
        quick: Layers { shapes: &[(4096, 4096), (14336, 4096)], tokens: &[16, 512, 4096], masks: &[TRAINED[0]] },
        usual: Layers { shapes: &[(4096, 4096), (14336, 4096)], tokens: &[16, 128, 512, 4096], masks: &TRAINED },
        full: Layers {
            shapes: &[(4096, 4096), (11008, 4096), (4096, 11008), (14336, 4096), (28672, 8192)],
            tokens: &[1, 16, 64, 128, 512, 4096, 16384],
            masks: &TRAINED,
        },
    };

    pub(super) fn matmul(group: &mut Group<'_>) {
        let (mut races, mut operands) = (Vec::new(), None);
        let caches = Place::caches();
        for (step, cache) in GPU.asked().steps().into_iter().flat_map(|step| caches.iter().map(move |&at| (step, at))) {
            for part in Part::ALL {
                races.extend(race(group, &mut operands, Case { part, ..step }, cache));
            }
        }
        drop(operands);
        // Only of what was not filtered out, and with what is kept in either case.
        let mut memory = Vec::new();
        for race in races.iter().filter(|race: &&Race| race.case.part == Part::Step && race.cache == Cache::Cold) {
            let hard = race.case.kind != Kind::Soft;
            for keep in [Some(Keep::Nothing), Some(Keep::Masked), hard.then_some(Keep::Codes)].into_iter().flatten() {
                memory.push(memory::taken(race.case, keep).unwrap());
            }
        }
        table::print(&races, &memory);
    }

    /// Every route through a part; criterion then times the plan's. None if it is filtered out.
    fn race(group: &mut Group<'_>, operands: &mut Option<Box<dyn Arena>>, case: Case, cache: Cache) -> Option<Race> {
        let operations = Throughput::Elements(case.operations());
        let run = |rounds| {
            if !operands.as_ref().is_some_and(|operands| operands.is_of(&case, cache)) {
                // The old ones go before the new ones come: both may not fit.
                drop(operands.take());
                *operands = Some(arena(Case { part: Part::Step, ..case }, cache)?);
            }
            operands.as_mut().ok_or("no operands")?.race(case.part, rounds)
        };
        bench(group, &case.name(), cache, operations, run, Race::chosen).map(Race::done)
    }
}
