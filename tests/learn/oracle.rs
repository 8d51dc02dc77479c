//! `learn` said again, a logit at a time. What is defined to the bit is in `f32` in the order of the contract; 8-bit
//! codes are looked for in a list of their values.

use crate::case::{FusedCase, InitialCase, Moments, PriorCase, Stepped, UpdateCase};
use crate::common::relative;
use std::sync::LazyLock;
use twofour::learn::{AdamW, Statistics};
use twofour::mask::{GradientOf, Kind, Sampling};
use twofour::noise::{self, philox, round_keys};
use twofour::{DType, Float, Logit, Pattern, Shape, Shard};

/// The first 192 bits of π's fraction.
const STREAMS: [u64; 3] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0];
const BLOCK: usize = 64;

fn number(shape: Shape, shard: &Shard, group: usize) -> u64 {
    let in_row = shape.cols / 4;
    let (row, group) = ((group / in_row) as u64, (group % in_row) as u64);
    (shard.row_offset + row) * (shard.global_cols / 4) + shard.col_offset / 4 + group
}

fn words(stream: usize, seed: u64, group: u64, draw: u64) -> [u32; 4] {
    let counter = [group as u32, (group >> 32) as u32, draw as u32, (draw >> 32) as u32];
    philox(&round_keys(seed ^ STREAMS[stream]), counter)
}

/// Positions that a pattern shares with a code's, less one.
fn similar(codes: &[u8], group: usize, pattern: usize) -> f32 {
    let code = codes[group / 2] >> (4 * (group % 2)) & 15;
    let (of_code, of_pattern) = (Pattern::from_code(code).unwrap(), Pattern::from_index(pattern as u8).unwrap());
    of_code.kept().into_iter().filter(|&j| of_pattern.keeps(usize::from(j))).count() as f32 - 1.0
}

pub(crate) fn initial<L: Logit>(case: &InitialCase) -> Vec<L> {
    let deviation = (8.0 * (2f64.powi(32) - 1.0) / 12.0).sqrt();
    let spread = (case.sigma / deviation) as f32;
    let value = |at: usize| {
        let (group, i) = (at / 6, at % 6);
        let words = words(0, case.seed, number(case.shape, &case.shard, group), i as u64);
        let sum: i64 = words.iter().flat_map(|word| [word & 0xffff, word >> 16]).map(i64::from).sum();
        let shift = case.prior.as_ref().map_or(0.0, |(codes, a)| (a * case.sigma) as f32 * similar(codes, group, i));
        L::from_f32(spread.mul_add((sum - 262_140) as f32, shift))
    };
    (0..case.shape.logits()).map(value).collect()
}

pub(crate) fn prior<L: Logit>(case: &PriorCase<L>) -> Vec<L> {
    let logits = case.logits.iter().enumerate();
    logits.map(|(at, l)| L::from_f32(l.to_f32() + case.strength * similar(&case.codes, at / 6, at % 6))).collect()
}

/// The values of a format's codes, from 0 to the top.
fn values(mantissa: u32) -> Vec<f32> {
    let normal = 1 << mantissa;
    let value = |code: u32| match code >> mantissa {
        0 => code % normal,
        e => (normal + code % normal) << (e - 1),
    };
    (0..16 << mantissa).map(|code| value(code) as f32).collect()
}
/// Of `|m|` and `√v`.
pub(crate) static VALUES: LazyLock<[Vec<f32>; 2]> = LazyLock::new(|| [values(3), values(4)]);

/// `m` and `v` in `f32`.
pub(crate) fn moments(of: &Moments) -> [Vec<f32>; 2] {
    match of {
        Moments::Full { m, v } => [m.clone(), v.clone()],
        Moments::Eight { m, v, scales } => {
            let unit = |at: usize, which: usize| {
                scales[2 * (at / (6 * BLOCK)) + which] * (1.0 / VALUES[which].last().unwrap())
            };
            let m = m.iter().enumerate().map(|(at, &code)| {
                let magnitude = VALUES[0][usize::from(code & 127)] * unit(at, 0);
                if code & 128 == 0 { magnitude } else { -magnitude }
            });
            let v = v.iter().enumerate().map(|(at, &code)| (VALUES[1][usize::from(code)] * unit(at, 1)).powi(2));
            [m.collect(), v.collect()]
        }
    }
}

/// The code of a value in units, the upper neighbour if the fraction between and a random number of 10 bits reach one.
fn encode(which: usize, value: f32, random: u32) -> usize {
    let values = &VALUES[which];
    let value = value.min(*values.last().unwrap());
    // Below the first exponent, values are counted to 2⁻²⁰ (m) and 2⁻¹⁹ (√v) of a unit.
    let lift = if which == 0 { 8.0 } else { 16.0 };
    let value = if value < lift { (value + lift) - lift } else { value };
    let low = values.iter().rposition(|&low| low <= value).unwrap();
    let Some(high) = values.get(low + 1) else { return low };
    let fraction = f64::from(value - values[low]) / f64::from(high - values[low]);
    low + usize::from(fraction + (f64::from(random) + 0.5) / 1024.0 >= 1.0)
}

