//! The sweep that writes the gradient of a row, and the one before it that Jensen and Shannon's divergence needs.

use super::block::{BLOCK, Block};
use super::known::Known;
use super::sums::{BOTH, FORWARD, Form, Of, REVERSE, STUDENT, Sums, total};
use crate::element::Float;
use crate::sample::lanes::exp2;
use crate::sample::vector::{LANES, Vector, Words, by_processor};

/// What a row's gradient is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slope {
    pub(super) form: Form,
    top: [f32; 2],
    /// 1 over the sums of exponentials, the student's and the teacher's.
    inverse: [f32; 2],
    /// What the divergence's gradient is multiplied by.
    pub(super) factor: f32,
    pub(super) beta: f32,
    /// What is subtracted from differences or logarithms: their mean under the student.
    pub(super) mean: f32,
    /// What exponentials at temperature 1 are multiplied by for the label's sake.
    pub(super) of_label: f32,
    /// The label, and what is subtracted there.
    label: Option<(usize, f32)>,
}

impl Slope {
    /// Of a label alone, whose cross-entropy counts so much.
    pub(super) fn new(form: Form, all: &Sums, label: Option<u32>, weight: f64) -> Self {
        let inverse = [all.student, all.teacher].map(|sum| (1.0 / sum) as f32);
        let of_label = if label.is_some() { (weight / all.at_one(&form)) as f32 } else { 0.0 };
        let label = label.map(|label| (label as usize, weight as f32));
        Self { form, top: all.top, inverse, factor: 0.0, beta: 0.0, mean: 0.0, of_label, label }
    }
}

by_processor! {
    /// Overwrites a row of the student's logits by the gradient.
    pub(super) fn gradient<V, L: Float>(slope: &Slope, student: &mut [L], teacher: &[L], known: &Known) {
        let (mut s, mut t) = (Block::EMPTY, Block::EMPTY);
        let mut known = known.tokens.iter().zip(&known.gradients).peekable();
        for (i, student) in student.chunks_mut(BLOCK).enumerate() {
            let first = i * BLOCK;
            let vectors = s.widen(student);
            if slope.form.of != Of::Student {
                t.widen(&teacher[first..]);
            }
            let (of, apart) = (slope.form.of, slope.form.apart);
            let (gradients, t) = (&mut s.0[..vectors], &t.0[..vectors]);
            match (of, apart) {
                (Of::Student, false) => differentiate::<V, STUDENT, false>(slope, gradients, t),
                (Of::Student, true) => differentiate::<V, STUDENT, true>(slope, gradients, t),
                (Of::Both, false) => differentiate::<V, BOTH, false>(slope, gradients, t),
                (Of::Both, true) => differentiate::<V, BOTH, true>(slope, gradients, t),
                (Of::Forward, false) => differentiate::<V, FORWARD, false>(slope, gradients, t),
                (Of::Forward, true) => differentiate::<V, FORWARD, true>(slope, gradients, t),
                (Of::Reverse, false) => differentiate::<V, REVERSE, false>(slope, gradients, t),
                (Of::Reverse, true) => differentiate::<V, REVERSE, true>(slope, gradients, t),
            }
            let gradients = s.0.as_flattened_mut();
            while let Some((token, gradient)) = known.next_if(|(token, _)| (**token as usize) < first + BLOCK) {
                gradients[*token as usize - first] = *gradient;
            }
            if let Some((label, weight)) = slope.label
                && (first..first + BLOCK).contains(&label)
            {
                gradients[label - first] -= weight;
            }
            match student.len() {
                // A length that the compiler knows.
                BLOCK => L::narrow(gradients, &mut student[..BLOCK]),
                _ => L::narrow(gradients, student),
            }
        }
    }
}

