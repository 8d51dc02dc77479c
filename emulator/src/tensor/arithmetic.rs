//! How the products of an `mma` are added up; see the room's first page.

/// What the elements of A and B are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Element {
    /// IEEE half precision.
    F16 = 0,
    /// The upper half of an f32.
    Bf16 = 1,
    /// An f32 whose 13 lowest bits do not count.
    Tf32 = 2,
    /// Signed bytes, added in i32.
    S8 = 3,
}

impl Element {
    /// All of them.
    pub const ALL: [Element; 4] = [Element::F16, Element::Bf16, Element::Tf32, Element::S8];

    /// Bits of an element in a register.
    pub const fn bits(self) -> usize {
        match self {
            Element::F16 | Element::Bf16 => 16,
            Element::Tf32 => 32,
            Element::S8 => 8,
        }
    }

    /// The number that the lowest bits of `word` spell.
    pub(super) fn value(self, word: u32) -> f32 {
        match self {
            Element::F16 => {
                let (sign, exponent, fraction) = ((word & 0x8000) << 16, word >> 10 & 31, word & 0x3ff);
                let magnitude = match exponent {
                    0 => (fraction as f32 * f32::from_bits((127 - 24) << 23)).to_bits(),
                    31 => 0x7f80_0000 | fraction << 13,
                    _ => (exponent + 127 - 15) << 23 | fraction << 13,
                };
                f32::from_bits(sign | magnitude)
            }
            Element::Bf16 => f32::from_bits(word << 16),
            Element::Tf32 => f32::from_bits(word & !0x1fff),
            Element::S8 => f32::from(word as u8 as i8),
        }
    }

    /// The exponent of the smallest normal number, which subnormal ones have too.
    const fn least_exponent(self) -> i32 {
        match self {
            Element::F16 => -14,
            _ => -126,
        }
    }
}

/// How the sums of an `mma` over floats are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u32)]
pub enum Arithmetic {
    /// In f32 and in order of k, each product and each sum rounded to nearest: as a loop would, and no device does.
    #[default]
    InOrder = 0,
    /// As Turing, Ampere and Ada do (compute capability 7.5, 8.x).
    Ampere = 1,
    /// As Hopper and Blackwell do (9.0, 10.x, 12.x).
    Hopper = 2,
}

impl Arithmetic {
    /// All of them.
    pub const ALL: [Arithmetic; 3] = [Arithmetic::InOrder, Arithmetic::Ampere, Arithmetic::Hopper];

    /// That of a device of this compute capability; `None` where it is not known.
    pub const fn of_capability(major: u32, minor: u32) -> Option<Arithmetic> {
        match (major, minor) {
            (7, 5) | (8, _) => Some(Arithmetic::Ampere),
            (9 | 10 | 12, _) => Some(Arithmetic::Hopper),
            _ => None,
        }
    }

    const fn fused(self) -> Option<Fused> {
        match self {
            Arithmetic::InOrder => None,
            Arithmetic::Ampere => Some(Fused { fraction: 24, step_bits: 128, zero_exponent: -132 }),
            Arithmetic::Hopper => Some(Fused { fraction: 25, step_bits: 256, zero_exponent: -133 }),
        }
    }
}

/// d += a b for 16 rows of A, as many elements of each row as `a` has, and 8 columns of B.
///
/// Element i of A's row r is for row `columns[r * terms + i]` of B, or, without columns, for row i: a sparse row has no
/// term for what it does not keep. Both are values of `element`.
pub(crate) fn multiply(
    arithmetic: Arithmetic,
    element: Element,
    a: &[f32],
    b: &[[f32; 8]],
    columns: Option<&[u8]>,
    sums: &mut [[f32; 8]; 16],
) {
    let terms = a.len() / 16;
    let row_of_b = |row: usize, i: usize| columns.map_or(i, |columns| usize::from(columns[row * terms + i]));
    let Some(fused) = arithmetic.fused() else {
        for (row, sums) in sums.iter_mut().enumerate() {
            for (i, a) in a[row * terms..][..terms].iter().enumerate() {
                sums.iter_mut().zip(&b[row_of_b(row, i)]).for_each(|(sum, b)| *sum += a * b);
            }
            sums.iter_mut().for_each(|sum| *sum = canonical(*sum));
        }
        return;
    };
    let operand = |value| Operand::new(value, element.least_exponent());
    let mut transposed = [[Operand::ZERO; MOST_ROWS]; 8];
    for (k, row) in b.iter().enumerate() {
        row.iter().zip(&mut transposed).for_each(|(&value, column)| column[k] = operand(value));
    }
    let (mut own, mut met) = ([Operand::ZERO; MOST_TERMS], [Operand::ZERO; MOST_TERMS]);
    for (row, sums) in sums.iter_mut().enumerate() {
        a[row * terms..][..terms].iter().zip(&mut own).for_each(|(&value, own)| *own = operand(value));
        for (sum, column) in sums.iter_mut().zip(&transposed) {
            for (i, met) in met[..terms].iter_mut().enumerate() {
                *met = column[row_of_b(row, i)];
            }
            let step = fused.step_bits / element.bits();
            let steps = own[..terms].chunks(step).zip(met[..terms].chunks(step));
            *sum = steps.fold(*sum, |sum, (a, b)| fused.step(a, b, sum));
        }
    }
}

