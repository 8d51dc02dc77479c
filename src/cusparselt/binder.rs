//! From views to addresses for the library: in the stream's context, long enough, on 16-byte boundaries.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, SyncOnDrop};

use super::problem::ALIGN;
use crate::device::operand::{Bound, input, output};
use crate::error::{Error, Result};

/// Keeps the guards that order work on a stream; it must live until that work is queued.
pub(super) struct Binder<'g> {
    stream: &'g Arc<CudaStream>,
    guards: Vec<SyncOnDrop<'g>>,
}

impl<'g> Binder<'g> {
    pub(super) fn new(stream: &'g Arc<CudaStream>) -> Self {
        Self { stream, guards: Vec::with_capacity(6) }
    }

    /// The address of something that is read.
    pub(super) fn input<T>(&mut self, what: &'static str, view: &'g CudaView<'_, T>, needed: u64) -> Result<u64> {
        let bound = input(what, self.stream, Some(view))?;
        self.keep(what, bound, needed)
    }

    /// The address of something that is written.
    pub(super) fn output<T>(
        &mut self,
        what: &'static str,
        view: &'g mut CudaViewMut<'_, T>,
        needed: u64,
    ) -> Result<u64> {
        let bound = output(what, self.stream, Some(view))?;
        self.keep(what, bound, needed)
    }

    /// Orders the work after what was queued for a memory that it reads without being told its address.
    pub(super) fn reads<T>(&mut self, memory: &'g CudaSlice<T>) {
        self.guards.push(memory.device_ptr(self.stream).1);
    }

    /// The address of a work space, or 0 where none is needed and none is given.
    pub(super) fn workspace(&mut self, view: Option<&'g mut CudaViewMut<'_, u8>>, needed: u64) -> Result<u64> {
        let Some(view) = view else {
            return if needed == 0 { Ok(0) } else { Err(Error::Workspace { needed, got: 0 }) };
        };
        match self.output("workspace", view, needed) {
            Err(Error::Length { expected, got, .. }) => Err(Error::Workspace { needed: expected, got }),
            other => other,
        }
    }

    fn keep(&mut self, what: &'static str, (operand, guard): Bound<'g>, needed: u64) -> Result<u64> {
        self.guards.extend(guard);
        let (address, got) = operand.map_or((0, 0), |operand| (operand.address, operand.elements as u64));
        if got < needed {
            return Err(Error::Length { what, expected: needed, got });
        }
        if !address.is_multiple_of(ALIGN) {
            return Err(Error::Misaligned { what, address, align: ALIGN });
        }
        Ok(address)
    }
}
