//! The library's objects: bytes that the caller keeps and the library fills. Their size is 1024 bytes in version 0.7,
//! 512 since 0.8, both under the one name `libcusparseLt.so.0`. So ours are larger than any, and live on the heap: the
//! library's objects refer to one another by address.

use std::ptr::NonNull;

/// Bytes of every object. The largest that the library ever asked for were 13072 (0.6).
const BYTES: usize = 16 << 10;

macro_rules! objects {
    ($($name:ident)*) => {$(
        #[allow(non_camel_case_types, reason = "the library's name")]
        #[allow(unreachable_pub, reason = "as public as the generated table, in a module that is not")]
        #[repr(C, align(16))]
        pub struct $name([u8; BYTES]);

        impl Object for $name {
            const ZERO: Self = Self([0; BYTES]);
        }
    )*};
}

objects! {
    cusparseLtHandle_t
    cusparseLtMatDescriptor_t
    cusparseLtMatmulDescriptor_t
    cusparseLtMatmulAlgSelection_t
    cusparseLtMatmulPlan_t
}

/// One of the five.
pub(super) trait Object: Sized {
    /// As it is before the library has seen it.
    const ZERO: Self;
}

/// An object's memory: it stays at its address until this is dropped. Destroying the object itself is for the owner.
///
/// A raw pointer, not a box: the library keeps the address, and may write there while we hold this.
pub(super) struct Stored<T: Object>(NonNull<T>);

impl<T: Object> Stored<T> {
    pub(super) fn new() -> Self {
        Self(NonNull::from(Box::leak(Box::new(T::ZERO))))
    }

    pub(super) fn get(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T: Object> Drop for Stored<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer is from a box that was leaked in `new`, and this is its only owner.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_room_for_every_version() {
        assert_eq!((size_of::<cusparseLtHandle_t>(), align_of::<cusparseLtHandle_t>()), (16384, 16));
        let stored = Stored::<cusparseLtMatmulPlan_t>::new();
        assert!(stored.get().is_aligned());
    }
}
