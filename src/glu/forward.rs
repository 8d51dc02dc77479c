//! The forward pass: arguments and checks.

use super::{Activation, Joined, cpu, elements, launch, mask};
use crate::check::length;
use crate::element::Float;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::pass::{self, Binder, Checked, DeviceSpace, Pass, Queue};
use crate::space::{HostSpace, Input, Output, Space};

/// Where gate and up come from, and `h` goes.
#[derive(Debug)]
pub(super) enum Operands<R, M> {
    Apart { gate: R, up: R, h: M },
    OverUp { gate: R, up: M },
    Joined { by: Joined, both: R, h: M },
}

/// Arguments of `h = a(g) ⊙ b(u)`.
///
/// Shapes, row-major: gate, up and h `[T, f]` of one type, or gate and up together `[T, 2f]`; mask `[T, ⌈f/32⌉]`; active
/// and lost `[T]`. All outputs are overwritten. f at most 2³⁰. T = 0 and f = 0 are nothing to do, but that counts of
/// f = 0 are 0. On a device every operand starts on a 16-byte boundary; accesses are of 16 bytes where f is a multiple
/// of 8, else of an element.
///
/// # Errors
/// When run: [`Error::Overflow`]; [`Error::Length`]; [`Error::Scalar`] for a threshold that is not finite, or of CATS
/// negative.
#[derive(Debug)]
pub struct Forward<'a, S: Space, L: Float> {
    pub(super) tokens: usize,
    pub(super) neurons: usize,
    pub(super) activation: Activation,
    pub(super) operands: Operands<S::Ref<'a, L>, S::Mut<'a, L>>,
    pub(super) mask: Option<S::Mut<'a, u32>>,
    pub(super) active: Option<S::Mut<'a, u32>>,
    pub(super) lost: Option<S::Mut<'a, u32>>,
}

impl<'a, S: Space, L: Float> Forward<'a, S, L> {
    const fn of(
        [tokens, neurons]: [usize; 2],
        activation: Activation,
        operands: Operands<S::Ref<'a, L>, S::Mut<'a, L>>,
    ) -> Self {
        Self { tokens, neurons, activation, operands, mask: None, active: None, lost: None }
    }

    /// Of `[T, f]`.
    #[must_use]
    pub fn new(
        shape: [usize; 2],
        activation: Activation,
        gate: impl Input<'a, Space = S, Element = L>,
        up: impl Input<'a, Space = S, Element = L>,
        h: impl Output<'a, Space = S, Element = L>,
    ) -> Self {
        Self::of(shape, activation, Operands::Apart { gate: gate.input(), up: up.input(), h: h.output() })
    }

    /// Of `[T, f]`; h takes the place of up.
    #[must_use]
    pub fn over_up(
        shape: [usize; 2],
        activation: Activation,
        gate: impl Input<'a, Space = S, Element = L>,
        up: impl Output<'a, Space = S, Element = L>,
    ) -> Self {
        Self::of(shape, activation, Operands::OverUp { gate: gate.input(), up: up.output() })
    }

    /// Of gate and up in one array.
    #[must_use]
    pub fn joined(
        shape: [usize; 2],
        activation: Activation,
        by: Joined,
        both: impl Input<'a, Space = S, Element = L>,
        h: impl Output<'a, Space = S, Element = L>,
    ) -> Self {
        Self::of(shape, activation, Operands::Joined { by, both: both.input(), h: h.output() })
    }

    /// Writes which neurons are on, a bit each.
    #[must_use]
    pub fn mask(mut self, mask: impl Output<'a, Space = S, Element = u32>) -> Self {
        self.mask = Some(mask.output());
        self
    }

    /// Writes how many neurons of each row are on.
    #[must_use]
    pub fn active(mut self, active: impl Output<'a, Space = S, Element = u32>) -> Self {
        self.active = Some(active.output());
        self
    }

    /// Writes how many neurons of each row are no number, and so off.
    #[must_use]
    pub fn lost(mut self, lost: impl Output<'a, Space = S, Element = u32>) -> Self {
        self.lost = Some(lost.output());
        self
    }
}

impl<S: Space, L: Float> pass::Sealed for Forward<'_, S, L> {}
impl<S: Space, L: Float> Pass<S> for Forward<'_, S, L> {
    fn check(&self) -> Result<()> {
        let one = elements::<L>(self.tokens, self.neurons)?;
        self.activation.check()?;
        match &self.operands {
            Operands::Apart { gate, up, h } => {
                length("gate", Some(gate), one)?;
                length("up", Some(up), one)?;
                length("h", Some(h), one)?;
            }
            Operands::OverUp { gate, up } => {
                length("gate", Some(gate), one)?;
                length("up", Some(up), one)?;
            }
            Operands::Joined { both, h, .. } => {
                length("gate and up", Some(both), 2 * one)?;
                length("h", Some(h), one)?;
            }
        }
        mask("mask", self.mask.as_ref(), self.tokens, self.neurons)?;
        length("active", self.active.as_ref(), self.tokens)?;
        length("lost", self.lost.as_ref(), self.tokens)
    }

    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace,
    {
        cpu::forward(pass.into_inner());
        Ok(())
    }

    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        launch::forward(pass.inner(), binder, queue)
    }
}
