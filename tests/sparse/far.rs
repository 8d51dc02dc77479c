//! Offsets that 32 bits do not hold, in every operand of both kernels and of their sums: arrays of which only the
//! corner is in memory that the last block reads and writes. Numbers are integers, so that what it must write is exact.

use crate::case::legal;
use crate::common::emulator::{Array, Corner, launches};
use crate::common::{Emulator, SMALL, TestExecutor};
use crate::number::Number;
use bytemuck::{Pod, Zeroable};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;
use twofour::compress::{Layout, Sparsity};
use twofour::device::{Launch, Symbol};
use twofour::space::{Input, Output, Raw};
use twofour::sparse::{Given, Multiply, Plan, Problem, Route, Weight};
use twofour::{Element, Executor, Factor, Libraries, Shape, bf16, f16};
use twofour_emulator::Schedule;

const BIAS: Given = Given { bias: true, ..Given::WEIGHT };

fn integers(rng: &mut StdRng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-1..=1) as f32).collect()
}

/// Of a tile of codes.
const TILE_BYTES: usize = 128;

/// A weight of which the corner `[128, deep]` is in memory.
struct Far<T> {
    values: Array<T>,
    metadata: Array<u8>,
    /// The corner's weights, with those that are dropped.
    dense: Vec<f32>,
}

impl<T: Number> Far<T> {
    fn new(rng: &mut StdRng, shape: Shape, high: usize, deep: usize) -> Self {
        let sizes = Layout::CutlassSm80.sizes(shape, T::DTYPE).unwrap();
        let map = Layout::CutlassSm80.map(shape, T::DTYPE).unwrap();
        let (legal, metadata) = (legal(Sparsity::of(T::DTYPE)), Array::<u8>::reserved(sizes.metadata));
        let kept = integers(rng, high * deep / 2);
        let (mut dense, mut tiles) = (vec![0.0; high * deep], BTreeSet::new());
        for group in 0..high * deep / 4 {
            let (row, col, code) = (group / (deep / 4), group % (deep / 4), legal[rng.random_range(0..legal.len())]);
            let place = map.place(shape.rows - high + row, (shape.cols - deep) / 4 + col).unwrap();
            metadata.put_code(place.byte, place.shift as usize, code);
            tiles.insert(place.byte / TILE_BYTES);
            dense[4 * group + usize::from(code % 4)] = kept[2 * group];
            dense[4 * group + usize::from(code / 4)] = kept[2 * group + 1];
        }
        // Beyond the weight's end, its last tiles have legal codes too.
        for tile in tiles {
            let half = |half: u8| if half == 0 { 4 } else { half };
            let bytes = metadata.read_at(tile * TILE_BYTES, TILE_BYTES).into_iter();
            let filled: Vec<u8> = bytes.map(|byte| half(byte & 15) | half(byte >> 4) << 4).collect();
            metadata.write_at(tile * TILE_BYTES, &filled);
        }
        let corner = Corner { of: [shape.rows, shape.cols / 2], high, wide: deep / 2 };
        Self { values: corner.array(&kept.into_iter().map(T::of).collect::<Vec<_>>()), metadata, dense }
    }
}

/// How many rows and tokens the last block of a kernel has.
fn of_last_block(route: Route, tokens: usize, rows: usize) -> [usize; 2] {
    let last = |size: usize, tile: usize| (size - 1) % tile + 1;
    match route {
        Route::Tile => [last(rows, 128), last(tokens, 128)],
        _ if tokens <= 8 => [32, tokens],
        _ if tokens <= 16 => [64, tokens],
        _ => [128, last(tokens, 64)],
    }
}

fn product<T: Number>(route: Route, [tokens, rows, cols]: [usize; 3], splits: u32) {
    let (rng, problem) = (&mut StdRng::seed_from_u64(1), Problem::new(tokens, Shape::new(rows, cols)));
    let plan = Plan::<T>::by(route, &SMALL, problem, BIAS, Libraries::NONE).unwrap().with_splits(splits).unwrap();
    let splits = plan.splits() as usize;
    let [high, some] = of_last_block(route, tokens, rows);
    let mut y = Array::<T::Output>::reserved(tokens * rows);
    let mut workspace = Array::<u8>::reserved(plan.workspace_bytes());
    let (bias, of_bias) = (Array::<T::Output>::reserved(rows), integers(rng, high));
    bias.write_at(rows - high, &of_bias.iter().copied().map(T::output).collect::<Vec<_>>());
    let mut queued = |far: &Far<T>, x: &Array<T>| {
        let weight = Weight::<Raw, T>::new(problem.shape, Layout::CutlassSm80, &far.values, &far.metadata);
        let pass = Multiply::new(&weight, tokens, x, &mut y).bias(&bias).plan(&plan);
        launches(SMALL, pass.workspace(&mut workspace)).unwrap()
    };
    // What the last part has of the contraction.
    let nothing = Corner { of: [tokens, cols], high: 0, wide: 4 };
    let launch = queued(&Far::new(rng, problem.shape, 0, 4), &nothing.array(&[]))[0];
    let share = u32::from_ne_bytes(launch.args.bytes()[60..64].try_into().unwrap()) as usize;
    let deep = cols - share * (splits - 1);
    assert!(deep <= share);
    let (far, of_x) = (Far::<T>::new(rng, problem.shape, high, deep), integers(rng, some * deep));
    let x = Corner { of: [tokens, cols], high: some, wide: deep };
    let x = x.array(&of_x.iter().copied().map(T::of).collect::<Vec<_>>());
    let sum = |token: usize, row: usize| -> f32 {
        (0..deep).map(|i| of_x[token * deep + i] * far.dense[row * deep + i]).sum()
    };

    let all = queued(&far, &x);
    let on = Emulator::new(Schedule::RoundRobin);
    on.launch_last(&all[0], all[0].grid[0] as usize);
    let what = format!("{} {route:?}: {tokens} tokens, {rows} x {cols}, {splits} parts", T::DTYPE);
    let of_row = |token: usize| (0..high).map(move |row| (token, row));
    if splits > 1 {
        let corner = Corner { of: [splits * tokens, 4 * rows], high: some, wide: 4 * high };
        let bytes = corner.read(&workspace);
        let sums: Vec<f32> = (0..some).flat_map(of_row).map(|(token, row)| sum(token, row)).collect();
        let got = bytes.chunks_exact(4).map(|four| <[u8; 4]>::try_from(four).unwrap());
        let got = got
            .map(|four| if T::DTYPE == i8::DTYPE { i32::from_le_bytes(four) as f32 } else { f32::from_le_bytes(four) });
        assert_eq!(got.collect::<Vec<_>>(), sums, "{what}: the last part");
    }
    if splits > 1000 {
        return; // too many to add up here
    }
    let biased = |(token, row): (usize, usize)| T::output(sum(token, row) + of_bias[row]);
    if splits == 1 {
        let got = Corner { of: [tokens, rows], high: some, wide: high }.read(&y);
        let expected: Vec<T::Output> = (0..some).flat_map(of_row).map(biased).collect();
        assert!(crate::number::same::<T>(&got, &expected), "{what}: {got:?}, not {expected:?}");
    } else {
        let run = if T::DTYPE == i8::DTYPE { 4 } else { 8 };
        on.launch_last(&all[1], (tokens * rows).div_ceil(256 * if rows.is_multiple_of(run) { run } else { 1 }));
        let expected: Vec<T::Output> = of_row(some - 1).map(biased).collect();
        assert!(crate::number::same::<T>(&y.read_end(high), &expected), "{what}: the last token");
    }
}

