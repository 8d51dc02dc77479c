//! The rule of tensor cores' sums by itself: against oracles of another make, case by case, and what it costs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use proptest::prelude::*;
use support::Numbers;
use support::fragments::{BF16, F16, Fragments, TF32, Type, Whole, joined};
use twofour_emulator::tensor::Arithmetic::{self, Ampere, Hopper, InOrder};
use twofour_emulator::tensor::{Element, mma};

/// F, terms of 16 bits a step, and the exponent of zero, as the paper has them.
fn parameters(arithmetic: Arithmetic) -> (i32, usize, i32) {
    if arithmetic == Ampere { (24, 8, -132) } else { (25, 16, -133) }
}

/// One result of one instruction, of the bits of a row, of a column and of a sum.
fn dot_bits(of: Type, arithmetic: Arithmetic, a: &[u32], b: &[u32], c: u32) -> u32 {
    let k = 256 / of.bits as usize;
    let mut whole = Whole { k, a: vec![0; 16 * k], b: vec![0; 8 * k], c: vec![0; 128], kept: None };
    whole.a[..a.len()].copy_from_slice(a);
    b.iter().enumerate().for_each(|(i, &x)| whole.b[8 * i] = x);
    whole.c[0] = c;
    let cut = Fragments::cut(of, &whole, 0);
    joined(&mma(of.element, arithmetic, &cut.a, &cut.dense_b(), &cut.c))[0]
}

/// The same of numbers: products first, each as its two factors.
fn dot(of: Type, arithmetic: Arithmetic, products: &[(f64, f64)], c: f32) -> f32 {
    let a: Vec<u32> = products.iter().map(|&(a, _)| (of.encode)(a)).collect();
    let b: Vec<u32> = products.iter().map(|&(_, b)| (of.encode)(b)).collect();
    f32::from_bits(dot_bits(of, arithmetic, &a, &b, c.to_bits()))
}

/// 2^n.
fn two(n: i32) -> f64 {
    f64::from_bits(((1023 + n) as u64) << 52)
}

// ---- an oracle in f64, and one in integers ------------------------------------------------------------------

/// The exponent of a number of a type whose smallest normal one has `least`.
fn exponent(x: f64, least: i32) -> i32 {
    ((x.to_bits() >> 52 & 0x7ff) as i32 - 1023).max(least)
}

/// Toward zero; what reaches 2^128 is infinite.
fn toward_zero(x: f64) -> f32 {
    let nearest = x as f32;
    match f64::from(nearest).abs() > x.abs() && x.abs() < two(128) {
        true => f32::from_bits(nearest.to_bits() - 1),
        false => nearest + 0.0,
    }
}

/// As MMA-Sim has it: the rule in floating-point arithmetic that is exact.
fn in_f64(of: Type, arithmetic: Arithmetic, a: &[u32], b: &[u32], c: u32) -> u32 {
    let (fraction, terms, of_zero) = parameters(arithmetic);
    let least = if of.element == Element::F16 { -14 } else { -126 };
    let numbers = |bits: &[u32]| bits.iter().map(|&x| (of.decode)(x)).collect::<Vec<f64>>();
    let (a, b) = (numbers(a), numbers(b));
    let terms = terms * 16 / of.bits as usize;
    let sum = a.chunks(terms).zip(b.chunks(terms)).fold(f32::from_bits(c), |sum, (a, b)| {
        let c = f64::from(sum);
        let exact: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() + c;
        if !exact.is_finite() {
            return if exact.is_nan() { f32::from_bits(0x7fff_ffff) } else { exact as f32 };
        }
        let of_c = if c == 0.0 { of_zero } else { exponent(c, -126) };
        let pairs = a.iter().zip(b).filter(|(a, b)| **a * **b != 0.0);
        let largest = pairs.map(|(&a, &b)| exponent(a, least) + exponent(b, least)).fold(of_c, i32::max);
        let kept = |x: f64| (x * two(fraction - largest)).trunc();
        let total = a.iter().zip(b).map(|(a, b)| kept(a * b)).sum::<f64>() + kept(c);
        toward_zero(total * two(largest - fraction))
    });
    sum.to_bits()
}

