//! Offsets that 32 bits do not hold, in every operand of the tiles: matrices of which only the corner is in memory that
//! the last block reads and writes. Numbers are integers, so that what it must write is exact.

use crate::case::{Case, Routes, Spec};
use crate::common::emulator::{Array, Corner, launches};
use crate::common::{Emulator, SMALL};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use twofour::device::Launch;
use twofour::learn::{self, AdamW, Moments};
use twofour::mask::{GradientOf, Kind};
use twofour::matmul::{
    Backward, Dense, Forward, InputRoute, Keep, Layer, LogitRoute, Masks, OutputRoute, Plan, Problem, Step,
};
use twofour::space::Raw;
use twofour::{Float, Libraries, Logit, Pattern, Shape, Shard, bf16, f16};
use twofour_emulator::Schedule;

/// Rows and columns of a tile.
const TILE: usize = 128;

pub(crate) fn on() -> Emulator {
    Emulator::new(Schedule::RoundRobin)
}

/// Runs the last block of a launch as it is.
pub(crate) fn run_last(launch: &Launch) {
    on().launch_last(launch, launch.grid[0] as usize);
}

/// How much of a size the last tile has.
fn last(size: usize) -> usize {
    (size - 1) % TILE + 1
}

pub(crate) fn integers<W: Float>(rng: &mut StdRng, count: usize) -> Vec<W> {
    (0..count).map(|_| W::from_f32(rng.random_range(-1..=1) as f32)).collect()
}

/// Codes of any patterns, and what they keep of weights.
fn masked<W: Float>(rng: &mut StdRng, weight: &[W]) -> (Vec<u8>, Vec<W>) {
    let patterns: Vec<Pattern> = (0..weight.len() / 4).map(|_| Pattern::ALL[rng.random_range(0..6)]).collect();
    let keep = |(i, w): (usize, &W)| if patterns[i / 4].keeps(i % 4) { *w } else { W::from_f32(0.0) };
    (patterns.iter().map(|pattern| pattern.code()).collect(), weight.iter().enumerate().map(keep).collect())
}

/// Sums over what two matrices `[rows, depth]` and `[cols, depth]` have in common.
fn product<W: Float>(a: &[W], b: &[W], depth: usize) -> Vec<f32> {
    let sum = |(a, b): (&[W], &[W])| a.iter().zip(b).map(|(a, b)| a.to_f32() * b.to_f32()).sum::<f32>();
    a.chunks(depth).flat_map(|a| b.chunks(depth).map(move |b| sum((a, b)))).collect()
}

fn transposed<W: Copy>(of: &[W], cols: usize) -> Vec<W> {
    (0..cols).flat_map(|col| of.iter().skip(col).step_by(cols).copied()).collect()
}

fn rounded<W: Float>(values: Vec<f32>) -> Vec<W> {
    values.into_iter().map(W::from_f32).collect()
}

/// `Y` of many tokens, in one part, or the last of several.
fn output<W: Float>([tokens, rows, cols]: [usize; 3], splits: u32, route: OutputRoute) {
    let (rng, problem) = (&mut StdRng::seed_from_u64(1), Problem::new(tokens, Shape::new(rows, cols)));
    let is_made = matches!(route, OutputRoute::Masked(_));
    let keep = if is_made { Keep::Masked } else { Keep::Nothing };
    let plan = Plan::<f32, W>::new(&SMALL, Libraries::NONE, problem, Masks::Frozen, keep).unwrap();
    let plan = plan.with_output(route).unwrap().with_output_splits(splits).unwrap();
    assert_eq!(plan.output().splits, splits);
    // A stage of the last part.
    let (high, wide, deep) = (last(tokens), last(rows), (cols - 1) % 32 + 1);
    let (x, w) = (integers::<W>(rng, high * deep), integers::<W>(rng, wide * deep));
    let (of_corner, kept) = masked(rng, &w);
    let expected = product(&x, &kept, deep);
    let of_weight = Corner { of: [rows, cols], high: wide, wide: deep };
    let (codes, weight, made) = (of_weight.codes(&of_corner), of_weight.array(&w), of_weight.array(&kept));
    let x = Corner { of: [tokens, cols], high, wide: deep }.array(&x);
    let (mut y, mut workspace) = (Array::<W>::reserved(tokens * rows), Array::<u8>::reserved(plan.workspace_bytes()));
    let layer = Layer::<Raw, f32, W>::frozen(problem.shape, &codes, &weight);
    let pass = Forward::new(&plan, &layer, &x, &mut y).workspace(&mut workspace);
    let pass = if is_made { pass.use_masked(&made) } else { pass };
    let all = launches(SMALL, pass).unwrap();
    assert_eq!(all.len(), if splits > 1 { 2 } else { 1 });
    run_last(&all[0]);
    if splits == 1 {
        return assert_eq!(Corner { of: [tokens, rows], high, wide }.read(&y), rounded::<W>(expected));
    }
    let parts = Corner { of: [splits as usize * tokens, 4 * rows], high, wide: 4 * wide }.read(&workspace);
    let parts: Vec<f32> = parts.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect();
    assert_eq!(parts, expected, "the last part");
    // Runs of 16 bytes, of which a thread adds up one; only the last part's sums are not zero.
    on().launch_last(&all[1], (tokens * rows).div_ceil(8 * 256));
    assert_eq!(y.read_end(wide), rounded::<W>(expected[expected.len() - wide..].to_vec()), "the last token");
}

