//! The emulator's executor: the steps that a device would be given, its kernels run as they are. Products by cuBLASLt are
//! done here, naively, at the very addresses that the library would be given.

use crate::array::Array;
use crate::case::{Case, Executor};
use crate::number::Number;
use bytemuck::Pod;
use std::cell::RefCell;
use twofour::compress::Layout;
use twofour::dense::product::{Call, Product};
use twofour::device::Limits;
use twofour::device::launch::Launch;
use twofour::space::Raw;
use twofour::sparse::steps::Step;
use twofour::sparse::{Given, Libraries, Multiply, Path, Plan, Weight};
use twofour::{DType, Error, Float, bf16, f16};
use twofour_emulator::{Kernel, Options, Schedule};

thread_local! {
    /// What this thread has run, in order: kernels, and [`CUBLASLT`].
    pub(crate) static RUNS: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
}

/// A product by cuBLASLt, among kernels.
pub(crate) const CUBLASLT: &str = "cuBLASLt";

fn ran(name: &'static str) {
    RUNS.with_borrow_mut(|runs| runs.push(name));
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Emulated {
    pub(crate) schedule: Schedule,
    pub(crate) limits: Limits,
}

/// Whether this way must serve, as the ways say of themselves: own kernels take `f16`, `bf16` and `i8` in their layout.
fn must_serve<T: Number>(case: &Case<T>, path: Path) -> bool {
    let own = matches!(T::DTYPE, DType::F16 | DType::Bf16 | DType::I8);
    let few = case.spec.tokens <= 128;
    own && case.spec.layout == Layout::CutlassSm80 && (path == Path::Tile || path == Path::Small && few)
}

/// What a device would do with these libraries: the way that the case asks for where it serves, otherwise its plan's
/// own; `None` if nothing serves. A way that must serve and does not fails: another in its place would pass every property.
pub(crate) fn plan<T: Number>(case: &Case<T>, limits: &Limits, libraries: Libraries) -> Option<Plan> {
    let given = Given { layout: case.layout(), dense: case.spec.dense, bias: case.spec.bias };
    let of = |result: Result<Plan, Error>| match result {
        Ok(plan) => Some(plan),
        Err(Error::Path { .. }) => None,
        Err(error) => panic!("{error}"),
    };
    let plan = of(Plan::new::<T>(limits, case.spec.problem(), given, libraries));
    assert!(plan.is_some() || !must_serve(case, Path::Tile), "nothing serves {:?} of {}", case.spec, T::DTYPE);
    let plan = plan?;
    let Some(asked) = case.spec.path else { return Some(plan) };
    let taken = of(plan.with_path(asked)).unwrap_or(plan);
    assert!(taken.path() == asked || !must_serve(case, asked), "{taken} instead: {:?} of {}", case.spec, T::DTYPE);
    Some(taken)
}

impl Executor for Emulated {
    /// As a GPU's.
    const UNIT: f64 = 1.0 / (1 << 23) as f64;

    fn run<T: Number>(&self, case: &Case<T>) -> Option<Vec<T::Output>> {
        let plan = plan(case, &self.limits, Libraries::CUBLASLT)?;
        let (values, metadata) = case.packed();
        let (values, metadata) = (Array::input("values", &values), Array::input("metadata", &metadata));
        let (x, bias) = (Array::input("x", &case.x), Array::input("bias", &case.bias));
        let dense = Array::input("dense", &case.weight.decompress());
        let y = Array::<T::Output>::output("y", case.spec.problem().outputs());
        let workspace = Array::<u8>::output("workspace", plan.workspace_bytes());
        let weight = Weight::<Raw, T>::new(case.spec.shape, case.layout(), values.raw(), metadata.raw());
        let args = Multiply::new(weight, case.spec.tokens, x.raw(), y.raw()).workspace(workspace.raw());
        let args = if case.spec.bias { args.bias(bias.raw()) } else { args };
        let args = if case.spec.dense { args.dense(dense.raw()) } else { args };
        self.run_steps(&args.steps(&plan).unwrap());
        Some(y.read())
    }

    fn parts<T: Number>(&self, case: &Case<T>) -> u32 {
        plan(case, &self.limits, Libraries::CUBLASLT).map_or(1, |plan| 1 + plan.splits())
    }

    fn is_dense<T: Number>(&self, case: &Case<T>) -> bool {
        plan(case, &self.limits, Libraries::CUBLASLT).is_some_and(|plan| plan.path() == Path::Dense)
    }
}

impl Emulated {
    pub(crate) const A100: Self = Self { schedule: Schedule::RoundRobin, limits: Limits::A100 };

    fn run_steps(&self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Unpack(launch) => self.emulate(launch),
                Step::Product(launch) => self.emulate(launch),
                Step::Sum(launch) => self.emulate(launch),
                Step::BlasLt(call, addresses, bias) => {
                    ran(CUBLASLT);
                    multiply(call, *addresses, *bias);
                }
                Step::Cusparselt => panic!("there was none"),
            }
        }
    }

    /// Runs a launch as the driver would. A grid without blocks is nothing to do.
    fn emulate<A: Pod>(&self, launch: &Launch<A>) {
        if launch.grid.contains(&0) {
            return;
        }
        ran(launch.symbol.name);
        assert!(launch.shared_bytes <= self.limits.max_shared_bytes, "{}", launch.symbol.name);
        let of_emulator = twofour_emulator::Launch {
            kernel: Kernel::find(launch.symbol.name).unwrap(),
            grid: launch.grid,
            block: launch.block,
            shared_bytes: launch.shared_bytes,
            args: bytemuck::bytes_of(&launch.args),
        };
        let options = Options { schedule: self.schedule, workers: 1, ..Options::default() };
        if let Err(fault) = twofour_emulator::run(&of_emulator, &options) {
            panic!("{}: {fault}", launch.symbol.name);
        }
    }
}

