//! Typed buffers of the emulator.

use bytemuck::Pod;
use twofour::space::RawSlice;
use twofour_emulator::Buffer;

/// A buffer of the emulator with a typed view of it.
pub(crate) struct Array<T> {
    buffer: Buffer,
    elements: usize,
    of: std::marker::PhantomData<T>,
}

impl<T: Pod> Array<T> {
    pub(crate) fn input(name: &str, values: &[T]) -> Self {
        let buffer = Buffer::input(name, bytemuck::cast_slice::<T, u8>(values)).unwrap();
        Self { buffer, elements: values.len(), of: std::marker::PhantomData }
    }

    #[allow(dead_code, reason = "not every suite does")]
    pub(crate) fn output(name: &str, elements: usize) -> Self {
        let buffer = Buffer::output::<u8>(name, elements * size_of::<T>()).unwrap();
        Self { buffer, elements, of: std::marker::PhantomData }
    }

    pub(crate) fn in_place(name: &str, values: &[T]) -> Self {
        let buffer = Buffer::in_place(name, bytemuck::cast_slice::<T, u8>(values)).unwrap();
        Self { buffer, elements: values.len(), of: std::marker::PhantomData }
    }

    pub(crate) fn raw(&self) -> RawSlice {
        RawSlice { address: self.buffer.address(), elements: self.elements }
    }

    pub(crate) fn read(&self) -> Vec<T> {
        self.buffer.values::<u8>().chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
    }

    /// Sets every byte.
    #[allow(dead_code, reason = "not every suite does")]
    pub(crate) fn fill(&self, byte: u8) {
        self.buffer.fill(byte);
    }
}
