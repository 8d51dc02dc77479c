//! The `sparse` op as it is timed.

use super::data::{Number, for_values};
use super::{At, Op, Place, Result, Run, Timed, matmul};
use std::marker::PhantomData;
use twofour::compress::{Compressed, Layout};
use twofour::mask::Kind;
use twofour::matmul::Keep;
use twofour::sparse::{Given, Plan, Problem, Scratch, Weight};
use twofour::{DType, Executor, Float, Shape, bf16, f16};

/// A product of a compressed weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    pub values: DType,
    pub tokens: usize,
    pub shape: Shape,
}

impl Case {
    pub fn problem(&self) -> Problem {
        Problem::new(self.tokens, self.shape)
    }

    /// Floating-point operations of the dense product.
    pub fn operations(&self) -> u64 {
        self.problem().operations() as u64
    }

    /// `bf16/16x4096x4096`: tokens, out and in features.
    pub fn name(&self) -> String {
        format!("{}/{}x{}x{}", self.values, self.tokens, self.shape.rows, self.shape.cols)
    }
}

/// A case, ready to run.
pub fn ready(case: Case, place: Place) -> Result<Box<dyn Timed>> {
    match place {
        Place::Cpu => planned(case, Layout::Plain, place),
        // There operands that take turns share a workspace, as layers do.
        #[cfg(feature = "cuda")]
        Place::Gpu(cache) => super::cuda::sparse::ready(case, cache),
        #[cfg(not(feature = "cuda"))]
        Place::Gpu(_) => Err("built without the feature `cuda`".into()),
    }
}

/// A case on operands of its own, the weight in this layout.
pub fn planned(case: Case, layout: Layout, at: impl At) -> Result<Box<dyn Timed>> {
    for_values!(case, of_type(case, layout, at))
}

fn of_type<T: Number>(case: Case, layout: Layout, at: impl At) -> Result<Box<dyn Timed>> {
    at.ready(&Typed::<T>(case, layout, PhantomData))
}

/// A case with its layout and type.
struct Typed<T>(Case, Layout, PhantomData<T>);

impl<T: Number> Op for Typed<T> {
    type On<E: Executor + 'static> = Planned<E, T>;

    fn bytes(&self) -> u64 {
        // Kept values and their codes as they are in memory; never known to fail for a shape that is timed.
        Bytes::new::<T>(&self.0).map_or(0, |bytes| bytes.least() as u64)
    }

    fn ready<E: Executor + 'static>(&self, on: &mut E, set: usize) -> Result<Planned<E, T>> {
        let inputs = Inputs::<T>::new(self.0.problem(), set)?;
        let operands = Operands::new(on, self.1, &inputs)?;
        let plan = operands.weight().plan(on, self.0.tokens, Given::WEIGHT)?;
        let scratch = on.scratch(&plan)?;
        Ok(Planned { operands, plan, scratch })
    }
}

/// Operands, and how products of them are made.
struct Planned<E: Executor, T: Number> {
    operands: Operands<E, T>,
    plan: Plan<T>,
    scratch: Scratch<E>,
}

impl<E: Executor, T: Number> Run<E> for Planned<E, T> {
    fn run(&mut self, on: &mut E, _: u64) -> twofour::Result<()> {
        let Operands { shape, layout, values, metadata, x, y } = &mut self.operands;
        let weight = Weight::new(*shape, *layout, E::input(values), E::input(metadata));
        on.run(self.plan.multiply(&weight, E::input(x), E::output(y), &mut self.scratch))
    }
}

/// Weight and activations in the host's memory; others for another `stream`.
pub struct Inputs<T> {
    pub weight: Compressed<T>,
    pub x: Vec<T>,
}

impl<T: Number> Inputs<T> {
    pub fn new(problem: Problem, stream: usize) -> Result<Self> {
        let dense = T::normal(problem.shape.weights(), 0.02, 2 * stream);
        let weight = Compressed::by_magnitude(problem.shape, &dense)?;
        Ok(Self { weight, x: T::normal(problem.inputs(), 1.0, 2 * stream + 1) })
    }
}

