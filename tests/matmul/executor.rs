//! The executors the suite runs against: the CPU's, and the GPU's where there is one.

use crate::case::{Case, Outputs};
use twofour::mask::{GradientOf, Kind};
use twofour::matmul::cpu;
use twofour::{Element, Logit};

/// What every executor takes.
#[cfg(feature = "cuda")]
pub(crate) trait Number: Element + twofour::cudarc::driver::DeviceRepr {}
#[cfg(feature = "cuda")]
impl<T: Element + twofour::cudarc::driver::DeviceRepr> Number for T {}
#[cfg(not(feature = "cuda"))]
pub(crate) trait Number: Element {}
#[cfg(not(feature = "cuda"))]
impl<T: Element> Number for T {}

pub(crate) trait Executor {
    /// Runs both passes of a case. Outputs hold NaN before.
    fn run<L: Logit + Number, W: Number>(&self, case: &Case<L, W>) -> Outputs<W>
    where
        f32: GradientOf<W>;
}

pub(crate) struct Cpu;

impl Executor for Cpu {
    fn run<L: Logit + Number, W: Number>(&self, case: &Case<L, W>) -> Outputs<W>
    where
        f32: GradientOf<W>,
    {
        let Case { spec, shard, logits, weight, x, dy, before } = case;
        let layer = cpu::Layer::new(spec.shape, spec.kind, spec.sampling, logits, weight).shard(*shard);
        let mut out = poisoned(case);
        cpu::forward_into(cpu::Forward::new(layer, spec.tokens, x, &mut out.masked, &mut out.y)).unwrap();

        let mut again = vec![W::from_f32(f32::NAN); weight.len()];
        let mut args = cpu::Backward::new(layer, spec.tokens, dy).regulariser(spec.regulariser);
        args = match spec.resample {
            true => args.resample_input_gradient(&mut again, &mut out.dx),
            false => args.input_gradient(&out.masked, &mut out.dx),
        };
        if spec.accumulate {
            out.logit_gradient.copy_from_slice(before);
        }
        args = match (spec.kind, spec.accumulate) {
            (Kind::Argmax, _) => args,
            (_, true) => args.accumulate_logit_gradient(x, &mut out.gradient, &mut out.logit_gradient),
            (_, false) => args.logit_gradient(x, &mut out.gradient, &mut out.logit_gradient),
        };
        cpu::backward_into(args).unwrap();
        if spec.resample {
            assert!(again.iter().zip(&out.masked).all(|(a, b)| same(*a, *b)), "resampled masks differ");
        }
        out
    }
}

fn poisoned<L: Logit, W: Element>(case: &Case<L, W>) -> Outputs<W> {
    let (shape, problem) = (case.spec.shape, case.spec.problem());
    let nan = |elements| vec![W::from_f32(f32::NAN); elements];
    Outputs {
        masked: nan(shape.weights()),
        y: nan(problem.outputs()),
        dx: nan(problem.inputs()),
        gradient: vec![f32::NAN; shape.weights()],
        logit_gradient: vec![f32::NAN; shape.logits()],
    }
}

/// Equal bits, or both NaN.
pub(crate) fn same<T: Element>(a: T, b: T) -> bool {
    a.to_f32().to_bits() == b.to_f32().to_bits() || (a.to_f32().is_nan() && b.to_f32().is_nan())
}

#[cfg(feature = "cuda")]
pub(crate) use gpu::Gpu;

#[cfg(feature = "cuda")]
mod gpu {
    use super::*;
    use std::cell::RefCell;
    use std::sync::Arc;
    use twofour::cudarc::driver::{CudaSlice, CudaStream, DeviceRepr};
    use twofour::device;
    use twofour::matmul::cuda::{self, BlasLt};

    pub(crate) struct Gpu {
        pub(crate) stream: Arc<CudaStream>,
        pub(crate) blas: RefCell<BlasLt>,
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

        pub(crate) fn on(stream: &Arc<CudaStream>) -> Self {
            Self { stream: Arc::clone(stream), blas: RefCell::new(BlasLt::new(stream).unwrap()) }
        }

        /// The driver gives no empty array: there is always an element more than the views below show.
        pub(crate) fn upload<T: Element + DeviceRepr>(&self, values: &[T]) -> CudaSlice<T> {
            let mut values = values.to_vec();
            values.push(T::zeroed());
            self.stream.clone_htod(&values).unwrap()
        }

        fn download<T: Element + DeviceRepr>(&self, array: &CudaSlice<T>) -> Vec<T> {
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
        fn run<L: Logit + Number, W: Number>(&self, case: &Case<L, W>) -> Outputs<W>
        where
            f32: GradientOf<W>,
        {
            let Case { spec, shard, logits, weight, x, dy, before } = case;
            let (logits, weight) = (self.upload(logits), self.upload(weight));
            let (x, dy) = (self.upload(x), self.upload(dy));
            let layer =
                || cuda::Layer::new(spec.shape, spec.kind, spec.sampling, all!(logits), all!(weight)).shard(*shard);
            let start = poisoned(case);
            let mut masked = self.upload(&start.masked);
            let mut y = self.upload(&start.y);
            let blas = &mut *self.blas.borrow_mut();
            let args = cuda::Forward::new(layer(), spec.tokens, all!(x), all!(mut masked), all!(mut y));
            cuda::forward_into(&self.stream, blas, args).unwrap();

            let mut again = self.upload(&start.masked);
            let mut dx = self.upload(&start.dx);
            let mut gradient = self.upload(&start.gradient);
            let mut logit_gradient = self.upload(if spec.accumulate { before } else { &start.logit_gradient });
            let mut args = cuda::Backward::new(layer(), spec.tokens, all!(dy)).regulariser(spec.regulariser);
            args = match spec.resample {
                true => args.resample_input_gradient(all!(mut again), all!(mut dx)),
                false => args.input_gradient(all!(masked), all!(mut dx)),
            };
            args = match (spec.kind, spec.accumulate) {
                (Kind::Argmax, _) => args,
                (_, true) => args.accumulate_logit_gradient(all!(x), all!(mut gradient), all!(mut logit_gradient)),
                (_, false) => args.logit_gradient(all!(x), all!(mut gradient), all!(mut logit_gradient)),
            };
            cuda::backward_into(&self.stream, blas, args).unwrap();
            let masked = self.download(&masked);
            if spec.resample {
                assert!(self.download(&again).iter().zip(&masked).all(|(a, b)| same(*a, *b)));
            }
            let (y, dx) = (self.download(&y), self.download(&dx));
            Outputs {
                masked,
                y,
                dx,
                gradient: self.download(&gradient),
                logit_gradient: self.download(&logit_gradient),
            }
        }
    }
}
