//! Speed of `select`: `cargo bench --bench select`, or a part with `-- sweep`.
//!
//! Throughput of a choice and of sums of squares is in bytes, the least that must move, beside a plain copy; that of
//! the Hessian, its factor, the sweep and swaps is in multiply-adds (for the last two those of the weights that are
//! dropped, half of them; what swaps take comes on top). The Hessian and its factor are of the CPU alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::select::{Case, Does};
use common::{At, Group, Place, data};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use twofour::select::Hessian;
use twofour::{Cpu, Executor, Float, Shape, bf16};

criterion_group! {
    name = benches;
    config = common::config();
    targets = select
}
criterion_main!(benches);

const TINY: Shape = Shape::new(8, 264);

/// Weights that are swept over, on the CPU too: a layer is so many times this in rows.
fn swept() -> Shape {
    if common::smoke() { TINY } else { Shape::new(256, 2048) }
}

fn select(criterion: &mut Criterion) {
    let (mut group, places) = (criterion.benchmark_group("select"), Place::all());
    common::copy(&mut group, &places);
    for (shape, places) in common::weights(TINY, &places) {
        for does in [Does::Magnitude, Does::ScaledMasked] {
            case::<bf16>(&mut group, &places, does, shape);
            case::<f32>(&mut group, &places, does, shape);
        }
        case::<bf16>(&mut group, &places, Does::Squares, shape);
    }
    case::<bf16>(&mut group, &places, Does::Sweep, swept());
    case::<bf16>(&mut group, &places, Does::Swaps, swept());
    if !common::smoke() {
        case::<bf16>(&mut group, &common::on_gpu(&places), Does::Sweep, Shape::new(4096, 4096));
        case::<bf16>(&mut group, &common::on_gpu(&places), Does::Swaps, Shape::new(4096, 4096));
    }
    hessian::<bf16>(&mut group);
    #[cfg(feature = "sparsegpt")]
    cholesky(&mut group);
}

fn case<T: Float>(group: &mut Group<'_>, places: &[Place], does: Does, shape: Shape) {
    let case = Case::<T>::new(does, shape);
    common::bench(group, &case.name(), places, case.throughput(), |at| at.ready(&case));
}

fn hessian<X: Float>(group: &mut Group<'_>) {
    let shape = swept();
    let products = (shape.rows * shape.cols * shape.cols / 2) as u64;
    let name = format!("hessian/{}/{}x{}", X::DTYPE, shape.rows, shape.cols);
    common::on_cpu(group, &name, Throughput::Elements(products), || {
        let (x, mut hessian) = (data::normal::<X>(shape.weights(), 1.0, 2), vec![0.0; shape.cols * shape.cols]);
        move || Cpu.run(Hessian::new(shape.rows, shape.cols, &x, 0, &mut hessian))
    });
}

#[cfg(feature = "sparsegpt")]
fn cholesky(group: &mut Group<'_>) {
    let cols = swept().cols;
    common::on_cpu(group, &format!("factor/{cols}"), Throughput::Elements((cols.pow(3) / 3) as u64), || {
        let tokens = cols + 64;
        let (x, mut hessian) = (data::normal::<bf16>(tokens * cols, 1.0, 2), vec![0.0; cols * cols]);
        Cpu.run(Hessian::new(tokens, cols, &x, 0, &mut hessian)).unwrap();
        move || twofour::select::Cholesky::new(cols, &hessian, 0.01).map(drop)
    });
}
