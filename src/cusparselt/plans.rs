//! The library's plans, remembered: what a [`Gpu`](crate::Gpu) has of the library.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream};

use super::algorithm::remembered;
use super::call::{Call, Form, Origin};
use super::handle::Handle;
use super::operands::{Addresses, Factors};
use super::plan::Plan;
use crate::element::DType;
use crate::error::{Error, Result};
use crate::shape::Shape;

/// Plans without a bias remembered at most; then it starts anew. Each has some 100 KB of the host's memory. Those with
/// a bias stay, for a graph may refer to their memory.
const MOST_PLANS: usize = 128;

/// A handle to the library, and the plans made so far. For one thread, as the handle.
pub(crate) struct Plans {
    // Dropped before the handle.
    plans: HashMap<Form, Plan>,
    handle: Handle,
}

impl Plans {
    /// Opens the library for the context's device.
    pub(crate) fn new(context: &Arc<CudaContext>) -> Result<Self> {
        Ok(Self { plans: HashMap::new(), handle: Handle::new(context)? })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// What a weight compressed here is for.
    pub(crate) fn origin(&self, dtype: DType, shape: Shape) -> Origin {
        Origin { version: self.handle.version(), device: self.handle.device(), dtype, shape }
    }

    /// Whether a product's plan is made.
    pub(crate) fn has(&self, form: &Form) -> bool {
        self.plans.contains_key(form)
    }

    /// Bytes of workspace of a product whose plan is made.
    pub(crate) fn workspace_bytes(&self, form: &Form) -> Option<usize> {
        self.plans.get(form).map(Plan::workspace_bytes)
    }

    /// A product's plan, made if there is none, with the algorithm that a search found.
    pub(crate) fn ready(&mut self, stream: &Arc<CudaStream>, form: &Form) -> Result<&mut Plan> {
        if self.plans.len() >= MOST_PLANS && !self.has(form) {
            self.plans.retain(|form, _| form.bias);
        }
        match self.plans.entry(*form) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(vacant) => {
                let problem = form.problem();
                let algorithm = remembered(&self.handle, &problem, false).unwrap_or_default();
                Ok(vacant.insert(Plan::with_algorithm(&self.handle, stream, problem, algorithm)?))
            }
        }
    }

    /// What may fail before anything is queued: makes the plan, and sees that weight and workspace are for it. A call
    /// without an origin is a rehearsal, of no weight.
    pub(crate) fn prepare(&mut self, stream: &Arc<CudaStream>, call: &Call) -> Result<()> {
        if let Some(origin) = call.origin {
            self.check_origin(&origin, &call.form)?;
        }
        let plan = self.ready(stream, &call.form)?;
        match (call.origin, plan.workspace_bytes()) {
            // A search may have found another algorithm since the workspace was allocated.
            (Some(_), needed) if call.workspace.elements < needed => {
                Err(Error::Workspace { needed: needed as u64, got: call.workspace.elements as u64 })
            }
            _ => Ok(()),
        }
    }

    /// Sees that a weight is one that a product's plan reads.
    pub(crate) fn check_origin(&self, origin: &Origin, form: &Form) -> Result<()> {
        let planned = self.origin(form.types.operand(), form.shape);
        if planned == *origin {
            return Ok(());
        }
        Err(Error::Unplanned { planned: planned.to_string(), given: origin.to_string() })
    }

    /// Queues a product that was [prepared](Self::prepare).
    ///
    /// # Safety
    /// The addresses are in the stream's context, on 16-byte boundaries, of the compressed weight, of as many elements
    /// as the form says, and of as many bytes as the workspace says; they stay valid, and nothing else touches what is
    /// written, until the product has run.
    pub(crate) unsafe fn multiply(&mut self, stream: &Arc<CudaStream>, call: &Call) -> Result<()> {
        let Call { form, weight, input, output, bias, workspace, .. } = *call;
        let plan = self.ready(stream, &form)?;
        let bytes = plan.compressed_size().bytes;
        if weight.elements < bytes {
            let (expected, got) = (bytes as u64, weight.elements as u64);
            return Err(Error::Length { what: "weight", expected, got });
        }
        if let Some(bias) = bias {
            // SAFETY: by this function's contract the address is of a value for each out feature.
            unsafe { plan.copy_bias(stream, bias) }?;
        }
        let at = Addresses { weight: weight.address, input, addend: output, output, workspace: workspace.address };
        // SAFETY: by this function's contract; `prepare` has seen that the workspace is as large as the plan wants it.
        unsafe { plan.run_at(stream, &at, &Factors::ONE) }
    }
}
