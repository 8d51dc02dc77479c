//! Speed of `mask`: `cargo bench --bench mask`, or a part with `-- soft_forward`.
//!
//! Throughput is in weights and in bytes, the least that must move; beside it, in the same run, that of a plain copy.

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
    targets = mask
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

fn throughput(case: &Case) -> Throughput {
    Throughput::ElementsAndBytes { elements: case.shape.weights() as u64, bytes: case.bytes() }
}

fn mask(criterion: &mut Criterion) {
    let (mut group, places) = (criterion.benchmark_group("mask"), Place::all());
    common::copy(&mut group, &places);
    for (shape, places) in common::weights(Shape::new(8, 64), &places) {
        for (does, kind, logits, weights) in OPS {
            let case = Case { does, kind, logits, weights, shape, metrics: false };
            common::bench(&mut group, &case.name(), &places, throughput(&case), |at| common::mask::ready(case, at));
        }
    }
}
