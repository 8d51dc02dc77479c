//! The `compress` op as it is timed.

use super::data::{self, Number, for_values};
use super::{At, Op, Result, Run, Timed};
use std::marker::PhantomData;
use twofour::compress::{Compressed, Layout, Pack, Reorder, Sparsity, Unpack};
use twofour::mask::{Kind, Sampling};
use twofour::space::Space;
use twofour::{DType, Element, Executor, Logit, Shape, bf16};

/// What a run does. Values and metadata are in the case's layout; plain metadata is the codes themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    /// Dense weight and given codes to values, and to metadata in another layout than the codes'.
    Codes,
    /// Dense weight to values and metadata of the largest.
    Magnitude,
    /// Dense weight that is 2:4 (`f32`: 1:2) to values and metadata.
    Sparse,
    /// Dense weight and `f32` logits to values and metadata.
    Logits,
    /// The same from `bf16` logits.
    Bf16Logits,
    /// Values and metadata to the dense weight.
    Unpack,
    /// Canonical codes to metadata.
    Reorder,
    /// Metadata to canonical codes.
    Restore,
}

#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub does: Does,
    pub values: DType,
    pub layout: Layout,
    pub shape: Shape,
}

impl Case {
    /// `magnitude/cutlass-sm80/bf16/2048x4096`.
    pub fn name(&self) -> String {
        let Self { does, values, layout, shape: Shape { rows, cols, .. } } = self;
        format!("{does:?}/{layout}/{values}/{rows}x{cols}").to_lowercase()
    }

    /// The least number of bytes a run moves, each operand once.
    pub fn bytes(&self) -> u64 {
        let Self { does, values, layout, shape } = *self;
        let (dense, codes) =
            ((shape.weights() * values.size()) as u64, Sparsity::of(values).packed_codes(shape) as u64);
        // Dense, kept, metadata.
        let both = dense + dense / 2 + codes;
        match does {
            Does::Codes if layout != Layout::Plain => both + codes,
            Does::Codes | Does::Magnitude | Does::Sparse | Does::Unpack => both,
            Does::Logits => both + 4 * shape.logits() as u64,
            Does::Bf16Logits => both + 2 * shape.logits() as u64,
            Does::Reorder | Does::Restore => 2 * codes,
        }
    }
}

/// A case, ready to run.
pub fn ready(case: Case, at: impl At) -> Result<Box<dyn Timed>> {
    for_values!(case, of_type(case, at))
}

fn of_type<T: Number>(case: Case, at: impl At) -> Result<Box<dyn Timed>> {
    at.ready(&Typed::<T>(case, PhantomData))
}

/// A case with its type.
struct Typed<T>(Case, PhantomData<T>);

impl<T: Number> Op for Typed<T> {
    type On<E: Executor + 'static> = Operands<E, T>;

    fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    /// With values, metadata and codes of the largest; for [`Does::Sparse`] the dense weight has these alone.
    fn ready<E: Executor + 'static>(&self, on: &mut E, set: usize) -> Result<Operands<E, T>> {
        let Case { does, layout, shape, .. } = self.0;
        let sizes = layout.sizes(shape, T::DTYPE)?;
        let mut dense = T::normal(shape.weights(), 0.02, set);
        if does == Does::Sparse {
            dense = Compressed::by_magnitude(shape, &dense)?.decompress();
        }
        let logits = |of| if does == of { shape.logits() } else { 0 };
        let mut operands = Operands {
            case: self.0,
            dense: on.upload(&dense)?,
            logits: on.upload(&data::normal(logits(Does::Logits), 0.02, set + 1))?,
            bf16_logits: on.upload(&data::normal(logits(Does::Bf16Logits), 0.02, set + 1))?,
            values: on.zeros(sizes.values)?,
            metadata: on.zeros(sizes.metadata)?,
            codes: on.zeros(Sparsity::of(T::DTYPE).packed_codes(shape))?,
        };
        let Operands { dense, values, metadata, codes, .. } = &mut operands;
        let pass = Pack::by_magnitude(shape, E::input(dense)).layout(layout).values(E::output(values));
        on.run(pass.metadata(E::output(metadata)).codes(E::output(codes)))?;
        Ok(operands)
    }
}

struct Operands<E: Executor, T: Element> {
    case: Case,
    dense: E::Buffer<T>,
    logits: E::Buffer<f32>,
    bf16_logits: E::Buffer<bf16>,
    values: E::Buffer<T>,
    metadata: E::Buffer<u8>,
    codes: E::Buffer<u8>,
}

impl<E: Executor, T: Element> Run<E> for Operands<E, T> {
    fn run(&mut self, on: &mut E, draw: u64) -> twofour::Result<()> {
        let Self { case, dense, logits, bf16_logits, values, metadata, codes } = self;
        let Case { does, layout, shape, .. } = *case;
        let sampling = Sampling { seed: 1, draw, kappa: 100.0, tau: 4.0 };
        match does {
            Does::Codes => {
                let pass = Pack::with_codes(shape, E::input(dense), E::input(codes));
                on.run(packed(pass, case, E::output(values), E::output(metadata)))
            }
            Does::Magnitude => {
                let pass = Pack::by_magnitude(shape, E::input(dense));
                on.run(packed(pass, case, E::output(values), E::output(metadata)))
            }
            Does::Sparse => {
                let pass = Pack::sparse(shape, E::input(dense));
                on.run(packed(pass, case, E::output(values), E::output(metadata)))
            }
            Does::Logits => {
                let pass = Pack::from_logits(shape, Kind::Hard, sampling, E::input(logits), E::input(dense));
                on.run(packed(pass, case, E::output(values), E::output(metadata)))
            }
            Does::Bf16Logits => {
                let pass = Pack::from_logits(shape, Kind::Hard, sampling, E::input(bf16_logits), E::input(dense));
                on.run(packed(pass, case, E::output(values), E::output(metadata)))
            }
            Does::Unpack => on.run(Unpack::new(shape, layout, E::input(values), E::input(metadata), E::output(dense))),
            Does::Reorder => {
                let (from, to) = ((Layout::Plain, E::input(codes)), (layout, E::output(metadata)));
                on.run(Reorder::new(shape, T::DTYPE, from, to))
            }
            Does::Restore => {
                let (from, to) = ((layout, E::input(metadata)), (Layout::Plain, E::output(codes)));
                on.run(Reorder::new(shape, T::DTYPE, from, to))
            }
        }
    }
}

/// With what it writes: plain metadata as codes, and not at all where they are given.
fn packed<'a, S: Space, T: Element, L: Logit>(
    pass: Pack<'a, S, T, L>,
    case: &Case,
    values: S::Mut<'a, T>,
    metadata: S::Mut<'a, u8>,
) -> Pack<'a, S, T, L> {
    let pass = pass.layout(case.layout).values(values);
    match (case.layout, case.does) {
        (Layout::Plain, Does::Codes) => pass,
        (Layout::Plain, _) => pass.codes(metadata),
        _ => pass.metadata(metadata),
    }
}