const OUTPUTS: [OutputRoute; 2] = [OutputRoute::Codes, OutputRoute::Masked(Dense::Own)];

#[test]
fn outputs_beyond_32_bits_are_right() {
    for route in OUTPUTS {
        output::<bf16>([1 << 21, 1 << 13, 32], 1, route);
        output::<f16>([1 << 21, (1 << 13) + 4, 32], 1, route);
    }
}

#[test]
fn inputs_and_parts_of_outputs_beyond_32_bits_are_right() {
    for route in OUTPUTS {
        output::<bf16>([1 << 20, 128, 1 << 13], 256, route);
    }
}

/// With rows that begin on 16 bytes, and with such as do not.
#[test]
fn weights_and_codes_beyond_32_bits_are_right() {
    for route in OUTPUTS {
        output::<f16>([136, 1 << 23, 1 << 13], 256, route);
        output::<bf16>([136, 1 << 22, (1 << 13) + 4], 129, route);
    }
}

/// `dX`.
fn input<W: Float>([tokens, rows, cols]: [usize; 3], route: InputRoute) {
    let (rng, problem) = (&mut StdRng::seed_from_u64(2), Problem::new(tokens, Shape::new(rows, cols)));
    let plan = Plan::<f32, W>::new(&SMALL, Libraries::NONE, problem, Masks::Frozen, Keep::Masked).unwrap();
    let plan = plan.with_input_gradient(route).unwrap();
    assert_eq!(plan.input_gradient().splits, 1);
    let (high, wide) = (last(tokens), last(cols));
    let (dy, w) = (integers::<W>(rng, high * rows), integers::<W>(rng, rows * wide));
    let (of_corner, kept) = masked(rng, &w);
    let of_weight = Corner { of: [rows, cols], high: rows, wide };
    let (codes, weight, made) = (of_weight.codes(&of_corner), of_weight.array(&w), of_weight.array(&kept));
    let expected = product(&dy, &transposed(&kept, wide), rows);
    let dy = Corner { of: [tokens, rows], high, wide: rows }.array(&dy);
    let mut dx = Array::<W>::reserved(tokens * cols);
    let layer = Layer::<Raw, f32, W>::frozen(problem.shape, &codes, &weight);
    let pass = Backward::new(&plan, &layer, &dy).use_masked(&made).input_gradient(&mut dx);
    let all = launches(SMALL, pass).unwrap();
    assert_eq!(all.len(), 1);
    run_last(&all[0]);
    assert_eq!(Corner { of: [tokens, cols], high, wide }.read(&dx), rounded::<W>(expected));
}

#[test]
fn input_gradients_beyond_32_bits_are_right() {
    for route in [InputRoute::Codes, InputRoute::Masked(Dense::Own)] {
        input::<bf16>([1 << 27, 64, 128], route);
        input::<f16>([136, 64, 1 << 29], route);
        input::<bf16>([136, 200, (1 << 27) + 4], route);
    }
}

