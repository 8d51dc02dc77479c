//! The loss of hidden states.

use super::super::SquareHead;
use super::block::{BLOCK, Block};
use super::sums::total;
use crate::element::Float;
use crate::sample::vector::by_processor;
use crate::space::HostSpace;
use rayon::prelude::*;

/// Elements of a task.
const PIECE: usize = 8 * BLOCK;

/// Adds the loss of a layer's hidden states, and makes its gradient of the student's.
pub(in super::super) fn squarehead<S: HostSpace, L: Float>(pass: SquareHead<'_, S, L>) {
    let (student, teacher) = (S::slice_mut(pass.student), S::slice(pass.teacher));
    let shares = student.par_chunks(PIECE).zip(teacher.par_chunks(PIECE));
    let shares: Vec<[f64; 2]> = shares.map(|(student, teacher)| squares(student, teacher)).collect();
    if shares.is_empty() {
        return;
    }
    // In order, so that threads do not change the result.
    let [differences, teachers] = shares.iter().fold([0.0; 2], |sum, share| [sum[0] + share[0], sum[1] + share[1]]);
    let elements = pass.elements as f64;
    let size = teachers / elements + f64::from(pass.epsilon);
    if let [loss] = S::slice_mut(pass.loss) {
        *loss += (differences / elements / size) as f32;
    }
    // A NaN among the sums is to be one in every gradient.
    let lost = if differences.is_nan() { differences } else { 0.0 };
    let factor = (2.0 * f64::from(pass.scale) / elements / size + lost) as f32;
    let pieces = student.par_chunks_mut(PIECE).zip(teacher.par_chunks(PIECE));
    pieces.for_each(|(student, teacher)| differentiate(factor, student, teacher));
}

by_processor! {
    /// Sums of squares of a piece: of the differences, and of the teacher's.
    fn squares<V, L: Float>(student: &[L], teacher: &[L]) -> [f64; 2] {
        let (mut s, mut t, mut sums) = (Block::EMPTY, Block::EMPTY, [0.0; 2]);
        for (student, teacher) in student.chunks(BLOCK).zip(teacher.chunks(BLOCK)) {
            let vectors = s.widen_with(student, 0.0);
            t.widen_with(teacher, 0.0);
            let mut of_block = [V::splat(0.0); 2];
            for (s, t) in s.0[..vectors].iter().zip(&t.0[..vectors]) {
                let t = V::from_array(*t);
                let difference = V::from_array(*s) - t;
                of_block[0] = difference.mul_add(difference, of_block[0]);
                of_block[1] = t.mul_add(t, of_block[1]);
            }
            sums[0] += total(of_block[0]);
            sums[1] += total(of_block[1]);
        }
        sums
    }
}

by_processor! {
    fn differentiate<V, L: Float>(factor: f32, student: &mut [L], teacher: &[L]) {
        let (mut s, mut t, factor) = (Block::EMPTY, Block::EMPTY, V::splat(factor));
        for (student, teacher) in student.chunks_mut(BLOCK).zip(teacher.chunks(BLOCK)) {
            let vectors = s.widen_with(student, 0.0);
            t.widen_with(teacher, 0.0);
            for (s, t) in s.0[..vectors].iter_mut().zip(&t.0[..vectors]) {
                *s = ((V::from_array(*s) - V::from_array(*t)) * factor).to_array();
            }
            L::narrow(s.0.as_flattened(), student);
        }
    }
}
