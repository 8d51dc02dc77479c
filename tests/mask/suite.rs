//! One property suite: random passes against the oracle, on every executor.

use crate::case::{BackwardCase, ForwardCase, Forwarded, Wants, frozen};
use crate::common::data::{Pass, normal, passes};
use crate::common::runs::each_kernel_has_met_many;
use crate::common::{Counts, TestExecutor, convert, for_all, rounding, same};
use crate::oracle::{self, CODE, Group, KEPT};
use proptest::strategy::Strategy;
use rand::Rng;
use twofour::mask::{GradientOf, Kind};
use twofour::{Float, Logit, Pattern, bf16, f16};

fn forward_case<L: Logit, W: Float>(pass: &Pass) -> ForwardCase<L, W> {
    let mut rng = pass.rng();
    let mut case =
        ForwardCase::new(pass.shape, pass.kind, pass.sampling, &pass.logits(&mut rng), &pass.weights(&mut rng));
    case.shard = pass.shard;
    // Which outputs are wanted varies, for it chooses the kernel.
    match rng.random_range(0..4) {
        0 => case.wants = Wants::MASKED,
        1 => {
            case.weight = None;
            case.wants = Wants { masked: false, ..Wants::ALL };
        }
        2 => {
            case.wants =
                Wants { masked: rng.random(), mask: rng.random(), patterns: true, codes: true, statistics: false }
        }
        _ => {
            let code = |_| CODE[rng.random_range(0..6)] | CODE[rng.random_range(0..6)] << 4;
            case.previous_codes = Some((0..case.shape.packed_codes()).map(code).collect());
        }
    }
    case
}

fn check_forward<L: Logit, W: Float>(on: &mut impl TestExecutor, pass: &Pass) {
    let case = forward_case::<L, W>(pass);
    compare_forward(&case, &case.run(on));
}

/// Compares every output that was wanted with the oracle: choices to the bit, soft values within their error.
pub(crate) fn compare_forward<L: Logit, W: Float>(case: &ForwardCase<L, W>, got: &Forwarded<W>) {
    let groups = oracle::groups(case);
    for (g, group) in groups.iter().enumerate() {
        for j in 0..4 {
            let at = 4 * g + j;
            let of_mask = group.mask(case.kind)[j];
            let slack = if case.kind == Kind::Soft { group.mask_error(j) } else { 0.0 };
            if let Some(mask) = &got.mask {
                close(mask[at], of_mask, slack, &format!("mask {g}.{j}"));
            }
            if let (Some(masked), Some(weight)) = (&got.masked, &case.weight) {
                let w = f64::from(weight[at].to_f32());
                let expected = group.masked(case.kind, j, w);
                if case.kind != Kind::Soft && group.chosen.is_some() {
                    let kept = of_mask == 1.0;
                    assert!(same(masked[at], if kept { weight[at] } else { W::from_f32(0.0) }), "masked {g}.{j}");
                } else if w.is_finite() {
                    close(masked[at], expected, w.abs() * (slack + 2f64.powi(-125)), &format!("masked {g}.{j}"));
                }
            }
        }
        let code = group.chosen.map_or(Pattern::POISON_CODE, |chosen| CODE[chosen]);
        if let Some(patterns) = &got.patterns {
            assert_eq!(patterns[g], group.chosen.map_or(Pattern::POISON, |chosen| chosen as u8), "pattern of {g}");
        }
        if let Some(codes) = &got.codes {
            assert_eq!(codes[g / 2] >> (4 * (g % 2)) & 15, code, "code of {g}");
        }
    }
    if let (Some(codes), 1) = (&got.codes, groups.len() % 2) {
        assert_eq!(codes.last().unwrap() >> 4, 0, "the last byte's unused half");
    }
    compare_statistics(case, got, &groups);
}

/// A value against the oracle's, within the value's own rounding and `slack`.
fn close<T: Float>(got: T, expected: f64, slack: f64, what: &str) {
    let got = f64::from(got.to_f32());
    if expected.is_nan() {
        assert!(got.is_nan(), "{what}: {got} for NaN");
        return;
    }
    let overflow = f64::from(T::from_f32(f32::MAX).to_f32());
    if got.is_infinite() && !overflow.is_finite() {
        assert!(expected.abs() > 65_500.0, "{what}: {got} for {expected}");
        return;
    }
    // What lies below the smallest normal f32 may be flushed.
    let error = slack + rounding::<T>(expected) + 2f64.powi(-125);
    assert!((got - expected).abs() <= error, "{what}: {got} for {expected}, off by {:e} of {error:e}", got - expected);
}

