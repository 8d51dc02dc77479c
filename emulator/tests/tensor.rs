//! Tensor-core fragments against an independent statement of them.
//!
//! Whole matrices are cut into fragments by the tables of the PTX ISA (chapter 9.7.14) as written down in
//! `support/fragments.rs`, and the result is compared with a plain product of the whole matrices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use support::fragments::{BF16, F16, Fragments, PATTERNS, PRODUCTS, S8, TF32, Type, Whole, joined};
use support::{Numbers, SEEDS, launch};
use twofour_emulator::tensor::{Arithmetic, Element, Undefined, mma, mma_sp};
use twofour_emulator::{Args, Buffer, Options, Schedule, run};

/// A 16 x k matrix, its sparse choice (both kept columns of every group) if it has one, and a k x 8 matrix.
struct Problem {
    k: usize,
    a: Vec<f64>,
    b: Vec<f64>,
    d: Vec<f64>,
    kept: Option<Vec<[usize; 2]>>,
}

fn problem(k: usize, sparse: bool, mut number: impl FnMut() -> f64, numbers: &mut Numbers) -> Problem {
    let mut a: Vec<f64> = (0..16 * k).map(|_| number()).collect();
    let b = (0..8 * k).map(|_| number()).collect();
    let d = (0..16 * 8).map(|_| number().round()).collect();
    let kept = sparse.then(|| {
        let kept: Vec<[usize; 2]> = (0..16 * k / 4).map(|_| PATTERNS[numbers.below(6) as usize]).collect();
        for (i, x) in a.iter_mut().enumerate() {
            if !kept[i / 4].contains(&(i % 4)) {
                *x = 0.0;
            }
        }
        kept
    });
    Problem { k, a, b, d, kept }
}

/// The plain product of the whole matrices.
fn reference(p: &Problem) -> Vec<f64> {
    let element = |row: usize, n: usize| (0..p.k).map(|k| p.a[row * p.k + k] * p.b[k * 8 + n]).sum::<f64>();
    (0..128).map(|i| p.d[i] + element(i / 8, i % 8)).collect()
}

/// Runs one mma over fragments cut out of the matrices; gives the whole D.
fn multiply(kernel: &str, of: Type, p: &Problem, selector: usize, schedule: Schedule) -> Vec<f64> {
    let encode = |numbers: &[f64]| numbers.iter().map(|&x| (of.encode)(x)).collect();
    let sums = |&x: &f64| if of.integer { x as i32 as u32 } else { (x as f32).to_bits() };
    let (a, b, c) = (encode(&p.a), encode(&p.b), p.d.iter().map(sums).collect());
    let cut = Fragments::cut(of, &Whole { k: p.k, a, b, c, kept: p.kept.clone() }, selector);
    let options = Options { schedule, workers: 1, ..Options::default() };
    let decode = |bits: u32| if of.integer { f64::from(bits as i32) } else { f64::from(f32::from_bits(bits)) };
    joined(&cut.through(kernel, |launch| run(launch, &options))).into_iter().map(decode).collect()
}

/// Small integers must come out exactly, under every schedule; others as exactly as f32 sums are.
fn is_right(kernel: &str, of: Type, k: usize, sparse: bool, selector: usize) {
    let mut numbers = Numbers(17 + k as u64);
    for schedule in Schedule::several(SEEDS) {
        let mut small = Numbers(numbers.next().into());
        let p = problem(k, sparse, || f64::from(small.small()), &mut numbers);
        assert_eq!(
            multiply(kernel, of, &p, selector, schedule),
            reference(&p),
            "{:?} integers {schedule:?}",
            of.element
        );
    }
    for _ in 0..20 {
        let mut random = Numbers(numbers.next().into());
        let number = || {
            let x = f64::from(random.next() as i32) / f64::from(1 << 24);
            (of.decode)((of.encode)(x))
        };
        let p = problem(k, sparse, number, &mut numbers);
        let (got, expected) = (multiply(kernel, of, &p, selector, Schedule::RoundRobin), reference(&p));
        let tolerance = if of.integer { 0.0 } else { 128.0 * 128.0 * 64.0 * 6e-8 };
        for (got, expected) in got.iter().zip(&expected) {
            assert!((got - expected).abs() <= tolerance, "{:?}: {got}, not {expected}", of.element);
        }
    }
}

