//! The moments of AdamW: in `f32`, or in eight bits with a scale a block.

use super::Elements;
use crate::check::length;
use crate::error::Result;
use crate::shape::Shape;
use crate::space::{Cut, Host, HostSpace, Output, Space};
use std::ops::Range;

/// The moments, updated in place. All zero (scales too) before the first step.
///
/// 8-bit moments are kept by blocks of [`BLOCK_GROUPS`](Moments::BLOCK_GROUPS) consecutive groups of the flattened
/// `[N·K/4]` groups, the last of which may be short: of a block the largest magnitude, and each moment as a float of
/// eight bits relative to it. Of the second moment that is the square root, whose range is half as wide:
///
/// | | bits | values, in units of the top one | relative spacing |
/// | --- | --- | --- | --- |
/// | `m` | sign, 4 exponent, 3 mantissa | 0, 4.1e-6 to 1 | 1/8 to 1/15 |
/// | `√v` | 4 exponent, 4 mantissa | 0, 2.0e-6 to 1 | 1/16 to 1/31 |
///
/// Values are rounded stochastically. A step changes moments by less than their spacing, so that nearest rounding would
/// bring many to a stop: a `v` whose gradient vanished would stay for ever. With it they are right in the mean. (To a
/// 1024th of a spacing, the resolution of the ten random bits that a moment has, which still moves with β up to
/// 0.9999.) A second moment that is not zero never becomes zero, for a first moment divided by it would be without
/// bound.
///
/// Beside them a step's root and quotient are right to a part in a million, of products and sums alone: on a GPU half of
/// IEEE's instructions. One Philox call rounds all of a group, its `bf16` logits too: a logit by bits that the moments of
/// the group's other three logits are rounded by.
///
/// What it costs: a moment below the 250,000th part of its block's largest is little more than noise around the right
/// mean, and rounding at every step leaves moments a relative deviation: measured 9 % for `m` (β1 = 0.9), and 6 % for
/// `√v` with β2 = 0.95, 11 % with 0.999.
///
/// With `f32` moments a shard's step is the slice of the whole's. With 8-bit moments it is not, as blocks are those of
/// the shard's own memory.
#[non_exhaustive]
pub enum Moments<'a, S: Space> {
    /// Both in `f32`, `[N, K/4, 6]`.
    #[non_exhaustive]
    F32 {
        /// First moments.
        m: S::Mut<'a, f32>,
        /// Second moments.
        v: S::Mut<'a, f32>,
    },
    /// Both in eight bits, `[N, K/4, 6]`.
    #[non_exhaustive]
    Eight {
        /// First moments.
        m: S::Mut<'a, u8>,
        /// Square roots of the second moments.
        v: S::Mut<'a, u8>,
        /// `[blocks, 2]`: the largest magnitude of `m`, and the largest `√v`.
        scales: S::Mut<'a, f32>,
    },
}

impl<'a, S: Space> Moments<'a, S> {
    /// Moments in `f32`, `[N, K/4, 6]` both.
    #[must_use]
    pub fn f32(m: impl Output<'a, Space = S, Element = f32>, v: impl Output<'a, Space = S, Element = f32>) -> Self {
        Self::F32 { m: m.output(), v: v.output() }
    }

    /// 8-bit moments, `[N, K/4, 6]` both, and [`scales`](Moments::scales) scales.
    #[must_use]
    pub fn eight(
        m: impl Output<'a, Space = S, Element = u8>,
        v: impl Output<'a, Space = S, Element = u8>,
        scales: impl Output<'a, Space = S, Element = f32>,
    ) -> Self {
        Self::Eight { m: m.output(), v: v.output(), scales: scales.output() }
    }

    /// What kernels call their type; those of eight bits are rounded.
    pub(super) fn dtype(&self) -> &'static str {
        match self {
            Self::F32 { .. } => "f32",
            Self::Eight { .. } => "u8",
        }
    }

    pub(super) fn on_host(self) -> Moments<'a, Host>
    where
        S: HostSpace,
    {
        match self {
            Self::F32 { m, v } => Moments::F32 { m: S::slice_mut(m), v: S::slice_mut(v) },
            Self::Eight { m, v, scales } => {
                Moments::Eight { m: S::slice_mut(m), v: S::slice_mut(v), scales: S::slice_mut(scales) }
            }
        }
    }

    /// Those of some groups, which in eight bits begin with a block.
    pub(super) fn part(&mut self, groups: Range<usize>) -> Moments<'_, S>
    where
        S: Cut,
    {
        let six = 6 * groups.start..6 * groups.end;
        match self {
            Self::F32 { m, v } => Moments::F32 { m: S::cut(m, six.clone()), v: S::cut(v, six) },
            Self::Eight { m, v, scales } => {
                let size = Moments::BLOCK_GROUPS;
                let scales = S::cut(scales, 2 * (groups.start / size)..2 * groups.end.div_ceil(size));
                Moments::Eight { m: S::cut(m, six.clone()), v: S::cut(v, six), scales }
            }
        }
    }

    pub(super) fn check(&self, shape: Shape) -> Result<()> {
        match self {
            Self::F32 { m, v } => {
                length("m", Some(m), shape.logits())?;
                length("v", Some(v), shape.logits())
            }
            Self::Eight { m, v, scales } => {
                length("m", Some(m), shape.logits())?;
                length("v", Some(v), shape.logits())?;
                length("scales", Some(scales), Moments::scales(shape))
            }
        }
    }
}

impl Moments<'_, Host> {
    /// Groups of a block of 8-bit moments.
    pub const BLOCK_GROUPS: usize = 64;

    /// How many scales 8-bit moments have, in any space: two a block.
    #[must_use]
    pub const fn scales(shape: Shape) -> usize {
        2 * shape.groups().div_ceil(Self::BLOCK_GROUPS)
    }

    /// So many rows, or a few more, whose groups are whole blocks: panels of them begin with a block each.
    pub(crate) const fn rows_of_blocks(shape: Shape, rows: usize) -> usize {
        let zeros = (shape.cols / 4).trailing_zeros();
        let unit = Self::BLOCK_GROUPS >> if zeros < 6 { zeros } else { 6 };
        rows.saturating_add(unit - 1) / unit * unit
    }
}

impl<S: Space> std::fmt::Debug for Moments<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::F32 { m, v } => f.debug_struct("F32").field("m", &Elements(m)).field("v", &Elements(v)).finish(),
            Self::Eight { m, v, scales } => f
                .debug_struct("Eight")
                .field("m", &Elements(m))
                .field("v", &Elements(v))
                .field("scales", &Elements(scales))
                .finish(),
        }
    }
}
