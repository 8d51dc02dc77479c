//! What initial logits are like, and the codes that they are pushed towards.

use crate::case::{InitialCase, rng};
use crate::random::random_codes;
use twofour::learn::{Initial, Prior};
use twofour::{Cpu, Error, Executor, Pattern, Shape, Shard, noise};

fn drawn(seed: u64, groups: usize) -> Vec<f64> {
    let shape = Shape::new(1, 4 * groups);
    let case = InitialCase { shape, shard: Shard::whole(4 * groups as u64), seed, sigma: 1.0, prior: None };
    case.run::<f32, _>(&mut Cpu).unwrap().into_iter().map(f64::from).collect()
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

/// 1.2 million numbers: mean, deviation, skewness and kurtosis, each to five deviations of its own.
#[test]
fn initial_logits_are_normal_but_for_their_tails() {
    let n = drawn(42, 200_000);
    let root = (n.len() as f64).sqrt();
    let moment = |power: i32| mean(n.iter().map(|x| x.powi(power)));
    assert!(moment(1).abs() < 5.0 / root, "mean {}", moment(1));
    assert!((moment(2) - 1.0).abs() < 5.0 * 1.36 / root, "variance {}", moment(2));
    assert!(moment(3).abs() < 5.0 * 3.5 / root, "skewness {}", moment(3));
    // Of a sum of eight uniform numbers: 3 − 1.2/8.
    assert!((moment(4) - 2.85).abs() < 5.0 * 8.5 / root, "kurtosis {}", moment(4));
    assert!(n.iter().all(|x| x.abs() <= 4.9));
    // The share within a deviation: the normal distribution's 0.6827, less what its kurtosis takes away.
    let within = n.iter().filter(|x| x.abs() < 1.0).count() as f64 / n.len() as f64;
    assert!((within - 0.6767).abs() < 0.0022, "{within}");
}

/// Neighbours, other seeds and the noise of masks have nothing to do with each other.
#[test]
fn initial_logits_are_independent() {
    let (n, other) = (drawn(1, 50_000), drawn(2, 50_000));
    let gumbels: Vec<f64> = (0..50_000).flat_map(|group| noise::gumbels(1, 0, group)).map(f64::from).collect();
    let correlation = |a: &[f64], b: &[f64]| mean(a.iter().zip(b).map(|(a, b)| a * b)) * (a.len() as f64).sqrt();
    for lag in [1, 2, 3, 6] {
        let deviations = correlation(&n[lag..], &n[..n.len() - lag]);
        assert!(deviations.abs() < 5.0, "{deviations} deviations at {lag}");
    }
    assert!(correlation(&n, &other).abs() < 5.0);
    let centre = mean(gumbels.iter().copied());
    let centred: Vec<f64> = gumbels.iter().map(|g| (g - centre) / 1.2825).collect();
    assert!(correlation(&n, &centred).abs() < 5.0);
}

/// The pattern of the code gains ασ, the one that shares nothing loses as much, the other four stay.
#[test]
fn priors_push_towards_their_mask() {
    let shape = Shape::new(3, 4 * 7);
    let codes = random_codes(&mut rng(1), shape.groups());
    let shard = Shard::whole(28);
    let plain = InitialCase { shape, shard, seed: 5, sigma: 0.01, prior: None };
    let pushed = InitialCase { prior: Some((codes.clone(), 3.0)), ..plain.clone() };
    let (before, after) = (plain.run::<f32, _>(&mut Cpu).unwrap(), pushed.run::<f32, _>(&mut Cpu).unwrap());
    let mut added = before.clone();
    Cpu.run(Prior::new(shape, &codes, 0.03, &mut added)).unwrap();
    for (at, ((before, after), added)) in before.iter().zip(&after).zip(&added).enumerate() {
        let code = codes[at / 12] >> (4 * (at / 6 % 2)) & 15;
        let (mask, own) = (Pattern::from_code(code).unwrap().bits(), Pattern::ALL[at % 6].bits());
        let expected = if own == mask {
            0.03
        } else if own & mask == 0 {
            -0.03
        } else {
            0.0
        };
        assert!((after - before - expected).abs() < 1e-8, "logit {at}: {before} to {after}");
        assert!((added - before - expected).abs() < 1e-8, "logit {at}: {before} to {added}");
    }
}

/// An illegal code is named, and nothing is written.
#[test]
fn illegal_codes_are_named() {
    let shape = Shape::new(3, 20);
    let mut codes = vec![0x44; 8];
    codes[3] = 0x14;
    let mut logits = vec![7.0f32; shape.logits()];
    let expected = Error::IllegalCode { what: "code", row: 1, group: 2, value: 1, legal: "4, 8, 9, C, D and E" };
    assert_eq!(Cpu.run(Initial::new(shape, 1, 0.1, &mut logits).prior(&codes, 1.0)), Err(expected.clone()));
    assert_eq!(Cpu.run(Prior::new(shape, &codes, 1.0, &mut logits)), Err(expected));
    assert!(logits.iter().all(|&l| l == 7.0));
    // The unused half of the last byte is nobody's business.
    codes[3] = 0x44;
    codes[7] = 0x04;
    assert_eq!(Cpu.run(Prior::new(shape, &codes, 1.0, &mut logits)), Ok(()));
}