#[test]
fn dense_f16() {
    is_right("twofour_test_mma_f16", F16, 16, false, 0);
}

#[test]
fn dense_bf16() {
    is_right("twofour_test_mma_bf16", BF16, 16, false, 0);
}

#[test]
fn dense_tf32() {
    is_right("twofour_test_mma_tf32", TF32, 8, false, 0);
}

#[test]
fn dense_s8() {
    is_right("twofour_test_mma_s8", S8, 32, false, 0);
}

#[test]
fn sparse_f16_with_both_selectors() {
    is_right("twofour_test_mma_sp_f16_0", F16, 32, true, 0);
    is_right("twofour_test_mma_sp_f16_1", F16, 32, true, 1);
}

#[test]
fn sparse_bf16_with_both_selectors() {
    is_right("twofour_test_mma_sp_bf16_0", BF16, 32, true, 0);
    is_right("twofour_test_mma_sp_bf16_1", BF16, 32, true, 1);
}

#[test]
fn sparse_s8() {
    is_right("twofour_test_mma_sp_s8", S8, 64, true, 0);
}

/// What every row drops of B does not count, be it NaN; what a row keeps does, even under a zero.
#[test]
fn sparse_products_do_not_see_what_is_dropped() {
    for (kernel, of) in [("twofour_test_mma_sp_f16_1", F16), ("twofour_test_mma_sp_bf16_0", BF16)] {
        let mut small = Numbers(8);
        let mut p = problem(32, true, || f64::from(small.small()), &mut Numbers(9));
        let drops = |kept: &[[usize; 2]], k: usize| (0..16).all(|row| !kept[row * 8 + k / 4].contains(&(k % 4)));
        // Rows of B that no row of A keeps: in every other group, all keep the same columns.
        let kept = p.kept.as_mut().unwrap();
        for (i, kept) in kept.iter_mut().enumerate().filter(|(i, _)| i % 2 == 0) {
            *kept = PATTERNS[i % 8 / 2 + 1];
        }
        p.a.iter_mut().enumerate().filter(|(i, _)| !kept[i / 4].contains(&(i % 4))).for_each(|(_, x)| *x = 0.0);
        let dropped: Vec<usize> = (0..32).filter(|&k| drops(kept, k)).collect();
        assert_eq!(dropped.len(), 8);
        let expected = reference(&p);
        for k in dropped {
            p.b[k * 8..][..8].fill(f64::NAN);
        }
        assert_eq!(multiply(kernel, of, &p, usize::from(kernel.ends_with('1')), Schedule::RoundRobin), expected);
        // Column 2 of B is NaN where row 3 of A keeps a zero.
        let kept = p.kept.as_ref().unwrap()[3 * 8][0];
        (p.a[3 * 32 + kept], p.b[kept * 8 + 2]) = (0.0, f64::NAN);
        let got = multiply(kernel, of, &p, usize::from(kernel.ends_with('1')), Schedule::RoundRobin);
        assert!(got[3 * 8 + 2].is_nan() && !got[3 * 8 + 1].is_nan());
    }
}

/// tf32 operands: the 13 low bits do not count.
#[test]
fn tf32_ignores_low_bits() {
    let dirty = Type { encode: |x| (x as f32).to_bits() | 0x1fff, ..TF32 };
    let mut small = Numbers(5);
    let p = problem(8, false, || f64::from(small.small()), &mut Numbers(6));
    assert_eq!(multiply("twofour_test_mma_tf32", dirty, &p, 0, Schedule::RoundRobin), reference(&p));
}

