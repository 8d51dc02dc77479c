//! Which route a product takes on a device, how much workspace that needs, and why.
//!
//! A plan is plain data, made from sizes, types, the device's [`Limits`] and which libraries there are: the same
//! everywhere, and testable without a device. Only what cuSPARSELt works in is the library's to say: executors ask it
//! when they allocate a [`Scratch`](super::Scratch), and `Plan::complete` for those who bring memory of their own.

use std::fmt;
use std::marker::PhantomData;

use super::{Factor, launch};
use crate::check::scalar;
use crate::compress::Layout;
use crate::cusparselt;
use crate::dense::Problem;
use crate::device::Limits;
use crate::error::{Error, Result, unsupported};
use crate::pass::Libraries;
use choice::Choice;

mod choice;
mod serves;
mod table;

/// A route to `Y`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Route {
    /// A kernel of this crate for at most [`MAX_SMALL_TOKENS`](super::MAX_SMALL_TOKENS) tokens: `f16`, `bf16` and `i8`.
    Small,
    /// A kernel of this crate for any number of tokens: `f16`, `bf16` and `i8`.
    Tile,
    /// cuSPARSELt: `f16`, `bf16`, `i8`, `f32` (in tf32) and `E4m3`.
    Cusparselt,
    /// cuBLASLt by the weight decompressed: `f16`, `bf16`, `i8` and `f32`.
    Dense,
}

/// What a product is given beside `X`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Given {
    /// Where the codes of the weight lie. (Of no matter to cuSPARSELt, which has its own form of it.)
    pub layout: Layout,
    /// Whether there is a decompressed copy of it.
    pub dense: bool,
    /// Whether there is a bias.
    pub bias: bool,
}

impl Given {
    /// The weight as this crate's kernels read it, and nothing else.
    pub const WEIGHT: Self = Self { layout: Layout::CutlassSm80, dense: false, bias: false };
}

/// Who packs a weight for cuSPARSELt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Packing {
    /// This crate, in this layout: probe weights came out of the library's compressor the same.
    Ours(Layout),
    /// The library: they came out otherwise than in any layout that is known.
    Library,
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours(layout) => write!(f, "packed in layout {layout}, as the library packs a probe"),
            Self::Library => f.write_str("packed by the library, whose probe is in no known layout"),
        }
    }
}

/// How a product of weights and activations of a type is made.
pub struct Plan<T> {
    choice: Choice,
    route: Route,
    splits: u32,
    workspace_bytes: usize,
    why: &'static str,
    packing: Option<Packing>,
    of: PhantomData<fn() -> T>,
}

/// What a caller's own choice says instead of a reason.
const ASKED: &str = "asked for";

impl<T: Factor> Plan<T> {
    /// The best route for a weight and activations of type `T` on a device.
    ///
    /// # Errors
    /// As [`Problem::check`] and [`Layout::check`]; [`Error::Unsupported`] if no route serves, with what the last one
    /// lacks.
    pub fn new(limits: &Limits, problem: Problem, given: Given, libraries: Libraries) -> Result<Self> {
        Self::best(Choice::new::<T>(limits, problem, given, libraries)?)
    }

    /// This route, whatever is the best.
    ///
    /// # Errors
    /// As [`Plan::new`]; [`Error::Unsupported`] if it does not serve, with the reason.
    pub fn by(route: Route, limits: &Limits, problem: Problem, given: Given, libraries: Libraries) -> Result<Self> {
        let choice = Choice::new::<T>(limits, problem, given, libraries)?;
        choice.serves(route)?;
        Ok(Self::taking(choice, route, ASKED))
    }

    fn best(choice: Choice) -> Result<Self> {
        let (route, why) = choice.best()?;
        Ok(Self::taking(choice, route, why))
    }

    fn taking(choice: Choice, route: Route, why: &'static str) -> Self {
        let (splits, workspace_bytes) = choice.takes(route);
        Self { choice, route, splits, workspace_bytes, why, packing: None, of: PhantomData }
    }

    /// Takes another route.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if it does not serve, with the reason.
    pub fn with_route(self, route: Route) -> Result<Self> {
        self.choice.serves(route)?;
        Ok(Self::taking(self.choice, route, ASKED))
    }

    /// Takes the contraction in so many parts, whatever fills the device.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless they are from 1 to 65,535; [`Error::Unsupported`] on a route by a library.
    pub fn with_splits(self, splits: u32) -> Result<Self> {
        if !matches!(self.route, Route::Small | Route::Tile) {
            return Err(unsupported("a product in parts", "libraries split it as they like"));
        }
        if !(1..=launch::MAX_SPLITS).contains(&splits) {
            return scalar("splits", splits.into(), "from 1 to 65535");
        }
        let workspace_bytes = self.choice.partial_bytes(splits);
        Ok(Self { splits, workspace_bytes, why: ASKED, ..self })
    }