fn scalars(by: &AdamW) -> [f32; 8] {
    let power = |base: f64| {
        1.0 - (0..by.step.min(1 << 20)).fold(1.0, |power, _| if power < 1e-30 { 0.0 } else { power * base })
    };
    let [b1, b2] = [by.beta1, by.beta2];
    let (c1, c2) = (power(b1), power(b2));
    [b1, 1.0 - b1, b2, 1.0 - b2, 1.0 - by.rate * by.decay, by.rate / c1, 1.0 / c2.sqrt(), by.epsilon].map(|x| x as f32)
}

fn argmax<L: Logit>(six: &[L]) -> Option<usize> {
    let six: Vec<f32> = six.iter().map(|l| l.to_f32()).collect();
    let top = six.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let valid = top.is_finite() && !six.iter().any(|l| l.is_nan());
    valid.then(|| six.iter().position(|&l| l == top).unwrap())
}

/// Of a gradient, but for groups that are skipped.
pub(crate) fn squares(gradient: &[f32]) -> f64 {
    let squares = gradient.chunks(6).map(|six| six.iter().fold(0.0f32, |sum, g| g.mul_add(*g, sum)));
    squares.filter(|&square| square < 2f32.powi(120)).map(f64::from).sum()
}

/// A step. Sums over groups are in order, which is the order of no executor.
pub(crate) fn update<L: Logit>(case: &UpdateCase<L>) -> Stepped<L> {
    let [b1, c1, b2, c2, keep, rate, root, epsilon] = scalars(&case.by);
    let factor = case.factor.unwrap_or(1.0);
    let [mut m, mut v] = moments(&case.moments);
    let mut logits = case.logits.clone();
    let mut sums = Statistics::default();
    let mut stepped = vec![false; case.shape.groups()];
    for (group, stepped) in stepped.iter_mut().enumerate() {
        let g: [f32; 6] = std::array::from_fn(|i| case.scale * case.gradient[6 * group + i]);
        let square = g.iter().fold(0.0f32, |sum, g| g.mul_add(*g, sum));
        let fits = square < 2f32.powi(120);
        *stepped = fits && (0.0..=1.0).contains(&factor);
        sums.groups += 1;
        sums.gradient_squares += if fits { f64::from(square) } else { 0.0 };
        sums.skipped += u64::from(!*stepped);
        if !*stepped {
            continue;
        }
        let number = number(case.shape, &case.shard, group);
        let is_eight = matches!(case.moments, Moments::Eight { .. });
        let random = words(if is_eight { 2 } else { 1 }, case.rounding.seed, number, case.rounding.draw);
        let range = 6 * group..6 * group + 6;
        for (i, at) in range.clone().enumerate() {
            let g = factor * g[i];
            m[at] = b1.mul_add(m[at], c1 * g);
            v[at] = b2.mul_add(v[at], c2 * g * g);
            let change = if is_eight {
                rate * m[at] * nearly_inverse(nearly_root(v[at]).mul_add(root, epsilon))
            } else {
                rate * m[at] / v[at].sqrt().mul_add(root, epsilon)
            };
            // With 8-bit moments a logit is rounded by bits of the words that the other half of its group's codes take.
            let (word, upper) = if is_eight { ([1, 1, 3, 0, 0, 2][i], i % 3 == 1) } else { (i / 2, i % 2 == 1) };
            logits[at] =
                round(keep.mul_add(logits[at].to_f32(), -change), (random[word] >> (16 * u32::from(upper))) as u16);
        }
        sums.moved += u64::from(argmax(&case.logits[range.clone()]) != argmax(&logits[range]));
    }
    Stepped {
        logits,
        moments: pack(case, &stepped, m, v),
        gradient: if case.zero { vec![0.0; case.gradient.len()] } else { case.gradient.clone() },
        norm_squares: case.norm_squares.map(|before| before + sums.gradient_squares),
        statistics: case.statistics.then_some(sums),
    }
}

/// The root and the inverse that 8-bit moments go by: a first guess from the bits, and two of Newton's steps.
fn nearly_root(v: f32) -> f32 {
    let step = |y: f32, constant: f32| y * (-0.5 * v * y).mul_add(y, constant);
    v * step(step(f32::from_bits(0x5f37_4540 - (v.to_bits() >> 1)), 1.500_908_4), 1.500_000_6)
}

