//! Stochastic rounding of `bf16` logits.

use crate::case::{Bits, UpdateCase, normal, rng};
use twofour::learn::AdamW;
use twofour::{Cpu, Shape, bf16};

/// One step under many draws: logits are neighbours of what `f32` logits would be, and that in the mean.
#[test]
fn logits_are_unbiased() {
    const DRAWS: u64 = 3000;
    let (rng, shape) = (&mut rng(1), Shape::new(2, 4 * 40));
    let logits: Vec<bf16> = normal(rng, shape.logits(), 0.3, &[]);
    let mut case = UpdateCase::plain(shape, Bits::Full, normal(rng, shape.logits(), 1.0, &[]), logits.clone());
    let of_f32 =
        UpdateCase::plain(shape, Bits::Full, case.gradient.clone(), logits.iter().map(|l| l.to_f32()).collect());
    let exact = of_f32.run(&mut Cpu).logits;
    let mut sums = vec![0.0f64; shape.logits()];
    for draw in 0..DRAWS {
        case.rounding.draw = draw;
        for ((sum, got), exact) in sums.iter_mut().zip(case.run(&mut Cpu).logits).zip(&exact) {
            let towards_zero = f32::from_bits(exact.to_bits() & 0xffff_0000);
            let away = f32::from_bits((exact.to_bits() & 0xffff_0000) + 0x1_0000);
            assert!(
                got.to_f32() == towards_zero || (got.to_f32() == away && towards_zero != *exact),
                "{got} for {exact}"
            );
            *sum += f64::from(got.to_f32());
        }
    }
    for (sum, exact) in sums.into_iter().zip(exact) {
        let spacing = f64::from(f32::from_bits(exact.to_bits() & 0x7f80_0000)) / 128.0;
        let (mean, exact) = (sum / DRAWS as f64, f64::from(exact));
        assert!((mean - exact).abs() < spacing * 0.5 * 5.0 / (DRAWS as f64).sqrt(), "{mean} for {exact}");
    }
}

/// A step of a thousandth of the spacing, 3000 times: logits arrive, where nearest rounding would never leave.
#[test]
fn small_steps_add_up() {
    let shape = Shape::new(4, 4 * 64);
    let start = bf16::from_f32(0.75);
    let mut case = UpdateCase::plain(shape, Bits::Full, vec![1.0; shape.logits()], vec![start; shape.logits()]);
    let (rate, steps) = (4e-6, 3000);
    for step in 0..steps {
        case.by = AdamW { rate, decay: 0.0, step: step + 1, ..case.by };
        case.rounding.draw = step;
        let stepped = case.run(&mut Cpu);
        (case.logits, case.moments) = (stepped.logits, stepped.moments);
    }
    let moved = case.logits.iter().map(|l| f64::from(start.to_f32() - l.to_f32()));
    let mean = moved.sum::<f64>() / shape.logits() as f64;
    let expected = rate * steps as f64;
    println!("moved by {mean:.5}, in f32 {expected:.5}");
    assert!((mean - expected).abs() < 0.05 * expected, "{mean} for {expected}");
}

/// What `bf16` holds stays as it is, for every draw: all of its finite values in a step of no length.
#[test]
fn what_can_be_held_stays() {
    let all: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).filter(|value| value.is_finite()).collect();
    let groups = all.len() / 6;
    let shape = Shape::new(1, 4 * groups);
    let logits = all[..6 * groups].to_vec();
    let mut case = UpdateCase::plain(shape, Bits::Full, vec![1.0; shape.logits()], logits.clone());
    case.by = AdamW { rate: 0.0, ..case.by };
    for draw in 0..20 {
        case.rounding.draw = draw;
        assert_eq!(case.run(&mut Cpu).logits, logits);
    }
}

/// Groups, logits and draws have random bits of their own.
#[test]
fn random_bits_are_independent() {
    let shape = Shape::new(1, 4 * 4096);
    // Half way between two values: each goes up or down by one bit.
    let mut case =
        UpdateCase::plain(shape, Bits::Full, vec![0.0; shape.logits()], vec![bf16::from_f32(1.0); shape.logits()]);
    case.by = AdamW { rate: 1.0 / 512.0, decay: 1.0, ..case.by };
    let mut up = |draw| {
        case.rounding.draw = draw;
        let logits = case.run(&mut Cpu).logits;
        logits.iter().map(|l| f64::from(u8::from(*l == bf16::from_f32(1.0))) - 0.5).collect::<Vec<_>>()
    };
    let (first, second) = (up(0), up(1));
    let correlation = |a: &[f64], b: &[f64]| {
        let products = a.iter().zip(b).map(|(a, b)| 4.0 * a * b);
        products.sum::<f64>() / (a.len() as f64).sqrt()
    };
    let ones = vec![0.5; first.len()];
    let all = [
        correlation(&first, &ones),
        correlation(&first, &second),
        correlation(&first[..first.len() - 1], &first[1..]),
        correlation(&first[..first.len() - 2], &first[2..]),
        correlation(&first[..first.len() - 6], &first[6..]),
    ];
    assert!(all.iter().all(|deviations| deviations.abs() < 5.0), "{all:?} deviations");
}
