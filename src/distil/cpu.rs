//! The CPU executor of `distil`: rows on the threads of rayon's pool, each in blocks that stay in the first cache, on
//! sixteen lanes of `crate::sample`.

use super::{Distil, Divergence, Student, Teacher};
use crate::element::Float;
use crate::error::Result;
use crate::sample::exponent;
use crate::space::HostSpace;
use known::Known;
use rayon::prelude::*;
use slope::{Slope, differences, gradient};
use sums::{Form, Of, Sums, sums};

mod block;
mod known;
mod select;
mod slope;
mod squares;
mod sums;

pub(super) use select::top_k;
pub(super) use squares::squarehead;

/// Losses of rows, and gradients where they are wanted.
pub(super) fn distil<S: HostSpace, L: Float>(pass: Distil<'_, S, L>) -> Result<()> {
    let vocab = pass.vocab;
    let teacher = match pass.teacher {
        Teacher::None => Teacher::None,
        Teacher::Logits { by, logits } => Teacher::Logits { by, logits: S::slice(logits) },
        Teacher::TopK { k, tail, tokens, log_probs } => {
            Teacher::TopK { k, tail, tokens: S::slice(tokens), log_probs: S::slice(log_probs) }
        }
    };
    let of = match teacher {
        Teacher::None | Teacher::TopK { .. } => Of::Student,
        Teacher::Logits { by: Divergence::Forward, .. } => Of::Forward,
        Teacher::Logits { by: Divergence::Reverse, .. } => Of::Reverse,
        Teacher::Logits { by: Divergence::Jsd(_), .. } => Of::Both,
    };
    let labels = pass.labels.filter(|_| pass.lambda != 0.0).map(S::slice);
    let apart = labels.is_some() && pass.temperature != 1.0;
    let rows = Rows {
        vocab,
        form: Form { exponent: exponent(pass.temperature), of, apart },
        temperature: pass.temperature,
        teacher,
        labels,
        lambda: pass.lambda,
        ignored: pass.ignored,
        weights: pass.weights.map(S::slice),
        scale: pass.scale,
    };
    known::check_labels(pass.ignored, vocab, rows.labels.unwrap_or_default(), |row| rows.weight(row) == 0.0)?;
    if let Teacher::TopK { k, tokens, .. } = rows.teacher {
        known::check_tokens(k, vocab, tokens, |row| rows.weight(row) == 0.0)?;
    }
    let loss = S::slice_mut(pass.loss);
    if vocab == 0 {
        loss.fill(f32::NAN);
        return Ok(());
    }
    match pass.student {
        Student::Read(student) => {
            let each = S::slice(student).par_chunks(vocab).zip(loss).enumerate();
            each.for_each_init(Known::default, |known, (row, (student, loss))| {
                *loss = match rows.loss(row, student, known) {
                    Row::Skipped => 0.0,
                    Row::Lost(loss) | Row::Whole(loss, _) => loss,
                };
            });
        }
        Student::Gradient(student) => {
            let each = S::slice_mut(student).par_chunks_mut(vocab).zip(loss).enumerate();
            each.for_each_init(Known::default, |known, (row, (student, loss))| {
                *loss = match rows.loss(row, student, known) {
                    Row::Skipped => fill(student, 0.0),
                    Row::Lost(loss) => {
                        fill(student, f32::NAN);
                        loss
                    }
                    Row::Whole(loss, slope) => {
                        gradient(&slope, student, rows.teacher(row), known);
                        loss
                    }
                };
            });
        }
    }
    Ok(())
}

/// What all rows are given.
struct Rows<'a, L> {
    vocab: usize,
    form: Form,
    temperature: f32,
    teacher: Teacher<&'a [L], &'a [u32], &'a [f32]>,
    labels: Option<&'a [u32]>,
    lambda: f32,
    ignored: u32,
    weights: Option<&'a [f32]>,
    scale: f32,
}

