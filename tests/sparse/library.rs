//! What only cuSPARSELt itself can show, on a GPU: in which layout it packs weights, and that its products are the same
//! whoever packed them.

use crate::case::{Case, Executor, Spec, Values};
use crate::cpu::{Cpu, same};
use crate::gpu::Gpu;
use crate::number::Number;
use crate::oracle::compare;
use twofour::compress::Layout;
use twofour::sparse::cuda::{Multiply, Weight, With, multiply_into};
use twofour::sparse::library::{Library, LibraryWeight};
use twofour::sparse::{Given, Libraries, Packing, Path, Plan};
use twofour::{DType, E4m3, Error, Factor, Shape, bf16, f16};

/// `None` after saying what there is not; fails instead if `TWOFOUR_REQUIRE_GPU=1` or `TWOFOUR_REQUIRE_CUSPARSELT=1`.
fn find() -> Option<(Gpu, Library)> {
    let gpu = Gpu::find()?;
    let required = std::env::var_os("TWOFOUR_REQUIRE_CUSPARSELT").is_some_and(|value| value == "1");
    match Library::new(gpu.stream.context()) {
        Ok(library) => Some((gpu, library)),
        Err(error @ Error::LibraryUnavailable { .. }) if !required => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

const SHAPES: [(usize, usize); 5] = [(128, 128), (240, 256), (256, 256), (512, 512), (4096, 4096)];

/// A line for each shape, and what packs the last of them.
fn packings<T: Factor>(gpu: &Gpu, library: &Library) {
    let packings = SHAPES.map(|(rows, cols)| {
        let shape = Shape::new(rows, cols);
        let packing = library.packing::<T>(&gpu.stream, shape);
        let line = packing.as_ref().map_or_else(Error::to_string, Packing::to_string);
        println!("| {} | {rows} x {cols} | {line} |", T::DTYPE);
        // Rows come in multiples of 32 bytes.
        assert_eq!(packing.is_ok(), rows.is_multiple_of(32 / T::DTYPE.size()), "{} {shape:?}: {line}", T::DTYPE);
        if let Ok(Packing::Ours(layout)) = &packing {
            assert_eq!(layout.check(shape, T::DTYPE), Ok(()));
        }
        assert_eq!(library.packing::<T>(&gpu.stream, shape), packing, "asked again");
        packing
    });
    assert_eq!(packings[3], packings[4], "both are whole tiles of 128");
}

#[test]
fn what_packs_each_type_and_shape() {
    let Some((gpu, library)) = find() else { return };
    println!("cuSPARSELt {} on {:?}", library.handle().version(), library.handle().device());
    println!("| type | rows x cols | packing |\n| --- | ---: | --- |");
    packings::<f16>(&gpu, &library);
    packings::<bf16>(&gpu, &library);
    packings::<i8>(&gpu, &library);
    packings::<f32>(&gpu, &library);
    if gpu.limits.compute_capability >= (8, 9) {
        packings::<E4m3>(&gpu, &library);
    }
}

/// The weight, packed in all ways there are.
fn packed<T: Number>(gpu: &Gpu, library: &Library, case: &Case<T>) -> Vec<(String, LibraryWeight<T>)> {
    let (stream, shape) = (&gpu.stream, case.spec.shape);
    let packing = library.packing::<T>(stream, shape).unwrap();
    let host = library.pack_host(stream, &case.weight).unwrap();
    assert_eq!(host.packing(), packing);
    let dense = stream.clone_htod(&case.weight.decompress()).unwrap();
    let theirs = library.pack_dense(stream, shape, &dense.as_view()).unwrap();
    assert_eq!(theirs.packing(), Packing::Library);
    let mut all = vec![("from the host".to_owned(), host), ("dense".to_owned(), theirs)];
    // One of the layouts is copied if the packing is ours; the others are decompressed first.
    for layout in Layout::ALL.into_iter().filter(|layout| layout.check(shape, T::DTYPE).is_ok()) {
        let (values, metadata) = Case { spec: Spec { layout, ..case.spec }, ..case.clone() }.packed();
        let (values, metadata) = (stream.clone_htod(&values).unwrap(), stream.clone_htod(&metadata).unwrap());
        let weight = Weight::new(shape, layout, values.as_view(), metadata.as_view());
        let weight = library.pack(stream, &weight).unwrap();
        let copied = packing == Packing::Ours(layout);
        assert_eq!(weight.packing(), if copied { packing } else { Packing::Library }, "{layout}");
        all.push((format!("in layout {layout}"), weight));
    }
    assert!(all.iter().all(|(_, weight)| weight.shape() == shape && weight.bytes() == all[0].1.bytes()));
    all
}

/// Products of every packing, before and after a search: each within its bound, all the same, and integers the CPU's.
fn products<T: Number>(gpu: &Gpu, library: &mut Library, spec: Spec) {
    let case = Case::<T>::new(Spec { path: Some(Path::Cusparselt), bias: false, dense: false, ..spec });
    let plan =
        Plan::by::<T>(Path::Cusparselt, &gpu.limits, case.spec.problem(), Given::WEIGHT, Libraries::ALL).unwrap();
    let stream = &gpu.stream;
    let (weights, on_cpu) = (packed(gpu, library, &case), Cpu.run(&case).unwrap());
    let x = stream.clone_htod(&case.x).unwrap();
    let dense = stream.clone_htod(&case.weight.decompress()).unwrap();
    let all = |library: &mut Library, plan: &Plan| {
        println!("{}: {plan}", T::DTYPE);
        let results = weights.iter().map(|(name, weight)| (name, multiply(gpu, library, plan, weight, &case, &x)));
        let results: Vec<(_, Vec<T::Output>)> = results.collect();
        for (name, y) in &results {
            compare(&case, y, gpu);
            assert!(same::<T>(y, &results[0].1), "{name} is not as {}", results[0].0);
            assert!(T::DTYPE != DType::I8 || same::<T>(y, &on_cpu), "{name} is not as on the CPU");
        }
    };
    let completed = library.complete::<T>(stream, plan).unwrap();
    assert_eq!(completed.packing(), Some(weights[0].1.packing()));
    all(library, &completed);
    let searched = library.search(stream, plan, &weights[0].1, &x.as_view(), &dense.as_view(), 3).unwrap();
    assert_eq!((searched.path(), searched.packing()), (Path::Cusparselt, completed.packing()));
    all(library, &searched);
}

fn multiply<T: Number>(
    gpu: &Gpu,
    library: &mut Library,
    plan: &Plan,
    weight: &LibraryWeight<T>,
    case: &Case<T>,
    x: &twofour::cudarc::driver::CudaSlice<T>,
) -> Vec<T::Output> {
    let stream = &gpu.stream;
    let mut y = stream.clone_htod(&vec![T::output(77.0); case.spec.problem().outputs()]).unwrap();
    let mut workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes().max(1)).unwrap();
    let args = Multiply::new(weight.as_weight(), case.spec.tokens, x.as_view(), y.as_view_mut());
    let with = With { blas: None, library: Some(library) };
    multiply_into(stream, with, plan, args.workspace(workspace.as_view_mut())).unwrap();
    stream.clone_dtoh(&y).unwrap()
}

/// Sizes at which the library's sums of `i8` are exact.
#[test]
fn products_are_the_same_whoever_packed_the_weight() {
    let Some((gpu, mut library)) = find() else { return };
    for (tokens, rows, cols) in [(64, 512, 1024), (32, 96, 160), (256, 384, 2048)] {
        let spec = Spec::new(tokens, rows, cols);
        products::<bf16>(&gpu, &mut library, spec);
        products::<i8>(&gpu, &mut library, spec);
        products::<bf16>(&gpu, &mut library, Spec { values: Values::Integers, ..spec });
    }
}
