//! The table of a plan: which route is best where, and what a route takes. Every line says the model behind it.

use super::{Basis, Choice, Dense, InputRoute, Keep, LogitRoute, Masks, OutputRoute};
use crate::dense::Product;
use crate::dense::split::aligned;
use crate::dense::tile;
use crate::element::DType;
use crate::learn;
use crate::matmul::small;
use crate::sample::Kind;
use crate::shape::Shape;

/// Why own kernels are not taken for sizes that they are slow for.
const UNALIGNED: &str = "rows or codes do not start on whole accesses: own kernels would be slow";
/// Why cuBLASLt is not taken where the table would have it.
const NO_LIBRARY: &str = "own kernels, as cuBLASLt is not to be used";
/// Why a step with such moments is not fused.
pub(super) const NOT_TILES: &str = "blocks of 8-bit moments are not tiles";

impl Basis {
    // No line has met a GPU yet. Models use, for Hopper, 4.3 TB/s, 700 TFLOP/s in cuBLASLt and 0.6 of that in own dense
    // kernels (`mma.sync` there), 0.4 in those that mask by codes, which have twice the instructions; for Ampere, 1.6
    // TB/s, 270 TFLOP/s, 0.9 and 0.7.

    /// Up to how many tokens a product that masks by codes beats writing `W∘M` for cuBLASLt. Model: writing moves 4
    /// bytes a weight more, and the own product takes `2·T·(1/r − 1)` operations a weight more, r its share of
    /// cuBLASLt's rate: they meet at 220 tokens on Hopper, at 790 on Ampere.
    const fn codes_tokens(&self) -> usize {
        if self.limits.has_faster_instructions() { 256 } else { 768 }
    }

    /// Up to how many tokens the fused gradient beats panels. Model: it saves 8 bytes a weight, and hides up to 14
    /// more; they meet at 980 tokens on Hopper if nothing is hidden and at 2,680 if everything is, at 6,100 and 16,700
    /// on Ampere.
    const fn fused_tokens(&self) -> usize {
        if self.limits.has_faster_instructions() { 1024 } else { 8192 }
    }

    /// The same for a step, whose logits and moments are 24 bytes a weight more that can be hidden: they meet at 5,600
    /// tokens on Hopper if everything is, and at 35,000 on Ampere.
    const fn stepped_tokens(&self) -> usize {
        2 * self.fused_tokens()
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

    pub(super) fn best_output(&self) -> Choice<OutputRoute> {
        let dense = OutputRoute::Masked(Dense::Cublaslt);
        let few = small::takes(self.problem);
        let (route, why) = match (self.masks, self.keep) {
            _ if self.weights == DType::F32 => (dense, "own kernels do not multiply f32"),
            (_, Keep::Masked) => (dense, "the masked weight is to be kept: it is written anyway"),
            (Masks::Sampled(_), Keep::Nothing) if few => {
                (OutputRoute::Sampled, "few tokens: the product is bound by reading the weight and logits, once")
            }
            (Masks::Sampled(Kind::Soft), _) => {
                (dense, "many tokens: making the masks in every tile would cost more than writing them once")
            }
            _ if few => (OutputRoute::Codes, "few tokens: bound by reading the weight, and codes are 1/16 of it"),
            _ if !self.codes_are_aligned() => (dense, UNALIGNED),
            _ if self.problem.tokens <= self.codes_tokens() => {
                (OutputRoute::Codes, "writing the masked weight would take longer than cuBLASLt would win")
            }
            _ => (dense, "so many tokens that cuBLASLt makes up for writing the masked weight"),
        };
        self.output_without(self.output(route, why))
    }

    pub(super) fn best_input(&self) -> Choice<InputRoute> {
        let dense = InputRoute::Masked(Dense::Cublaslt);
        let (route, why) = match (self.masks, self.keep) {
            _ if self.weights == DType::F32 => (dense, "own kernels do not multiply f32"),
            (_, Keep::Masked) => (dense, "the masked weight was kept"),
            (Masks::Sampled(Kind::Soft), _) => (dense, "soft masks are sampled again, once"),
            _ if !self.codes_are_aligned() || !self.rows_are_aligned() => (dense, UNALIGNED),
            _ if self.problem.tokens <= self.codes_tokens() => {
                (InputRoute::Codes, "writing the masked weight would take longer than cuBLASLt would win")
            }
            _ => (dense, "so many tokens that cuBLASLt makes up for writing the masked weight"),
        };
        self.input_without(self.input(route, why))
    }

    pub(super) fn best_weight(&self) -> Choice<Dense> {
        self.weight_without(
            self.weight(Dense::Cublaslt, "a product and nothing else: cuBLASLt is the fastest there is"),
        )
    }

    pub(super) fn best_logits(&self, panel_rows: usize) -> Choice<LogitRoute> {
        let (route, why) = self.best_logit_route(self.fused_tokens());
        self.logits_without(self.logits(route, panel_rows, why), panel_rows)
    }

    pub(super) fn best_step(&self, panel_rows: usize) -> Choice<LogitRoute> {
        let (route, why) = match self.eight_bits {
            false => self.best_logit_route(self.stepped_tokens()),
            true => (LogitRoute::Panels(Dense::Cublaslt), NOT_TILES),
        };
        self.step_without(self.step(route, panel_rows, why), panel_rows)
    }

    /// `most` is the number of tokens up to which fusing wins.
    fn best_logit_route(&self, most: usize) -> (LogitRoute, &'static str) {
        let dense = LogitRoute::Panels(Dense::Cublaslt);
        if self.weights == DType::F32 {
            return (dense, "own kernels do not multiply f32");
        }
        if !self.rows_are_aligned() {
            return (dense, UNALIGNED);
        }
        if self.problem.tokens > most {
            return (dense, "so many tokens that cuBLASLt makes up for writing the weight's gradient");
        }
        let gradient = Product::weight_gradient(self.problem, self.weights);
        if tile::is_too_small(&gradient, &self.limits) && tile::splits(&gradient, &self.limits) > 1 {
            let why = "the weight is too small to fill the device: the tokens are split";
            return (LogitRoute::Panels(Dense::Own), why);
        }
        (LogitRoute::Fused, "the weight's gradient stays in registers: 8 bytes a weight less")
    }
}

/// Own kernels where cuBLASLt may not be used.
impl Basis {
    pub(super) fn output_without(&self, choice: Choice<OutputRoute>) -> Choice<OutputRoute> {
        match choice.route {
            OutputRoute::Masked(Dense::Cublaslt) if !self.libraries.cublaslt => {
                self.output(OutputRoute::Masked(Dense::Own), NO_LIBRARY)
            }
            _ => choice,
        }
    }

