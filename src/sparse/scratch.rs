//! What a product works in, allocated for its plan, and the product in it.

use std::fmt;

use super::plan::{Plan, Route};
use super::{Factor, Multiply, Weight};
use crate::cusparselt;
use crate::error::Result;
use crate::pass::{self, Executor, Queue, Work};
use crate::space::{Input, Output, Raw, RawSlice};

/// Memory for the products of a plan; it is not empty only on a device, and where the plan needs some.
pub struct Scratch<E: Executor> {
    workspace: Option<E::Buffer<u8>>,
}

impl<E: Executor> fmt::Debug for Scratch<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").field("is_empty", &self.workspace.is_none()).finish()
    }
}

impl<T: Factor> Plan<T> {
    /// `Y = X Wᵀ` of this weight, in memory that was allocated for the plan.
    #[must_use]
    pub fn multiply<'a, E: Executor>(
        &self,
        weight: &'a Weight<'_, E::Space, T>,
        x: impl Input<'a, Space = E::Space, Element = T>,
        y: impl Output<'a, Space = E::Space, Element = T::Output>,
        scratch: &'a mut Scratch<E>,
    ) -> Multiply<'a, E::Space, T> {
        let pass = Multiply::new(weight, self.problem().tokens, x, y).plan(self);
        match &mut scratch.workspace {
            Some(workspace) => pass.workspace(E::output(workspace)),
            None => pass,
        }
    }
}

impl<T: Factor> pass::Plan for Plan<T> {
    type Scratch<E: Executor> = Scratch<E>;

    fn scratch<E: Executor>(&self, on: &E) -> Result<Scratch<E>> {
        let bytes = match self.route() {
            Route::Cusparselt => on.cusparselt_bytes(&self.form())?,
            _ => self.workspace_bytes(),
        };
        Ok(Scratch { workspace: on.workspace(bytes)? })
    }

    fn rehearse(&self, queue: &mut Queue) -> Result<()> {
        if self.route() == Route::Cusparselt {
            let (form, nothing) = (self.form(), RawSlice::nowhere(0));
            let bias = form.bias.then_some(0);
            let [weight, workspace] = [nothing; 2];
            let call = cusparselt::Call { form, origin: None, weight, input: 0, output: 0, bias, workspace };
            queue.push(Work::Cusparselt(call));
            return Ok(());
        }
        let (problem, given) = (self.problem(), self.given());
        let sizes = given.layout.sizes(problem.shape, T::DTYPE)?;
        let (values, metadata) = (RawSlice::nowhere(sizes.values), RawSlice::nowhere(sizes.metadata));
        let weight = Weight::<Raw, T>::new(problem.shape, given.layout, values, metadata);
        let (x, y) = (RawSlice::nowhere(problem.inputs()), RawSlice::nowhere(problem.outputs()));
        let pass = Multiply::new(&weight, problem.tokens, x, y).plan(self);
        let pass = if given.bias { pass.bias(RawSlice::nowhere(problem.shape.rows)) } else { pass };
        let pass = if given.dense { pass.dense(RawSlice::nowhere(problem.shape.weights())) } else { pass };
        queue.pass(pass.workspace(RawSlice::nowhere(self.workspace_bytes())))
    }
}
