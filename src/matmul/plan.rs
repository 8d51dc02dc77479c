//! Which way each product of a masked linear layer is taken on a device, how much work space that needs, and why.
//!
//! A plan is plain data, made from sizes, types, the masks' kind and the device's [`Limits`] alone: the same everywhere,
//! and testable without a device.

use std::fmt;

use super::{Problem, small};
use crate::device::Limits;
use crate::element::{DType, Float, Logit};
use crate::error::{Error, Result, path_error};
use crate::sample::Kind;
use table::default_panel_rows;

mod table;

/// The masks of a layer, as far as a plan is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Masks {
    /// Made from logits.
    Sampled(Kind),
    /// Given as codes.
    Frozen,
}

/// What the forward pass leaves for the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Keep {
    /// Nothing: masks are sampled again. Layers can share one work space.
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
    BlasLt,
    /// The crate's own kernels: 16-bit types, and no library needed.
    Own,
}

/// A way to `Y`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputPath {
    /// Masked weights are made in registers as the weight is read: at most [`MAX_SAMPLED_TOKENS`](super::MAX_SAMPLED_TOKENS) tokens, 16-bit types.
    Sampled,
    /// The weight is masked by codes as it is read: hard, argmax and frozen masks, 16-bit types.
    Codes,
    /// `W∘M` is written, then multiplied by.
    Masked(Dense),
}

/// A way to `dX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InputPath {
    /// As [`OutputPath::Codes`].
    Codes,
    /// `W∘M`, kept or written again, is multiplied by.
    Masked(Dense),
}

/// A way to the logits' gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogitPath {
    /// `G` stays in the registers of the product: 16-bit types.
    Fused,
    /// `G` is written to the work space, some rows at a time, and the mask's backward pass follows.
    Panels(Dense),
}

/// A way, with what it takes and why it was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Choice<P> {
    /// The way.
    pub path: P,
    /// In how many parts an own kernel takes the contraction, to fill the device; their sums are added in a fixed order.
    pub splits: u32,
    /// Bytes of work space.
    pub workspace_bytes: usize,
    /// The line of the table that chose it.
    pub why: &'static str,
}

/// The ways of a layer's three products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Plan {
    problem: Problem,
    logits: DType,
    weights: DType,
    masks: Masks,
    keep: Keep,
    limits: Limits,
    panel_rows: usize,
    output: Choice<OutputPath>,
    input_gradient: Choice<InputPath>,
    logit_gradient: Choice<LogitPath>,
}

/// What a caller's own choice says instead of a reason.
const ASKED: &str = "asked for";

impl Plan {
    /// The ways for a layer with logits of type `L` and weights of type `W` on a device.
    ///
    /// # Errors
    /// As [`Problem::check`]; [`Error::Path`] for codes to be kept of masks that have none to keep.
    pub fn new<L: Logit, W: Float>(limits: &Limits, problem: Problem, masks: Masks, keep: Keep) -> Result<Self> {
        problem.check()?;
        let fits = match (keep, masks) {
            (Keep::Codes, Masks::Sampled(kind)) => kind != Kind::Soft,
            (Keep::Codes, Masks::Frozen) => false,
            _ => true,
        };
        if !fits {
            return Err(path_error(
                "keeping codes",
                "only hard and argmax masks have codes that are not there already",
            ));
        }
        let draft = |path, why| Choice { path, splits: 1, workspace_bytes: 0, why };
        let mut plan = Self {
            problem,
            // Frozen masks have no logits; their layers say f32.
            logits: if masks == Masks::Frozen { DType::F32 } else { L::DTYPE },
            weights: W::DTYPE,
            masks,
            keep,
            limits: *limits,
            panel_rows: default_panel_rows(problem.shape, limits),
            output: draft(OutputPath::Masked(Dense::BlasLt), ""),
            input_gradient: Choice { path: InputPath::Codes, splits: 1, workspace_bytes: 0, why: "" },
            logit_gradient: Choice { path: LogitPath::Fused, splits: 1, workspace_bytes: 0, why: "" },
        };
        let (path, why) = plan.best_output();
        plan.output = plan.output_choice(path, why);
        let (path, why) = plan.best_input();
        plan.input_gradient = plan.input_choice(path, why);
        let (path, why) = plan.best_logits();
        plan.logit_gradient = plan.logit_choice(path, why);
        Ok(plan)
    }

    /// Takes another way to `Y`.
    ///
    /// # Errors
    /// [`Error::Path`] if it is none for these types, sizes or masks.
    pub fn with_output(mut self, path: OutputPath) -> Result<Self> {
        match path {
            OutputPath::Sampled => {
                self.needs_16_bits("sampling in the product")?;
                if self.masks == Masks::Frozen {
                    return Err(path_error("sampling in the product", "frozen masks are not sampled"));
                }
                if !small::takes(self.problem) {
                    return Err(path_error("sampling in the product", "it takes at most 128 tokens, and K below 2^24"));
                }
                if self.keep != Keep::Nothing {
                    return Err(path_error("sampling in the product", "it leaves nothing to keep"));
                }
            }
            OutputPath::Codes => self.needs_codes()?,
            OutputPath::Masked(Dense::Own) => self.needs_16_bits("an own dense product")?,
            OutputPath::Masked(Dense::BlasLt) => {}
        }
        self.output = self.output_choice(path, ASKED);
        Ok(self)
    }

    /// Takes another way to `dX`.
    ///
    /// # Errors
    /// As [`Plan::with_output`].
    pub fn with_input_gradient(mut self, path: InputPath) -> Result<Self> {
        match path {
            InputPath::Codes => self.needs_codes()?,
            InputPath::Masked(Dense::Own) => self.needs_16_bits("an own dense product")?,
            InputPath::Masked(Dense::BlasLt) => {}
        }
        self.input_gradient = self.input_choice(path, ASKED);
        Ok(self)
    }