    pub(super) fn input_without(&self, choice: Choice<InputRoute>) -> Choice<InputRoute> {
        match choice.route {
            InputRoute::Masked(Dense::Cublaslt) if !self.libraries.cublaslt => {
                self.input(InputRoute::Masked(Dense::Own), NO_LIBRARY)
            }
            _ => choice,
        }
    }

    pub(super) fn weight_without(&self, choice: Choice<Dense>) -> Choice<Dense> {
        match choice.route {
            Dense::Cublaslt if !self.libraries.cublaslt => self.weight(Dense::Own, NO_LIBRARY),
            _ => choice,
        }
    }

    pub(super) fn logits_without(&self, choice: Choice<LogitRoute>, panel_rows: usize) -> Choice<LogitRoute> {
        match choice.route {
            LogitRoute::Panels(Dense::Cublaslt) if !self.libraries.cublaslt => {
                self.logits(LogitRoute::Fused, panel_rows, NO_LIBRARY)
            }
            _ => choice,
        }
    }

    pub(super) fn step_without(&self, choice: Choice<LogitRoute>, panel_rows: usize) -> Choice<LogitRoute> {
        let own = if self.eight_bits { LogitRoute::Panels(Dense::Own) } else { LogitRoute::Fused };
        match choice.route {
            LogitRoute::Panels(Dense::Cublaslt) if !self.libraries.cublaslt => self.step(own, panel_rows, NO_LIBRARY),
            _ => choice,
        }
    }
}

/// What a route takes.
impl Basis {
    pub(super) fn output(&self, route: OutputRoute, why: &'static str) -> Choice<OutputRoute> {
        let product = Product::output(self.problem, self.weights);
        let splits = match route {
            OutputRoute::Masked(dense) => self.dense_splits(dense, &product),
            OutputRoute::Codes if !small::takes(self.problem) => tile::splits(&product, &self.limits),
            _ => small::splits(self.problem, &self.limits),
        };
        self.output_in(route, splits, why)
    }

