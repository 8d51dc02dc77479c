//! A product with its operands, made from a seed.

use crate::number::Number;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use twofour::Shape;
use twofour::compress::{Compressed, Layout, Sparsity};
use twofour::matmul::Problem;
use twofour::sparse::Path;

/// Which operands a case has: everything but their values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec {
    pub(crate) tokens: usize,
    pub(crate) shape: Shape,
    pub(crate) bias: bool,
    /// Where the codes lie; the plain one where it does not hold such a weight.
    pub(crate) layout: Layout,
    /// The way that a device is to take where it serves, instead of its plan's own.
    pub(crate) path: Option<Path>,
    /// Whether there is a dense copy too.
    pub(crate) dense: bool,
    pub(crate) values: Values,
    pub(crate) seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Values {
    Normal,
    /// -2 to 2: sums of few are exact in every type.
    Integers,
}

impl Spec {
    pub(crate) fn new(tokens: usize, rows: usize, cols: usize) -> Self {
        Self {
            tokens,
            shape: Shape::new(rows, cols),
            bias: true,
            layout: Layout::CutlassSm80,
            path: None,
            dense: true,
            values: Values::Normal,
            seed: 1,
        }
    }

    pub(crate) fn problem(&self) -> Problem {
        Problem::new(self.tokens, self.shape)
    }
}

/// A weight and the other operands.
#[derive(Debug, Clone)]
pub(crate) struct Case<T: Number> {
    pub(crate) spec: Spec,
    pub(crate) weight: Compressed<T>,
    pub(crate) x: Vec<T>,
    pub(crate) bias: Vec<T::Output>,
}

impl<T: Number> Case<T> {
    pub(crate) fn new(spec: Spec) -> Self {
        let mut rng = StdRng::seed_from_u64(spec.seed);
        let mut values = |count: usize, spread: f32| -> Vec<f32> {
            let mut value = || match spec.values {
                Values::Normal => rng.sample::<f32, _>(StandardNormal) * spread,
                Values::Integers => rng.random_range(-2..=2) as f32,
            };
            (0..count).map(|_| value()).collect()
        };
        let of = |values: Vec<f32>| values.into_iter().map(T::of).collect::<Vec<T>>();
        let (kept, x) = (of(values(spec.shape.weights() / 2, 0.5)), of(values(spec.problem().inputs(), 1.0)));
        let bias = values(spec.shape.rows, 2.0).into_iter().map(T::output).collect();
        let sparsity = Sparsity::of(T::DTYPE);
        let legal = legal(sparsity);
        let mut code = || legal[rng.random_range(0..legal.len())];
        let codes = (0..sparsity.packed_codes(spec.shape)).map(|_| code() | code() << 4).collect();
        let weight = Compressed::new(spec.shape, kept, codes).unwrap();
        Self { spec, weight, x, bias }
    }

    /// The layout it is in.
    pub(crate) fn layout(&self) -> Layout {
        let layout = self.spec.layout;
        if layout.check(self.spec.shape, T::DTYPE).is_ok() { layout } else { Layout::Plain }
    }

    /// Values and metadata in that layout, rows of values padded as it wants them.
    pub(crate) fn packed(&self) -> (Vec<T>, Vec<u8>) {
        let sizes = self.layout().sizes(self.spec.shape, T::DTYPE).unwrap();
        let buffer = self.weight.buffer(self.layout()).unwrap();
        let (values, metadata) = buffer.split_at(sizes.metadata_offset);
        (values.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect(), metadata.to_vec())
    }

    pub(crate) fn bias(&self) -> Option<&[T::Output]> {
        self.spec.bias.then_some(&*self.bias)
    }
}

pub(crate) fn legal(sparsity: Sparsity) -> &'static [u8] {
    match sparsity {
        Sparsity::TwoFour => &[0x4, 0x8, 0xc, 0x9, 0xd, 0xe],
        Sparsity::OneTwo => &[0x4, 0xe],
    }
}

/// Runs cases.
pub(crate) trait Executor {
    /// Bound on the relative error of an addition: tensor cores truncate.
    const UNIT: f64;
    /// `Y`, or `None` where this executor has no way for such a case.
    fn run<T: Number>(&self, case: &Case<T>) -> Option<Vec<T::Output>>;
    /// Whether the zeros that were dropped are multiplied by.
    fn is_dense<T: Number>(&self, case: &Case<T>) -> bool;
    /// Parts that the contraction is split into, whose sums are added up.
    fn parts<T: Number>(&self, _: &Case<T>) -> u32 {
        1
    }
    /// Bound on the relative error of a product, whose operands may be rounded first.
    fn rounds_operands<T: Number>(&self, _: &Case<T>) -> f64 {
        0.0
    }
}