/// Finite halves and a sum that is a multiple of 2^-48 below 2^40, all as integers in units of 2^-80.
fn in_integers(arithmetic: Arithmetic, a: &[f64], b: &[f64], c: f32) -> f32 {
    let (fraction, terms, _) = parameters(arithmetic);
    let mut sum = (f64::from(c) * two(80)) as i128;
    for (a, b) in a.chunks(terms).zip(b.chunks(terms)) {
        // Significand and exponent of a half: |x| = significand 2^(exponent - 10).
        let products = a.iter().zip(b).filter(|(a, b)| **a * **b != 0.0).map(|(&a, &b)| {
            let (ea, eb) = (exponent(a, -14), exponent(b, -14));
            (((a * two(10 - ea)) as i128 * (b * two(10 - eb)) as i128) << (60 + ea + eb), ea + eb)
        });
        let mut terms: Vec<(i128, i32)> = products.collect();
        if sum != 0 {
            terms.push((sum, 127 - sum.unsigned_abs().leading_zeros() as i32 - 80));
        }
        let largest = terms.iter().map(|&(_, exponent)| exponent).max().unwrap_or(0);
        let unit = 1i128 << (largest - fraction + 80);
        let total: i128 = terms.iter().map(|(term, _)| term / unit * unit).sum();
        let spare = (128 - total.unsigned_abs().leading_zeros()).saturating_sub(24);
        sum = total / (1i128 << spare) * (1i128 << spare);
    }
    (sum as f64 / two(80)) as f32
}

fn devices() -> impl Strategy<Value = Arithmetic> {
    prop_oneof![Just(Ampere), Just(Hopper)]
}

/// Sixteen elements: any bits, or numbers near one.
fn elements(of: Type) -> impl Strategy<Value = Vec<u32>> {
    let any = any::<u32>().prop_map(move |x| if of.bits == 16 { x & 0xffff } else { x & !0x1fff });
    let near = (-4.0..4.0f64).prop_map(of.encode);
    let count = 256 / of.bits as usize;
    prop_oneof![prop::collection::vec(any, count), prop::collection::vec(near, count)]
}

fn finite_halves() -> impl Strategy<Value = Vec<f64>> {
    let half = any::<u16>().prop_map(|x| (F16.decode)(u32::from(if x & 0x7c00 == 0x7c00 { x & 0xbfff } else { x })));
    prop::collection::vec(half, 16)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bits_are_as_in_f64(
        which in 0..3usize,
        half in (elements(F16), elements(F16)),
        brain in (elements(BF16), elements(BF16)),
        tensor in (elements(TF32), elements(TF32)),
        c in prop_oneof![any::<u32>(), (-9.0..9.0f32).prop_map(f32::to_bits), Just(0), Just(1 << 31)],
        arithmetic in devices(),
    ) {
        let (of, (a, b)) = [(F16, half), (BF16, brain), (TF32, tensor)].into_iter().nth(which).unwrap();
        prop_assert_eq!(dot_bits(of, arithmetic, &a, &b, c), in_f64(of, arithmetic, &a, &b, c));
    }

    #[test]
    fn finite_halves_are_as_in_integers(
        a in finite_halves(),
        b in finite_halves(),
        c in (-1i64 << 24..1 << 24, -48..16i32, any::<bool>()).prop_map(|(x, e, is_any)| {
            if is_any { (x as f64 * two(e)) as f32 } else { 0.0 }
        }),
        arithmetic in devices(),
    ) {
        let products: Vec<(f64, f64)> = a.iter().copied().zip(b.iter().copied()).collect();
        prop_assert_eq!(dot(F16, arithmetic, &products, c), in_integers(arithmetic, &a, &b, c));
    }

    /// Products of one step have no order.
    #[test]
    fn a_step_has_no_order(a in finite_halves(), b in finite_halves(), turn in 1..8usize, c in -9.0..9.0f32) {
        let mut products: Vec<(f64, f64)> = a.into_iter().zip(b).collect();
        let sums = [Ampere, Hopper].map(|arithmetic| dot(F16, arithmetic, &products, c));
        products[..8].rotate_left(turn);
        products[8..].reverse();
        prop_assert_eq!([Ampere, Hopper].map(|arithmetic| dot(F16, arithmetic, &products, c)), sums);
    }

    /// The signs turned around turn the result around: it is cut off toward zero on both sides.
    #[test]
    fn signs_turn_around(a in finite_halves(), b in finite_halves(), c in -9.0..9.0f32, arithmetic in devices()) {
        let products: Vec<(f64, f64)> = a.into_iter().zip(b).collect();
        let turned: Vec<(f64, f64)> = products.iter().map(|&(a, b)| (-a, b)).collect();
        prop_assert_eq!(dot(F16, arithmetic, &turned, -c), -dot(F16, arithmetic, &products, c));
    }
}

