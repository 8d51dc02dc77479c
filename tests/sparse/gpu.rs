//! A GPU's executor, and what only it can get wrong.

use crate::case::{Case, Executor, Spec};
use crate::cpu::same;
use crate::emulated::plan;
use crate::number::{Number, for_all_types};
use crate::oracle::compare;
use std::cell::RefCell;
use std::sync::Arc;
use twofour::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use twofour::cudarc::driver::{CudaSlice, CudaStream, DeviceRepr};
use twofour::device::{self, Limits};
use twofour::sparse::cuda::{BlasLt, Multiply, Weight, With, multiply_into, prepare};
use twofour::sparse::library::{Library, LibraryWeight};
use twofour::sparse::{Libraries, Path, Plan};
use twofour::{E4m3, Error, bf16, f16};

pub(crate) struct Gpu {
    pub(crate) stream: Arc<CudaStream>,
    /// Not everywhere.
    blas: Option<RefCell<BlasLt>>,
    library: Option<RefCell<Library>>,
    pub(crate) limits: Limits,
}

impl Gpu {
    /// `None` after saying that there is no GPU; fails instead if `TWOFOUR_REQUIRE_GPU=1`.
    pub(crate) fn find() -> Option<Self> {
        match device::context(0) {
            Ok(context) => Some(Self::on(&context.default_stream())),
            Err(error) if std::env::var_os("TWOFOUR_REQUIRE_GPU").is_some_and(|value| value == "1") => {
                panic!("TWOFOUR_REQUIRE_GPU=1, but {error}")
            }
            Err(error) => {
                println!("skipped: no CUDA device ({error})");
                None
            }
        }
    }

    fn on(stream: &Arc<CudaStream>) -> Self {
        fn there<T>(library: Result<T, Error>) -> Option<RefCell<T>> {
            match library {
                Ok(library) => Some(RefCell::new(library)),
                Err(error @ Error::LibraryUnavailable { .. }) => {
                    println!("without it: {error}");
                    None
                }
                Err(error) => panic!("{error}"),
            }
        }
        let limits = device::limits(stream.context()).unwrap();
        let (blas, library) = (there(BlasLt::new(stream)), there(Library::new(stream.context())));
        Self { stream: Arc::clone(stream), blas, library, limits }
    }

    fn libraries(&self) -> Libraries {
        Libraries { cublaslt: self.blas.is_some(), cusparselt: self.library.is_some() }
    }

    /// The driver gives no empty array: there is always an element more than the views below show.
    fn upload<T: DeviceRepr + Copy + bytemuck::Zeroable>(&self, values: &[T]) -> CudaSlice<T> {
        let mut values = values.to_vec();
        values.push(T::zeroed());
        self.stream.clone_htod(&values).unwrap()
    }

    fn download<T: DeviceRepr + Copy>(&self, array: &CudaSlice<T>) -> Vec<T> {
        let mut values = self.stream.clone_dtoh(array).unwrap();
        values.pop();
        values
    }
}

/// Everything but that element.
macro_rules! all {
    ($array:expr) => {
        $array.slice(..$array.len() - 1)
    };
    (mut $array:expr) => {{
        let elements = $array.len() - 1;
        $array.slice_mut(..elements)
    }};
}

/// A case on the device.
struct OnDevice<T: Number> {
    plan: Plan,
    values: CudaSlice<T>,
    metadata: CudaSlice<u8>,
    packed: Option<LibraryWeight<T>>,
    dense: CudaSlice<T>,
    x: CudaSlice<T>,
    bias: CudaSlice<T::Output>,
    y: CudaSlice<T::Output>,
    workspace: CudaSlice<u8>,
}

impl Gpu {
    fn load<T: Number>(&self, case: &Case<T>) -> Option<OnDevice<T>> {
        let mut plan = plan(case, &self.limits, self.libraries())?;
        let mut packed = None;
        if let (Path::Cusparselt, Some(library)) = (plan.path(), &self.library) {
            let mut library = library.borrow_mut();
            plan = library.complete::<T>(&self.stream, plan).unwrap();
            packed = Some(library.pack_host(&self.stream, &case.weight).unwrap());
        }
        let (values, metadata) = case.packed();
        Some(OnDevice {
            plan,
            values: self.upload(&values),
            metadata: self.upload(&metadata),
            packed,
            dense: self.upload(&case.weight.decompress()),
            x: self.upload(&case.x),
            bias: self.upload(&case.bias),
            y: self.upload(&vec![T::output(77.0); case.spec.problem().outputs()]),
            workspace: self.upload(&vec![0xffu8; plan.workspace_bytes()]),
        })
    }

    fn queue<T: Number>(&self, case: &Case<T>, on: &mut OnDevice<T>) -> Result<(), Error> {
        let weight = match &on.packed {
            Some(packed) => packed.as_weight(),
            None => Weight::new(case.spec.shape, case.layout(), all!(on.values), all!(on.metadata)),
        };
        let args = Multiply::new(weight, case.spec.tokens, all!(on.x), all!(mut on.y));
        let args = args.workspace(all!(mut on.workspace));
        let args = if case.spec.bias { args.bias(all!(on.bias)) } else { args };
        let args = if case.spec.dense { args.dense(all!(on.dense)) } else { args };
        let mut blas = self.blas.as_ref().map(RefCell::borrow_mut);
        let mut library = self.library.as_ref().map(RefCell::borrow_mut);
        let with = With { blas: blas.as_deref_mut(), library: library.as_deref_mut() };
        multiply_into(&self.stream, with, &on.plan, args)
    }
}

