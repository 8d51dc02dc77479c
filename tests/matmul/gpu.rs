//! What only a GPU can get wrong.

use crate::case::{Case, Spec};
use crate::common::gpu;
use crate::kernels;
use twofour::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use twofour::mask::Kind;
use twofour::matmul::{Backward, Forward, Keep, Layer};
use twofour::{Error, Executor, Gpu, Result, bf16, device};

#[test]
fn without_a_device_it_is_an_error_not_a_panic() {
    if let Err(error) = device::context(0) {
        assert!(matches!(error, Error::DriverUnavailable { .. } | Error::NoDevice { .. }), "{error}");
    }
}

#[test]
fn a_view_off_a_16_byte_boundary_is_an_error() {
    let Some(mut gpu) = gpu() else { return };
    let case = Case::<f32, f32>::new(Spec { keep: Keep::Masked, ..Spec::new(3, 2, 8, Kind::Hard) });
    let (logits, weight) = (gpu.upload(&case.logits).unwrap(), gpu.upload(&case.weight).unwrap());
    let x = gpu.upload(&[case.x.clone(), vec![0.0]].concat()).unwrap().into_slice();
    let mut y = gpu.upload(&case.dy).unwrap();
    let layer = Layer::sampled(case.spec.shape, Kind::Hard, case.spec.sampling, &logits, &weight);
    let plan = layer.plan(&gpu, 3, Keep::Masked).unwrap();
    let mut scratch = gpu.scratch(&plan).unwrap();
    let error = gpu.run(plan.forward(&layer, x.slice(1..25), &mut y, &mut scratch)).unwrap_err();
    assert!(matches!(error, Error::Misaligned { what: "x", align: 16, .. }), "{error}");
}

/// What the emulator meets in kernels.rs, and sizes that it has no time for, again and again: on a GPU a race shows as
/// bits that differ.
#[test]
fn every_route_repeats_itself_to_the_bit() {
    let Some(mut gpu) = gpu() else { return };
    let mut specs: Vec<Spec> = [kernels::edges(), kernels::rings(), kernels::splits()].concat();
    for (number, (tokens, rows, cols)) in
        [(300, 1032, 2048), (16, 2048, 4096), (128, 512, 4096), (140, 1031, 2056)].into_iter().enumerate()
    {
        for mut routes in kernels::ROUTES {
            routes.panel_rows = Some(256);
            let kind = [Kind::Soft, Kind::Hard][number % 2];
            specs.push(Spec { routes, seed: number as u64, ..Spec::new(tokens, rows, cols, kind) });
        }
    }
    for spec in specs {
        kernels::check_types(spec.seed, spec, &mut gpu);
        let case = Case::<f32, bf16>::new(spec);
        let first = case.run(&mut gpu);
        for _ in 0..10 {
            let again = case.run(&mut gpu);
            let equal = first.y == again.y && first.dx == again.dx && first.logit_gradient == again.logit_gradient;
            assert!(equal, "{spec:?}");
        }
    }
}

/// Both passes are captured, and run only when their graph is launched, to the same bits.
#[test]
fn passes_are_captured_in_a_graph() {
    if gpu().is_none() {
        return;
    }
    // A context object of its own, for event tracking is a matter of the object.
    let context = device::context(0).unwrap();
    // SAFETY: all that follows happens on one stream.
    unsafe { context.disable_event_tracking() };
    let mut gpu = Gpu::new(&context.new_stream().unwrap()).unwrap();
    for routes in kernels::ROUTES {
        capture(&mut gpu, &Case::new(Spec { routes, ..Spec::new(70, 1040, 320, Kind::Hard) }));
    }
}

fn capture(gpu: &mut Gpu, case: &Case<f32, bf16>) {
    let (spec, plan) = (&case.spec, case.spec.plan::<f32, bf16>(&gpu.limits(), gpu.libraries()));
    let (logits, weight) = (gpu.upload(&case.logits).unwrap(), gpu.upload(&case.weight).unwrap());
    let (x, dy) = (gpu.upload(&case.x).unwrap(), gpu.upload(&case.dy).unwrap());
    let mut workspace = gpu.zeros::<u8>(plan.workspace_bytes()).unwrap();
    let (mut y, mut dx) = (gpu.zeros(case.dy.len()).unwrap(), gpu.zeros(case.x.len()).unwrap());
    let mut logit_gradient = gpu.zeros(case.logits.len()).unwrap();
    let layer = Layer::sampled(spec.shape, spec.kind, spec.sampling, &logits, &weight);
    gpu.prepare(&plan).unwrap();
    let mut passes = |gpu: &mut Gpu| -> Result<()> {
        gpu.run(Forward::new(&plan, &layer, &x, &mut y).workspace(&mut workspace))?;
        let backward = Backward::new(&plan, &layer, &dy).input_gradient(&mut dx);
        gpu.run(backward.logit_gradient(&x, &mut logit_gradient).workspace(&mut workspace))
    };
    // cuBLASLt loads an algorithm's code when it first runs; own kernels are prepared.
    passes(gpu).unwrap();
    let stream = gpu.stream().clone();
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let captured = passes(gpu);
    let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
    captured.unwrap();
    let (mut y, mut dx, mut logit_gradient) = (y.into_slice(), dx.into_slice(), logit_gradient.into_slice());
    let expected = (stream.clone_dtoh(&y), stream.clone_dtoh(&dx), stream.clone_dtoh(&logit_gradient));
    stream.memset_zeros(&mut y).unwrap();
    stream.memset_zeros(&mut dx).unwrap();
    stream.memset_zeros(&mut logit_gradient).unwrap();
    graph.launch().unwrap();
    let got = (stream.clone_dtoh(&y), stream.clone_dtoh(&dx), stream.clone_dtoh(&logit_gradient));
    assert!(expected.0.unwrap() == got.0.unwrap() && expected.1.unwrap() == got.1.unwrap());
    assert!(expected.2.unwrap() == got.2.unwrap());
}
