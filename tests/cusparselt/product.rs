//! One product through the library, compared with the same in plain loops. Values are small whole numbers, so that sums
//! are exact in every format.

use std::sync::Arc;

use twofour::E4m3;
use twofour::cudarc::driver::{CudaSlice, CudaStream, ValidAsZeroBits};
use twofour::cusparselt::{
    Activation, Addend, Algorithm, Alpha, Bias, Handle, Operands, Placement, Plan, Problem, Searched, Types,
};
use twofour::{Element, Result, Shape, bf16, f16};

/// A format with a way to whole numbers and back.
pub(crate) trait Number: Element + ValidAsZeroBits + PartialEq + std::fmt::Debug {
    fn of(value: f32) -> Self;
    fn number(self) -> f32;
}

macro_rules! numbers {
    ($($type:ty: $of:expr, $number:expr;)*) => {$(
        impl Number for $type {
            fn of(value: f32) -> Self {
                $of(value)
            }
            fn number(self) -> f32 {
                $number(self)
            }
        }
    )*};
}

numbers! {
    f32: |v| v, |v| v;
    f16: f16::from_f32, f16::to_f32;
    bf16: bf16::from_f32, bf16::to_f32;
    i8: |v| v as i8, f32::from;
    i32: |v| v as i32, |v| v as f32;
    // The three operands there are.
    E4m3: |v| E4m3::from_bits(if v == 0.0 { 0 } else if v > 0.0 { 0x38 } else { 0xb8 }), |v: E4m3| match v.to_bits() {
        0 => 0.0,
        0x38 => 1.0,
        _ => -1.0,
    };
}

/// What is added to the product.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Add {
    Nothing,
    Output(f32),
    Other(f32),
}

/// A problem, and what is not part of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) problem: Problem,
    pub(crate) alpha: f32,
    pub(crate) add: Add,
}

pub(crate) fn problem<X: Number, Y: Number>(tokens: usize, shape: Shape) -> Problem {
    Problem::new(Types::new(X::DTYPE, Y::DTYPE).unwrap(), tokens, shape)
}

impl Case {
    pub(crate) fn new(problem: Problem) -> Self {
        Self { problem, alpha: 1.0, add: Add::Nothing }
    }
}

/// Where the elements of a matrix are.
#[derive(Clone, Copy)]
struct Lies {
    pitch: usize,
    batch: usize,
    swapped: bool,
    elements: usize,
}

impl Lies {
    fn new([rows, cols]: [usize; 2], placement: Placement, swapped: bool, batches: usize) -> Self {
        let [rows, cols] = if swapped { [cols, rows] } else { [rows, cols] };
        let pitch = placement.pitch.unwrap_or(cols);
        let batch = placement.batch.unwrap_or(rows * pitch);
        Self { pitch, batch, swapped, elements: batch * (batches - 1) + (rows - 1) * pitch + cols }
    }

    fn at(&self, batch: usize, row: usize, col: usize) -> usize {
        let [row, col] = if self.swapped { [col, row] } else { [row, col] };
        batch * self.batch + row * self.pitch + col
    }
}

/// −1, 0 or 1, without a pattern.
fn small(index: usize, seed: u64) -> f32 {
    let mixed =
        (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(seed.wrapping_mul(0xd1b5_4a32_d192_ed03));
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((mixed >> 40) % 3) as f32 - 1.0
}

/// A 2:4 weight (1:2 in f32) without zeros among what is kept; gaps between rows are zero.
pub(crate) fn weight<X: Number>(rows: usize, cols: usize, pitch: usize) -> Vec<X> {
    const PAIRS: [[usize; 2]; 6] = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]];
    let mut values = vec![X::of(0.0); (rows - 1) * pitch + cols];
    for index in 0..rows * cols / 4 {
        let (row, col) = (index * 4 / cols, index * 4 % cols);
        let choice = (index * 7 + index / 5) % 6;
        let kept = if size_of::<X>() == 4 { [choice % 2, 2 + choice / 3] } else { PAIRS[choice] };
        for position in kept {
            let sign = if small(row * cols + col + position, 1) > 0.0 { 1.0 } else { -1.0 };
            values[row * pitch + col + position] = X::of(sign);
        }
    }
    values
}

