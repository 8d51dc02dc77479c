//! From layout to layout: its arguments.

use super::layout::Layout;
use super::{cpu, launch};
use crate::check::length;
use crate::element::DType;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::pass::{self, Binder, Checked, DeviceSpace, Pass, Queue};
use crate::shape::Shape;
use crate::space::{HostSpace, Input, Output, Space};

/// Arguments of taking metadata from a layout to another: to or from [`Layout::Plain`], that is packing and unpacking
/// codes.
///
/// Both are as long as [`Layout::sizes`] says; what padding holds does not matter, and is overwritten with codes E. On
/// a device both start on a 16-byte boundary.
///
/// # Errors
/// When run: as [`Layout::sizes`]; [`Error::Length`]. On the CPU also [`Error::IllegalCode`] with the first such group;
/// on a device [`Error::Overflow`] as [`Pack`](super::Pack).
#[derive(Debug)]
pub struct Reorder<'a, S: Space> {
    pub(super) shape: Shape,
    pub(super) value_type: DType,
    pub(super) from: (Layout, S::Ref<'a, u8>),
    pub(super) to: (Layout, S::Mut<'a, u8>),
    pub(super) faults: Option<S::Mut<'a, u32>>,
}

impl<'a, S: Space> Reorder<'a, S> {
    /// From one layout to another, for values of this type.
    #[must_use]
    pub fn new(
        shape: Shape,
        value_type: DType,
        from: (Layout, impl Input<'a, Space = S, Element = u8>),
        to: (Layout, impl Output<'a, Space = S, Element = u8>),
    ) -> Self {
        let (from, to) = ((from.0, from.1.input()), (to.0, to.1.output()));
        Self { shape, value_type, from, to, faults: None }
    }

    /// Counts the groups that have no legal code, as [`Pack::faults`](super::Pack::faults).
    #[must_use]
    pub fn faults(mut self, faults: impl Output<'a, Space = S, Element = u32>) -> Self {
        self.faults = Some(faults.output());
        self
    }
}

impl<S: Space> pass::Sealed for Reorder<'_, S> {}
impl<S: Space> Pass<S> for Reorder<'_, S> {
    fn check(&self) -> Result<()> {
        let bytes = |layout: Layout| Ok(layout.sizes(self.shape, self.value_type)?.metadata);
        length("metadata (from)", Some(&self.from.1), bytes(self.from.0)?)?;
        length("metadata (to)", Some(&self.to.1), bytes(self.to.0)?)?;
        length("faults", self.faults.as_ref(), 1)
    }

    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace,
    {
        cpu::reorder(pass.into_inner())
    }

    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        launch::reorder(pass.inner(), binder, queue)
    }
}