// ---- cases by name ------------------------------------------------------------------------------------------

/// The bits of the sum on both, for what must not be compared as numbers.
fn bits(of: Type, products: &[(f64, f64)], c: f32) -> [u32; 2] {
    [Ampere, Hopper].map(|arithmetic| dot(of, arithmetic, products, c).to_bits())
}

#[test]
fn a_sum_of_zero_is_positive() {
    assert_eq!(bits(F16, &[(-0.0, 1.0), (0.0, -2.0)], -0.0), [0; 2]);
    assert_eq!(bits(F16, &[(3.0, 1.0), (-3.0, 1.0)], -0.0), [0; 2]);
    assert_eq!(bits(BF16, &[(-two(-80), two(-80))], 0.0), [0; 2]);
}

#[test]
fn fractional_bits_of_a_term() {
    // Sixteen times 2^-24 beside 1, and sixteen times 2^-25. Ampere takes eight at a time.
    let terms = |n: i32| vec![(two(n), 1.0); 16];
    assert_eq!(bits(BF16, &terms(-24), 1.0), [(1.0 + two(-20)) as f32; 2].map(f32::to_bits));
    assert_eq!(bits(BF16, &terms(-25), 1.0), [1.0, (1.0 + two(-21)) as f32].map(f32::to_bits));
    assert_eq!(bits(BF16, &terms(-26), 1.0), [1.0f32; 2].map(f32::to_bits));
    // Without the 1, nothing is lost.
    assert_eq!(bits(BF16, &terms(-26), 0.0), [two(-22) as f32; 2].map(f32::to_bits));
}

#[test]
fn products_are_not_normalised() {
    // 1.5 * 1.5 = 2.25 counts with exponent 0, so 2^-24 beside it is whole.
    let sum = |arithmetic, n| dot(BF16, arithmetic, &[(1.5, 1.5), (-2.0, 1.0), (-0.25, 1.0), (two(n), 1.0)], 0.0);
    assert_eq!([sum(Ampere, -23), sum(Ampere, -24)], [two(-23) as f32, 0.0]);
    assert_eq!([sum(Hopper, -24), sum(Hopper, -25)], [two(-24) as f32, 0.0]);
    let sum = |arithmetic, n| dot(BF16, arithmetic, &[(1.5, 1.5), (-1.5, 1.5), (two(n), 1.0)], 0.0);
    assert_eq!([sum(Ampere, -24), sum(Ampere, -25)], [two(-24) as f32, 0.0]);
    assert_eq!([sum(Hopper, -25), sum(Hopper, -26)], [two(-25) as f32, 0.0]);
}

#[test]
fn a_subnormal_half_counts_as_2_to_the_minus_14() {
    // 2^-24 * 1 and 2^-24 * 2^-15: as bf16, which has both as normal numbers, nothing is cut off.
    let products = [(two(-24), 1.0), (two(-24), two(-15))];
    assert_eq!(dot(F16, Ampere, &products, 0.0), two(-24) as f32);
    for (of, arithmetic) in [(BF16, Ampere), (BF16, Hopper), (F16, Hopper), (F16, InOrder)] {
        assert_eq!(f64::from(dot(of, arithmetic, &products, 0.0)), two(-24) + two(-39), "{:?}", of.element);
    }
}

#[test]
fn an_empty_accumulator_has_an_exponent_too() {
    // 2^-149, the smallest f32, less a little: is the little there?
    let sum = |arithmetic, n: i32| {
        let products = [(two(-75), two(-74)), (-two(n / 2), two(n - n / 2))];
        dot(BF16, arithmetic, &products, 0.0).to_bits()
    };
    assert_eq!([sum(Ampere, -156), sum(Ampere, -157)], [0, 1]);
    assert_eq!([sum(Hopper, -158), sum(Hopper, -159)], [0, 1]);
}

