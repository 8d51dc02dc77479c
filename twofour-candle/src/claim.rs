//! Whose the layers' numbers are. Layers of one number draw the same noise, so two weights may not share one; shards of
//! a weight may, and so may several layers over one weight.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use candle_core::{Result, Tensor};
use twofour::{Shape, Shard};

/// The numbers that layers of a sampler have, as long as they live.
#[derive(Debug, Default)]
pub(crate) struct Numbers(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    claims: HashMap<u32, Vec<Weak<Claim>>>,
    /// The highest that a layer had.
    last: u32,
}

/// A layer's right to its number, which its copies share. It lives no longer than the weight.
#[derive(Debug)]
pub(crate) struct Claim {
    number: u32,
    /// Where the weight is in memory: its storage, and the first element there.
    place: (usize, usize),
    shape: Shape,
    /// The part of a larger weight; `None` of a whole one, or where that was not said yet.
    shard: Option<Shard>,
    /// Whether there were shards of that number, so that this is to become one.
    pending: bool,
}

impl Numbers {
    /// A number for a weight, or for a shard of one.
    pub(crate) fn claim(&self, number: u32, weight: &Tensor, shape: Shape, shard: Option<Shard>) -> Result<Arc<Claim>> {
        let place = {
            let (storage, layout) = weight.storage_and_layout();
            (std::ptr::from_ref(&*storage).addr(), layout.start_offset())
        };
        let claim = Claim { number, place, shape, shard, pending: false };
        let mut taken = self.taken();
        taken.last = taken.last.max(number);
        let others = taken.claims.entry(number).or_default();
        others.retain(|other| other.strong_count() > 0);
        let mut pending = false;
        for other in others.iter().filter_map(Weak::upgrade).filter(|other| claim.meets(other)) {
            match (shard, other.shard) {
                (None, Some(_)) => pending = true,
                (Some(_), None) if other.pending => {}
                _ => return Err(claim.refused()),
            }
        }
        let claim = Arc::new(Claim { pending, ..claim });
        others.push(Arc::downgrade(&claim));
        Ok(claim)
    }

    /// Whether a layer may draw: one beside shards must have become one of them.
    pub(crate) fn check(&self, claim: &Claim) -> Result<()> {
        if !claim.pending {
            return Ok(());
        }
        let taken = self.taken();
        let mut others = taken.claims.get(&claim.number).into_iter().flatten().filter_map(Weak::upgrade);
        if others.any(|other| claim.meets(&other)) { Err(claim.refused()) } else { Ok(()) }
    }

    /// The highest number that a layer had.
    pub(crate) fn last(&self) -> u32 {
        self.taken().last
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn shard(&self) -> Option<Shard> {
        self.shard
    }

    /// Whether both draw for a group of the number, and not of the same weight.
    fn meets(&self, other: &Self) -> bool {
        if self.place == other.place && self.shape == other.shape {
            return false;
        }
        let (Some(one), Some(two)) = (self.shard, other.shard) else { return true };
        let apart = |start: u64, len: usize, other: u64, other_len: usize| {
            start.saturating_add(len as u64) <= other || other.saturating_add(other_len as u64) <= start
        };
        // Groups are numbered by the whole's columns: shards of wholes of other widths are not of one weight.
        one.global_cols != two.global_cols
            || !(apart(one.row_offset, self.shape.rows, two.row_offset, other.shape.rows)
                || apart(one.col_offset, self.shape.cols, two.col_offset, other.shape.cols))
    }

    fn refused(&self) -> candle_core::Error {
        candle_core::Error::Msg(format!(
            "the number {} is another layer's of this sampler, and both would draw the same masks: give each layer of \
             a model a number of its own; to build a layer anew, drop the old one first or make the new one of its \
             `weight()`; shards of one weight say so by `with_shard`",
            self.number
        ))
        .bt()
    }
}
