//! The first sweep over a row: its largest logits, and sums of exponentials below them.

use super::block::{BLOCK, Block};
use crate::element::Float;
use crate::sample::lanes::{self, exp2};
use crate::sample::vector::{LANES, Mask, Vector, by_processor};

/// What is summed besides the student's exponentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Student,
    /// The teacher's exponentials.
    Both,
    /// Those, and the teacher's times how far it is above the student.
    Forward,
    /// Those, and the student's times how far it is above the teacher.
    Reverse,
}

/// How a row is summed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    /// `log2(e)/T`.
    pub(super) exponent: f32,
    pub(super) of: Of,
    /// Whether the student's exponentials at temperature 1 are summed, too.
    pub(super) apart: bool,
}

/// Sums of a row. "Above" and "below" are differences of logits, each less the largest of its row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sums {
    /// The largest logits, the student's and the teacher's; 0 while there is none above −∞.
    pub(super) top: [f32; 2],
    pub(super) student: f64,
    pub(super) teacher: f64,
    pub(super) apart: f64,
    pub(super) cross: f64,
    /// Whether a logit is NaN or +∞.
    pub(super) lost: bool,
}

impl Sums {
    const NONE: Self = Self { top: [0.0; 2], student: 0.0, teacher: 0.0, apart: 0.0, cross: 0.0, lost: false };

    /// Whether the row has probabilities.
    pub(super) fn is_whole(&self, form: &Form) -> bool {
        let is_sum = |sum: f64| sum > 0.0 && sum < f64::INFINITY;
        !self.lost && is_sum(self.student) && (form.of == Of::Student || is_sum(self.teacher))
    }

    /// The student's sum at temperature 1.
    pub(super) fn at_one(&self, form: &Form) -> f64 {
        if form.apart { self.apart } else { self.student }
    }

    /// Makes the logits that sums are below larger ones.
    #[inline(always)]
    fn raise<V: Vector>(&mut self, form: &Form, tops: [f32; 2]) {
        let falls = [raise(self.student, &mut self.top[0], tops[0]), raise(self.teacher, &mut self.top[1], tops[1])];
        if falls == [0.0; 2] {
            return;
        }
        let of_student = shrink::<V>(self.student, falls[0] * form.exponent);
        let of_teacher = shrink::<V>(self.teacher, falls[1] * form.exponent);
        let [student, teacher] = falls.map(f64::from);
        match form.of {
            Of::Forward => self.cross = fallen(of_teacher, self.cross + self.teacher * (teacher - student)),
            Of::Reverse => self.cross = fallen(of_student, self.cross + self.student * (student - teacher)),
            _ => {}
        }
        self.student *= of_student;
        self.teacher *= of_teacher;
        self.apart *= shrink::<V>(self.apart, falls[0] * std::f32::consts::LOG2_E);
    }
}

/// By how much what was summed falls, a number that is not above 0, where there is a larger logit; any number where
/// there is no sum.
#[inline(always)]
fn raise(sum: f64, top: &mut f32, to: f32) -> f32 {
    let is_first = sum == 0.0 && to > f32::NEG_INFINITY;
    if !is_first && to <= *top {
        return 0.0;
    }
    let fall = *top - to;
    *top = to;
    fall
}

/// What a sum is to be multiplied by.
#[inline(always)]
fn shrink<V: Vector>(sum: f64, exponent: f32) -> f64 {
    if sum == 0.0 { 0.0 } else { f64::from(exp2(V::splat(exponent)).to_array()[0]) }
}

/// A sum of weighted differences whose weights have shrunk.
#[inline(always)]
fn fallen(factor: f64, cross: f64) -> f64 {
    // What underflows does not count, though its difference were infinite.
    if factor == 0.0 { 0.0 } else { cross * factor }
}

