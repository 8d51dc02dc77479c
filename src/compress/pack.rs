//! Compression: its arguments.

use super::layout::Layout;
use super::value::Sparsity;
use super::{Choice, Draw, cpu, launch};
use crate::check::length;
use crate::element::{DType, Element, Logit};
use crate::error::{Error, Result, unsupported};
use crate::pass::{self, Binder, Checked, DeviceSpace, Pass, Queue};
use crate::sample::{self, Kind, Sampling};
use crate::shape::{Shape, Shard};
use crate::space::{Array, HostSpace, Input, Output, Space};

/// Arguments of compression. `L` is the type of logits, where there are any.
///
/// Shapes: dense and masked `[N, K]`; logits `[N, K/4, 6]`; codes N·K/8 bytes (`f32`: N·K/4), rounded up; values and
/// metadata as [`Layout::sizes`] says. Padding is overwritten too: values with zeros, metadata with codes E. All
/// row-major, all outputs overwritten. On a device every operand starts on a 16-byte boundary.
///
/// # Errors
/// When run: as [`Layout::sizes`]; [`Error::Length`]; [`Error::Missing`] if nothing is to be written; with logits
/// [`Error::Shard`], [`Error::Scalar`], and [`Error::Unsupported`] for a soft mask and for `f32`, of which one of two
/// is kept. On the CPU also [`Error::Memory`], and [`Error::IllegalCode`], [`Error::NotTwoFour`] or
/// [`Error::TwoFourOfF32`] with the first such group; on a device [`Error::Overflow`] for 2³¹ patches of 4096 groups.
#[derive(Debug)]
pub struct Pack<'a, S: Space, T: Element, L: Logit = f32> {
    pub(super) shape: Shape,
    pub(super) layout: Layout,
    pub(super) choice: Choice<S::Ref<'a, u8>, S::Ref<'a, L>>,
    pub(super) dense: S::Ref<'a, T>,
    pub(super) values: Option<S::Mut<'a, T>>,
    pub(super) metadata: Option<S::Mut<'a, u8>>,
    pub(super) codes: Option<S::Mut<'a, u8>>,
    pub(super) masked: Option<S::Mut<'a, T>>,
    pub(super) faults: Option<S::Mut<'a, u32>>,
}

impl<'a, S: Space, T: Element> Pack<'a, S, T> {
    /// Keeps what these codes (canonical) name.
    #[must_use]
    pub fn with_codes(
        shape: Shape,
        dense: impl Input<'a, Space = S, Element = T>,
        codes: impl Input<'a, Space = S, Element = u8>,
    ) -> Self {
        Self::new(shape, dense.input(), Choice::Codes(codes.input()))
    }

    /// Keeps the largest of each group. An `f32` weight that is 2:4 already, of which one of two would be lost, is an
    /// error on the CPU; on a device look with [`first_violation`](super::first_violation) before.
    #[must_use]
    pub fn by_magnitude(shape: Shape, dense: impl Input<'a, Space = S, Element = T>) -> Self {
        Self::new(shape, dense.input(), Choice::Magnitude)
    }

    /// Keeps what is not zero; the weight must be 2:4.
    #[must_use]
    pub fn sparse(shape: Shape, dense: impl Input<'a, Space = S, Element = T>) -> Self {
        Self::new(shape, dense.input(), Choice::NonZeros)
    }
}

impl<'a, S: Space, T: Element, L: Logit> Pack<'a, S, T, L> {
    /// Keeps what the mask of these logits keeps: `Hard` or `Argmax`, for a soft one keeps all.
    #[must_use]
    pub fn from_logits(
        shape: Shape,
        kind: Kind,
        sampling: Sampling,
        logits: impl Input<'a, Space = S, Element = L>,
        dense: impl Input<'a, Space = S, Element = T>,
    ) -> Self {
        let shard = Shard::whole(shape.cols as u64);
        Self::new(shape, dense.input(), Choice::Logits(Draw { logits: logits.input(), kind, sampling, shard }))
    }

