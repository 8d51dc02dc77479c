//! The launches of the `distil` kernels. The structs mirror those of `cuda/distil.cu`.

use super::{Distil, SquareHead, TopK};
use crate::element::Float;
use crate::error::{Result, unsupported};
use crate::pass::{Binder, DeviceSpace, Queue};

/// Shares of sums that blocks leave, fixed, so that sums come out the same on every device.
pub(super) const SQUARE_SLOTS: usize = 1024;

pub(super) fn distil<'g, S: DeviceSpace, L: Float>(
    _: &'g mut Distil<'_, S, L>,
    _: &mut Binder<'g, S>,
    _: &mut Queue,
) -> Result<()> {
    Err(unsupported("distillation on a device", "its kernels are yet to come"))
}

pub(super) fn top_k<'g, S: DeviceSpace, L: Float>(
    _: &'g mut TopK<'_, S, L>,
    _: &mut Binder<'g, S>,
    _: &mut Queue,
) -> Result<()> {
    Err(unsupported("distillation on a device", "its kernels are yet to come"))
}

pub(super) fn squarehead<'g, S: DeviceSpace, L: Float>(
    _: &'g mut SquareHead<'_, S, L>,
    _: &mut Binder<'g, S>,
    _: &mut Queue,
) -> Result<()> {
    Err(unsupported("distillation on a device", "its kernels are yet to come"))
}
