//! What a row may hold, on every executor.

use crate::case::{Case, Distilled, Teacher, logits, rng};
use crate::common::{TestExecutor, everywhere_tests, given, same};
use std::any::TypeId;
use twofour::distil::{Distil, Divergence, IGNORED, Tail};
use twofour::space::Host;
use twofour::{Error, Float, bf16, f16};

everywhere_tests!(
    equal_logits_have_neither_loss_nor_gradient,
    a_number_added_to_a_row_changes_no_bit,
    any_length_of_a_row_is_right,
    huge_logits_are_right,
    huge_differences_are_right,
    the_ends_of_jsd_are_the_others,
    both_zeros_are_one,
    padding_is_as_if_it_were_not_there,
    probability_zero_in_one_is_by_the_formulas,
    a_row_without_probabilities_is_nan_and_alone,
    a_row_of_weight_zero_is_not_looked_at,
    labels_that_are_ignored_have_no_cross_entropy,
    tokens_beyond_the_vocabulary_harm_nobody,
    top_k_rests_may_be_nothing,
    no_rows_are_nothing_to_do,
    the_scale_is_the_gradients,
);

const NONE: f32 = f32::NEG_INFINITY;
const DIVERGENCES: [Divergence; 4] =
    [Divergence::Forward, Divergence::Reverse, Divergence::Jsd(0.5), Divergence::Jsd(0.9)];

/// A problem of one row.
fn row(student: &[f32], teacher: Teacher<f32>) -> Case<f32> {
    Case {
        rows: 1,
        vocab: student.len(),
        student: student.to_vec(),
        teacher,
        temperature: 1.0,
        lambda: 1.0,
        labels: None,
        weights: None,
        scale: 1.0,
    }
}

fn near(got: f32, expected: f64) {
    assert!((f64::from(got) - expected).abs() <= 2e-6 * expected.abs().max(0.5), "{got} for {expected}");
}

fn equal_logits_have_neither_loss_nor_gradient(on: &mut impl TestExecutor) {
    fn check<L: Float>(on: &mut impl TestExecutor, vocab: usize) {
        let student = logits::<L>(&mut rng(vocab as u64), 2 * vocab, 4.0, -50.0);
        for (by, temperature) in DIVERGENCES.into_iter().zip([0.3, 1.0, 2.0, 7.0]) {
            let teacher = Teacher::Logits(by, student.clone());
            let (lambda, labels, weights) = (1.0, None, Some(vec![0.7, 3.0]));
            let case = Case {
                rows: 2,
                vocab,
                student: student.clone(),
                teacher,
                temperature,
                lambda,
                labels,
                weights,
                scale: 1e4,
            };
            let got = case.run(on, true);
            assert_eq!(got.loss, [0.0; 2], "{by:?}");
            assert!(got.gradient.unwrap().iter().all(|gradient| gradient.to_f32() == 0.0), "{by:?}");
        }
    }
    check::<f32>(on, 1);
    check::<f32>(on, 4099);
    check::<f16>(on, 77);
    check::<bf16>(on, 2100);
}

/// Of logits to which it is added exactly.
fn a_number_added_to_a_row_changes_no_bit(on: &mut impl TestExecutor) {
    let vocab = 2085;
    let on_grid = |seed, by: f32| -> Vec<f32> {
        logits::<f32>(&mut rng(seed), vocab, 3.0, 0.0).iter().map(|z| (z * 64.0).round() / 64.0 + by).collect()
    };
    for by in DIVERGENCES {
        let case = |more: f32, less: f32| {
            let teacher = Teacher::Logits(by, on_grid(2, less));
            Case { temperature: 1.5, labels: Some(vec![7]), ..row(&on_grid(1, more), teacher) }
        };
        let expected = case(0.0, 0.0).run(on, true);
        assert_eq!(case(4096.0, 0.0).run(on, true), expected);
        assert_eq!(case(-512.0, 96.0).run(on, true), expected);
    }
}

