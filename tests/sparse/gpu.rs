//! What only a GPU can get wrong.

use crate::case::{Case, Spec};
use crate::common::gpu;
use crate::number::{Number, for_all_types, same};
use crate::oracle::compare;
use twofour::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use twofour::sparse::{Given, Multiply, Route, Weight};
use twofour::{Error, Executor, Gpu, bf16, device};

const ROUTES: [Route; 4] = [Route::Small, Route::Tile, Route::Cusparselt, Route::Dense];

#[test]
fn without_a_device_it_is_an_error_not_a_panic() {
    if let Err(error) = device::context(0) {
        assert!(matches!(error, Error::DriverUnavailable { .. } | Error::NoDevice { .. }), "{error}");
    }
}

#[test]
fn a_view_off_a_16_byte_boundary_is_an_error() {
    let Some(mut gpu) = gpu() else { return };
    let case = Case::<bf16>::new(Spec { bias: false, dense: false, ..Spec::new(16, 64, 64) });
    let (values, metadata) = case.packed();
    let (values, metadata) = (gpu.upload(&values).unwrap(), gpu.upload(&metadata).unwrap());
    let weight = Weight::new(case.spec.shape, case.layout(), &values, &metadata);
    let plan = weight.plan(&gpu, 16, Given::WEIGHT).unwrap();
    let (mut y, mut scratch) = (gpu.zeros(16 * 64).unwrap(), gpu.scratch(&plan).unwrap());
    let long = gpu.stream().clone_htod(&[case.x.clone(), case.x.clone()].concat()).unwrap();
    let error = gpu.run(plan.multiply(&weight, long.slice(1..16 * 64 + 1), &mut y, &mut scratch)).unwrap_err();
    assert!(matches!(error, Error::Misaligned { what: "x", align: 16, .. }), "{error}");
    let error = gpu.run(Multiply::new(&weight, 16, long.slice(..16 * 64), &mut y)).unwrap_err();
    assert!(matches!(error, Error::Missing { .. }), "{error}");
}

/// Sizes that the emulator has no time for, again and again: on a GPU a race shows as bits that differ.
#[test]
fn every_route_repeats_itself_to_the_bit() {
    fn check<T: Number>(gpu: &mut Gpu) {
        for (tokens, rows, cols) in
            [(16, 2048, 4096), (128, 512, 4096), (304, 1040, 2048), (512, 384, 1024), (3, 77, 1028)]
        {
            for route in ROUTES {
                for bias in [false, true] {
                    let case = Case::<T>::new(Spec { route: Some(route), bias, ..Spec::new(tokens, rows, cols) });
                    let Some(first) = case.run(gpu) else { continue };
                    compare(&case, &first, gpu);
                    for _ in 0..5 {
                        assert!(same::<T>(&case.run(gpu).unwrap(), &first), "{:?}", case.spec);
                    }
                }
            }
        }
    }
    let Some(mut gpu) = gpu() else { return };
    for_all_types!(check(&mut gpu));
}

/// Each route is captured, and runs only when its graph is launched, to the same bits.
#[test]
fn products_are_captured_in_a_graph() {
    if gpu().is_none() {
        return;
    }
    // A context object of its own, for event tracking is a matter of the object.
    let context = device::context(0).unwrap();
    // SAFETY: all that follows happens on one stream.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    let mut gpu = Gpu::new(&stream).unwrap();
    for route in ROUTES {
        let case = Case::<bf16>::new(Spec { route: Some(route), ..Spec::new(64, 1040, 320) });
        let Some(mut loaded) = case.load(&mut gpu) else { continue };
        // Libraries load an algorithm's code when it first runs; this crate's kernels are prepared with the scratch.
        loaded.run(&mut gpu).unwrap();
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        let captured = loaded.run(&mut gpu);
        let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
        captured.unwrap();
        let expected = gpu.download(&loaded.y).unwrap();
        loaded.clear_y(&stream);
        graph.launch().unwrap();
        assert!(same::<bf16>(&gpu.download(&loaded.y).unwrap(), &expected), "{route:?}");
    }
}
