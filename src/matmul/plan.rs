//! Which way each product of a masked linear layer is taken on a device, how much work space that needs, and why.
//!
//! A plan is plain data, made from sizes, types, the masks' kind and the device's [`Limits`] alone: the same everywhere,
//! and testable without a device.

use std::fmt;

use super::product::Product;
use super::{Problem, small, tile};
use crate::device::Limits;
use crate::element::{DType, Element, Logit};
use crate::error::{Error, Result};
use crate::mask::Kind;
use crate::shape::Shape;

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

/// Why own kernels are not taken for sizes that they are slow for.
const UNALIGNED: &str = "rows or codes do not start on whole accesses: own kernels would be slow";
/// What a caller's own choice says instead of a reason.
const ASKED: &str = "asked for";

impl Plan {
    /// The ways for a layer with logits of type `L` and weights of type `W` on a device.
    ///
    /// # Errors
    /// As [`Problem::check`]; [`Error::Path`] for codes to be kept of masks that have none to keep.
    pub fn new<L: Logit, W: Element>(limits: &Limits, problem: Problem, masks: Masks, keep: Keep) -> Result<Self> {
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

    // ---- the table --------------------------------------------------------------------------------------------------

    // No line has met a GPU yet. Models use, for Hopper, 4.3 TB/s, 700 TFLOP/s in cuBLASLt and 0.6 of that in own dense
    // kernels (`mma.sync` there), 0.4 in those that mask by codes, which have twice the instructions; for Ampere, 1.6 TB/s,
    // 270 TFLOP/s, 0.9 and 0.7.

    /// Devices whose fastest matrix instructions, `wgmma` and `tcgen05`, only cuBLASLt uses.
    const fn has_faster_instructions(&self) -> bool {
        matches!(self.limits.compute_capability.0, 9..=11)
    }

    /// Up to how many tokens a product that masks by codes beats writing `W∘M` for cuBLASLt. Model: writing moves 4 bytes
    /// a weight more, and the own product takes `2·T·(1/r − 1)` operations a weight more, r its share of cuBLASLt's rate:
    /// they meet at 220 tokens on Hopper, at 790 on Ampere.
    const fn codes_tokens(&self) -> usize {
        if self.has_faster_instructions() { 256 } else { 768 }
    }

    /// Up to how many tokens the fused gradient beats panels. Model: it saves 8 bytes a weight, and hides up to 14 more;
    /// they meet at 980 tokens on Hopper if nothing is hidden and at 2,680 if everything is, at 6,100 and 16,700 on
    /// Ampere.
    const fn fused_tokens(&self) -> usize {
        if self.has_faster_instructions() { 1024 } else { 8192 }
    }

    /// Whether rows of the weight, of X and of dY start on 16 bytes. Own kernels copy others element by element.
    const fn rows_are_aligned(&self) -> bool {
        let shape = self.problem.shape;
        shape.rows.is_multiple_of(8) && shape.cols.is_multiple_of(8)
    }

    /// Whether codes can be copied four bytes at a time.
    const fn codes_are_aligned(&self) -> bool {
        self.problem.shape.cols.is_multiple_of(32)
    }

    fn best_output(&self) -> (OutputPath, &'static str) {
        let dense = OutputPath::Masked(Dense::BlasLt);
        let few = small::takes(self.problem);
        match (self.masks, self.keep) {
            _ if self.weights == DType::F32 => (dense, "own kernels do not multiply f32"),
            (_, Keep::Masked) => (dense, "the masked weight is to be kept: it is written anyway"),
            (Masks::Sampled(_), Keep::Nothing) if few => {
                (OutputPath::Sampled, "few tokens: the product is bound by reading the weight and logits, once")
            }
            (Masks::Sampled(Kind::Soft), _) => {
                (dense, "many tokens: making the masks in every tile would cost more than writing them once")
            }
            _ if few => (OutputPath::Codes, "few tokens: bound by reading the weight, and codes are 1/16 of it"),
            _ if !self.codes_are_aligned() => (dense, UNALIGNED),
            _ if self.problem.tokens <= self.codes_tokens() => {
                (OutputPath::Codes, "writing the masked weight would take longer than cuBLASLt would win")
            }
            _ => (dense, "so many tokens that cuBLASLt makes up for writing the masked weight"),
        }
    }

    fn best_input(&self) -> (InputPath, &'static str) {
        let dense = InputPath::Masked(Dense::BlasLt);
        match (self.masks, self.keep) {
            _ if self.weights == DType::F32 => (dense, "own kernels do not multiply f32"),
            (_, Keep::Masked) => (dense, "the masked weight was kept"),
            (Masks::Sampled(Kind::Soft), _) => (dense, "soft masks are sampled again, once"),
            _ if !self.codes_are_aligned() || !self.rows_are_aligned() => (dense, UNALIGNED),
            _ if self.problem.tokens <= self.codes_tokens() => {
                (InputPath::Codes, "writing the masked weight would take longer than cuBLASLt would win")
            }
            _ => (dense, "so many tokens that cuBLASLt makes up for writing the masked weight"),
        }
    }

    fn best_logits(&self) -> (LogitPath, &'static str) {
        if self.weights == DType::F32 {
            return (LogitPath::Panels(Dense::BlasLt), "own kernels do not multiply f32");
        }
        if !self.rows_are_aligned() {
            return (LogitPath::Panels(Dense::BlasLt), UNALIGNED);
        }
        if self.problem.tokens > self.fused_tokens() {
            let why = "so many tokens that cuBLASLt makes up for writing the weight's gradient";
            return (LogitPath::Panels(Dense::BlasLt), why);
        }
        let gradient = Product::weight_gradient(self.problem, self.weights);
        if tile::is_too_small(&gradient, &self.limits) && tile::splits(&gradient, &self.limits) > 1 {
            return (LogitPath::Panels(Dense::Own), "the weight is too small to fill the device: the tokens are split");
        }
        (LogitPath::Fused, "the weight's gradient stays in registers: 8 bytes a weight less")
    }

    // ---- what a way takes -------------------------------------------------------------------------------------------

    fn output_choice(&self, path: OutputPath, why: &'static str) -> Choice<OutputPath> {
        let product = Product::output(self.problem, self.weights);
        let splits = match path {
            OutputPath::Masked(dense) => dense_splits(dense, &product, &self.limits),
            OutputPath::Codes if !small::takes(self.problem) => tile::splits(&product, &self.limits),
            _ => small::splits(self.problem, &self.limits),
        };
        let own = match path {
            OutputPath::Sampled => 0,
            OutputPath::Codes => self.codes_bytes(),
            OutputPath::Masked(_) => self.masked_bytes(),
        };
        Choice { path, splits, workspace_bytes: own + partial_bytes(&product, splits), why }
    }

    fn input_choice(&self, path: InputPath, why: &'static str) -> Choice<InputPath> {
        let product = Product::input_gradient(self.problem, self.weights);
        let (splits, own) = match path {
            InputPath::Codes => (tile::splits(&product, &self.limits), self.codes_bytes()),
            InputPath::Masked(dense) => (dense_splits(dense, &product, &self.limits), self.masked_bytes()),
        };
        Choice { path, splits, workspace_bytes: own + partial_bytes(&product, splits), why }
    }

    fn logit_choice(&self, path: LogitPath, why: &'static str) -> Choice<LogitPath> {
        let LogitPath::Panels(dense) = path else { return Choice { path, splits: 1, workspace_bytes: 0, why } };
        let product = Product::weight_gradient(self.problem, self.weights);
        let whole = self.panel_rows >= self.problem.shape.rows;
        let splits = if whole { dense_splits(dense, &product, &self.limits) } else { 1 };
        let panel = aligned(
            self.panel_rows.min(self.problem.shape.rows).saturating_mul(self.problem.shape.cols).saturating_mul(4),
        );
        let bytes = if splits > 1 { partial_bytes(&product, splits) } else { panel };
        Choice { path, splits, workspace_bytes: bytes, why }
    }

    fn codes_bytes(&self) -> usize {
        match (self.masks, self.keep) {
            (Masks::Frozen, _) | (_, Keep::Codes) => 0,
            _ => aligned(self.problem.shape.packed_codes()),
        }
    }

    fn masked_bytes(&self) -> usize {
        match self.keep {
            Keep::Masked => 0,
            _ => aligned(self.problem.shape.weights().saturating_mul(self.weights.size())),
        }
    }
}

/// As many rows of `G` as fit half the level-2 cache, so that the mask pass finds them there, but 32 MiB at most; in whole
/// tiles where a tile's rows fit.
fn default_panel_rows(shape: Shape, limits: &Limits) -> usize {
    let bytes = (limits.l2_bytes as usize / 2).clamp(8 << 20, 32 << 20);
    let rows = bytes / (shape.cols.max(1) * 4);
    if rows >= tile::TILE { rows / tile::TILE * tile::TILE } else { (rows / 8 * 8).max(8) }
}

/// Areas of the work space start on 256 bytes.
pub(crate) const fn aligned(bytes: usize) -> usize {
    bytes.saturating_add(255) & !255
}

fn dense_splits(dense: Dense, product: &Product, limits: &Limits) -> u32 {
    if dense == Dense::Own { tile::splits(product, limits) } else { 1 }
}

/// What the parts of a split product take.
pub(crate) fn partial_bytes(product: &Product, splits: u32) -> usize {
    let elements = product.rows.saturating_mul(product.cols);
    if splits > 1 { aligned(elements.saturating_mul(4).saturating_mul(splits as usize)) } else { 0 }
}

fn path_error(path: &'static str, because: &'static str) -> Error {
    Error::Path { path, because }
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
