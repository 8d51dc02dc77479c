//! A GPU's executor, and what only it can get wrong.

use crate::case::{Case, Outputs, Spec};
use crate::executor::{Cpu, Executor, Number, by_codes, poisoned};
use std::cell::RefCell;
use std::sync::Arc;
use twofour::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use twofour::cudarc::driver::{CudaSlice, CudaStream, CudaView, DeviceRepr};
use twofour::device::{self, Limits};
use twofour::mask::{self, Kind};
use twofour::matmul::cuda::{self, BlasLt};
use twofour::matmul::{Keep, Plan};
use twofour::{Error, Logit};

pub(crate) struct Gpu {
    stream: Arc<CudaStream>,
    blas: RefCell<BlasLt>,
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
        Self { stream: Arc::clone(stream), blas: RefCell::new(BlasLt::new(stream).unwrap()), limits }
    }

    /// The driver gives no empty array: there is always an element more than the views below show.
    fn upload<T: DeviceRepr + Copy + Default>(&self, values: &[T]) -> CudaSlice<T> {
        let mut values = values.to_vec();
        values.push(T::default());
        self.stream.clone_htod(&values).unwrap()
    }

    fn download<T: DeviceRepr + Copy + Default>(&self, array: &CudaSlice<T>) -> Vec<T> {
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

    fn run<L: Logit + Number, W: Number>(&self, case: &Case<L, W>) -> Outputs<W> {
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
    fn passes<'l, L: Logit, W: Number + Default, M: Logit>(
        &self,
        case: &Case<L, W>,
        layer: impl Fn() -> cuda::Layer<'l, M, W>,
    ) -> Outputs<W> {
        let Case { spec, x, dy, before, .. } = case;
        let plan = spec.plan::<M, W>(&self.limits);
        let start = poisoned(case);
        let mut workspace = self.upload(&vec![0xffu8; plan.workspace_bytes()]);
        let (x, dy) = (self.upload(x), self.upload(dy));
        let mut y = self.upload(&start.y);
        let mut kept_masked = start.kept_masked.as_ref().map(|kept| self.upload(kept));
        let mut kept_codes = start.kept_codes.as_ref().map(|kept| self.upload(kept));
        let blas = &mut *self.blas.borrow_mut();
        let args = cuda::Forward::new(layer(), spec.tokens, all!(x), all!(mut y)).workspace(all!(mut workspace));
        let args = match (&mut kept_masked, &mut kept_codes) {
            (Some(kept), _) => args.keep_masked(all!(mut kept)),
            (_, Some(kept)) => args.keep_codes(all!(mut kept)),
            _ => args,
        };
        cuda::forward_into(&self.stream, Some(blas), &plan, args).unwrap();

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
        cuda::backward_into(&self.stream, Some(blas), &plan, args).unwrap();
        Outputs {
            masked: Vec::new(),
            kept_masked: kept_masked.map(|kept| self.download(&kept)),
            kept_codes: kept_codes.map(|kept| self.download(&kept)),
            y: self.download(&y),
            dx: self.download(&dx),
            logit_gradient: self.download(&logit_gradient),
        }
    }

    fn masked<L: Logit, W: Number + Default>(
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
    let plan = case.spec.plan::<f32, f32>(&gpu.limits);
    let error = cuda::forward_into(&gpu.stream, Some(&mut gpu.blas.borrow_mut()), &plan, args).unwrap_err();
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
    let case = Case::<f32, f32>::new(Spec { keep: Keep::Masked, ..Spec::new(16, 24, 32, Kind::Hard) });
    let plan: Plan = case.spec.plan::<f32, f32>(&gpu.limits);
    let (logits, weight, x) = (gpu.upload(&case.logits), gpu.upload(&case.weight), gpu.upload(&case.x));
    let (mut masked, mut y) = (gpu.upload(&case.weight), gpu.upload(&case.dy));
    let mut blas = BlasLt::new(&stream).unwrap();
    let mut pass = || {
        let layer = cuda::Layer::new(case.spec.shape, Kind::Hard, case.spec.sampling, all!(logits), all!(weight));
        let args = cuda::Forward::new(layer, 16, all!(x), all!(mut y)).keep_masked(all!(mut masked));
        cuda::forward_into(&stream, Some(&mut blas), &plan, args)
    };
    device::prepare(&stream).unwrap();
    pass().unwrap();
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let captured = pass();
    let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
    captured.unwrap();
    stream.memset_zeros(&mut y).unwrap();
    graph.launch().unwrap();
    let got = gpu.download(&y);
    let expected = Cpu.run(&case).y;
    for (got, expected) in got.iter().zip(&expected) {
        assert!((got - expected).abs() <= 1e-4 * (1.0 + expected.abs()), "{got} {expected}");
    }
}
