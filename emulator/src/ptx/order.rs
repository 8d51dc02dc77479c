//! Comparisons of two rows.

use super::op::{Kind, Row, Test};
use super::warp::Registers;

impl Registers {
    /// A bit for each lane in which the test holds.
    pub(super) fn compare(&self, test: Test, kind: Kind, a: Row, b: Row) -> u32 {
        match kind {
            Kind::U32 => whole(test, self.word(a), self.word(b), |a| a),
            Kind::S32 => whole(test, self.word(a), self.word(b), |a| a as i32),
            Kind::S16 => whole(test, self.word(a), self.word(b), |a| a as i16),
            Kind::U64 => whole(test, self.double(a), self.double(b), |a| a),
            Kind::S64 => whole(test, self.double(a), self.double(b), |a| a as i64),
            Kind::F32 => float(test, self.word(a), self.word(b), f32::from_bits),
            Kind::F64 => float(test, self.double(a), self.double(b), f64::from_bits),
        }
    }
}

/// A bit for each lane of which `f` holds.
#[inline(always)]
fn bits(f: impl Fn(usize) -> bool) -> u32 {
    (0..32).fold(0, |bits, i| bits | if f(i) { 1 << i } else { 0 })
}

#[inline(always)]
fn whole<T: Copy, N: Ord>(test: Test, a: &[T; 32], b: &[T; 32], of: impl Fn(T) -> N) -> u32 {
    match test {
        Test::Lt => bits(|i| of(a[i]) < of(b[i])),
        Test::Le => bits(|i| of(a[i]) <= of(b[i])),
        Test::Gt => bits(|i| of(a[i]) > of(b[i])),
        Test::Ge => bits(|i| of(a[i]) >= of(b[i])),
        Test::Ne => bits(|i| of(a[i]) != of(b[i])),
        _ => bits(|i| of(a[i]) == of(b[i])),
    }
}

#[inline(always)]
fn float<T: Copy, N: PartialOrd>(test: Test, a: &[T; 32], b: &[T; 32], of: impl Fn(T) -> N) -> u32 {
    let nan = |i: usize| of(a[i]).partial_cmp(&of(b[i])).is_none();
    match test {
        Test::Eq => bits(|i| of(a[i]) == of(b[i])),
        Test::Ne => bits(|i| of(a[i]) < of(b[i]) || of(a[i]) > of(b[i])),
        Test::Lt => bits(|i| of(a[i]) < of(b[i])),
        Test::Le => bits(|i| of(a[i]) <= of(b[i])),
        Test::Gt => bits(|i| of(a[i]) > of(b[i])),
        Test::Ge => bits(|i| of(a[i]) >= of(b[i])),
        Test::Equ => bits(|i| of(a[i]) == of(b[i]) || nan(i)),
        Test::Neu => bits(|i| of(a[i]) != of(b[i])),
        Test::Ltu => !bits(|i| of(a[i]) >= of(b[i])),
        Test::Leu => !bits(|i| of(a[i]) > of(b[i])),
        Test::Gtu => !bits(|i| of(a[i]) <= of(b[i])),
        Test::Geu => !bits(|i| of(a[i]) < of(b[i])),
        Test::Num => !bits(nan),
        Test::Nan => bits(nan),
    }
}
