//! Where the elements of the matrices lie in the lanes' registers, as chapters 9.7.14.5 (dense) and 9.7.14.6 (sparse)
//! of the PTX ISA say it: `a_i` is the i-th element of a lane's registers, low to high, `group` is %laneid >> 2 and
//! `thread` is %laneid % 4.

use super::{Arithmetic, Element, multiply};

/// `N` registers of each of the 32 lanes.
pub type Registers<const N: usize> = [[u32; N]; 32];

/// What the ISA leaves undefined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Undefined {
    /// A register with metadata has a code that is not ordered.
    #[error("metadata {metadata:#010x} of lane {lane} has a code other than 4 8 9 C D E: check packing and selector")]
    Metadata {
        /// The lane whose register it is.
        lane: usize,
        /// The register.
        metadata: u32,
    },
    /// The instruction has no such selector.
    #[error("the sparsity selector {selector} must be less than {bound}")]
    Selector {
        /// What was given.
        selector: u32,
        /// What it must be below.
        bound: u32,
    },
    /// There is no such sparse instruction, or none here.
    #[error("no mma.sp of {element:?} is known here")]
    Element {
        /// What was given.
        element: Element,
    },
}

impl Element {
    /// The dense instruction of 16 x 8 results with four registers of A: the shape follows from the elements.
    pub const fn mma(self) -> &'static str {
        match self {
            Element::F16 => "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
            Element::Bf16 => "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
            Element::Tf32 => "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
            Element::S8 => "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32",
        }
    }

    /// The sparse one, if it is known here.
    pub const fn mma_sp(self) -> Option<&'static str> {
        match self {
            Element::F16 => Some("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32"),
            Element::Bf16 => Some("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32"),
            Element::S8 => Some("mma.sp::ordered_metadata.sync.aligned.m16n8k64.row.col.s32.s8.s8.s32"),
            Element::Tf32 => None,
        }
    }

    const fn per_register(self) -> usize {
        32 / self.bits()
    }

    fn at(self, registers: &[u32], i: usize) -> u32 {
        let (each, bits) = (self.per_register(), self.bits());
        registers[i / each] >> (i % each * bits)
    }
}

/// Row and column of A's `a_i`.
fn place_in_a(element: Element, lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    let (is_upper, column) = match element {
        Element::F16 | Element::Bf16 => (matches!(i, 0..2 | 4..6), thread * 2 + (i & 1) + if i < 4 { 0 } else { 8 }),
        Element::Tf32 => (matches!(i, 0 | 2), thread + if i < 2 { 0 } else { 4 }),
        Element::S8 => (matches!(i, 0..4 | 8..12), thread * 4 + (i & 3) + if i < 8 { 0 } else { 16 }),
    };
    (if is_upper { group } else { group + 8 }, column)
}

/// Row (k) of B's `b_i`; its column is `group`.
fn row_of_b(element: Element, lane: usize, i: usize) -> usize {
    let thread = lane % 4;
    match element {
        Element::F16 | Element::Bf16 => thread * 2 + (i & 1) + i / 2 * 8,
        Element::Tf32 => thread + i * 4,
        Element::S8 => thread * 4 + (i & 3) + i / 4 * 16,
    }
}

/// Row and column of `c_i` and `d_i`.
fn place_in_c(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    (if i < 2 { group } else { group + 8 }, thread * 2 + (i & 1))
}

/// Of a sparse A's `a_i`: its row, and the first column of the four that it is one of.
fn chunk_in_a(element: Element, lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    let (is_upper, first) = match element {
        // One chunk a register; 16 columns further from a4 on.
        Element::F16 | Element::Bf16 | Element::Tf32 => {
            (matches!(i, 0..2 | 4..6), thread * 4 + if i < 4 { 0 } else { 16 })
        }
        // Two chunks a register, so "8 consecutive elements"; 32 columns further from a8 on.
        Element::S8 => (matches!(i, 0..4 | 8..12), thread * 8 + i % 4 / 2 * 4 + if i < 8 { 0 } else { 32 }),
    };
    (if is_upper { group } else { group + 8 }, first)
}

/// The lane, and the lowest of the two bits of its register, with the index of a sparse A's `a_i` in its chunk.
///
/// 16-bit (figure 122): threads 2s and 2s + 1 of the group, s the selector, have a0..a3 and a4..a7 of all four threads,
/// a row in each half. 8-bit (figures 136 and 137): thread j of the group has the four from a4j on of all four.
fn index_place(element: Element, lane: usize, i: usize, selector: usize) -> (usize, usize) {
    let (first, thread) = (lane & !3, lane % 4);
    match element {
        Element::F16 | Element::Bf16 | Element::Tf32 => {
            (first + 2 * selector + i / 4, i / 2 % 2 * 16 + thread * 4 + i % 2 * 2)
        }
        Element::S8 => (first + i / 4, thread * 8 + i % 4 * 2),
    }
}

