//! A list of steps under way: where masks and products go, in the work space or where they are kept.

use super::Step;
use crate::dense::product::Product;
use crate::dense::split::aligned;
use crate::dense::tile::{self, Addresses};
use crate::device::Limits;
use crate::element::{Float, Logit};
use crate::error::{Error, Result};
use crate::mask::Forward;
use crate::matmul::small::{self, Small};
use crate::matmul::tile::mask;
use crate::matmul::{Dense, Kept, Layer, Plan, Problem, Source};
use crate::space::{Raw, RawSlice};

/// Cuts areas off the work space.
pub(super) struct Workspace {
    next: u64,
    end: u64,
}

impl Workspace {
    /// All of the work space, which must be as large as is needed.
    pub(super) fn new(given: Option<RawSlice>, needed: usize) -> Result<Self> {
        let RawSlice { address, elements } = given.unwrap_or(RawSlice { address: 0, elements: 0 });
        if elements < needed {
            return Err(Error::Workspace { needed: needed as u64, got: elements as u64 });
        }
        Ok(Self { next: address, end: address + elements as u64 })
    }

    pub(super) fn area(&mut self, bytes: usize) -> Result<u64> {
        let (start, next) = (self.next, self.next + aligned(bytes) as u64);
        if next > self.end {
            // `needed` was less than the sum of the areas: not with a plan of ours.
            return Err(Error::Workspace { needed: next - start, got: self.end - start });
        }
        self.next = next;
        Ok(start)
    }
}

/// Steps under way, for one product of a layer.
pub(super) struct List<L: Logit, W: Float> {
    pub(super) layer: Layer<'static, Raw, L, W>,
    tokens: usize,
    pub(super) limits: Limits,
    pub(super) workspace: Workspace,
    pub(super) steps: Vec<Step>,
}

impl<L: Logit, W: Float> List<L, W> {
    pub(super) fn new(
        layer: Layer<'_, Raw, L, W>,
        plan: &Plan,
        workspace: Option<RawSlice>,
        needed: usize,
    ) -> Result<Self> {
        let Layer { shape, shard, weight, .. } = layer;
        let masks = match layer.masks {
            Source::Sampled { kind, sampling, logits } => Source::Sampled { kind, sampling, logits },
            Source::Frozen { codes } => Source::Frozen { codes },
        };
        let (_, limits) = plan.made_for();
        Ok(Self {
            layer: Layer { shape, shard, masks, weight },
            tokens: plan.problem().tokens,
            limits: *limits,
            workspace: Workspace::new(workspace, needed)?,
            steps: Vec::new(),
        })
    }

    /// Where the codes are: those of a frozen layer, or sampled, to where they are kept or to the work space. The masked
    /// weight is written on the way if that is to be kept.
    pub(super) fn codes(&mut self, kept: &Kept<RawSlice, RawSlice>) -> Result<u64> {
        let shape = self.layer.shape;
        if let Source::Frozen { codes } = self.layer.masks {
            if let Kept::Masked(masked) = kept {
                self.mask(codes.address, masked.address);
            }
            return Ok(codes.address);
        }
        let codes = match kept {
            Kept::Codes(codes) => *codes,
            _ => RawSlice { address: self.workspace.area(shape.packed_codes())?, elements: shape.packed_codes() },
        };
        let masked = if let Kept::Masked(masked) = kept { Some(*masked) } else { None };
        self.sample(masked, Some(codes))?;
        Ok(codes.address)
    }

    /// Where the masked weight is written: where it is kept, or the work space. The codes are written on the way if those
    /// are to be kept.
    pub(super) fn masked(&mut self, kept: &Kept<RawSlice, RawSlice>) -> Result<u64> {
        if let (Source::Frozen { codes }, Kept::Nothing) = (&self.layer.masks, kept) {
            let codes = codes.address;
            return self.masked_by(codes);
        }
        let masked = match kept {
            Kept::Masked(masked) => *masked,
            _ => self.masked_area()?,
        };
        match self.layer.masks {
            Source::Frozen { codes } => self.mask(codes.address, masked.address),
            Source::Sampled { .. } => {
                self.sample(Some(masked), if let Kept::Codes(codes) = kept { Some(*codes) } else { None })?;
            }
        }
        Ok(masked.address)
    }

