//! A part of a row, in the first cache.

use crate::element::Float;
use crate::sample::vector::LANES;

/// Logits that are worked on at a time: the student's and the teacher's are 16 KiB in `f32`.
pub(super) const BLOCK: usize = 2048;

/// Logits of a block in `f32`.
#[repr(align(64))]
pub(super) struct Block(pub(super) [[f32; LANES]; BLOCK / LANES]);

impl Block {
    pub(super) const EMPTY: Self = Self([[0.0; LANES]; BLOCK / LANES]);

    /// The first block's worth of some logits, up to whole vectors with −∞; gives the number of vectors.
    #[inline(always)]
    pub(super) fn widen<L: Float>(&mut self, from: &[L]) -> usize {
        self.widen_with(from, f32::NEG_INFINITY)
    }

    /// The same with other numbers in place of −∞.
    #[inline(always)]
    pub(super) fn widen_with<L: Float>(&mut self, from: &[L], missing: f32) -> usize {
        let flat = self.0.as_flattened_mut();
        let len = from.len().min(BLOCK);
        match from.get(..BLOCK) {
            // A length that the compiler knows.
            Some(all) => L::widen(all, flat),
            None => L::widen(from, flat),
        }
        flat[len..len.next_multiple_of(LANES)].fill(missing);
        len.div_ceil(LANES)
    }

    /// Makes −∞ of those of these tokens, in ascending order, that are in the block from `first` on; gives the others.
    #[inline(always)]
    pub(super) fn hide<'t>(&mut self, first: usize, mut tokens: &'t [u32]) -> &'t [u32] {
        while let Some((token, rest)) = tokens.split_first()
            && (*token as usize) < first + BLOCK
        {
            self.0.as_flattened_mut()[*token as usize - first] = f32::NEG_INFINITY;
            tokens = rest;
        }
        tokens
    }
}
