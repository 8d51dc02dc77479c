//! The arithmetic of products whose contraction is split: blocks share the sum, each leaves its part in a workspace,
//! and another kernel adds the parts up.

use crate::device::Limits;

/// Areas of a workspace start on 256 bytes.
pub(crate) const fn aligned(bytes: usize) -> usize {
    bytes.saturating_add(255) & !255
}

/// Bytes of the parts of so many 32-bit sums, saturating: none for one part.
pub(crate) const fn partial_bytes(sums: usize, splits: u32) -> usize {
    if splits > 1 { sums.saturating_mul(4).saturating_mul(splits as usize) } else { 0 }
}

/// Blocks with so much shared memory that a device holds at once: one or two for each multiprocessor.
pub(crate) fn slots(limits: &Limits, shared_bytes: u32) -> usize {
    let per_multiprocessor =
        (limits.shared_bytes_per_multiprocessor / (shared_bytes + Limits::SYSTEM_SHARED_BYTES)).clamp(1, 2);
    (limits.multiprocessors.max(1) * per_multiprocessor) as usize
}

/// What each of so many parts takes of the depth: whole stages.
pub(crate) fn share(depth: usize, splits: usize, stage: usize) -> usize {
    depth.div_ceil(splits).div_ceil(stage).max(1) * stage
}

/// What each of so many parts takes where warps of a block go side by side, a step each: whole steps, of all warps
/// (`stride`) where that leaves no part without any.
pub(crate) fn share_of_warps(depth: usize, splits: usize, stride: usize, step: usize) -> usize {
    let even = depth.div_ceil(splits);
    let of_all = even.next_multiple_of(stride);
    let share = if of_all * (splits - 1) < depth { of_all } else { even.next_multiple_of(step) };
    share.max(step)
}

/// How many of the parts that were wanted have something to do: shares are whole, so the last of them may turn out
/// empty.
pub(crate) fn filled(depth: usize, share: usize) -> usize {
    depth.div_ceil(share).max(1)
}

/// In how many parts to take the contraction, so that the waves of `tiles` blocks, of which a device holds `slots`, are
/// full: parts of at least eight stages, which keep a ring busy, and their sums in at most 64 MiB. Model: a wave takes
/// as long as a part, and a part more costs 3 % for its sums.
pub(crate) fn splits(depth: usize, stage: usize, [tiles, slots]: [usize; 2], sums: usize) -> usize {
    const LEAST_STAGES: usize = 8;
    const MOST_BYTES: usize = 64 << 20;
    let bytes = sums.saturating_mul(4).max(1);
    let most = (depth / (LEAST_STAGES * stage)).min(MOST_BYTES / bytes).clamp(1, slots);
    let time = |parts: usize| {
        let waves = tiles.saturating_mul(parts).div_ceil(slots) as f64;
        waves / parts as f64 * (1.0 + 0.03 * (parts - 1) as f64)
    };
    filled(depth, share(depth, least(most, time), stage))
}

/// The number of parts, up to `most`, that takes the least time; the smaller of two.
pub(crate) fn least(most: usize, time: impl Fn(usize) -> f64) -> usize {
    (1..=most).min_by(|&a, &b| time(a).total_cmp(&time(b))).unwrap_or(1)
}