/// The matrices of one instruction, as far as they are used: `terms` elements of each row of A, `k` rows of B.
struct Matrices {
    terms: usize,
    k: usize,
    a: [u32; 16 * 32],
    b: [[u32; 8]; 64],
    /// The rows of B that A's elements are for.
    columns: [u8; 16 * 32],
}

impl Matrices {
    fn new<const N: usize>(element: Element, b: &Registers<N>) -> Matrices {
        let terms = 8 * element.per_register();
        let k = 4 * N * element.per_register();
        let mut whole = Matrices { terms, k, a: [0; 16 * 32], b: [[0; 8]; 64], columns: [0; 16 * 32] };
        for (lane, registers) in b.iter().enumerate() {
            for i in 0..N * element.per_register() {
                whole.b[row_of_b(element, lane, i)][lane >> 2] = element.at(registers, i);
            }
        }
        whole
    }

    fn set(&mut self, row: usize, term: usize, element: u32, column: usize) {
        self.a[row * self.terms + term] = element;
        self.columns[row * self.terms + term] = column as u8;
    }

    fn times(&self, element: Element, arithmetic: Arithmetic, c: &Registers<4>) -> Registers<4> {
        let mut sums = [[0; 8]; 16];
        for (lane, i) in lanes_and(4) {
            let (row, column) = place_in_c(lane, i);
            sums[row][column] = c[lane][i];
        }
        let used = 16 * self.terms;
        if element == Element::S8 {
            self.add_integers(&mut sums);
        } else {
            let value = |bits| element.value(bits);
            let mut floats = sums.map(|row| row.map(f32::from_bits));
            let b = self.b.map(|row| row.map(value));
            multiply(
                arithmetic,
                element,
                &self.a.map(value)[..used],
                &b[..self.k],
                Some(&self.columns[..used]),
                &mut floats,
            );
            sums = floats.map(|row| row.map(f32::to_bits));
        }
        let mut d = [[0; 4]; 32];
        for (lane, i) in lanes_and(4) {
            let (row, column) = place_in_c(lane, i);
            d[lane][i] = sums[row][column];
        }
        d
    }

    fn add_integers(&self, sums: &mut [[u32; 8]; 16]) {
        let byte = |word: u32| i32::from(word as u8 as i8);
        for (i, (&a, &k)) in self.a.iter().zip(&self.columns).take(16 * self.terms).enumerate() {
            for (sum, &b) in sums[i / self.terms].iter_mut().zip(&self.b[usize::from(k)]) {
                *sum = sum.wrapping_add((byte(a) * byte(b)) as u32);
            }
        }
    }
}

fn lanes_and(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..32).flat_map(move |lane| (0..count).map(move |i| (lane, i)))
}

/// `d = a b + c`: the instruction [`Element::mma`], for the whole warp. c and d are f32, or s32 for `S8`, to which the
/// arithmetic does not matter.
pub fn mma(
    element: Element,
    arithmetic: Arithmetic,
    a: &Registers<4>,
    b: &Registers<2>,
    c: &Registers<4>,
) -> Registers<4> {
    let mut whole = Matrices::new(element, b);
    for (lane, i) in lanes_and(4 * element.per_register()) {
        let (row, column) = place_in_a(element, lane, i);
        whole.set(row, column, element.at(&a[lane], i), column);
    }
    whole.times(element, arithmetic, c)
}

/// The same where a holds two of every four elements along k, which `metadata` names: the instruction
/// [`Element::mma_sp`]. `metadata` is one register of each lane, `selector` the instruction's last operand.
pub fn mma_sp(
    element: Element,
    arithmetic: Arithmetic,
    a: &Registers<4>,
    b: &Registers<4>,
    c: &Registers<4>,
    metadata: &[u32; 32],
    selector: u32,
) -> Result<Registers<4>, Undefined> {
    if element.mma_sp().is_none() {
        return Err(Undefined::Element { element });
    }
    let bound = if element == Element::S8 { 1 } else { 2 };
    if selector >= bound {
        return Err(Undefined::Selector { selector, bound });
    }
    let mut whole = Matrices::new(element, b);
    for (lane, i) in lanes_and(4 * element.per_register()) {
        let (giver, bit) = index_place(element, lane, i, selector as usize);
        if !is_ordered(metadata[giver]) {
            return Err(Undefined::Metadata { lane: giver, metadata: metadata[giver] });
        }
        let (row, first) = chunk_in_a(element, lane, i);
        let column = first + (metadata[giver] >> bit & 3) as usize;
        whole.set(row, first / 2 + i % 2, element.at(&a[lane], i), column);
    }
    Ok(whole.times(element, arithmetic, c))
}

/// Are all eight codes meaningful: 0b0100, 0b1000, 0b1001, 0b1100, 0b1101 or 0b1110?
fn is_ordered(metadata: u32) -> bool {
    (0..8).all(|i| matches!(metadata >> (4 * i) & 15, 0b0100 | 0b1000 | 0b1001 | 0b1100 | 0b1101 | 0b1110))
}
