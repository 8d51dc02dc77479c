//! Which route each product of a masked linear layer takes on a device, how much workspace that needs, and why.
//!
//! A plan is plain data, made from sizes, types, the masks' kind and the device's [`Limits`] alone: the same
//! everywhere, and testable without a device.

use std::fmt;
use std::marker::PhantomData;

use super::{Layer, Masks, Problem, small};
use crate::check::scalar;
use crate::device::Limits;
use crate::element::{DType, Float, Logit};
use crate::error::{Error, Result, unsupported};
use crate::pass::{Executor, Libraries};
use crate::sample::Kind;
use crate::shape::Shape;
use crate::space::Space;

mod route;
mod table;

pub use route::{Choice, Dense, InputRoute, Keep, LogitRoute, OutputRoute};

/// What routes are chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Basis {
    problem: Problem,
    masks: Masks,
    keep: Keep,
    weights: DType,
    /// Of a step's moments.
    eight_bits: bool,
    limits: Limits,
    libraries: Libraries,
}

/// The routes of a layer's products, for logits of type `L` and weights of type `W`. ([`Layer::frozen`] says
/// `f32` for the logits that it does not have.)
///
/// [`Layer::frozen`]: super::Layer::frozen
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan<L: Logit, W: Float> {
    basis: Basis,
    panel_rows: usize,
    output: Choice<OutputRoute>,
    input_gradient: Choice<InputRoute>,
    weight_gradient: Choice<Dense>,
    logit_gradient: Choice<LogitRoute>,
    step: Choice<LogitRoute>,
    types: PhantomData<fn() -> (L, W)>,
}

impl<L: Logit, W: Float> Eq for Plan<L, W> {}

/// What a caller's own choice says instead of a reason.
const ASKED: &str = "asked for";

impl<L: Logit, W: Float> Plan<L, W> {
    /// The routes on a device with these limits, by these libraries and this crate's own kernels: what
    /// [`Layer::plan`](super::Layer::plan) asks its executor for.
    ///
    /// # Errors
    /// As [`Problem::check`]; [`Error::Unsupported`] for codes to be kept of masks that have none to keep, and for
    /// `f32` without cuBLASLt, as own kernels do not multiply it.
    pub fn new(limits: &Limits, libraries: Libraries, problem: Problem, masks: Masks, keep: Keep) -> Result<Self> {
        problem.check()?;
        let fits = match (keep, masks) {
            (Keep::Codes, Masks::Sampled(kind)) => kind != Kind::Soft,
            (Keep::Codes, Masks::Frozen) => false,
            _ => true,
        };
        if !fits {
            let because = "only hard and argmax masks have codes that are not there already";
            return Err(unsupported("keeping codes", because));
        }
        let (weights, eight_bits) = (W::DTYPE, false);
        let basis = Basis { problem, masks, keep, weights, eight_bits, limits: *limits, libraries };
        if !libraries.cublaslt {
            basis.needs_16_bits("a product without cuBLASLt")?;
        }
        let panel_rows = basis.default_panel_rows();
        Ok(Self {
            basis,
            panel_rows,
            output: basis.best_output(),
            input_gradient: basis.best_input(),
            weight_gradient: basis.best_weight(),
            logit_gradient: basis.best_logits(panel_rows),
            step: basis.best_step(panel_rows),
            types: PhantomData,
        })
    }

    /// Takes another route to `Y`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if it is none for these types, sizes, masks or libraries.
    pub fn with_output(mut self, route: OutputRoute) -> Result<Self> {
        let refuse = |because| Err(unsupported("sampling in the product", because));
        let Basis { problem, masks, keep, .. } = self.basis;
        match route {
            OutputRoute::Sampled => {
                self.basis.needs_16_bits("sampling in the product")?;
                if masks == Masks::Frozen {
                    return refuse("frozen masks are not sampled");
                }
                if !small::takes(problem) {
                    return refuse("it takes at most 128 tokens, and K below 2^24");
                }
                if keep != Keep::Nothing {
                    return refuse("it leaves nothing to keep");
                }
            }
            OutputRoute::Codes => self.basis.needs_codes()?,
            OutputRoute::Masked(dense) => self.basis.needs(dense)?,
        }
        self.output = self.basis.output(route, ASKED);
        Ok(self)
    }

    /// Takes the contraction of `Y` in so many parts, or in as many as have something to do: how busy an own kernel
    /// keeps a device.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless it is from 1 to 65535; [`Error::Unsupported`] where cuBLASLt multiplies.
    pub fn with_output_splits(mut self, splits: u32) -> Result<Self> {
        if !(1..=small::MAX_SPLITS).contains(&splits) {
            return scalar("splits", f64::from(splits), "from 1 to 65535");
        }
        let Choice { route, why, .. } = self.output;
        if route == OutputRoute::Masked(Dense::Cublaslt) {
            return Err(unsupported("splitting the contraction", "cuBLASLt sees to that itself"));
        }
        self.output = self.basis.output_in(route, splits, why);
        Ok(self)
    }

