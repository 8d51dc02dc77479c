//! Speed of `sparse`: `cargo bench --bench sparse`, or a part with `-- sparse/bf16`. The product of a compressed weight;
//! elements per second are floating-point operations of the dense product per second.
//!
//! On the CPU the dense product of the same shape is timed beside it (`dense/`). On the first GPU, if there is one, every
//! route that a plan could take, cuSPARSELt's searched and with either packer, and in the same rounds cuBLASLt's dense
//! product and, for few tokens, a copy that moves as many bytes as the packed weight, its codes, `X` and `Y` have: what
//! memory gives at best. A table of their ratios comes at the end, and criterion has the plan's own route. Packing is
//! not timed (`benches/compress.rs`). `TWOFOUR_BENCH=full` takes hours there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::Place;
use common::level::Levels;
use common::sparse::{Case, dense, ready};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use twofour::{DType, Shape};

criterion_group! {
    name = benches;
    config = common::config();
    targets = sparse
}
criterion_main!(benches);

/// Out and in features, tokens and types: a product of each.
#[derive(Clone, Copy)]
struct Products {
    shapes: &'static [(usize, usize)],
    tokens: &'static [usize],
    values: &'static [DType],
}

const ALL: [DType; 4] = [DType::Bf16, DType::F32, DType::I8, DType::F16];
const BF16: Products = Products { shapes: &[(4096, 4096), (14336, 4096)], tokens: &[1, 16, 4096], values: &[ALL[0]] };
const TINY: Products = Products { shapes: &[(64, 64)], tokens: &[1, 16, 160], values: &ALL };

/// What the CPU can do in seconds.
const CPU: Levels<Products> = Levels {
    smoke: TINY,
    quick: Products { shapes: &[(4096, 4096)], tokens: &[1, 16], ..BF16 },
    usual: Products { shapes: &[(4096, 4096)], tokens: &[1, 16, 128], values: &[DType::Bf16, DType::F32, DType::I8] },
    full: Products { tokens: &[1, 16, 128, 512], values: &ALL, ..BF16 },
};

impl Products {
    fn cases(self) -> Vec<Case> {
        let mut cases = Vec::new();
        for &(rows, cols) in self.shapes {
            for &tokens in self.tokens {
                cases.extend(self.values.iter().map(|&values| Case { values, tokens, shape: Shape::new(rows, cols) }));
            }
        }
        cases
    }
}

fn sparse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sparse");
    for case in CPU.asked().cases() {
        let (name, operations) = (case.name(), Throughput::Elements(case.operations()));
        common::bench(&mut group, &name, &[Place::Cpu], operations.clone(), |at| ready(case, at));
        if case.values != DType::I8 {
            common::bench(&mut group, &format!("dense/{name}"), &[Place::Cpu], operations, |at| dense(case, at));
        }
    }
    #[cfg(feature = "cuda")]
    on_gpu::sparse(&mut group);
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::common::cuda::routes::bench;
    use super::common::cuda::sparse::{Race, print};
    use super::common::{Group, Place};
    use super::{BF16, DType, Levels, Products, TINY};
    use criterion::Throughput;

    const GPU: Levels<Products> = Levels {
        smoke: TINY,
        quick: BF16,
        usual: Products {
            shapes: &[(4096, 4096), (14336, 4096), (28672, 8192)],
            tokens: &[1, 16, 128, 4096],
            values: &[DType::Bf16],
        },
        full: Products {
            shapes: &[(4096, 4096), (11008, 4096), (4096, 11008), (14336, 4096), (28672, 8192)],
            tokens: &[1, 16, 64, 128, 256, 512, 1024, 2048, 4096, 16384],
            values: &[DType::Bf16, DType::F16, DType::I8],
        },
    };

    /// Every route to each product; criterion then times the plan's.
    pub(super) fn sparse(group: &mut Group<'_>) {
        let (mut races, caches) = (Vec::new(), Place::caches());
        for (case, cache) in GPU.asked().cases().into_iter().flat_map(|case| caches.iter().map(move |&at| (case, at))) {
            let operations = Throughput::Elements(case.operations());
            let run = |rounds| Race::run(case, cache, rounds);
            races.extend(bench(group, &case.name(), cache, operations, run, Race::chosen).map(Race::done));
        }
        print(&races);
    }
}