/// Every remainder by what is worked on together, each row beginning elsewhere.
fn any_length_of_a_row_is_right(on: &mut impl TestExecutor) {
    for vocab in (1..36).chain([2047, 2048, 2049]) {
        let mut rng = rng(vocab as u64);
        let rows = if vocab < 36 { 5 } else { 2 };
        let student = logits::<bf16>(&mut rng, rows * vocab, 2.0, 0.0);
        let teacher = Teacher::Logits(Divergence::Forward, logits(&mut rng, rows * vocab, 2.0, 0.0));
        let labels = Some((0..rows).map(|row| ((row * 11) % vocab) as u32).collect());
        let case =
            Case { rows, vocab, student, teacher, temperature: 1.0, lambda: 0.5, labels, weights: None, scale: 1.0 };
        crate::suite::compare(&case, &case.run(on, true));
    }
}

fn huge_logits_are_right(on: &mut impl TestExecutor) {
    let wide = [1e30, -1e30, 0.0, 1e30];
    let case = Case { labels: Some(vec![1]), ..row(&wide, Teacher::None) };
    let got = case.run(on, true);
    assert!((got.loss[0] / 2e30 - 1.0).abs() < 1e-6);
    assert_eq!(got.gradient.unwrap(), [0.5, -1.0, 0.0, 0.5]);
    let case = row(&[30_000.0, 30_001.0], Teacher::Logits(Divergence::Forward, vec![-7e4, -7e4]));
    let got = case.run(on, true);
    let p = 1.0 / (1.0 + 1f64.exp());
    near(got.loss[0], -0.5 * (4.0 * p * (1.0 - p)).ln());
    got.gradient.unwrap().iter().zip([p - 0.5, 0.5 - p]).for_each(|(got, expected)| near(*got, expected));
}

/// As large as the module says, in rows that a thread of a device takes several runs of.
fn huge_differences_are_right(on: &mut impl TestExecutor) {
    let vocab = 4099;
    let teacher: Vec<f32> = (0..vocab).map(|v| if v % 2 == 0 { 1e28 } else { -1e28 }).collect();
    let case = row(&vec![0.0; vocab], Teacher::Logits(Divergence::Reverse, teacher));
    let got = case.run(on, true);
    // To each of the 2,049 odd tokens the student gives 1/V, 2e28 above the teacher.
    assert!((f64::from(got.loss[0]) / (2e28 * 2049.0 / vocab as f64) - 1.0).abs() < 1e-5, "{:?}", got.loss);
    assert!(got.gradient.unwrap().iter().all(|gradient| gradient.is_finite()));
}

/// The ends of a Jensen-Shannon divergence are the other two.
fn the_ends_of_jsd_are_the_others(on: &mut impl TestExecutor) {
    for (beta, by) in [(0.0, Divergence::Forward), (1.0, Divergence::Reverse)] {
        let of = |by| row(&[0.5, -1.0, 2.0], Teacher::Logits(by, vec![1.0, 0.0, -2.0]));
        assert_eq!(of(Divergence::Jsd(beta)).run(on, true), of(by).run(on, true));
    }
}

fn both_zeros_are_one(on: &mut impl TestExecutor) {
    let of = |zero: f32| {
        let teacher = Teacher::Logits(Divergence::Forward, vec![1.0, zero, -zero]);
        Case { labels: Some(vec![0]), ..row(&[zero, -zero, -1.0], teacher) }
    };
    assert_eq!(of(0.0).run(on, true), of(-0.0).run(on, true));
}

