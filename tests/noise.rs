//! The noise: Philox' published answers, the table over its whole domain, the same bits on every executor, and the
//! distribution at fixed seeds. Each statistical test states the chance of failing for a perfect generator; the seeds
//! are fixed, so that it passes always or never.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::emulator::Array;
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

/// What the definition says in `src/noise.rs`, in other words: Philox as its authors have it, with a key that moves on
/// from round to round, and fields taken bit by bit from a number of 64 bits turned right by two.
fn defined(seed: u64, draw: u64, group: u64) -> [u32; 6] {
    let halves = |x: u64| [x % (1 << 32), x >> 32];
    let ([a, b], [c, d], mut key) = (halves(group), halves(draw), halves(seed));
    let mut x = [a, b, c, d];
    for _ in 0..10 {
        let ([low, high], [low_2, high_2]) = (halves(0xd251_1f53 * x[0]), halves(0xcd9e_8d57 * x[2]));
        x = [high_2 ^ x[1] ^ key[0], low_2, high ^ x[3] ^ key[1], low];
        key = [(key[0] + 0x9e37_79b9) % (1 << 32), (key[1] + 0xbb67_ae85) % (1 << 32)];
    }
    std::array::from_fn(|i| {
        let number = x[i / 3 * 2] | x[i / 3 * 2 + 1] << 32;
        let bit = |at: usize| (number >> ((at + 2) % 64) & 1) as u32;
        (0..21).map(|at| bit(21 * (i % 3) + at) << at).sum()
    })
}

/// Seed, draw, group, and the six fields: the published answers, cut by hand.
const CUT: [(u64, u64, u64, [u32; 6]); 3] = [
    (0, 0, 0, [0x9fa35, 0xb1acc, 0x1e169c, 0x15eb13, 0x17b178, 0x9b00d]),
    (u64::MAX, u64::MAX, u64::MAX, [0x3c9db, 0x161c81, 0x141c83, 0x2f1f1, 0x3fb44, 0x6d545]),
    (
        0x299f_31d0_a409_3822,
        0x0370_7344_1319_8a2e,
        0x85a3_08d3_243f_6a88,
        [0x1b3f82, 0x19d7a2, 0x194fdc, 0x7908, 0x1d42a0, 0x24126],
    ),
];

#[test]
fn fields_are_the_published_answers_cut_by_hand() {
    for (seed, draw, group, fields) in CUT {
        assert_eq!(noise::fields(seed, draw, group), fields);
        assert_eq!(defined(seed, draw, group), fields);
        for (got, k) in noise::gumbels(seed, draw, group).into_iter().zip(fields) {
            assert_eq!(got.to_bits(), noise::gumbel(k).to_bits());
        }
    }
}

