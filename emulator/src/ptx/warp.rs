//! A warp's registers, and the operations that each lane does for itself.
//!
//! An operation reads whole rows, computes all 32 lanes in a loop that the compiler turns into vectors, and keeps the
//! lanes that execute it. Lanes that do not are computed, too: no operation here can fail.

use super::kinds::{D1, D2, D3, DW, Shift, W1, W2, W2D, W3, WD};
use super::lanes::{Doubles, Words, each, keep};
use super::op::{Guard, Logic, NONE, Op, Row};
use super::{fused, scalar as s};

/// The registers of a warp.
pub(super) struct Registers {
    pub(super) words: Vec<Words>,
    pub(super) doubles: Vec<Doubles>,
    /// A bit a lane.
    pub(super) predicates: Vec<u32>,
}

impl Registers {
    pub(super) fn new(counts: [u32; 3]) -> Registers {
        Registers {
            words: vec![[u32::MAX; 32]; counts[0] as usize],
            doubles: vec![[u64::MAX; 32]; counts[1] as usize],
            predicates: vec![0; counts[2] as usize],
        }
    }

    #[inline(always)]
    pub(super) fn word(&self, row: Row) -> &Words {
        &self.words[row as usize]
    }

    #[inline(always)]
    pub(super) fn double(&self, row: Row) -> &Doubles {
        &self.doubles[row as usize]
    }

    #[inline(always)]
    pub(super) fn set_word(&mut self, row: Row, lanes: u32, values: &Words) {
        keep(&mut self.words[row as usize], lanes, values);
    }

    #[inline(always)]
    pub(super) fn set_double(&mut self, row: Row, lanes: u32, values: &Doubles) {
        keep(&mut self.doubles[row as usize], lanes, values);
    }

    #[inline(always)]
    pub(super) fn set_predicate(&mut self, row: Row, lanes: u32, bits: u32) {
        let predicate = &mut self.predicates[row as usize];
        *predicate = *predicate & !lanes | bits & lanes;
    }

    /// The lanes in which a guard holds.
    #[inline(always)]
    pub(super) fn guarded(&self, guard: Guard) -> u32 {
        let bits = self.predicates[guard.row as usize];
        if guard.negated { !bits } else { bits }
    }

    /// Does what each lane does for itself in these lanes. Gives whether it was such an operation.
    #[inline(always)]
    pub(super) fn lane_by_lane(&mut self, op: &Op, lanes: u32) -> bool {
        match op {
            Op::W1(what, rows) => self.w1(*what, *rows, lanes),
            Op::W2(what, rows) => self.w2(*what, *rows, lanes),
            Op::W3(what, rows) => self.w3(*what, *rows, lanes),
            Op::D1(what, rows) => self.d1(*what, *rows, lanes),
            Op::D2(what, rows) => self.d2(*what, *rows, lanes),
            Op::D3(what, rows) => self.d3(*what, *rows, lanes),
            Op::Shift(what, rows) => self.shift(*what, *rows, lanes),
            Op::WD(what, rows) => self.wd(*what, *rows, lanes),
            Op::W2D(what, rows) => self.wwd(*what, *rows, lanes),
            Op::MultiplyAddWide { signed, d, a, b, c } => {
                let (a, b, c) = (self.word(*a), self.word(*b), self.double(*c));
                let sums = each(|i| wide(a[i], b[i], *signed).wrapping_add(c[i]));
                self.set_double(*d, lanes, &sums);
            }
            Op::DW(what, rows) => self.dw(*what, *rows, lanes),
            Op::InsertW([d, a, b, c, e]) => {
                let [a, b, c, e] = [a, b, c, e].map(|row| self.word(*row));
                let values = each(|i| s::insert(a[i].into(), b[i].into(), c[i], e[i], 32) as u32);
                self.set_word(*d, lanes, &values);
            }
            Op::InsertD([d, a, b, c, e]) => {
                let (a, b, c, e) = (self.double(*a), self.double(*b), self.word(*c), self.word(*e));
                let values = each(|i| s::insert(a[i], b[i], c[i], e[i], 64));
                self.set_double(*d, lanes, &values);
            }
            Op::UnpackW([low, high, a]) => {
                let a = *self.word(*a);
                self.set_word(*low, lanes, &a.map(|a| a & 0xFFFF));
                self.set_word(*high, lanes, &a.map(|a| a >> 16));
            }
            Op::UnpackD([low, high, a]) => {
                let a = *self.double(*a);
                self.set_word(*low, lanes, &a.map(|a| a as u32));
                self.set_word(*high, lanes, &a.map(|a| (a >> 32) as u32));
            }
            Op::SelectW([d, a, b, p]) => {
                let (a, b, p) = (self.word(*a), self.word(*b), self.predicates[*p as usize]);
                let values = each(|i| if p >> i & 1 == 1 { a[i] } else { b[i] });
                self.set_word(*d, lanes, &values);
            }
            Op::SelectD([d, a, b, p]) => {
                let (a, b, p) = (self.double(*a), self.double(*b), self.predicates[*p as usize]);
                let values = each(|i| if p >> i & 1 == 1 { a[i] } else { b[i] });
                self.set_double(*d, lanes, &values);
            }
            Op::Compare { test, kind, p, q, a, b, with } => {
                let holds = self.compare(*test, *kind, *a, *b);
                let joined = |holds: u32| with.map_or(holds, |(logic, c)| join(logic, holds, self.guarded(c)));
                let (yes, no) = (joined(holds), joined(!holds));
                self.set_predicate(*p, lanes, yes);
                if *q != NONE {
                    self.set_predicate(*q, lanes, no);
                }
            }
            Op::Logic(logic, [d, a, b]) => {
                let bits = join(*logic, self.predicates[*a as usize], self.predicates[*b as usize]);
                self.set_predicate(*d, lanes, bits);
            }
            Op::MoveP([d, a]) => self.set_predicate(*d, lanes, self.predicates[*a as usize]),
            Op::NotP([d, a]) => self.set_predicate(*d, lanes, !self.predicates[*a as usize]),
            _ => return false,
        }
        true
    }

