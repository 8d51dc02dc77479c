//! What runs in a child process; the parent sets the scene and reads the log.

use std::sync::Arc;
use std::thread;

use twofour::cudarc::driver::{CudaContext, CudaStream};
use twofour::device::{self, Launch, Limits, Symbol};
use twofour::mask::{Forward, Kind, Sampling, Statistics};
use twofour::matmul::{self, Keep, Layer, Masks, Plan, Problem};
use twofour::{Error, Executor, Gpu, Libraries, Result, Shape};

#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Args {
    address: u64,
    count: u32,
    value: f32,
}

fn plan() -> Launch {
    named("twofour_test_kernel")
}

/// Of another kernel of the same file.
fn other_plan() -> Launch {
    named("twofour_test_other")
}

fn named(name: &str) -> Launch {
    of(Symbol::named(device::modules().next().expect("at least one kernel"), name))
}

fn of(symbol: Symbol) -> Launch {
    let args = Args { address: 0xfedc_ba98_7654_3210, count: 7, value: 1.5 };
    Launch::new(symbol, 0, 128, &args).grid([3, 2, 1]).shared_bytes(4096)
}

fn put(stream: &Arc<CudaStream>, plan: &Launch) -> Result<()> {
    // SAFETY: the fake driver runs nothing, and a real one has no kernel of this name.
    unsafe { plan.queue(stream) }
}

pub(crate) fn launch_on(stream: &Arc<CudaStream>) -> Result<()> {
    put(stream, &plan())
}

fn stream() -> Arc<CudaStream> {
    device::context(0).unwrap().default_stream()
}

#[test]
#[ignore = "run by its parent"]
fn driver_unavailable() {
    for error in [device::available().unwrap_err(), device::context(0).unwrap_err()] {
        assert!(matches!(error, Error::DriverUnavailable { .. }), "{error}");
        assert!(error.to_string().contains("Install the NVIDIA driver"), "{error}");
    }
}

#[test]
#[ignore = "run by its parent"]
fn no_device() {
    assert!(matches!(device::available(), Err(Error::NoDevice { .. })));
    assert!(matches!(device::context(0), Err(Error::NoDevice { .. })));
}

#[test]
#[ignore = "run by its parent"]
fn unknown_error() {
    let expected = Error::Cuda { call: "cuInit", name: "CUDA_ERROR_UNKNOWN".into(), code: 999 };
    assert_eq!(device::available(), Err(expected));
}

#[test]
#[ignore = "run by its parent"]
fn second_of_one() {
    assert_eq!(device::available(), Ok(1));
    let error = device::context(1).unwrap_err();
    assert!(error.to_string().contains("no device of number 1, only 1"), "{error}");
    assert!(device::context(usize::MAX).is_err());
    assert!(device::context(0).is_ok());
}

#[test]
#[ignore = "run by its parent"]
fn limits() {
    let stream = stream();
    assert_eq!(device::limits(stream.context()).unwrap(), Limits::H200);
    assert_eq!(device::limits(stream.context()).unwrap(), Limits::H200);
}

#[test]
#[ignore = "run by its parent"]
fn unsupported() {
    let stream = stream();
    let expected = Error::UnsupportedDevice { have: (7, 5), need: (8, 0) };
    assert_eq!(device::prepare(&stream), Err(expected.clone()));
    assert_eq!(launch_on(&stream), Err(expected));
    assert!(!device::limits(stream.context()).unwrap().is_supported());
}

#[test]
#[ignore = "run by its parent"]
fn no_image() {
    let error = launch_on(&stream()).unwrap_err();
    let Error::NoKernelImage { nvrtc, embedded, .. } = &error else { panic!("{error}") };
    assert_eq!(nvrtc, "TWOFOUR_NVRTC=off");
    assert_eq!(embedded == "nothing", device::embedded().is_empty());
    assert_eq!(device::prepare(&stream()), Err(error));
}

#[test]
#[ignore = "run by its parent"]
fn nvrtc_refused() {
    let error = launch_on(&stream()).unwrap_err();
    let Error::NoKernelImage { device: (9, 0), nvrtc, .. } = &error else { panic!("{error}") };
    assert!(nvrtc.contains("sm_90a, CUDA_ERROR_NO_BINARY_FOR_GPU"), "{nvrtc}");
}

#[test]
#[ignore = "run by its parent"]
fn out_of_memory() {
    let expected = Error::Cuda { call: "cuModuleLoadData", name: "CUDA_ERROR_OUT_OF_MEMORY".into(), code: 2 };
    assert_eq!(launch_on(&stream()), Err(expected));
}

