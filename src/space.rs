//! Where operands live. An op's argument struct is written once, over any [`Space`]; so are its checks.

use std::fmt::Debug;

/// A place where arrays live, with a borrowed and a mutably borrowed form of them.
pub trait Space {
    /// An input.
    type Ref<'a, T: 'a>: Operand;
    /// An output, or an input that is updated.
    type Mut<'a, T: 'a>: Operand;
}

/// An array of some length.
pub trait Operand {
    /// Elements in the array.
    fn elements(&self) -> usize;
}

/// The host's memory: slices.
#[derive(Debug, Clone, Copy)]
pub enum Host {}

impl Space for Host {
    type Ref<'a, T: 'a> = &'a [T];
    type Mut<'a, T: 'a> = &'a mut [T];
}

impl<T> Operand for &[T] {
    fn elements(&self) -> usize {
        self.len()
    }
}

impl<T> Operand for &mut [T] {
    fn elements(&self) -> usize {
        self.len()
    }
}

/// Bare device addresses: what a launch is made of. Nothing in this space can be executed by itself; it is how the
/// CUDA executor, and the emulator in tests, turn their arrays into a kernel's arguments.
#[derive(Debug, Clone, Copy)]
pub enum Raw {}

/// An address and a length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawSlice {
    /// Device address of the first element.
    pub address: u64,
    /// Elements.
    pub elements: usize,
}

impl Space for Raw {
    type Ref<'a, T: 'a> = RawSlice;
    type Mut<'a, T: 'a> = RawSlice;
}

impl Operand for RawSlice {
    fn elements(&self) -> usize {
        self.elements
    }
}

/// The memory of a CUDA device: cudarc's views.
#[cfg(feature = "cuda")]
#[derive(Debug, Clone, Copy)]
pub enum Cuda {}

#[cfg(feature = "cuda")]
impl Space for Cuda {
    type Ref<'a, T: 'a> = cudarc::driver::CudaView<'a, T>;
    type Mut<'a, T: 'a> = cudarc::driver::CudaViewMut<'a, T>;
}

#[cfg(feature = "cuda")]
impl<T> Operand for cudarc::driver::CudaView<'_, T> {
    fn elements(&self) -> usize {
        cudarc::driver::DeviceSlice::len(self)
    }
}

#[cfg(feature = "cuda")]
impl<T> Operand for cudarc::driver::CudaViewMut<'_, T> {
    fn elements(&self) -> usize {
        cudarc::driver::DeviceSlice::len(self)
    }
}