    /// Takes another route to `dX`.
    ///
    /// # Errors
    /// As [`Plan::with_output`].
    pub fn with_input_gradient(mut self, route: InputRoute) -> Result<Self> {
        match route {
            InputRoute::Codes => self.basis.needs_codes()?,
            InputRoute::Masked(dense) => self.basis.needs(dense)?,
        }
        self.input_gradient = self.basis.input(route, ASKED);
        Ok(self)
    }

    /// Takes another way to `G`.
    ///
    /// # Errors
    /// As [`Plan::with_output`].
    pub fn with_weight_gradient(mut self, dense: Dense) -> Result<Self> {
        self.basis.needs(dense)?;
        self.weight_gradient = self.basis.weight(dense, ASKED);
        Ok(self)
    }

    /// Takes another route to the logits' gradient.
    ///
    /// # Errors
    /// As [`Plan::with_output`].
    pub fn with_logit_gradient(mut self, route: LogitRoute) -> Result<Self> {
        self.basis.needs_logit_route(route)?;
        self.logit_gradient = self.basis.logits(route, self.panel_rows, ASKED);
        Ok(self)
    }

    /// Takes another route to the step of the logits.
    ///
    /// # Errors
    /// As [`Plan::with_output`]; also for a fused step with moments of eight bits, whose blocks are not tiles.
    pub fn with_step(mut self, route: LogitRoute) -> Result<Self> {
        self.basis.needs_logit_route(route)?;
        if self.basis.eight_bits && route == LogitRoute::Fused {
            return Err(unsupported("a fused step", table::NOT_TILES));
        }
        self.step = self.basis.step(route, self.panel_rows, ASKED);
        Ok(self)
    }

    /// For a step with moments of eight bits, not `f32`: by panels, as their blocks are not tiles. (It takes their
    /// workspace, which a plan without such steps need not have.)
    #[must_use]
    pub fn with_moments_of_eight_bits(mut self) -> Self {
        self.basis.eight_bits = true;
        if self.step.route == LogitRoute::Fused {
            self.step = self.basis.best_step(self.panel_rows);
        }
        self
    }

    /// The same routes, but own kernels where it would be cuBLASLt.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for `f32`, which own kernels do not multiply.
    pub fn without_cublaslt(mut self) -> Result<Self> {
        self.basis.needs_16_bits("a product without cuBLASLt")?;
        self.basis.libraries.cublaslt = false;
        self.output = self.basis.output_without(self.output);
        self.input_gradient = self.basis.input_without(self.input_gradient);
        self.weight_gradient = self.basis.weight_without(self.weight_gradient);
        self.logit_gradient = self.basis.logits_without(self.logit_gradient, self.panel_rows);
        self.step = self.basis.step_without(self.step, self.panel_rows);
        Ok(self)
    }

    /// Takes so many rows of `G` at a time through panels, rounded up to whole 16 bytes of `dY`, and for a step to whole
    /// blocks of 8-bit moments: more workspace, or less, than the default (half the level-2 cache, at most 32 MiB).
    /// The CPU holds no more rows either, and at most 4 MiB of them.
    #[must_use]
    pub fn with_panel_rows(mut self, rows: usize) -> Self {
        self.panel_rows = rows.max(1).saturating_add(7) / 8 * 8;
        let Choice { route, why, .. } = self.logit_gradient;
        self.logit_gradient = self.basis.logits(route, self.panel_rows, why);
        let Choice { route, why, .. } = self.step;
        self.step = self.basis.step(route, self.panel_rows, why);
        self
    }

    /// The sizes it is for.
    #[must_use]
    pub const fn problem(&self) -> Problem {
        self.basis.problem
    }

    /// The masks it is for.
    #[must_use]
    pub const fn masks(&self) -> Masks {
        self.basis.masks
    }

    /// What the forward pass leaves for the backward pass.
    #[must_use]
    pub const fn keep(&self) -> Keep {
        self.basis.keep
    }

    /// The route to `Y`.
    #[must_use]
    pub const fn output(&self) -> Choice<OutputRoute> {
        self.output
    }

    /// The route to `dX`.
    #[must_use]
    pub const fn input_gradient(&self) -> Choice<InputRoute> {
        self.input_gradient
    }

    /// Who makes `G`, the gradient of `W∘M`, where that is wanted itself.
    #[must_use]
    pub const fn weight_gradient(&self) -> Choice<Dense> {
        self.weight_gradient
    }

    /// The route to the logits' gradient.
    #[must_use]
    pub const fn logit_gradient(&self) -> Choice<LogitRoute> {
        self.logit_gradient
    }

