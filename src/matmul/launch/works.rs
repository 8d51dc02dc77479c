//! What one product of a layer takes, under way: where masks and products go, in the workspace or where they are saved.

use crate::dense::split::aligned;
use crate::dense::tile::{self, Addresses};
use crate::dense::{Call, Product};
use crate::element::{Float, Logit};
use crate::error::{Error, Result};
use crate::mask;
use crate::matmul::small::Small;
use crate::matmul::{Dense, Layer, Problem, Saved};
use crate::pass::{Queue, Work};
use crate::space::{Raw, RawSlice};

/// What the forward pass leaves, as addresses.
type SavedAt<W> = Saved<RawSlice<W>, RawSlice<u8>>;

/// Cuts areas off the workspace.
pub(super) struct Workspace {
    next: u64,
    end: u64,
}

impl Workspace {
    /// All of the workspace, which must be as large as is needed.
    pub(super) fn new(given: RawSlice<u8>, needed: usize) -> Result<Self> {
        let RawSlice { address, elements, .. } = given;
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

/// Works under way, for one product of a layer.
pub(super) struct Works<'q, L: Logit, W: Float> {
    pub(super) queue: &'q mut Queue,
    pub(super) layer: &'q Layer<'static, Raw, L, W>,
    pub(super) problem: Problem,
    pub(super) workspace: Workspace,
}

impl<L: Logit, W: Float> Works<'_, L, W> {
    /// Where the codes are: those of a frozen layer, or sampled, to where they are saved or to the workspace. The
    /// masked weight is written on the way if that is to be saved.
    pub(super) fn codes(&mut self, saved: SavedAt<W>) -> Result<u64> {
        use crate::sample::Source;
        let elements = self.layer.shape.packed_codes();
        let masked = if let Saved::Masked(masked) = saved { Some(masked) } else { None };
        let codes = match (&self.layer.source, saved) {
            (Source::Frozen { codes }, _) => {
                if masked.is_some() {
                    self.make(masked, None)?;
                }
                return Ok(codes.address);
            }
            (_, Saved::Codes(codes)) => codes,
            _ => RawSlice::new(self.workspace.area(elements)?, elements),
        };
        self.make(masked, Some(codes))?;
        Ok(codes.address)
    }

    /// Where the masked weight is written: where it is saved, or the workspace. The codes are written on the way if
    /// those are to be saved.
    pub(super) fn masked(&mut self, saved: SavedAt<W>) -> Result<u64> {
        let masked = match saved {
            Saved::Masked(masked) => masked,
            _ => self.masked_area()?,
        };
        self.make(Some(masked), if let Saved::Codes(codes) = saved { Some(codes) } else { None })?;
        Ok(masked.address)
    }

    /// Writes the masked weight to the workspace, from codes.
    pub(super) fn masked_by(&mut self, codes: RawSlice<u8>) -> Result<u64> {
        let masked = self.masked_area()?;
        let pass = mask::Forward::<Raw, f32, W>::frozen(self.layer.shape, codes, self.layer.weight);
        self.queue.pass(pass.masked(masked))?;
        Ok(masked.address)
    }

    fn masked_area(&mut self) -> Result<RawSlice<W>> {
        let elements = self.layer.shape.weights();
        Ok(RawSlice::new(self.workspace.area(elements * W::DTYPE.size())?, elements))
    }

    /// The layer's mask, applied and as codes.
    fn make(&mut self, masked: Option<RawSlice<W>>, codes: Option<RawSlice<u8>>) -> Result<()> {
        let Layer { shape, shard, source, weight } = *self.layer;
        let mut pass = mask::Forward::<Raw, L, W>::of(shape, source).shard(shard);
        if let Some(masked) = masked {
            pass = pass.weight(weight).masked(masked);
        }
        if let Some(codes) = codes {
            pass = pass.codes(codes);
        }
        self.queue.pass(pass)
    }

    /// `Y` of few tokens.
    pub(super) fn small(&mut self, x: u64, y: u64, codes: Option<u64>, splits: u32) -> Result<()> {
        let problem = self.problem;
        let product = Product::output(problem, W::DTYPE);
        let partial = self.workspace.area(product.partial_bytes(splits))?;
        self.queue.launch(Small { problem, x, codes, y, partial, splits }.launch(self.layer));
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
        if dense == Dense::Cublaslt {
            self.queue.push(Work::Dense(Call { form: (*product).into(), a, b, c, bias: None }));
            return Ok(());
        }
        self.queue.launch(tile::product(product, &Addresses { a, b, codes, c, partial }, splits)?);
        self.sum(product, partial, c, splits);
        Ok(())
    }

    fn sum(&mut self, product: &Product, partial: u64, to: u64, splits: u32) {
        if splits > 1 {
            self.queue.launch(tile::sum(product, partial, to, splits));
        }
    }
}