/// A product as cuBLASLt makes it.
fn multiply(call: &Call, addresses: [u64; 3], bias: Option<u64>) {
    assert_eq!(call.bias, bias.is_some());
    match (call.product.operands, call.product.result) {
        (DType::I8, DType::I32) => {
            let product = |x: i8, w: i8| i32::from(x) * i32::from(w);
            multiply_as(&call.product, addresses, bias, product, |sum: i32, by: i32| sum.wrapping_add(by), |sum| sum);
        }
        (DType::F16, DType::F16) => floats::<f16>(&call.product, addresses, bias),
        (DType::Bf16, DType::Bf16) => floats::<bf16>(&call.product, addresses, bias),
        (DType::F32, DType::F32) => floats::<f32>(&call.product, addresses, bias),
        other => panic!("{other:?}"),
    }
}

fn floats<T: Float>(product: &Product, addresses: [u64; 3], bias: Option<u64>) {
    let add = |sum: f32, by: f32| sum + by;
    let bias = bias.map(|at| {
        // SAFETY: the steps under test say that there is a value for each column; a guard page ends the test if not.
        let bias = unsafe { std::slice::from_raw_parts(at as *const T, product.cols) };
        bias.iter().map(|bias| bias.to_f32()).collect::<Vec<f32>>()
    });
    let at = bias.as_ref().map(|bias| bias.as_ptr() as u64);
    multiply_as(product, addresses, at, |x: T, w: T| x.to_f32() * w.to_f32(), add, T::from_f32);
}

/// Sums of products in order, the bias (of the type of sums) added last, one rounding at the end.
fn multiply_as<T: Pod, S: Pod + Default, C>(
    product: &Product,
    [a, b, c]: [u64; 3],
    bias: Option<u64>,
    of: impl Fn(T, T) -> S,
    add: impl Fn(S, S) -> S,
    finish: impl Fn(S) -> C,
) {
    let Product { rows, depth, cols, a_transposed, b_transposed, a_pitch, .. } = *product;
    assert_eq!((a_transposed, b_transposed, a_pitch), (false, true, depth));
    if rows == 0 || cols == 0 {
        return;
    }
    // SAFETY: the steps under test say that there is a buffer of so many elements; a guard page ends the test if not.
    let a = unsafe { std::slice::from_raw_parts(a as *const T, rows * depth) };
    // SAFETY: as above.
    let b = unsafe { std::slice::from_raw_parts(b as *const T, depth * cols) };
    // SAFETY: as above; it is an output, apart from the other two.
    let c = unsafe { std::slice::from_raw_parts_mut(c as *mut C, rows * cols) };
    // SAFETY: as above.
    let bias = bias.map(|bias| unsafe { std::slice::from_raw_parts(bias as *const S, cols) });
    for (i, c) in c.iter_mut().enumerate() {
        let (row, col) = (i / cols, i % cols);
        let terms = (0..depth).map(|d| of(a[row * depth + d], b[col * depth + d]));
        let sum = terms.fold(S::default(), &add);
        *c = finish(bias.map_or(sum, |bias| add(sum, bias[col])));
    }
}