    /// Says that the weight is a slice of a larger one; its mask is then the slice of the larger one's. Without logits
    /// it changes nothing.
    #[must_use]
    pub fn shard(mut self, shard: Shard) -> Self {
        if let Choice::Logits(draw) = &mut self.choice {
            draw.shard = shard;
        }
        self
    }
}

impl<'a, S: Space, T: Element, L: Logit> Pack<'a, S, T, L> {
    /// Of a choice as it comes.
    pub(super) fn new(shape: Shape, dense: S::Ref<'a, T>, choice: Choice<S::Ref<'a, u8>, S::Ref<'a, L>>) -> Self {
        let layout = Layout::Plain;
        Self { shape, layout, choice, dense, values: None, metadata: None, codes: None, masked: None, faults: None }
    }

    /// The layout of values and metadata; [`Layout::Plain`] unless this is called.
    #[must_use]
    pub fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// Writes kept values.
    #[must_use]
    pub fn values(mut self, values: impl Output<'a, Space = S, Element = T>) -> Self {
        self.values = Some(values.output());
        self
    }

    /// Writes the codes in the layout.
    #[must_use]
    pub fn metadata(mut self, metadata: impl Output<'a, Space = S, Element = u8>) -> Self {
        self.metadata = Some(metadata.output());
        self
    }

    /// Writes the codes, canonical.
    #[must_use]
    pub fn codes(mut self, codes: impl Output<'a, Space = S, Element = u8>) -> Self {
        self.codes = Some(codes.output());
        self
    }

    /// Writes the dense weight that is left, `W∘M`: kept values bit for bit, all others `+0.0`.
    #[must_use]
    pub fn masked(mut self, masked: impl Output<'a, Space = S, Element = T>) -> Self {
        self.masked = Some(masked.output());
        self
    }

    /// Counts the groups that have no legal code: their number is **added** to this one element, so that a count can go
    /// over many weights and be read once. The CPU's executor adds nothing: it returns an error.
    #[must_use]
    pub fn faults(mut self, faults: impl Output<'a, Space = S, Element = u32>) -> Self {
        self.faults = Some(faults.output());
        self
    }
}

impl<S: Space, T: Element, L: Logit> pass::Sealed for Pack<'_, S, T, L> {}
impl<S: Space, T: Element, L: Logit> Pass<S> for Pack<'_, S, T, L> {
    fn check(&self) -> Result<()> {
        let Self { shape, .. } = self;
        let sizes = self.layout.sizes(*shape, T::DTYPE)?;
        let codes = Sparsity::of(T::DTYPE).packed_codes(*shape);
        length("dense", Some(&self.dense), shape.weights())?;
        match &self.choice {
            Choice::Codes(given) => length("codes", Some(given), codes)?,
            Choice::Logits(draw) => draw.check(*shape, T::DTYPE)?,
            Choice::Magnitude | Choice::NonZeros => {}
        }
        length("values", self.values.as_ref(), sizes.values)?;
        length("metadata", self.metadata.as_ref(), sizes.metadata)?;
        length("codes", self.codes.as_ref(), codes)?;
        length("masked", self.masked.as_ref(), shape.weights())?;
        length("faults", self.faults.as_ref(), 1)?;
        if self.values.is_none() && self.metadata.is_none() && self.codes.is_none() && self.masked.is_none() {
            return Err(Error::Missing { what: "compression", missing: "no output was given to write it to" });
        }
        Ok(())
    }

    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace,
    {
        cpu::pack(pass.into_inner())
    }

    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        launch::pack(pass.inner(), binder, queue)
    }
}

impl<L: Array> Draw<L> {
    fn check(&self, shape: Shape, dtype: DType) -> Result<()> {
        sample::check(shape, &self.shard, &self.sampling)?;
        if self.kind == Kind::Soft {
            let because = "a soft mask keeps a part of every value: use Hard or Argmax";
            return Err(unsupported("compression from logits", because));
        }
        if Sparsity::of(dtype) != Sparsity::TwoFour {
            let because = "logits choose two of four values, and of f32 one of two is kept";
            return Err(unsupported("compression from logits", because));
        }
        length("logits", Some(&self.logits), shape.logits())
    }
}