    #[inline(always)]
    fn word1(&mut self, [d, a]: [Row; 2], lanes: u32, f: impl Fn(u32) -> u32) {
        let a = self.word(a);
        let values = each(|i| f(a[i]));
        self.set_word(d, lanes, &values);
    }

    #[inline(always)]
    fn word2(&mut self, [d, a, b]: [Row; 3], lanes: u32, f: impl Fn(u32, u32) -> u32) {
        let (a, b) = (self.word(a), self.word(b));
        let values = each(|i| f(a[i], b[i]));
        self.set_word(d, lanes, &values);
    }

    #[inline(always)]
    fn word3(&mut self, [d, a, b, c]: [Row; 4], lanes: u32, f: impl Fn(u32, u32, u32) -> u32) {
        let (a, b, c) = (self.word(a), self.word(b), self.word(c));
        let values = each(|i| f(a[i], b[i], c[i]));
        self.set_word(d, lanes, &values);
    }

    #[inline(always)]
    fn double1(&mut self, [d, a]: [Row; 2], lanes: u32, f: impl Fn(u64) -> u64) {
        let a = self.double(a);
        let values = each(|i| f(a[i]));
        self.set_double(d, lanes, &values);
    }

    #[inline(always)]
    fn double2(&mut self, [d, a, b]: [Row; 3], lanes: u32, f: impl Fn(u64, u64) -> u64) {
        let (a, b) = (self.double(a), self.double(b));
        let values = each(|i| f(a[i], b[i]));
        self.set_double(d, lanes, &values);
    }

