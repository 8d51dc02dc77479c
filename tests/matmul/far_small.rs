//! Offsets that 32 bits do not hold in products of few tokens; the largest that these kernels take, and the grids of
//! sums.

use crate::case::{Case, Routes, Spec, Values};
use crate::common::emulator::{Array, Corner, launches};
use crate::common::{Emulator, SMALL, TestExecutor};
use crate::far::{integers, on, run_last};
use bytemuck::{Pod, Zeroable};
use rand::SeedableRng;
use rand::rngs::StdRng;
use twofour::device::{Launch, Limits, Symbol};
use twofour::mask::Kind;
use twofour::matmul::{Backward, Dense, Forward, InputRoute, Keep, Layer, LogitRoute, OutputRoute, Plan, Problem};
use twofour::space::{Input, Output, Raw, RawSlice};
use twofour::{Error, Executor, Float, Libraries, Logit, Shape, Shard, bf16, f16};

/// A layer of which the last `high` rows are in memory, and of those the last `case.spec.shape.cols` columns.
struct Far<L, W> {
    shape: Shape,
    logits: Array<L>,
    weight: Array<W>,
    codes: Array<u8>,
}

impl<L: Logit, W: Float> Far<L, W> {
    /// The case as a slice of it, too.
    fn new(shape: Shape, case: &mut Case<L, W>) -> Self {
        let Shape { rows: high, cols: wide } = case.spec.shape;
        let [row_offset, col_offset] = [shape.rows - high, shape.cols - wide].map(|size| size as u64);
        case.shard = Shard { row_offset, col_offset, global_cols: shape.cols as u64 };
        case.update_codes();
        let corner =
            |wide_of: fn(usize) -> usize| Corner { of: [shape.rows, wide_of(shape.cols)], high, wide: wide_of(wide) };
        Self {
            shape,
            logits: corner(|cols| cols / 4 * 6).array(&case.logits),
            weight: corner(|cols| cols).array(&case.weight),
            // Rows are whole bytes of them.
            codes: corner(|cols| cols / 8).array(&case.codes),
        }
    }

    /// What `Y` of the whole layer queues, in so many parts.
    fn launches(&self, spec: &Spec, x: RawSlice<W>, y: RawSlice<W>, workspace: &mut Array<u8>) -> (Vec<Launch>, usize) {
        fn of<M: Logit, W: Float>(
            spec: &Spec,
            shape: Shape,
            layer: &Layer<'_, Raw, M, W>,
            [x, y]: [RawSlice<W>; 2],
            workspace: &mut Array<u8>,
        ) -> (Vec<Launch>, usize) {
            let problem = Problem::new(spec.tokens, shape);
            let plan = Plan::<M, W>::new(&SMALL, Libraries::NONE, problem, spec.masks(), Keep::Nothing).unwrap();
            let plan = plan.with_output(spec.routes.output.unwrap()).unwrap();
            let plan = plan.with_output_splits(spec.routes.output_splits.unwrap()).unwrap();
            *workspace = Array::reserved(plan.workspace_bytes());
            let pass = Forward::new(&plan, layer, x, y).workspace(workspace);
            (launches(SMALL, pass).unwrap(), plan.output().splits as usize)
        }
        if spec.frozen {
            let layer = Layer::<Raw, f32, W>::frozen(self.shape, &self.codes, &self.weight);
            return of(spec, self.shape, &layer, [x, y], workspace);
        }
        let layer = Layer::<Raw, L, W>::sampled(self.shape, spec.kind, spec.sampling, &self.logits, &self.weight);
        of(spec, self.shape, &layer, [x, y], workspace)
    }
}

fn spec(tokens: usize, cols: usize, kind: Option<Kind>, splits: u32) -> Spec {
    let route = if kind.is_none() { OutputRoute::Codes } else { OutputRoute::Sampled };
    let routes = Routes { output: Some(route), output_splits: Some(splits), ..Routes::default() };
    let frozen = kind.is_none();
    let wants = [true, false, false];
    Spec { routes, frozen, wants, ..Spec::new(tokens, 64, cols, kind.unwrap_or(Kind::Hard)) }
}