fn compare_statistics<L: Logit, W: Float>(case: &ForwardCase<L, W>, got: &Forwarded<W>, groups: &[oracle::Group]) {
    let Some(statistics) = got.statistics else { return };
    assert_eq!(statistics.groups, groups.len() as u64);
    let code = |group: &oracle::Group| group.chosen.map_or(Pattern::POISON_CODE, |chosen| CODE[chosen]);
    let moved = case.previous_codes.as_ref().map_or(0, |codes| {
        groups.iter().enumerate().filter(|(g, group)| codes[g / 2] >> (4 * (g % 2)) & 15 != code(group)).count()
    });
    assert_eq!(statistics.moved, moved as u64);
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    let confidence = mean(groups.iter().map(|group| group.y.iter().copied().fold(f64::NAN, f64::max)).collect());
    if confidence.is_nan() {
        assert!(statistics.confidence.is_nan(), "confidence {} for NaN", statistics.confidence);
    } else {
        assert!((statistics.confidence - confidence).abs() < 1e-5, "{} for {confidence}", statistics.confidence);
    }
    let Some(weight) = &case.weight else { return assert_eq!(statistics.kept_energy, 0.0) };
    let square = |(at, w): (usize, &W)| groups[at / 4].masked(case.kind, at % 4, f64::from(w.to_f32())).powi(2);
    let energy: f64 = weight.iter().enumerate().map(square).sum();
    if energy.is_finite() && energy < 1e37 {
        let error = (statistics.kept_energy - energy).abs();
        assert!(error <= 1e-4 * energy + 1e-30, "kept energy {} for {energy}", statistics.kept_energy);
    }
}

fn forward_of_types(on: &mut impl TestExecutor, pass: &Pass) {
    match pass.types {
        0 => check_forward::<f32, f32>(on, pass),
        1 => check_forward::<f32, f16>(on, pass),
        2 => check_forward::<f32, bf16>(on, pass),
        3 => check_forward::<bf16, f32>(on, pass),
        4 => check_forward::<bf16, f16>(on, pass),
        _ => check_forward::<bf16, bf16>(on, pass),
    }
}

fn backward_case<L: Logit, W: Float, G: GradientOf<W>>(pass: &Pass) -> BackwardCase<L, W, G> {
    let mut rng = pass.rng();
    let regulariser = [0.0, 1e-5, 0.3][rng.random_range(0..3)];
    let before = rng.random::<bool>().then(|| normal(&mut rng, pass.shape.logits(), 1.0, &[]));
    BackwardCase {
        shape: pass.shape,
        shard: pass.shard,
        kind: if pass.kind == Kind::Argmax { Kind::Soft } else { pass.kind },
        sampling: pass.sampling,
        logits: convert(&pass.logits(&mut rng)),
        weight: convert(&normal(&mut rng, pass.shape.weights(), 0.5, &[])),
        gradient: convert(&normal(&mut rng, pass.shape.weights(), 0.1, &[])),
        regulariser,
        before,
    }
}

