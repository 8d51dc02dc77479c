//! Speed of `compress`: `cargo bench --bench compress`, or a part with `-- reorder`.
//!
//! On the CPU with rayon's pool; on the first GPU, if there is one, in a captured graph between two events, with the
//! operands in the level-2 cache as far as they fit ("hot") and never ("cold"). Throughput is in bytes, the least that
//! must move: each operand once; beside each, in the same run, a plain copy: on the CPU of the dense weight, on a GPU one
//! that moves as many bytes as the operation does. `reorder` takes canonical codes to a layout, `restore` brings them
//! back. `TWOFOUR_BENCH=smoke` only tries everything.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::compress::{Case, Does, ready};
use common::data::Number;
use common::{Again, Place};
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use twofour::compress::{Compressed, Layout, MinTileK, first_violation};
use twofour::{DType, Shape, bf16};

criterion_group! {
    name = benches;
    config = common::config();
    targets = on_cpu, on_cuda
}
criterion_main!(benches);

fn shape() -> Shape {
    if common::smoke() { Shape::new(256, 256) } else { Shape::new(4096, 4096) }
}

/// Something else than a case.
fn bench<F: FnMut() -> twofour::Result<()> + 'static>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    bytes: usize,
    run: impl Fn() -> F,
) {
    common::bench(group, name, Throughput::Bytes(bytes as u64), || Ok(Box::new(Again(run()))));
}

fn case(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, case: Case) {
    let name = format!("{name}/{}/{}x{}", case.values, case.shape.rows, case.shape.cols);
    common::bench(group, &name, Throughput::Bytes(case.bytes()), || ready(case, Place::Cpu));
}

fn on_cpu(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compress/cpu");
    of_type::<bf16>(&mut group);
    of_type::<f32>(&mut group);
    of_type::<i8>(&mut group);
    layouts(&mut group);
}

fn of_type<T: Number>(group: &mut BenchmarkGroup<'_, WallTime>) {
    let (shape, values, size) = (shape(), T::DTYPE, T::DTYPE.size());
    let name = |op: &str| format!("{op}/{values}/{}x{}", shape.rows, shape.cols);
    let dense = |set| T::normal(shape.weights(), 0.02, set);
    bench(group, &name("copy"), 2 * shape.weights() * size, || {
        let (from, mut to) = (dense(0), dense(1));
        move || {
            to.copy_from_slice(std::hint::black_box(&from));
            Ok(())
        }
    });
    for (name, does, layout) in [
        ("magnitude", Does::Magnitude, Layout::Plain),
        ("sparse", Does::Sparse, Layout::Plain),
        ("sparse/cutlass-sm80", Does::Sparse, Layout::CutlassSm80),
        ("codes", Does::Codes, Layout::Plain),
    ] {
        case(group, name, Case { does, values, layout, shape });
    }
    let compressed = || Compressed::by_magnitude(shape, &dense(0)).unwrap();
    // Of legal codes, which are not looked at again.
    let bytes = Case { does: Does::Unpack, values, layout: Layout::Plain, shape }.bytes();
    bench(group, &name("decompress"), bytes as usize, || {
        let (mut dense, compressed) = (dense(0), compressed());
        move || compressed.decompress_into(&mut dense)
    });
    bench(group, &name("violation"), shape.weights() * size, || {
        let dense = compressed().decompress();
        move || first_violation(shape, &dense).map(|_| ())
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
    for ((layout, values), shape) in cases.chain([((Layout::CutlassSm80, DType::Bf16), ragged)]) {
        for (op, does) in [("reorder", Does::Reorder), ("restore", Does::Restore)] {
            case(group, &format!("{op}/{layout}"), Case { does, values, layout, shape });
        }
    }
}

#[cfg(feature = "cuda")]
fn on_cuda(criterion: &mut Criterion) {
    use common::Cache::{Cold, Hot};
    if let Err(error) = twofour::device::available() {
        println!("compress/cuda skipped: no CUDA device ({error})");
        return;
    }
    const ALL: [Does; 7] =
        [Does::Codes, Does::Magnitude, Does::Sparse, Does::Logits, Does::Bf16Logits, Does::Unpack, Does::Reorder];
    let mut group = criterion.benchmark_group("compress/cuda");
    let shapes: &[(usize, usize)] = if common::smoke() { &[(256, 256)] } else { &[(4096, 4096), (4096, 14_336)] };
    for (&(rows, cols), cache) in shapes.iter().flat_map(|shape| [Hot, Cold].map(|cache| (shape, cache))) {
        let named = |op: &str, layout| format!("{op}/{layout}/{rows}x{cols}/{cache:?}").to_lowercase();
        for does in ALL {
            let cases = [Layout::CutlassSm80, Layout::CusparseltSm90].map(|layout| Case {
                does,
                values: DType::Bf16,
                layout,
                shape: Shape::new(rows, cols),
            });
            let (op, bytes) = (format!("{does:?}"), cases[0].bytes());
            // A copy that moves as many bytes.
            let name = named(&format!("copy-as-{op}"), Layout::Plain);
            common::bench(&mut group, &name, Throughput::Bytes(bytes), || {
                common::cuda::copy_of::<bf16>(bytes as usize / 2, cache)
            });
            for case in cases {
                let (name, bytes) = (named(&op, case.layout), Throughput::Bytes(case.bytes()));
                common::bench(&mut group, &name, bytes, || ready(case, Place::Gpu(cache)));
            }
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn on_cuda(_: &mut Criterion) {}