    /// Writes the masked weight to the work space, from codes.
    pub(super) fn masked_by(&mut self, codes: u64) -> Result<u64> {
        let RawSlice { address, .. } = self.masked_area()?;
        self.mask(codes, address);
        Ok(address)
    }

    pub(super) fn masked_area(&mut self) -> Result<RawSlice> {
        let elements = self.layer.shape.weights();
        Ok(RawSlice { address: self.workspace.area(elements * W::DTYPE.size())?, elements })
    }

    pub(super) fn mask(&mut self, codes: u64, masked: u64) {
        let operands = [self.layer.weight.address, codes, masked];
        self.steps.push(Step::Mask(mask(W::DTYPE, self.layer.shape.groups(), operands)));
    }

    pub(super) fn sample(&mut self, masked: Option<RawSlice>, codes: Option<RawSlice>) -> Result<()> {
        let Layer { shape, shard, weight, .. } = self.layer;
        let Source::Sampled { kind, sampling, logits } = self.layer.masks else { return Ok(()) };
        let mut args = Forward::<Raw, L, W>::new(shape, kind, sampling, logits).shard(shard);
        if let Some(masked) = masked {
            args = args.weight(weight).masked(masked);
        }
        if let Some(codes) = codes {
            args = args.codes(codes);
        }
        self.steps.push(Step::Sample(args.launch(&self.limits)?.pass));
        Ok(())
    }

    pub(super) fn small(&mut self, x: u64, y: u64, codes: Option<u64>, splits: u32) -> Result<()> {
        let product = Product::output(Problem::new(self.tokens, self.layer.shape), W::DTYPE);
        let partial = self.workspace.area(product.partial_bytes(splits))?;
        let source = match (codes, &self.layer.masks) {
            (Some(address), _) => small::Source::Codes { address },
            (None, Source::Sampled { kind, sampling, logits }) => {
                small::Source::Sampled { kind: *kind, sampling: *sampling, logits: L::DTYPE, address: logits.address }
            }
            (None, Source::Frozen { codes }) => small::Source::Codes { address: codes.address },
        };
        let small = Small {
            problem: Problem::new(self.tokens, self.layer.shape),
            shard: self.layer.shard,
            source,
            dtype: W::DTYPE,
            x,
            weight: self.layer.weight.address,
            y,
            partial,
            splits,
        };
        self.steps.push(Step::Small(small.launch()?));
        self.sum(&product, partial, y, splits);
        Ok(())
    }

    pub(super) fn product(
        &mut self,
        dense: Dense,
        product: &Product,
        operands: [u64; 3],
        codes: Option<u64>,
        splits: u32,
    ) -> Result<()> {
        let partial = self.workspace.area(product.partial_bytes(splits))?;
        self.product_in(dense, product, operands, codes, splits, partial)
    }

    /// With the place for the parts given.
    pub(super) fn product_in(
        &mut self,
        dense: Dense,
        product: &Product,
        [a, b, c]: [u64; 3],
        codes: Option<u64>,
        splits: u32,
        partial: u64,
    ) -> Result<()> {
        if dense == Dense::BlasLt {
            self.steps.push(Step::BlasLt(*product, [a, b, c]));
            return Ok(());
        }
        self.steps.push(Step::Tile(tile::product(product, &Addresses { a, b, codes, c, partial }, splits)?));
        self.sum(product, partial, c, splits);
        Ok(())
    }

    pub(super) fn sum(&mut self, product: &Product, partial: u64, to: u64, splits: u32) {
        if splits > 1 {
            self.steps.push(Step::Sum(tile::sum(product, partial, to, splits)));
        }
    }
}
