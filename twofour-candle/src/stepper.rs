//! Who moves a variable: one optimiser alone.

use std::collections::HashSet;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use candle_core::{Result, Tensor, TensorId, Var};

/// The variables that are moved by a layer that learns by itself, whichever sampler it has.
static STEPPED: LazyLock<Mutex<HashSet<TensorId>>> = LazyLock::new(Mutex::default);

/// The right to move a variable, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Stepper(TensorId);

impl Stepper {
    pub(crate) fn of(logits: &Var) -> Result<Self> {
        if !stepped().insert(logits.id()) {
            candle_core::bail!(
                "another FusedLinear moves these logits: two optimisers of one variable undo each other's steps. Give \
                 each layer logits of its own, or drop the other layer, and what came out of it, first"
            )
        }
        Ok(Self(logits.id()))
    }

    /// An error for a gradient of logits that a layer moves itself: it would be for a second optimiser.
    pub(crate) fn check_gradient(logits: &Tensor) -> Result<()> {
        if stepped().contains(&logits.id()) {
            candle_core::bail!(
                "a FusedLinear moves these logits, and a gradient of them would be for a second optimiser: go forward \
                 through the FusedLinear, or take a copy of the logits for another layer"
            )
        }
        Ok(())
    }
}

impl Drop for Stepper {
    fn drop(&mut self) {
        stepped().remove(&self.0);
    }
}

fn stepped() -> MutexGuard<'static, HashSet<TensorId>> {
    STEPPED.lock().unwrap_or_else(PoisonError::into_inner)
}
