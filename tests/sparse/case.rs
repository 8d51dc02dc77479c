//! A product with its operands, made from a seed.

use crate::common::{Emulator, TestExecutor, given};
use crate::number::Number;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use std::convert::Infallible;
use twofour::compress::{Compressed, Layout, Sparsity};
use twofour::sparse::{Given, Multiply, Plan, Problem, Route, Scratch, Weight};
use twofour::{Cpu, DType, Error, Executor, Factor, Shape};

/// Which operands a case has: everything but their values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec {
    pub(crate) tokens: usize,
    pub(crate) shape: Shape,
    pub(crate) bias: bool,
    /// Where the codes lie; the plain one where it does not hold such a weight.
    pub(crate) layout: Layout,
    /// The route that a device is to take where it serves, instead of its plan's own.
    pub(crate) route: Option<Route>,
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
            route: None,
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

/// An executor that may have a form of weights of its own, which its library packs.
pub(crate) trait Packs: TestExecutor {
    type Packed<T: Factor>;
    fn pack<T: Factor>(&mut self, weight: &Compressed<T>) -> Option<Self::Packed<T>>;
    fn as_weight<T: Factor>(packed: &Self::Packed<T>) -> Weight<'_, Self::Space, T>;
}

/// Those that have none.
macro_rules! packs_nothing {
    ($($executor:ty),*) => {$(
        impl Packs for $executor {
            type Packed<T: Factor> = Infallible;
            fn pack<T: Factor>(&mut self, _: &Compressed<T>) -> Option<Infallible> {
                None
            }
            fn as_weight<T: Factor>(packed: &Infallible) -> Weight<'_, Self::Space, T> {
                match *packed {}
            }
        }
    )*};
}
packs_nothing!(Cpu, Emulator);

#[cfg(feature = "cuda")]
impl Packs for twofour::Gpu {
    type Packed<T: Factor> = twofour::gpu::library::LibraryWeight<T>;
    fn pack<T: Factor>(&mut self, weight: &Compressed<T>) -> Option<Self::Packed<T>> {
        Some(twofour::gpu::library::LibraryWeight::pack_host(self, weight).unwrap())
    }
    fn as_weight<T: Factor>(packed: &Self::Packed<T>) -> Weight<'_, Self::Space, T> {
        packed.as_weight()
    }
}

/// A case in an executor's memory.
pub(crate) struct Loaded<E: Packs, T: Number> {
    spec: Spec,
    layout: Layout,
    pub(crate) plan: Option<Plan<T>>,
    values: E::Buffer<T>,
    metadata: E::Buffer<u8>,
    packed: Option<E::Packed<T>>,
    dense: E::Buffer<T>,
    x: E::Buffer<T>,
    bias: E::Buffer<T::Output>,
    pub(crate) y: E::Buffer<T::Output>,
    /// Full of what no product may read, but where only the library knows how much it is.
    workspace: Option<E::Buffer<u8>>,
    scratch: Option<Scratch<E>>,
}

impl<T: Number> Case<T> {
    /// Whether this route must serve, as the routes say of themselves: this crate's kernels take `f16`, `bf16` and `i8` in
    /// their layout.
    fn must_serve(&self, route: Route) -> bool {
        let own = matches!(T::DTYPE, DType::F16 | DType::Bf16 | DType::I8);
        let few = self.spec.tokens <= 128;
        own && self.spec.layout == Layout::CutlassSm80 && (route == Route::Tile || route == Route::Small && few)
    }

    /// What an executor does: the route that the case asks for where it serves, otherwise its plan's own; `None` if nothing
    /// serves. A route that must serve and does not fails: another in its place would pass every property.
    pub(crate) fn plan<E: Executor>(&self, on: &E) -> Option<Plan<T>> {
        let given = Given { layout: self.layout(), dense: self.spec.dense, bias: self.spec.bias };
        let of = |result: Result<Plan<T>, Error>| match result {
            Ok(plan) => Some(plan),
            Err(Error::Unsupported { .. }) => None,
            Err(error) => panic!("{error}"),
        };
        let plan = of(Plan::new(&on.limits(), self.spec.problem(), given, on.libraries()));
        assert!(plan.is_some() || !self.must_serve(Route::Tile), "nothing serves {:?} of {}", self.spec, T::DTYPE);
        let plan = plan?;
        let Some(asked) = self.spec.route else { return Some(plan) };
        let taken = of(plan.with_route(asked)).unwrap_or(plan);
        assert!(taken.route() == asked || !self.must_serve(asked), "{taken} instead: {:?} of {}", self.spec, T::DTYPE);
        Some(taken)
    }

