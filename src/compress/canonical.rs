//! The canonical form as a host type.

use super::layout::Layout;
use super::value::Sparsity;
use super::{Choice, Draw, Pack, Reorder, cpu};
use crate::check::{length, zeros};
use crate::element::{DType, Element, Logit};
use crate::error::Result;
use crate::pass::run_on_host;
use crate::sample::{Kind, Sampling};
use crate::shape::{Shape, Shard};
use crate::space::Host;

/// A compressed weight in canonical form: kept values `[N, K/2]` row-major, and a legal code a group, row-major, two a
/// byte, the even one in the low half.
#[derive(Debug, Clone, PartialEq)]
pub struct Compressed<T> {
    shape: Shape,
    values: Vec<T>,
    codes: Vec<u8>,
}

impl<T: Element> Compressed<T> {
    /// From its parts. The unused half of the last byte of an odd number of codes is set to zero.
    ///
    /// # Errors
    /// As [`Shape::check`]; [`Error::Length`](crate::Error::Length); [`Error::IllegalCode`](crate::Error::IllegalCode)
    /// with the first group whose code is not legal.
    pub fn new(shape: Shape, values: Vec<T>, mut codes: Vec<u8>) -> Result<Self> {
        Layout::Plain.check(shape, T::DTYPE)?;
        length("values", Some(&values.as_slice()), shape.weights() / 2)?;
        cpu::check_codes(Sparsity::of(T::DTYPE), shape, &codes)?;
        if let (1, Some(last)) = (Sparsity::of(T::DTYPE).groups(shape) % 2, codes.last_mut()) {
            *last &= 15;
        }
        Ok(Self { shape, values, codes })
    }

    /// A dense weight under a mask of these codes.
    ///
    /// # Errors
    /// As [`Pack`], and [`Error::IllegalCode`](crate::Error::IllegalCode).
    pub fn with_codes(shape: Shape, dense: &[T], codes: &[u8]) -> Result<Self> {
        Self::pack::<f32>(shape, dense, Choice::Codes(codes))
    }

    /// The values of the largest magnitude of each group; see the [module](super).
    ///
    /// # Errors
    /// As [`Pack`], and [`Error::TwoFourOfF32`](crate::Error::TwoFourOfF32).
    pub fn by_magnitude(shape: Shape, dense: &[T]) -> Result<Self> {
        Self::pack::<f32>(shape, dense, Choice::Magnitude)
    }

    /// A dense weight that is 2:4 already; see the [module](super) for groups that keep less.
    ///
    /// # Errors
    /// As [`Pack`], and [`Error::NotTwoFour`](crate::Error::NotTwoFour) with the first group that keeps more: of `f32`
    /// more than one of two, which a weight that is 2:4 does nearly always.
    pub fn from_sparse(shape: Shape, dense: &[T]) -> Result<Self> {
        Self::pack::<f32>(shape, dense, Choice::NonZeros)
    }

    /// What the mask of logits keeps of a dense weight; `Hard` or `Argmax`.
    ///
    /// # Errors
    /// As [`Pack`], and [`Error::IllegalCode`](crate::Error::IllegalCode) with the first
    /// group whose logits have no finite maximum.
    pub fn from_logits<L: Logit>(
        shape: Shape,
        kind: Kind,
        sampling: Sampling,
        logits: &[L],
        dense: &[T],
    ) -> Result<Self> {
        let shard = Shard::whole(shape.cols as u64);
        Self::pack(shape, dense, Choice::Logits(Draw { logits, kind, sampling, shard }))
    }

    fn pack<L: Logit>(shape: Shape, dense: &[T], choice: Choice<&[u8], &[L]>) -> Result<Self> {
        // Before anything is allocated.
        shape.check()?;
        length("dense", Some(&dense), shape.weights())?;
        let mut values = zeros("kept values", shape.weights() / 2)?;
        let mut codes = zeros("codes", Sparsity::of(T::DTYPE).packed_codes(shape))?;
        run_on_host(Pack::<Host, T, L>::new(shape, dense, choice).values(&mut values).codes(&mut codes))?;
        Ok(Self { shape, values, codes })
    }

    /// From values and metadata in a layout, as a consumer holds them.
    ///
    /// # Errors
    /// As [`Layout::sizes`]; [`Error::Length`](crate::Error::Length);
    /// [`Error::IllegalCode`](crate::Error::IllegalCode).
    pub fn from_layout(shape: Shape, layout: Layout, values: &[T], metadata: &[u8]) -> Result<Self> {
        let sizes = layout.sizes(shape, T::DTYPE)?;
        length("values", Some(&values), sizes.values)?;
        length("metadata", Some(&metadata), sizes.metadata)?;
        let mut codes = zeros("codes", Sparsity::of(T::DTYPE).packed_codes(shape))?;
        let plain = (Layout::Plain, codes.as_mut_slice());
        run_on_host(Reorder::new(shape, T::DTYPE, (layout, metadata), plain))?;
        let mut tight = Vec::with_capacity(shape.weights() / 2);
        if let Some(pitch) = std::num::NonZeroUsize::new(sizes.pitch) {
            values.chunks(pitch.get()).for_each(|row| tight.extend_from_slice(&row[..shape.cols / 2]));
        }
        Ok(Self { shape, values: tight, codes })
    }