/// Everything on the device.
struct Memory<X, Y> {
    weight: CudaSlice<X>,
    compressed: CudaSlice<u8>,
    input: CudaSlice<X>,
    output: CudaSlice<Y>,
    addend: CudaSlice<Y>,
    alphas: CudaSlice<f32>,
    workspace: CudaSlice<u8>,
}

impl<X: Number, Y: Number> Memory<X, Y> {
    fn operands(&mut self, case: &Case) -> Operands<'_, X, Y> {
        let operands = Operands::new(&self.compressed, &self.input, &mut self.output);
        let mut operands = operands.workspace(&mut self.workspace);
        operands.alpha = match case.problem.alpha_per_row {
            true => Alpha::PerRow(self.alphas.as_view()),
            false => Alpha::Scalar(case.alpha),
        };
        operands.addend = match case.add {
            Add::Nothing => Addend::Nothing,
            Add::Output(beta) => Addend::Output { beta },
            Add::Other(beta) => Addend::Other { view: self.addend.as_view(), beta },
        };
        operands
    }
}

/// Runs a case and compares every element, gaps of the output too; with a search before it if `search` says.
pub(crate) fn check<X: Number, Y: Number>(
    handle: &Handle,
    stream: &Arc<CudaStream>,
    case: Case,
    search: bool,
) -> Result<Option<Searched>> {
    let problem = case.problem;
    let (t, n, k, batches) = (problem.tokens, problem.shape.rows, problem.shape.cols, problem.batches);
    let w_lies = Lies::new([n, k], problem.weight, false, batches);
    let x_lies = Lies::new([t, k], problem.input, problem.input_transposed, batches);
    let y_lies = Lies::new([t, n], problem.output, problem.output_transposed, batches);

    let one = weight::<X>(n, k, w_lies.pitch);
    let mut w = vec![X::of(0.0); w_lies.elements];
    for batch in 0..batches {
        w[batch * w_lies.batch..][..one.len()].copy_from_slice(&one);
    }
    let x: Vec<X> = (0..x_lies.elements).map(|i| X::of(small(i, 2))).collect();
    let before: Vec<Y> = (0..y_lies.elements).map(|i| Y::of(small(i, 3))).collect();
    let c: Vec<Y> = (0..y_lies.elements).map(|i| Y::of(small(i, 4))).collect();
    let bias_rows = if problem.bias == Some(Bias::PerBatch) { n * batches } else { n };
    let bias: Vec<f32> = (0..bias_rows).map(|i| 2.0 * small(i, 5)).collect();
    let alphas: Vec<f32> = (0..n).map(|i| [0.5, 1.0, 2.0][i % 3]).collect();

    let mut plan = Plan::new(handle, stream, problem)?;
    let size = plan.compressed_size();
    let mut memory = Memory {
        weight: stream.clone_htod(&w).unwrap(),
        compressed: stream.alloc_zeros(size.bytes).unwrap(),
        input: stream.clone_htod(&x).unwrap(),
        output: stream.clone_htod(&before).unwrap(),
        addend: stream.clone_htod(&c).unwrap(),
        alphas: stream.clone_htod(&alphas).unwrap(),
        workspace: stream.alloc_zeros(plan.workspace_bytes().max(16)).unwrap(),
    };
    let mut verdict = stream.clone_htod(&[-1]).unwrap();
    plan.check_pruned(stream, &memory.weight, &mut verdict)?;
    let mut buffer = stream.alloc_zeros::<u8>(size.buffer_bytes.max(16)).unwrap();
    plan.compress(stream, &memory.weight, &mut memory.compressed, &mut buffer)?;
    if problem.bias.is_some() {
        set_bias(&mut plan, stream, &bias)?;
    }
    let mut searched = None;
    if search {
        let dense = stream.clone_htod(&w).unwrap();
        searched = Some(plan.search(stream, memory.operands(&case), &dense, 2)?);
        memory.workspace = stream.alloc_zeros(plan.workspace_bytes().max(16)).unwrap();
        memory.output = stream.clone_htod(&before).unwrap();
    }
    plan.run(stream, memory.operands(&case))?;
    let mut y = before.clone();
    stream.memcpy_dtoh(&memory.output, &mut y).unwrap();
    let mut not_pruned = [-1];
    stream.memcpy_dtoh(&verdict, &mut not_pruned).unwrap();
    stream.synchronize().unwrap();
    assert_eq!(not_pruned, [0], "the weight is 2:4");

    let mut expected = before.clone();
    for (batch, token, row) in (0..batches * t * n).map(|i| (i / (t * n), i / n % t, i % n)) {
        let term = |i: usize| w[w_lies.at(batch, row, i)].number() * x[x_lies.at(batch, token, i)].number();
        let mut sum: f32 = (0..k).map(term).sum();
        sum *= if problem.alpha_per_row { alphas[row] } else { case.alpha };
        let at = y_lies.at(batch, token, row);
        sum += match case.add {
            Add::Nothing => 0.0,
            Add::Output(beta) => beta * before[at].number(),
            Add::Other(beta) => beta * c[at].number(),
        };
        if problem.bias.is_some() {
            sum += bias[if bias_rows == n { row } else { batch * n + row }];
        }
        if let Activation::Relu { threshold, upper_bound } = problem.activation {
            sum = if sum > threshold { sum.min(upper_bound) } else { 0.0 };
        }
        expected[at] = Y::of(sum);
    }
    let wrong = (0..y.len()).find(|&i| y[i] != expected[i]);
    if let Some(i) = wrong {
        panic!("{case:?}: element {i} is {:?} and should be {:?}", y[i], expected[i]);
    }
    Ok(searched)
}

