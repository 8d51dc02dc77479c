//! The weights of a feed-forward, a row a neuron.

use crate::check::length;
use crate::element::{DType, Float};
#[cfg(doc)]
use crate::error::Error;
use crate::error::{Result, unsupported};
use crate::shape::Shape;
use crate::space::{Array, Input, Space};
use std::fmt;

/// Along what the groups of four lie of which two values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Axis {
    /// Along a neuron's row: a neuron's kept values lie together.
    Width,
    /// Along the neurons, as in a stock down projection `[d, f]`, whose sum goes over them: four neurons share a group, and
    /// skipping one of them spares nothing.
    Neurons,
}

/// A weight `[f, d]`, row-major: of each of f neurons its d weights. Gate and up have it as it is; a down projection
/// `[d, f]` is transposed once.
pub struct Neurons<'a, S: Space, L: Float> {
    pub(super) form: Form<S::Ref<'a, L>, S::Ref<'a, u8>>,
}

pub(super) enum Form<V, C> {
    Dense(V),
    Kept { along: Axis, values: V, codes: C },
}

impl<'a, S: Space, L: Float> Neurons<'a, S, L> {
    /// All weights.
    #[must_use]
    pub fn dense(weight: impl Input<'a, Space = S, Element = L>) -> Self {
        Self { form: Form::Dense(weight.input()) }
    }

    /// 2:4: kept values `[f, d/2]` and row-major codes, as [`compress`](crate::compress) makes them of `[f, d]`. `f16` and
    /// `bf16` alone.
    #[must_use]
    pub fn kept(
        along: Axis,
        values: impl Input<'a, Space = S, Element = L>,
        codes: impl Input<'a, Space = S, Element = u8>,
    ) -> Self {
        Self { form: Form::Kept { along, values: values.input(), codes: codes.input() } }
    }

    pub(super) fn share<'s>(&'s self) -> Neurons<'s, S, L>
    where
        'a: 's,
    {
        Neurons {
            form: match &self.form {
                Form::Dense(weight) => Form::Dense(S::share(weight)),
                Form::Kept { along, values, codes } => {
                    Form::Kept { along: *along, values: S::share(values), codes: S::share(codes) }
                }
            },
        }
    }

    /// Bytes of so many rows.
    const fn bytes(&self, width: usize, rows: usize) -> u64 {
        let dense = rows as u64 * width as u64 * L::DTYPE.size() as u64;
        match self.form {
            Form::Dense(_) => dense,
            Form::Kept { .. } => dense / 2 + rows as u64 * width as u64 / 8,
        }
    }

    /// `names` are those of what is long wrong: dense, values and codes.
    fn check(&self, [width, neurons]: [usize; 2], names: [&'static str; 3]) -> Result<()> {
        match &self.form {
            Form::Dense(weight) => length(names[0], Some(weight), width * neurons),
            Form::Kept { along: Axis::Neurons, .. } => Err(unsupported(
                "decode with a weight that is 2:4 along its neurons",
                "four of them share a group, and all are read for one: give it dense, or 2:4 along its rows",
            )),
            Form::Kept { .. } if L::DTYPE == DType::F32 => {
                Err(unsupported("decode with f32 weights that are compressed", "they are 1:2: give them dense"))
            }
            Form::Kept { along: Axis::Width, values, codes } => {
                let shape = Shape::new(neurons, width);
                shape.check()?;
                length(names[1], Some(values), shape.weights() / 2)?;
                length(names[2], Some(codes), shape.groups().div_ceil(2))
            }
        }
    }
}

/// The three weights of a gated feed-forward: `h = a(X gateᵀ) ⊙ b(X upᵀ)`, `Y = h down`.
pub struct FeedForward<'a, S: Space, L: Float> {
    pub(super) size: [usize; 2],
    pub(super) gate: Neurons<'a, S, L>,
    pub(super) up: Neurons<'a, S, L>,
    pub(super) down: Neurons<'a, S, L>,
}

impl<S: Space, L: Float> fmt::Debug for Neurons<'_, S, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.form {
            Form::Dense(weight) => write!(f, "{} dense", weight.elements()),
            Form::Kept { along, values, .. } => write!(f, "{} kept along {along:?}", values.elements()),
        }
    }
}

impl<S: Space, L: Float> fmt::Debug for FeedForward<'_, S, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (size, gate, up, down) = (&self.size, &self.gate, &self.up, &self.down);
        let mut to = f.debug_struct("FeedForward");
        to.field("size", size).field("gate", gate).field("up", up).field("down", down).finish()
    }
}

impl<'a, S: Space, L: Float> FeedForward<'a, S, L> {
    /// `[d, f]`: the width of X and Y, and how many neurons. Each weight may be dense or 2:4.
    #[must_use]
    pub const fn new(
        size: [usize; 2],
        gate: Neurons<'a, S, L>,
        up: Neurons<'a, S, L>,
        down: Neurons<'a, S, L>,
    ) -> Self {
        Self { size, gate, up, down }
    }

    /// `[d, f]`.
    #[must_use]
    pub const fn size(&self) -> [usize; 2] {
        self.size
    }

    /// Bytes of so many rows of gate, up and down.
    #[must_use]
    pub const fn bytes(&self, [gate, up, down]: [usize; 3]) -> u64 {
        let width = self.size[0];
        self.gate.bytes(width, gate) + self.up.bytes(width, up) + self.down.bytes(width, down)
    }

    pub(super) fn share<'s>(&'s self) -> FeedForward<'s, S, L>
    where
        'a: 's,
    {
        FeedForward { size: self.size, gate: self.gate.share(), up: self.up.share(), down: self.down.share() }
    }

    /// # Errors
    /// [`Error::Overflow`], [`Error::NotGrouped`], [`Error::Length`], [`Error::Unsupported`].
    pub(super) fn check(&self) -> Result<()> {
        super::elements::<L>(self.size[0], self.size[1])?;
        self.gate.check(self.size, ["gate", "values of the gate", "codes of the gate"])?;
        self.up.check(self.size, ["up", "values of up", "codes of up"])?;
        self.down.check(self.size, ["down", "values of down", "codes of down"])
    }
}
