//! Speed of `matmul`: `cargo bench --bench matmul`. The masked linear layer forward and backward, sampling included;
//! elements per second are floating-point operations of the dense products per second.
//!
//! Where and how it is timed, and `TWOFOUR_BENCH=smoke`, are as in `benches/mask.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::matmul::{Case, Op};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use twofour::{DType, Shape};

criterion_group! {
    name = benches;
    config = common::config();
    targets = on_cpu, on_cuda
}
criterion_main!(benches);

const TYPES: [(DType, DType); 3] = [(DType::F32, DType::F32), (DType::F32, DType::Bf16), (DType::Bf16, DType::Bf16)];

/// `problems` are tokens, out and in features.
fn cases(problems: &[(usize, usize, usize)]) -> Vec<Case> {
    let problems = if common::smoke() { &[(4, 8, 64)] } else { problems };
    let mut cases = Vec::new();
    for &(tokens, rows, cols) in problems {
        for (logits, weights) in TYPES {
            let shape = Shape::new(rows, cols);
            cases.extend([Op::Forward, Op::Backward].map(|op| Case { op, logits, weights, tokens, shape }));
        }
    }
    cases
}

fn on_cpu(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("matmul/cpu");
    for case in cases(&[(16, 1024, 1024), (512, 2048, 2048)]) {
        let operations = Throughput::Elements(case.operations());
        common::bench(&mut group, &case.name(), operations, || common::matmul::on_cpu(case));
    }
}

#[cfg(feature = "cuda")]
fn on_cuda(criterion: &mut Criterion) {
    use common::Cache::{Cold, Hot};
    if let Err(error) = twofour::device::available() {
        println!("matmul/cuda skipped: no CUDA device ({error})");
        return;
    }
    let mut group = criterion.benchmark_group("matmul/cuda");
    for case in cases(&[(16, 4096, 4096), (4096, 4096, 4096)]) {
        for cache in [Hot, Cold] {
            let name = format!("{}/{cache:?}", case.name()).to_lowercase();
            let operations = Throughput::Elements(case.operations());
            common::bench(&mut group, &name, operations, || common::cuda::matmul::on_cuda(case, cache));
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn on_cuda(_: &mut Criterion) {}
