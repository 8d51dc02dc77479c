//! The table of a plan: which way is best where, and what a way takes. Every line says the model behind it.

use super::{Choice, Dense, InputPath, Keep, LogitPath, Masks, OutputPath, Plan};
use crate::dense::product::Product;
use crate::dense::split::aligned;
use crate::dense::tile;
use crate::device::Limits;
use crate::element::DType;
use crate::matmul::small;
use crate::sample::Kind;
use crate::shape::Shape;

/// Why own kernels are not taken for sizes that they are slow for.
const UNALIGNED: &str = "rows or codes do not start on whole accesses: own kernels would be slow";

impl Plan {
    // No line has met a GPU yet. Models use, for Hopper, 4.3 TB/s, 700 TFLOP/s in cuBLASLt and 0.6 of that in own dense
    // kernels (`mma.sync` there), 0.4 in those that mask by codes, which have twice the instructions; for Ampere, 1.6 TB/s,
    // 270 TFLOP/s, 0.9 and 0.7.

    /// Up to how many tokens a product that masks by codes beats writing `W∘M` for cuBLASLt. Model: writing moves 4 bytes
    /// a weight more, and the own product takes `2·T·(1/r − 1)` operations a weight more, r its share of cuBLASLt's rate:
    /// they meet at 220 tokens on Hopper, at 790 on Ampere.
    const fn codes_tokens(&self) -> usize {
        if self.limits.has_faster_instructions() { 256 } else { 768 }
    }

    /// Up to how many tokens the fused gradient beats panels. Model: it saves 8 bytes a weight, and hides up to 14 more;
    /// they meet at 980 tokens on Hopper if nothing is hidden and at 2,680 if everything is, at 6,100 and 16,700 on
    /// Ampere.
    const fn fused_tokens(&self) -> usize {
        if self.limits.has_faster_instructions() { 1024 } else { 8192 }
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

    pub(super) fn best_output(&self) -> (OutputPath, &'static str) {
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

    pub(super) fn best_input(&self) -> (InputPath, &'static str) {
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

    pub(super) fn best_logits(&self) -> (LogitPath, &'static str) {
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
}

/// What a way takes.
impl Plan {
    pub(super) fn output_choice(&self, path: OutputPath, why: &'static str) -> Choice<OutputPath> {
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
        Choice { path, splits, workspace_bytes: own + product.partial_bytes(splits), why }
    }

    pub(super) fn input_choice(&self, path: InputPath, why: &'static str) -> Choice<InputPath> {
        let product = Product::input_gradient(self.problem, self.weights);
        let (splits, own) = match path {
            InputPath::Codes => (tile::splits(&product, &self.limits), self.codes_bytes()),
            InputPath::Masked(dense) => (dense_splits(dense, &product, &self.limits), self.masked_bytes()),
        };
        Choice { path, splits, workspace_bytes: own + product.partial_bytes(splits), why }
    }

    pub(super) fn logit_choice(&self, path: LogitPath, why: &'static str) -> Choice<LogitPath> {
        let LogitPath::Panels(dense) = path else { return Choice { path, splits: 1, workspace_bytes: 0, why } };
        let product = Product::weight_gradient(self.problem, self.weights);
        let whole = self.panel_rows >= self.problem.shape.rows;
        let splits = if whole { dense_splits(dense, &product, &self.limits) } else { 1 };
        let panel = aligned(
            self.panel_rows.min(self.problem.shape.rows).saturating_mul(self.problem.shape.cols).saturating_mul(4),
        );
        let bytes = if splits > 1 { product.partial_bytes(splits) } else { panel };
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
pub(super) fn default_panel_rows(shape: Shape, limits: &Limits) -> usize {
    let bytes = (limits.l2_bytes as usize / 2).clamp(8 << 20, 32 << 20);
    let rows = bytes / (shape.cols.max(1) * 4);
    if rows >= tile::TILE { rows / tile::TILE * tile::TILE } else { (rows / 8 * 8).max(8) }
}

fn dense_splits(dense: Dense, product: &Product, limits: &Limits) -> u32 {
    if dense == Dense::Own { tile::splits(product, limits) } else { 1 }
}
