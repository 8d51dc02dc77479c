//! The product as a list of launches: from checked arguments in bare addresses, and a plan, to what is queued one after
//! the other. The CUDA executor runs such a list, and so does the emulator in tests.

use super::launch::{self, Kernel, Operands, SparseArgs, SumArgs};
use super::{Form, Multiply, Path, Plan, Weight};
use crate::compress::Layout;
use crate::dense::product::{Call, Product};
use crate::device::launch::{Launch, Symbol};
use crate::element::Factor;
use crate::error::{Error, Result, path_error};
use crate::space::{Raw, RawSlice};
pub use unpack::UnpackArgs;

pub(super) use unpack::unpack_step;

mod unpack;

/// One launch, or one call of a library.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "a handful of them lives for the length of a call")]
pub enum Step {
    /// The dense weight.
    Unpack(Launch<UnpackArgs>),
    /// The product by an own kernel.
    Product(Launch<SparseArgs>),
    /// Adds up its parts.
    Sum(Launch<SumArgs>),
    /// A product by cuBLASLt, of matrices at these addresses, with a bias at another.
    BlasLt(Call, [u64; 3], Option<u64>),
    /// The product by cuSPARSELt: the executor has all that is needed.
    Cusparselt,
}

impl Step {
    /// The kernel and its dynamic shared memory, unless it is a call of a library.
    #[must_use]
    pub fn kernel(&self) -> Option<(Symbol, u32)> {
        Some(match self {
            Self::Unpack(Launch { symbol, shared_bytes, .. }) => (*symbol, *shared_bytes),
            Self::Product(Launch { symbol, shared_bytes, .. }) => (*symbol, *shared_bytes),
            Self::Sum(Launch { symbol, shared_bytes, .. }) => (*symbol, *shared_bytes),
            Self::BlasLt(..) | Self::Cusparselt => return None,
        })
    }
}

/// The steps of a plan over operands that are not there: to load what they need.
///
/// # Errors
/// As [`Multiply::steps`], and [`Error::Unplanned`] for another type than the plan's.
pub fn rehearse<T: Factor>(plan: &Plan) -> Result<Vec<Step>> {
    let (problem, given) = (plan.problem(), plan.given());
    if plan.path() == Path::Cusparselt {
        plan.check(problem, T::DTYPE, given)?;
        return Ok(vec![Step::Cusparselt]);
    }
    let raw = |elements| RawSlice { address: 0, elements };
    let sizes = given.layout.sizes(problem.shape, T::DTYPE)?;
    let weight = Weight::<Raw, T>::new(problem.shape, given.layout, raw(sizes.values), raw(sizes.metadata));
    let args = Multiply::new(weight, problem.tokens, raw(problem.inputs()), raw(problem.outputs()));
    let args = if given.bias { args.bias(raw(problem.shape.rows)) } else { args };
    let args = if given.dense { args.dense(raw(problem.shape.weights())) } else { args };
    args.workspace(raw(plan.workspace_bytes())).steps(plan)
}

impl<T: Factor> Multiply<'_, '_, Raw, T> {
    /// What the product queues.
    ///
    /// # Errors
    /// What [`Multiply::check`] finds; [`Error::Unplanned`]; [`Error::Path`] for a weight in a form that the plan's way does
    /// not read; [`Error::Workspace`]; and [`Error::Overflow`] beyond what kernels count.
    pub fn steps(&self, plan: &Plan) -> Result<Vec<Step>> {
        self.check()?;
        plan.check(self.problem, T::DTYPE, self.given())?;
        let workspace = self.workspace.unwrap_or(RawSlice { address: 0, elements: 0 });
        if workspace.elements < plan.workspace_bytes() {
            return Err(Error::Workspace { needed: plan.workspace_bytes() as u64, got: workspace.elements as u64 });
        }
        let (layout, values, metadata) = match (self.weight.form, plan.path()) {
            (Form::Packed { .. }, Path::Cusparselt) => {
                return Err(path_error(
                    "a product by cuSPARSELt",
                    "this weight is not packed for it: see `Library::pack`",
                ));
            }
            (Form::Packed { layout, values, metadata }, _) => (layout, values, metadata),
            #[cfg(feature = "cuda")]
            (Form::Library { .. }, Path::Cusparselt) => return Ok(vec![Step::Cusparselt]),
            #[cfg(feature = "cuda")]
            (Form::Library { .. }, _) => {
                return Err(path_error(
                    "a product without cuSPARSELt",
                    "this weight was packed for it, which alone reads it",
                ));
            }
        };
        match plan.path() {
            Path::Small => self.own(Kernel::Small, plan, [values, metadata], workspace),
            Path::Tile => self.own(Kernel::Tile, plan, [values, metadata], workspace),
            _ => self.dense_steps(plan, layout, [values, metadata], workspace),
        }
    }

    fn own(
        &self,
        kernel: Kernel,
        plan: &Plan,
        [values, metadata]: [RawSlice; 2],
        workspace: RawSlice,
    ) -> Result<Vec<Step>> {
        let at = Operands {
            x: self.x.address,
            values: values.address,
            metadata: metadata.address,
            bias: self.bias.map(|bias| bias.address),
            y: self.y.address,
            partial: workspace.address,
        };
        let splits = plan.splits();
        let mut steps = vec![Step::Product(launch::product(kernel, self.problem, T::DTYPE, &at, splits)?)];
        if splits > 1 {
            steps.push(Step::Sum(launch::sum(self.problem, T::DTYPE, &at, splits)?));
        }
        Ok(steps)
    }

    fn dense_steps(
        &self,
        plan: &Plan,
        layout: Layout,
        [values, metadata]: [RawSlice; 2],
        workspace: RawSlice,
    ) -> Result<Vec<Step>> {
        let mut steps = Vec::with_capacity(2);
        // A copy that the plan does not know of is left alone.
        let weight = match self.dense {
            Some(dense) if plan.given().dense => dense.address,
            _ => {
                let dense = RawSlice { address: workspace.address, elements: self.problem.shape.weights() };
                steps.push(unpack_step::<T>(plan.limits(), self.problem.shape, layout, [values, metadata, dense])?);
                dense.address
            }
        };
        let call = Call { product: Product::output(self.problem, T::DTYPE), bias: self.bias.is_some() };
        let bias = self.bias.map(|bias| bias.address);
        steps.push(Step::BlasLt(call, [self.x.address, weight, self.y.address], bias));
        Ok(steps)
    }
}