    /// In so many parts, as far as a kernel takes parts with nothing in them.
    pub(super) fn output_in(&self, route: OutputRoute, splits: u32, why: &'static str) -> Choice<OutputRoute> {
        let product = Product::output(self.problem, self.weights);
        let is_small = !matches!(route, OutputRoute::Masked(_)) && small::takes(self.problem);
        let splits = if is_small { splits } else { tile::filled(&product, splits) };
        let own = match route {
            OutputRoute::Sampled => 0,
            OutputRoute::Codes => self.codes_bytes(),
            OutputRoute::Masked(_) => self.masked_bytes(),
        };
        Choice { route, splits, workspace_bytes: own + product.partial_bytes(splits), why }
    }

    pub(super) fn input(&self, route: InputRoute, why: &'static str) -> Choice<InputRoute> {
        let product = Product::input_gradient(self.problem, self.weights);
        let (splits, own) = match route {
            InputRoute::Codes => (tile::splits(&product, &self.limits), self.codes_bytes()),
            InputRoute::Masked(dense) => (self.dense_splits(dense, &product), self.masked_bytes()),
        };
        Choice { route, splits, workspace_bytes: own + product.partial_bytes(splits), why }
    }

    pub(super) fn weight(&self, dense: Dense, why: &'static str) -> Choice<Dense> {
        let product = Product::weight_gradient(self.problem, self.weights);
        let splits = self.dense_splits(dense, &product);
        Choice { route: dense, splits, workspace_bytes: product.partial_bytes(splits), why }
    }

    pub(super) fn logits(&self, route: LogitRoute, panel_rows: usize, why: &'static str) -> Choice<LogitRoute> {
        let splits = self.panel_splits(route, panel_rows);
        Choice { route, splits, workspace_bytes: self.panel_bytes(route, panel_rows, splits), why }
    }

    /// With room for the shares of the sums, which are there whether sums are wanted or not.
    pub(super) fn step(&self, route: LogitRoute, panel_rows: usize, why: &'static str) -> Choice<LogitRoute> {
        // In as many parts as for the gradient, so that the bits are its.
        let splits = self.panel_splits(route, panel_rows);
        let shares = learn::Sums::bytes_of_shares(self.shares(route, panel_rows));
        let panel = self.panel_bytes(route, self.step_rows(panel_rows), splits);
        Choice { route, splits, workspace_bytes: panel.saturating_add(aligned(shares)), why }
    }

    /// Rows of a step's panel: whole blocks of 8-bit moments, so that panels do not show in them.
    pub(super) fn step_rows(&self, panel_rows: usize) -> usize {
        learn::Moments::rows_of_blocks(self.problem.shape, panel_rows)
    }

    /// How many blocks of a step's kernels leave shares.
    pub(super) fn shares(&self, route: LogitRoute, panel_rows: usize) -> usize {
        let Shape { rows, cols } = self.problem.shape;
        if route == LogitRoute::Fused {
            return tile::tiles(rows).saturating_mul(tile::tiles(cols));
        }
        let panel = self.step_rows(panel_rows);
        let of = |rows| learn::shares(Shape::new(rows, cols)) as usize;
        let rest = if rows.is_multiple_of(panel) { 0 } else { of(rows % panel) };
        (rows / panel).saturating_mul(of(panel)).saturating_add(rest)
    }

    /// In how many parts the contraction is taken where one panel has all rows.
    fn panel_splits(&self, route: LogitRoute, panel_rows: usize) -> u32 {
        match route {
            LogitRoute::Panels(dense) if panel_rows >= self.problem.shape.rows => {
                self.dense_splits(dense, &Product::weight_gradient(self.problem, self.weights))
            }
            _ => 1,
        }
    }

    pub(super) fn panel_bytes(&self, route: LogitRoute, panel_rows: usize, splits: u32) -> usize {
        let Shape { rows, cols } = self.problem.shape;
        match route {
            LogitRoute::Fused => 0,
            _ if splits > 1 => Product::weight_gradient(self.problem, self.weights).partial_bytes(splits),
            _ => aligned(panel_rows.min(rows).saturating_mul(cols).saturating_mul(4)),
        }
    }

    /// As many rows of `G` as fit half the level-2 cache, so that the mask pass finds them there, but 32 MiB at most;
    /// in whole tiles where a tile's rows fit.
    pub(super) fn default_panel_rows(&self) -> usize {
        let bytes = (self.limits.l2_bytes as usize / 2).clamp(8 << 20, 32 << 20);
        let rows = bytes / (self.problem.shape.cols.max(1) * 4);
        if rows >= tile::TILE { rows / tile::TILE * tile::TILE } else { (rows / 8 * 8).max(8) }
    }

    fn dense_splits(&self, dense: Dense, product: &Product) -> u32 {
        if dense == Dense::Own { tile::splits(product, &self.limits) } else { 1 }
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
