//! What all pieces of a step have in common.

use crate::learn::adamw::Scalars;
use crate::learn::{AdamW, ROUNDING_LOGITS, ROUNDING_MOMENTS};
use crate::noise;
use crate::sample::cpu::Numbering;

/// The same for all pieces of a step.
pub(super) struct Stepping {
    pub(super) by: Scalars,
    pub(super) factor: f32,
    pub(super) numbering: Numbering,
    pub(super) logit_keys: [u32; 20],
    pub(super) moment_keys: [u32; 20],
    pub(super) draw: u64,
    pub(super) counts: bool,
}

impl Stepping {
    pub(super) fn new(
        by: &AdamW,
        factor: Option<&[f32]>,
        numbering: Numbering,
        seed: u64,
        draw: u64,
        counts: bool,
    ) -> Self {
        Self {
            by: by.scalars(),
            factor: factor.and_then(<[f32]>::first).map_or(1.0, |&factor| factor),
            numbering,
            logit_keys: noise::round_keys(seed ^ ROUNDING_LOGITS),
            moment_keys: noise::round_keys(seed ^ ROUNDING_MOMENTS),
            draw,
            counts,
        }
    }
}