    /// Takes another way to the logits' gradient.
    ///
    /// # Errors
    /// As [`Plan::with_output`].
    pub fn with_logit_gradient(mut self, path: LogitPath) -> Result<Self> {
        if path != LogitPath::Panels(Dense::BlasLt) {
            self.needs_16_bits("an own product")?;
        }
        self.logit_gradient = self.logit_choice(path, ASKED);
        Ok(self)
    }

    /// The same ways, but own kernels where it would be cuBLASLt: for a machine without that library.
    ///
    /// # Errors
    /// [`Error::Path`] for `f32`, which own kernels do not multiply.
    pub fn without_blaslt(self) -> Result<Self> {
        let mut plan = self;
        if plan.output.path == OutputPath::Masked(Dense::BlasLt) {
            plan = plan.with_output(OutputPath::Masked(Dense::Own))?;
        }
        if plan.input_gradient.path == InputPath::Masked(Dense::BlasLt) {
            plan = plan.with_input_gradient(InputPath::Masked(Dense::Own))?;
        }
        if plan.logit_gradient.path == LogitPath::Panels(Dense::BlasLt) {
            plan = plan.with_logit_gradient(LogitPath::Fused)?;
        }
        Ok(plan)
    }

    /// Takes so many rows of `G` at a time through panels, rounded up to whole 16 bytes of `dY`: more work space, or less,
    /// than the default (half the level-2 cache, at most 32 MiB).
    #[must_use]
    pub fn with_panel_rows(mut self, rows: usize) -> Self {
        self.panel_rows = rows.max(1).saturating_add(7) / 8 * 8;
        let Choice { path, why, .. } = self.logit_gradient;
        self.logit_gradient = self.logit_choice(path, why);
        self
    }

    /// The sizes it is for.
    #[must_use]
    pub const fn problem(&self) -> Problem {
        self.problem
    }

    /// What the forward pass keeps.
    #[must_use]
    pub const fn keep(&self) -> Keep {
        self.keep
    }

    /// The way to `Y`.
    #[must_use]
    pub const fn output(&self) -> Choice<OutputPath> {
        self.output
    }

    /// The way to `dX`.
    #[must_use]
    pub const fn input_gradient(&self) -> Choice<InputPath> {
        self.input_gradient
    }

    /// The way to the logits' gradient.
    #[must_use]
    pub const fn logit_gradient(&self) -> Choice<LogitPath> {
        self.logit_gradient
    }

    /// Rows of a panel.
    pub(crate) const fn panel_rows(&self) -> usize {
        self.panel_rows
    }

    /// The masks and the device it is for.
    pub(crate) const fn made_for(&self) -> (Masks, &Limits) {
        (self.masks, &self.limits)
    }

    /// Bytes of work space that any of the products needs; they take turns, and layers can share it.
    #[must_use]
    pub fn workspace_bytes(&self) -> usize {
        let backward = self.input_gradient.workspace_bytes.max(self.logit_gradient.workspace_bytes);
        self.output.workspace_bytes.max(backward)
    }

    /// Bytes that stay allocated between the passes.
    #[must_use]
    pub const fn kept_bytes(&self) -> usize {
        match self.keep {
            Keep::Nothing => 0,
            Keep::Masked => self.problem.shape.weights().saturating_mul(self.weights.size()),
            Keep::Codes => self.problem.shape.packed_codes(),
        }
    }

    /// Checks that arguments are those the plan was made for.
    pub(crate) fn check(&self, problem: Problem, masks: Masks, types: [DType; 2], keep: Keep) -> Result<()> {
        let describe = |problem: Problem, masks: Masks, [logits, weights]: [DType; 2], keep: Keep| {
            let Problem { tokens, shape } = problem;
            let [rows, cols] = [shape.rows, shape.cols];
            format!("{tokens} tokens, [{rows}, {cols}], logits {logits}, weights {weights}, {masks:?}, keep {keep:?}")
        };
        let planned = (self.problem, self.masks, [self.logits, self.weights], self.keep);
        if planned == (problem, masks, types, keep) {
            return Ok(());
        }
        let (of, kind, [logits, weights], kept) = planned;
        let planned = describe(of, kind, [logits, weights], kept);
        Err(Error::Unplanned { planned, given: describe(problem, masks, types, keep) })
    }

    fn needs_16_bits(&self, path: &'static str) -> Result<()> {
        match self.weights {
            DType::F32 => Err(path_error(path, "own kernels multiply f16 and bf16; f32 goes to cuBLASLt")),
            _ => Ok(()),
        }
    }

    fn needs_codes(&self) -> Result<()> {
        self.needs_16_bits("masking by codes")?;
        match self.masks {
            Masks::Sampled(Kind::Soft) => Err(path_error("masking by codes", "a soft mask has none")),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |what: &str, path: &dyn fmt::Debug, splits: u32, bytes: usize, why: &str| {
            let path = format!("{path:?}");
            writeln!(f, "{what:7} {path:15} {splits:2} part(s), {bytes:>11} bytes of work space: {why}")
        };
        let Self { output, input_gradient, logit_gradient, .. } = self;
        line("Y", &output.path, output.splits, output.workspace_bytes, output.why)?;
        line("dX", &input_gradient.path, input_gradient.splits, input_gradient.workspace_bytes, input_gradient.why)?;
        if matches!(self.masks, Masks::Sampled(Kind::Soft | Kind::Hard)) {
            let Choice { path, splits, workspace_bytes, why } = logit_gradient;
            line("dlogits", path, *splits, *workspace_bytes, why)?;
        }
        Ok(())
    }
}
