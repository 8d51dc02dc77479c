//! `matmul` on the first GPU: one set of operands, over which every way to a product can be captured, and cuBLASLt's
//! dense product beside them.

use super::super::mask::for_types;
use super::super::matmul::{Case, Inputs, LAMBDA, Op};
use super::{Cache, Replay, Result, Timed, sets, stream};
use std::sync::Arc;
use std::time::Duration;
use twofour::cudarc::cublaslt::{CudaBlasLT, Matmul, MatmulConfig};
use twofour::cudarc::driver::{CudaSlice, CudaStream};
use twofour::device::{self, Limits};
use twofour::mask::{self, Kind};
use twofour::matmul::{Keep, Masks, Plan, Problem, cuda};
use twofour::{Float, Logit};

/// What is timed: a product with the mask's part of it, or all three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Y,
    Dx,
    Dlogits,
    Step,
}

impl Part {
    pub const ALL: [Self; 4] = [Self::Y, Self::Dx, Self::Dlogits, Self::Step];

    /// How many dense products it is.
    pub const fn products(self) -> f64 {
        if matches!(self, Self::Step) { 3.0 } else { 1.0 }
    }
}

/// A way through a part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Way {
    /// As planned.
    Planned(Plan),
    /// As planned, but `W∘M` is there already: nothing but the dense product.
    Ready(Plan),
    /// cuBLASLt's dense products, through cudarc's own layer. The weight's gradient is of the weight's type, as a dense
    /// layer would have it.
    Dense,
}

/// Operands, with whatever their element types are.
pub trait Arena {
    /// A plan for the case on this device.
    fn plan(&self, keep: Keep) -> Result<Plan>;
    /// Makes room for what the plan works in. What was captured before may not be run any more.
    fn reserve(&mut self, bytes: usize) -> Result<()>;
    /// Runs in a graph, for as long as the arena lives.
    fn capture(&mut self, part: Part, way: Way) -> Result<Replay>;
    /// Whether they are of this case and cache.
    fn is_of(&self, case: &Case, cache: Cache) -> bool;
}

/// Operands of a case, whatever its op.
pub fn arena(case: Case, cache: Cache) -> Result<Box<dyn Arena>> {
    for_types!(case, boxed(case, cache))
}

fn boxed<L, W>(case: Case, cache: Cache) -> Result<Box<dyn Arena>>
where
    L: Logit,
    W: Float,
    CudaBlasLT: Matmul<W>,
{
    Ok(Box::new(Operands::<L, W>::new(case, cache)?))
}

/// A case's op as the plan would have it.
pub fn on_cuda(case: Case, cache: Cache) -> Result<Box<dyn Timed>> {
    let mut arena = arena(case, cache)?;
    let plan = arena.plan(case.keep())?;
    arena.reserve(plan.workspace_bytes())?;
    let part = match case.op {
        Op::Forward => Part::Y,
        Op::Backward => return Err("a backward pass by itself is timed by its products".into()),
        Op::Step => Part::Step,
    };
    let replay = arena.capture(part, Way::Planned(plan))?;
    Ok(Box::new(Alone { replay, _arena: arena }))
}

/// A graph and the memory that it reads and writes, which goes after it.
struct Alone {
    replay: Replay,
    _arena: Box<dyn Arena>,
}

impl Timed for Alone {
    fn time(&mut self, iterations: u64) -> Result<Duration> {
        self.replay.time(iterations)
    }
}

struct Operands<L, W> {
    case: Case,
    cache: Cache,
    stream: Arc<CudaStream>,
    limits: Limits,
    /// Take turns; they share what follows.
    sets: Vec<Set<L, W>>,
    shared: Shared,
}

struct Shared {
    blas: cuda::BlasLt,
    dense: CudaBlasLT,
    workspace: CudaSlice<u8>,
}

struct Set<L, W> {
    logits: CudaSlice<L>,
    weight: CudaSlice<W>,
    x: CudaSlice<W>,
    dy: CudaSlice<W>,
    masked: CudaSlice<W>,
    codes: CudaSlice<u8>,
    y: CudaSlice<W>,
    dx: CudaSlice<W>,
    /// Of a dense weight.
    gradient: CudaSlice<W>,
    logit_gradient: CudaSlice<f32>,
}

