//! Offsets that 32 bits do not hold, in every operand: arrays of which only the end is in memory, and the last block
//! alone.

use crate::case::{By, ScoreCase, SquaresCase, SweepCase, normal, rng};
use crate::common::emulator::{Array, Corner, launches};
use crate::common::{Emulator, SMALL};
use crate::swaps::SwapsCase;
use twofour::device::Launch;
use twofour::select::{ByScore, Squares, Statistics, Swaps, Sweep};
use twofour::space::{Output, Raw, RawSlice};
use twofour::{Float, Shape, bf16, f16};
use twofour_emulator::Schedule;

fn on() -> Emulator {
    Emulator::new(Schedule::RoundRobin)
}

/// Rows so long that 32 bits do not hold the number of a column, 2³⁴ groups but for a few.
const LONG: Shape = Shape::new(8, (1 << 33) - 4096);

fn scores<W: Float>(by: By) {
    let groups = 256 * 8 / size_of::<W>();
    let shape = Shape::new(1, 4 * groups);
    let weight = normal(&mut rng(1), shape.weights(), &[]);
    let case = ScoreCase::<W> { shape, by, weight, wants: [true; 4] };
    let expected = case.run(&mut on());
    let weight = Array::ending(LONG.weights(), &case.weight);
    let given = match &case.by {
        By::Given(scores) => Array::ending(LONG.weights(), scores),
        By::Scaled(scale) => Array::ending(LONG.cols, scale),
        By::Magnitude => Array::reserved(0),
    };
    let (mut masked, mut patterns) = (Array::<W>::reserved(LONG.weights()), Array::<u8>::reserved(LONG.groups()));
    let (mut codes, blocks) = (Array::<u8>::reserved(LONG.packed_codes()), LONG.groups() / groups);
    let mut shares = Array::<Statistics>::reserved(1 + blocks);
    let pass = match case.by {
        By::Magnitude => ByScore::<Raw, W>::magnitude(LONG, &weight),
        By::Scaled(_) => ByScore::scaled(LONG, &weight, &given),
        By::Given(_) => ByScore::given(LONG, &given).weight(&weight),
    };
    let pass = pass.masked(&mut masked).patterns(&mut patterns).codes(&mut codes);
    let pass = pass.statistics(RawSlice::new(shares.output().address, Statistics::SLOTS));
    on().launch_last(&launches(SMALL, pass).unwrap()[0], blocks);
    assert_eq!(Some(masked.read_end(shape.weights())), expected.masked);
    assert_eq!(Some(patterns.read_end(groups)), expected.patterns);
    assert_eq!(Some(codes.read_end(groups / 2)), expected.codes);
    assert_eq!(Some(shares.read_end(1)[0]), expected.statistics);
}

#[test]
fn choices_beyond_32_bits_are_right() {
    let of = |count, seed| normal::<f32>(&mut rng(seed), count, &[]);
    scores::<f32>(By::Magnitude);
    scores::<bf16>(By::Magnitude);
    scores::<f32>(By::Scaled(of(4 * 512, 2)));
    scores::<f16>(By::Scaled(of(4 * 1024, 3)));
    scores::<f32>(By::Given(of(4 * 512, 4)));
    scores::<bf16>(By::Given(of(4 * 1024, 5)));
}

/// Activations and slabs' sums: the last strip of columns of the last slab; then all slabs of the last columns.
#[test]
fn squares_beyond_32_bits_are_right() {
    fn check<X: Float>(cols: usize, strip: usize) {
        let (tokens, slabs) = (1 << 20, 1 << 13);
        let x = normal(&mut rng(6), 128 * strip, &[]);
        let case = SquaresCase::<X> { tokens: 128, cols: strip, x, sums: vec![0.0; strip], norms: true };
        let (sums, norms) = case.run(&mut on());
        let far = Array::<X>::reserved(tokens * cols);
        for (token, x) in case.x.chunks(strip).enumerate() {
            far.write_at((tokens - 128 + token) * cols + cols - strip, x);
        }
        let (mut far_sums, mut far_norms) = (Array::<f64>::reserved(cols), Array::<f32>::reserved(cols));
        let mut workspace = Array::<u8>::reserved(Squares::workspace_bytes(tokens, cols));
        assert_eq!(workspace.elements(), 8 * slabs * cols);
        let pass = Squares::<Raw, X>::new(tokens, cols, &far, &mut far_sums).norms(&mut far_norms);
        let [squares, add] = launches(SMALL, pass.workspace(&mut workspace)).unwrap()[..] else { panic!("two") };
        on().launch_last(&squares, squares.grid[0] as usize);
        on().launch_last(&add, add.grid[0] as usize);
        assert_eq!(far_sums.read_end(strip), sums);
        assert_eq!(far_norms.read_end(strip), norms.unwrap());
    }
    check::<f32>(1 << 20, 128);
    check::<bf16>(1 << 20, 256);
    // Rows that are aligned for 8 bytes alone.
    check::<f16>((1 << 20) + 4, 4);
}

