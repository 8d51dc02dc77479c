//! A product of a linear layer by the library, as plain data, and what it is made by.

use std::fmt;

use super::problem::{Bias, Problem};
use super::value::Types;
use crate::shape::Shape;
use crate::space::RawSlice;

/// The version of a cuSPARSELt library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// 0 so far.
    pub major: u32,
    /// What tells versions apart.
    pub minor: u32,
    /// Repairs.
    pub patch: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Which device, as far as results of the library may depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Device {
    /// The device's number in this process.
    pub ordinal: usize,
    /// Compute capability, as (major, minor).
    pub compute_capability: (u32, u32),
}

/// `Y = X Wᵀ`, plus a bias of each out feature if there is one: what the library is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Form {
    /// Formats.
    pub types: Types,
    /// T.
    pub tokens: usize,
    /// N and K.
    pub shape: Shape,
    /// Whether there is a bias.
    pub bias: bool,
}

impl Form {
    /// The same as the library's problem.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let mut problem = Problem::new(self.types, self.tokens, self.shape);
        problem.bias = self.bias.then_some(Bias::Shared);
        problem
    }
}

/// Such a product of operands at these addresses; `output` is overwritten, and so is the workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// What the library is asked for.
    pub form: Form,
    /// Whose compressed weight it is: no other library or device reads it. `None` where there is none yet, to make a
    /// plan.
    pub origin: Option<Origin>,
    /// The compressed weight.
    pub weight: RawSlice<u8>,
    /// Address of `X`.
    pub input: u64,
    /// Address of `Y`.
    pub output: u64,
    /// Address of the bias, if the form has one.
    pub bias: Option<u64>,
    /// Memory to work in.
    pub workspace: RawSlice<u8>,
}

/// What a compressed weight was made by, and of what shape and format: nothing else can read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The library.
    pub version: Version,
    /// The device.
    pub device: Device,
    /// The format of the weight.
    pub dtype: crate::element::DType,
    /// N and K.
    pub shape: Shape,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, device: Device { ordinal, .. }, dtype, shape: Shape { rows, cols } } = self;
        write!(f, "a weight [{rows}, {cols}] of {dtype} for cuSPARSELt {version} on device {ordinal}")
    }
}
