//! The passes as lists of launches: from checked arguments in bare addresses, and a plan, to what is queued one after the
//! other. The CUDA executor runs such a list, and so does the emulator in tests.

use super::small::{self, SmallArgs};
use super::tile::{self, Gradient, LogitsArgs, MaskArgs};
use super::{Backward, Dense, Forward, InputPath, Keep, Kept, Layer, LogitPath, Masks, OutputPath, Plan, Source};
use crate::dense::product::Product;
use crate::dense::tile::{SumArgs, TileArgs};
use crate::device::launch::{Launch, Symbol};
use crate::element::{Float, Logit};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::mask;
use crate::mask::launch::{BackwardArgs, ForwardArgs};
use crate::sample::Kind;
use crate::sample::launch::Differentiation;
use crate::shape::{Shape, Shard};
use crate::space::{Raw, RawSlice};

use list::List;

mod list;

/// One launch, or one call of cuBLASLt.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "a handful of them lives for the length of a call")]
pub enum Step {
    /// Masks from logits.
    Sample(Launch<ForwardArgs>),
    /// The masked weight from codes.
    Mask(Launch<MaskArgs>),
    /// A product of few tokens.
    Small(Launch<SmallArgs>),
    /// A product by own kernels.
    Tile(Launch<TileArgs>),
    /// Adds up the parts of a split product.
    Sum(Launch<SumArgs>),
    /// The logits' gradient from registers.
    Logits(Launch<LogitsArgs>),
    /// The logits' gradient from `G`.
    MaskBackward(Launch<BackwardArgs>),
    /// A product by cuBLASLt, of matrices at these addresses.
    BlasLt(Product, [u64; 3]),
}

impl Step {
    /// The kernel and its dynamic shared memory, unless it is a call of cuBLASLt.
    #[must_use]
    pub fn kernel(&self) -> Option<(Symbol, u32)> {
        Some(match self {
            Self::Sample(Launch { symbol, shared_bytes, .. }) => (*symbol, *shared_bytes),
            Self::Mask(Launch { symbol, shared_bytes, .. }) => (*symbol, *shared_bytes),
            Self::Small(Launch { symbol, shared_bytes, .. }) => (*symbol, *shared_bytes),
            Self::Tile(Launch { symbol, shared_bytes, .. }) => (*symbol, *shared_bytes),
            Self::Sum(Launch { symbol, shared_bytes, .. }) => (*symbol, *shared_bytes),
            Self::Logits(Launch { symbol, shared_bytes, .. }) => (*symbol, *shared_bytes),
            Self::MaskBackward(Launch { symbol, shared_bytes, .. }) => (*symbol, *shared_bytes),
            Self::BlasLt(..) => return None,
        })
    }
}

/// The steps of both passes of a plan, over operands that are not there: to load what they need.
///
/// # Errors
/// As [`Forward::steps`].
pub fn rehearse<L: Logit, W: Float>(plan: &Plan) -> Result<Vec<Step>> {
    let (problem, (masks, _)) = (plan.problem(), plan.made_for());
    let (tokens, shape) = (problem.tokens, problem.shape);
    let raw = |elements| RawSlice { address: 0, elements };
    let (weight, codes) = (raw(shape.weights()), raw(shape.packed_codes()));
    let sampling = mask::Sampling { seed: 0, draw: 0, kappa: 1.0, tau: 1.0 };
    let masks = match masks {
        Masks::Sampled(kind) => Source::Sampled { kind, sampling, logits: raw(shape.logits()) },
        Masks::Frozen => Source::Frozen { codes },
    };
    let layer = Layer::<Raw, L, W> { shape, shard: Shard::whole(shape.cols as u64), masks, weight };
    let workspace = raw(plan.workspace_bytes());
    let forward = Forward::new(layer, tokens, raw(problem.inputs()), raw(problem.outputs())).workspace(workspace);
    let backward = Backward::new(layer, tokens, raw(problem.outputs())).input_gradient(raw(problem.inputs()));
    let backward = match layer.masks() {
        Masks::Sampled(Kind::Soft | Kind::Hard) => backward.logit_gradient(raw(problem.inputs()), raw(shape.logits())),
        _ => backward,
    };
    let (forward, backward) = match plan.keep() {
        Keep::Nothing => (forward, backward),
        Keep::Masked => (forward.keep_masked(weight), backward.kept_masked(weight)),
        Keep::Codes => (forward.keep_codes(codes), backward.kept_codes(codes)),
    };
    let mut steps = forward.steps(plan)?;
    steps.append(&mut backward.workspace(workspace).steps(plan)?);
    Ok(steps)
}

