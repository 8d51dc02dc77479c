//! Logits at the start, and priors.

// A lane's number indexes several arrays at once.
#![allow(clippy::needless_range_loop)]

use crate::compress::{Sparsity, illegal};
use crate::element::Logit;
use crate::error::Result;
use crate::learn::initial::CENTRE;
use crate::learn::{INITIAL, Initial, Prior};
use crate::noise;
use crate::pattern::Pattern;
use crate::sample::cpu::{Numbering, PIECE};
use crate::sample::lanes::Block;
use crate::sample::vector::{LANES, Vector, Words, by_processor, to_arrays};
use crate::shape::Shape;
use crate::space::HostSpace;
use rayon::prelude::*;

/// Writes logits at the start.
///
/// # Errors
/// [`Error::IllegalCode`](crate::Error::IllegalCode), before anything is written.
pub(in super::super) fn initial<S: HostSpace, L: Logit>(pass: Initial<'_, S, L>) -> Result<()> {
    let normal = Normal {
        keys: noise::round_keys(pass.seed ^ INITIAL),
        numbering: Numbering::new(pass.shape, pass.shard),
        spread: pass.spread(),
    };
    let shift = pass.shift();
    let codes = pass.codes.map(S::slice);
    if let Some(codes) = codes {
        legal(pass.shape, codes)?;
    }
    S::slice_mut(pass.logits).par_chunks_mut(6 * PIECE).enumerate().for_each(|(i, logits)| {
        let push = codes.map(|codes| Push { codes: &codes[i * PIECE / 2..], shift });
        initial_piece(&normal, push.as_ref(), i * PIECE, logits);
    });
    Ok(())
}

/// Adds a prior to logits.
///
/// # Errors
/// As [`initial`].
pub(in super::super) fn prior<S: HostSpace, L: Logit>(pass: Prior<'_, S, L>) -> Result<()> {
    let (codes, shift) = (S::slice(pass.codes), pass.strength);
    legal(pass.shape, codes)?;
    S::slice_mut(pass.logits).par_chunks_mut(6 * PIECE).enumerate().for_each(|(i, logits)| {
        prior_piece(&Push { codes: &codes[i * PIECE / 2..], shift }, logits);
    });
    Ok(())
}

struct Normal {
    keys: [u32; 20],
    numbering: Numbering,
    spread: f32,
}

/// A push towards the mask of some codes, by so much a shared position.
struct Push<'a> {
    codes: &'a [u8],
    shift: f32,
}

by_processor! {
fn initial_piece<V, L: Logit>(normal: &Normal, push: Option<&Push<'_>>, first: usize, logits: &mut [L]) {
    let groups = logits.len() / 6;
    for start in (0..groups).step_by(LANES) {
        let count = LANES.min(groups - start);
        let mut values = push.map_or(Block::splat(0.0), |push| push.of::<V>(start, count));
        let globals = normal.numbering.globals(first + start);
        for (i, values) in values.0.iter_mut().enumerate() {
            let words = to_arrays(V::Words::philox(&normal.keys, i as u64, &globals));
            let mut centred = [0.0; LANES];
            for lane in 0..LANES {
                let mut sum = 0;
                for word in words {
                    sum += (word[lane] & 0xffff) + (word[lane] >> 16);
                }
                centred[lane] = (sum as i32 - CENTRE) as f32;
            }
            *values = V::splat(normal.spread).mul_add(V::from_array(centred), *values);
        }
        values.write(&mut logits[6 * start..6 * (start + count)]);
    }
}
}

by_processor! {
fn prior_piece<V, L: Logit>(push: &Push<'_>, logits: &mut [L]) {
    let groups = logits.len() / 6;
    for start in (0..groups).step_by(LANES) {
        let count = LANES.min(groups - start);
        let range = 6 * start..6 * (start + count);
        let mut values = Block::<V, 6>::read(&logits[range.clone()]);
        values.add(&push.of(start, count));
        values.write(&mut logits[range]);
    }
}
}

impl Push<'_> {
    /// `shift·(sim − 1)` of some groups.
    #[inline(always)]
    fn of<V: Vector>(&self, start: usize, count: usize) -> Block<V, 6> {
        let mut values = [[0.0; 6]; LANES];
        for (lane, values) in values.iter_mut().take(count).enumerate() {
            let code = self.codes[(start + lane) / 2] >> (4 * ((start + lane) % 2)) & 15;
            for (value, similar) in values.iter_mut().zip(SIMILAR[usize::from(code)]) {
                *value = self.shift * similar;
            }
        }
        Block(V::turn(&values))
    }
}

/// `sim − 1` of the six patterns, by code.
const SIMILAR: [[f32; 6]; 16] = {
    let mut table = [[0.0; 6]; 16];
    let mut from = 0;
    while from < 6 {
        let mut to = 0;
        while to < 6 {
            let shared = (Pattern::ALL[from].bits() & Pattern::ALL[to].bits()).count_ones();
            table[Pattern::ALL[from].code() as usize][to] = shared as f32 - 1.0;
            to += 1;
        }
        from += 1;
    }
    table
};

/// Checks that every group's code is one of the six.
fn legal(shape: Shape, codes: &[u8]) -> Result<()> {
    let code = |group: usize| codes[group / 2] >> (4 * (group % 2)) & 15;
    let illegal_code = |&group: &usize| Pattern::from_code(code(group)).is_none();
    match (0..shape.groups()).into_par_iter().find_first(illegal_code) {
        None => Ok(()),
        Some(group) => Err(illegal("code", Sparsity::TwoFour, shape, group, code(group))),
    }
}