#[test]
#[ignore = "run by its parent"]
fn launches() {
    let stream = stream();
    put(&stream, &plan()).unwrap();
    put(&stream, &plan().grid([5, 2, 1])).unwrap();
    put(&stream, &plan().grid([5, 0, 1])).unwrap();
    // Another handle to the same context, and another thread.
    let other = CudaContext::new(0).unwrap().per_thread_stream();
    put(&other, &plan()).unwrap();
    thread::scope(|scope| scope.spawn(|| put(&stream, &plan())).join().unwrap()).unwrap();
}

#[test]
#[ignore = "run by its parent"]
fn launches_once() {
    launch_on(&stream()).unwrap();
}

#[test]
#[ignore = "run by its parent"]
fn threads() {
    let stream = stream();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| launch_on(&stream))).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
    });
}

#[test]
#[ignore = "run by its parent"]
fn much_shared() {
    let stream = stream();
    put(&stream, &plan()).unwrap();
    put(&stream, &plan().shared_bytes(100 << 10)).unwrap();
    put(&stream, &plan().shared_bytes(200 << 10)).unwrap();
}

#[test]
#[ignore = "run by its parent"]
fn prepared() {
    let stream = stream();
    device::prepare(&stream).unwrap();
    launch_on(&stream).unwrap();
}

#[test]
#[ignore = "run by its parent"]
fn prepared_after_a_launch() {
    let stream = stream();
    launch_on(&stream).unwrap();
    device::prepare(&stream).unwrap();
    launch_on(&stream).unwrap();
    put(&stream, &other_plan()).unwrap();
}

#[test]
#[ignore = "run by its parent"]
fn two_kernels() {
    let stream = stream();
    for _ in 0..2 {
        launch_on(&stream).unwrap();
        put(&stream, &other_plan()).unwrap();
    }
}

#[test]
#[ignore = "run by its parent"]
fn unknown_kernel() {
    let error = launch_on(&stream()).unwrap_err();
    assert!(matches!(&error, Error::UnknownKernel { name, .. } if name == "twofour_test_kernel"), "{error}");
}

#[test]
#[ignore = "run by its parent"]
fn names_that_no_kernel_has() {
    let stream = stream();
    for name in ["", "x=1 --use_fast_math", "twofour\0test", "größe"] {
        let error = put(&stream, &named(name)).unwrap_err();
        assert!(matches!(&error, Error::UnknownKernel { name: unknown, .. } if unknown == name), "{error}");
    }
    launch_on(&stream).unwrap();
}

#[test]
#[ignore = "run by its parent"]
fn compile_error() {
    let error = launch_on(&stream()).unwrap_err();
    assert!(matches!(error, Error::Compile { .. }), "{error}");
    assert!(error.to_string().ends_with("for sm_90a:\nmask.cu(1): error: \"x\"\nsecond line"), "{error}");
}

#[test]
#[ignore = "run by its parent"]
fn unprepared() {
    let file = device::modules().next().unwrap();
    let expected = Error::Unprepared { what: format!("a kernel of cuda/{file}.cu") };
    let stream = stream();
    assert!(device::is_captured(&stream).unwrap());
    assert_eq!(plan().load(&stream), Err(expected.clone()));
    assert_eq!(device::prepare(&stream), Err(expected.clone()));
    assert_eq!(launch_on(&stream), Err(expected));
}

#[test]
#[ignore = "run by its parent"]
fn half_prepared() {
    let stream = stream();
    assert!(!device::is_captured(&stream).unwrap());
    launch_on(&stream).unwrap();
    assert!(device::is_captured(&stream).unwrap());
    launch_on(&stream).unwrap();
    let file = device::modules().last().unwrap();
    let other = of(Symbol::named(file, "twofour_test_kernel"));
    let expected = Error::Unprepared { what: format!("a kernel of cuda/{file}.cu") };
    assert_eq!(put(&stream, &other), Err(expected));
}

/// Two kernels: a mask with its statistics.
fn run_pass() -> Result<()> {
    let (shape, mut gpu) = (Shape::new(3, 8), Gpu::new(&stream())?);
    let logits = gpu.zeros::<f32>(shape.logits())?;
    let (mut codes, mut statistics) = (gpu.zeros::<u8>(shape.packed_codes())?, gpu.zeros(Statistics::SLOTS)?);
    let pass =
        Forward::<_, f32, f32>::new(shape, Kind::Hard, Sampling { seed: 1, draw: 2, kappa: 1.0, tau: 1.0 }, &logits);
    gpu.run(pass.codes(&mut codes).statistics(&mut statistics))
}

#[test]
#[ignore = "run by its parent"]
fn pass() {
    run_pass().unwrap();
}