/// What a sweep queues, over memory that is there at its ends alone.
struct Far<W> {
    shape: Shape,
    weight: Array<W>,
    upper: Array<f32>,
    scale: Array<f32>,
    updated: Array<W>,
    patterns: Array<u8>,
    codes: Array<u8>,
    losses: Array<f64>,
    workspace: Array<u8>,
}

impl<W: Float> Far<W> {
    fn new(shape: Shape) -> Self {
        Self {
            shape,
            weight: Array::reserved(shape.weights()),
            upper: Array::reserved(shape.cols * shape.cols),
            scale: Array::reserved(shape.cols),
            updated: Array::reserved(shape.weights()),
            patterns: Array::reserved(shape.groups()),
            codes: Array::reserved(shape.packed_codes()),
            losses: Array::reserved(shape.rows),
            workspace: Array::reserved(Sweep::workspace_bytes(shape)),
        }
    }

    fn launches(&mut self) -> Vec<Launch> {
        let pass = Sweep::<Raw, W>::new(self.shape, &self.weight, &self.upper, &self.scale);
        let pass = pass.updated(&mut self.updated).patterns(&mut self.patterns).codes(&mut self.codes);
        launches(SMALL, pass.losses(&mut self.losses).workspace(&mut self.workspace)).unwrap()
    }

    /// The weight while it changes is at the start of the workspace; the errors follow it, 128 a row.
    fn write_work(&self, element: usize, values: &[f32]) {
        self.workspace.write_at(4 * element, bytemuck::cast_slice(values));
    }

    /// Of so many rows from one on.
    fn errors(&self, row: usize, rows: usize) -> Vec<f32> {
        self.work(self.shape.weights() + 128 * row, 128 * rows)
    }

    fn work(&self, element: usize, count: usize) -> Vec<f32> {
        self.workspace.read_at(4 * element, 4 * count).chunks_exact(4).map(bytemuck::pod_read_unaligned).collect()
    }
}

/// A factor of 128 columns, and a weight of 8 rows.
fn swept() -> SweepCase<f32> {
    let mut case = SweepCase::<f32>::of_shape(rng(7), Shape::new(8, 128));
    case.weight = normal(&mut rng(8), case.shape.weights(), &[]);
    case.wants = [true; 4];
    case
}

/// The last rows of a weight of so many: `weight`, what is worked on, errors, patterns, codes and losses.
#[test]
fn sweeps_of_rows_beyond_32_bits_are_right() {
    sweeps_of_rows::<f32>();
    sweeps_of_rows::<bf16>();
    sweeps_of_rows::<f16>();
}

fn sweeps_of_rows<W: Float>() {
    let floats = |of: &[W]| of.iter().map(|w| w.to_f32()).collect::<Vec<_>>();
    let mut far = Far::<W>::new(Shape::new((1 << 34) - 512, 4));
    // As many rows as a block of the first and of the last kernel has.
    let mut case = SweepCase::<W>::of_shape(rng(9), Shape::new(512, 4));
    case.weight = normal(&mut rng(9), case.shape.weights(), &[]);
    case.wants = [true; 4];
    let expected = case.run(&mut on());
    far.weight.write_at(far.shape.weights() - 2048, &case.weight);
    far.upper.write_at(0, &case.upper);
    far.scale.write_at(0, &case.scale);
    let [widen, sweep, finish] = far.launches()[..] else { panic!("three") };
    let elements = far.shape.weights();
    on().launch_last(&widen, elements / 2048);
    assert_eq!(far.work(elements - 2048, 2048), floats(&case.weight));
    // Of eight rows.
    on().launch_last(&sweep, far.shape.rows / 8);
    let rows = 8;
    let (updated, patterns) = (expected.updated.unwrap(), expected.patterns.unwrap());
    let got = far.work(elements - 4 * rows, 4 * rows).into_iter().map(|w| W::from_f32(w + 0.0)).collect::<Vec<_>>();
    assert_eq!(got, updated[4 * (512 - rows)..]);
    assert_eq!(far.patterns.read_end(rows), patterns[512 - rows..]);
    // What is left for columns to the right, which no output shows.
    let mut near = Far::<W>::new(case.shape);
    near.weight.write_at(0, &case.weight);
    near.upper.write_at(0, &case.upper);
    near.scale.write_at(0, &case.scale);
    near.launches().iter().for_each(|launch| on().launch(launch));
    let errors = far.errors(far.shape.rows - rows, rows);
    assert_eq!(errors, near.errors(512 - rows, rows));
    assert!(errors.iter().any(|&error| error != 0.0));
    assert_eq!(far.losses.read_end(rows), expected.losses.unwrap()[512 - rows..]);
    far.patterns.write_at(far.shape.groups() - 512, &patterns);
    far.write_work(elements - 2048, &floats(&updated));
    on().launch_last(&finish, elements / 2048);
    assert_eq!(far.updated.read_end(2048), updated);
    assert_eq!(far.codes.read_end(256), expected.codes.unwrap());
}