/// What became of a row.
enum Row {
    /// Its weight is 0.
    Skipped,
    /// It has no gradient.
    Lost(f32),
    /// Its loss, and what its gradient is made of.
    Whole(f32, Slope),
}

impl<L: Float> Rows<'_, L> {
    fn weight(&self, row: usize) -> f32 {
        self.weights.map_or(1.0, |weights| weights[row])
    }

    /// The teacher's logits of a row, if it has some.
    fn teacher(&self, row: usize) -> &[L] {
        match self.teacher {
            Teacher::Logits { logits, .. } => &logits[row * self.vocab..(row + 1) * self.vocab],
            _ => &[],
        }
    }

    /// The loss of a row, and what its gradient is made of.
    fn loss(&self, row: usize, student: &[L], known: &mut Known) -> Row {
        let weight = self.weight(row);
        if weight == 0.0 {
            return Row::Skipped;
        }
        if let Teacher::TopK { k, tokens, log_probs, .. } = self.teacher {
            let range = row * k..(row + 1) * k;
            known.read(student, &tokens[range.clone()], &log_probs[range]);
        }
        let (form, teacher) = (self.form, self.teacher(row));
        let mut all = sums(&form, student, teacher, &known.tokens);
        known.add_to(&form, &mut all);
        if !all.is_whole(&form) {
            return Row::Lost(f32::NAN);
        }
        let unit = f64::from(weight) * f64::from(self.scale);
        let label = self.labels.map(|labels| labels[row]).filter(|label| *label != self.ignored);
        let mut slope = Slope::new(form, &all, label, f64::from(self.lambda) * unit);
        let mut loss = self.divergence(student, teacher, &all, known, &mut slope, unit);
        if let Some(label) = label {
            let below = f64::from(student[label as usize].to_f32()) - f64::from(all.top[0]);
            loss += f64::from(self.lambda) * (all.at_one(&form).ln() - below);
        }
        let loss = (f64::from(weight) * loss) as f32;
        let is_lost = loss.is_nan() || (form.of == Of::Reverse && all.cross.is_infinite());
        if is_lost { Row::Lost(loss) } else { Row::Whole(loss, slope) }
    }

    /// `T² D` of a row; gives the slope its factors.
    fn divergence(
        &self,
        student: &[L],
        teacher: &[L],
        all: &Sums,
        known: &mut Known,
        slope: &mut Slope,
        unit: f64,
    ) -> f64 {
        let temperature = f64::from(self.temperature);
        let (teachers, students) = (all.teacher.ln(), all.student.ln());
        let divergence = match self.teacher {
            Teacher::None => return 0.0,
            Teacher::TopK { tail, .. } => {
                let (divergence, others) = known.divergence(tail, student.len(), all, temperature);
                known.finish(&slope.form, (temperature * unit) as f32, slope.of_label);
                slope.factor = (temperature * unit * others) as f32;
                divergence
            }
            Teacher::Logits { by: Divergence::Jsd(beta), .. } => {
                slope.beta = beta;
                slope.factor = (temperature * unit * (1.0 - f64::from(beta))) as f32;
                let [of_teacher, of_student] = differences(slope, student, teacher);
                slope.mean = of_student as f32;
                f64::from(beta) * of_teacher + (1.0 - f64::from(beta)) * of_student
            }
            Teacher::Logits { by: Divergence::Reverse, .. } => {
                slope.factor = unit as f32;
                slope.mean = (all.cross / all.student) as f32;
                all.cross / all.student / temperature + teachers - students
            }
            Teacher::Logits { .. } => {
                slope.factor = (temperature * unit) as f32;
                all.cross / all.teacher / temperature + students - teachers
            }
        };
        // What is below 0 is rounding.
        if divergence < 0.0 { 0.0 } else { temperature * temperature * divergence }
    }
}

fn fill<L: Float>(student: &mut [L], value: f32) -> f32 {
    student.fill(L::from_f32(value));
    value
}
