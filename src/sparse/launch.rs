//! The launches of own kernels as plain data: a stand-in until the kernels are there.

use crate::compress::ValueType;
use crate::device::Limits;
use crate::device::launch::Launch;
use crate::error::{Error, Result};
use crate::matmul::Problem;

/// Which kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// At most [`MAX_SMALL_TOKENS`] tokens.
    Small,
    /// Any number of them.
    Tile,
}

/// Where the operands of a product are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operands {
    /// `X`.
    pub x: u64,
    /// Kept values.
    pub values: u64,
    /// Codes.
    pub metadata: u64,
    /// The bias.
    pub bias: Option<u64>,
    /// `Y`.
    pub y: u64,
    /// Sums of the parts.
    pub partial: u64,
}

/// Of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct SparseArgs {
    unused: u64,
}

/// Of the sum of its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct SumArgs {
    unused: u64,
}

/// The most tokens of [`Kernel::Small`].
pub const MAX_SMALL_TOKENS: usize = 128;

/// Whether a kernel takes a problem.
#[must_use]
pub fn takes(kernel: Kernel, problem: Problem, values: ValueType) -> bool {
    let few = kernel == Kernel::Tile || problem.tokens <= MAX_SMALL_TOKENS;
    few && matches!(values, ValueType::F16 | ValueType::Bf16 | ValueType::I8)
}

/// Parts that K is cut into.
#[must_use]
pub fn splits(_: Kernel, problem: Problem, _: ValueType, limits: &Limits) -> u32 {
    let blocks = problem.shape.rows.div_ceil(64).max(1);
    (limits.multiprocessors as usize / blocks).min(problem.shape.cols / 1024).clamp(1, 64) as u32
}

/// Bytes of the parts.
#[must_use]
pub fn partial_bytes(problem: Problem, splits: u32) -> usize {
    if splits > 1 { problem.outputs().saturating_mul(4).saturating_mul(splits as usize) } else { 0 }
}

/// The launch of a product.
///
/// # Errors
/// Always, as yet.
pub fn product(_: Kernel, _: Problem, _: ValueType, _: &Operands, _: u32) -> Result<Launch<SparseArgs>> {
    Err(Error::Path { path: "an own kernel", because: "it is not there yet" })
}

/// The launch of the sum of its parts.
///
/// # Errors
/// Always, as yet.
pub fn sum(_: Problem, _: ValueType, _: &Operands, _: u32) -> Result<Launch<SumArgs>> {
    Err(Error::Path { path: "an own kernel", because: "it is not there yet" })
}