impl<L, W> Operands<L, W>
where
    L: Logit,
    W: Float,
    CudaBlasLT: Matmul<W>,
{
    fn new(case: Case, cache: Cache) -> Result<Self> {
        let stream = stream()?;
        let problem = case.problem();
        // A dense product reads and writes the least.
        let least = (problem.shape.weights() + problem.inputs() + problem.outputs()) * W::DTYPE.size();
        let sets = (0..sets(cache, least as u64)).map(|number| Set::new(&stream, &case, number));
        Ok(Self {
            sets: sets.collect::<Result<_>>()?,
            shared: Shared {
                blas: cuda::BlasLt::new(&stream)?,
                dense: CudaBlasLT::new(Arc::clone(&stream))?,
                workspace: stream.alloc_zeros(1)?,
            },
            limits: device::limits(stream.context())?,
            case,
            cache,
            stream,
        })
    }
}

impl<L, W> Arena for Operands<L, W>
where
    L: Logit,
    W: Float,
    CudaBlasLT: Matmul<W>,
{
    fn plan(&self, keep: Keep) -> Result<Plan> {
        Ok(Plan::new::<L, W>(&self.limits, self.case.problem(), Masks::Sampled(self.case.kind), keep)?)
    }

    fn reserve(&mut self, bytes: usize) -> Result<()> {
        if self.shared.workspace.len() < bytes {
            self.shared.workspace = self.stream.alloc_zeros(bytes)?;
        }
        Ok(())
    }

    fn capture(&mut self, part: Part, way: Way) -> Result<Replay> {
        let Self { case, stream, sets, shared, .. } = self;
        let count = sets.len();
        Replay::lasting(stream, count, |run| sets[run % count].queue(stream, shared, case, part, &way))
    }

    fn is_of(&self, case: &Case, cache: Cache) -> bool {
        (Case { op: self.case.op, ..*case }, cache) == (self.case, self.cache)
    }
}