impl<L: Logit, W: Float> Forward<'_, '_, Raw, L, W> {
    /// What this pass queues.
    ///
    /// # Errors
    /// What [`Forward::check`] finds, [`Error::Unplanned`], [`Error::Workspace`], [`Error::Misaligned`], and
    /// [`Error::Overflow`] beyond what kernels count.
    pub fn steps(&self, plan: &Plan) -> Result<Vec<Step>> {
        self.check()?;
        plan.check(self.problem, self.layer.masks(), [L::DTYPE, W::DTYPE], self.keep())?;
        let choice = plan.output();
        let mut list = List::new(self.layer, plan, self.workspace, choice.workspace_bytes)?;
        let product = Product::output(self.problem, W::DTYPE);
        let [x, y] = [self.x.address, self.y.address];
        match choice.path {
            OutputPath::Sampled => list.small(x, y, None, choice.splits)?,
            OutputPath::Codes => {
                let codes = list.codes(&self.kept)?;
                if small::takes(self.problem) {
                    list.small(x, y, Some(codes), choice.splits)?;
                } else {
                    list.product(Dense::Own, &product, [x, self.layer.weight.address, y], Some(codes), choice.splits)?;
                }
            }
            OutputPath::Masked(dense) => {
                let masked = match self.made {
                    Some(made) => made.address,
                    None => list.masked(&self.kept)?,
                };
                list.product(dense, &product, [x, masked, y], None, choice.splits)?;
            }
        }
        Ok(list.steps)
    }
}

impl<L: Logit, W: Float> Backward<'_, '_, Raw, L, W> {
    /// What this pass queues.
    ///
    /// # Errors
    /// As [`Forward::steps`], with [`Backward::check`].
    pub fn steps(&self, plan: &Plan) -> Result<Vec<Step>> {
        self.check()?;
        plan.check(self.problem, self.layer.masks(), [L::DTYPE, W::DTYPE], self.kept.keep())?;
        let mut steps = Vec::new();
        if let Some(dx) = self.dx {
            steps.append(&mut self.input_steps(plan, dx)?);
        }
        if let Some(to_logits) = &self.to_logits {
            let RawSlice { address, .. } = to_logits.logit_gradient;
            steps.append(&mut self.logit_steps(plan, to_logits.x.address, address, to_logits.accumulate)?);
        }
        Ok(steps)
    }

    fn input_steps(&self, plan: &Plan, dx: RawSlice) -> Result<Vec<Step>> {
        let choice = plan.input_gradient();
        let mut list = List::new(self.layer, plan, self.workspace, choice.workspace_bytes)?;
        let product = Product::input_gradient(self.problem, W::DTYPE);
        let [dy, dx] = [self.dy.address, dx.address];
        match choice.path {
            InputPath::Codes => {
                let codes = match self.kept {
                    Kept::Codes(codes) => codes.address,
                    _ => list.codes(&Kept::Nothing)?,
                };
                let operands = [dy, self.layer.weight.address, dx];
                list.product(Dense::Own, &product, operands, Some(codes), choice.splits)?;
            }
            InputPath::Masked(dense) => {
                let masked = match self.kept {
                    Kept::Masked(masked) => masked.address,
                    Kept::Codes(codes) => list.masked_by(codes.address)?,
                    Kept::Nothing => list.masked(&Kept::Nothing)?,
                };
                list.product(dense, &product, [dy, masked, dx], None, choice.splits)?;
            }
        }
        Ok(list.steps)
    }