#[test]
#[ignore = "run by its parent"]
fn pass_without_its_end() {
    let error = run_pass().unwrap_err();
    assert!(matches!(&error, Error::UnknownKernel { name, .. } if name == "twofour_mask_statistics"), "{error}");
}

#[test]
#[ignore = "run by its parent"]
fn pass_unprepared() {
    assert_eq!(run_pass(), Err(Error::Unprepared { what: "a kernel of cuda/mask.cu".into() }));
}

/// A mask of logits that were allocated on this stream.
fn mask_of(gpu: &mut Gpu, owner: &Arc<CudaStream>) -> Result<()> {
    let shape = Shape::new(3, 8);
    let logits = owner.alloc_zeros::<f32>(shape.logits()).unwrap();
    let mut codes = gpu.zeros::<u8>(shape.packed_codes())?;
    let sampling = Sampling { seed: 1, draw: 2, kappa: 1.0, tau: 1.0 };
    gpu.run(Forward::<_, f32, f32>::new(shape, Kind::Hard, sampling, &logits).codes(&mut codes))
}

/// The same for an output.
fn mask_into(gpu: &mut Gpu, owner: &Arc<CudaStream>) -> Result<()> {
    let shape = Shape::new(3, 8);
    let logits = gpu.zeros::<f32>(shape.logits())?;
    let mut codes = owner.alloc_zeros::<u8>(shape.packed_codes()).unwrap();
    let sampling = Sampling { seed: 1, draw: 2, kappa: 1.0, tau: 1.0 };
    gpu.run(Forward::<_, f32, f32>::new(shape, Kind::Hard, sampling, &logits).codes(&mut codes))
}

#[test]
#[ignore = "run by its parent"]
fn operands_of_another_handle() {
    let mut gpu = Gpu::new(&stream()).unwrap();
    for other in [stream(), stream().context().new_stream().unwrap()] {
        assert_eq!(other.context(), gpu.stream().context(), "the same context");
        let refused = |what| Err(Error::ForeignHandle { what, device: 0 });
        assert_eq!(mask_of(&mut gpu, &other), refused("logits"));
        assert_eq!(mask_into(&mut gpu, &other), refused("codes"));
    }
    let said = mask_of(&mut gpu, &stream()).unwrap_err().to_string();
    assert!(said.contains("another `CudaContext` of device 0") && said.contains("`Gpu::stream().context()`"), "{said}");
}

#[test]
#[ignore = "run by its parent"]
fn operands_of_another_stream() {
    let default = stream();
    let mut gpu = Gpu::new(&default).unwrap();
    let other = default.context().new_stream().unwrap();
    mask_of(&mut gpu, &other).unwrap();
    mask_into(&mut gpu, &other).unwrap();
    mask_of(&mut Gpu::new(&other).unwrap(), &default).unwrap();
}

#[test]
#[ignore = "run by its parent"]
fn operands_of_another_device() {
    let mut gpu = Gpu::new(&stream()).unwrap();
    let other = device::context(1).unwrap().default_stream();
    assert_eq!(mask_of(&mut gpu, &other), Err(Error::ForeignContext { what: "logits" }));
    assert_eq!(mask_into(&mut gpu, &other), Err(Error::ForeignContext { what: "codes" }));
}

/// A plan that wants cuBLASLt, on a handle that is to do without.
#[test]
#[ignore = "run by its parent"]
fn pass_without_its_library() {
    let (problem, mut gpu) = (Problem::new(2, Shape::new(4, 8)), Gpu::new(&stream()).unwrap().only(Libraries::NONE));
    let masks = Masks::Sampled(Kind::Hard);
    let plan = Plan::<f32, f32>::new(&gpu.limits(), Libraries::ALL, problem, masks, Keep::Nothing).unwrap();
    let (logits, weight) = (gpu.zeros(problem.shape.logits()).unwrap(), gpu.zeros(problem.shape.weights()).unwrap());
    let (x, mut y) = (gpu.zeros(problem.inputs()).unwrap(), gpu.zeros(problem.outputs()).unwrap());
    let mut workspace = gpu.zeros(plan.workspace_bytes()).unwrap();
    let sampling = Sampling { seed: 1, draw: 2, kappa: 1.0, tau: 1.0 };
    let layer = Layer::sampled(problem.shape, Kind::Hard, sampling, &logits, &weight);
    let error = gpu.run(matmul::Forward::new(&plan, &layer, &x, &mut y).workspace(&mut workspace)).unwrap_err();
    assert!(matches!(error, Error::Unsupported { what: "a product by cuBLASLt", .. }), "{error}");
    assert!(matches!(gpu.prepare(&plan), Err(Error::Unsupported { .. })));
}