/// Columns of a stage.
fn stage<T: Element>() -> usize {
    128 / size_of::<T>()
}

fn tiles<T: Number>() {
    let (stage, product) = (stage::<T>(), |sizes, splits| product::<T>(Route::Tile, sizes, splits));
    // Y; X and parts of Y; both; values and codes.
    product([1 << 21, 1 << 13, stage], 1);
    product([1 << 20, 128, 128 * stage], 128);
    product([1 << 21, 1 << 13, 2 * stage], 2);
    product([1 << 21, (1 << 13) + 8, 2 * stage], 2);
    product([8, 1 << 23, 128 * stage], 128);
    // Rows that begin anywhere.
    product([1 << 21, (1 << 13) + 2, stage], 1);
    product([8, 1 << 23, 128 * stage + 4], 129);
}

#[test]
fn tiles_beyond_32_bits_are_right() {
    tiles::<f16>();
    tiles::<bf16>();
    tiles::<i8>();
}

fn few_tokens<T: Number>() {
    let (stage, product) = (stage::<T>(), |sizes, splits| product::<T>(Route::Small, sizes, splits));
    for tokens in [128, 100] {
        product([tokens, 1 << 26, 16 * stage], 1);
        product([tokens, 1 << 26, 16 * stage], 2);
    }
    product([16, 1 << 26, 16 * stage], 1);
    product([7, 1 << 26, 16 * stage], 1);
    // Rows that begin anywhere.
    product([128, 1 << 26, 16 * stage + 4], 1);
    // Offsets of tokens are just within 32 bits.
    product([128, 128, (1 << 24) - stage], 32_768);
}

#[test]
fn few_tokens_beyond_32_bits_are_right() {
    few_tokens::<f16>();
    few_tokens::<bf16>();
    few_tokens::<i8>();
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct SumArgs {
    partial: u64,
    y: u64,
    bias: u64,
    elements: u64,
    rows: u32,
    splits: u32,
}

/// Sums of parts step by the grid that they find, which only enormous products make shorter than they are; and they may
/// be of more parts than a block has threads.
#[test]
fn parts_are_the_same_sums_on_any_grid() {
    fn check<T: Number>([tokens, rows]: [usize; 2], splits: usize) {
        let (rng, elements) = (&mut StdRng::seed_from_u64(4), tokens * rows);
        let (parts, bias) = (integers(rng, splits * elements), integers(rng, rows));
        let on = Emulator::new(Schedule::RoundRobin);
        let words = parts.iter().map(|&part| if T::DTYPE == i8::DTYPE { part as i32 as u32 } else { part.to_bits() });
        let partial = on.upload(&words.collect::<Vec<u32>>()).unwrap();
        let of = |i: usize| (0..splits).map(|split| parts[split * elements + i]).sum::<f32>() + bias[i % rows];
        let expected: Vec<T::Output> = (0..elements).map(|i| T::output(of(i))).collect();
        let at = on.upload(&bias.iter().copied().map(T::output).collect::<Vec<_>>()).unwrap();
        for blocks in [1, 3] {
            let mut y = on.poisoned::<T::Output>(elements);
            let args = SumArgs {
                partial: Input::input(&partial).address,
                y: y.output().address,
                bias: Input::input(&at).address,
                elements: elements as u64,
                rows: rows as u32,
                splits: splits as u32,
            };
            let symbol = Symbol::new("sparse", "sum", &[<T as Factor>::Output::DTYPE.name()]);
            on.launch(&Launch::new(symbol, blocks, 256, &args));
            assert!(crate::number::same::<T>(&y.read(), &expected), "{splits} parts of {elements} on {blocks}");
        }
    }
    crate::number::for_kernel_types!(check([500, 32], 3));
    crate::number::for_kernel_types!(check([91, 11], 2));
    crate::number::for_kernel_types!(check([2, 8], 300));
}