fn nearly_inverse(x: f32) -> f32 {
    let step = |y: f32, constant: f32| y * (-x).mul_add(y, constant);
    step(step(f32::from_bits(0x7ef3_343c_u32.wrapping_sub(x.to_bits())), 2.001_282_2), 2.000_000_8)
}

/// To `bf16` by the bits below it and a random number; `f32` stays.
fn round<L: Logit>(value: f32, random: u16) -> L {
    if L::DTYPE == DType::F32 || !value.is_finite() {
        return L::from_f32(value);
    }
    let (kept, below) = (value.to_bits() & 0xffff_0000, value.to_bits() & 0xffff);
    let away = below + u32::from(random) >= 1 << 16;
    L::from_f32(f32::from_bits(kept + (u32::from(away) << 16)))
}

/// New moments as the case holds them.
fn pack<L: Logit>(case: &UpdateCase<L>, stepped: &[bool], m: Vec<f32>, v: Vec<f32>) -> Moments {
    let Moments::Eight { m: mut m8, v: mut v8, mut scales } = case.moments.clone() else {
        return Moments::Full { m, v };
    };
    for (block, stepped) in stepped.chunks(BLOCK).enumerate().filter(|(_, block)| block.contains(&true)) {
        let range = 6 * BLOCK * block..6 * (BLOCK * block + stepped.len());
        let roots: Vec<f32> = v.iter().map(|&v| nearly_root(v)).collect();
        for (which, of) in [&m, &roots].into_iter().enumerate() {
            let top = of[range.clone()].iter().fold(0.0f32, |top, x| top.max(x.abs()));
            let top = if top < 2f32.powi(-100) { 0.0 } else { top };
            let within = if top < 2f32.powi(125) { top } else { 2f32.powi(125) };
            let inverse = if top == 0.0 { 0.0 } else { VALUES[which].last().unwrap() * nearly_inverse(within) };
            scales[2 * block + which] = top;
            for at in range.clone() {
                let words = words(2, case.rounding.seed, number(case.shape, &case.shard, at / 6), case.rounding.draw);
                let random = words[2 * which + at % 6 / 3] >> (2 + 10 * (at % 3)) & 1023;
                let code = encode(which, of[at].abs() * inverse, random);
                if which == 0 {
                    m8[at] = code as u8 | if of[at] * inverse < 0.0 { 128 } else { 0 };
                } else {
                    v8[at] = code.max(usize::from(of[at] * inverse > 0.0)) as u8;
                }
            }
        }
    }
    Moments::Eight { m: m8, v: v8, scales }
}

/// Mean confidence and kept energy of a fused step's groups that are not skipped, in `f64`; and how far the energy may be
/// off for soft values below the smallest normal `f32`, three to a position, which executors may flush to zero.
pub(crate) fn masks<L: Logit, W: Float, G: GradientOf<W>>(case: &FusedCase<L, W, G>, by: &UpdateCase<L>) -> [f64; 3] {
    let (mut confidence, mut energy, mut flushed, mut groups) = (0.0, 0.0, 0.0, 0);
    if !(0.0..=1.0).contains(&by.factor.unwrap_or(1.0)) {
        return [0.0; 3];
    }
    for (group, six) in by.gradient.chunks(6).enumerate() {
        let square = six.iter().fold(0.0f32, |sum, g| g.mul_add(*g, sum));
        if square.is_nan() || square >= 2f32.powi(120) {
            continue;
        }
        let Sampling { seed, draw, kappa, tau } = case.sampling;
        let noise = noise::gumbels(seed, draw, number(case.shape, &case.shard, group));
        let logits = &case.logits[6 * group..][..6];
        let z: [f32; 6] = std::array::from_fn(|i| kappa.mul_add(logits[i].to_f32(), noise[i]));
        let soft = relative(kappa, logits, noise);
        let top = |scores: &[f32; 6]| scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let e = soft.map(|score| ((f64::from(score) - f64::from(top(&soft))) / f64::from(tau)).exp());
        let sum: f64 = e.iter().sum();
        let chosen = z.iter().position(|&score| score == top(&z)).unwrap();
        let mask = |j: usize| match case.kind {
            Kind::Soft => (0..6).filter(|&i| Pattern::ALL[i].keeps(j)).map(|i| e[i] / sum).sum(),
            _ => f64::from(u8::from(Pattern::ALL[chosen].keeps(j))),
        };
        groups += 1;
        confidence += 1.0 / sum;
        for j in 0..4 {
            let weight = f64::from(case.weight[4 * group + j].to_f32()).abs();
            let (kept, lost) = (weight * mask(j), weight * 3.0 * 2f64.powi(-126));
            energy += kept.powi(2);
            flushed += if case.kind == Kind::Soft { 2.0 * kept * lost + lost.powi(2) } else { 0.0 };
        }
    }
    [confidence / f64::from(groups.max(1)), energy, flushed]
}
