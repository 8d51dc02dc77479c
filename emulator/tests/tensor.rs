//! Tensor-core fragments against an independent statement of them.
//!
//! Whole matrices are cut into fragments by the tables of the PTX ISA (chapter 9.7.14) as written down here, and the
//! result is compared with a plain product of the whole matrices. Nothing is shared with the emulator's own maps.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use half::{bf16, f16};
use support::{Numbers, SEEDS, launch};
use twofour_emulator::{Args, Buffer, Schedule};

/// A type of elements: how a number is encoded, and how many fit into a register.
#[derive(Clone, Copy)]
struct Type {
    name: &'static str,
    bits: u32,
    encode: fn(f64) -> u32,
    decode: fn(u32) -> f64,
    integer: bool,
}

const F16: Type = Type {
    name: "f16",
    bits: 16,
    encode: |x| u32::from(f16::from_f64(x).to_bits()),
    decode: |b| f16::from_bits(b as u16).to_f64(),
    integer: false,
};
const BF16: Type = Type {
    name: "bf16",
    bits: 16,
    encode: |x| u32::from(bf16::from_f64(x).to_bits()),
    decode: |b| bf16::from_bits(b as u16).to_f64(),
    integer: false,
};
const TF32: Type = Type {
    name: "tf32",
    bits: 32,
    encode: |x| (x as f32).to_bits() & !0x1fff,
    decode: |b| f64::from(f32::from_bits(b)),
    integer: false,
};
const S8: Type = Type {
    name: "s8",
    bits: 8,
    encode: |x| u32::from(x as i8 as u8),
    decode: |b| f64::from(b as u8 as i8),
    integer: true,
};

/// The column that element `j` of register `i` of B holds for lane `4 q + t`: the row of B, k. Its column is q.
fn b_row(of: Type, i: usize, j: usize, t: usize) -> usize {
    match of.bits {
        16 => 2 * t + j + 8 * i,
        32 => t + 4 * i,
        _ => 4 * t + j + 16 * i,
    }
}

/// Dense A: (row, k).
fn a_place(of: Type, i: usize, j: usize, q: usize, t: usize) -> (usize, usize) {
    let row = if i % 2 == 1 { q + 8 } else { q };
    let column = match of.bits {
        16 => 2 * t + j + if i >= 2 { 8 } else { 0 },
        32 => t + if i >= 2 { 4 } else { 0 },
        _ => 4 * t + j + if i >= 2 { 16 } else { 0 },
    };
    (row, column)
}

/// Sparse A: row, group of four columns, and which of the two kept ones.
fn sparse_a_place(of: Type, i: usize, j: usize, q: usize, t: usize) -> (usize, usize, usize) {
    let row = if i % 2 == 1 { q + 8 } else { q };
    match of.bits {
        // m16n8k32: columns 4t..4t+3, then 16 further.
        16 => (row, t + if i >= 2 { 4 } else { 0 }, j),
        // m16n8k64: columns 8t..8t+7, two groups, then 32 further.
        _ => (row, 2 * t + j / 2 + if i >= 2 { 8 } else { 0 }, j % 2),
    }
}

/// Which lane, and which bit of its register, holds the code of a group.
fn code_place(of: Type, row: usize, group: usize, selector: usize) -> (usize, usize) {
    let (q, high) = (row % 8, row / 8);
    match of.bits {
        // The pair of lanes that the selector names: the even one columns 0..15, the odd one 16..31; low half row q.
        16 => (4 * q + 2 * selector + group / 4, 16 * high + 4 * (group % 4)),
        // lane % 2: row q or q + 8; lane / 2 % 2: columns 0..31 or 32..63.
        _ => (4 * q + high + 2 * (group / 8), 4 * (group % 8)),
    }
}

fn to_registers(of: Type, elements: &[u32]) -> Vec<u32> {
    let each = (32 / of.bits) as usize;
    elements
        .chunks(each)
        .map(|part| part.iter().rev().fold(0, |word, e| if each == 1 { *e } else { word << of.bits | e }))
        .collect()
}

/// A 16 x k matrix, its sparse choice (both kept columns of every group) if it has one, and a k x 8 matrix.
struct Problem {
    k: usize,
    a: Vec<f64>,
    b: Vec<f64>,
    d: Vec<f64>,
    kept: Option<Vec<[usize; 2]>>,
}

const PATTERNS: [[usize; 2]; 6] = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]];

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
    let each = (32 / of.bits) as usize;
    let (mut a, mut b, mut d) = (Vec::new(), Vec::new(), Vec::new());
    // Where no code belongs, an ordered one that is wrong for most groups.
    let mut metadata = [0x4444_4444u32; 32];
    for lane in 0..32 {
        let (q, t) = (lane / 4, lane % 4);
        for (i, j) in (0..4).flat_map(|i| (0..each).map(move |j| (i, j))) {
            let x = match &p.kept {
                None => {
                    let (row, column) = a_place(of, i, j, q, t);
                    p.a[row * p.k + column]
                }
                Some(kept) => {
                    let (row, group, which) = sparse_a_place(of, i, j, q, t);
                    p.a[row * p.k + 4 * group + kept[row * p.k / 4 + group][which]]
                }
            };
            a.push((of.encode)(x));
            let k = b_row(of, i, j, t);
            b.push((of.encode)(if k < p.k { p.b[k * 8 + q] } else { 99.0 }));
        }
        for i in 0..4 {
            d.push(p.d[(q + i / 2 * 8) * 8 + 2 * t + i % 2]);
        }
    }
    for (i, [first, second]) in p.kept.iter().flatten().enumerate() {
        let (lane, bit) = code_place(of, i / (p.k / 4), i % (p.k / 4), selector);
        metadata[lane] = metadata[lane] & !(15 << bit) | ((first + 4 * second) as u32) << bit;
    }
    let a = Buffer::input("a", &to_registers(of, &a)).unwrap();
    let b = Buffer::input("b", &to_registers(of, &b)).unwrap();
    let metadata = Buffer::input("metadata", &metadata).unwrap();
    let bits: Vec<u32> = d.iter().map(|&x| if of.integer { x as i32 as u32 } else { (x as f32).to_bits() }).collect();
    let d = Buffer::in_place("d", &bits).unwrap();
    let args = Args::new().pointer(&a).pointer(&b).pointer(&metadata).pointer(&d).finish();
    launch(kernel, 1, 32, &args, schedule).unwrap();
    let mut whole = vec![f64::NAN; 128];
    for (i, bits) in d.values::<u32>().into_iter().enumerate() {
        let (q, t, i) = (i / 16, i / 4 % 4, i % 4);
        let x = if of.integer { f64::from(bits as i32) } else { f64::from(f32::from_bits(bits)) };
        whole[(q + i / 2 * 8) * 8 + 2 * t + i % 2] = x;
    }
    whole
}

/// Small integers must come out exactly, under every schedule; others as exactly as f32 sums are.
fn is_right(kernel: &str, of: Type, k: usize, sparse: bool, selector: usize) {
    let mut numbers = Numbers(17 + k as u64);
    for schedule in Schedule::several(SEEDS) {
        let mut small = Numbers(numbers.next().into());
        let p = problem(k, sparse, || f64::from(small.small()), &mut numbers);
        assert_eq!(multiply(kernel, of, &p, selector, schedule), reference(&p), "{} integers {schedule:?}", of.name);
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
            assert!((got - expected).abs() <= tolerance, "{}: {got}, not {expected}", of.name);
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
