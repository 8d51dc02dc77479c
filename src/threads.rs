//! Work on all threads of rayon's pool: one way for every operation, behind which rayon is compiled once, and not again
//! for each type that an operation is called with.

use rayon::prelude::*;
use std::sync::{Mutex, PoisonError};

/// What `work` makes of each item, in order of the items, whichever thread made it.
pub(crate) fn map<T: Send, R: Send>(items: impl Iterator<Item = T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let slots: Vec<_> = items.map(|item| Mutex::new((Some(item), None))).collect();
    each(slots.len(), &|number| {
        let slot = || slots[number].lock().unwrap_or_else(PoisonError::into_inner);
        // Not locked while it works.
        let item = slot().0.take();
        let made = item.map(&work);
        slot().1 = made;
    });
    slots.into_iter().filter_map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner).1).collect()
}

fn each(count: usize, work: &(dyn Fn(usize) + Sync)) {
    (0..count).into_par_iter().for_each(work);
}
