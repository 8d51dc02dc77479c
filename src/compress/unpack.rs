//! Decompression: its arguments.

use super::layout::Layout;
use super::{cpu, launch};
use crate::check::length;
use crate::element::Element;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::pass::{self, Binder, Checked, DeviceSpace, Pass, Queue};
use crate::shape::Shape;
use crate::space::{HostSpace, Input, Output, Space};

/// Arguments of decompression.
///
/// Shapes: dense `[N, K]`; values and metadata as [`Layout::sizes`] says; what their padding holds does not matter.
/// `dense` is overwritten. On a device every operand starts on a 16-byte boundary.
///
/// # Errors
/// When run: as [`Layout::sizes`]; [`Error::Length`]. On the CPU also [`Error::IllegalCode`] with the first such group;
/// on a device [`Error::Overflow`] as [`Pack`](super::Pack).
#[derive(Debug)]
pub struct Unpack<'a, S: Space, T: Element> {
    pub(super) shape: Shape,
    pub(super) layout: Layout,
    pub(super) values: S::Ref<'a, T>,
    pub(super) metadata: S::Ref<'a, u8>,
    pub(super) dense: S::Mut<'a, T>,
    pub(super) faults: Option<S::Mut<'a, u32>>,
}

impl<'a, S: Space, T: Element> Unpack<'a, S, T> {
    /// Of values and metadata in this layout.
    #[must_use]
    pub fn new(
        shape: Shape,
        layout: Layout,
        values: impl Input<'a, Space = S, Element = T>,
        metadata: impl Input<'a, Space = S, Element = u8>,
        dense: impl Output<'a, Space = S, Element = T>,
    ) -> Self {
        let (values, metadata, dense) = (values.input(), metadata.input(), dense.output());
        Self { shape, layout, values, metadata, dense, faults: None }
    }

    /// Counts the groups that have no legal code, as [`Pack::faults`](super::Pack::faults).
    #[must_use]
    pub fn faults(mut self, faults: impl Output<'a, Space = S, Element = u32>) -> Self {
        self.faults = Some(faults.output());
        self
    }
}

impl<S: Space, T: Element> pass::Sealed for Unpack<'_, S, T> {}
impl<S: Space, T: Element> Pass<S> for Unpack<'_, S, T> {
    fn check(&self) -> Result<()> {
        let sizes = self.layout.sizes(self.shape, T::DTYPE)?;
        length("values", Some(&self.values), sizes.values)?;
        length("metadata", Some(&self.metadata), sizes.metadata)?;
        length("dense", Some(&self.dense), self.shape.weights())?;
        length("faults", self.faults.as_ref(), 1)
    }

    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace,
    {
        cpu::unpack(pass.into_inner())
    }

    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        launch::unpack(pass.inner(), binder, queue)
    }
}
