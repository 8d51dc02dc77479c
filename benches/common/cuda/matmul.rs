//! `matmul` on the first GPU.

use super::super::mask::{Inputs, for_types};
use super::super::matmul::{Case, Op};
use super::{Cache, Result, Timed, data, replayed, sets, stream};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use twofour::cudarc::driver::{CudaSlice, CudaStream, DeviceRepr};
use twofour::mask::{GradientOf, Kind};
use twofour::matmul::{Problem, cuda};
use twofour::{Element, Logit};

/// A case on the first GPU.
pub fn on_cuda(case: Case, cache: Cache) -> Result<Box<dyn Timed>> {
    for_types!(case, captured(case, cache))
}

fn captured<L, W>(case: Case, cache: Cache) -> Result<Box<dyn Timed>>
where
    L: Logit + DeviceRepr,
    W: Element + DeviceRepr + GradientOf<W>,
{
    let stream = stream()?;
    let mut blas = cuda::BlasLt::new(&stream)?;
    blas.prepare::<W>(Problem::new(case.tokens, case.shape))?;
    let blas = Rc::new(RefCell::new(blas));
    let set = |set| Operands::<L, W>::new(&stream, &blas, &case, set);
    let operands: Result<Vec<_>> = (0..sets(cache, case.bytes())).map(set).collect();
    replayed(&stream, operands?, |set, _| set.run(&stream, &case))
}

struct Operands<L, W> {
    /// The one of all sets. Its work space is in the graph, so it stays as long as they.
    blas: Rc<RefCell<cuda::BlasLt>>,
    logits: CudaSlice<L>,
    weight: CudaSlice<W>,
    x: CudaSlice<W>,
    dy: CudaSlice<W>,
    masked: CudaSlice<W>,
    y: CudaSlice<W>,
    dx: CudaSlice<W>,
    gradient: CudaSlice<f32>,
    logit_gradient: CudaSlice<f32>,
}

impl<L, W> Operands<L, W>
where
    L: Logit + DeviceRepr,
    W: Element + DeviceRepr + GradientOf<W>,
{
    fn new(stream: &Arc<CudaStream>, blas: &Rc<RefCell<cuda::BlasLt>>, case: &Case, set: usize) -> Result<Self> {
        let problem = Problem::new(case.tokens, case.shape);
        let Inputs { logits, weight, .. } = Inputs::<L, W>::new(case.shape, set);
        let normal = |len, deviation| stream.clone_htod(&data::normal::<W>(len, deviation, set + 3));
        Ok(Self {
            blas: Rc::clone(blas),
            logits: stream.clone_htod(&logits)?,
            masked: stream.clone_htod(&weight)?,
            weight: stream.clone_htod(&weight)?,
            x: normal(problem.inputs(), 1.0)?,
            dy: normal(problem.outputs(), 0.001)?,
            y: normal(problem.outputs(), 1.0)?,
            dx: normal(problem.inputs(), 1.0)?,
            gradient: stream.alloc_zeros(case.shape.weights())?,
            logit_gradient: stream.alloc_zeros(case.shape.logits())?,
        })
    }

    fn run(&mut self, stream: &Arc<CudaStream>, case: &Case) -> Result<()> {
        let Self { blas, logits, weight, x, dy, masked, y, dx, gradient, logit_gradient } = self;
        let (logits, weight) = (logits.as_view(), weight.as_view());
        let layer = cuda::Layer::new(case.shape, Kind::Soft, case.sampling(), logits, weight);
        let blas = &mut blas.borrow_mut();
        if case.op == Op::Forward {
            let args = cuda::Forward::new(layer, case.tokens, x.as_view(), masked.as_view_mut(), y.as_view_mut());
            return Ok(cuda::forward_into(stream, blas, args)?);
        }
        let args = cuda::Backward::new(layer, case.tokens, dy.as_view());
        let args = args.input_gradient(masked.as_view(), dx.as_view_mut());
        let args = args.logit_gradient(x.as_view(), gradient.as_view_mut(), logit_gradient.as_view_mut());
        Ok(cuda::backward_into(stream, blas, args)?)
    }
}
