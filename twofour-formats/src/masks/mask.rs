//! A layer's mask.

use super::bits::{Flags, Packer, bits_of_codes};
use super::{Fewer, base6};
use crate::check::length;
use twofour::compress::{Flag, Sparsity, check_codes, convert};
use twofour::{Result, Shape};

/// The mask of a weight `[N, K]` that keeps two of every group of four: its shape, and a legal code a group, row-major,
/// two a byte, the even one in the low half. So are the codes of [`Compressed`](twofour::compress::Compressed) for
/// types of 8 and 16 bits, and of [`select`](twofour::select) and [`mask`](twofour::mask).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    shape: Shape,
    codes: Vec<u8>,
}

impl Mask {
    /// From codes. The unused half of the last byte of an odd number of codes is set to zero.
    ///
    /// # Errors
    /// As [`Shape::check`]; [`Error::Length`](twofour::Error::Length);
    /// [`Error::IllegalCode`](twofour::Error::IllegalCode) with the first group whose code is not legal.
    pub fn new(shape: Shape, mut codes: Vec<u8>) -> Result<Self> {
        check_codes(Sparsity::TwoFour, shape, &codes)?;
        if let (1, Some(last)) = (shape.groups() % 2, codes.last_mut()) {
            *last &= 15;
        }
        Ok(Self { shape, codes })
    }

    /// Of codes that have been checked.
    pub(super) fn of_checked(shape: Shape, codes: Vec<u8>) -> Self {
        Self { shape, codes }
    }

    /// From a flag for each position, `[N, K]`.
    ///
    /// # Errors
    /// As [`Shape::check`]; [`Error::Length`](twofour::Error::Length);
    /// [`Error::NotTwoFour`](twofour::Error::NotTwoFour) with the first group that keeps more than two, or fewer unless
    /// they are filled.
    pub fn from_flags<M: Flag>(shape: Shape, flags: &[M], fewer: Fewer) -> Result<Self> {
        shape.check()?;
        length("flags", flags.len(), shape.weights())?;
        let mut mask = Flags::new(shape, fewer, shape.packed_codes());
        mask.push(flags.iter().map(|flag| flag.is_kept()))?;
        mask.finish()
    }

    /// From `numpy.packbits` of the flattened mask: ⌈N·K/8⌉ bytes, the first position in the highest bit.
    ///
    /// # Errors
    /// The same; [`Error::Scalar`](twofour::Error::Scalar) if bits behind the last position are set.
    pub fn from_bits(shape: Shape, bits: &[u8], fewer: Fewer) -> Result<Self> {
        shape.check()?;
        length("packed bits", bits.len(), shape.packed_codes())?;
        let mut mask = Packer::new(shape, fewer, bits.len());
        mask.push(bits)?;
        mask.finish()
    }

    /// `[N, K]`.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Packed codes.
    #[must_use]
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// Packed codes.
    #[must_use]
    pub fn into_codes(self) -> Vec<u8> {
        self.codes
    }

    /// A flag for each position, `[N, K]`.
    ///
    /// # Errors
    /// None: a mask's codes are legal.
    pub fn flags<M: Flag>(&self) -> Result<Vec<M>> {
        convert::mask_from_codes(Sparsity::TwoFour, self.shape, &self.codes)
    }

    /// `numpy.packbits` of the flattened mask.
    #[must_use]
    pub fn bits(&self) -> Vec<u8> {
        bits_of_codes(&self.codes)
    }

    /// Three groups a byte.
    ///
    /// # Errors
    /// None: a mask's codes are legal.
    pub fn base6(&self) -> Result<Vec<u8>> {
        base6::pack(self.shape, &self.codes)
    }
}
