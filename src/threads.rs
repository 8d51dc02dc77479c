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

/// How many there are.
pub(crate) fn count() -> usize {
    rayon::current_num_threads()
}

fn each(count: usize, work: &(dyn Fn(usize) + Sync)) {
    (0..count).into_par_iter().for_each(work);
}

#[cfg(test)]
mod tests {
    use super::map;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn each_item_is_worked_on_once_and_results_are_in_order() {
        let calls = AtomicUsize::new(0);
        for count in [0, 1, 1000] {
            let mut items: Vec<usize> = (0..count).collect();
            let made = map(items.iter_mut(), |item| {
                calls.fetch_add(1, Ordering::Relaxed);
                *item += 1;
                10 * *item
            });
            assert_eq!(made, (1..=count).map(|i| 10 * i).collect::<Vec<_>>());
            assert_eq!(items, (1..=count).collect::<Vec<_>>());
        }
        assert_eq!(calls.into_inner(), 1001);
    }
}
