//! From operands to the addresses that kernels are given, each operand looked at once: where it lives, its boundary,
//! and the guard that orders the launch after what was queued for it before.

#[cfg(feature = "cuda")]
use std::sync::Arc;

#[cfg(feature = "cuda")]
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, DeviceSlice, SyncOnDrop};

use crate::error::{Error, Result};
#[cfg(feature = "cuda")]
use crate::space::Cuda;
use crate::space::{Raw, RawSlice, Space};

/// Alignment of operands in bytes: kernels' accesses are 16 bytes wide.
pub(crate) const ALIGN: u64 = 16;

/// A space of device memory: [`Raw`] addresses, or cudarc's views.
pub trait DeviceSpace: Space {
    /// What an address is good for as long as it lives.
    type Guards<'g>;
    /// Where an input is.
    ///
    /// # Errors
    /// [`Error::ForeignContext`], [`Error::ForeignHandle`].
    #[doc(hidden)]
    fn address<'g, T>(
        guards: &mut Self::Guards<'g>,
        what: &'static str,
        operand: &'g Self::Ref<'_, T>,
    ) -> Result<RawSlice<T>>;
    /// Where an output is.
    ///
    /// # Errors
    /// [`Error::ForeignContext`], [`Error::ForeignHandle`].
    #[doc(hidden)]
    fn address_mut<'g, T>(
        guards: &mut Self::Guards<'g>,
        what: &'static str,
        operand: &'g mut Self::Mut<'_, T>,
    ) -> Result<RawSlice<T>>;
}

/// What operands are called, by their addresses.
pub type Names = Vec<(&'static str, u64)>;

impl DeviceSpace for Raw {
    type Guards<'g> = Option<&'g mut Names>;
    fn address<T>(names: &mut Option<&mut Names>, what: &'static str, operand: &RawSlice<T>) -> Result<RawSlice<T>> {
        note(names, what, *operand)
    }
    fn address_mut<T>(
        names: &mut Option<&mut Names>,
        what: &'static str,
        operand: &mut RawSlice<T>,
    ) -> Result<RawSlice<T>> {
        note(names, what, *operand)
    }
}

fn note<T>(names: &mut Option<&mut Names>, what: &'static str, operand: RawSlice<T>) -> Result<RawSlice<T>> {
    if let Some(names) = names {
        names.push((what, operand.address));
    }
    Ok(operand)
}

/// Turns a pass's operands into addresses. It must live until what reads and writes them is queued.
pub struct Binder<'g, S: DeviceSpace> {
    guards: S::Guards<'g>,
}

impl<'g> Binder<'g, Raw> {
    /// Of addresses that the caller vouches for.
    ///
    /// # Safety
    /// What is queued with it is only run where every operand's address is good for its reads and writes.
    #[must_use]
    pub const unsafe fn bare() -> Self {
        Self { guards: None }
    }

    /// Of such, whose names are noted down, for messages.
    ///
    /// # Safety
    /// As [`Binder::bare`].
    #[must_use]
    pub const unsafe fn naming(names: &'g mut Names) -> Self {
        Self { guards: Some(names) }
    }
}

impl<'g, S: DeviceSpace> Binder<'g, S> {
    /// Where an input is.
    pub(crate) fn input<T>(&mut self, what: &'static str, operand: &'g S::Ref<'_, T>) -> Result<RawSlice<T>> {
        aligned(what, S::address(&mut self.guards, what, operand)?, ALIGN)
    }

    /// Where an output is.
    pub(crate) fn output<T>(&mut self, what: &'static str, operand: &'g mut S::Mut<'_, T>) -> Result<RawSlice<T>> {
        self.output_on(what, operand, ALIGN)
    }

    /// Where an output is, on a boundary of so many bytes.
    pub(crate) fn output_on<T>(
        &mut self,
        what: &'static str,
        operand: &'g mut S::Mut<'_, T>,
        align: u64,
    ) -> Result<RawSlice<T>> {
        aligned(what, S::address_mut(&mut self.guards, what, operand)?, align)
    }

