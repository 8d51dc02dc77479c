//! What only a GPU's executor can get wrong.

use crate::case::{Case, Spec};
use crate::executor::{Cpu, Executor, Gpu};
use twofour::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use twofour::mask::Kind;
use twofour::matmul::cuda::{self, BlasLt};
use twofour::{Error, device};

#[test]
fn without_a_device_it_is_an_error_not_a_panic() {
    if let Err(error) = device::context(0) {
        assert!(matches!(error, Error::DriverUnavailable { .. } | Error::NoDevice { .. }), "{error}");
    }
}

#[test]
fn a_view_off_a_16_byte_boundary_is_an_error() {
    let Some(gpu) = Gpu::find() else { return };
    let case = Case::<f32, f32>::new(Spec::new(3, 2, 8, Kind::Hard));
    let (logits, weight, x) = (gpu.upload(&case.logits), gpu.upload(&case.weight), gpu.upload(&case.x));
    let (mut masked, mut y) = (gpu.upload(&case.weight), gpu.upload(&case.dy));
    // `upload` leaves room for one element more.
    let (logits, weight) = (logits.slice(..24), weight.slice(..16));
    let layer = cuda::Layer::new(case.spec.shape, Kind::Hard, case.spec.sampling, logits, weight);
    let args = cuda::Forward::new(layer, 3, x.slice(1..25), masked.slice_mut(..16), y.slice_mut(..6));
    let error = cuda::forward_into(&gpu.stream, &mut gpu.blas.borrow_mut(), args).unwrap_err();
    assert!(matches!(error, Error::Misaligned { what: "x", align: 16, .. }), "{error}");
}

/// A forward pass is captured, and runs only when its graph is launched.
#[test]
fn a_pass_is_captured_in_a_graph() {
    if Gpu::find().is_none() {
        return;
    }
    // A context object of its own, for event tracking is a matter of the object.
    let context = device::context(0).unwrap();
    // SAFETY: all that follows happens on one stream.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    let gpu = Gpu::on(&stream);
    let case = Case::<f32, f32>::new(Spec::new(16, 24, 32, Kind::Hard));
    let (logits, weight, x) = (gpu.upload(&case.logits), gpu.upload(&case.weight), gpu.upload(&case.x));
    let (mut masked, mut y) = (gpu.upload(&case.weight), gpu.upload(&case.dy));
    let mut blas = BlasLt::new(&stream).unwrap();
    let mut pass = |tokens: usize| {
        let (logits, weight) = (logits.slice(..case.logits.len()), weight.slice(..case.weight.len()));
        let layer = cuda::Layer::new(case.spec.shape, Kind::Hard, case.spec.sampling, logits, weight);
        let (masked, y) = (masked.slice_mut(..case.weight.len()), y.slice_mut(..tokens * 24));
        cuda::forward_into(&stream, &mut blas, cuda::Forward::new(layer, tokens, x.slice(..tokens * 32), masked, y))
    };
    device::prepare(&stream).unwrap();
    pass(16).unwrap();
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let captured = pass(16);
    let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
    captured.unwrap();
    stream.memset_zeros(&mut y).unwrap();
    graph.launch().unwrap();
    let got = stream.clone_dtoh(&y).unwrap();
    let expected = Cpu.run(&case).y;
    for (got, expected) in got.iter().zip(&expected) {
        assert!((got - expected).abs() <= 1e-4 * (1.0 + expected.abs()), "{got} {expected}");
    }
}