    /// The route to the step of the logits.
    #[must_use]
    pub const fn step_route(&self) -> Choice<LogitRoute> {
        self.step
    }

    /// Whether a step's moments have eight bits.
    pub(super) const fn has_eight_bits(&self) -> bool {
        self.basis.eight_bits
    }

    /// Rows of a panel.
    pub(super) const fn panel_rows(&self) -> usize {
        self.panel_rows
    }

    /// How many blocks of a step leave shares of its sums, and what its panel takes of the workspace.
    pub(super) fn step_shares(&self) -> (usize, usize) {
        let Choice { route, splits, .. } = self.step;
        (self.basis.shares(route, self.panel_rows), self.basis.panel_bytes(route, self.step_rows(), splits))
    }

    /// Rows of a step's panel.
    pub(super) fn step_rows(&self) -> usize {
        self.basis.step_rows(self.panel_rows)
    }

    /// Bytes of workspace that any of the products needs; they take turns, and layers can share it.
    #[must_use]
    pub fn workspace_bytes(&self) -> usize {
        let products = self.output.workspace_bytes.max(self.input_gradient.workspace_bytes);
        let of_g = self.weight_gradient.workspace_bytes.max(self.logit_gradient.workspace_bytes);
        products.max(of_g).max(self.step.workspace_bytes)
    }

    /// Bytes that stay allocated between the passes.
    #[must_use]
    pub const fn saved_bytes(&self) -> usize {
        let Basis { problem, keep, weights, .. } = self.basis;
        match keep {
            Keep::Nothing => 0,
            Keep::Masked => problem.shape.weights().saturating_mul(weights.size()),
            Keep::Codes => problem.shape.packed_codes(),
        }
    }

    /// Checks that a layer, and what is saved, are those the plan was made for.
    pub(super) fn check(&self, shape: Shape, masks: Masks, keep: Keep) -> Result<()> {
        let Basis { problem, .. } = self.basis;
        if (problem.shape, self.masks(), self.keep()) == (shape, masks, keep) {
            return Ok(());
        }
        let describe = |Shape { rows, cols }: Shape, masks: Masks, keep: Keep| {
            format!("[{rows}, {cols}], {masks:?}, keep {keep:?}")
        };
        let planned = describe(problem.shape, self.masks(), self.keep());
        Err(Error::Unplanned { planned, given: describe(shape, masks, keep) })
    }
}

impl Basis {
    fn needs_16_bits(&self, route: &'static str) -> Result<()> {
        match self.weights {
            DType::F32 => Err(unsupported(route, "own kernels multiply f16 and bf16; f32 goes to cuBLASLt")),
            _ => Ok(()),
        }
    }

    fn needs(&self, dense: Dense) -> Result<()> {
        match dense {
            Dense::Own => self.needs_16_bits("an own dense product"),
            Dense::Cublaslt if self.libraries.cublaslt => Ok(()),
            Dense::Cublaslt => Err(unsupported("a product by cuBLASLt", "the plan was made without that library")),
        }
    }

    fn needs_logit_route(&self, route: LogitRoute) -> Result<()> {
        match route {
            LogitRoute::Fused => self.needs_16_bits("a fused gradient or step"),
            LogitRoute::Panels(dense) => self.needs(dense),
        }
    }

    fn needs_codes(&self) -> Result<()> {
        self.needs_16_bits("masking by codes")?;
        match self.masks {
            Masks::Sampled(Kind::Soft) => Err(unsupported("masking by codes", "a soft mask has none")),
            _ => Ok(()),
        }
    }
}

impl<S: Space, L: Logit, W: Float> Layer<'_, S, L, W> {
    /// The plan of this layer's passes for so many tokens, with the libraries that the executor has. It serves every
    /// layer of this shape, these types and masks of this kind.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn plan<E: Executor<Space = S>>(&self, on: &E, tokens: usize, keep: Keep) -> Result<Plan<L, W>> {
        let problem = Problem::new(tokens, self.shape);
        Plan::new(&on.limits(), on.libraries(), problem, self.masks(), keep)
    }
}

impl<L: Logit, W: Float> fmt::Display for Plan<L, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn line<R: fmt::Debug>(f: &mut fmt::Formatter<'_>, what: &str, choice: &Choice<R>) -> fmt::Result {
            let Choice { route, splits, workspace_bytes: bytes, why } = choice;
            let route = format!("{route:?}");
            writeln!(f, "{what:7} {route:16} {splits:2} part(s), {bytes:>11} bytes of workspace: {why}")
        }
        line(f, "Y", &self.output)?;
        line(f, "dX", &self.input_gradient)?;
        line(f, "G", &self.weight_gradient)?;
        if matches!(self.masks(), Masks::Sampled(Kind::Soft | Kind::Hard)) {
            line(f, "dlogits", &self.logit_gradient)?;
            line(f, "step", &self.step)?;
        }
        Ok(())
    }
}