    /// `None` where nothing serves: on the CPU, everything does.
    pub(crate) fn load<E: Packs>(&self, on: &mut E) -> Option<Loaded<E, T>> {
        let plan = self.plan(on);
        if plan.is_none() && E::TENSOR_CORES {
            return None;
        }
        let by_library = plan.is_some_and(|plan| plan.route() == Route::Cusparselt);
        let (values, metadata) = self.packed();
        Some(Loaded {
            spec: self.spec,
            layout: self.layout(),
            plan,
            values: on.upload(&values).unwrap(),
            metadata: on.upload(&metadata).unwrap(),
            packed: by_library.then(|| on.pack(&self.weight)).flatten(),
            dense: on.upload(&self.weight.decompress()).unwrap(),
            x: on.upload(&self.x).unwrap(),
            bias: on.upload(&self.bias).unwrap(),
            y: on.poisoned(self.spec.problem().outputs()),
            workspace: plan.filter(|_| !by_library).map(|plan| on.poisoned(plan.workspace_bytes())),
            scratch: plan.map(|plan| on.scratch(&plan).unwrap()),
        })
    }

    /// `Y`, or `None` where nothing serves.
    pub(crate) fn run<E: Packs>(&self, on: &mut E) -> Option<Vec<T::Output>> {
        let mut loaded = self.load(on)?;
        loaded.run(on).unwrap();
        Some(on.download(&loaded.y).unwrap())
    }

    /// Whether the zeros that were dropped are multiplied by.
    pub(crate) fn is_dense<E: TestExecutor>(&self, on: &E) -> bool {
        E::TENSOR_CORES && self.plan(on).is_some_and(|plan| plan.route() == Route::Dense)
    }

    /// Bound on the relative error of an addition: tensor cores truncate.
    pub(crate) fn unit<E: TestExecutor>(&self, _: &E) -> f64 {
        if E::TENSOR_CORES { 1.0 / (1 << 23) as f64 } else { 1.0 / (1 << 24) as f64 }
    }

    /// Parts that the contraction is split into, whose sums are added up, and one more.
    pub(crate) fn parts<E: TestExecutor>(&self, on: &E) -> u32 {
        if E::TENSOR_CORES { self.plan(on).map_or(1, |plan| 1 + plan.splits()) } else { 1 }
    }

    /// Bound on the relative error of a product, whose operands may be rounded first: cuSPARSELt multiplies `f32` in tf32.
    pub(crate) fn rounds_operands<E: TestExecutor>(&self, on: &E) -> f64 {
        let by_library = || self.plan(on).is_some_and(|plan| plan.route() == Route::Cusparselt);
        if E::TENSOR_CORES && T::DTYPE == DType::F32 && by_library() { 1.0 / 1024.0 } else { 0.0 }
    }
}

impl<E: Packs, T: Number> Loaded<E, T> {
    pub(crate) fn run(&mut self, on: &mut E) -> Result<(), Error> {
        let Spec { tokens, shape, bias, dense, .. } = self.spec;
        let weight = match &self.packed {
            Some(packed) => E::as_weight(packed),
            None => Weight::new(shape, self.layout, E::input(&self.values), E::input(&self.metadata)),
        };
        let (x, y) = (E::input(&self.x), E::output(&mut self.y));
        let pass = match (&self.plan, &mut self.workspace, &mut self.scratch) {
            (Some(plan), Some(workspace), _) => {
                Multiply::new(&weight, tokens, x, y).plan(plan).workspace(E::output(workspace))
            }
            (Some(plan), None, Some(scratch)) => plan.multiply(&weight, x, y, scratch),
            _ => Multiply::new(&weight, tokens, x, y),
        };
        on.run(given!(pass,
            bias: bias.then(|| E::input(&self.bias)),
            dense: dense.then(|| E::input(&self.dense)),
        ))
    }
}

#[cfg(feature = "cuda")]
impl<T: Number> Loaded<twofour::Gpu, T> {
    /// Zeros in the same memory.
    pub(crate) fn clear_y(&mut self, stream: &std::sync::Arc<twofour::cudarc::driver::CudaStream>) {
        use twofour::space::Output;
        stream.memset_zeros(&mut (&mut self.y).output()).unwrap();
    }
}
