//! Speed of `compress`: `cargo bench --bench compress`, or a part with `-- reorder`.
//!
//! On the CPU with rayon's pool; on the first GPU, if there is one, in a captured graph between two events, with the
//! operands in the level-2 cache as far as they fit ("hot") and never ("cold"). Throughput is in bytes, the least that
//! must move: each operand once; beside each, in the same run, a plain copy: on the CPU of the dense weight, on a GPU one
//! that moves as many bytes as the operation does. `reorder` takes canonical codes to a layout, `restore` brings them
//! back. `TWOFOUR_BENCH=smoke` only tries everything.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::{Run, compress, data};
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use twofour::compress::{Compressed, Layout, MinTileK, Sparsity, cpu};
use twofour::{DType, Element, Float, Shape, bf16};

criterion_group! {
    name = benches;
    config = common::config();
    targets = on_cpu, on_cuda
}
criterion_main!(benches);

fn shape() -> Shape {
    if common::smoke() { Shape::new(256, 256) } else { Shape::new(4096, 4096) }
}

fn bench<F: FnMut() -> twofour::Result<()> + 'static>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    bytes: usize,
    run: impl Fn() -> F,
) {
    common::bench(group, name, Throughput::Bytes(bytes as u64), || Ok(Box::new(Run(run()))));
}

fn on_cpu(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compress/cpu");
    of_type(&mut group, &|set| data::normal::<bf16>(shape().weights(), 0.02, set));
    of_type(&mut group, &|set| data::normal::<f32>(shape().weights(), 0.02, set));
    of_type(&mut group, &|set| {
        data::normal::<f32>(shape().weights(), 40.0, set).into_iter().map(|x| x.to_f32() as i8).collect::<Vec<_>>()
    });
    layouts(&mut group);
}

fn of_type<T: Element>(group: &mut BenchmarkGroup<'_, WallTime>, dense: &dyn Fn(usize) -> Vec<T>) {
    let (shape, size) = (shape(), T::DTYPE.size());
    let name = |op: &str| format!("{op}/{}/{}x{}", T::DTYPE, shape.rows, shape.cols);
    let codes = Sparsity::of(T::DTYPE).packed_codes(shape);
    let bytes = shape.weights() * size * 3 / 2 + codes;
    bench(group, &name("copy"), 2 * shape.weights() * size, || {
        let (from, mut to) = (dense(0), dense(1));
        move || {
            to.copy_from_slice(std::hint::black_box(&from));
            Ok(())
        }
    });
    let outputs = || (vec![T::zeroed(); shape.weights() / 2], vec![0; codes]);
    bench(group, &name("magnitude"), bytes, || {
        let (dense, (mut values, mut codes)) = (dense(0), outputs());
        move || cpu::pack_into(cpu::Pack::by_magnitude(shape, &dense).values(&mut values).codes(&mut codes))
    });
    let compressed = || Compressed::by_magnitude(shape, &dense(0)).unwrap();
    bench(group, &name("sparse"), bytes, || {
        let (dense, (mut values, mut codes)) = (compressed().decompress(), outputs());
        move || cpu::pack_into(cpu::Pack::sparse(shape, &dense).values(&mut values).codes(&mut codes))
    });
    let to_tensor_cores = Throughput::Bytes(bytes as u64);
    common::bench(group, &name("sparse/cutlass-sm80"), to_tensor_cores, || {
        compress::sparse(shape, Layout::CutlassSm80, &dense(0))
    });
    bench(group, &name("codes"), bytes, || {
        let (dense, (mut values, _), (_, codes)) = (dense(0), outputs(), compressed().into_parts());
        move || cpu::pack_into(cpu::Pack::with_codes(shape, &dense, &codes).values(&mut values))
    });
    bench(group, &name("decompress"), bytes, || {
        let (mut dense, compressed) = (dense(0), compressed());
        move || compressed.decompress_into(&mut dense)
    });
    bench(group, &name("violation"), shape.weights() * size, || {
        let dense = compressed().decompress();
        move || cpu::first_violation(shape, &dense).map(|_| ())
    });
}

/// Codes to each layout and back. Bytes are those of the codes, read and written.
fn layouts(group: &mut BenchmarkGroup<'_, WallTime>) {
    let k128 = Layout::CutlassSm90(MinTileK::K128);
    let sixteen = [Layout::CutlassSm80, Layout::CusparseltMma, Layout::CusparseltSm90, k128, Layout::CutlassSm100];
    let eight = [Layout::CutlassSm80, k128];
    let cases = sixteen.map(|layout| (layout, DType::Bf16)).into_iter();
    // A ragged one, too: its rows of codes are no whole words.
    let ragged = Shape::new(shape().rows - 3, shape().cols - 4);
    let cases = cases.chain(eight.map(|layout| (layout, DType::I8))).map(|case| (case, shape()));
    for ((layout, value_type), shape) in cases.chain([((Layout::CutlassSm80, DType::Bf16), ragged)]) {
        let name = |op: &str| format!("{op}/{layout}/{value_type}/{}x{}", shape.rows, shape.cols);
        let codes = || vec![0x9e; shape.packed_codes()];
        let metadata = || vec![0xee; layout.sizes(shape, value_type).unwrap().metadata];
        bench(group, &name("reorder"), 2 * shape.packed_codes(), || {
            let (from, mut to) = (codes(), metadata());
            move || cpu::reorder_into(cpu::Reorder::new(shape, value_type, (Layout::Plain, &from), (layout, &mut to)))
        });
        bench(group, &name("restore"), 2 * shape.packed_codes(), || {
            let (from, mut to) = (metadata(), codes());
            move || cpu::reorder_into(cpu::Reorder::new(shape, value_type, (layout, &from), (Layout::Plain, &mut to)))
        });
    }
}

#[cfg(feature = "cuda")]
fn on_cuda(criterion: &mut Criterion) {
    use common::Cache::{Cold, Hot};
    use common::cuda::compress::{Case, Op, on_cuda};
    if let Err(error) = twofour::device::available() {
        println!("compress/cuda skipped: no CUDA device ({error})");
        return;
    }
    const OPS: [Op; 7] = [Op::Codes, Op::Magnitude, Op::Sparse, Op::Logits, Op::Bf16Logits, Op::Unpack, Op::Reorder];
    let mut group = criterion.benchmark_group("compress/cuda");
    let shapes: &[(usize, usize)] = if common::smoke() { &[(256, 256)] } else { &[(4096, 4096), (4096, 14_336)] };
    for (&(rows, cols), cache) in shapes.iter().flat_map(|shape| [Hot, Cold].map(|cache| (shape, cache))) {
        let mut run = |op, layout| {
            let case = Case { op, layout, shape: Shape::new(rows, cols) };
            let name = format!("{}/{cache:?}", case.name()).to_lowercase();
            common::bench(&mut group, &name, Throughput::Bytes(case.bytes()), || on_cuda(case, cache));
        };
        for op in &OPS {
            run(Op::Copy(op), Layout::Plain);
            run(*op, Layout::CutlassSm80);
            run(*op, Layout::CusparseltSm90);
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn on_cuda(_: &mut Criterion) {}
