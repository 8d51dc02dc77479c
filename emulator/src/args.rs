//! Building the bytes of a kernel's argument struct, field by field, with C's alignment.

use crate::{Buffer, Element};

/// The bytes of an argument struct. Fields come in the order of the C++ struct.
///
/// A crate with its own `#[repr(C)]` struct does not need this: [`Launch`](crate::Launch) takes any bytes.
#[derive(Debug, Clone, Default)]
pub struct Args {
    bytes: Vec<u8>,
    align: usize,
}

impl Args {
    /// No fields yet.
    #[must_use]
    pub fn new() -> Args {
        Args::default()
    }

    /// A number.
    #[must_use]
    pub fn value<T: Element>(mut self, value: T) -> Args {
        let align = size_of::<T>();
        self.align = self.align.max(align);
        self.pad_to(align);
        value.append_to(&mut self.bytes);
        self
    }

    /// A pointer to the start of a buffer.
    #[must_use]
    pub fn pointer(self, buffer: &Buffer) -> Args {
        self.value(buffer.address())
    }

    /// A null pointer.
    #[must_use]
    pub fn null(self) -> Args {
        self.value(0u64)
    }

    /// The struct's bytes, padded at the end as C does.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.pad_to(self.align.max(1));
        self.bytes
    }

    fn pad_to(&mut self, align: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(align), 0);
    }
}
