//! What a pass goes through: a weight under masks.

use crate::element::{Float, Logit};
use crate::error::Result;
use crate::mask;
use crate::pass::Pass;
use crate::sample::{Kind, Sampling, Source};
use crate::shape::{Shape, Shard};
use crate::space::{Array, Input, Raw, RawSlice, Space};

/// The masks of a layer, as far as a plan is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Masks {
    /// Made from logits.
    Sampled(Kind),
    /// Given as codes.
    Frozen,
}

/// A masked weight that is not materialised: what both passes need to make its mask. Passes borrow it.
///
/// Shapes: logits `[N, K/4, 6]` or codes `[N·K/8]` (rounded up), weight `[N, K]`.
#[derive(Debug)]
pub struct Layer<'a, S: Space, L: Logit, W: Float> {
    pub(super) shape: Shape,
    pub(super) shard: Shard,
    pub(super) source: Source<S::Ref<'a, L>, S::Ref<'a, u8>>,
    pub(super) weight: S::Ref<'a, W>,
}

impl<'a, S: Space, W: Float> Layer<'a, S, f32, W> {
    /// The weight under a mask that no longer changes, given by its codes: row-major over the groups, two a byte, low
    /// nibble first, as [`mask::Forward::codes`] writes them. Any code but the six of [`Pattern`](crate::Pattern) makes
    /// its group NaN.
    #[must_use]
    pub fn frozen(
        shape: Shape,
        codes: impl Input<'a, Space = S, Element = u8>,
        weight: impl Input<'a, Space = S, Element = W>,
    ) -> Self {
        Self::of(shape, Source::Frozen { codes: codes.input() }, weight.input())
    }
}

impl<'a, S: Space, L: Logit, W: Float> Layer<'a, S, L, W> {
    /// The weight under a mask of this kind.
    #[must_use]
    pub fn sampled(
        shape: Shape,
        kind: Kind,
        sampling: Sampling,
        logits: impl Input<'a, Space = S, Element = L>,
        weight: impl Input<'a, Space = S, Element = W>,
    ) -> Self {
        Self::of(shape, Source::Sampled { kind, sampling, logits: logits.input() }, weight.input())
    }

    pub(super) fn of(shape: Shape, source: Source<S::Ref<'a, L>, S::Ref<'a, u8>>, weight: S::Ref<'a, W>) -> Self {
        Self { shape, shard: Shard::whole(shape.cols as u64), source, weight }
    }

    /// Says that the weight is a slice of a larger one; its masks are then the slice of the larger one's. (Frozen masks
    /// are the slice's own.)
    #[must_use]
    pub fn shard(mut self, shard: Shard) -> Self {
        self.shard = shard;
        self
    }

    /// Which masks these are, for a [`Plan`](super::Plan).
    #[must_use]
    pub fn masks(&self) -> Masks {
        match self.source {
            Source::Sampled { kind, .. } => Masks::Sampled(kind),
            Source::Frozen { .. } => Masks::Frozen,
        }
    }

    /// The layer for a while.
    pub(super) fn share(&self) -> Layer<'_, S, L, W> {
        let source = match &self.source {
            Source::Sampled { kind, sampling, logits } => {
                Source::Sampled { kind: *kind, sampling: *sampling, logits: S::share(logits) }
            }
            Source::Frozen { codes } => Source::Frozen { codes: S::share(codes) },
        };
        Layer { shape: self.shape, shard: self.shard, source, weight: S::share(&self.weight) }
    }

    /// Checks what making the mask needs, as [`mask`] does.
    pub(super) fn check(&self) -> Result<()> {
        let source = match &self.source {
            Source::Sampled { kind, sampling, logits } => {
                Source::Sampled { kind: *kind, sampling: *sampling, logits: nowhere(logits) }
            }
            Source::Frozen { codes } => Source::Frozen { codes: nowhere(codes) },
        };
        let pass = mask::Forward::<Raw, L, W>::of(self.shape, source).shard(self.shard);
        pass.weight(nowhere(&self.weight)).masked(RawSlice::nowhere(self.shape.weights())).check()
    }
}

/// An operand's length alone: other operations' checks see nothing else.
pub(super) fn nowhere<T>(operand: &impl Array) -> RawSlice<T> {
    RawSlice::nowhere(operand.elements())
}