fn padding_is_as_if_it_were_not_there(on: &mut impl TestExecutor) {
    let (real, padded) = (30, 41);
    let mut rng = rng(4);
    let [student, teacher] = [1.0, 2.0].map(|spread| logits::<f32>(&mut rng, real, spread, 0.0));
    let pad = |values: &[f32]| [values, &[NONE; 11]].concat();
    for by in DIVERGENCES {
        let labels = Some(vec![29]);
        let without =
            Case { labels: labels.clone(), temperature: 2.0, ..row(&student, Teacher::Logits(by, teacher.clone())) };
        let with = Case { labels, temperature: 2.0, ..row(&pad(&student), Teacher::Logits(by, pad(&teacher))) };
        let (without, with) = (without.run(on, true), with.run(on, true));
        near(with.loss[0], without.loss[0].into());
        let gradient = with.gradient.unwrap();
        assert_eq!(gradient.len(), padded);
        gradient.iter().zip(without.gradient.unwrap()).for_each(|(with, without)| near(*with, without.into()));
        assert!(gradient[real..].iter().all(|gradient| *gradient == 0.0), "{by:?}");
    }
}

fn probability_zero_in_one_is_by_the_formulas(on: &mut impl TestExecutor) {
    let run = |on: &mut _, student, teacher, by| row(student, Teacher::Logits(by, teacher)).run(on, true);
    // The student's alone.
    let got = run(on, &[0.0, NONE], vec![0.0, 0.0], Divergence::Forward);
    assert_eq!(got, Distilled { loss: vec![f32::INFINITY], gradient: Some(vec![0.5, -0.5]) });
    let got = run(on, &[0.0, NONE], vec![0.0, 0.0], Divergence::Reverse);
    near(got.loss[0], 2f64.ln());
    assert_eq!(got.gradient.unwrap(), [0.0, 0.0]);
    let got = run(on, &[0.0, NONE], vec![0.0, 0.0], Divergence::Jsd(0.5));
    near(got.loss[0], 0.5 * (0.5 * (2.0 / 3.0f64).ln() + 0.5 * 2f64.ln() + (4.0 / 3.0f64).ln()));
    // The teacher's alone.
    let got = run(on, &[0.0, 0.0], vec![0.0, NONE], Divergence::Forward);
    near(got.loss[0], 2f64.ln());
    assert_eq!(got.gradient.unwrap(), [-0.5, 0.5]);
    let got = run(on, &[0.0, 0.0], vec![0.0, NONE], Divergence::Reverse);
    assert!(got.loss[0] == f32::INFINITY && got.gradient.unwrap().iter().all(|gradient| gradient.is_nan()));
    let got = run(on, &[0.0, 0.0], vec![0.0, NONE], Divergence::Jsd(0.5));
    assert!(got.loss[0] > 0.0 && got.gradient.unwrap().iter().all(|gradient| gradient.is_finite()));
    // A label's.
    let got = Case { labels: Some(vec![1]), ..row(&[0.0, NONE], Teacher::None) }.run(on, true);
    assert_eq!(got, Distilled { loss: vec![f32::INFINITY], gradient: Some(vec![1.0, -1.0]) });
}

/// Whatever is in the rows before and after it.
fn a_row_without_probabilities_is_nan_and_alone(on: &mut impl TestExecutor) {
    let vocab = 600;
    let mut rng = rng(8);
    let student = logits::<f32>(&mut rng, 3 * vocab, 2.0, 0.0);
    let other = logits::<f32>(&mut rng, 3 * vocab, 2.0, 0.0);
    let spoilt = |values: &[f32], with: &[f32]| [&values[..vocab], with, &values[2 * vocab..]].concat();
    let with = |at: usize, wild: f32| {
        let mut row = student[vocab..2 * vocab].to_vec();
        row[at] = wild;
        row
    };
    let wild = [with(0, f32::NAN), with(599, f32::INFINITY), with(300, -f32::NAN), vec![NONE; vocab]];
    for (by, in_teacher) in DIVERGENCES.into_iter().zip([true, false, true, false]) {
        let case = |student: Vec<f32>, teacher| {
            let (teacher, labels) = (Teacher::Logits(by, teacher), Some(vec![1, IGNORED, 3]));
            Case { rows: 3, vocab, student, teacher, temperature: 1.0, lambda: 1.0, labels, weights: None, scale: 1.0 }
        };
        let expected = case(student.clone(), other.clone()).run(on, true);
        for wild in &wild {
            let got = match in_teacher {
                true => case(student.clone(), spoilt(&other, wild)),
                false => case(spoilt(&student, wild), other.clone()),
            };
            let Distilled { loss, gradient } = got.run(on, true);
            assert!(loss[1].is_nan() && [0, 2].iter().all(|&row| loss[row] == expected.loss[row]), "{by:?}");
            let (gradient, expected) = (gradient.unwrap(), expected.gradient.as_ref().unwrap());
            for (v, (got, expected)) in gradient.iter().zip(expected).enumerate() {
                assert!(if v / vocab == 1 { got.is_nan() } else { got == expected }, "{by:?} [{v}]: {got}");
            }
        }
    }
}

