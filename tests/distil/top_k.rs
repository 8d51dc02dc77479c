//! Top-k teachers made of logits, and taken.

use crate::case::{Case, Teacher, logits, rng};
use crate::common::{Counts, TestExecutor, everywhere_tests, for_all};
use crate::oracle::log_softmax;
use crate::suite::of_type;
use proptest::prelude::any;
use rand::Rng;
use twofour::distil::{Divergence, Tail, TopK};
use twofour::{Cpu, Float, bf16, f16};

const COUNTS: Counts = Counts { cpu: 300, emulator: 150, gpu: 150 };

everywhere_tests!(
    all_of_a_teacher_is_the_teacher,
    rows_without_probabilities_have_no_teacher,
    equal_logits_are_taken_in_order
);

fn top_k<L: Float, E: TestExecutor>(
    on: &mut E,
    [rows, vocab, k]: [usize; 3],
    temperature: f32,
    teacher: &[L],
) -> (Vec<u32>, Vec<f32>) {
    let (teacher, mut tokens) = (on.upload(teacher).unwrap(), on.poisoned::<u32>(rows * k));
    let mut log_probs = on.poisoned::<f32>(rows * k);
    let pass = TopK::new(rows, vocab, k, E::input(&teacher), E::output(&mut tokens), E::output(&mut log_probs));
    on.run(pass.temperature(temperature)).unwrap();
    (on.download(&tokens).unwrap(), on.download(&log_probs).unwrap())
}

fn taken(on: &mut impl TestExecutor, seed: &u64) {
    of_type!(*seed, check(on, *seed));
}

/// What the CPU takes, to the bit.
pub(crate) fn made<L: Float>(seed: u64) -> String {
    let (sizes, temperature, teacher) = problem::<L>(seed);
    let (tokens, log_probs) = top_k(&mut Cpu, sizes, temperature, &teacher);
    format!("{tokens:?} {:?}", log_probs.iter().map(|log_q| log_q.to_bits()).collect::<Vec<_>>())
}

/// Rows, vocabulary and k, the temperature, and logits of which some are equal or none.
fn problem<L: Float>(seed: u64) -> ([usize; 3], f32, Vec<L>) {
    let mut rng = rng(seed);
    let tall = seed.is_multiple_of(5);
    let (rows, vocab) =
        (rng.random_range(1..4), if tall { rng.random_range(1000..3000) } else { rng.random_range(1..90) });
    let k = rng.random_range(1..=vocab.min(64));
    let temperature = [1.0, 0.5, 3.0][rng.random_range(0..3)];
    let spread = [0.1, 3.0][rng.random_range(0..2)];
    let mut teacher = logits::<L>(&mut rng, rows * vocab, spread, -4.0);
    for i in 0..teacher.len() {
        match rng.random_range(0..12) {
            0 => teacher[i] = teacher[rng.random_range(0..=i)],
            1 => teacher[i] = L::from_f32([0.0, -0.0, f32::NEG_INFINITY, 1e-6, -1e-6][rng.random_range(0..5)]),
            _ => {}
        }
    }
    ([rows, vocab, k], temperature, teacher)
}

/// Choices exactly, log-probabilities to rounding.
pub(crate) fn check<L: Float>(on: &mut impl TestExecutor, seed: u64) {
    let (sizes, temperature, teacher) = problem::<L>(seed);
    let [rows, vocab, k] = sizes;
    let (tokens, log_probs) = top_k(on, sizes, temperature, &teacher);
    for row in 0..rows {
        let values: Vec<f64> = teacher[row * vocab..][..vocab].iter().map(|t| f64::from(t.to_f32())).collect();
        let log_q = log_softmax(&values, f64::from(temperature));
        let range = row * k..(row + 1) * k;
        if log_q.iter().any(|log_q| log_q.is_nan()) {
            assert_eq!(tokens[range.clone()], (0..k as u32).collect::<Vec<_>>());
            assert!(log_probs[range].iter().all(|log_q| log_q.is_nan()));
            continue;
        }
        let mut order: Vec<usize> = (0..vocab).collect();
        order.sort_by(|&a, &b| values[b].partial_cmp(&values[a]).unwrap());
        order.truncate(k);
        order.sort_unstable();
        assert_eq!(tokens[range.clone()].iter().map(|&token| token as usize).collect::<Vec<_>>(), order, "seed {seed}");
        for (got, token) in log_probs[range].iter().zip(order) {
            let close = (f64::from(*got) - log_q[token]).abs() <= 3e-6 + 1e-6 * log_q[token].abs();
            assert!(close || f64::from(*got) == log_q[token], "{got} for {}", log_q[token]);
        }
    }
}

#[test]
fn the_k_likeliest_are_taken() {
    for_all!(taken, COUNTS, any::<u64>());
}

/// With k = V, both tails, the loss and gradient are those of the logits.
fn all_of_a_teacher_is_the_teacher(on: &mut impl TestExecutor) {
    let (rows, vocab, temperature) = (3, 50, 2.0);
    let mut rng = rng(9);
    let of_logits = logits::<f32>(&mut rng, rows * vocab, 2.0, 1.0);
    let mut case = Case::<f32> {
        rows,
        vocab,
        student: logits(&mut rng, rows * vocab, 2.0, 0.0),
        teacher: Teacher::Logits(Divergence::Forward, of_logits.clone()),
        temperature,
        lambda: 0.5,
        labels: Some(vec![3, 49, 0]),
        weights: None,
        scale: 1.0,
    };
    let expected = case.run(on, true);
    let (tokens, log_probs) = top_k(on, [rows, vocab, vocab], temperature, &of_logits);
    for tail in [Tail::Renormalised, Tail::Lumped] {
        case.teacher = Teacher::TopK { k: vocab, tail, tokens: tokens.clone(), log_probs: log_probs.clone() };
        let got = case.run(on, true);
        let pairs = got.loss.iter().zip(&expected.loss);
        let gradients = got.gradient.iter().flatten().zip(expected.gradient.iter().flatten());
        for (got, expected) in pairs.chain(gradients) {
            assert!((got - expected).abs() < 1e-5, "{got} for {expected}");
        }
    }
}

fn rows_without_probabilities_have_no_teacher(on: &mut impl TestExecutor) {
    let (none, nan) = (f32::NEG_INFINITY, f32::NAN);
    let teacher = [none, none, none, 1.0, nan, 0.0, f32::INFINITY, 1.0, 0.0, 1.0, none, 2.0];
    let (tokens, log_probs) = top_k(on, [4, 3, 2], 1.0, &teacher);
    assert_eq!(tokens, [0, 1, 0, 1, 0, 1, 0, 2]);
    assert!(log_probs[..6].iter().all(|log_q| log_q.is_nan()) && log_probs[6..].iter().all(|log_q| log_q.is_finite()));
}

/// Beyond the threads of a block, too; and what is needed of −∞ is taken.
fn equal_logits_are_taken_in_order(on: &mut impl TestExecutor) {
    let vocab = 1300;
    let mut teacher = vec![0.25f32; vocab];
    teacher[1299] = 1.0;
    teacher[700] = -0.5;
    let (tokens, _) = top_k(on, [1, vocab, 702], 1.0, &teacher);
    let expected: Vec<u32> = (0..702).filter(|&token| token != 700).chain([1299]).collect();
    assert_eq!(tokens, expected);
    let none = f32::NEG_INFINITY;
    let (tokens, log_probs) = top_k(on, [1, 5, 4], 1.0, &[none, none, 1.0, -0.0, none]);
    assert_eq!((tokens, log_probs[0]), (vec![0, 1, 2, 3], none));
}