#[test]
fn subnormal_sums_are_cut_off() {
    for arithmetic in [Ampere, Hopper] {
        let product = |a: f64, n: i32| dot(BF16, arithmetic, &[(a * two(-70), two(n + 70))], 0.0).to_bits();
        let smallest = [product(1.0, -149), product(1.5, -149), product(-1.5, -149), product(1.0, -150)];
        assert_eq!(smallest, [1, 1, 1 << 31 | 1, 0]);
        assert_eq!([product(-1.0, -150), product(1.0, -127)], [0, 1 << 22]);
    }
}

#[test]
fn sums_overflow_at_two_to_the_128() {
    let big = (two(64), two(63));
    assert_eq!(bits(BF16, &[big, big], 0.0), [f32::INFINITY.to_bits(); 2]);
    assert_eq!(bits(BF16, &[(-two(64), two(63)); 2], 0.0), [f32::NEG_INFINITY.to_bits(); 2]);
    // Rounded to nearest it would be infinite.
    assert_eq!(bits(BF16, &[(two(51), two(52))], f32::MAX), [f32::MAX.to_bits(); 2]);
    // Within a step it may be larger.
    assert_eq!(bits(BF16, &[big, big, (-two(64), two(63))], 0.0), [(two(127) as f32).to_bits(); 2]);
    // Ampere has an infinity from the first step, and minus one from the second.
    let mut products = [(0.0, 0.0); 16];
    products[..3].copy_from_slice(&[big; 3]);
    products[8..11].copy_from_slice(&[(-two(64), two(63)); 3]);
    assert_eq!(bits(BF16, &products, 0.0), [f32::INFINITY.to_bits(), 0]);
    products[15] = (f64::NEG_INFINITY, 1.0);
    assert_eq!(bits(BF16, &products, 0.0), [0x7fff_ffff, f32::NEG_INFINITY.to_bits()]);
}

#[test]
fn infinities_and_nans() {
    let (infinite, nan) = (f64::INFINITY, f64::NAN);
    for of in [F16, BF16, TF32] {
        assert_eq!(bits(of, &[(infinite, -2.0)], 5.0), [f32::NEG_INFINITY.to_bits(); 2]);
        assert_eq!(bits(of, &[(1.0, 1.0)], f32::INFINITY), [f32::INFINITY.to_bits(); 2]);
        for undefined in [(infinite, 0.0), (0.0, -infinite), (nan, 1.0), (-nan, 0.0), (infinite, nan)] {
            assert_eq!(bits(of, &[(2.0, 1.0), undefined], 0.0), [0x7fff_ffff; 2]);
            assert_eq!(dot(of, InOrder, &[undefined], 0.0).to_bits(), 0x7fff_ffff);
        }
        assert_eq!(bits(of, &[(infinite, 1.0), (infinite, -1.0)], 0.0), [0x7fff_ffff; 2]);
        assert_eq!(bits(of, &[(infinite, 1.0)], f32::NEG_INFINITY), [0x7fff_ffff; 2]);
        assert_eq!(bits(of, &[(1.0, 1.0)], f32::NAN), [0x7fff_ffff; 2]);
        // What is beside an infinity is not looked at, however large.
        assert_eq!(bits(of, &[(infinite, 1.0)], -f32::MAX), [f32::INFINITY.to_bits(); 2]);
    }
}

/// 2^26 at one place, -2^26 at another, ones elsewhere: the ones from the first one's step to the second one's are cut
/// off. The probe of `mma.sp` reads a device's steps in the same way.
#[test]
fn a_pair_shows_the_steps() {
    for (arithmetic, step) in [(Ampere, 8), (Hopper, 16)] {
        for (p, q) in (0..16).flat_map(|p| (0..16).map(move |q| (p, q))).filter(|(p, q)| p != q) {
            let mut products = [(1.0, 1.0); 16];
            (products[p], products[q]) = ((two(26), 1.0), (-two(26), 1.0));
            let cut_off = (p.max(q) / step - p.min(q) / step + 1) * step;
            assert_eq!(dot(BF16, arithmetic, &products, 0.0), (16 - cut_off) as f32, "{arithmetic:?} {p} {q}");
        }
    }
}

// ---- what it costs ------------------------------------------------------------------------------------------

/// Sums of this many terms, 128 of them at a time.
const TILES: usize = 8;