impl<L, W> Set<L, W>
where
    L: Logit,
    W: Float,
    CudaBlasLT: Matmul<W>,
{
    fn new(stream: &Arc<CudaStream>, case: &Case, number: usize) -> Result<Self> {
        let problem = case.problem();
        let Inputs { logits, weight, x, dy } = Inputs::<L, W>::new(problem, number);
        let mut set = Self {
            logits: stream.clone_htod(&logits)?,
            weight: stream.clone_htod(&weight)?,
            x: stream.clone_htod(&x)?,
            dy: stream.clone_htod(&dy)?,
            masked: stream.alloc_zeros(problem.shape.weights())?,
            codes: stream.alloc_zeros(problem.shape.packed_codes())?,
            y: stream.alloc_zeros(problem.outputs())?,
            dx: stream.alloc_zeros(problem.inputs())?,
            gradient: stream.alloc_zeros(problem.shape.weights())?,
            logit_gradient: stream.alloc_zeros(problem.shape.logits())?,
        };
        // What a forward pass would have kept.
        let Self { logits, weight, masked, codes, .. } = &mut set;
        let args = mask::cuda::Forward::new(case.shape, case.kind, case.sampling(), logits.as_view());
        let args = args.weight(weight.as_view()).masked(masked.as_view_mut());
        let args = if case.kind == Kind::Soft { args } else { args.codes(codes.as_view_mut()) };
        mask::cuda::forward_into(stream, args)?;
        Ok(set)
    }

    fn queue(&mut self, on: &Arc<CudaStream>, with: &mut Shared, case: &Case, part: Part, way: &Way) -> Result<()> {
        let (plan, ready) = match way {
            Way::Planned(plan) => (plan, false),
            Way::Ready(plan) => (plan, true),
            Way::Dense => return self.dense(&with.dense, case.problem(), part),
        };
        if matches!(part, Part::Y | Part::Step) {
            self.forward(on, with, case, plan, ready)?;
        }
        if part == Part::Y { Ok(()) } else { self.backward(on, with, case, plan, part) }
    }

    fn forward(
        &mut self,
        on: &Arc<CudaStream>,
        with: &mut Shared,
        case: &Case,
        plan: &Plan,
        ready: bool,
    ) -> Result<()> {
        let layer =
            cuda::Layer::new(case.shape, case.kind, case.sampling(), self.logits.as_view(), self.weight.as_view());
        let args = cuda::Forward::new(layer, case.tokens, self.x.as_view(), self.y.as_view_mut());
        let args = args.workspace(with.workspace.as_view_mut());
        let args = match plan.keep() {
            Keep::Nothing => args,
            Keep::Masked if ready => args.kept_masked(self.masked.as_view()),
            Keep::Masked => args.keep_masked(self.masked.as_view_mut()),
            Keep::Codes => args.keep_codes(self.codes.as_view_mut()),
        };
        Ok(cuda::forward_into(on, Some(&mut with.blas), plan, args)?)
    }

    fn backward(
        &mut self,
        on: &Arc<CudaStream>,
        with: &mut Shared,
        case: &Case,
        plan: &Plan,
        part: Part,
    ) -> Result<()> {
        let layer =
            cuda::Layer::new(case.shape, case.kind, case.sampling(), self.logits.as_view(), self.weight.as_view());
        let args = cuda::Backward::new(layer, case.tokens, self.dy.as_view()).regulariser(LAMBDA);
        let args = args.workspace(with.workspace.as_view_mut());
        let mut args = match plan.keep() {
            Keep::Nothing => args,
            Keep::Masked => args.kept_masked(self.masked.as_view()),
            Keep::Codes => args.kept_codes(self.codes.as_view()),
        };
        if part != Part::Dlogits {
            args = args.input_gradient(self.dx.as_view_mut());
        }
        if part != Part::Dx {
            args = args.logit_gradient(self.x.as_view(), self.logit_gradient.as_view_mut());
        }
        Ok(cuda::backward_into(on, Some(&mut with.blas), plan, args)?)
    }

    /// The same products of a dense weight. cuBLASLt is column-major and sees the transpose of each matrix: so `Yᵀ = W Xᵀ`,
    /// `dXᵀ = Wᵀ dYᵀ` and `Gᵀ = Xᵀ dY` are asked for, in operands `a`, `b` and `c`.
    fn dense(&mut self, blas: &CudaBlasLT, problem: Problem, part: Part) -> Result<()> {
        let [tokens, rows, cols] = [problem.tokens, problem.shape.rows, problem.shape.cols];
        let Self { weight, x, dy, y, dx, gradient, .. } = self;
        let product = |sizes, transposed| product(sizes, transposed);
        if matches!(part, Part::Y | Part::Step) {
            // SAFETY: the arrays are as long as the problem says, which is what the sizes are made of.
            unsafe { blas.matmul(product([rows, tokens, cols], [true, false]), &*weight, &*x, y, None, None) }?;
        }
        if matches!(part, Part::Dx | Part::Step) {
            // SAFETY: as above.
            unsafe { blas.matmul(product([cols, tokens, rows], [false, false]), &*weight, &*dy, dx, None, None) }?;
        }
        if matches!(part, Part::Dlogits | Part::Step) {
            // SAFETY: as above.
            unsafe { blas.matmul(product([cols, rows, tokens], [false, true]), &*x, &*dy, gradient, None, None) }?;
        }
        Ok(())
    }
}

/// `C [m, n] = A [m, k] B [k, n]`, column-major, each operand possibly stored as its transpose, without gaps.
fn product([m, n, k]: [usize; 3], [transa, transb]: [bool; 2]) -> MatmulConfig {
    let leading = |rows, cols, transposed| (if transposed { cols } else { rows }) as i64;
    MatmulConfig {
        transa,
        transb,
        transc: false,
        m: m as u64,
        n: n as u64,
        k: k as u64,
        alpha: 1.0,
        lda: leading(m, k, transa),
        ldb: leading(k, n, transb),
        beta: 0.0,
        ldc: m as i64,
        stride_a: None,
        stride_b: None,
        stride_c: None,
        stride_bias: None,
        batch_size: None,
    }
}