/// The last columns of a square: the factor, and rows of the weight that begin anywhere.
#[test]
fn sweeps_of_columns_beyond_32_bits_are_right() {
    let mut far = Far::<f32>::new(Shape::new(1 << 17, 1 << 17));
    let (case, size) = (swept(), far.shape.cols);
    let expected = case.run(&mut on());
    Corner { of: [size; 2], high: 128, wide: 128 }.write(&far.upper, &case.upper);
    let in_work = |row: usize| Corner { of: [size; 2], high: 8, wide: 128 }.row(row);
    case.weight.chunks(128).enumerate().for_each(|(row, values)| far.write_work(in_work(row), values));
    far.scale.write_at(size - 128, &case.scale);
    let all = far.launches();
    on().launch_last(&all[all.len() - 2], size / 8);
    let (updated, patterns) = (expected.updated.unwrap(), expected.patterns.unwrap());
    for row in 0..8 {
        let got: Vec<f32> = far.work(in_work(row), 128).into_iter().map(|w| w + 0.0).collect();
        assert_eq!(got, updated[128 * row..128 * (row + 1)], "row {row}");
        assert_eq!(far.patterns.read_at(in_work(row) / 4, 32), patterns[32 * row..32 * (row + 1)], "row {row}");
    }
    assert_eq!(far.losses.read_end(8), expected.losses.unwrap());
}

/// What the columns to the right make up for, by the last errors of 128 rows.
fn made_up(shape: Shape) {
    let mut far = Far::<f32>::new(shape);
    let Shape { rows, cols } = shape;
    let [errors, upper, weight] = [1, 2, 3].map(|seed| normal::<f32>(&mut rng(seed), 128 * 128, &[]));
    far.write_work(far.shape.weights() + 128 * (rows - 128), &errors);
    // The factor's last columns, of the rows before its last 128.
    Corner { of: [cols - 128, cols], high: 128, wide: 128 }.write(&far.upper, &upper);
    let in_work = |row: usize| Corner { of: [rows, cols], high: 128, wide: 128 }.row(row);
    weight.chunks(128).enumerate().for_each(|(row, values)| far.write_work(in_work(row), values));
    let all = far.launches();
    let make_up = &all[all.len() - 3];
    assert_eq!((make_up.symbol.name(), make_up.grid[0] as usize), ("twofour_select_make_up", rows / 128));
    on().launch_last(make_up, rows / 128);
    for row in 0..128 {
        let expected = |column: usize| {
            let terms = (0..128).map(|d| (errors[128 * row + d], upper[128 * d + column]));
            terms.fold(weight[128 * row + column], |w, (e, u)| (-e).mul_add(u, w))
        };
        assert_eq!(far.work(in_work(row), 128), (0..128).map(expected).collect::<Vec<_>>(), "row {row}");
    }
}

/// The errors and what is worked on; then the factor.
#[test]
fn what_is_made_up_for_beyond_32_bits_is_right() {
    made_up(Shape::new(1 << 26, 256));
    made_up(Shape::new(128, 1 << 17));
}

