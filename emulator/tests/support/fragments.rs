//! Whole matrices cut into the registers of a warp, by the tables of the PTX ISA (chapter 9.7.14) as written down here.
//! Nothing is shared with the emulator's maps: neither with the twins' nor with those of `tensor`.

use half::{bf16, f16};
use twofour_emulator::tensor::{Arithmetic, Element, Registers, mma, mma_sp};
use twofour_emulator::{Args, Buffer, Fault, Kernel, Launch, Report};

use super::Numbers;

/// A type of elements: how a number is encoded, and how many fit into a register.
#[derive(Clone, Copy)]
pub struct Type {
    pub element: Element,
    pub bits: u32,
    pub encode: fn(f64) -> u32,
    pub decode: fn(u32) -> f64,
    pub integer: bool,
}

pub const F16: Type = Type {
    element: Element::F16,
    bits: 16,
    encode: |x| u32::from(f16::from_f64(x).to_bits()),
    decode: |b| f16::from_bits(b as u16).to_f64(),
    integer: false,
};
pub const BF16: Type = Type {
    element: Element::Bf16,
    bits: 16,
    encode: |x| u32::from(bf16::from_f64(x).to_bits()),
    decode: |b| bf16::from_bits(b as u16).to_f64(),
    integer: false,
};
pub const TF32: Type = Type {
    element: Element::Tf32,
    bits: 32,
    encode: |x| (x as f32).to_bits() & !0x1fff,
    decode: |b| f64::from(f32::from_bits(b)),
    integer: false,
};
pub const S8: Type = Type {
    element: Element::S8,
    bits: 8,
    encode: |x| u32::from(x as i8 as u8),
    decode: |b| f64::from(b as u8 as i8),
    integer: true,
};

/// A 16 x k matrix, its sparse choice (both kept columns of every group) if it has one, a k x 8 matrix, and the 16 x 8
/// sums: all as bits, row by row.
#[derive(Clone)]
pub struct Whole {
    pub k: usize,
    pub a: Vec<u32>,
    pub b: Vec<u32>,
    pub c: Vec<u32>,
    pub kept: Option<Vec<[usize; 2]>>,
}

pub const PATTERNS: [[usize; 2]; 6] = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]];

/// What the lanes hold. A dense B's registers are the first two; the others hold what must not count.
pub struct Fragments {
    pub a: Registers<4>,
    pub b: Registers<4>,
    pub c: Registers<4>,
    pub metadata: [u32; 32],
}

/// The kernels of `kernels/wrappers.cu` with one product each: elements, k, and the selector of a sparse one.
pub const PRODUCTS: [(&str, Type, usize, Option<u32>); 9] = [
    ("twofour_test_mma_f16", F16, 16, None),
    ("twofour_test_mma_bf16", BF16, 16, None),
    ("twofour_test_mma_tf32", TF32, 8, None),
    ("twofour_test_mma_s8", S8, 32, None),
    ("twofour_test_mma_sp_f16_0", F16, 32, Some(0)),
    ("twofour_test_mma_sp_f16_1", F16, 32, Some(1)),
    ("twofour_test_mma_sp_bf16_0", BF16, 32, Some(0)),
    ("twofour_test_mma_sp_bf16_1", BF16, 32, Some(1)),
    ("twofour_test_mma_sp_s8", S8, 64, Some(0)),
];

/// Bits of any kind for a type: numbers near one, most of them, and zeros, subnormals, infinities and NaNs.
fn bits(of: Type, numbers: &mut Numbers) -> u32 {
    let any = numbers.next();
    match (of.bits, numbers.below(200)) {
        (8, _) => any & 0xff,
        (32, 0) | (16, 0) => any >> (32 - of.bits),
        (_, 1..10) => (of.encode)(0.0),
        _ => (of.encode)(f64::from(any as i32) / f64::from(1 << 30)),
    }
}