    /// The address of an input, 0 where there is none.
    pub(crate) fn input_if<T>(&mut self, what: &'static str, operand: &'g Option<S::Ref<'_, T>>) -> Result<u64> {
        Ok(operand.as_ref().map(|operand| self.input(what, operand)).transpose()?.map_or(0, |slice| slice.address))
    }

    /// The address of an output, 0 where there is none.
    pub(crate) fn output_if<T>(&mut self, what: &'static str, operand: &'g mut Option<S::Mut<'_, T>>) -> Result<u64> {
        self.output_if_on(what, operand, ALIGN)
    }

    /// The same, on a boundary of so many bytes.
    pub(crate) fn output_if_on<T>(
        &mut self,
        what: &'static str,
        operand: &'g mut Option<S::Mut<'_, T>>,
        align: u64,
    ) -> Result<u64> {
        let slice = operand.as_mut().map(|operand| self.output_on(what, operand, align)).transpose()?;
        Ok(slice.map_or(0, |slice| slice.address))
    }
}

/// An operand on a boundary of so many bytes. One without elements may lie anywhere.
fn aligned<T>(what: &'static str, slice: RawSlice<T>, align: u64) -> Result<RawSlice<T>> {
    match slice.elements == 0 || slice.address.is_multiple_of(align) {
        true => Ok(slice),
        false => Err(Error::Misaligned { what, address: slice.address, align }),
    }
}

/// Guards that need no allocation: more than any pass has.
#[cfg(feature = "cuda")]
const AT_HAND: usize = 20;

/// The guards of operands for work on a stream.
#[cfg(feature = "cuda")]
pub struct StreamGuards<'g> {
    stream: &'g Arc<CudaStream>,
    first: [Option<SyncOnDrop<'g>>; AT_HAND],
    used: usize,
    more: Vec<SyncOnDrop<'g>>,
}

#[cfg(feature = "cuda")]
impl<'g> StreamGuards<'g> {
    fn keep(&mut self, guard: SyncOnDrop<'g>) {
        match self.first.get_mut(self.used) {
            Some(free) => *free = Some(guard),
            None => self.more.push(guard),
        }
        self.used += 1;
    }

    /// Two handles of one device's primary context are the same context, but cudarc's guards of an operand do their
    /// part only where the operand's own handle has more streams than the default one.
    fn check(&self, what: &'static str, owner: &CudaStream) -> Result<()> {
        let (own, foreign) = (self.stream.context(), owner.context());
        if Arc::ptr_eq(own, foreign) {
            return Ok(());
        }
        match own.cu_ctx() == foreign.cu_ctx() {
            true => Err(Error::ForeignHandle { what, device: own.ordinal() }),
            false => Err(Error::ForeignContext { what }),
        }
    }
}

#[cfg(feature = "cuda")]
impl<'g> Binder<'g, Cuda> {
    /// For work on a stream.
    pub(crate) fn new(stream: &'g Arc<CudaStream>) -> Self {
        let first = std::array::from_fn(|_| None);
        Self { guards: StreamGuards { stream, first, used: 0, more: Vec::new() } }
    }
}

#[cfg(feature = "cuda")]
impl DeviceSpace for Cuda {
    type Guards<'g> = StreamGuards<'g>;
    fn address<'g, T>(
        guards: &mut StreamGuards<'g>,
        what: &'static str,
        operand: &'g cudarc::driver::CudaView<'_, T>,
    ) -> Result<RawSlice<T>> {
        guards.check(what, operand.stream())?;
        let (address, guard) = operand.device_ptr(guards.stream);
        guards.keep(guard);
        Ok(RawSlice::new(address, operand.len()))
    }
    fn address_mut<'g, T>(
        guards: &mut StreamGuards<'g>,
        what: &'static str,
        operand: &'g mut cudarc::driver::CudaViewMut<'_, T>,
    ) -> Result<RawSlice<T>> {
        guards.check(what, operand.stream())?;
        let elements = operand.len();
        let (address, guard) = operand.device_ptr_mut(guards.stream);
        guards.keep(guard);
        Ok(RawSlice::new(address, elements))
    }
}