/// Where a word of the counter or of the key overflows into the next, and where it ends.
#[test]
fn fields_are_their_definition_at_every_end() {
    let ends = [0, 1, 2, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 32) + 1, (1 << 63) + 5, u64::MAX];
    for seed in ends {
        for (draw, group) in ends.into_iter().flat_map(|draw| ends.map(|group| (draw, group))) {
            assert_eq!(noise::fields(seed, draw, group), defined(seed, draw, group), "{seed} {draw} {group}");
        }
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

/// The bits of all variates are a promise: FNV-1a of 64 bits over them, lowest byte first; and the ends, and both sides
/// of the middle, where a segment or a side ends.
#[test]
fn the_tables_bits_are_fixed() {
    let bytes = (0..FIELDS).flat_map(|k| noise::gumbel(k).to_bits().to_le_bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let some = [0, 1, FIELDS / 2 - 1, FIELDS / 2, FIELDS - 2, FIELDS - 1].map(|k| noise::gumbel(k).to_bits());
    const SOME: [u32; 6] = [0xc02e_5eb1, 0xc029_95a6, 0x3ebb_a72d, 0x3ebb_a757, 0x4162_68f6, 0x4173_fce1];
    assert_eq!((hash, some), (0x3030_f1e5_b7c1_ad1c, SOME), "{hash:#x} {some:#x?}");
    // Only the low 21 bits count.
    assert_eq!(noise::gumbel(FIELDS + 5).to_bits(), noise::gumbel(5).to_bits());
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

/// The variates of so many groups, as kernels make them.
fn emulated(seed: u64, draw: u64, first: u64, groups: usize) -> Vec<[f32; 6]> {
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
    out.read().chunks_exact(6).map(|six| six.try_into().unwrap()).collect()
}

/// The last block alone of a launch over 2³³ groups.
#[test]
fn emulated_groups_beyond_32_bits_are_right() {
    let (groups, draw, first) = (1usize << 33, 3, 5);
    let mut out = Array::<f32>::reserved(6 * groups);
    let args = GumbelsArgs {
        out: out.output().address,
        first,
        groups: groups as u64,
        round_keys: noise::round_keys(7),
        draw,
        one_and_half_step: 0x3f80_0002,
        unused: 0,
    };
    Emulator::new(Schedule::RoundRobin).launch_last(&launch("gumbels", 1, &args), groups / 256);
    for (i, got) in out.read_end(6 * 256).chunks_exact(6).enumerate() {
        let group = first + groups as u64 - 256 + i as u64;
        assert_eq!(got, defined(7, draw, group).map(noise::gumbel), "group {group}");
    }
}

/// The published answers, cut by hand, through the table; and the definition over counters that end in the middle.
#[test]
fn emulated_groups_are_their_definition() {
    for (seed, draw, group, fields) in CUT {
        assert_eq!(emulated(seed, draw, group, 1), [fields.map(noise::gumbel)]);
        for (got, k) in emulated(seed, draw, group, 1)[0].into_iter().zip(fields) {
            assert!((f64::from(got) - exact(k)).abs() < 1.6e-5, "{got} for field {k:#x}");
        }
    }
    for (seed, draw, first) in [
        (0, 0, 0),
        (1, 2, 3),
        (u64::MAX, u64::MAX, (1 << 61) - 7),
        (7, 1 << 40, u64::from(u32::MAX) - 9),
        (1 << 32, (1 << 32) - 1, u64::MAX - 1499),
    ] {
        for (i, got) in emulated(seed, draw, first, 1500).into_iter().enumerate() {
            assert_eq!(got, defined(seed, draw, first + i as u64).map(noise::gumbel), "group {i} of {first}");
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

/// All 126 bits of a group's fields: each is set in half of all groups, and no two have to do with each other. Of 3 x
/// 8001 deviations one beyond 6σ has a chance of 5e-5 with a perfect generator; a bit that two fields share is 256σ
/// off.
#[test]
fn every_bit_is_independent_of_every_other() {
    const GROUPS: u64 = 1 << 16;
    for seed in SEEDS {
        let mut bits = vec![[0u64; GROUPS as usize / 64]; 126];
        for group in 0..GROUPS {
            for (i, k) in noise::fields(seed, 13, group).into_iter().enumerate() {
                assert!(k < FIELDS);
                for at in 0..21 {
                    bits[21 * i + at][group as usize / 64] |= u64::from(k >> at & 1) << (group % 64);
                }
            }
        }
        let sigmas = |ones: u64| (2.0 * ones as f64 - GROUPS as f64) / (GROUPS as f64).sqrt();
        for (a, of_a) in bits.iter().enumerate() {
            let ones = of_a.iter().map(|word| u64::from(word.count_ones())).sum();
            assert!(f64::abs(sigmas(ones)) < 6.0, "seed {seed}, bit {a}: {}", sigmas(ones));
            for (b, of_b) in bits[..a].iter().enumerate() {
                let equal = of_a.iter().zip(of_b).map(|(a, b)| u64::from((!(a ^ b)).count_ones())).sum();
                assert!(f64::abs(sigmas(equal)) < 6.0, "seed {seed}, bits {a} and {b}: {}", sigmas(equal));
            }
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
