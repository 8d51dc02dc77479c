//! What only cuSPARSELt itself can show, on a GPU: in which layout it packs weights, and that its products are the same
//! whoever packed them.

use crate::case::{Case, Spec, Values};
use crate::number::{Number, same};
use crate::oracle::compare;
use twofour::compress::Layout;
use twofour::gpu::library::{LibraryWeight, packing};
use twofour::sparse::{Given, Packing, Plan, Route, Weight};
use twofour::{Cpu, DType, E4m3, Error, Executor, Factor, Gpu, Libraries, Shape, bf16, cusparselt, f16};

/// `None` after saying what there is not; fails instead if `TWOFOUR_REQUIRE_GPU=1` or `TWOFOUR_REQUIRE_CUSPARSELT=1`.
fn find() -> Option<Gpu> {
    let gpu = crate::common::gpu()?;
    let required = std::env::var_os("TWOFOUR_REQUIRE_CUSPARSELT").is_some_and(|value| value == "1");
    match cusparselt::available() {
        Ok(version) => {
            println!("cuSPARSELt {version} on {:?}", gpu.limits().compute_capability);
            Some(gpu)
        }
        Err(error) if !required => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

const SHAPES: [(usize, usize); 5] = [(128, 128), (240, 256), (256, 256), (512, 512), (4096, 4096)];

/// A line for each shape, and what packs the last of them.
fn packings<T: Factor>(gpu: &mut Gpu) {
    let packings = SHAPES.map(|(rows, cols)| {
        let shape = Shape::new(rows, cols);
        let packing = packing::<T>(gpu, shape);
        let line = packing.as_ref().map_or_else(Error::to_string, Packing::to_string);
        println!("| {} | {rows} x {cols} | {line} |", T::DTYPE);
        // Rows come in multiples of 32 bytes.
        assert_eq!(packing.is_ok(), rows.is_multiple_of(32 / T::DTYPE.size()), "{} {shape:?}: {line}", T::DTYPE);
        if let Ok(Packing::Ours(layout)) = &packing {
            assert_eq!(layout.check(shape, T::DTYPE), Ok(()));
        }
        assert_eq!(self::packing::<T>(gpu, shape), packing, "asked again");
        packing
    });
    assert_eq!(packings[3], packings[4], "both are whole tiles of 128");
}

#[test]
fn what_packs_each_type_and_shape() {
    let Some(mut gpu) = find() else { return };
    println!("| type | rows x cols | packing |\n| --- | ---: | --- |");
    packings::<f16>(&mut gpu);
    packings::<bf16>(&mut gpu);
    packings::<i8>(&mut gpu);
    packings::<f32>(&mut gpu);
    if gpu.limits().compute_capability >= (8, 9) {
        packings::<E4m3>(&mut gpu);
    }
}

/// The weight, packed in all ways there are.
fn packed<T: Number>(gpu: &mut Gpu, case: &Case<T>) -> Vec<(String, LibraryWeight<T>)> {
    let shape = case.spec.shape;
    let packing = packing::<T>(gpu, shape).unwrap();
    let host = LibraryWeight::pack_host(gpu, &case.weight).unwrap();
    assert_eq!(host.packing(), packing);
    let dense = gpu.upload(&case.weight.decompress()).unwrap();
    let theirs = LibraryWeight::pack_dense(gpu, shape, &dense).unwrap();
    assert_eq!(theirs.packing(), Packing::Library);
    let mut all = vec![("from the host".to_owned(), host), ("dense".to_owned(), theirs)];
    // One of the layouts is copied if the packing is ours; the others are decompressed first.
    for layout in Layout::ALL.into_iter().filter(|layout| layout.check(shape, T::DTYPE).is_ok()) {
        let (values, metadata) = Case { spec: Spec { layout, ..case.spec }, ..case.clone() }.packed();
        let (values, metadata) = (gpu.upload(&values).unwrap(), gpu.upload(&metadata).unwrap());
        let weight = LibraryWeight::pack(gpu, &Weight::new(shape, layout, &values, &metadata)).unwrap();
        let copied = packing == Packing::Ours(layout);
        assert_eq!(weight.packing(), if copied { packing } else { Packing::Library }, "{layout}");
        all.push((format!("in layout {layout}"), weight));
    }
    assert!(all.iter().all(|(_, weight)| weight.shape() == shape && weight.bytes() == all[0].1.bytes()));
    all
}

/// Products of every packing, before and after a search: each within its bound, all the same, and integers the CPU's.
fn products<T: Number>(gpu: &mut Gpu, spec: Spec) {
    let case = Case::<T>::new(Spec { route: Some(Route::Cusparselt), bias: false, dense: false, ..spec });
    let problem = case.spec.problem();
    let plan = Plan::<T>::by(Route::Cusparselt, &gpu.limits(), problem, Given::WEIGHT, Libraries::ALL).unwrap();
    let (weights, on_cpu) = (packed(gpu, &case), case.run(&mut Cpu).unwrap());
    let (x, dense) = (gpu.upload(&case.x).unwrap(), gpu.upload(&case.weight.decompress()).unwrap());
    let all = |gpu: &mut Gpu, plan: &Plan<T>| {
        println!("{}: {plan}", T::DTYPE);
        let mut run = |weight: &LibraryWeight<T>| {
            let (weight, mut scratch) = (weight.as_weight(), gpu.scratch(plan).unwrap());
            let mut y = gpu.upload(&vec![T::output(77.0); problem.outputs()]).unwrap();
            gpu.run(plan.multiply(&weight, &x, &mut y, &mut scratch)).unwrap();
            gpu.download(&y).unwrap()
        };
        let results: Vec<(_, Vec<T::Output>)> = weights.iter().map(|(name, weight)| (name, run(weight))).collect();
        for (name, y) in &results {
            compare(&case, y, gpu);
            assert!(same::<T>(y, &results[0].1), "{name} is not as {}", results[0].0);
            assert!(T::DTYPE != DType::I8 || same::<T>(y, &on_cpu), "{name} is not as on the CPU");
        }
    };
    let completed = plan.complete(gpu).unwrap();
    assert_eq!(completed.packing(), Some(weights[0].1.packing()));
    all(gpu, &completed);
    let searched = plan.search(gpu, &weights[0].1, &x, &dense, 3).unwrap();
    assert_eq!((searched.route(), searched.packing()), (Route::Cusparselt, completed.packing()));
    all(gpu, &searched);
}

/// Sizes at which the library's sums of `i8` are exact.
#[test]
fn products_are_the_same_whoever_packed_the_weight() {
    let Some(mut gpu) = find() else { return };
    for (tokens, rows, cols) in [(64, 512, 1024), (32, 96, 160), (256, 384, 2048)] {
        let spec = Spec::new(tokens, rows, cols);
        products::<bf16>(&mut gpu, spec);
        products::<i8>(&mut gpu, spec);
        products::<bf16>(&mut gpu, Spec { values: Values::Integers, ..spec });
    }
}
