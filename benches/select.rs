//! Speed of `select`: `cargo bench --bench select`, or a part with `-- sweep`.
//!
//! Throughput of a choice and of sums of squares is in bytes, the least that must move, beside a plain copy; that of
//! the Hessian, its factor and the sweep is in multiply-adds (for a sweep those of the weights that are dropped, half
//! of them). On the CPU with rayon's pool; on the first GPU, if there is one, in a captured graph between two events,
//! hot and cold. `TWOFOUR_BENCH=smoke` only tries everything.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::select::{Case, Does};
use common::{Again, Place, data};
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use twofour::select::Hessian;
use twofour::{Cpu, Executor, Float, Shape, bf16};

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

fn bench<F: FnMut() -> twofour::Result<()> + 'static>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    throughput: Throughput,
    run: impl Fn() -> F,
) {
    common::bench(group, name, throughput, || Ok(Box::new(Again(run()))));
}

fn case<T: Float>(group: &mut BenchmarkGroup<'_, WallTime>, does: Does, shape: Shape) {
    let case = Case::<T>::new(does, shape);
    common::bench(group, &case.name(), case.throughput(), || Place::Cpu.ready(&case));
}

fn on_cpu(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("select/cpu");
    by_score::<bf16>(&mut group);
    by_score::<f32>(&mut group);
    case::<bf16>(&mut group, Does::Squares, large());
    hessian::<bf16>(&mut group);
    case::<bf16>(&mut group, Does::Sweep, swept());
    #[cfg(feature = "sparsegpt")]
    cholesky(&mut group);
}

fn by_score<T: Float>(group: &mut BenchmarkGroup<'_, WallTime>) {
    let shape = large();
    let name = format!("copy/{}/{}x{}", T::DTYPE, shape.rows, shape.cols);
    bench(group, &name, Throughput::Bytes(2 * (shape.weights() * T::DTYPE.size()) as u64), || {
        let [from, mut to] = [(); 2].map(|()| data::normal::<T>(shape.weights(), 0.02, 0));
        move || {
            to.copy_from_slice(std::hint::black_box(&from));
            Ok(())
        }
    });
    case::<T>(group, Does::Magnitude, shape);
    case::<T>(group, Does::ScaledMasked, shape);
}

fn hessian<X: Float>(group: &mut BenchmarkGroup<'_, WallTime>) {
    let shape = swept();
    let products = (shape.rows * shape.cols * shape.cols / 2) as u64;
    let name = format!("hessian/{}/{}x{}", X::DTYPE, shape.rows, shape.cols);
    bench(group, &name, Throughput::Elements(products), || {
        let (x, mut hessian) = (data::normal::<X>(shape.weights(), 1.0, 2), vec![0.0; shape.cols * shape.cols]);
        move || Cpu.run(Hessian::new(shape.rows, shape.cols, &x, 0, &mut hessian))
    });
}

#[cfg(feature = "sparsegpt")]
fn cholesky(group: &mut BenchmarkGroup<'_, WallTime>) {
    let cols = swept().cols;
    bench(group, &format!("factor/{cols}"), Throughput::Elements((cols.pow(3) / 3) as u64), || {
        let tokens = cols + 64;
        let (x, mut hessian) = (data::normal::<bf16>(tokens * cols, 1.0, 2), vec![0.0; cols * cols]);
        Cpu.run(Hessian::new(tokens, cols, &x, 0, &mut hessian)).unwrap();
        move || twofour::select::Cholesky::new(cols, &hessian, 0.01).map(drop)
    });
}

#[cfg(feature = "cuda")]
fn on_cuda(criterion: &mut Criterion) {
    use common::Cache::{Cold, Hot};
    if let Err(error) = twofour::device::available() {
        println!("select/cuda skipped: no CUDA device ({error})");
        return;
    }
    let mut group = criterion.benchmark_group("select/cuda");
    let copy_bytes = if common::smoke() { 1 << 16 } else { 256 << 20 };
    common::bench(&mut group, "copy", Throughput::Bytes(2 * copy_bytes), || common::cuda::copy(copy_bytes as usize));
    for does in [Does::Magnitude, Does::ScaledMasked, Does::Squares, Does::Sweep] {
        let case = Case::<bf16>::new(does, large());
        for cache in [Hot, Cold] {
            let name = format!("{}/{cache:?}", case.name()).to_lowercase();
            common::bench(&mut group, &name, case.throughput(), || Place::Gpu(cache).ready(&case));
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn on_cuda(_: &mut Criterion) {}