fn a_row_of_weight_zero_is_not_looked_at(on: &mut impl TestExecutor) {
    let known = Teacher::TopK { k: 1, tail: Tail::Lumped, tokens: vec![u32::MAX, 0], log_probs: vec![f32::NAN, -0.5] };
    let of_logits = Teacher::Logits(Divergence::Reverse, vec![NONE, NONE, NONE, 0.0, 1.0, 2.0]);
    for teacher in [Teacher::None, known, of_logits] {
        let case = Case {
            rows: 2,
            vocab: 3,
            student: vec![f32::NAN, 1.0, f32::INFINITY, 1.0, 0.0, 0.0],
            labels: Some(vec![u32::MAX - 1, 1]),
            weights: Some(vec![0.0, 2.0]),
            ..row(&[], teacher)
        };
        let Distilled { loss, gradient } = case.run(on, true);
        assert!(loss[0] == 0.0 && loss[1] > 0.0);
        let gradient = gradient.unwrap();
        assert!(
            gradient[..3] == [0.0; 3] && gradient[3..].iter().all(|gradient| gradient.is_finite() && *gradient != 0.0)
        );
    }
}

/// By PyTorch's number or by another, which is then the only one.
fn labels_that_are_ignored_have_no_cross_entropy<E: TestExecutor>(on: &mut E) {
    let mut run = |labels: [u32; 2], ignored: Option<u32>| {
        let (mut student, mut loss) = (on.upload(&[0.5f32, 0.0, 1.0, 0.0]).unwrap(), on.poisoned::<f32>(2));
        let labels = on.upload(&labels).unwrap();
        let pass = Distil::gradient(2, 2, E::output(&mut student), E::output(&mut loss));
        on.run(given!(pass.labels(1.0, E::input(&labels)), ignored: ignored)).unwrap();
        (on.download(&loss).unwrap(), on.download(&student).unwrap())
    };
    let (loss, gradient) = run([IGNORED, 0], None);
    assert!(loss[0] == 0.0 && loss[1] > 0.0);
    assert!(gradient[..2] == [0.0; 2] && gradient[2] < 0.0);
    assert_eq!(run([1, 0], Some(1)), (loss.clone(), gradient.clone()));
    assert_eq!(run([900, 0], Some(900)), (loss, gradient));
}

