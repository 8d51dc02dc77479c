//! The loss of hidden states: arguments and checks.

use super::{cpu, launch};
use crate::check::{finite, length, not_negative};
use crate::element::Float;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::pass::{self, Binder, Checked, DeviceSpace, Pass, Queue};
use crate::space::{Host, HostSpace, Input, Output, Space};

/// Arguments of SquareHead's loss of one layer's hidden states (Kurtic et al. 2023, arXiv 2310.06927),
/// `mean((s − t)²)/(mean(t²) + ε)`, and of its gradient, in place of the student's states.
///
/// Shapes: student and teacher, so many elements of one type, in whatever shape; loss, one element, **added to**: of a
/// model, whose loss is the sum over layers, start from zero and give every layer the same. The gradient,
/// `2 (s − t)/n/(mean(t²) + ε)` times the scale, is overwritten. Sums are `f32` over 2048 elements on the CPU, on a
/// device over what a thread takes (a 262,144th of the elements), and `f64` from there on, in an order of the executor's
/// own; so the CPU's result does not depend on its threads, nor a device's on its size. On a device every operand starts on a 16-byte boundary, and the workspace has
/// [`SquareHead::workspace_bytes`]; the CPU needs none.
///
/// A NaN anywhere makes the loss and every gradient NaN, for it is among the sums. Squares are of `f32`, so differences
/// beyond 1e19 make an infinite loss. No elements add 0, and states that are all 0 with ε = 0 have no loss: NaN.
///
/// # Errors
/// When run: [`Error::Length`]; [`Error::Scalar`] for an ε that is negative or not finite, or a scale that is not
/// finite; on a device [`Error::Workspace`].
#[derive(Debug)]
pub struct SquareHead<'a, S: Space, L: Float> {
    pub(super) elements: usize,
    pub(super) student: S::Mut<'a, L>,
    pub(super) teacher: S::Ref<'a, L>,
    pub(super) loss: S::Mut<'a, f32>,
    pub(super) epsilon: f32,
    pub(super) scale: f32,
    pub(super) workspace: Option<S::Mut<'a, u8>>,
}

impl<'a, S: Space, L: Float> SquareHead<'a, S, L> {
    /// Of so many elements, with [`SquareHead::EPSILON`].
    #[must_use]
    pub fn new(
        elements: usize,
        student: impl Output<'a, Space = S, Element = L>,
        teacher: impl Input<'a, Space = S, Element = L>,
        loss: impl Output<'a, Space = S, Element = f32>,
    ) -> Self {
        let (student, teacher, loss) = (student.output(), teacher.input(), loss.output());
        let epsilon = SquareHead::EPSILON;
        Self { elements, student, teacher, loss, epsilon, scale: 1.0, workspace: None }
    }

    /// Another ε, which keeps states that are 0 from dividing by 0.
    #[must_use]
    pub fn epsilon(mut self, epsilon: f32) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// Multiplies the gradient and not the loss.
    #[must_use]
    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = scale;
        self
    }

    /// Memory for the sums of parts.
    #[must_use]
    pub fn workspace(mut self, workspace: impl Output<'a, Space = S, Element = u8>) -> Self {
        self.workspace = Some(workspace.output());
        self
    }
}

impl SquareHead<'_, Host, f32> {
    /// The ε that is taken unless another is given.
    pub const EPSILON: f32 = 1e-6;

    /// Bytes of the workspace that a device needs, for any number of elements.
    #[must_use]
    pub const fn workspace_bytes() -> usize {
        launch::SQUARE_SLOTS * 2 * size_of::<f64>()
    }
}

impl<S: Space, L: Float> pass::Sealed for SquareHead<'_, S, L> {}
impl<S: Space, L: Float> Pass<S> for SquareHead<'_, S, L> {
    fn check(&self) -> Result<()> {
        length("student", Some(&self.student), self.elements)?;
        length("teacher", Some(&self.teacher), self.elements)?;
        length("loss", Some(&self.loss), 1)?;
        not_negative("epsilon", self.epsilon)?;
        finite("scale", self.scale)
    }

    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace,
    {
        cpu::squarehead(pass.into_inner());
        Ok(())
    }

    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        launch::squarehead(pass.inner(), binder, queue)
    }
}
