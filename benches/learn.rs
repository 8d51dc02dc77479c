//! Speed of `learn`: `cargo bench --bench learn`, or a part with `-- fused`.
//!
//! A step that makes its gradient (`fused`) beside the mask's backward pass followed by a step (`unfused`), and a step
//! from memory (`update`), by types of logits, moments and weights. On the CPU with rayon's pool; on the first GPU, if
//! there is one, in a captured graph between two events, with the operands in the level-2 cache as far as they fit
//! ("hot") and never ("cold"), beside the speed of a plain copy. Throughput is in weights and in bytes, the least that
//! must move. `TWOFOUR_BENCH=smoke` only tries everything.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::Place;
use common::learn::{Case, Does};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use twofour::{DType, Shape};

criterion_group! {
    name = benches;
    config = common::config();
    targets = on_cpu, on_cuda
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

fn cases(shapes: &[(usize, usize)]) -> Vec<Case> {
    let shapes = if common::smoke() { &[(8, 64)] } else { shapes };
    let mut cases = Vec::new();
    for &(rows, cols) in shapes {
        for (logits, eight, weights) in TYPES {
            for does in [Does::Update, Does::Fused, Does::Unfused] {
                cases.push(Case { does, eight, logits, weights, shape: Shape::new(rows, cols) });
            }
        }
    }
    cases
}

fn throughput(case: &Case) -> Throughput {
    Throughput::ElementsAndBytes { elements: case.shape.weights() as u64, bytes: case.bytes() }
}

/// What a run keeps for a weight, beside the weight itself.
fn print_memory(cases: &[Case]) {
    println!("| logits | moments | bytes a weight | MB of {} |", cases[0].shape.weights());
    println!("| --- | --- | ---: | ---: |");
    for case in cases.iter().filter(|case| case.does == Does::Fused && case.weights != DType::F32) {
        let (kept, moments) = (case.kept() as f64, if case.eight { "8 bits" } else { "f32" });
        println!("| {} | {moments} | {:.2} | {:.1} |", case.logits, kept / case.shape.weights() as f64, kept / 1e6);
    }
}

fn on_cpu(criterion: &mut Criterion) {
    let cases = cases(&[(2048, 4096)]);
    print_memory(&cases);
    let mut group = criterion.benchmark_group("learn/cpu");
    for case in cases {
        common::bench(&mut group, &case.name(), throughput(&case), || common::learn::ready(case, Place::Cpu));
    }
}

#[cfg(feature = "cuda")]
fn on_cuda(criterion: &mut Criterion) {
    if let Err(error) = twofour::device::available() {
        println!("learn/cuda skipped: no CUDA device ({error})");
        return;
    }
    use common::Cache::{Cold, Hot};
    let mut group = criterion.benchmark_group("learn/cuda");
    let copy_bytes = if common::smoke() { 1 << 16 } else { 256 << 20 };
    common::bench(&mut group, "copy", Throughput::Bytes(2 * copy_bytes), || common::cuda::copy(copy_bytes as usize));
    for case in cases(&[(2048, 4096), (4096, 14336)]) {
        for cache in [Hot, Cold] {
            let name = format!("{}/{cache:?}", case.name()).to_lowercase();
            common::bench(&mut group, &name, throughput(&case), || common::learn::ready(case, Place::Gpu(cache)));
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn on_cuda(_: &mut Criterion) {}