fn tokens_beyond_the_vocabulary_harm_nobody(on: &mut impl TestExecutor) {
    fn is_cpu<E: TestExecutor>(_: &E) -> bool {
        TypeId::of::<E::Space>() == TypeId::of::<Host>()
    }
    let vocab = 100;
    let student = logits::<f32>(&mut rng(3), 3 * vocab, 1.0, 0.0);
    let known = |token| {
        let (tokens, log_probs) = (vec![5, 6, token, 98, 99, 0], vec![-1.0; 6]);
        Teacher::TopK { k: 2, tail: Tail::Lumped, tokens, log_probs }
    };
    for (wrong, labels) in [(7, [1, 100, 2]), (7, [1, u32::MAX, 2]), (100, [1, 3, 2]), (u32::MAX, [1, 3, 2])] {
        let case = |token, labels: [u32; 3]| Case {
            rows: 3,
            vocab,
            student: student.clone(),
            labels: Some(labels.to_vec()),
            ..row(&[], known(token))
        };
        let got = case(wrong, labels).try_run(on, true);
        if is_cpu(on) {
            let (what, token) = if wrong == 7 { ("labels", labels[1]) } else { ("tokens", wrong) };
            assert_eq!(got, Err(Error::Token { what, row: 1, token, vocab: 100 }));
            continue;
        }
        let (got, expected) = (got.unwrap(), case(7, [1, 3, 2]).run(on, true));
        assert!(got.loss[1].is_nan() && got.loss[0] == expected.loss[0] && got.loss[2] == expected.loss[2]);
        for (v, (got, expected)) in got.gradient.unwrap().iter().zip(expected.gradient.unwrap()).enumerate() {
            assert!(if v / vocab == 1 { got.is_nan() } else { *got == expected }, "[{v}]: {got}");
        }
    }
}

/// Of the teacher, which is rounding; of the student, with nothing that the teacher's could be in.
fn top_k_rests_may_be_nothing(on: &mut impl TestExecutor) {
    let known = |log_probs: [f32; 2]| Teacher::TopK {
        k: 2,
        tail: Tail::Lumped,
        tokens: vec![2, 0],
        log_probs: log_probs.to_vec(),
    };
    let half = 0.5f32.ln();
    let all = row(&[0.0, NONE, 0.0], known([half, half])).run(on, true);
    near(all.loss[0], 0.0);
    assert!(all.gradient.unwrap().iter().all(|gradient| gradient.abs() < 1e-6));
    let got = row(&[0.0, NONE, 0.0], known([half, half - 0.1])).run(on, true);
    assert!(got.loss[0] == f32::INFINITY && got.gradient.unwrap().iter().all(|gradient| gradient.is_finite()));
    // A probability of 0 among the k.
    let got = row(&[0.0, 0.0, 0.0], known([0.0, NONE])).run(on, true);
    near(got.loss[0], 3f64.ln());
    got.gradient.unwrap().iter().zip([1.0, 1.0, -2.0]).for_each(|(got, third)| near(*got, third / 3.0));
    let got = row(&[0.0, 0.0, 0.0], known([f32::NAN, half])).run(on, true);
    assert!(got.loss[0].is_nan() && got.gradient.unwrap().iter().all(|gradient| gradient.is_nan()));
}

fn no_rows_are_nothing_to_do(on: &mut impl TestExecutor) {
    let of = |rows: usize, vocab: usize| Case {
        rows,
        vocab,
        labels: Some(vec![IGNORED; rows]),
        ..row(&[], Teacher::Logits(Divergence::Forward, vec![]))
    };
    assert_eq!(of(0, 9).run(on, true), Distilled { loss: vec![], gradient: Some(vec![]) });
    let empty = of(2, 0).run(on, true);
    assert!(empty.loss.len() == 2 && empty.loss.iter().all(|loss| loss.is_nan()));
}

fn the_scale_is_the_gradients(on: &mut impl TestExecutor) {
    let mut rng = rng(6);
    let [student, teacher] = [1.0, 2.0].map(|spread| logits::<f32>(&mut rng, 60, spread, 0.0));
    let case = |scale| Case {
        scale,
        labels: Some(vec![3]),
        ..row(&student, Teacher::Logits(Divergence::Forward, teacher.clone()))
    };
    let (one, half) = (case(1.0).run(on, true), case(-0.5).run(on, true));
    assert_eq!(one.loss, half.loss);
    for (one, half) in one.gradient.unwrap().into_iter().zip(half.gradient.unwrap()) {
        assert!(same(one * -0.5, half), "{one} {half}");
    }
}