/// The weight, logits, codes, `Y` and its parts, with the bits of the last rows as a slice that begins at nothing.
fn small<L: Logit, W: Float>(tokens: usize, kind: Option<Kind>, splits: u32) {
    let (spec, shape) = (spec(tokens, 120, kind, splits), Shape::new(1 << 27, 120));
    let mut case = Case::<L, W>::new(spec);
    let (far, on) = (Far::new(shape, &mut case), &mut on());
    let expected = case.run(on).y;
    let x = on.upload(&case.x).unwrap();
    let (mut y, mut workspace) = (Array::<W>::reserved(tokens * shape.rows), Array::reserved(0));
    let (all, _) = far.launches(&spec, (&x).input(), y.output(), &mut workspace);
    assert_eq!((all[0].symbol.file(), all.len()), ("matmul_small", splits.min(2) as usize));
    // All that are not the last parts leave theirs too.
    let rows = if tokens <= 16 { 16 } else { 64 };
    let blocks = u64::from(all[0].grid[0]);
    for split in 1..=u64::from(splits) {
        let one = Emulator { blocks: Some(split * blocks - 1..split * blocks), ..on.clone() };
        one.launch(&all[0]);
    }
    if splits == 1 {
        let got = Corner { of: [tokens, shape.rows], high: tokens, wide: rows }.read(&y);
        let expected: Vec<W> = expected.chunks(64).flat_map(|row| row[64 - rows..].to_vec()).collect();
        return assert_eq!(got, expected, "{tokens} {kind:?}");
    }
    on.launch_last(&all[1], tokens * shape.rows / (8 * 256));
    assert_eq!(y.read_end(rows), expected[expected.len() - rows..], "{tokens} {kind:?}, the last token");
}

#[test]
fn few_tokens_beyond_32_bits_are_right() {
    for tokens in [40, 128] {
        for splits in [1, 2] {
            small::<f32, bf16>(tokens, Some(Kind::Soft), splits);
            small::<bf16, f16>(tokens, Some(Kind::Hard), splits);
            small::<f32, f16>(tokens, None, splits);
        }
    }
    // `Y` of 16 tokens is within 32 bits of elements, not of bytes.
    for (tokens, kind) in
        [16, 40].into_iter().flat_map(|some| [Some(Kind::Soft), Some(Kind::Hard), None].map(|k| (some, k)))
    {
        small::<f32, bf16>(tokens, kind, 1);
        small::<f32, f16>(tokens, kind, 2);
        small::<bf16, bf16>(tokens, kind, 1);
        small::<bf16, f16>(tokens, kind, 2);
    }
}

/// 128 tokens of almost 2^24 columns: offsets of tokens are just within 32 bits. The last part of the contraction.
#[test]
fn the_largest_inputs_of_few_tokens_are_right() {
    fn check<W: Float>(tokens: usize) {
        let (cols, rows) = ((1 << 24) - 32, 64);
        let part = |splits| Spec { values: Values::Integers, ..spec(tokens, 32, None, splits) };
        let mut case = Case::<f32, W>::new(part(1));
        let (of, on) = (Far::new(Shape::new(rows, cols), &mut case), &mut on());
        let x = Corner { of: [tokens, cols], high: tokens, wide: 32 }.array(&case.x);
        let mut y = Array::<W>::reserved(tokens * rows);
        let mut workspace = Array::<u8>::reserved(0);
        let (all, splits) = of.launches(&part(32_768), (&x).input(), y.output(), &mut workspace);
        let launch = all[0];
        // Codes of zero, where nothing is in memory, are none of the six: they are made legal in the last part.
        let share = u32::from_ne_bytes(launch.args.bytes()[180..184].try_into().unwrap()) as usize;
        let begin = share * (splits - 1);
        assert!(begin < cols && cols - begin <= share && splits == 32_768);
        for row in 0..rows {
            of.codes.write_at((row * cols + begin) / 8, &vec![0x44; (cols - 32 - begin) / 8]);
        }
        run_last(&launch);
        let expected: Vec<f32> = case.run(on).y.into_iter().map(W::to_f32).collect();
        let wide = if tokens <= 16 { 16 } else { 64 };
        let bytes = Corner { of: [splits * tokens, 4 * rows], high: tokens, wide: 4 * wide }.read(&workspace);
        let got: Vec<f32> = bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect();
        let expected: Vec<f32> = expected.chunks(rows).flat_map(|row| row[rows - wide..].to_vec()).collect();
        assert_eq!(got, expected, "{tokens}");
    }
    check::<bf16>(128);
    check::<f16>(16);
}

