//! Speed of `learn`: `cargo bench --bench learn`, or a part with `-- fused`.
//!
//! A step that makes its gradient (`fused`) beside the mask's backward pass followed by a step (`unfused`), and a step
//! from memory (`update`), by types of logits, moments and weights. Throughput is in weights and in bytes, the least
//! that must move; beside it, in the same run, that of a plain copy.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::Place;
use common::learn::{Case, Does};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use twofour::{DType, Shape};

criterion_group! {
    name = benches;
    config = common::config();
    targets = learn
}
criterion_main!(benches);

/// Logits, whether moments have eight bits, weights: what MaskLLM keeps, the same beside a `bf16` weight, and the
/// least.
const TYPES: [(DType, bool, DType); 4] = [
    (DType::F32, false, DType::F32),
    (DType::F32, false, DType::Bf16),
    (DType::F32, true, DType::Bf16),
    (DType::Bf16, true, DType::Bf16),
];

fn throughput(case: &Case) -> Throughput {
    Throughput::ElementsAndBytes { elements: case.shape.weights() as u64, bytes: case.bytes() }
}

/// What a run keeps for a weight, beside the weight itself.
fn print_memory(shape: Shape) {
    println!("| logits | moments | bytes a weight | MB of {} |", shape.weights());
    println!("| --- | --- | ---: | ---: |");
    for (logits, eight, weights) in TYPES.into_iter().filter(|&(.., weights)| weights != DType::F32) {
        let kept = Case { does: Does::Fused, eight, logits, weights, shape }.kept() as f64;
        let moments = if eight { "8 bits" } else { "f32" };
        println!("| {logits} | {moments} | {:.2} | {:.1} |", kept / shape.weights() as f64, kept / 1e6);
    }
}

fn learn(criterion: &mut Criterion) {
    let (mut group, places) = (criterion.benchmark_group("learn"), Place::all());
    common::copy(&mut group, &places);
    for (shape, places) in common::weights(Shape::new(8, 64), &places) {
        print_memory(shape);
        for (logits, eight, weights) in TYPES {
            for does in [Does::Update, Does::Fused, Does::Unfused] {
                let case = Case { does, eight, logits, weights, shape };
                common::bench(&mut group, &case.name(), &places, throughput(&case), |at| {
                    common::learn::ready(case, at)
                });
            }
        }
    }
}
