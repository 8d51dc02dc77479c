//! The canonical form in an executor's memory.

use super::layout::Layout;
use super::value::Sparsity;
use super::{Choice, Compressed, Draw, Pack, Reorder, Unpack};
use crate::check::length;
use crate::element::{Element, Logit};
use crate::error::Result;
use crate::pass::Executor;
use crate::sample::{Kind, Sampling};
use crate::shape::{Shape, Shard};
use crate::space::{Input, Space};

/// A compressed weight in canonical form, in the memory of an executor: what [`Compressed`] is on the host.
///
/// Its codes are legal, for kernels write no others; where the mask had no legal code for a group, its values are NaN
/// on a device (see the [module](super)).
pub struct Packed<E: Executor, T: Element> {
    shape: Shape,
    values: E::Buffer<T>,
    codes: E::Buffer<u8>,
}

impl<E: Executor, T: Element> Packed<E, T> {
    /// A dense weight under a mask of these codes, in new memory.
    ///
    /// # Errors
    /// As [`Pack`], and as [`Executor::zeros`].
    pub fn with_codes<'a>(
        on: &mut E,
        shape: Shape,
        dense: impl Input<'a, Space = E::Space, Element = T>,
        codes: impl Input<'a, Space = E::Space, Element = u8>,
    ) -> Result<Self> {
        Self::pack::<f32>(on, shape, dense.input(), Choice::Codes(codes.input()))
    }

    /// The values of the largest magnitude of each group.
    ///
    /// # Errors
    /// As [`with_codes`](Self::with_codes).
    pub fn by_magnitude<'a>(
        on: &mut E,
        shape: Shape,
        dense: impl Input<'a, Space = E::Space, Element = T>,
    ) -> Result<Self> {
        Self::pack::<f32>(on, shape, dense.input(), Choice::Magnitude)
    }

    /// What the mask of logits keeps of a dense weight; `Hard` or `Argmax`.
    ///
    /// # Errors
    /// As [`with_codes`](Self::with_codes).
    pub fn from_logits<'a, L: Logit>(
        on: &mut E,
        shape: Shape,
        kind: Kind,
        sampling: Sampling,
        logits: impl Input<'a, Space = E::Space, Element = L>,
        dense: impl Input<'a, Space = E::Space, Element = T>,
    ) -> Result<Self> {
        let (logits, shard) = (logits.input(), Shard::whole(shape.cols as u64));
        Self::pack(on, shape, dense.input(), Choice::Logits(Draw { logits, kind, sampling, shard }))
    }

    fn pack<L: Logit>(
        on: &mut E,
        shape: Shape,
        dense: <E::Space as Space>::Ref<'_, T>,
        choice: Choice<<E::Space as Space>::Ref<'_, u8>, <E::Space as Space>::Ref<'_, L>>,
    ) -> Result<Self> {
        // Before anything is allocated.
        shape.check()?;
        length("dense", Some(&dense), shape.weights())?;
        let mut values = on.unset(shape.weights() / 2)?;
        let mut codes = on.unset(Sparsity::of(T::DTYPE).packed_codes(shape))?;
        let (dense, choice) = (E::Space::share(&dense), choice.as_ref().map(E::Space::share, E::Space::share));
        let pass = Pack::<E::Space, T, L>::new(shape, dense, choice).values(E::output(&mut values));
        on.run(pass.codes(E::output(&mut codes)))?;
        Ok(Self { shape, values, codes })
    }

    /// A copy of a weight in the host's memory.
    ///
    /// # Errors
    /// As [`Executor::upload`].
    pub fn upload(on: &E, host: &Compressed<T>) -> Result<Self> {
        Ok(Self { shape: host.shape(), values: on.upload(host.values())?, codes: on.upload(host.codes())? })
    }

    /// A copy in the host's memory; waits for it.
    ///
    /// # Errors
    /// As [`Executor::download`].
    pub fn download(&self, on: &E) -> Result<Compressed<T>> {
        Compressed::new(self.shape, on.download(&self.values)?, on.download(&self.codes)?)
    }

    /// Metadata in a layout, in new memory; as long as [`Layout::sizes`] says.
    ///
    /// # Errors
    /// As [`Reorder`], and as [`Executor::zeros`].
    pub fn metadata(&self, on: &mut E, layout: Layout) -> Result<E::Buffer<u8>> {
        let mut metadata = on.unset(layout.sizes(self.shape, T::DTYPE)?.metadata)?;
        let (from, to) = ((Layout::Plain, self.codes()), (layout, E::output(&mut metadata)));
        on.run(Reorder::new(self.shape, T::DTYPE, from, to))?;
        Ok(metadata)
    }

    /// The dense weight `[N, K]`, in new memory.
    ///
    /// # Errors
    /// As [`Unpack`], and as [`Executor::zeros`].
    pub fn decompress(&self, on: &mut E) -> Result<E::Buffer<T>> {
        let mut dense = on.unset(self.shape.weights())?;
        on.run(Unpack::new(self.shape, Layout::Plain, self.values(), self.codes(), E::output(&mut dense)))?;
        Ok(dense)
    }

    /// `[N, K]` of the dense weight.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Kept values `[N, K/2]`.
    #[must_use]
    pub fn values(&self) -> <E::Space as Space>::Ref<'_, T> {
        E::input(&self.values)
    }

    /// Packed codes.
    #[must_use]
    pub fn codes(&self) -> <E::Space as Space>::Ref<'_, u8> {
        E::input(&self.codes)
    }
}

impl<E: Executor, T: Element> std::fmt::Debug for Packed<E, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packed").field("shape", &self.shape).field("type", &T::DTYPE).finish_non_exhaustive()
    }
}
