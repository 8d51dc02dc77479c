//! The noise: Philox' published answers, the table over its whole domain, the same bits on every executor, and the
//! distribution at fixed seeds. Each statistical test states the chance of failing for a perfect generator; the seeds
//! are fixed, so that it passes always or never.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Emulator, TestExecutor};
use std::collections::BTreeSet;
use twofour::device::{Launch, Symbol};
use twofour::space::Output;
use twofour::{Shape, Shard, noise};
use twofour_emulator::Schedule;

const FIELDS: u32 = 1 << 21;

/// Known answers of Philox4x32-10 from the authors' Random123 (`kat_vectors`): counter, key, result.
#[test]
fn philox_gives_the_published_answers() {
    let known: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
        ([0; 4], [0; 2], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]),
        ([u32::MAX; 4], [u32::MAX; 2], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]),
        (
            [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
            [0xa4093822, 0x299f31d0],
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
        ),
    ];
    for (counter, key, result) in known {
        let seed = u64::from(key[0]) | u64::from(key[1]) << 32;
        assert_eq!(noise::philox(&noise::round_keys(seed), counter), result);
    }
}

/// The exact variate of a field, with care where `1 − u` would round.
fn exact(k: u32) -> f64 {
    let u = (f64::from(k) + 0.5) * 2f64.powi(-21);
    let log = if u > 0.5 { (-(1.0 - u)).ln_1p() } else { u.ln() };
    -(-log).ln()
}

#[test]
fn uniforms_are_exact_and_inside_the_unit_interval() {
    for k in 0..FIELDS {
        let u = noise::uniform(k);
        assert_eq!(f64::from(u), (f64::from(k) + 0.5) * 2f64.powi(-21));
        assert!(u > 0.0 && u < 1.0);
    }
}

#[test]
fn the_table_is_right_everywhere() {
    let (mut worst, mut mean, mut square, mut exact_mean, mut exact_square) = (0.0f64, 0.0, 0.0, 0.0, 0.0);
    for k in 0..FIELDS {
        let (g, truth) = (f64::from(noise::gumbel(k)), exact(k));
        worst = worst.max((g - truth).abs());
        (mean, square) = (mean + g, square + g * g);
        (exact_mean, exact_square) = (exact_mean + truth, exact_square + truth * truth);
    }
    let count = f64::from(FIELDS);
    let mean = mean / count;
    let variance = square / count - mean * mean;
    println!("largest error {worst:.3e}, mean {mean:.7}, variance {variance:.7}");
    assert!(worst < 1.53e-5, "{worst:e}");
    // Euler's constant and π²/6: what a Gumbel variate has.
    assert!((mean - 0.577_215_664_9).abs() < 1e-6, "mean {mean}");
    assert!((variance - std::f64::consts::PI.powi(2) / 6.0).abs() < 3e-6, "variance {variance}");
}

/// Larger fields give larger variates, but for the table's error where two lines meet.
#[test]
fn the_table_rises() {
    let mut last = f32::NEG_INFINITY;
    for k in 0..FIELDS {
        let g = noise::gumbel(k);
        assert!(g > last - 3.1e-5, "at {k}: {g} after {last}");
        last = last.max(g);
    }
}

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct TableArgs {
    out: u64,
    first: u64,
    count: u64,
}

#[test]
fn the_emulated_table_has_the_same_bits_everywhere() {
    let emulator = Emulator { workers: 0, ..Emulator::new(Schedule::RoundRobin) };
    let mut out = emulator.poisoned::<f32>(FIELDS as usize);
    let args = TableArgs { out: out.output().address, first: 0, count: u64::from(FIELDS) };
    emulator.launch(&launch("table", 64, &args));
    for (k, g) in (0..FIELDS).zip(out.read()) {
        assert_eq!(g.to_bits(), noise::gumbel(k).to_bits(), "field {k}");
    }
}

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct GumbelsArgs {
    out: u64,
    first: u64,
    groups: u64,
    round_keys: [u32; 20],
    draw: u64,
    one_and_half_step: u32,
    unused: u32,
}

