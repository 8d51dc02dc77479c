//! `matmul` on the first GPU: sets of operands, over which every route to a product can be captured, and cuBLASLt's
//! dense product beside them.

use super::super::mask::for_types;
use super::super::matmul::{Case, Gradients, Operands, Part};
use super::super::{Cache, Place, Result, Timed};
use super::routes::Race;
use super::{Replay, sets, stream};
use std::sync::Arc;
use std::time::Duration;
use twofour::cudarc::cublaslt::{CudaBlasLT, Matmul, MatmulConfig};
use twofour::matmul::{Keep, Plan, Problem};
use twofour::space::{Input, Output};
use twofour::{Buffer, Executor, Float, Gpu, Logit};

/// A route through a part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Route<L: Logit, W: Float> {
    /// As planned.
    Planned(Plan<L, W>),
    /// As planned, but `W∘M` is there already: nothing but the dense product.
    Ready(Plan<L, W>),
    /// As planned, but the logits step by a gradient in memory.
    Apart(Plan<L, W>),
    /// cuBLASLt's dense products, through cudarc's own layer. The weight's gradient is of the weight's type, as a dense
    /// layer would have it.
    Dense,
}

/// Operands, with whatever their element types are.
pub trait Arena {
    /// Every route through a part, in turn, for so many rounds. What was captured before may not be run any more.
    fn race(&mut self, part: Part, rounds: usize) -> Result<Race>;
    /// A part as the plan has it, in a graph, for as long as the arena lives.
    fn planned(&mut self, part: Part, keep: Keep) -> Result<Replay>;
    /// Whether they are of this case and cache.
    fn is_of(&self, case: &Case, cache: Cache) -> bool;
}

/// Operands of a case, for each of its parts.
pub fn arena(case: Case, cache: Cache) -> Result<Box<dyn Arena>> {
    for_types!(case, boxed(case, cache))
}

fn boxed<L: Logit, W: Float>(case: Case, cache: Cache) -> Result<Box<dyn Arena>>
where
    CudaBlasLT: Matmul<W>,
{
    Ok(Box::new(Sets::<L, W>::new(case, cache)?))
}

