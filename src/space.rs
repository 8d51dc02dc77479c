//! Where arrays live. An operation's argument struct is written once, over any [`Space`]; so are its checks. Operands
//! go in as the user has them ([`Input`], [`Output`]), and the space follows from them.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::ops::Range;

mod sealed {
    /// Of this crate's spaces: what their arrays say of their lengths is believed.
    pub trait Sealed {}
    impl Sealed for super::Host {}
    impl Sealed for super::Raw {}
    #[cfg(feature = "cuda")]
    impl Sealed for super::Cuda {}
}

/// A place where arrays live, with a borrowed and a mutably borrowed form of them. Sealed.
pub trait Space: sealed::Sealed + Sized + 'static {
    /// An input.
    type Ref<'a, T: 'a>: Array + Input<'a, Space = Self, Element = T>;
    /// An output, or an input that is updated.
    type Mut<'a, T: 'a>: Array + Output<'a, Space = Self, Element = T>;
    /// An input for a while.
    fn share<'s, T>(operand: &'s Self::Ref<'_, T>) -> Self::Ref<'s, T>;
}

/// An array of some length.
pub trait Array {
    /// Elements in the array.
    fn elements(&self) -> usize;
}

/// What an input can be given as: slices, references to vectors and arrays, views.
pub trait Input<'a> {
    /// Where it lives.
    type Space: Space;
    /// What it holds.
    type Element: 'a;
    /// Borrows it.
    fn input(self) -> <Self::Space as Space>::Ref<'a, Self::Element>;
}

/// What an output can be given as: mutable slices, mutable references to vectors and arrays, mutable views.
pub trait Output<'a> {
    /// Where it lives.
    type Space: Space;
    /// What it holds.
    type Element: 'a;
    /// Borrows it.
    fn output(self) -> <Self::Space as Space>::Mut<'a, Self::Element>;
}

/// A type that arrays of every space can hold: any bits are a value, and so are zeros. For all types that are so.
pub trait Plain: bytemuck::Pod + Send + Sync + device::Plain {}
impl<T: bytemuck::Pod + Send + Sync + device::Plain> Plain for T {}

/// What cudarc asks of a type besides, where it is there.
mod device {
    #[cfg(feature = "cuda")]
    pub trait Plain: cudarc::driver::DeviceRepr + cudarc::driver::ValidAsZeroBits {}
    #[cfg(feature = "cuda")]
    impl<T: cudarc::driver::DeviceRepr + cudarc::driver::ValidAsZeroBits> Plain for T {}
    #[cfg(not(feature = "cuda"))]
    pub trait Plain {}
    #[cfg(not(feature = "cuda"))]
    impl<T> Plain for T {}
}

/// The host's memory: slices.
#[derive(Debug, Clone, Copy)]
pub enum Host {}

impl Space for Host {
    type Ref<'a, T: 'a> = &'a [T];
    type Mut<'a, T: 'a> = &'a mut [T];
    fn share<'s, T>(operand: &'s &[T]) -> &'s [T] {
        operand
    }
}

/// A space whose arrays are slices: [`Host`], by another name than itself for code that is written over all spaces.
pub trait HostSpace: Space {
    /// An input's elements.
    fn slice<'a, T: 'a>(operand: Self::Ref<'a, T>) -> &'a [T];
    /// An output's elements.
    fn slice_mut<'a, T: 'a>(operand: Self::Mut<'a, T>) -> &'a mut [T];
}

impl HostSpace for Host {
    fn slice<'a, T: 'a>(operand: &'a [T]) -> &'a [T] {
        operand
    }
    fn slice_mut<'a, T: 'a>(operand: &'a mut [T]) -> &'a mut [T] {
        operand
    }
}

/// A space whose outputs can be cut, as passes that are made of others' do.
pub(crate) trait Cut: Space {
    /// Some of the elements, as long as they are there.
    fn cut<'s, T>(operand: &'s mut Self::Mut<'_, T>, range: Range<usize>) -> Self::Mut<'s, T>;
}

impl Cut for Host {
    fn cut<'s, T>(operand: &'s mut &mut [T], range: Range<usize>) -> &'s mut [T] {
        &mut operand[range]
    }
}

impl Cut for Raw {
    fn cut<T>(operand: &mut RawSlice<T>, range: Range<usize>) -> RawSlice<T> {
        operand.part(range.start, range.len())
    }
}

impl<T> Array for &[T] {
    fn elements(&self) -> usize {
        self.len()
    }
}

impl<T> Array for &mut [T] {
    fn elements(&self) -> usize {
        self.len()
    }
}

/// Bare device addresses: what launches are made of. Nothing in this space can be executed by itself; it is how passes
/// are made of other passes' operands, and how the emulator in tests runs the kernels.
#[derive(Debug, Clone, Copy)]
pub enum Raw {}

/// An address and a length.
pub struct RawSlice<T> {
    /// Device address of the first element.
    pub address: u64,
    /// Elements.
    pub elements: usize,
    of: PhantomData<fn() -> T>,
}

impl<T> RawSlice<T> {
    /// So many elements at an address.
    #[must_use]
    pub const fn new(address: u64, elements: usize) -> Self {
        Self { address, elements, of: PhantomData }
    }

    /// So many elements nowhere, for checks and plans, which look at lengths alone.
    #[must_use]
    pub const fn nowhere(elements: usize) -> Self {
        Self::new(0, elements)
    }

    /// Some of the elements, as long as they are there.
    #[must_use]
    pub const fn part(self, first: usize, elements: usize) -> Self {
        Self::new(self.address + (first * size_of::<T>()) as u64, elements)
    }
}

impl<T> Clone for RawSlice<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for RawSlice<T> {}

impl<T> PartialEq for RawSlice<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.address, self.elements) == (other.address, other.elements)
    }
}
impl<T> Eq for RawSlice<T> {}