    fn logit_steps(&self, plan: &Plan, x: u64, logit_gradient: u64, accumulate: bool) -> Result<Vec<Step>> {
        let choice = plan.logit_gradient();
        let mut list = List::new(self.layer, plan, self.workspace, choice.workspace_bytes)?;
        let Layer { shape, shard, masks: Source::Sampled { kind, sampling, logits }, weight } = self.layer else {
            return Ok(list.steps); // `check` has refused it
        };
        if choice.path == LogitPath::Fused {
            let addresses = [self.dy.address, x, weight.address, logits.address, logit_gradient];
            let by = Differentiation::new(&sampling, self.regulariser);
            let (tokens, types) = (self.problem.tokens, [L::DTYPE, W::DTYPE]);
            let gradient = Gradient { tokens, shape, shard, kind, types, addresses, accumulate, by };
            list.steps.push(Step::Logits(tile::logit_gradient(&gradient)?));
            return Ok(list.steps);
        }
        let LogitPath::Panels(dense) = choice.path else { return Ok(list.steps) };
        let whole = Product::weight_gradient(self.problem, W::DTYPE);
        let panel_rows = plan.panel_rows();
        let g = list.workspace.area(choice.workspace_bytes)?;
        for first in (0..shape.rows).step_by(panel_rows.max(1)) {
            let rows = panel_rows.min(shape.rows - first);
            let panel = whole.panel(rows);
            let dy = self.dy.address + (first * W::DTYPE.size()) as u64;
            list.product_in(dense, &panel, [dy, x, g], None, choice.splits, g)?;
            let part = |slice: RawSlice, each: usize, size: usize| {
                let (at, elements) = (first * each, rows * each);
                RawSlice { address: slice.address + (at * size) as u64, elements }
            };
            let (cols, six) = (shape.cols, shape.cols / 4 * 6);
            let to = RawSlice { address: logit_gradient, elements: shape.logits() };
            let args = mask::Backward::<Raw, L, W, f32>::new(
                Shape::new(rows, cols),
                kind,
                sampling,
                part(logits, six, L::DTYPE.size()),
                part(weight, cols, W::DTYPE.size()),
                RawSlice { address: g, elements: rows * cols },
            );
            let args = args.shard(Shard { row_offset: shard.row_offset + first as u64, ..shard });
            let args = args.regulariser(self.regulariser);
            let args = match accumulate {
                true => args.accumulate_logit_gradient(part(to, six, 4)),
                false => args.logit_gradient(part(to, six, 4)),
            };
            list.steps.push(Step::MaskBackward(args.launch(&list.limits)?));
        }
        Ok(list.steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Limits;
    use crate::element::Element;
    use crate::error::Error;
    use crate::matmul::{Keep, Masks, Problem};
    use crate::sample::{Kind, Sampling};

    /// Operands at addresses that tell them apart.
    fn at(address: u64, elements: usize) -> RawSlice {
        RawSlice { address, elements }
    }

    #[test]
    fn a_masked_weight_that_is_there_is_only_multiplied_by() -> Result<()> {
        let (shape, tokens) = (Shape::new(256, 512), 200);
        let problem = Problem::new(tokens, shape);
        let sampling = Sampling { seed: 0, draw: 0, kappa: 1.0, tau: 1.0 };
        let [logits, weight, masked] =
            [at(1 << 20, shape.logits()), at(2 << 20, shape.weights()), at(3 << 20, shape.weights())];
        let [x, y] = [at(4 << 20, problem.inputs()), at(5 << 20, problem.outputs())];
        let plan = Plan::new::<f32, half::bf16>(&Limits::H200, problem, Masks::Sampled(Kind::Soft), Keep::Masked)?;
        let forward = || {
            let layer = Layer::<Raw, f32, half::bf16>::new(shape, Kind::Soft, sampling, logits, weight);
            Forward::new(layer, tokens, x, y)
        };

        let made = forward().kept_masked(masked).steps(&plan)?;
        let product = Product::output(problem, half::bf16::DTYPE);
        assert_eq!(made, [Step::BlasLt(product, [x.address, masked.address, y.address])]);
        let making = forward().keep_masked(masked).steps(&plan)?;
        assert!(matches!(making[0], Step::Sample(_)) && making[1..] == made, "{making:?}");

        let short = at(masked.address, masked.elements - 1);
        let length = Error::Length { what: "masked", expected: 256 * 512, got: 256 * 512 - 1 };
        assert_eq!(forward().kept_masked(short).steps(&plan), Err(length));
        let unplanned =
            Plan::new::<f32, half::bf16>(&Limits::H200, problem, Masks::Sampled(Kind::Soft), Keep::Nothing)?;
        assert!(matches!(forward().kept_masked(masked).steps(&unplanned), Err(Error::Unplanned { .. })));
        Ok(())
    }
}