    /// The best route without cuBLASLt. A route that does not need the library, even one that was asked for, stays.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if no other serves.
    pub fn without_cublaslt(self) -> Result<Self> {
        self.without(Route::Dense, Libraries { cublaslt: false, ..self.choice.libraries })
    }

    /// The best route without cuSPARSELt, likewise.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if no other serves.
    pub fn without_cusparselt(self) -> Result<Self> {
        self.without(Route::Cusparselt, Libraries { cusparselt: false, ..self.choice.libraries })
    }

    fn without(self, route: Route, libraries: Libraries) -> Result<Self> {
        let choice = Choice { libraries, ..self.choice };
        if self.route == route { Self::best(choice) } else { Ok(Self { choice, ..self }) }
    }

    /// With what only the library knows.
    #[cfg(feature = "cuda")]
    pub(crate) fn completed(self, packing: Packing, workspace_bytes: usize) -> Self {
        Self { packing: Some(packing), workspace_bytes, ..self }
    }

    /// The sizes it is for.
    #[must_use]
    pub const fn problem(&self) -> Problem {
        self.choice.problem
    }

    /// What it is for.
    #[must_use]
    pub const fn given(&self) -> Given {
        self.choice.given
    }

    /// The route.
    #[must_use]
    pub const fn route(&self) -> Route {
        self.route
    }

    /// In how many parts a kernel of this crate takes the contraction, to fill the device; their sums are added in a
    /// fixed order.
    #[must_use]
    pub const fn splits(&self) -> u32 {
        self.splits
    }

    /// Bytes of workspace. For [`Route::Cusparselt`], not before the plan is completed (`Plan::complete`).
    #[must_use]
    pub const fn workspace_bytes(&self) -> usize {
        self.workspace_bytes
    }

    /// The line of the table that chose the route.
    #[must_use]
    pub const fn why(&self) -> &'static str {
        self.why
    }

    /// Who packs the weight for [`Route::Cusparselt`], once the plan is completed.
    #[must_use]
    pub const fn packing(&self) -> Option<Packing> {
        self.packing
    }

    /// What cuSPARSELt is asked for.
    pub(crate) fn form(&self) -> cusparselt::Form {
        let Choice { types, problem: Problem { tokens, shape }, given, .. } = self.choice;
        cusparselt::Form { types, tokens, shape, bias: given.bias }
    }

    /// Checks that arguments are those the plan was made for.
    pub(super) fn check(&self, problem: Problem, given: Given) -> Result<()> {
        let planned = self.choice.given;
        // A copy that is there but not used does no harm; and cuSPARSELt has the weight in a form of its own.
        let dense = given.dense || planned.dense && self.route != Route::Dense;
        let layout = if self.route == Route::Cusparselt { planned.layout } else { given.layout };
        let same = (layout, given.bias) == (planned.layout, planned.bias) && (dense || !planned.dense);
        if same && problem == self.choice.problem {
            return Ok(());
        }
        let describe = |Problem { tokens, shape }: Problem, Given { layout, dense, bias }: Given| {
            let [rows, cols] = [shape.rows, shape.cols];
            let with = |there, what| if there { what } else { "" };
            let (dense, bias) = (with(dense, ", a dense copy"), with(bias, ", a bias"));
            format!("{tokens} tokens, [{rows}, {cols}] of {} in layout {layout}{dense}{bias}", T::DTYPE)
        };
        let planned = describe(self.choice.problem, planned);
        Err(Error::Unplanned { planned, given: describe(problem, given) })
    }
}

// By hand, for derived ones would ask the same of `T`.
impl<T> Clone for Plan<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Plan<T> {}

impl<T> PartialEq for Plan<T> {
    fn eq(&self, other: &Self) -> bool {
        let parts = |plan: &Self| (plan.choice, plan.route, plan.splits, plan.workspace_bytes, plan.why, plan.packing);
        parts(self) == parts(other)
    }
}
impl<T> Eq for Plan<T> {}

impl<T> fmt::Debug for Plan<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({:?})", self.choice)
    }
}

impl<T> fmt::Display for Plan<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (route, splits, bytes) = (format!("{:?}", self.route), self.splits, self.workspace_bytes);
        write!(f, "Y {route:10} {splits:2} part(s), {bytes:>11} bytes of workspace: {}", self.why)?;
        match (self.route, self.packing) {
            (Route::Cusparselt, Some(packing)) => write!(f, "; {packing}"),
            (Route::Cusparselt, None) => f.write_str("; the library was not asked yet"),
            _ => Ok(()),
        }
    }
}