/// What swaps queue, over memory that is there at its ends alone.
struct FarSwaps<W> {
    shape: Shape,
    weight: Array<W>,
    hessian: Array<f32>,
    before: Array<u8>,
    masked: Array<W>,
    patterns: Array<u8>,
    codes: Array<u8>,
    losses_before: Array<f64>,
    losses: Array<f64>,
    swaps: Array<u32>,
    workspace: Array<u8>,
}

impl<W: Float> FarSwaps<W> {
    /// With the last columns of the last rows, and the last square of the Hessian; elsewhere zeros, which every group of
    /// the last row has a mask of.
    fn new(shape: Shape, case: &SwapsCase<W>) -> Self {
        let far = Self {
            shape,
            weight: Array::reserved(shape.weights()),
            hessian: Array::reserved(shape.cols * shape.cols),
            before: Array::reserved(shape.packed_codes()),
            masked: Array::reserved(shape.weights()),
            patterns: Array::reserved(shape.groups()),
            codes: Array::reserved(shape.packed_codes()),
            losses_before: Array::reserved(shape.rows),
            losses: Array::reserved(shape.rows),
            swaps: Array::reserved(shape.rows),
            workspace: Array::reserved(Swaps::workspace_bytes(shape)),
        };
        let Shape { rows: high, cols: wide } = case.shape;
        Corner { of: [shape.cols; 2], high: wide, wide }.write(&far.hessian, &case.hessian);
        Corner { of: [shape.rows, shape.cols], high, wide }.write(&far.weight, &case.weight);
        if wide < shape.cols {
            let none = vec![0x44; high * shape.cols / 8];
            far.before.write_at(shape.packed_codes() - none.len(), &none);
        }
        Corner { of: [shape.rows, shape.cols / 8], high, wide: wide / 8 }.write(&far.before, &case.codes);
        far
    }

    fn launches(&mut self) -> [Launch; 4] {
        let pass = Swaps::<Raw, W>::new(self.shape, &self.weight, &self.hessian, &self.before);
        let pass = pass.masked(&mut self.masked).patterns(&mut self.patterns).codes(&mut self.codes);
        let pass = pass.losses_before(&mut self.losses_before).losses(&mut self.losses).swaps(&mut self.swaps);
        launches(SMALL, pass.workspace(&mut self.workspace)).unwrap().try_into().unwrap()
    }

    /// The last row's, in which so many of the last columns are not zeros.
    fn check(&mut self, case: &SwapsCase<W>) {
        let (expected, wide) = (case.run(&mut on()), case.shape.cols);
        assert!(*expected.swaps.as_ref().unwrap().last().unwrap() > 0);
        // So many blocks that the last row is the last block's.
        let Shape { rows, cols } = self.shape;
        let share = rows.div_ceil(i32::MAX as usize).next_power_of_two();
        let [groups, product, swap, finish] = self.launches();
        on().launch_last(&groups, groups.grid[0] as usize);
        on().launch_last(&product, product.grid[0] as usize);
        on().launch_last(&swap, rows / share);
        let patterns = expected.patterns.unwrap();
        assert_eq!(self.patterns.read_end(wide / 4), patterns[patterns.len() - wide / 4..]);
        assert_eq!(self.losses_before.read_end(1)[..], expected.losses_before.unwrap()[case.shape.rows - 1..]);
        assert_eq!(self.losses.read_end(1)[..], expected.losses.unwrap()[case.shape.rows - 1..]);
        assert_eq!(self.swaps.read_end(1)[..], expected.swaps.unwrap()[case.shape.rows - 1..]);
        on().launch_last(&finish, rows * cols / 2048);
        let (masked, codes) = (expected.masked.unwrap(), expected.codes.unwrap());
        assert_eq!(self.masked.read_end(wide), masked[masked.len() - wide..]);
        assert_eq!(self.codes.read_end(wide / 8), codes[codes.len() - wide / 8..]);
    }
}

/// The last rows of so many; then the last columns of the last row, whose groups' sums are those of a near row's warp.
#[test]
fn swaps_beyond_32_bits_are_right() {
    fn check<W: Float>() {
        let case = SwapsCase::<W>::tame(11, Shape::new(512, 8));
        FarSwaps::new(Shape::new((1 << 34) - 512, 8), &case).check(&case);
        let case = SwapsCase::<W>::tame(12, Shape::new(8, 128));
        FarSwaps::new(Shape::new((1 << 17) - 120, (1 << 18) + 1024), &case).check(&case);
    }
    check::<f32>();
    check::<bf16>();
    check::<f16>();
}
