//! The routes to a product, and what is known of the one that is taken.

#[cfg(doc)]
use crate::matmul::MAX_SMALL_TOKENS;

/// What the forward pass leaves for the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Keep {
    /// Nothing: masks are sampled again. Layers can share one workspace.
    #[default]
    Nothing,
    /// `W∘M`: 2 or 4 bytes a weight, saves a mask pass.
    Masked,
    /// The codes of hard or argmax masks: 1/8 byte a weight.
    Codes,
}

/// Who multiplies dense matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dense {
    /// cuBLASLt: the fastest there is, and all types.
    Cublaslt,
    /// The crate's own kernels: 16-bit types, and no library needed.
    Own,
}

/// A route to `Y`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputRoute {
    /// Masked weights are made in registers as the weight is read: at most [`MAX_SMALL_TOKENS`] tokens, 16-bit types.
    Sampled,
    /// The weight is masked by codes as it is read: hard, argmax and frozen masks, 16-bit types.
    Codes,
    /// `W∘M` is written, then multiplied by.
    Masked(Dense),
}

/// A route to `dX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InputRoute {
    /// As [`OutputRoute::Codes`].
    Codes,
    /// `W∘M`, saved or written again, is multiplied by.
    Masked(Dense),
}

/// A route from `G` to the logits: to their gradient, or to their step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogitRoute {
    /// `G` stays in the registers of the product: 16-bit types.
    Fused,
    /// `G` is written to the workspace, some rows at a time, and the mask's backward pass, or
    /// [`learn::Fused`](crate::learn::Fused), follows.
    Panels(Dense),
}

/// A route, with what it takes and why it was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Choice<R> {
    /// The route.
    pub route: R,
    /// In how many parts an own kernel takes the contraction, to fill the device; their sums are added in a fixed
    /// order.
    pub splits: u32,
    /// Bytes of workspace.
    pub workspace_bytes: usize,
    /// The line of the table that chose it.
    pub why: &'static str,
}
