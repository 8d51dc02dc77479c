//! Speed of `mask`: `cargo bench --bench mask`, or a part with `-- soft_forward`.
//!
//! On the CPU with rayon's pool; on the first GPU, if there is one, in a captured graph between two events, with the
//! operands in the level-2 cache as far as they fit ("hot") and never ("cold"), beside the speed of a plain copy.
//! Throughput is in weights and in bytes, the least that must move. `TWOFOUR_BENCH=smoke` only tries everything.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::Place;
use common::mask::{Case, Does};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use twofour::mask::Kind;
use twofour::{DType, Shape};

criterion_group! {
    name = benches;
    config = common::config();
    targets = on_cpu, on_cuda
}
criterion_main!(benches);

/// What training with MaskLLM's settings does, in the types people use; then the other kinds.
const OPS: [(Does, Kind, DType, DType); 10] = [
    (Does::Forward, Kind::Soft, DType::F32, DType::F32),
    (Does::Forward, Kind::Soft, DType::F32, DType::Bf16),
    (Does::Forward, Kind::Soft, DType::Bf16, DType::Bf16),
    (Does::Forward, Kind::Hard, DType::F32, DType::Bf16),
    (Does::Forward, Kind::Argmax, DType::F32, DType::Bf16),
    (Does::Backward, Kind::Soft, DType::F32, DType::F32),
    (Does::Backward, Kind::Soft, DType::F32, DType::Bf16),
    (Does::Backward, Kind::Soft, DType::Bf16, DType::Bf16),
    (Does::Backward, Kind::Hard, DType::F32, DType::Bf16),
    (Does::Forward, Kind::Soft, DType::F32, DType::F16),
];

fn cases(shapes: &[(usize, usize)]) -> Vec<Case> {
    let shapes = if common::smoke() { &[(8, 64)] } else { shapes };
    let case = |&(rows, cols): &(usize, usize), (does, kind, logits, weights)| Case {
        does,
        kind,
        logits,
        weights,
        shape: Shape::new(rows, cols),
        metrics: false,
    };
    shapes.iter().flat_map(|shape| OPS.map(|op| case(shape, op))).collect()
}

fn throughput(case: &Case) -> Throughput {
    Throughput::ElementsAndBytes { elements: case.shape.weights() as u64, bytes: case.bytes() }
}

fn on_cpu(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mask/cpu");
    for case in cases(&[(256, 512), (2048, 4096)]) {
        common::bench(&mut group, &case.name(), throughput(&case), || common::mask::ready(case, Place::Cpu));
    }
}

#[cfg(feature = "cuda")]
fn on_cuda(criterion: &mut Criterion) {
    if let Err(error) = twofour::device::available() {
        println!("mask/cuda skipped: no CUDA device ({error})");
        return;
    }
    use common::Cache::{Cold, Hot};
    let mut group = criterion.benchmark_group("mask/cuda");
    let copy_bytes = if common::smoke() { 1 << 16 } else { 256 << 20 };
    common::bench(&mut group, "copy", Throughput::Bytes(2 * copy_bytes), || common::cuda::copy(copy_bytes as usize));
    for case in cases(&[(2048, 4096), (4096, 14336)]) {
        for cache in [Hot, Cold] {
            let name = format!("{}/{cache:?}", case.name()).to_lowercase();
            common::bench(&mut group, &name, throughput(&case), || common::mask::ready(case, Place::Gpu(cache)));
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn on_cuda(_: &mut Criterion) {}
