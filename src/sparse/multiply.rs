//! The product's arguments.

#[cfg(doc)]
use super::plan::Route;
use super::plan::{Given, Plan};
use super::{Factor, Weight, cpu, launch};
use crate::check::length;
use crate::compress::Layout;
use crate::dense::Problem;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::pass::{self, Binder, Checked, DeviceSpace, Pass, Queue};
use crate::space::{HostSpace, Input, Output, Space};

/// Arguments of the product; with memory that an executor has allocated, [`Plan::multiply`] makes them.
///
/// Shapes: `x [T, K]`, `bias [N]`, `dense [N, K]`, `y [T, N]`, which is overwritten. On a device every operand starts
/// on a 16-byte boundary.
///
/// # Errors
/// When run: [`Error::NotGrouped`], [`Error::Overflow`] (also for rows of 2³² columns and more), [`Error::Layout`],
/// [`Error::Length`]; [`Error::Unplanned`] unless they are what their plan is for. On the CPU [`Error::IllegalCode`]
/// with the first group whose code is not legal, and [`Error::Unsupported`] for a weight that cuSPARSELt alone can
/// read. On a device [`Error::Missing`] without a plan, [`Error::Workspace`], and [`Error::Unsupported`] for a weight
/// in a form that the plan's route does not read.
pub struct Multiply<'a, S: Space, T: Factor> {
    pub(super) problem: Problem,
    pub(super) weight: Weight<'a, S, T>,
    pub(super) x: S::Ref<'a, T>,
    pub(super) bias: Option<S::Ref<'a, T::Output>>,
    pub(super) dense: Option<S::Ref<'a, T>>,
    pub(super) y: S::Mut<'a, T::Output>,
    pub(super) plan: Option<Plan<T>>,
    pub(super) workspace: Option<S::Mut<'a, u8>>,
}

impl<'a, S: Space, T: Factor> Multiply<'a, S, T> {
    /// `tokens` rows of `x` by the weight.
    #[must_use]
    pub fn new(
        weight: &'a Weight<'_, S, T>,
        tokens: usize,
        x: impl Input<'a, Space = S, Element = T>,
        y: impl Output<'a, Space = S, Element = T::Output>,
    ) -> Self {
        let problem = Problem::new(tokens, weight.shape);
        let (weight, x, y) = (weight.share(), x.input(), y.output());
        Self { problem, weight, x, bias: None, dense: None, y, plan: None, workspace: None }
    }

    /// Adds `bias[n]` to column `n`, before the sums are rounded. For a plan with [`Given::bias`].
    #[must_use]
    pub fn bias(mut self, bias: impl Input<'a, Space = S, Element = T::Output>) -> Self {
        self.bias = Some(bias.input());
        self
    }

    /// The same weight decompressed: [`Route::Dense`] need not write it then. For a plan with [`Given::dense`]; other
    /// routes, and the CPU, leave it alone.
    #[must_use]
    pub fn dense(mut self, dense: impl Input<'a, Space = S, Element = T>) -> Self {
        self.dense = Some(dense.input());
        self
    }

    /// How a device is to do it. The CPU needs none.
    #[must_use]
    pub fn plan(mut self, plan: &Plan<T>) -> Self {
        self.plan = Some(*plan);
        self
    }

    /// Memory to work in, at least [`Plan::workspace_bytes`]; its content is lost. The CPU needs none.
    #[must_use]
    pub fn workspace(mut self, workspace: impl Output<'a, Space = S, Element = u8>) -> Self {
        self.workspace = Some(workspace.output());
        self
    }

    /// What a plan for these arguments is given.
    #[must_use]
    pub fn given(&self) -> Given {
        Given {
            layout: self.weight.layout().unwrap_or(Layout::CutlassSm80),
            dense: self.dense.is_some(),
            bias: self.bias.is_some(),
        }
    }
}

impl<S: Space, T: Factor> std::fmt::Debug for Multiply<'_, S, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (problem, given) = (self.problem, self.given());
        f.debug_struct("Multiply").field("problem", &problem).field("given", &given).finish_non_exhaustive()
    }
}

impl<S: Space, T: Factor> pass::Sealed for Multiply<'_, S, T> {}
impl<S: Space, T: Factor> Pass<S> for Multiply<'_, S, T> {
    fn check(&self) -> Result<()> {
        self.problem.check()?;
        self.weight.check()?;
        length("x", Some(&self.x), self.problem.inputs())?;
        length("bias", self.bias.as_ref(), self.problem.shape.rows)?;
        length("dense", self.dense.as_ref(), self.problem.shape.weights())?;
        length("y", Some(&self.y), self.problem.outputs())?;
        self.plan.map_or(Ok(()), |plan| plan.check(self.problem, self.given()))
    }

    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace,
    {
        cpu::multiply(pass.into_inner())
    }

    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        launch::multiply(pass.inner(), binder, queue)
    }
}