/// Sizes with no room for a tile beyond their end, or with more tiles than a grid has, are errors on every route.
#[test]
fn sizes_beyond_a_grid_are_refused() {
    const BEYOND: usize = (1 << 31) - 256;
    let at = |elements: usize| RawSlice::<bf16>::new(1 << 40, elements);
    let run = |tokens: usize, rows: usize, cols: usize| -> [Result<(), Error>; 3] {
        let (shape, problem) = (Shape::new(rows, cols), Problem::new(tokens, Shape::new(rows, cols)));
        let logits = RawSlice::<f32>::new(1 << 40, shape.logits());
        let layer =
            Layer::<Raw, f32, bf16>::sampled(shape, Kind::Hard, crate::launches::SAMPLING, logits, at(shape.weights()));
        let plan =
            Plan::<f32, bf16>::new(&Limits::H200, Libraries::NONE, problem, layer.masks(), Keep::Masked).unwrap();
        let plan =
            plan.with_output(OutputRoute::Masked(Dense::Own)).and_then(|plan| plan.with_output_splits(1)).unwrap();
        let plan = plan.with_input_gradient(InputRoute::Masked(Dense::Own)).unwrap();
        let plan = plan.with_logit_gradient(LogitRoute::Fused).unwrap();
        let workspace = || RawSlice::new(1 << 41, plan.workspace_bytes());
        let (x, y) = (|| at(problem.inputs()), || at(problem.outputs()));
        let backward = || Backward::new(&plan, &layer, y()).use_masked(at(shape.weights())).workspace(workspace());
        let gradient = RawSlice::new(1 << 40, shape.logits());
        [
            launches(
                Limits::H200,
                Forward::new(&plan, &layer, x(), y()).use_masked(at(shape.weights())).workspace(workspace()),
            ),
            launches(Limits::H200, backward().input_gradient(x())),
            launches(Limits::H200, backward().logit_gradient(x(), gradient)),
        ]
        .map(|result| result.map(drop))
    };
    let refused = |results: [Result<(), Error>; 3], expected: [bool; 3], what: &str| {
        for (i, (result, expected)) in results.iter().zip(expected).enumerate() {
            assert_eq!(matches!(result, Err(Error::Overflow { .. })), expected, "{what} {i}: {result:?}");
        }
    };
    // Tokens, rows and columns: each too many for whatever counts them.
    for (sizes, what) in [([BEYOND, 8, 8], "tokens"), ([300, BEYOND, 8], "rows"), ([300, 8, BEYOND], "columns")] {
        let [tokens, rows, cols] = sizes;
        refused(run(tokens, rows, cols), [true; 3], what);
        let fewer = sizes.map(|size| if size == BEYOND { size - 64 } else { size });
        refused(run(fewer[0], fewer[1], fewer[2]), [false; 3], what);
    }
    // 2^31 tiles: of Y, of dX, of G.
    let (wide, high) = (1 << 23, 1 << 22);
    refused(run(wide, high, 8), [true, false, false], "tiles of Y");
    refused(run(wide, 8, high), [false, true, false], "tiles of dX");
    refused(run(8, wide, high), [false, false, true], "tiles of G");
    refused(run(wide, high - 128, 8), [false; 3], "tiles of Y");
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct SumArgs {
    partial: u64,
    sum: u64,
    elements: u64,
    splits: u32,
    unused: u32,
}

/// Sums of parts step by the grid that they find, which only enormous products make shorter than they are; and they may
/// be of more parts than a block has threads.
#[test]
fn parts_are_the_same_sums_on_any_grid() {
    fn check<C: Float>(elements: usize, splits: usize) {
        let parts: Vec<f32> = integers(&mut StdRng::seed_from_u64(4), splits * elements);
        let of = |i: usize| C::from_f32((0..splits).map(|split| parts[split * elements + i]).sum());
        let expected: Vec<C> = (0..elements).map(of).collect();
        let on = on();
        let partial = on.upload(&parts).unwrap();
        for blocks in [1, 3] {
            let mut sum = on.poisoned::<C>(elements);
            let args = SumArgs {
                partial: (&partial).input().address,
                sum: sum.output().address,
                elements: elements as u64,
                splits: splits as u32,
                unused: 0,
            };
            let symbol = Symbol::new("matmul", "sum", &[C::DTYPE.name()]);
            on.launch(&Launch::new(symbol, blocks, 256, &args));
            assert_eq!(sum.read(), expected, "{splits} parts of {elements} on {blocks}");
        }
    }
    check::<f32>(2047, 3);
    check::<f32>(8192, 3);
    check::<bf16>(16_384, 2);
    check::<f16>(1001, 300);
    check::<bf16>(8, 257);
}
