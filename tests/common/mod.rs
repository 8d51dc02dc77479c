//! What the suites share: the executors, cases with their own memory, and a naive oracle in `f64`.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub(crate) mod array;
pub mod data;
pub mod executor;
pub mod oracle;

use twofour::mask::{Kind, Sampling, Statistics};
use twofour::{Float, Logit, Shape, Shard};

/// A forward pass with its inputs, and which outputs it wants.
#[derive(Debug, Clone)]
pub struct ForwardCase<L, W> {
    pub shape: Shape,
    pub shard: Shard,
    pub kind: Kind,
    pub sampling: Sampling,
    pub logits: Vec<L>,
    pub weight: Option<Vec<W>>,
    pub previous_codes: Option<Vec<u8>>,
    pub wants: Wants,
}

/// Outputs of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wants {
    pub masked: bool,
    pub mask: bool,
    pub patterns: bool,
    pub codes: bool,
    pub statistics: bool,
}

impl Wants {
    pub const ALL: Self = Self { masked: true, mask: true, patterns: true, codes: true, statistics: true };
    pub const MASKED: Self = Self { masked: true, mask: false, patterns: false, codes: false, statistics: false };
}

/// What a forward pass wrote.
#[derive(Debug, Clone, Default)]
pub struct Forwarded<W> {
    pub masked: Option<Vec<W>>,
    pub mask: Option<Vec<W>>,
    pub patterns: Option<Vec<u8>>,
    pub codes: Option<Vec<u8>>,
    pub statistics: Option<Statistics>,
}

/// A backward pass with its inputs; both gradients are wanted.
#[derive(Debug, Clone)]
pub struct BackwardCase<L, W, G> {
    pub shape: Shape,
    pub shard: Shard,
    pub kind: Kind,
    pub sampling: Sampling,
    pub logits: Vec<L>,
    pub weight: Vec<W>,
    pub gradient: Vec<G>,
    pub regulariser: f32,
    /// What `logit_gradient` holds before, if it is to be added to.
    pub before: Option<Vec<f32>>,
}

/// What a backward pass wrote.
#[derive(Debug, Clone)]
pub struct Backwarded<G> {
    pub logit_gradient: Vec<f32>,
    pub weight_gradient: Vec<G>,
}

impl<L: Logit, W: Float> ForwardCase<L, W> {
    /// All outputs of the whole weight.
    pub fn new(shape: Shape, kind: Kind, sampling: Sampling, logits: &[f32], weight: &[f32]) -> Self {
        Self {
            shape,
            shard: Shard::whole(shape.cols as u64),
            kind,
            sampling,
            logits: convert(logits),
            weight: Some(convert(weight)),
            previous_codes: None,
            wants: Wants::ALL,
        }
    }
}

/// Rounds to another type.
pub fn convert<T: Float>(values: &[f32]) -> Vec<T> {
    values.iter().map(|&value| T::from_f32(value)).collect()
}

/// Equal bits, or both NaN.
pub fn same<T: Float>(a: T, b: T) -> bool {
    let (a, b) = (a.to_f32(), b.to_f32());
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

/// Half a unit in the last place of a type at a value, a little more than its rounding error.
pub fn rounding<T: Float>(value: f64) -> f64 {
    let (relative, least) = match T::DTYPE {
        twofour::DType::F32 => (2f64.powi(-24), 2f64.powi(-149)),
        twofour::DType::F16 => (2f64.powi(-11), 2f64.powi(-24)),
        _ => (2f64.powi(-8), 2f64.powi(-133)),
    };
    value.abs() * relative * 1.0001 + least
}
