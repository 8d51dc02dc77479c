//! What a decode works in, allocated for its plan, and the decode in it.

use std::fmt;

use super::{Activation, Axis, Decode, FeedForward, Neurons, Plan};
use crate::element::{Factor, Float};
use crate::error::Result;
use crate::pass::{self, Executor, Queue};
use crate::space::{Input, Output, Raw, RawSlice};

impl<L: Float + Factor> Plan<L> {
    /// A feed-forward of these tokens, in memory that was allocated for the plan.
    #[must_use]
    pub fn decode<'a, E: Executor>(
        &self,
        weights: &'a FeedForward<'_, E::Space, L>,
        activation: Activation,
        x: impl Input<'a, Space = E::Space, Element = L>,
        y: impl Output<'a, Space = E::Space, Element = L>,
        scratch: &'a mut Scratch<E>,
    ) -> Decode<'a, E::Space, L> {
        let pass = Decode::new(weights, self.tokens(), activation, x, y).plan(*self);
        match &mut scratch.workspace {
            Some(workspace) => pass.workspace(E::output(workspace)),
            None => pass,
        }
    }
}

/// Memory for decodes of a plan; it is not empty only on a device.
pub struct Scratch<E: Executor> {
    workspace: Option<E::Buffer<u8>>,
}

impl<E: Executor> fmt::Debug for Scratch<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").field("is_empty", &self.workspace.is_none()).finish()
    }
}

impl<L: Float + Factor> pass::Plan for Plan<L> {
    type Scratch<E: Executor> = Scratch<E>;

    fn scratch<E: Executor>(&self, on: &E) -> Result<Scratch<E>> {
        Ok(Scratch { workspace: on.workspace(self.workspace_bytes())? })
    }

    /// Both forms of each weight: the plan does not know which they are.
    fn rehearse(&self, queue: &mut Queue) -> Result<()> {
        let ([width, neurons], x) = (self.size(), RawSlice::nowhere(self.tokens() * self.size()[0]));
        let dense = || Neurons::<Raw, L>::dense(RawSlice::nowhere(width * neurons));
        let kept = || {
            let (values, codes) = (RawSlice::nowhere(width * neurons / 2), (width / 4 * neurons).div_ceil(2));
            Neurons::kept(Axis::Width, values, RawSlice::nowhere(codes))
        };
        let forms: [&dyn Fn() -> Neurons<'static, Raw, L>; 2] = [&dense, &kept];
        let count = if width.is_multiple_of(4) { 2 } else { 1 };
        for form in &forms[..count] {
            let weights = FeedForward::new(self.size(), form(), form(), form());
            let pass = Decode::new(&weights, self.tokens(), Activation::DRelu, x, x).plan(*self);
            queue.pass(pass.workspace(RawSlice::nowhere(self.workspace_bytes())))?;
        }
        Ok(())
    }
}