/// A x B, both of bf16, for one tile: the sums as they are, those of every 1024 terms added in f32, and in f64.
fn products(arithmetic: Arithmetic, terms: usize, mut number: impl FnMut() -> f64) -> [Vec<f64>; 3] {
    let (mut whole, mut folded, mut exact) = ([[0; 4]; 32], [[0; 4]; 32], vec![0.0; 128]);
    let mut part = [[0; 4]; 32];
    for k in (0..terms).step_by(16) {
        let mut many = |count| (0..count).map(|_| (BF16.encode)(number())).collect::<Vec<u32>>();
        let matrices = Whole { k: 16, a: many(256), b: many(128), c: vec![0; 128], kept: None };
        for (i, sum) in exact.iter_mut().enumerate() {
            let product = |k| (BF16.decode)(matrices.a[i / 8 * 16 + k]) * (BF16.decode)(matrices.b[k * 8 + i % 8]);
            *sum += (0..16).map(product).sum::<f64>();
        }
        let cut = Fragments::cut(BF16, &matrices, 0);
        whole = mma(BF16.element, arithmetic, &cut.a, &cut.dense_b(), &whole);
        part = mma(BF16.element, arithmetic, &cut.a, &cut.dense_b(), &part);
        if k % 1024 == 1024 - 16 {
            for (sum, part) in folded.as_flattened_mut().iter_mut().zip(part.as_flattened()) {
                *sum = (f32::from_bits(*sum) + f32::from_bits(*part)).to_bits();
            }
            part = [[0; 4]; 32];
        }
    }
    let floats = |d| joined(d).into_iter().map(|bits| f64::from(f32::from_bits(bits))).collect();
    [floats(&whole), floats(&folded), exact]
}

/// Relative errors in the 2-norm: as it is, and folded.
fn errors(arithmetic: Arithmetic, terms: usize, is_positive: bool) -> [f64; 2] {
    let mut numbers = Numbers(terms as u64);
    let number = || {
        let sum: f64 = (0..4).map(|_| f64::from(numbers.next() as i32) / two(31)).sum();
        if is_positive { sum.abs() } else { sum }
    };
    let mut number = number;
    let (mut squares, mut norm) = ([0.0; 2], 0.0);
    for _ in 0..TILES {
        let [whole, folded, exact] = products(arithmetic, terms, &mut number);
        for (square, got) in squares.iter_mut().zip([whole, folded]) {
            *square += got.iter().zip(&exact).map(|(got, exact)| (got - exact).powi(2)).sum::<f64>();
        }
        norm += exact.iter().map(|x| x * x).sum::<f64>();
    }
    squares.map(|square| (square / norm).sqrt())
}

/// What one accumulator loses, for each line of the table: Ampere and Hopper. It is theirs to 30 %.
const KNOWN: [(usize, bool, f64, f64); 6] = [
    (1024, false, 1.1e-6, 1.0e-6),
    (1024, true, 4.4e-6, 2.0e-6),
    (4096, false, 5.1e-6, 4.3e-6),
    (4096, true, 3.0e-5, 1.3e-5),
    (8192, false, 1.1e-5, 9.0e-6),
    (8192, true, 7.1e-5, 3.2e-5),
];

/// Long sums shrink: how much, on which device, and what folding them into f32 every 1024 terms does for it.
#[test]
fn what_long_sums_lose() {
    println!("relative error of sums of bf16 products, one accumulator | folded into f32 every 1024 terms");
    println!("terms  data       f32 in order        Ampere, Ada         Hopper, Blackwell");
    for (terms, is_positive, ampere, hopper) in KNOWN {
        let errors = Arithmetic::ALL.map(|arithmetic| errors(arithmetic, terms, is_positive));
        let text = errors.map(|[whole, folded]| format!("{whole:.1e} | {folded:.1e}"));
        let data = if is_positive { "positive" } else { "zero-mean" };
        println!("{terms:5}  {data:9}  {}   {}   {}", text[0], text[1], text[2]);
        for ([whole, folded], known) in errors[1..].iter().zip([ampere, hopper]) {
            assert!((whole / known - 1.0).abs() < 0.3, "{whole:e}, not {known:e}");
            // Folded, the length no longer matters.
            assert!(*folded < 5e-6, "{folded:e}");
        }
        assert!(errors[0][0] < 1.5e-6, "{:e}", errors[0][0]);
    }
}