#[test]
fn ldmatrix_gives_rows_and_transposed_gives_columns() {
    let elements: Vec<u16> = (0..4 * 64).collect();
    let input = Buffer::input("in", &elements).unwrap();
    let element = |matrix: usize, row: usize, column: usize| elements[matrix * 64 + row * 8 + column];
    for schedule in Schedule::several(SEEDS) {
        let output = Buffer::output::<u16>("out", 32 * 28).unwrap();
        let args = Args::new().pointer(&input).pointer(&output).finish();
        launch("twofour_test_ldmatrix", 1, 32, &args, schedule).unwrap();
        let out = output.values::<u16>();
        for (lane, registers) in out.chunks(28).enumerate() {
            let (q, t) = (lane / 4, lane % 4);
            let matrices = [0, 0, 1, 0, 1, 2, 3];
            let rows = matrices.iter().flat_map(|&m| [element(m, q, 2 * t), element(m, q, 2 * t + 1)]);
            let columns = matrices.iter().flat_map(|&m| [element(m, 2 * t, q), element(m, 2 * t + 1, q)]);
            assert!(registers.iter().copied().eq(rows.chain(columns)), "lane {lane}: {registers:?}");
        }
    }
}

/// The twins and `tensor` have each their own statement of the fragments: same registers in, same bits out, in every
/// arithmetic.
#[test]
fn both_statements_agree_bit_for_bit() {
    let mut numbers = Numbers(2);
    let mut all = Vec::new();
    for (kernel, of, k, selector) in PRODUCTS {
        for arithmetic in Arithmetic::ALL {
            let options = Options { workers: 1, arithmetic, ..Options::default() };
            for round in 0..40 {
                let cut = Fragments::random(of, k, selector, &mut numbers);
                let expected = cut.product(of.element, arithmetic, selector);
                let got = cut.through(kernel, |launch| run(launch, &options));
                assert_eq!(got, expected, "{kernel} {arithmetic:?} {round}");
                all.extend((kernel == "twofour_test_mma_sp_bf16_0").then_some((arithmetic, joined(&expected))));
            }
        }
    }
    let differ = |a: Arithmetic, b: Arithmetic| {
        let of = |wanted| all.iter().filter(move |(arithmetic, _)| *arithmetic == wanted);
        of(a).zip(of(b)).any(|((_, a), (_, b))| a != b)
    };
    assert!(differ(Arithmetic::Ampere, Arithmetic::Hopper), "the arithmetic does not matter");
}

#[test]
fn sparse_products_refuse_what_the_isa_leaves_undefined() {
    let (zero, mut metadata) = ([[0; 4]; 32], [0xeeee_4444; 32]);
    let product = |element, metadata: &[u32; 32], selector| {
        mma_sp(element, Arithmetic::InOrder, &zero, &zero, &zero, metadata, selector)
    };
    for code in (0..16).filter(|code| ![4, 8, 9, 12, 13, 14].contains(code)) {
        metadata[14] = 0x4444_4444 & !(15 << 20) | code << 20;
        let undefined = Err(Undefined::Metadata { lane: 14, metadata: metadata[14] });
        // Lane 14 is of the second pair of its four.
        assert_eq!(product(Element::F16, &metadata, 0), Ok(zero));
        assert_eq!(product(Element::F16, &metadata, 1), undefined);
        assert_eq!(product(Element::S8, &metadata, 0), undefined);
    }
    let selector = |selector, bound| Err(Undefined::Selector { selector, bound });
    assert_eq!(product(Element::Bf16, &[0x4444_4444; 32], 2), selector(2, 2));
    assert_eq!(product(Element::S8, &[0x4444_4444; 32], 1), selector(1, 1));
    assert_eq!(product(Element::Tf32, &metadata, 0), Err(Undefined::Element { element: Element::Tf32 }));
}

/// Integer sums wrap.
#[test]
fn integer_sums_wrap() {
    let bytes = [[0x8080_8080u32; 4]; 32];
    let d = mma(Element::S8, Arithmetic::Hopper, &bytes, &[[0x8080_8080; 2]; 32], &[[i32::MAX as u32; 4]; 32]);
    assert_eq!(d, [[i32::MAX.wrapping_add(32 * 128 * 128) as u32; 4]; 32]);
}
