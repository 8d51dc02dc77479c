//! From cudarc's views to bare addresses: the operands of a launch, each with the guard that orders the launch after what
//! was queued for it before.

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceSlice, SyncOnDrop};

use crate::error::{Error, Result};
use crate::space::RawSlice;

/// An operand that may be absent, and its guard: it must live until the launch is queued.
pub(crate) type Bound<'a> = (Option<RawSlice>, Option<SyncOnDrop<'a>>);

/// The address of an input for work on `stream`.
///
/// # Errors
/// [`Error::ForeignContext`].
pub(crate) fn input<'a, T>(
    what: &'static str,
    stream: &'a Arc<CudaStream>,
    view: Option<&'a CudaView<'_, T>>,
) -> Result<Bound<'a>> {
    let Some(view) = view else { return Ok((None, None)) };
    same_context(what, stream, view.stream())?;
    let elements = view.len();
    let (address, guard) = view.device_ptr(stream);
    Ok((Some(RawSlice { address, elements }), Some(guard)))
}

/// The address of an output for work on `stream`.
///
/// # Errors
/// [`Error::ForeignContext`].
pub(crate) fn output<'a, T>(
    what: &'static str,
    stream: &'a Arc<CudaStream>,
    view: Option<&'a mut CudaViewMut<'_, T>>,
) -> Result<Bound<'a>> {
    let Some(view) = view else { return Ok((None, None)) };
    same_context(what, stream, view.stream())?;
    let elements = view.len();
    let (address, guard) = view.device_ptr_mut(stream);
    Ok((Some(RawSlice { address, elements }), Some(guard)))
}

/// Two handles of one device's primary context are the same context.
fn same_context(what: &'static str, stream: &CudaStream, owner: &CudaStream) -> Result<()> {
    if stream.context().cu_ctx() == owner.context().cu_ctx() { Ok(()) } else { Err(Error::ForeignContext { what }) }
}