/// `dL/d(W∘M)` in the workspace, from which panels make the logits' gradient.
fn weight_gradient<W: Float>([rows, cols]: [usize; 2]) {
    let (rng, tokens, shape) = (&mut StdRng::seed_from_u64(3), 40, Shape::new(rows, cols));
    let (problem, masks) = (Problem::new(tokens, shape), Masks::Sampled(Kind::Soft));
    let plan = Plan::<f32, W>::new(&SMALL, Libraries::NONE, problem, masks, Keep::Nothing).unwrap();
    let plan = plan.with_panel_rows(rows).with_logit_gradient(LogitRoute::Panels(Dense::Own)).unwrap();
    let (high, wide) = (last(rows), last(cols));
    let (dy, x) = (integers::<W>(rng, tokens * high), integers::<W>(rng, tokens * wide));
    let expected = product(&transposed(&dy, high), &transposed(&x, wide), tokens);
    let dy = Corner { of: [tokens, rows], high: tokens, wide: high }.array(&dy);
    let x = Corner { of: [tokens, cols], high: tokens, wide }.array(&x);
    let (logits, weight) = (Array::<f32>::reserved(shape.logits()), Array::<W>::reserved(shape.weights()));
    let mut logit_gradient = Array::<f32>::reserved(shape.logits());
    let mut workspace = Array::<u8>::reserved(plan.workspace_bytes());
    let layer = Layer::<Raw, f32, W>::sampled(shape, Kind::Soft, crate::launches::SAMPLING, &logits, &weight);
    let pass = Backward::new(&plan, &layer, &dy).logit_gradient(&x, &mut logit_gradient).workspace(&mut workspace);
    run_last(&launches(SMALL, pass).unwrap()[0]);
    let bytes = Corner { of: [rows, 4 * cols], high, wide: 4 * wide }.read(&workspace);
    let got: Vec<f32> = bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect();
    assert_eq!(got, expected);
}

#[test]
fn weight_gradients_beyond_32_bits_are_right() {
    weight_gradient::<bf16>([1 << 28, 128]);
    weight_gradient::<f16>([128, 1 << 29]);
    weight_gradient::<bf16>([72, (1 << 28) + 4]);
}

/// The same as an output of the weight's own type.
fn rounded_weight_gradient<W: Float + GradientOf<W>>([rows, cols]: [usize; 2]) {
    let (rng, tokens, shape) = (&mut StdRng::seed_from_u64(4), 40, Shape::new(rows, cols));
    let problem = Problem::new(tokens, shape);
    let plan = Plan::<f32, W>::new(&SMALL, Libraries::NONE, problem, Masks::Frozen, Keep::Nothing).unwrap();
    let (plan, high, wide) = (plan.with_weight_gradient(Dense::Own).unwrap(), last(rows), last(cols));
    let (dy, x) = (integers::<W>(rng, tokens * high), integers::<W>(rng, tokens * wide));
    let expected = product(&transposed(&dy, high), &transposed(&x, wide), tokens);
    let dy = Corner { of: [tokens, rows], high: tokens, wide: high }.array(&dy);
    let x = Corner { of: [tokens, cols], high: tokens, wide }.array(&x);
    let (codes, weight) = (Array::<u8>::reserved(shape.packed_codes()), Array::<W>::reserved(shape.weights()));
    let mut gradient = Array::<W>::reserved(shape.weights());
    let mut workspace = Array::<u8>::reserved(plan.workspace_bytes());
    let layer = Layer::<Raw, f32, W>::frozen(shape, &codes, &weight);
    let pass = Backward::new(&plan, &layer, &dy).weight_gradient::<W>(&x, &mut gradient).workspace(&mut workspace);
    run_last(&launches(SMALL, pass).unwrap()[0]);
    assert_eq!(Corner { of: [rows, cols], high, wide }.read(&gradient), rounded::<W>(expected));
}

#[test]
fn rounded_weight_gradients_beyond_32_bits_are_right() {
    rounded_weight_gradient::<bf16>([1 << 28, 128]);
    rounded_weight_gradient::<f16>([128, 1 << 29]);
    rounded_weight_gradient::<f16>([72, (1 << 28) + 4]);
}

/// The gradient of the logits in one pass, with the bits of the same groups as a slice that begins at nothing.
fn fused<L: Logit, W: Float>([rows, cols]: [usize; 2], kind: Kind, accumulate: bool) {
    let (tokens, shape) = (40, Shape::new(rows, cols));
    let (high, wide) = (last(rows), last(cols));
    let routes = Routes { logits: Some(LogitRoute::Fused), ..Routes::default() };
    let spec = Spec { accumulate, routes, wants: [false, false, true], ..Spec::new(tokens, high, wide, kind) };
    let mut case = Case::<L, W>::new(spec);
    let [above, before] = [rows - high, cols - wide].map(|size| size as u64);
    case.shard = Shard { row_offset: above, col_offset: before, global_cols: cols as u64 };
    let expected = case.run(&mut on()).logit_gradient;

    let dy = Corner { of: [tokens, rows], high: tokens, wide: high }.array(&case.dy);
    let x = Corner { of: [tokens, cols], high: tokens, wide }.array(&case.x);
    let weight = Corner { of: [rows, cols], high, wide }.array(&case.weight);
    let of_logits = Corner { of: [rows, cols / 4 * 6], high, wide: wide / 4 * 6 };
    let logits = of_logits.array(&case.logits);
    let mut logit_gradient = Array::reserved(shape.logits());
    if accumulate {
        of_logits.write(&logit_gradient, &case.before);
    }
    let (problem, masks) = (Problem::new(tokens, shape), Masks::Sampled(kind));
    let plan = Plan::<L, W>::new(&SMALL, Libraries::NONE, problem, masks, Keep::Nothing).unwrap();
    let plan = plan.with_logit_gradient(LogitRoute::Fused).unwrap();
    let layer = Layer::<Raw, L, W>::sampled(shape, kind, spec.sampling, &logits, &weight);
    let pass = Backward::new(&plan, &layer, &dy).regulariser(spec.regulariser);
    let all = launches(
        SMALL,
        match accumulate {
            true => pass.accumulate_logit_gradient(&x, &mut logit_gradient),
            false => pass.logit_gradient(&x, &mut logit_gradient),
        },
    );
    run_last(&all.unwrap()[0]);
    assert_eq!(of_logits.read(&logit_gradient), expected, "{rows} x {cols} {kind:?}");
}