impl Fragments {
    /// Random ones, for one of [`PRODUCTS`].
    pub fn random(of: Type, k: usize, selector: Option<u32>, numbers: &mut Numbers) -> Fragments {
        let mut many = |of, count| (0..count).map(|_| bits(of, numbers)).collect::<Vec<u32>>();
        let (a, b) = (many(of, 16 * k), many(of, 8 * k));
        let c = if of.integer { numbers.many(128) } else { many(TF32, 128) };
        let pattern = |_| PATTERNS[numbers.below(6) as usize];
        let kept = selector.map(|_| (0..4 * k).map(pattern).collect());
        Fragments::cut(of, &Whole { k, a, b, c, kept }, selector.unwrap_or(0) as usize)
    }

    /// The product as `tensor` has it.
    pub fn product(&self, element: Element, arithmetic: Arithmetic, selector: Option<u32>) -> Registers<4> {
        let Fragments { a, b, c, metadata } = self;
        match selector {
            None => mma(element, arithmetic, a, &self.dense_b(), c),
            Some(selector) => mma_sp(element, arithmetic, a, b, c, metadata, selector).unwrap(),
        }
    }

    /// The product as `run` has one of `kernels/wrappers.cu`.
    pub fn through(&self, kernel: &str, run: impl FnOnce(&Launch) -> Result<Report, Fault>) -> Registers<4> {
        let a = Buffer::input("a", self.a.as_flattened()).unwrap();
        let b = Buffer::input("b", self.b.as_flattened()).unwrap();
        let metadata = Buffer::input("metadata", &self.metadata).unwrap();
        let d = Buffer::in_place("d", self.c.as_flattened()).unwrap();
        let args = Args::new().pointer(&a).pointer(&b).pointer(&metadata).pointer(&d).finish();
        let kernel = Kernel::find(kernel).unwrap();
        run(&Launch { kernel, grid: [1; 3], block: [32, 1, 1], shared_bytes: 0, args: &args }).unwrap();
        let d = d.values::<u32>();
        std::array::from_fn(|lane| std::array::from_fn(|i| d[4 * lane + i]))
    }

    /// Of one instruction. Where no code belongs, the metadata has an ordered one that is wrong for most groups.
    pub fn cut(of: Type, whole: &Whole, selector: usize) -> Fragments {
        let each = (32 / of.bits) as usize;
        let mut cut = Fragments { a: [[0; 4]; 32], b: [[0; 4]; 32], c: [[0; 4]; 32], metadata: [0x4444_4444; 32] };
        for (lane, i, j) in (0..32).flat_map(|lane| (0..4 * each).map(move |e| (lane, e / each, e % each))) {
            let (q, t) = (lane / 4, lane % 4);
            let x = match &whole.kept {
                None => {
                    let (row, column) = a_place(of, i, j, q, t);
                    whole.a[row * whole.k + column]
                }
                Some(kept) => {
                    let (row, group, which) = sparse_a_place(of, i, j, q, t);
                    whole.a[row * whole.k + 4 * group + kept[row * whole.k / 4 + group][which]]
                }
            };
            cut.a[lane][i] |= x << (of.bits * j as u32);
            let k = b_row(of, i, j, t);
            let x = if k < whole.k { whole.b[k * 8 + q] } else { (of.encode)(99.0) };
            cut.b[lane][i] |= x << (of.bits * j as u32);
        }
        for (lane, i) in (0..32).flat_map(|lane| (0..4).map(move |i| (lane, i))) {
            cut.c[lane][i] = whole.c[d_place(lane, i)];
        }
        for (i, [first, second]) in whole.kept.iter().flatten().enumerate() {
            let (lane, bit) = code_place(of, i / (whole.k / 4), i % (whole.k / 4), selector);
            cut.metadata[lane] = cut.metadata[lane] & !(15 << bit) | ((first + 4 * second) as u32) << bit;
        }
        cut
    }

    pub fn dense_b(&self) -> Registers<2> {
        self.b.map(|[first, second, ..]| [first, second])
    }
}

/// The 16 x 8 results, row by row, of the lanes' registers.
pub fn joined(d: &Registers<4>) -> Vec<u32> {
    let mut whole = vec![0; 128];
    for (lane, i) in (0..32).flat_map(|lane| (0..4).map(move |i| (lane, i))) {
        whole[d_place(lane, i)] = d[lane][i];
    }
    whole
}

fn d_place(lane: usize, i: usize) -> usize {
    (lane / 4 + i / 2 * 8) * 8 + 2 * (lane % 4) + i % 2
}

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
