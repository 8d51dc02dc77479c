//! The backward pass: arguments and checks.

use super::{Activation, Joined, cpu, elements, launch, mask};
use crate::check::{length, not_negative};
use crate::element::Float;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::pass::{self, Binder, Checked, DeviceSpace, Pass, Queue};
use crate::space::{HostSpace, Input, Output, Space};

/// Where gate and up come from, and their gradients go.
#[derive(Debug)]
pub(super) enum Operands<R, M> {
    Apart { gate: R, up: R, dgate: M, dup: M },
    Over { gate: M, up: M },
    Joined { by: Joined, both: R, gradient: M },
    OverJoined { by: Joined, both: M },
}

/// Arguments of the gradients of gate and up.
///
/// Shapes, row-major: dh, gate, up and their gradients `[T, f]` of one type, or gate and up, and their gradients, together
/// `[T, 2f]`; mask `[T, ⌈f/32⌉]`. Gradients are overwritten. f, T and alignment as of [`Forward`](super::Forward).
///
/// # Errors
/// When run: [`Error::Overflow`]; [`Error::Length`]; [`Error::Scalar`] for a threshold as of `Forward`, or a λ that is
/// negative or not finite.
#[derive(Debug)]
pub struct Backward<'a, S: Space, L: Float> {
    pub(super) tokens: usize,
    pub(super) neurons: usize,
    pub(super) activation: Activation,
    pub(super) dh: S::Ref<'a, L>,
    pub(super) operands: Operands<S::Ref<'a, L>, S::Mut<'a, L>>,
    pub(super) mask: Option<S::Ref<'a, u32>>,
    pub(super) l1: f32,
}

impl<'a, S: Space, L: Float> Backward<'a, S, L> {
    fn of(
        [tokens, neurons]: [usize; 2],
        activation: Activation,
        dh: impl Input<'a, Space = S, Element = L>,
        operands: Operands<S::Ref<'a, L>, S::Mut<'a, L>>,
    ) -> Self {
        Self { tokens, neurons, activation, dh: dh.input(), operands, mask: None, l1: 0.0 }
    }

    /// Of `[T, f]`.
    #[must_use]
    pub fn new(
        shape: [usize; 2],
        activation: Activation,
        dh: impl Input<'a, Space = S, Element = L>,
        gate: impl Input<'a, Space = S, Element = L>,
        up: impl Input<'a, Space = S, Element = L>,
        dgate: impl Output<'a, Space = S, Element = L>,
        dup: impl Output<'a, Space = S, Element = L>,
    ) -> Self {
        let (gate, up, dgate, dup) = (gate.input(), up.input(), dgate.output(), dup.output());
        Self::of(shape, activation, dh, Operands::Apart { gate, up, dgate, dup })
    }

    /// Of `[T, f]`; the gradients take the places of gate and up.
    #[must_use]
    pub fn over(
        shape: [usize; 2],
        activation: Activation,
        dh: impl Input<'a, Space = S, Element = L>,
        gate: impl Output<'a, Space = S, Element = L>,
        up: impl Output<'a, Space = S, Element = L>,
    ) -> Self {
        Self::of(shape, activation, dh, Operands::Over { gate: gate.output(), up: up.output() })
    }

    /// Of gate and up in one array, and their gradients in one that is laid out alike.
    #[must_use]
    pub fn joined(
        shape: [usize; 2],
        activation: Activation,
        by: Joined,
        dh: impl Input<'a, Space = S, Element = L>,
        both: impl Input<'a, Space = S, Element = L>,
        gradient: impl Output<'a, Space = S, Element = L>,
    ) -> Self {
        Self::of(shape, activation, dh, Operands::Joined { by, both: both.input(), gradient: gradient.output() })
    }

    /// Of gate and up in one array, whose place the gradients take.
    #[must_use]
    pub fn over_joined(
        shape: [usize; 2],
        activation: Activation,
        by: Joined,
        dh: impl Input<'a, Space = S, Element = L>,
        both: impl Output<'a, Space = S, Element = L>,
    ) -> Self {
        Self::of(shape, activation, dh, Operands::OverJoined { by, both: both.output() })
    }

    /// Takes which neurons are on from the forward pass, in place of a look at gate and up; a device reads nothing else of
    /// eight of which none is.
    #[must_use]
    pub fn mask(mut self, mask: impl Input<'a, Space = S, Element = u32>) -> Self {
        self.mask = Some(mask.input());
        self
    }

    /// Adds `λ sign(h)` to dh where a neuron is on: the gradient of `λ Σ |h|`.
    #[must_use]
    pub fn l1(mut self, lambda: f32) -> Self {
        self.l1 = lambda;
        self
    }
}

impl<S: Space, L: Float> pass::Sealed for Backward<'_, S, L> {}
impl<S: Space, L: Float> Pass<S> for Backward<'_, S, L> {
    fn check(&self) -> Result<()> {
        let one = elements::<L>(self.tokens, self.neurons)?;
        self.activation.check()?;
        length("dh", Some(&self.dh), one)?;
        match &self.operands {
            Operands::Apart { gate, up, dgate, dup } => {
                length("gate", Some(gate), one)?;
                length("up", Some(up), one)?;
                length("dgate", Some(dgate), one)?;
                length("dup", Some(dup), one)?;
            }
            Operands::Over { gate, up } => {
                length("gate", Some(gate), one)?;
                length("up", Some(up), one)?;
            }
            Operands::Joined { both, gradient, .. } => {
                length("gate and up", Some(both), 2 * one)?;
                length("gradient", Some(gradient), 2 * one)?;
            }
            Operands::OverJoined { both, .. } => length("gate and up", Some(both), 2 * one)?,
        }
        mask("mask", self.mask.as_ref(), self.tokens, self.neurons)?;
        not_negative("lambda", self.l1)
    }

    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace,
    {
        cpu::backward(pass.into_inner());
        Ok(())
    }

    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        launch::backward(pass.inner(), binder, queue)
    }
}