#[test]
fn emulated_groups_have_the_same_bits() {
    for (seed, draw, first) in
        [(0, 0, 0), (1, 2, 3), (u64::MAX, u64::MAX, (1 << 61) - 7), (7, 1 << 40, u64::from(u32::MAX) - 9)]
    {
        let groups = 1500usize;
        let emulator = Emulator::new(Schedule::Solo(draw));
        let mut out = emulator.poisoned::<f32>(6 * groups);
        let args = GumbelsArgs {
            out: out.output().address,
            first,
            groups: groups as u64,
            round_keys: noise::round_keys(seed),
            draw,
            one_and_half_step: 0x3f80_0002,
            unused: 0,
        };
        emulator.launch(&launch("gumbels", 2, &args));
        for (i, got) in out.read().chunks_exact(6).enumerate() {
            let expected = noise::gumbels(seed, draw, first + i as u64);
            assert_eq!(got, expected, "group {} of {first}", i);
        }
    }
}

fn launch<A: bytemuck::Pod>(variant: &str, blocks: u32, args: &A) -> Launch {
    Launch::new(Symbol::new("noise", variant, &[]), blocks, 256, args)
}

// ---- distribution ---------------------------------------------------------------------------------------------------

/// The deviation of a chi-square statistic from its mean, in standard deviations (Wilson and Hilferty's cube root).
fn chi_square_sigmas(observed: &[u64], expected: &[f64]) -> f64 {
    let statistic: f64 = observed.iter().zip(expected).map(|(&o, &e)| (o as f64 - e).powi(2) / e).sum();
    let freedom = observed.len() as f64 - 1.0;
    let spread = 2.0 / (9.0 * freedom);
    ((statistic / freedom).cbrt() - (1.0 - spread)) / spread.sqrt()
}

const SEEDS: [u64; 3] = [1, 0x0123_4567_89ab_cdef, u64::MAX];
/// A two-sided 5σ test fails a perfect generator with a chance of 6e-7.
const SIGMAS: f64 = 5.0;

#[test]
fn every_field_is_uniform() {
    const GROUPS: u64 = 1 << 20;
    for seed in SEEDS {
        for field in 0..6 {
            // High bits and low bits: a field's top and bottom ten.
            let (mut high, mut low) = (vec![0u64; 1024], vec![0u64; 1024]);
            for group in 0..GROUPS {
                let k = noise::fields(seed, 3, group)[field];
                high[(k >> 11) as usize] += 1;
                low[(k & 1023) as usize] += 1;
            }
            for counts in [high, low] {
                let sigmas = chi_square_sigmas(&counts, &[GROUPS as f64 / 1024.0; 1024]);
                assert!(sigmas.abs() < SIGMAS, "seed {seed}, field {field}: {sigmas}");
            }
        }
    }
}

/// Counts pairs of five-bit values in a 32 x 32 table.
fn pairs_are_independent(what: &str, pairs: impl Iterator<Item = (u32, u32)>) {
    let mut counts = vec![0u64; 1024];
    let mut total = 0.0;
    for (a, b) in pairs {
        counts[((a >> 16) << 5 | b >> 16) as usize] += 1;
        total += 1.0;
    }
    let sigmas = chi_square_sigmas(&counts, &[total / 1024.0; 1024]);
    assert!(sigmas.abs() < SIGMAS, "{what}: {sigmas}");
}

#[test]
fn fields_groups_draws_and_seeds_are_independent() {
    const GROUPS: u64 = 1 << 17;
    for seed in SEEDS {
        for a in 0..6 {
            for b in 0..a {
                let pair = |group| {
                    let k = noise::fields(seed, 9, group);
                    (k[a], k[b])
                };
                pairs_are_independent(&format!("fields {a} and {b}"), (0..GROUPS).map(pair));
            }
            let of = |seed, draw, group| noise::fields(seed, draw, group)[a];
            pairs_are_independent("groups", (0..GROUPS).map(|g| (of(seed, 1, g), of(seed, 1, g + 1))));
            pairs_are_independent("far groups", (0..GROUPS).map(|g| (of(seed, 1, g), of(seed, 1, g + (1 << 32)))));
            pairs_are_independent("draws", (0..GROUPS).map(|g| (of(seed, 5, g), of(seed, 6, g))));
            pairs_are_independent("layers", (0..GROUPS).map(|g| (of(seed, 5, g), of(seed, 5 | 1 << 48, g))));
            pairs_are_independent("seeds", (0..GROUPS).map(|g| (of(seed, 5, g), of(seed ^ 1, 5, g))));
        }
    }
}

