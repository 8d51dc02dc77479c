//! Tensor cores' sums against MMA-Sim, an independent model that was compared with ten GPUs: `data/tensor_cores.txt`,
//! made by `data/tensor_cores.py`, which says what a line is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use half::{bf16, f16};
use support::fragments::{BF16, F16, Fragments, TF32, Type, Whole, joined};
use twofour_emulator::tensor::{Arithmetic, Element, mma};

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Of many numbers, one after another.
#[derive(Default)]
struct Hash {
    count: u64,
    sum: u64,
}

impl Hash {
    fn add(&mut self, numbers: &[u32]) {
        for &number in numbers {
            self.count += 1;
            self.sum = self.sum.wrapping_add(mix(u64::from(number).wrapping_add(self.count.wrapping_mul(GAMMA))));
        }
    }
}

/// A format of numbers: bits of the exponent's field and of the fraction.
#[derive(Clone, Copy)]
struct Format(u32, u32);

impl Format {
    /// Nearly normal: the sum of four uniform numbers, rounded.
    fn normal(self, word: u64) -> u32 {
        let parts: i64 = (0..4).map(|i| (word >> (16 * i) & 0xffff) as i64).sum();
        let number = (parts - 131_070) as f32 / 32768.0;
        match self {
            Format(5, _) => f16::from_f32(number).to_bits().into(),
            Format(_, 7) => bf16::from_f32(number).to_bits().into(),
            _ => number.to_bits(),
        }
    }

    /// A number of this kind out of a word; `role` is 0 in A, 1 in B, 2 in C.
    fn number(self, kind: &str, role: usize, word: u64) -> u32 {
        let Format(exponent_bits, fraction_bits) = self;
        let (top, bias) = ((1 << exponent_bits) - 1, (1 << (exponent_bits - 1)) - 1);
        let sign = ((word >> 63) as u32) << (exponent_bits + fraction_bits);
        let mut fraction = word as u32 & ((1 << fraction_bits) - 1);
        let (t, draw) = ((word >> 40 & 0xffff) as i64, word >> 32 & 255);
        let field = match kind {
            "positive" => return self.normal(word) & ((1 << (exponent_bits + fraction_bits)) - 1),
            "wide" => (bias - 20 + t % 41).clamp(1, top - 1),
            "any" => t % top,
            "subnormal" => [t % 3, bias + t % bias, t % 4][role],
            "tiny" if role == 2 && draw % 2 == 0 => {
                fraction = 0;
                0
            }
            "tiny" => [t % 40, (bias - 30 + t % 40).clamp(1, top - 1), t % 4][role].clamp(0, top - 1),
            "huge" if role == 2 => 254 - t % 4,
            "huge" => bias + bias / 2 - t % 8,
            "powers" => {
                fraction = if draw % 4 == 0 { 1 << (fraction_bits - 1) } else { 0 };
                (bias - 12 + t % 25).clamp(1, top - 1)
            }
            "bottom" => {
                fraction = if role < 2 && draw % 4 == 0 { fraction } else { 0 };
                if role == 2 { 0 } else { (bias - 81 + t % 14).clamp(1, top - 1) }
            }
            "zeros" if draw % 2 == 0 => return sign,
            "special" if draw == 2 => return sign | (top as u32) << fraction_bits | fraction,
            "special" if draw % 128 == 1 => return sign | (top as u32) << fraction_bits,
            "special" if draw % 8 == 0 => return sign,
            "normal" | "zeros" | "special" => return self.normal(word),
            _ => panic!("no kind of numbers {kind}"),
        };
        sign | (field as u32) << fraction_bits | fraction
    }
}

/// The instructions of a batch.
fn batch(k: usize, format: Format, kind: &str, seed: u64, count: usize) -> Vec<Whole> {
    let mut place = 0u64;
    let mut many = |role: usize, format: Format, count: usize| -> Vec<u32> {
        let mut next = || {
            place += 1;
            mix(seed.wrapping_add(place.wrapping_mul(GAMMA)))
        };
        (0..count).map(|_| format.number(kind, role, next())).collect()
    };
    let whole = |_| Whole {
        k,
        a: many(0, format, 16 * k),
        b: many(1, format, 8 * k),
        c: many(2, Format(8, 23), 128),
        kept: None,
    };
    (0..count).map(whole).collect()
}

fn run(of: Type, arithmetic: Arithmetic, whole: &Whole) -> Vec<u32> {
    let cut = Fragments::cut(of, whole, 0);
    joined(&mma(of.element, arithmetic, &cut.a, &cut.dense_b(), &cut.c))
}