#[test]
fn logit_gradients_beyond_32_bits_are_right() {
    for (kind, accumulate) in [(Kind::Soft, false), (Kind::Hard, true)] {
        fused::<f32, bf16>([1 << 28, 128], kind, accumulate);
        fused::<f32, f16>([1 << 28, 128], kind, accumulate);
        fused::<bf16, bf16>([1 << 28, 128], kind, accumulate);
        fused::<bf16, f16>([1 << 28, 128], kind, accumulate);
    }
    fused::<f32, f16>([128, 1 << 29], Kind::Hard, false);
    fused::<bf16, bf16>([128, 1 << 29], Kind::Soft, true);
    // Rows that are not whole chunks.
    fused::<bf16, bf16>([1 << 28, 132], Kind::Soft, true);
}

/// The step in one pass: logits and moments of the corner have the bits of a slice that is the corner alone.
fn stepped<L: Logit, W: Float>(of: [usize; 2], kind: Kind) {
    let (tokens, [high, wide]) = (40, of.map(last));
    let spec = Spec::new(tokens, high, wide, kind);
    let case = Case::<L, W>::new(spec);
    let run = |[rows, cols]: [usize; 2]| {
        let shape = Shape::new(rows, cols);
        let dy = Corner { of: [tokens, rows], high: tokens, wide: high }.array(&case.dy);
        let x = Corner { of: [tokens, cols], high: tokens, wide }.array(&case.x);
        let weight = Corner { of: [rows, cols], high, wide }.array(&case.weight);
        let of_logits = Corner { of: [rows, cols / 4 * 6], high, wide: wide / 4 * 6 };
        let mut logits = of_logits.array(&case.logits);
        let [mut m, mut v] = [(); 2].map(|()| Array::<f32>::reserved(shape.logits()));
        let (problem, masks) = (Problem::new(tokens, shape), Masks::Sampled(kind));
        let plan = Plan::<L, W>::new(&SMALL, Libraries::NONE, problem, masks, Keep::Nothing).unwrap();
        let plan = plan.with_step(LogitRoute::Fused).unwrap();
        let mut workspace = Array::<u8>::reserved(plan.workspace_bytes());
        let adamw = AdamW { rate: 0.01, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, decay: 0.1, step: 3 };
        let by = learn::Step::new(adamw, Moments::f32(&mut m, &mut v));
        let [above, before] = [of[0] - rows, of[1] - cols].map(|size| size as u64);
        let shard = Shard { row_offset: above, col_offset: before, global_cols: of[1] as u64 };
        let pass =
            Step::new(&plan, spec.sampling, &mut logits, &weight, &dy, &x, by).shard(shard).workspace(&mut workspace);
        run_last(&launches(SMALL, pass).unwrap()[0]);
        (of_logits.read(&logits), of_logits.read(&m), of_logits.read(&v))
    };
    let (near, far) = (run([high, wide]), run(of));
    assert!(near.1.iter().any(|&m| m != 0.0) && near.2.iter().any(|&v| v != 0.0));
    assert_eq!(near, far, "{of:?} {kind:?}");
}

#[test]
fn steps_beyond_32_bits_are_right() {
    for kind in [Kind::Soft, Kind::Hard] {
        stepped::<f32, bf16>([1 << 28, 128], kind);
        stepped::<f32, f16>([128, 1 << 29], kind);
        stepped::<bf16, bf16>([128, 1 << 29], kind);
        stepped::<bf16, f16>([1 << 28, 128], kind);
    }
}
