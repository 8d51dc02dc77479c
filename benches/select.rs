//! Speed of `select`: `cargo bench --bench select`, or a part with `-- sweep`.
//!
//! Throughput of a choice and of sums of squares is in bytes, the least that must move, beside a plain copy; that of
//! the Hessian, its factor and the sweep is in multiply-adds (for a sweep those of the weights that are dropped, half
//! of them). On the CPU with rayon's pool; on the first GPU, if there is one, in a captured graph between two events,
//! hot and cold. `TWOFOUR_BENCH=smoke` only tries everything.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::{Result, Timed, data};
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use std::time::{Duration, Instant};
use twofour::select::cpu;
use twofour::{Float, Shape, bf16};

criterion_group! {
    name = benches;
    config = common::config();
    targets = on_cpu, on_cuda
}
criterion_main!(benches);

/// Weights that are chosen for, and activations that are summed.
fn large() -> Shape {
    if common::smoke() { Shape::new(8, 264) } else { Shape::new(4096, 4096) }
}

/// Weights that are swept over: a layer is so many times this in rows.
fn swept() -> Shape {
    if common::smoke() { Shape::new(8, 264) } else { Shape::new(256, 2048) }
}

/// Anything that can be run again and again.
struct Run<F>(F);

impl<F: FnMut() -> twofour::Result<()>> Timed for Run<F> {
    fn time(&mut self, iterations: u64) -> Result<Duration> {
        let begun = Instant::now();
        for _ in 0..iterations {
            (self.0)()?;
        }
        Ok(begun.elapsed())
    }
}

fn bench<F: FnMut() -> twofour::Result<()> + 'static>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    throughput: Throughput,
    run: impl Fn() -> F,
) {
    common::bench(group, name, throughput, || Ok(Box::new(Run(run()))));
}

/// `scaled/bf16/4096x4096`.
fn name<T: Float>(op: &str, shape: Shape) -> String {
    format!("{op}/{}/{}x{}", T::DTYPE, shape.rows, shape.cols)
}

fn on_cpu(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("select/cpu");
    by_score::<bf16>(&mut group);
    by_score::<f32>(&mut group);
    activations::<bf16>(&mut group);
    sparsegpt(&mut group);
}

fn by_score<T: Float>(group: &mut BenchmarkGroup<'_, WallTime>) {
    let shape = large();
    let bytes = |each: usize| Throughput::Bytes((shape.weights() * each + shape.packed_codes()) as u64);
    let weight = || data::normal::<T>(shape.weights(), 0.02, 0);
    bench(group, &name::<T>("copy", shape), Throughput::Bytes(2 * size_of_val(&*weight()) as u64), || {
        let (from, mut to) = (weight(), weight());
        move || {
            to.copy_from_slice(std::hint::black_box(&from));
            Ok(())
        }
    });
    bench(group, &name::<T>("magnitude", shape), bytes(T::DTYPE.size()), || {
        let (weight, mut codes) = (weight(), vec![0; shape.packed_codes()]);
        move || cpu::by_score_into(cpu::ByScore::magnitude(shape, &weight).codes(&mut codes))
    });
    bench(group, &name::<T>("scaled_masked", shape), bytes(2 * T::DTYPE.size()), || {
        let (weight, mut codes, mut masked) = (weight(), vec![0; shape.packed_codes()], weight());
        let scale = data::normal::<f32>(shape.cols, 1.0, 1).into_iter().map(f32::abs).collect::<Vec<_>>();
        move || {
            let args = cpu::ByScore::scaled(shape, &weight, &scale);
            cpu::by_score_into(args.codes(&mut codes).masked(&mut masked))
        }
    });
}

fn activations<X: Float>(group: &mut BenchmarkGroup<'_, WallTime>) {
    let shape = large();
    bench(group, &name::<X>("squares", shape), Throughput::Bytes((shape.weights() * X::DTYPE.size()) as u64), || {
        let (x, mut sums) = (data::normal::<X>(shape.weights(), 1.0, 2), vec![0.0; shape.cols]);
        move || cpu::squares_into(cpu::Squares::new(shape.rows, shape.cols, &x, &mut sums))
    });
    let shape = swept();
    let products = (shape.rows * shape.cols * shape.cols / 2) as u64;
    bench(group, &name::<X>("hessian", shape), Throughput::Elements(products), || {
        let (x, mut hessian) = (data::normal::<X>(shape.weights(), 1.0, 2), vec![0.0; shape.cols * shape.cols]);
        move || cpu::hessian_into(cpu::Hessian::new(shape.rows, shape.cols, &x, 0, &mut hessian))
    });
}

fn sparsegpt(group: &mut BenchmarkGroup<'_, WallTime>) {
    let shape = swept();
    let (upper, scale) = factor(shape.cols);
    let products = (shape.weights() * shape.cols / 4) as u64;
    bench(group, &name::<bf16>("sweep", shape), Throughput::Elements(products), || {
        let (weight, mut updated) = (data::normal::<bf16>(shape.weights(), 0.02, 0), vec![bf16::ZERO; shape.weights()]);
        let (upper, scale) = (upper.clone(), scale.clone());
        move || cpu::sweep_into(cpu::Sweep::new(shape, &weight, &upper, &scale).updated(&mut updated))
    });
    #[cfg(feature = "sparsegpt")]
    bench(group, &format!("factor/{}", shape.cols), Throughput::Elements((shape.cols.pow(3) / 3) as u64), || {
        let (cols, tokens) = (shape.cols, shape.cols + 64);
        let (x, mut hessian) = (data::normal::<bf16>(tokens * cols, 1.0, 2), vec![0.0; cols * cols]);
        cpu::hessian_into(cpu::Hessian::new(tokens, cols, &x, 0, &mut hessian)).unwrap();
        move || twofour::select::Cholesky::new(cols, &hessian, 0.01).map(drop)
    });
}

/// A factor of the right form and size.
fn factor(cols: usize) -> (Vec<f32>, Vec<f32>) {
    let mut upper = data::normal::<f32>(cols * cols, 0.02, 3);
    for row in 0..cols {
        upper[row * cols..][..row].fill(0.0);
        upper[row * cols + row] = 1.0;
    }
    (upper, vec![1.0; cols])
}

#[cfg(feature = "cuda")]
fn on_cuda(criterion: &mut Criterion) {
    use common::Cache::{Cold, Hot};
    use common::cuda::select::{Op, on_cuda};
    if let Err(error) = twofour::device::available() {
        println!("select/cuda skipped: no CUDA device ({error})");
        return;
    }
    let mut group = criterion.benchmark_group("select/cuda");
    let copy_bytes = if common::smoke() { 1 << 16 } else { 256 << 20 };
    common::bench(&mut group, "copy", Throughput::Bytes(2 * copy_bytes), || common::cuda::copy(copy_bytes as usize));
    for op in [Op::Magnitude, Op::ScaledMasked, Op::Squares, Op::Sweep] {
        let shape = if op == Op::Sweep && !common::smoke() { Shape::new(4096, 4096) } else { large() };
        for cache in [Hot, Cold] {
            let name = name::<bf16>(&format!("{op:?}"), shape);
            let name = format!("{name}/{cache:?}").to_lowercase();
            common::bench(&mut group, &name, op.throughput(shape), || on_cuda(op, shape, cache, factor));
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn on_cuda(_: &mut Criterion) {}