fn set_bias(plan: &mut Plan, stream: &Arc<CudaStream>, bias: &[f32]) -> Result<()> {
    fn put<B: Number>(plan: &mut Plan, stream: &Arc<CudaStream>, bias: &[f32]) -> Result<()> {
        let values: Vec<B> = bias.iter().map(|&value| B::of(value)).collect();
        let values = stream.clone_htod(&values).unwrap();
        plan.set_bias(stream, &values)
    }
    let format = plan.problem().types.bias();
    match format {
        _ if format == f16::DTYPE => put::<f16>(plan, stream, bias),
        _ if format == bf16::DTYPE => put::<bf16>(plan, stream, bias),
        _ => put::<f32>(plan, stream, bias),
    }
}

/// Cases that between them have every kind of operand, placement and epilogue. Scalars keep results whole and small.
pub(crate) fn cases<X: Number, Y: Number>() -> Vec<Case> {
    let base = problem::<X, Y>(32, Shape::new(64, 96));
    let with = |set: &dyn Fn(&mut Problem)| {
        let mut problem = base;
        set(&mut problem);
        Case::new(problem)
    };
    let place = |pitch, batch| Placement { pitch, batch };
    let pitch = |pitch| place(Some(pitch), None);
    let relu = |threshold, upper_bound| Activation::Relu { threshold, upper_bound };
    let mut cases = vec![
        with(&|_| ()),
        with(&|p| (p.tokens, p.shape) = (16, Shape::new(96, 64))),
        with(&|p| p.output_transposed = true),
        with(&|p| (p.weight, p.input, p.output) = (pitch(128), pitch(112), pitch(80))),
        with(&|p| p.batches = 3),
        with(&|p| (p.batches, p.weight, p.input, p.output) = (2, pitch(128), pitch(112), pitch(80))),
        with(&|p| (p.batches, p.weight, p.input) = (2, place(None, Some(0)), place(None, Some(96 * 48)))),
        with(&|p| (p.batches, p.output, p.input) = (2, place(Some(80), Some(4096)), place(None, Some(0)))),
        with(&|p| p.bias = Some(Bias::Shared)),
        with(&|p| (p.bias, p.batches) = (Some(Bias::PerBatch), 2)),
        with(&|p| p.activation = Activation::RELU),
        with(&|p| (p.activation, p.bias) = (relu(1.0, 6.0), Some(Bias::Shared))),
    ];
    if size_of::<X>() > 1 {
        cases.push(with(&|p| p.input_transposed = true));
        cases.push(with(&|p| (p.input_transposed, p.output_transposed, p.batches) = (true, true, 2)));
        cases.push(with(&|p| p.alpha_per_row = true));
        cases.push(Case { alpha: 0.5, ..with(&|p| p.bias = Some(Bias::Shared)) });
    }
    cases.push(Case { add: Add::Output(2.0), ..with(&|_| ()) });
    cases.push(Case { add: Add::Other(-1.0), ..with(&|p| p.batches = 2) });
    cases.push(Case { add: Add::Other(0.0), ..with(&|_| ()) });
    cases
}

/// An algorithm by its number.
pub(crate) fn numbered(id: u32) -> Algorithm {
    let mut algorithm = Algorithm::default();
    algorithm.id = Some(id);
    algorithm
}
