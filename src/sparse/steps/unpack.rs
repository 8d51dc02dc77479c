//! The dense weight on a device: the launch of [`crate::compress::Unpack`].

use super::Step;
use crate::compress::{Layout, Unpack};
use crate::device::Limits;
use crate::element::Factor;
use crate::error::Result;
use crate::shape::Shape;
use crate::space::{Raw, RawSlice};

pub use crate::compress::launch::UnpackArgs;

/// Values and metadata to the dense weight.
pub(in crate::sparse) fn unpack_step<T: Factor>(
    limits: &Limits,
    shape: Shape,
    layout: Layout,
    [values, metadata, dense]: [RawSlice; 3],
) -> Result<Step> {
    Unpack::<Raw, T>::new(shape, layout, values, metadata, dense).launch(limits).map(Step::Unpack)
}