#[test]
fn moments_are_those_of_a_gumbel_variate() {
    const GROUPS: u64 = 1 << 20;
    for seed in SEEDS {
        let (mut sum, mut square) = (0.0, 0.0);
        for group in 0..GROUPS {
            for g in noise::gumbels(seed, 11, group) {
                sum += f64::from(g);
                square += f64::from(g).powi(2);
            }
        }
        let count = 6.0 * GROUPS as f64;
        let (mean, variance) = (sum / count, square / count - (sum / count).powi(2));
        let truth = std::f64::consts::PI.powi(2) / 6.0;
        // Standard errors: σ/√n of the mean, and of the variance with the Gumbel kurtosis 5.4.
        assert!((mean - 0.577_215_664_9).abs() < SIGMAS * (truth / count).sqrt(), "seed {seed}: mean {mean}");
        assert!((variance - truth).abs() < SIGMAS * truth * (4.4 / count).sqrt(), "seed {seed}: variance {variance}");
    }
}

/// A hard choice falls on a pattern with the probability that softmax gives it (the Gumbel-max identity).
#[test]
fn choices_follow_the_softmax() {
    const GROUPS: u64 = 1 << 20;
    let cases =
        [([0.0f32; 6], 1.0f32), ([0.0, 1.0, 2.0, -1.0, 0.5, -2.0], 1.0), ([0.03, -0.03, 0.0, 0.01, 0.0, -0.01], 100.0)];
    for (logits, kappa) in cases {
        let weights = logits.map(|l| f64::from(kappa * l).exp());
        let total: f64 = weights.iter().sum();
        for seed in SEEDS {
            let mut counts = [0u64; 6];
            for group in 0..GROUPS {
                let noise = noise::gumbels(seed, 17, group);
                let z: [f32; 6] = std::array::from_fn(|i| kappa.mul_add(logits[i], noise[i]));
                let best = (0..6).fold(0, |best, i| if z[i] > z[best] { i } else { best });
                counts[best] += 1;
            }
            let sigmas = chi_square_sigmas(&counts, &weights.map(|w| w / total * GROUPS as f64));
            assert!(sigmas < SIGMAS, "{logits:?} at seed {seed}: {sigmas}, {counts:?}");
        }
    }
}

#[test]
fn a_draw_is_made_of_layer_step_and_micro_batch() {
    assert_eq!(noise::draw(0x1234, 0x5678_9abc, 0xdef0), 0x1234_5678_9abc_def0);
    assert_eq!(noise::draw(0xffff, u32::MAX, u16::MAX), u64::MAX);
    // Beyond sixteen bits of layer, from the step's highest bit down.
    assert_eq!(noise::draw(0x1_0000, 1, 2), 0x8000_0000 << 16 | 1 << 16 | 2);
    assert_eq!(noise::draw(0x6_1234, 0, 0), 0x1234_6000_0000_0000);
}

/// For every split of the bits, all corners of the ranges have draws of their own.
#[test]
fn draws_of_a_run_are_distinct() {
    assert_eq!(
        [0, 0xffff, 0x1_0000, 0xf_ffff, u32::MAX].map(noise::steps),
        [1 << 32, 1 << 32, 1 << 31, 1 << 28, 1 << 16]
    );
    for k in 0..=16_u32 {
        let (layers, steps) = (1_u64 << (16 + k), 1_u64 << (32 - k));
        assert_eq!(noise::steps((layers - 1) as u32), steps);
        let corners = |count: u64| {
            let powers = (0..count.ilog2()).flat_map(|bit| [1 << bit, (1 << bit) - 1, count - 1 - (1 << bit)]);
            powers.chain([0, count - 1]).map(|value| value as u32).collect::<BTreeSet<_>>()
        };
        let micro_batches = [0, 1, 0x8000, u16::MAX];
        let mut seen = BTreeSet::new();
        for (layer, step) in
            corners(layers).into_iter().flat_map(|layer| corners(steps).into_iter().map(move |step| (layer, step)))
        {
            for micro_batch in micro_batches {
                assert!(seen.insert(noise::draw(layer, step, micro_batch)), "{layer} {step} {micro_batch}");
            }
        }
    }
}

#[test]
fn shards_number_groups_as_the_whole_does() {
    let whole = Shard::whole(40);
    let part = Shard { row_offset: 3, col_offset: 12, global_cols: 40 };
    assert_eq!(part.group(2, 1), whole.group(5, 4));
    assert!(part.check(7, 28).is_ok());
    assert!(part.check(7, 32).is_err());
    assert!(Shard { col_offset: 2, ..part }.check(1, 4).is_err());
    assert!(Shard { row_offset: u64::MAX, ..part }.check(1, 4).is_err());
    assert!(Shape::new(1, 6).check().is_err());
    assert!(Shape::new(usize::MAX, 8).check().is_err());
}