    /// From one buffer: values, and metadata right behind them.
    ///
    /// # Errors
    /// As [`from_layout`](Self::from_layout).
    pub fn from_buffer(shape: Shape, layout: Layout, buffer: &[u8]) -> Result<Self> {
        let sizes = layout.sizes(shape, T::DTYPE)?;
        length("buffer", Some(&buffer), sizes.buffer)?;
        let (bytes, metadata) = buffer.split_at(sizes.metadata_offset);
        // A copy, for bytes need not lie where values may.
        let mut values = zeros("kept values", sizes.values)?;
        bytemuck::cast_slice_mut::<T, u8>(&mut values).copy_from_slice(bytes);
        Self::from_layout(shape, layout, &values, metadata)
    }

    /// Metadata in a layout: the codes, where its consumer wants them.
    ///
    /// # Errors
    /// As [`Layout::sizes`].
    pub fn metadata(&self, layout: Layout) -> Result<Vec<u8>> {
        let mut metadata = zeros("metadata", layout.sizes(self.shape, T::DTYPE)?.metadata)?;
        self.metadata_into(layout, &mut metadata)?;
        Ok(metadata)
    }

    /// [`metadata`](Self::metadata) into a slice, which is overwritten.
    ///
    /// # Errors
    /// As [`Layout::sizes`]; [`Error::Length`](crate::Error::Length).
    pub fn metadata_into(&self, layout: Layout, metadata: &mut [u8]) -> Result<()> {
        let from = (Layout::Plain, self.codes.as_slice());
        run_on_host(Reorder::new(self.shape, T::DTYPE, from, (layout, metadata)))
    }

    /// One buffer with the values, rows padded as the layout wants them, and the metadata right behind: what cuSPARSELt
    /// takes as a compressed matrix.
    ///
    /// # Errors
    /// As [`Layout::sizes`].
    pub fn buffer(&self, layout: Layout) -> Result<Vec<u8>> {
        let mut buffer = zeros("values and metadata", layout.sizes(self.shape, T::DTYPE)?.buffer)?;
        self.buffer_into(layout, &mut buffer)?;
        Ok(buffer)
    }

    /// [`buffer`](Self::buffer) into a slice, which is overwritten.
    ///
    /// # Errors
    /// As [`Layout::sizes`]; [`Error::Length`](crate::Error::Length).
    pub fn buffer_into(&self, layout: Layout, buffer: &mut [u8]) -> Result<()> {
        let sizes = layout.sizes(self.shape, T::DTYPE)?;
        length("buffer", Some(&&*buffer), sizes.buffer)?;
        let (values, metadata) = buffer.split_at_mut(sizes.metadata_offset);
        let (kept, size) = (self.shape.cols / 2, T::DTYPE.size());
        if sizes.pitch == kept {
            values.copy_from_slice(bytemuck::cast_slice(&self.values));
        } else {
            for (to, from) in values.chunks_mut(sizes.pitch * size).zip(self.values.chunks(kept)) {
                let (kept, padding) = to.split_at_mut(size * kept);
                kept.copy_from_slice(bytemuck::cast_slice(from));
                padding.fill(0);
            }
        }
        self.metadata_into(layout, metadata)
    }

    /// The dense weight `[N, K]`: kept values bit for bit, all others `+0.0`.
    #[must_use]
    pub fn decompress(&self) -> Vec<T> {
        let mut dense = vec![T::zeroed(); self.shape.weights()];
        cpu::decompress(self.shape, &self.values, &self.codes, &mut dense);
        dense
    }

    /// [`decompress`](Self::decompress) into a slice, which is overwritten.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length).
    pub fn decompress_into(&self, dense: &mut [T]) -> Result<()> {
        length("dense", Some(&&*dense), self.shape.weights())?;
        cpu::decompress(self.shape, &self.values, &self.codes, dense);
        Ok(())
    }

    /// `[N, K]` of the dense weight.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The type of values, by name.
    #[must_use]
    pub fn value_type(&self) -> DType {
        T::DTYPE
    }

    /// Kept values `[N, K/2]`.
    #[must_use]
    pub fn values(&self) -> &[T] {
        &self.values
    }

    /// Packed codes.
    #[must_use]
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// The code of a group of a row, or `None` outside the weight.
    #[must_use]
    pub fn code(&self, row: usize, group: usize) -> Option<u8> {
        let groups = Sparsity::of(T::DTYPE).row_groups(self.shape.cols);
        let inside = row < self.shape.rows && group < groups;
        inside.then(|| crate::pattern::code_at(&self.codes, row * groups + group).ok())?
    }

    /// Values and codes.
    #[must_use]
    pub fn into_parts(self) -> (Vec<T>, Vec<u8>) {
        (self.values, self.codes)
    }
}