fn check_backward<L: Logit, W: Float, G: GradientOf<W>>(on: &mut impl TestExecutor, pass: &Pass) {
    let case = backward_case::<L, W, G>(pass);
    let got = case.run(on);
    let expected = oracle::logit_gradients(&case);
    for (g, group) in expected.iter().enumerate() {
        let (mut sum, mut slack) = (0.0, 0.0);
        for (i, expected) in group.iter().enumerate() {
            let at = 6 * g + i;
            let before = f64::from(case.before.as_ref().map_or(0.0, |before| before[at]));
            let value = f64::from(got.logit_gradient[at]);
            if expected.value.is_nan() {
                assert!(value.is_nan(), "gradient {g}.{i}: {value} for NaN");
                continue;
            }
            let error = expected.error + rounding::<f32>(expected.value + before) + rounding::<f32>(expected.value);
            let off = value - (expected.value + before);
            assert!(off.abs() <= error, "gradient {g}.{i}: {value} for {} + {before}, off {off:e}", expected.value);
            sum += value - before;
            slack += error;
        }
        assert!(sum.abs() <= slack || sum.is_nan(), "the gradients of group {g} sum to {sum:e}");
    }
    // The gradient of the weight is the gradient masked as a weight is.
    let masked = ForwardCase {
        shape: case.shape,
        shard: case.shard,
        kind: case.kind,
        sampling: case.sampling,
        logits: case.logits.clone(),
        weight: Some(case.gradient.clone()),
        previous_codes: None,
        wants: Wants::MASKED,
    };
    for (g, group) in oracle::groups_by(&masked, Group::backward).iter().enumerate() {
        for j in 0..4 {
            let (got, of_masked) = (got.weight_gradient[4 * g + j], case.gradient[4 * g + j]);
            let expected = group.masked(case.kind, j, f64::from(of_masked.to_f32()));
            let slack = if case.kind == Kind::Soft { group.mask_error(j) } else { 0.0 };
            let slack = f64::from(of_masked.to_f32()).abs() * (slack + 2f64.powi(-125));
            close(got, expected, slack, &format!("weight gradient {g}.{j}"));
        }
    }
}

fn backward_of_types(on: &mut impl TestExecutor, pass: &Pass) {
    match pass.types {
        0 => check_backward::<f32, f32, f32>(on, pass),
        1 => check_backward::<f32, f16, f16>(on, pass),
        2 => check_backward::<f32, bf16, bf16>(on, pass),
        3 => check_backward::<f32, f16, f32>(on, pass),
        4 => check_backward::<f32, bf16, f32>(on, pass),
        5 => check_backward::<bf16, f32, f32>(on, pass),
        6 => check_backward::<bf16, f16, f16>(on, pass),
        7 => check_backward::<bf16, bf16, bf16>(on, pass),
        8 => check_backward::<bf16, f16, f32>(on, pass),
        _ => check_backward::<bf16, bf16, f32>(on, pass),
    }
}

#[test]
fn forward() {
    for_all!(forward_of_types, Counts { cpu: 600, emulator: 500, gpu: 500 }, passes(6));
}

#[test]
fn backward() {
    for_all!(backward_of_types, Counts { cpu: 600, emulator: 500, gpu: 500 }, passes(10));
}

/// Codes, most of them legal, on weights: selection to the bit.
fn frozen_holds<W: Float>(on: &mut impl TestExecutor, pass: &Pass) {
    let mut rng = pass.rng();
    let legal = rng.random_range(0..16);
    let mut nibble =
        || if rng.random_range(0..16) < legal { CODE[rng.random_range(0..6)] } else { rng.random_range(0..16) };
    let codes: Vec<u8> = (0..pass.shape.packed_codes()).map(|_| nibble() | nibble() << 4).collect();
    let weight: Vec<W> = convert(&pass.weights(&mut rng));
    let masked = frozen(on, pass.shape, &codes, &weight);
    for (at, (got, w)) in masked.iter().zip(&weight).enumerate() {
        let (group, position) = (at / 4, at % 4);
        let code = codes[group / 2] >> (4 * (group % 2)) & 15;
        let expected = match CODE.iter().position(|&legal| legal == code) {
            Some(pattern) if KEPT[pattern].contains(&position) => *w,
            Some(_) => W::from_f32(0.0),
            None => W::from_f32(f32::NAN),
        };
        assert!(same(*got, expected), "{on:?}: {got:?} for {expected:?} at {at}, code {code:x}");
    }
}

fn frozen_of_types(on: &mut impl TestExecutor, pass: &Pass) {
    match pass.types {
        0 => frozen_holds::<f32>(on, pass),
        1 => frozen_holds::<f16>(on, pass),
        _ => frozen_holds::<bf16>(on, pass),
    }
}

/// The kernels of frozen masks meet as many problems as they did when they were those of `matmul`.
#[test]
fn codes() {
    for types in 0..3 {
        let of_type = passes(1).prop_map(move |pass| Pass { types, ..pass });
        for_all!(frozen_of_types, Counts { cpu: 200, emulator: 1000, gpu: 170 }, of_type);
    }
    each_kernel_has_met_many("twofour_mask_frozen_", 3);
}
