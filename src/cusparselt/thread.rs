//! What belongs to one thread, in a place that goes from thread to thread.

use std::mem::ManuallyDrop;
use std::thread::{self, ThreadId};

use crate::error::{Result, unsupported};

/// A value of the thread that made it. Whatever holds it may go to another thread, but the value cannot be had there,
/// and if it is dropped there it is leaked: nothing of it is ever touched but on its own thread.
pub(crate) struct OfThread<T> {
    thread: ThreadId,
    value: ManuallyDrop<T>,
}

// SAFETY: `get`, `get_mut` and `drop` reach the value on the thread that made it alone, which the number says: no two
// threads of a process ever have the same.
unsafe impl<T> Send for OfThread<T> {}

impl<T> OfThread<T> {
    /// Of the thread that calls.
    pub(crate) fn new(value: T) -> Self {
        Self { thread: thread::current().id(), value: ManuallyDrop::new(value) }
    }

    fn is_here(&self) -> bool {
        thread::current().id() == self.thread
    }

    /// The value.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) on another thread.
    pub(crate) fn get(&self) -> Result<&T> {
        if self.is_here() { Ok(&self.value) } else { Err(elsewhere()) }
    }

    /// The same.
    pub(crate) fn get_mut(&mut self) -> Result<&mut T> {
        if self.is_here() { Ok(&mut self.value) } else { Err(elsewhere()) }
    }
}

fn elsewhere() -> crate::Error {
    let because = "this handle has opened the library on another thread, and the library's handles are for one thread: \
                   use a Gpu of this thread's own";
    unsupported("cuSPARSELt", because)
}

impl<T> Drop for OfThread<T> {
    fn drop(&mut self) {
        if self.is_here() {
            // SAFETY: it is dropped here alone, and never used again.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn a_value_is_had_and_dropped_on_its_own_thread_alone() {
        let held = Rc::new(1);
        let mut here = OfThread::new(Rc::clone(&held));
        assert_eq!((**here.get().unwrap(), **here.get_mut().unwrap()), (1, 1));
        let back = thread::spawn(move || {
            let mut there = here;
            assert!(there.get().is_err() && there.get_mut().is_err());
            there
        });
        let back = back.join().unwrap();
        assert!(back.get().is_ok());
        assert_eq!(Rc::strong_count(&held), 2);
        drop(back);
        assert_eq!(Rc::strong_count(&held), 1);
        let here = OfThread::new(Rc::clone(&held));
        thread::spawn(move || drop(here)).join().unwrap();
        assert_eq!(Rc::strong_count(&held), 2, "leaked");
    }
}