fn hex(text: &str) -> u64 {
    u64::from_str_radix(text, 16).unwrap()
}

/// 120,450 instructions, 8,030 of each form on each architecture: no result differs.
#[test]
fn sums_are_those_of_mma_sim() {
    let (mut lines, mut instructions, mut made) = (0, 0, (0, Vec::new()));
    for line in include_str!("data/tensor_cores.txt").lines() {
        let (head, first) = line.split_once(": ").unwrap();
        let [architecture, form, kind, seed, count, inputs, results] = head.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{head}");
        };
        let arithmetic = match architecture {
            "Ampere" | "AdaLovelace" => Arithmetic::Ampere,
            "Hopper" | "Blackwell" | "RTXBlackwell" => Arithmetic::Hopper,
            _ => panic!("no architecture {architecture}"),
        };
        let (of, format, k) = match form {
            "m16n8k16.f32.f16.f16.f32" => (F16, Format(5, 10), 16),
            "m16n8k16.f32.bf16.bf16.f32" => (BF16, Format(8, 7), 16),
            "m16n8k8.f32.tf32.tf32.f32" => (TF32, Format(8, 23), 8),
            _ => panic!("no form {form}"),
        };
        let seed = seed.parse().unwrap();
        if made.0 != seed {
            made = (seed, batch(k, format, kind, seed, count.parse().unwrap()));
            let mut hash = Hash::default();
            made.1.iter().flat_map(|whole| [&whole.a, &whole.b, &whole.c]).for_each(|numbers| hash.add(numbers));
            assert_eq!(hash.sum, hex(inputs), "the inputs are not those of the script: {head}");
        }
        let mut hash = Hash::default();
        for (i, whole) in made.1.iter().enumerate() {
            let d = run(of, arithmetic, whole);
            if i == 0 {
                let expected = hex(first.rsplit(' ').next().unwrap());
                assert_eq!(format!("{:08x}", d[0]), format!("{expected:08x}"), "the first of {line}");
            }
            hash.add(&d);
        }
        assert_eq!(hash.sum, hex(results), "of {count} instructions' results, some differ: {head}");
        (lines, instructions) = (lines + 1, instructions + made.1.len());
    }
    assert_eq!((lines, instructions), (5 * 3 * 11, 120_450));
    println!("{instructions} instructions, {} results: 0 differ", 128 * instructions);
}

/// A line's case is the batch's first, so that it can be looked at: what it says goes through `mma` by itself.
#[test]
fn cases_in_plain_text_are_what_they_say() {
    for line in include_str!("data/tensor_cores.txt").lines() {
        let (head, case) = line.split_once(": ").unwrap();
        let [row, column, c, d] = case.split("; ").collect::<Vec<_>>()[..] else { panic!("{case}") };
        let numbers = |text: &str| text.split(' ').map(|x| hex(x) as u32).collect::<Vec<_>>();
        let (row, column) = (numbers(row), numbers(column));
        let of =
            [F16, BF16, TF32][["f16", "bf16", "tf32"].iter().position(|x| head.contains(&format!(".{x}."))).unwrap()];
        let k = row.len();
        let mut whole = Whole { k, a: vec![0; 16 * k], b: vec![0; 8 * k], c: vec![0; 128], kept: None };
        whole.a[..k].copy_from_slice(&row);
        column.iter().enumerate().for_each(|(i, &x)| whole.b[8 * i] = x);
        whole.c[0] = hex(c) as u32;
        let is_ampere = head.starts_with('A');
        let arithmetic = if is_ampere { Arithmetic::Ampere } else { Arithmetic::Hopper };
        assert_eq!(run(of, arithmetic, &whole)[0], hex(d) as u32, "{line}");
    }
}

#[test]
fn capabilities_have_their_arithmetic() {
    let of = |major, minor| Arithmetic::of_capability(major, minor);
    for (major, minor) in [(8, 0), (8, 6), (8, 9)] {
        assert_eq!(of(major, minor), Some(Arithmetic::Ampere));
    }
    for (major, minor) in [(9, 0), (10, 0), (10, 3), (12, 0)] {
        assert_eq!(of(major, minor), Some(Arithmetic::Hopper));
    }
    assert_eq!((of(7, 0), of(13, 0)), (None, None));
    assert!(Element::ALL.iter().all(|element| element.mma().starts_with("mma.sync.aligned.m16n8k")));
}