    fn w1(&mut self, what: W1, rows: [Row; 2], lanes: u32) {
        use f32 as F;
        match what {
            W1::Move => self.word1(rows, lanes, |a| a),
            W1::Not => self.word1(rows, lanes, |a| !a),
            W1::Not16 => self.word1(rows, lanes, |a| !a & 0xFFFF),
            W1::Negate => self.word1(rows, lanes, u32::wrapping_neg),
            W1::Negate16 => self.word1(rows, lanes, |a| a.wrapping_neg() & 0xFFFF),
            W1::Absolute => self.word1(rows, lanes, |a| (a as i32).wrapping_abs() as u32),
            W1::Popcount => self.word1(rows, lanes, u32::count_ones),
            W1::LeadingZeros => self.word1(rows, lanes, u32::leading_zeros),
            W1::Reverse => self.word1(rows, lanes, u32::reverse_bits),
            W1::NegateF => self.word1(rows, lanes, |a| a ^ 0x8000_0000),
            W1::AbsoluteF => self.word1(rows, lanes, |a| a & 0x7FFF_FFFF),
            W1::SqrtF => self.word1(rows, lanes, |a| s::canonical(F::from_bits(a).sqrt())),
            W1::ReciprocalF => self.word1(rows, lanes, |a| s::canonical(1.0 / F::from_bits(a))),
            W1::ReciprocalApprox => self.word1(rows, lanes, s::reciprocal_approx),
            W1::Exp2Approx => self.word1(rows, lanes, s::exp2_approx),
            W1::FloatOfHalf => self.word1(rows, lanes, s::float_of_half),
            W1::FloatOfBrain => self.word1(rows, lanes, s::float_of_brain),
            W1::HalfOfFloat => self.word1(rows, lanes, s::half_of_float),
            W1::BrainOfFloat => self.word1(rows, lanes, s::brain_of_float),
            W1::Tf32OfFloat => self.word1(rows, lanes, s::tf32_of_float),
            W1::FloatOfSigned => self.word1(rows, lanes, |a| (a as i32 as f32).to_bits()),
            W1::FloatOfUnsigned => self.word1(rows, lanes, |a| (a as f32).to_bits()),
            W1::SignedOfFloatToZero => self.word1(rows, lanes, |a| F::from_bits(a) as i32 as u32),
            W1::UnsignedOfFloatToZero => self.word1(rows, lanes, |a| F::from_bits(a) as u32),
            W1::SignedOfFloatNearest => self.word1(rows, lanes, |a| s::signed_nearest(F::from_bits(a)) as u32),
            W1::Low8 => self.word1(rows, lanes, |a| a & 0xFF),
            W1::Low16 => self.word1(rows, lanes, |a| a & 0xFFFF),
            W1::Signed8 => self.word1(rows, lanes, |a| a as i8 as u32),
            W1::Signed8To16 => self.word1(rows, lanes, |a| a as i8 as u32 & 0xFFFF),
            W1::Signed16 => self.word1(rows, lanes, |a| a as i16 as u32),
        }
    }

    fn w2(&mut self, what: W2, rows: [Row; 3], lanes: u32) {
        let mut go = |f: fn(u32, u32) -> u32| self.word2(rows, lanes, f);
        match what {
            W2::DivideU => go(|a, b| a.checked_div(b).unwrap_or(u32::MAX)),
            W2::DivideS => go(s::divide_s),
            W2::RemainderU => go(|a, b| a.checked_rem(b).unwrap_or(a)),
            W2::RemainderS => go(s::remainder_s),
            W2::MinF => go(|a, b| s::min_f(a, b, false)),
            W2::MaxF => go(|a, b| s::max_f(a, b, false)),
            W2::HalvesOfFloats => go(|a, b| s::half_of_float(a) << 16 | s::half_of_float(b)),
            W2::BrainsOfFloats => go(|a, b| s::brain_of_float(a) << 16 | s::brain_of_float(b)),
            W2::Add => self.word2(rows, lanes, u32::wrapping_add),
            W2::Subtract => self.word2(rows, lanes, u32::wrapping_sub),
            W2::Multiply => self.word2(rows, lanes, u32::wrapping_mul),
            W2::MultiplyHighU => self.word2(rows, lanes, |a, b| (wide(a, b, false) >> 32) as u32),
            W2::MultiplyHighS => self.word2(rows, lanes, |a, b| (wide(a, b, true) >> 32) as u32),
            W2::And => self.word2(rows, lanes, |a, b| a & b),
            W2::Or => self.word2(rows, lanes, |a, b| a | b),
            W2::Xor => self.word2(rows, lanes, |a, b| a ^ b),
            W2::ShiftLeft => self.word2(rows, lanes, s::shift_left),
            W2::ShiftRightU => self.word2(rows, lanes, s::shift_right),
            W2::ShiftRightS => self.word2(rows, lanes, |a, b| (a as i32 >> b.min(31)) as u32),
            W2::MinU => self.word2(rows, lanes, u32::min),
            W2::MaxU => self.word2(rows, lanes, u32::max),
            W2::MinS => self.word2(rows, lanes, |a, b| (a as i32).min(b as i32) as u32),
            W2::MaxS => self.word2(rows, lanes, |a, b| (a as i32).max(b as i32) as u32),
            W2::Add16 => self.word2(rows, lanes, |a, b| a.wrapping_add(b) & 0xFFFF),
            W2::Subtract16 => self.word2(rows, lanes, |a, b| a.wrapping_sub(b) & 0xFFFF),
            W2::Multiply16 => self.word2(rows, lanes, |a, b| a.wrapping_mul(b) & 0xFFFF),
            W2::ShiftLeft16 => self.word2(rows, lanes, |a, b| s::shift_left(a, b) & 0xFFFF),
            W2::ShiftRight16 => self.word2(rows, lanes, s::shift_right),
            W2::MultiplyWide16 => self.word2(rows, lanes, u32::wrapping_mul),
            W2::AddF => self.word2(rows, lanes, |a, b| s::float2(a, b, |a, b| a + b)),
            W2::SubtractF => self.word2(rows, lanes, |a, b| s::float2(a, b, |a, b| a - b)),
            W2::MultiplyF => self.word2(rows, lanes, |a, b| s::float2(a, b, |a, b| a * b)),
            W2::DivideF => self.word2(rows, lanes, |a, b| s::float2(a, b, |a, b| a / b)),
            W2::MinNanF => self.word2(rows, lanes, |a, b| s::min_f(a, b, true)),
            W2::MaxNanF => self.word2(rows, lanes, |a, b| s::max_f(a, b, true)),
            W2::Pack => self.word2(rows, lanes, |a, b| b << 16 | a),
        }
    }