/// The kept elements of a row at most, and the rows of B: those of the 8-bit forms.
const MOST_TERMS: usize = 32;
const MOST_ROWS: usize = 64;

/// The one NaN that tensor cores give.
fn canonical(sum: f32) -> f32 {
    if sum.is_nan() { f32::from_bits(0x7fff_ffff) } else { sum }
}

/// A finite element as the multipliers see it: `significand / 2^10 * 2^exponent`, not normalised.
#[derive(Clone, Copy)]
struct Operand {
    value: f32,
    significand: i32,
    exponent: i32,
}

/// Far beyond any exponent: so that what is no number stands out of a step, and a zero never does, whatever it is
/// multiplied with.
const NOT_FINITE: i32 = 1 << 24;
const OF_ZERO: i32 = -(1 << 22);

/// Significand with 23 fractional bits, and exponent.
fn split(value: f32, least_exponent: i32) -> (i32, i32) {
    let (field, fraction) = (value.to_bits() >> 23 & 255, (value.to_bits() & 0x7f_ffff) as i32);
    let exponent = field.max(1) as i32 - 127;
    let magnitude = if field == 0 { fraction } else { fraction | 1 << 23 };
    let significand = magnitude >> (least_exponent - exponent).clamp(0, 31);
    let signed = if value.is_sign_negative() { -significand } else { significand };
    match (field, magnitude) {
        (255, _) => (0, NOT_FINITE),
        (_, 0) => (0, OF_ZERO),
        _ => (signed, exponent.max(least_exponent)),
    }
}

impl Operand {
    const ZERO: Operand = Operand { value: 0.0, significand: 0, exponent: OF_ZERO };

    fn new(value: f32, least_exponent: i32) -> Operand {
        let (significand, exponent) = split(value, least_exponent);
        // No element has more than 10 fractional bits; the divisions are exact.
        Operand { value, significand: significand / (1 << 13), exponent }
    }
}

/// The rule of a device.
#[derive(Clone, Copy)]
struct Fused {
    /// Fractional bits that are left of a term at the largest exponent.
    fraction: i32,
    /// Bits of A in a step.
    step_bits: usize,
    /// The exponent that a zero accumulator has.
    zero_exponent: i32,
}

impl Fused {
    /// The sum of one step.
    fn step(self, a: &[Operand], b: &[Operand], sum: f32) -> f32 {
        let (significand, exponent) = split(sum, -126);
        let products = || a.iter().zip(b).map(|(a, b)| (a.significand * b.significand, a.exponent + b.exponent));
        let largest = products().fold(self.zero_exponent.max(exponent), |largest, (_, exponent)| largest.max(exponent));
        if largest > NOT_FINITE / 2 {
            // In f64 no finite product or sum overflows, so this is what IEEE arithmetic makes of the others.
            let terms = a.iter().zip(b).map(|(a, b)| f64::from(a.value) * f64::from(b.value));
            return canonical(terms.fold(f64::from(sum), |sum, term| sum + term) as f32);
        }
        let aligned = |term: i32, exponent: i32| i64::from(cut(term, largest - exponent));
        let first = aligned(significand << (self.fraction - 23), exponent);
        let total = products().fold(first, |total, (p, e)| total + aligned(p << (self.fraction - 20), e));
        toward_zero(total, largest - self.fraction)
    }
}

/// `term / 2^bits`, toward zero.
fn cut(term: i32, bits: i32) -> i32 {
    let magnitude = term.abs() >> bits.min(31);
    if term < 0 { -magnitude } else { magnitude }
}

/// `total * 2^exponent` as an f32, rounded toward zero below 2^128.
fn toward_zero(total: i64, exponent: i32) -> f32 {
    let magnitude = total.unsigned_abs();
    if magnitude == 0 {
        return 0.0;
    }
    let shifted = |by: i32| if by >= 0 { magnitude.checked_shr(by as u32).unwrap_or(0) } else { magnitude << -by };
    let highest = 63 - magnitude.leading_zeros() as i32;
    let bits = match highest + exponent {
        128.. => 0x7f80_0000,
        e @ -126.. => ((e + 127) as u32) << 23 | shifted(highest - 23) as u32 & 0x7f_ffff,
        _ => shifted(-149 - exponent) as u32,
    };
    let result = f32::from_bits(bits);
    if total < 0 && bits != 0 { -result } else { result }
}