/// What a product reads and writes, on any executor.
pub struct Operands<E: Executor, T: Number> {
    pub shape: Shape,
    pub layout: Layout,
    pub values: E::Buffer<T>,
    pub metadata: E::Buffer<u8>,
    pub x: E::Buffer<T>,
    pub y: E::Buffer<T::Output>,
}

impl<E: Executor, T: Number> Operands<E, T> {
    pub fn new(on: &E, layout: Layout, Inputs { weight, x }: &Inputs<T>) -> Result<Self> {
        let shape = weight.shape();
        let tokens = x.len().checked_div(shape.cols).unwrap_or(0);
        Ok(Self {
            shape,
            layout,
            values: on.upload(weight.values())?,
            metadata: on.upload(&weight.metadata(layout)?)?,
            x: on.upload(x)?,
            y: on.zeros(tokens * shape.rows)?,
        })
    }

    pub fn weight(&self) -> Weight<'_, E::Space, T> {
        Weight::new(self.shape, self.layout, E::input(&self.values), E::input(&self.metadata))
    }
}

/// Of a case's operands: kept values and codes, the weight decompressed, `X` and `Y`.
#[derive(Debug, Clone, Copy)]
pub struct Bytes {
    pub packed: usize,
    pub dense: usize,
    pub activations: usize,
}

impl Bytes {
    pub fn new<T: Number>(case: &Case) -> Result<Self> {
        let (problem, size) = (case.problem(), size_of::<T>());
        let sizes = Layout::CutlassSm80.sizes(case.shape, T::DTYPE)?;
        Ok(Self {
            packed: sizes.values * size + sizes.metadata,
            dense: case.shape.weights() * size,
            activations: problem.inputs() * size + problem.outputs() * size_of::<T::Output>(),
        })
    }

    /// The least that any route reads and writes.
    pub const fn least(&self) -> usize {
        self.packed + self.activations
    }
}

/// The dense product of the same shape, as [`matmul`] makes it of a masked weight that is there.
pub fn dense(case: Case, place: Place) -> Result<Box<dyn Timed>> {
    match case.values {
        DType::F32 => place.ready(&Dense::<f32>(case, PhantomData)),
        DType::F16 => place.ready(&Dense::<f16>(case, PhantomData)),
        DType::Bf16 => place.ready(&Dense::<bf16>(case, PhantomData)),
        other => Err(format!("there is no dense product of {other}").into()),
    }
}

/// Likewise with its type.
struct Dense<W>(Case, PhantomData<W>);

impl<W: Float> Dense<W> {
    fn case(&self) -> matmul::Case {
        let Case { values, tokens, shape } = self.0;
        let (part, kind) = (matmul::Part::Y, Kind::Argmax);
        matmul::Case { part, kind, logits: DType::F32, weights: values, tokens, shape }
    }
}

impl<W: Float> Op for Dense<W> {
    type On<E: Executor + 'static> = OfMasked<E, W>;

    fn bytes(&self) -> u64 {
        self.case().least_bytes()
    }

    fn ready<E: Executor + 'static>(&self, on: &mut E, set: usize) -> Result<OfMasked<E, W>> {
        let operands = matmul::Operands::new(on, self.case(), set)?;
        let plan = operands.layer().plan(on, self.0.tokens, Keep::Masked)?;
        let workspace = on.workspace(plan.workspace_bytes())?;
        Ok(OfMasked { operands, plan, workspace })
    }
}

struct OfMasked<E: Executor, W: Float> {
    operands: matmul::Operands<E, f32, W>,
    plan: twofour::matmul::Plan<f32, W>,
    workspace: Option<E::Buffer<u8>>,
}

impl<E: Executor, W: Float> Run<E> for OfMasked<E, W> {
    fn run(&mut self, on: &mut E, _: u64) -> twofour::Result<()> {
        self.operands.forward(on, &self.plan, self.workspace.as_mut(), true)
    }
}
