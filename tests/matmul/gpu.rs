//! A GPU's executor, and what only it can get wrong.

use crate::case::{Case, Outputs, Spec};
use crate::executor::{Executor, by_codes, poisoned};
use crate::kernels;
use std::cell::RefCell;
use std::sync::Arc;
use twofour::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use twofour::cudarc::driver::{CudaSlice, CudaStream, CudaView, DeviceRepr};
use twofour::device::{self, Limits};
use twofour::mask::{self, Kind};
use twofour::matmul::cuda::{self, BlasLt};
use twofour::matmul::{Keep, Plan};
use twofour::{Error, Float, Logit, bf16};

pub(crate) struct Gpu {
    stream: Arc<CudaStream>,
    /// Not everywhere: without it, 16-bit products are the crate's own.
    blas: Option<RefCell<BlasLt>>,
    limits: Limits,
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
        let limits = device::limits(stream.context()).unwrap();
        let blas = match BlasLt::new(stream) {
            Ok(blas) => Some(RefCell::new(blas)),
            Err(error @ Error::LibraryUnavailable { .. }) => {
                println!("without cuBLASLt: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        };
        Self { stream: Arc::clone(stream), blas, limits }
    }

    fn plan<L: Logit, W: Float>(&self, spec: &Spec) -> Plan {
        let plan = spec.plan::<L, W>(&self.limits);
        if self.blas.is_some() { plan } else { plan.without_blaslt().expect("f32 needs cuBLASLt") }
    }

    /// The driver gives no empty array: there is always an element more than the views below show.
    fn upload<T: DeviceRepr + bytemuck::Pod>(&self, values: &[T]) -> CudaSlice<T> {
        let mut values = values.to_vec();
        values.push(T::zeroed());
        self.stream.clone_htod(&values).unwrap()
    }

    fn download<T: DeviceRepr + bytemuck::Pod>(&self, array: &CudaSlice<T>) -> Vec<T> {
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

impl Executor for Gpu {
    /// Tensor cores truncate.
    const UNIT: f64 = 1.0 / (1 << 23) as f64;

    fn run<L: Logit, W: Float>(&self, case: &Case<L, W>) -> Outputs<W> {
        let Case { spec, shard, logits, codes, weight, .. } = case;
        let (logits, weight, codes) = (self.upload(logits), self.upload(weight), self.upload(codes));
        let out = match spec.frozen {
            true => self.passes(case, || cuda::Layer::<f32, W>::frozen(spec.shape, all!(codes), all!(weight))),
            false => self.passes(case, || {
                let (logits, weight) = (all!(logits), all!(weight));
                cuda::Layer::<L, W>::new(spec.shape, spec.kind, spec.sampling, logits, weight).shard(*shard)
            }),
        };
        Outputs { masked: self.masked(case, all!(logits), all!(weight)), ..out }
    }
}

impl Gpu {
    fn passes<'l, L: Logit, W: Float, M: Logit>(
        &self,
        case: &Case<L, W>,
        layer: impl Fn() -> cuda::Layer<'l, M, W>,
    ) -> Outputs<W> {
        let Case { spec, x, dy, before, .. } = case;
        let plan = self.plan::<M, W>(spec);
        let start = poisoned(case);
        let mut workspace = self.upload(&vec![0xffu8; plan.workspace_bytes()]);
        let (x, dy) = (self.upload(x), self.upload(dy));
        let mut y = self.upload(&start.y);
        let mut kept_masked = start.kept_masked.as_ref().map(|kept| self.upload(kept));
        let mut kept_codes = start.kept_codes.as_ref().map(|kept| self.upload(kept));
        let mut blas = self.blas.as_ref().map(RefCell::borrow_mut);
        let args = cuda::Forward::new(layer(), spec.tokens, all!(x), all!(mut y)).workspace(all!(mut workspace));
        let args = match (&mut kept_masked, &mut kept_codes) {
            (Some(kept), _) => args.keep_masked(all!(mut kept)),
            (_, Some(kept)) => args.keep_codes(all!(mut kept)),
            _ => args,
        };
        cuda::forward_into(&self.stream, blas.as_deref_mut(), &plan, args).unwrap();

        let mut dx = self.upload(&start.dx);
        let mut logit_gradient = self.upload(if spec.accumulate { before } else { &start.logit_gradient });
        let args = cuda::Backward::new(layer(), spec.tokens, all!(dy)).regulariser(spec.regulariser);
        let args = args.input_gradient(all!(mut dx)).workspace(all!(mut workspace));
        let args = match (&kept_masked, &kept_codes) {
            (Some(kept), _) => args.kept_masked(all!(kept)),
            (_, Some(kept)) => args.kept_codes(all!(kept)),
            _ => args,
        };
        let args = match (spec.has_logit_gradient(), spec.accumulate) {
            (false, _) => args,
            (_, true) => args.accumulate_logit_gradient(all!(x), all!(mut logit_gradient)),
            (_, false) => args.logit_gradient(all!(x), all!(mut logit_gradient)),
        };
        cuda::backward_into(&self.stream, blas.as_deref_mut(), &plan, args).unwrap();
        Outputs {
            masked: Vec::new(),
            kept_masked: kept_masked.map(|kept| self.download(&kept)),
            kept_codes: kept_codes.map(|kept| self.download(&kept)),
            y: self.download(&y),
            dx: self.download(&dx),
            logit_gradient: self.download(&logit_gradient),
        }
    }

    fn masked<L: Logit, W: Float>(
        &self,
        case: &Case<L, W>,
        logits: CudaView<'_, L>,
        weight: CudaView<'_, W>,
    ) -> Vec<W> {
        let spec = &case.spec;
        if spec.frozen {
            return by_codes(case);
        }
        let mut masked = self.upload(&case.weight);
        let args = mask::cuda::Forward::new(spec.shape, spec.kind, spec.sampling, logits).shard(case.shard);
        mask::cuda::forward_into(&self.stream, args.weight(weight).masked(all!(mut masked))).unwrap();
        self.download(&masked)
    }
}

#[test]
fn without_a_device_it_is_an_error_not_a_panic() {
    if let Err(error) = device::context(0) {
        assert!(matches!(error, Error::DriverUnavailable { .. } | Error::NoDevice { .. }), "{error}");
    }
}

#[test]
fn a_view_off_a_16_byte_boundary_is_an_error() {
    let Some(gpu) = Gpu::find() else { return };
    let case = Case::<f32, f32>::new(Spec { keep: Keep::Masked, ..Spec::new(3, 2, 8, Kind::Hard) });
    let (logits, weight, x) = (gpu.upload(&case.logits), gpu.upload(&case.weight), gpu.upload(&case.x));
    let (mut masked, mut y) = (gpu.upload(&case.weight), gpu.upload(&case.dy));
    let layer = cuda::Layer::new(case.spec.shape, Kind::Hard, case.spec.sampling, all!(logits), all!(weight));
    let args = cuda::Forward::new(layer, 3, x.slice(1..25), all!(mut y)).keep_masked(all!(mut masked));
    let plan = gpu.plan::<f32, f32>(&case.spec);
    let mut blas = gpu.blas.as_ref().map(RefCell::borrow_mut);
    let error = cuda::forward_into(&gpu.stream, blas.as_deref_mut(), &plan, args).unwrap_err();
    assert!(matches!(error, Error::Misaligned { what: "x", align: 16, .. }), "{error}");
}

/// What the emulator meets in kernels.rs, and sizes that it has no time for, again and again: on a GPU a race shows as
/// bits that differ.
#[test]
fn every_way_repeats_itself_to_the_bit() {
    let Some(gpu) = Gpu::find() else { return };
    let mut specs: Vec<Spec> = [kernels::edges(), kernels::rings(), kernels::splits()].concat();
    for (number, (tokens, rows, cols)) in
        [(300, 1032, 2048), (16, 2048, 4096), (128, 512, 4096), (140, 1031, 2056)].into_iter().enumerate()
    {
        for mut ways in kernels::WAYS {
            ways.panel_rows = Some(256);
            let kind = [Kind::Soft, Kind::Hard][number % 2];
            specs.push(Spec { ways, seed: number as u64, ..Spec::new(tokens, rows, cols, kind) });
        }
    }
    for spec in specs {
        kernels::check_types(spec.seed, spec, &gpu);
        let case = Case::<f32, bf16>::new(spec);
        let first = gpu.run(&case);
        for _ in 0..10 {
            let again = gpu.run(&case);
            let equal = first.y == again.y && first.dx == again.dx && first.logit_gradient == again.logit_gradient;
            assert!(equal, "{spec:?}");
        }
    }
}

/// Both passes are captured, and run only when their graph is launched, to the same bits.
#[test]
fn passes_are_captured_in_a_graph() {
    if Gpu::find().is_none() {
        return;
    }
    // A context object of its own, for event tracking is a matter of the object.
    let context = device::context(0).unwrap();
    // SAFETY: all that follows happens on one stream.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    let gpu = Gpu::on(&stream);
    for ways in kernels::WAYS {
        capture(&gpu, &Case::<f32, bf16>::new(Spec { ways, ..Spec::new(70, 1040, 320, Kind::Hard) }));
    }
}

fn capture(gpu: &Gpu, case: &Case<f32, bf16>) {
    let Case { spec, logits, weight, x, dy, .. } = case;
    let (stream, plan) = (&gpu.stream, gpu.plan::<f32, bf16>(spec));
    let (logits, weight, x, dy) = (gpu.upload(logits), gpu.upload(weight), gpu.upload(x), gpu.upload(dy));
    let mut workspace = gpu.upload(&vec![0u8; plan.workspace_bytes()]);
    let start = poisoned(case);
    let (mut y, mut dx) = (gpu.upload(&start.y), gpu.upload(&start.dx));
    let mut logit_gradient = gpu.upload(&start.logit_gradient);
    let mut blas = gpu.blas.as_ref().map(RefCell::borrow_mut);
    cuda::prepare::<f32, bf16>(stream, blas.as_deref_mut(), &plan).unwrap();
    let mut passes = || -> Result<(), Error> {
        let layer = || cuda::Layer::new(spec.shape, spec.kind, spec.sampling, all!(logits), all!(weight));
        let forward = cuda::Forward::new(layer(), spec.tokens, all!(x), all!(mut y)).workspace(all!(mut workspace));
        cuda::forward_into(stream, blas.as_deref_mut(), &plan, forward)?;
        let backward = cuda::Backward::new(layer(), spec.tokens, all!(dy)).input_gradient(all!(mut dx));
        let backward = backward.logit_gradient(all!(x), all!(mut logit_gradient)).workspace(all!(mut workspace));
        cuda::backward_into(stream, blas.as_deref_mut(), &plan, backward)
    };
    // cuBLASLt loads an algorithm's code when it first runs; own kernels are prepared.
    passes().unwrap();
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let captured = passes();
    let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
    captured.unwrap();
    let expected = (gpu.download(&y), gpu.download(&dx), gpu.download(&logit_gradient));
    stream.memset_zeros(&mut y).unwrap();
    stream.memset_zeros(&mut dx).unwrap();
    stream.memset_zeros(&mut logit_gradient).unwrap();
    graph.launch().unwrap();
    assert!(expected == (gpu.download(&y), gpu.download(&dx), gpu.download(&logit_gradient)));
}