/// A case as the plan would have it.
pub fn ready(case: Case, cache: Cache) -> Result<Box<dyn Timed>> {
    let mut arena = arena(case, cache)?;
    let replay = arena.planned(case.part, case.keep(Place::Gpu(cache)))?;
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

/// Operands that take turns, and what they share.
pub struct Sets<L: Logit, W: Float> {
    pub case: Case,
    pub cache: Cache,
    sets: Vec<Set<L, W>>,
    shared: Shared,
}

struct Shared {
    gpu: Gpu,
    dense: CudaBlasLT,
    workspace: Buffer<u8>,
}

struct Set<L: Logit, W: Float> {
    operands: Operands<Gpu, L, W>,
    /// Of a dense weight.
    gradient: Buffer<W>,
}

impl<L: Logit, W: Float> Sets<L, W>
where
    CudaBlasLT: Matmul<W>,
{
    fn new(case: Case, cache: Cache) -> Result<Self> {
        let stream = stream()?;
        let mut gpu = Gpu::new(&stream)?;
        let sets = (0..sets(cache, case.least_bytes())).map(|number| {
            let operands = Operands::new(&mut gpu, case, number)?;
            Ok(Set { operands, gradient: gpu.zeros(case.shape.weights())? })
        });
        let sets = sets.collect::<Result<_>>()?;
        let shared = Shared { workspace: gpu.zeros(0)?, dense: CudaBlasLT::new(Arc::clone(&stream))?, gpu };
        Ok(Self { case, cache, sets, shared })
    }

    /// A plan for the case on this device.
    pub fn plan(&self, keep: Keep) -> Result<Plan<L, W>> {
        let first = self.sets.first().ok_or("no operands")?;
        Ok(first.operands.layer().plan(&self.shared.gpu, self.case.tokens, keep)?)
    }

    /// Makes room for what the plan works in. What was captured before may not be run any more.
    pub fn reserve(&mut self, bytes: usize) -> Result<()> {
        if self.shared.workspace.len() < bytes {
            self.shared.workspace = self.shared.gpu.zeros(bytes)?;
        }
        Ok(())
    }

    /// Runs in a graph, for as long as this lives.
    pub fn capture(&mut self, part: Part, route: Route<L, W>) -> Result<Replay> {
        let Self { sets, shared, .. } = self;
        let (count, stream) = (sets.len(), Arc::clone(shared.gpu.stream()));
        Replay::lasting(&stream, count, |run| sets[run % count].queue(shared, part, &route))
    }
}

impl<L: Logit, W: Float> Arena for Sets<L, W>
where
    CudaBlasLT: Matmul<W>,
{
    fn race(&mut self, part: Part, rounds: usize) -> Result<Race> {
        Race::run(self, part, rounds)
    }

    fn planned(&mut self, part: Part, keep: Keep) -> Result<Replay> {
        let plan = self.plan(keep)?;
        self.reserve(plan.workspace_bytes())?;
        self.capture(part, Route::Planned(plan))
    }

    fn is_of(&self, case: &Case, cache: Cache) -> bool {
        (Case { part: self.case.part, ..*case }, cache) == (self.case, self.cache)
    }
}

impl<L: Logit, W: Float> Set<L, W>
where
    CudaBlasLT: Matmul<W>,
{
    fn queue(&mut self, with: &mut Shared, part: Part, route: &Route<L, W>) -> Result<()> {
        let (plan, by_masked) = match route {
            Route::Planned(plan) if part == Part::Learn => {
                return Ok(self.operands.step(&mut with.gpu, plan, Some(&mut with.workspace))?);
            }
            Route::Apart(plan) => {
                self.operands.backward(&mut with.gpu, plan, Some(&mut with.workspace), Gradients::BOTH)?;
                return Ok(self.operands.update(&mut with.gpu)?);
            }
            Route::Planned(plan) => (plan, false),
            Route::Ready(plan) => (plan, true),
            Route::Dense => return self.dense(&with.dense, part),
        };
        let Shared { gpu, workspace, .. } = with;
        if matches!(part, Part::Y | Part::Step) {
            self.operands.forward(gpu, plan, Some(workspace), by_masked)?;
        }
        if let Some(gradients) = part.gradients() {
            self.operands.backward(gpu, plan, Some(workspace), gradients)?;
        }
        Ok(())
    }

    /// The same products of a dense weight. cuBLASLt is column-major and sees the transpose of each matrix: so
    /// `Yᵀ = W Xᵀ`, `dXᵀ = Wᵀ dYᵀ` and `Gᵀ = Xᵀ dY` are asked for, in operands `a`, `b` and `c`.
    fn dense(&mut self, blas: &CudaBlasLT, part: Part) -> Result<()> {
        let Self { operands: Operands { case, weight, x, dy, y, dx, .. }, gradient } = self;
        let Problem { tokens, shape } = case.problem();
        let [tokens, rows, cols] = [tokens, shape.rows, shape.cols];
        let (weight, x, dy) = (weight.input(), x.input(), dy.input());
        if matches!(part, Part::Y | Part::Step) {
            // SAFETY: the arrays are as long as the problem says, which is what the sizes are made of.
            unsafe {
                blas.matmul(product([rows, tokens, cols], [true, false]), &weight, &x, &mut y.output(), None, None)
            }?;
        }
        if matches!(part, Part::Dx | Part::Step | Part::Learn) {
            // SAFETY: as above.
            unsafe {
                blas.matmul(product([cols, tokens, rows], [false, false]), &weight, &dy, &mut dx.output(), None, None)
            }?;
        }
        if matches!(part, Part::Dlogits | Part::Step | Part::Learn) {
            // SAFETY: as above.
            unsafe {
                blas.matmul(product([cols, rows, tokens], [false, true]), &x, &dy, &mut gradient.output(), None, None)
            }?;
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