    fn w3(&mut self, what: W3, rows: [Row; 4], lanes: u32) {
        match what {
            W3::MultiplyAdd => self.word3(rows, lanes, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
            W3::FmaF => {
                let [d, a, b, c] = rows;
                let values = fused::floats(self.word(a), self.word(b), self.word(c));
                self.set_word(d, lanes, &values);
            }
            W3::Permute => self.word3(rows, lanes, s::permute),
            W3::FunnelLeftWrap => self.word3(rows, lanes, |a, b, c| s::funnel_left(a, b, c & 31)),
            W3::FunnelRightWrap => self.word3(rows, lanes, |a, b, c| s::funnel_right(a, b, c & 31)),
            W3::FunnelLeftClamp => self.word3(rows, lanes, |a, b, c| s::funnel_left(a, b, c.min(32))),
            W3::FunnelRightClamp => self.word3(rows, lanes, |a, b, c| s::funnel_right(a, b, c.min(32))),
            W3::ExtractU => self.word3(rows, lanes, s::extract),
        }
    }

    fn d1(&mut self, what: D1, rows: [Row; 2], lanes: u32) {
        match what {
            D1::Move => self.double1(rows, lanes, |a| a),
            D1::Not => self.double1(rows, lanes, |a| !a),
            D1::Negate => self.double1(rows, lanes, u64::wrapping_neg),
            D1::Absolute => self.double1(rows, lanes, |a| (a as i64).wrapping_abs() as u64),
            D1::NegateF => self.double1(rows, lanes, |a| a ^ 1 << 63),
            D1::AbsoluteF => self.double1(rows, lanes, |a| a & !(1 << 63)),
            D1::SqrtF => self.double1(rows, lanes, |a| f64::from_bits(a).sqrt().to_bits()),
            D1::FloatOfSigned => self.double1(rows, lanes, |a| (a as i64 as f64).to_bits()),
            D1::FloatOfUnsigned => self.double1(rows, lanes, |a| (a as f64).to_bits()),
        }
    }

    fn d2(&mut self, what: D2, rows: [Row; 3], lanes: u32) {
        let mut go = |f: fn(u64, u64) -> u64| self.double2(rows, lanes, f);
        match what {
            D2::DivideU => go(|a, b| a.checked_div(b).unwrap_or(u64::MAX)),
            D2::DivideS => go(|a, b| if b == 0 { u64::MAX } else { (a as i64).wrapping_div(b as i64) as u64 }),
            D2::RemainderU => go(|a, b| a.checked_rem(b).unwrap_or(a)),
            D2::RemainderS => go(|a, b| if b == 0 { a } else { (a as i64).wrapping_rem(b as i64) as u64 }),
            D2::MultiplyHighU => go(|a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64),
            D2::MinF => go(|a, b| s::extreme_d(a, b, false)),
            D2::MaxF => go(|a, b| s::extreme_d(a, b, true)),
            D2::Add => self.double2(rows, lanes, u64::wrapping_add),
            D2::Subtract => self.double2(rows, lanes, u64::wrapping_sub),
            D2::Multiply => self.double2(rows, lanes, u64::wrapping_mul),
            D2::And => self.double2(rows, lanes, |a, b| a & b),
            D2::Or => self.double2(rows, lanes, |a, b| a | b),
            D2::Xor => self.double2(rows, lanes, |a, b| a ^ b),
            D2::MinU => self.double2(rows, lanes, u64::min),
            D2::MaxU => self.double2(rows, lanes, u64::max),
            D2::MinS => self.double2(rows, lanes, |a, b| (a as i64).min(b as i64) as u64),
            D2::MaxS => self.double2(rows, lanes, |a, b| (a as i64).max(b as i64) as u64),
            D2::AddF => self.double2(rows, lanes, |a, b| s::double2(a, b, |a, b| a + b)),
            D2::SubtractF => self.double2(rows, lanes, |a, b| s::double2(a, b, |a, b| a - b)),
            D2::MultiplyF => self.double2(rows, lanes, |a, b| s::double2(a, b, |a, b| a * b)),
            D2::DivideF => self.double2(rows, lanes, |a, b| s::double2(a, b, |a, b| a / b)),
        }
    }

    fn d3(&mut self, what: D3, [d, a, b, c]: [Row; 4], lanes: u32) {
        let (a, b, c) = (self.double(a), self.double(b), self.double(c));
        let values = match what {
            D3::MultiplyAdd => each(|i| a[i].wrapping_mul(b[i]).wrapping_add(c[i])),
            D3::FmaF => fused::doubles(a, b, c),
        };
        self.set_double(d, lanes, &values);
    }

    fn shift(&mut self, what: Shift, [d, a, b]: [Row; 3], lanes: u32) {
        let (a, b) = (self.double(a), self.word(b));
        let values = match what {
            Shift::Left => each(|i| if b[i] > 63 { 0 } else { a[i] << b[i] }),
            Shift::RightU => each(|i| if b[i] > 63 { 0 } else { a[i] >> b[i] }),
            Shift::RightS => each(|i| (a[i] as i64 >> b[i].min(63)) as u64),
        };
        self.set_double(d, lanes, &values);
    }

    fn wd(&mut self, what: WD, [d, a]: [Row; 2], lanes: u32) {
        let a = self.word(a);
        let values = match what {
            WD::Unsigned => each(|i| u64::from(a[i])),
            WD::Signed => each(|i| a[i] as i32 as u64),
            WD::DoubleOfFloat => each(|i| f64::from(f32::from_bits(a[i])).to_bits()),
            WD::DoubleOfSigned => each(|i| f64::from(a[i] as i32).to_bits()),
            WD::DoubleOfUnsigned => each(|i| f64::from(a[i]).to_bits()),
        };
        self.set_double(d, lanes, &values);
    }

    fn wwd(&mut self, what: W2D, [d, a, b]: [Row; 3], lanes: u32) {
        let (a, b) = (self.word(a), self.word(b));
        let values = match what {
            W2D::MultiplyU => each(|i| wide(a[i], b[i], false)),
            W2D::MultiplyS => each(|i| wide(a[i], b[i], true)),
            W2D::Pack => each(|i| u64::from(b[i]) << 32 | u64::from(a[i])),
        };
        self.set_double(d, lanes, &values);
    }

    fn dw(&mut self, what: DW, [d, a]: [Row; 2], lanes: u32) {
        let a = self.double(a);
        let values = match what {
            DW::Low => each(|i| a[i] as u32),
            DW::Low16 => each(|i| a[i] as u32 & 0xFFFF),
            DW::Popcount => each(|i| a[i].count_ones()),
            DW::LeadingZeros => each(|i| a[i].leading_zeros()),
            DW::FloatOfDouble => each(|i| s::canonical(f64::from_bits(a[i]) as f32)),
            DW::FloatOfUnsigned => each(|i| (a[i] as f32).to_bits()),
            DW::FloatOfSigned => each(|i| (a[i] as i64 as f32).to_bits()),
            DW::SignedOfDoubleToZero => each(|i| f64::from_bits(a[i]) as i32 as u32),
        };
        self.set_word(d, lanes, &values);
    }
}

#[inline(always)]
fn wide(a: u32, b: u32, signed: bool) -> u64 {
    if signed { (i64::from(a as i32) * i64::from(b as i32)) as u64 } else { u64::from(a) * u64::from(b) }
}

#[inline(always)]
fn join(logic: Logic, a: u32, b: u32) -> u32 {
    match logic {
        Logic::And => a & b,
        Logic::Or => a | b,
        Logic::Xor => a ^ b,
    }
}