impl Executor for Gpu {
    /// Tensor cores truncate.
    const UNIT: f64 = 1.0 / (1 << 23) as f64;

    fn run<T: Number>(&self, case: &Case<T>) -> Option<Vec<T::Output>> {
        let mut on = self.load(case)?;
        self.queue(case, &mut on).unwrap();
        Some(self.download(&on.y))
    }

    fn parts<T: Number>(&self, case: &Case<T>) -> u32 {
        plan(case, &self.limits, self.libraries()).map_or(1, |plan| 1 + plan.splits())
    }

    fn is_dense<T: Number>(&self, case: &Case<T>) -> bool {
        plan(case, &self.limits, self.libraries()).is_some_and(|plan| plan.path() == Path::Dense)
    }

    /// cuSPARSELt multiplies `f32` in tf32.
    fn rounds_operands<T: Number>(&self, case: &Case<T>) -> f64 {
        let in_tf32 = size_of::<T>() == 4
            && plan(case, &self.limits, self.libraries()).is_some_and(|plan| plan.path() == Path::Cusparselt);
        if in_tf32 { 1.0 / 1024.0 } else { 0.0 }
    }
}

const PATHS: [Path; 4] = [Path::Small, Path::Tile, Path::Cusparselt, Path::Dense];

#[test]
fn without_a_device_it_is_an_error_not_a_panic() {
    if let Err(error) = device::context(0) {
        assert!(matches!(error, Error::DriverUnavailable { .. } | Error::NoDevice { .. }), "{error}");
    }
}

#[test]
fn a_view_off_a_16_byte_boundary_is_an_error() {
    let Some(gpu) = Gpu::find() else { return };
    let case = Case::<bf16>::new(Spec { bias: false, dense: false, ..Spec::new(16, 64, 64) });
    let mut on = gpu.load(&case).unwrap();
    let weight = Weight::new(case.spec.shape, case.layout(), all!(on.values), all!(on.metadata));
    let long = gpu.upload(&[case.x.clone(), case.x.clone()].concat());
    let args = Multiply::new(weight, 16, long.slice(1..16 * 64 + 1), all!(mut on.y));
    let args = args.workspace(all!(mut on.workspace));
    let error = multiply_into(&gpu.stream, With::default(), &on.plan, args).unwrap_err();
    assert!(matches!(error, Error::Misaligned { what: "x", align: 16, .. }), "{error}");
}

/// Sizes that the emulator has no time for, again and again: on a GPU a race shows as bits that differ.
#[test]
fn every_way_repeats_itself_to_the_bit() {
    fn check<T: Number, E: Executor>(gpu: &E) {
        for (tokens, rows, cols) in
            [(16, 2048, 4096), (128, 512, 4096), (304, 1040, 2048), (512, 384, 1024), (3, 77, 1028)]
        {
            for path in PATHS {
                for bias in [false, true] {
                    let case = Case::<T>::new(Spec { path: Some(path), bias, ..Spec::new(tokens, rows, cols) });
                    let Some(first) = gpu.run(&case) else { continue };
                    compare(&case, &first, gpu);
                    for _ in 0..5 {
                        assert!(same::<T>(&gpu.run(&case).unwrap(), &first), "{:?}", case.spec);
                    }
                }
            }
        }
    }
    let Some(gpu) = Gpu::find() else { return };
    for_all_types!(check(&gpu));
}

/// Each way is captured, and runs only when its graph is launched, to the same bits.
#[test]
fn products_are_captured_in_a_graph() {
    if Gpu::find().is_none() {
        return;
    }
    // A context object of its own, for event tracking is a matter of the object.
    let context = device::context(0).unwrap();
    // SAFETY: all that follows happens on one stream.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    let gpu = Gpu::on(&stream);
    for path in PATHS {
        let case = Case::<bf16>::new(Spec { path: Some(path), ..Spec::new(64, 1040, 320) });
        let Some(mut on) = gpu.load(&case) else { continue };
        {
            let mut blas = gpu.blas.as_ref().map(RefCell::borrow_mut);
            let mut library = gpu.library.as_ref().map(RefCell::borrow_mut);
            let with = With { blas: blas.as_deref_mut(), library: library.as_deref_mut() };
            prepare::<bf16>(&stream, with, &on.plan).unwrap();
        }
        // Libraries load an algorithm's code when it first runs; own kernels are prepared.
        gpu.queue(&case, &mut on).unwrap();
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        let captured = gpu.queue(&case, &mut on);
        let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
        captured.unwrap();
        let expected = gpu.download(&on.y);
        stream.memset_zeros(&mut on.y).unwrap();
        graph.launch().unwrap();
        assert!(same::<bf16>(&gpu.download(&on.y), &expected), "{path:?}");
    }
}