impl<T> Debug for RawSlice<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} elements at {:#x}", self.elements, self.address)
    }
}

impl Space for Raw {
    type Ref<'a, T: 'a> = RawSlice<T>;
    type Mut<'a, T: 'a> = RawSlice<T>;
    fn share<T>(operand: &RawSlice<T>) -> RawSlice<T> {
        *operand
    }
}

impl<T> Array for RawSlice<T> {
    fn elements(&self) -> usize {
        self.elements
    }
}

/// The memory of a CUDA device: cudarc's views.
#[cfg(feature = "cuda")]
#[derive(Debug, Clone, Copy)]
pub enum Cuda {}

#[cfg(feature = "cuda")]
mod cuda {
    use super::{Array, Cuda, Space};
    use cudarc::driver::{CudaView, CudaViewMut};

    impl Space for Cuda {
        type Ref<'a, T: 'a> = CudaView<'a, T>;
        type Mut<'a, T: 'a> = CudaViewMut<'a, T>;
        fn share<'s, T>(operand: &'s CudaView<'_, T>) -> CudaView<'s, T> {
            operand.slice(..)
        }
    }

    impl<T> Array for CudaView<'_, T> {
        fn elements(&self) -> usize {
            self.len()
        }
    }

    impl<T> Array for CudaViewMut<'_, T> {
        fn elements(&self) -> usize {
            self.len()
        }
    }
}

/// Operands by what users have.
macro_rules! operands {
    ($($trait:ident::$method:ident, $space:ty: [$($generics:tt)*] $type:ty => $element:ty, |$operand:ident| $borrow:expr;)*) => {$(
        impl<'a, $($generics)*> $trait<'a> for $type {
            type Space = $space;
            type Element = $element;
            fn $method(self) -> operands!(@$trait $space, $element) {
                let $operand = self;
                $borrow
            }
        }
    )*};
    (@Input $space:ty, $element:ty) => { <$space as Space>::Ref<'a, $element> };
    (@Output $space:ty, $element:ty) => { <$space as Space>::Mut<'a, $element> };
}
operands! {
    Input::input, Host: [T: 'a] &'a [T] => T, |it| it;
    Input::input, Host: [T: 'a] &'a Vec<T> => T, |it| it;
    Input::input, Host: [T: 'a, const N: usize] &'a [T; N] => T, |it| it;
    Output::output, Host: [T: 'a] &'a mut [T] => T, |it| it;
    Output::output, Host: [T: 'a] &'a mut Vec<T> => T, |it| it;
    Output::output, Host: [T: 'a, const N: usize] &'a mut [T; N] => T, |it| it;
    Input::input, Raw: [T: 'a] RawSlice<T> => T, |it| it;
    Output::output, Raw: [T: 'a] RawSlice<T> => T, |it| it;
}
#[cfg(feature = "cuda")]
operands! {
    Input::input, Cuda: [T: 'a] &'a cudarc::driver::CudaSlice<T> => T, |it| it.as_view();
    Input::input, Cuda: [T: 'a] cudarc::driver::CudaView<'a, T> => T, |it| it;
    Input::input, Cuda: [T: 'a] &'a cudarc::driver::CudaView<'_, T> => T, |it| it.slice(..);
    Output::output, Cuda: [T: 'a] &'a mut cudarc::driver::CudaSlice<T> => T, |it| it.as_view_mut();
    Output::output, Cuda: [T: 'a] cudarc::driver::CudaViewMut<'a, T> => T, |it| it;
    Output::output, Cuda: [T: 'a] &'a mut cudarc::driver::CudaViewMut<'_, T> => T, |it| it.slice_mut(..);
}
