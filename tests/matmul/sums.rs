//! Long sums under every arithmetic of tensor cores: what they cut off must not add up.

use crate::case::{Case, Routes, Spec};
use crate::common::long::{Long, TERMS, exact};
use crate::common::{Emulator, convert};
use crate::{small, weight};
use rand::SeedableRng;
use rand::rngs::StdRng;
use twofour::mask::{GradientOf, Kind};
use twofour::matmul::{Dense, LogitRoute};
use twofour::{Float, bf16, f16};

/// `[rows, terms]`, or `[terms, rows]`.
fn operand<W: Float>(long: Long, rows: usize, terms: usize, transposed: bool, rng: &mut StdRng) -> Vec<W> {
    let term = |i: usize| if transposed { i / rows } else { i % terms };
    convert(&(0..rows * terms).map(|i| long.factor(term(i), rng)).collect::<Vec<_>>())
}

fn number<W: Float>(value: W) -> f64 {
    value.to_f32().into()
}

/// `G` is a sum over tokens, in tiles.
fn gradient<W: Float + GradientOf<W>>(long: Long, on: &mut Emulator) {
    let (tokens, routes) = (2 * TERMS, Routes { logits: Some(LogitRoute::Panels(Dense::Own)), ..Routes::default() });
    let spec = Spec { routes, ..Spec::new(tokens, 5, 8, Kind::Argmax) };
    let plan = spec.plan::<f32, W>(&on.limits, on.libraries).with_weight_gradient(Dense::Own).unwrap();
    assert_eq!(plan.weight_gradient().splits, 2, "each part is long");
    let rng = &mut StdRng::seed_from_u64(3);
    let mut case = Case::<f32, W>::new(spec);
    (case.dy, case.x) = (operand(long, 5, tokens, true, rng), operand(long, 8, tokens, true, rng));
    let g = weight::run::<f32, W, f32, _>(on, &case, false).1;
    for (i, &g) in g.iter().enumerate() {
        let product = |t: usize| number(case.dy[5 * t + i / 8]) * number(case.x[8 * t + i % 8]);
        let (sum, size) = exact((0..tokens).map(product));
        long.check(g.into(), sum, size, 0.0, &format!("{on:?} {long:?}: g[{i}]"));
    }
}

/// `Y` of few tokens, in two parts of which each is long.
fn parts<W: Float>(long: Long, tokens: usize, on: &mut Emulator) {
    let (rows, cols) = (5, 2 * TERMS);
    let mut case = small::case::<f32, W>(small::split(tokens, rows, cols, small::Mask::Codes, 2));
    let rng = &mut StdRng::seed_from_u64(5);
    (case.weight, case.x) = (operand(long, rows, cols, false, rng), operand(long, tokens, cols, false, rng));
    let (parts, masked) = (small::run(on, &case).parts, case.masked(on));
    assert_eq!(parts.len(), 2 * tokens * rows);
    for (i, &part) in parts.iter().enumerate() {
        let (row, token, first) = (i % rows, i / rows % tokens, i / (rows * tokens) * TERMS);
        let product = |k: usize| number(masked[row * cols + k]) * number(case.x[token * cols + k]);
        let (sum, size) = exact((first..first + TERMS).map(product));
        long.check(part.into(), sum, size, 0.0, &format!("{on:?} {long:?}: y[{token}, {row}]"));
    }
}

#[test]
fn long_sums_in_tiles_are_near_exact() {
    Long::everywhere(gradient::<f16>);
    Long::everywhere(gradient::<bf16>);
}

#[test]
fn long_sums_of_few_tokens_are_near_exact() {
    for tokens in [3, 20] {
        Long::everywhere(|long, on| parts::<f16>(long, tokens, on));
        Long::everywhere(|long, on| parts::<bf16>(long, tokens, on));
    }
}