by_processor! {
    /// Sums a row. Logits of the tokens that are hidden, in ascending order, count as −∞.
    pub(super) fn sums<V, L: Float>(form: &Form, student: &[L], teacher: &[L], hidden: &[u32]) -> Sums {
        let (mut s, mut t) = (Block::EMPTY, Block::EMPTY);
        let (mut all, mut hidden) = (Sums::NONE, hidden);
        for first in (0..student.len()).step_by(BLOCK) {
            let vectors = s.widen(&student[first..]);
            hidden = s.hide(first, hidden);
            let students = tops::<V>(&s.0[..vectors]);
            let mut teachers = [f32::NEG_INFINITY, 0.0];
            if form.of != Of::Student {
                t.widen(&teacher[first..]);
                teachers = tops::<V>(&t.0[..vectors]);
            }
            all.lost |= [students, teachers].iter().any(|[top, nan]| *top == f32::INFINITY || *nan != 0.0);
            if all.lost {
                return all;
            }
            all.raise::<V>(form, [students[0], teachers[0]]);
            let (s, t, top) = (&s.0[..vectors], &t.0[..vectors], all.top);
            let [students, teachers, apart, cross] = match (form.of, form.apart) {
                (Of::Student, false) => add::<V, STUDENT, false>(form, top, s, t),
                (Of::Student, true) => add::<V, STUDENT, true>(form, top, s, t),
                (Of::Both, false) => add::<V, BOTH, false>(form, top, s, t),
                (Of::Both, true) => add::<V, BOTH, true>(form, top, s, t),
                (Of::Forward, false) => add::<V, FORWARD, false>(form, top, s, t),
                (Of::Forward, true) => add::<V, FORWARD, true>(form, top, s, t),
                (Of::Reverse, false) => add::<V, REVERSE, false>(form, top, s, t),
                (Of::Reverse, true) => add::<V, REVERSE, true>(form, top, s, t),
            };
            all.student += students;
            all.teacher += teachers;
            all.apart += apart;
            all.cross += cross;
        }
        all
    }
}

// `Of` as parameters of functions.
pub(super) const STUDENT: u8 = 0;
pub(super) const BOTH: u8 = 1;
pub(super) const FORWARD: u8 = 2;
pub(super) const REVERSE: u8 = 3;

/// The largest of some logits, and 0, or another number if one is NaN.
#[inline(always)]
fn tops<V: Vector>(logits: &[[f32; LANES]]) -> [f32; 2] {
    let mut top = [V::splat(f32::NEG_INFINITY); 2];
    let mut lost = V::splat(0.0).is_unordered(V::splat(0.0));
    let mut pairs = logits.chunks_exact(2);
    for pair in &mut pairs {
        let [a, b] = [V::from_array(pair[0]), V::from_array(pair[1])];
        top = [top[0].max(a), top[1].max(b)];
        lost = lost | a.is_unordered(b);
    }
    for last in pairs.remainder() {
        let last = V::from_array(*last);
        top[0] = top[0].max(last);
        lost = lost | last.is_unordered(last);
    }
    let all = top[0].max(top[1]).to_array();
    let mut largest = f32::NEG_INFINITY;
    for value in all {
        largest = if value > largest { value } else { largest };
    }
    [largest, f32::from(lost.to_bits())]
}

/// Sums over a block: of the student's exponentials, of the teacher's, of the student's at temperature 1, and of
/// differences.
#[inline(always)]
fn add<V: Vector, const OF: u8, const APART: bool>(
    form: &Form,
    top: [f32; 2],
    student: &[[f32; LANES]],
    teacher: &[[f32; LANES]],
) -> [f64; 4] {
    let zero = V::splat(0.0);
    let (mut students, mut teachers, mut apart, mut cross) = (zero, zero, zero, zero);
    let exponent = V::splat(form.exponent);
    for (s, t) in student.iter().zip(teacher) {
        let s = V::from_array(*s) - V::splat(top[0]);
        let e = exp2(s * exponent);
        students = students + e;
        if APART {
            apart = apart + exp2(s * V::splat(std::f32::consts::LOG2_E));
        }
        if OF == STUDENT {
            continue;
        }
        let t = V::from_array(*t) - V::splat(top[1]);
        let f = exp2(t * exponent);
        teachers = teachers + f;
        if OF == FORWARD {
            cross = cross + V::select(zero.is_below(f), f * (t - s), zero);
        }
        if OF == REVERSE {
            cross = cross + V::select(zero.is_below(e), e * (s - t), zero);
        }
    }
    [total(students), total(teachers), total(apart), total(cross)]
}

#[inline(always)]
pub(super) fn total<V: Vector>(values: V) -> f64 {
    lanes::sum(&values.to_array())
}

by_processor! {
    /// `2^x` of each of some numbers x ≤ 0.
    pub(super) fn powers<V>(numbers: &mut [f32]) {
        for numbers in numbers.chunks_mut(LANES) {
            let mut lanes = [0.0; LANES];
            lanes[..numbers.len()].copy_from_slice(numbers);
            numbers.copy_from_slice(&exp2(V::from_array(lanes)).to_array()[..numbers.len()]);
        }
    }
}

by_processor! {
    /// Makes the student's logit that sums are below a larger one.
    pub(super) fn raise_student<V>(form: &Form, all: &mut Sums, top: f32) {
        all.raise::<V>(form, [top, f32::NEG_INFINITY]);
    }
}