/// Makes the gradients of a block of the student's logits.
#[inline(always)]
fn differentiate<V: Vector, const OF: u8, const APART: bool>(
    slope: &Slope,
    student: &mut [[f32; LANES]],
    teacher: &[[f32; LANES]],
) {
    let (zero, factor) = (V::splat(0.0), V::splat(slope.factor));
    let (exponent, mean) = (V::splat(slope.form.exponent), V::splat(slope.mean));
    for (logits, t) in student.iter_mut().zip(teacher) {
        let s = V::from_array(*logits) - V::splat(slope.top[0]);
        let e = exp2(s * exponent);
        let p = e * V::splat(slope.inverse[0]);
        let of_label = V::splat(slope.of_label) * if APART { exp2(s * V::splat(std::f32::consts::LOG2_E)) } else { e };
        let gradient = if OF == STUDENT {
            p
        } else {
            let t = V::from_array(*t) - V::splat(slope.top[1]);
            match OF {
                FORWARD => p - exp2(t * exponent) * V::splat(slope.inverse[1]),
                REVERSE => V::select(zero.is_below(e), p * (s - t - mean), zero),
                _ => {
                    let q = exp2(t * exponent) * V::splat(slope.inverse[1]);
                    p * (ln_over_mean(p, q, slope.beta) - mean)
                }
            }
        };
        *logits = gradient.mul_add(factor, of_label).to_array();
    }
}

by_processor! {
    /// `Σ q ln(q/m)` and `Σ p ln(p/m)` of a row.
    pub(super) fn differences<V, L: Float>(slope: &Slope, student: &[L], teacher: &[L]) -> [f64; 2] {
        let (mut s, mut t, mut sums) = (Block::EMPTY, Block::EMPTY, [0.0; 2]);
        let (exponent, beta) = (V::splat(slope.form.exponent), slope.beta);
        for (student, teacher) in student.chunks(BLOCK).zip(teacher.chunks(BLOCK)) {
            let (vectors, _) = (s.widen(student), t.widen(teacher));
            let mut of_block = [V::splat(0.0); 2];
            for (s, t) in s.0[..vectors].iter().zip(&t.0[..vectors]) {
                let s = V::from_array(*s) - V::splat(slope.top[0]);
                let t = V::from_array(*t) - V::splat(slope.top[1]);
                let p = exp2(s * exponent) * V::splat(slope.inverse[0]);
                let q = exp2(t * exponent) * V::splat(slope.inverse[1]);
                of_block[0] = of_block[0] + q * ln_over_mean(q, p, 1.0 - beta);
                of_block[1] = of_block[1] + p * ln_over_mean(p, q, beta);
            }
            sums[0] += total(of_block[0]);
            sums[1] += total(of_block[1]);
        }
        sums
    }
}

/// `ln(p/m)` with `m = β q + (1−β) p`; where p is 0, some number.
#[inline(always)]
fn ln_over_mean<V: Vector>(p: V, q: V, beta: f32) -> V {
    let (one, beta) = (V::splat(1.0), V::splat(beta));
    // p/m = 1 + r: near 1 it is r that is accurate, far below p/m itself.
    let m = (q - p).mul_add(beta, p);
    let m = V::select(V::splat(0.0).is_below(m), m, one);
    let r = beta * (p - q) / m;
    let is_far = r.is_below(V::splat(-0.5));
    let ratio = V::select(is_far, p / m, one + r);
    ln(ratio) + V::select(is_far, V::splat(0.0), (r - (ratio - one)) / ratio)
}

/// The natural logarithm of a normal number, to about one unit in the last place, as musl makes it; of other numbers
/// that are not below 0, some number.
#[inline(always)]
fn ln<V: Vector>(x: V) -> V {
    let (word, splat) = (V::Words::splat, V::splat);
    const ROOT_HALF: u32 = 0x3f35_04f3;
    let bits = x.to_bits() + word(0x3f80_0000 - ROOT_HALF);
    // The exponent as a number: in the low bits of 2²³.
    let k = V::from_bits(word(0x4b00_0000) | bits.shr::<23>()) - splat(8_388_608.0 + 127.0);
    let f = V::from_bits((bits & word(0x007f_ffff)) + word(ROOT_HALF)) - splat(1.0);
    let s = f / (splat(2.0) + f);
    let z = s * s;
    let w = z * z;
    let odd = w.mul_add(splat(0.242_790_79), splat(0.400_009_72)) * w;
    let even = w.mul_add(splat(0.284_987_87), splat(0.666_666_6)) * z;
    let half = splat(0.5) * f * f;
    // ln 2 in two parts.
    let low = s.mul_add(half + (odd + even), k * splat(9.058_001e-6));
    low - half + f + k * splat(0.693_138_1)
}
