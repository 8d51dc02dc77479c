//! What a route is chosen from, and what a route takes.

use super::{Given, Route};
use crate::cusparselt::Types;
use crate::dense::{Problem, split};
use crate::device::Limits;
use crate::element::{DType, Element, Factor};
use crate::error::Result;
use crate::pass::Libraries;
use crate::sparse::launch::{self, Kernel};

/// What a plan is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) problem: Problem,
    /// Of weight and activations, and of `Y`.
    pub(super) types: Types,
    pub(super) given: Given,
    pub(super) libraries: Libraries,
    pub(super) limits: Limits,
}

impl Choice {
    pub(super) fn new<T: Factor>(
        limits: &Limits,
        problem: Problem,
        given: Given,
        libraries: Libraries,
    ) -> Result<Self> {
        problem.check()?;
        given.layout.check(problem.shape, T::DTYPE)?;
        let types = Types::new(T::DTYPE, T::Output::DTYPE)?;
        Ok(Self { problem, types, given, libraries, limits: *limits })
    }

    /// The type of weight and activations.
    pub(super) const fn values(&self) -> DType {
        self.types.operand()
    }

    /// In how many parts a route takes the contraction, and bytes of workspace; of cuSPARSELt the library knows them.
    pub(super) fn takes(&self, route: Route) -> (u32, usize) {
        let own = |kernel| {
            let splits = launch::splits(kernel, self.problem, self.values(), &self.limits);
            (splits, self.partial_bytes(splits))
        };
        match route {
            Route::Small => own(Kernel::Small),
            Route::Tile => own(Kernel::Tile),
            Route::Cusparselt => (1, 0),
            Route::Dense if self.given.dense => (1, 0),
            Route::Dense => (1, split::aligned(self.problem.shape.weights().saturating_mul(self.values().size()))),
        }
    }

    /// What the parts of a product take of a workspace.
    pub(super) fn partial_bytes(&self, splits: u32) -> usize {
        split::aligned(split::partial_bytes(self.problem.outputs(), splits))
    }
}
