//! How a decode is done.

use std::fmt;
use std::marker::PhantomData;

use super::{Activation, launch};
use crate::element::{Factor, Float};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;

/// Which rows are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Route {
    /// Those of neurons that are on for some token.
    Skip,
    /// All of them.
    Whole,
}

/// How decodes of some size and type are done: plain data, from sizes alone.
#[derive(Debug)]
pub struct Plan<L> {
    tokens: usize,
    size: [usize; 2],
    route: Route,
    why: &'static str,
    of: PhantomData<fn() -> L>,
}

// By hand, for derived ones would ask the same of `L`.
impl<L> Clone for Plan<L> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<L> Copy for Plan<L> {}

impl<L> PartialEq for Plan<L> {
    fn eq(&self, other: &Self) -> bool {
        let parts = |plan: &Self| (plan.tokens, plan.size, plan.route, plan.why);
        parts(self) == parts(other)
    }
}
impl<L> Eq for Plan<L> {}

/// From so many tokens on most neurons are on for one of them: of neurons that are on for a token in ten, 57 %, and up
/// rows, by gates that are positive for a third, 95 %.
const MANY: usize = 8;

impl<L: Float + Factor> Plan<L> {
    /// For `tokens` rows of X through a feed-forward of `[d, f]`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for more than [`MAX_TOKENS`](super::MAX_TOKENS); [`Error::Overflow`].
    pub fn new(tokens: usize, size: [usize; 2], activation: Activation) -> Result<Self> {
        super::tokens(tokens)?;
        super::elements::<L>(size[0], size[1])?;
        let (route, why) = match activation {
            Activation::SwiGlu => (Route::Whole, "SwiGLU is on everywhere"),
            _ if tokens >= MANY => (Route::Whole, "so many tokens leave few neurons that are off for all"),
            _ => (Route::Skip, "few tokens, most of whose neurons are off"),
        };
        Ok(Self { tokens, size, route, why, of: PhantomData })
    }

    /// Takes another route: [`Route::Skip`] pays with a given mask, whatever the activation.
    #[must_use]
    pub const fn with_route(self, route: Route) -> Self {
        Self { route, why: "asked for", ..self }
    }

    /// Rows of X.
    #[must_use]
    pub const fn tokens(&self) -> usize {
        self.tokens
    }

    /// `[d, f]`.
    #[must_use]
    pub const fn size(&self) -> [usize; 2] {
        self.size
    }

    /// Which rows are read.
    #[must_use]
    pub const fn route(&self) -> Route {
        self.route
    }

    /// Why.
    #[must_use]
    pub const fn why(&self) -> &'static str {
        self.why
    }

    /// Bytes of workspace on a device.
    #[must_use]
    pub const fn workspace_bytes(&self) -> usize {
        launch::workspace_bytes(self.tokens, self.size[1])
    }
}

impl<L> fmt::Display for Plan<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tokens, size: [width, neurons], route, why, .. } = self;
        write!(f, "{tokens} tokens, [{width}, {neurons}]: {route:?}, {why}")
    }
}
