//! The loss of hidden states, on every executor.

use crate::case::{logits, rng};
use crate::common::{Counts, TestExecutor, everywhere_tests, for_all, rounding};
use crate::suite::of_type;
use proptest::prelude::any;
use rand::Rng;
use twofour::distil::SquareHead;
use twofour::{Cpu, Float, bf16, f16};

const COUNTS: Counts = Counts { cpu: 200, emulator: 100, gpu: 200 };

everywhere_tests!(states_of_many_blocks_are_all_there, states_that_are_no_numbers, losses_of_layers_are_added);

struct Pulled<L> {
    loss: f32,
    gradient: Vec<L>,
}

fn run<L: Float, E: TestExecutor>(
    on: &mut E,
    student: &[L],
    teacher: &[L],
    loss: f32,
    scale: f32,
    epsilon: f32,
) -> Pulled<L> {
    let elements = student.len();
    let (mut student, teacher) = (on.upload(student).unwrap(), on.upload(teacher).unwrap());
    let mut loss = on.upload(&[loss]).unwrap();
    let mut workspace = on.poisoned::<u8>(SquareHead::workspace_bytes());
    let pass = SquareHead::new(elements, E::output(&mut student), E::input(&teacher), E::output(&mut loss));
    on.run(pass.scale(scale).epsilon(epsilon).workspace(E::output(&mut workspace))).unwrap();
    Pulled { loss: on.download(&loss).unwrap()[0], gradient: on.download(&student).unwrap() }
}

/// For comparing bits.
pub(crate) fn made<L: Float>(seed: u64) -> String {
    let [student, teacher] = problem::<L>(seed);
    let Pulled { loss, gradient } = run(&mut Cpu, &student, &teacher, 0.0, 1.0, 0.1);
    format!(
        "{:x} {:?}",
        loss.to_bits(),
        gradient.iter().map(|gradient| gradient.to_f32().to_bits()).collect::<Vec<_>>()
    )
}

fn problem<L: Float>(seed: u64) -> [Vec<L>; 2] {
    let mut rng = rng(seed);
    let elements = if seed.is_multiple_of(4) { rng.random_range(4000..40_000) } else { rng.random_range(1..100) };
    [0.7, 1.3].map(|spread| logits(&mut rng, elements, spread, 0.3))
}

fn pulled(on: &mut impl TestExecutor, seed: &u64) {
    of_type!(*seed, check(on, *seed));
}

pub(crate) fn check<L: Float>(on: &mut impl TestExecutor, seed: u64) {
    let ([student, teacher], epsilon, scale) = (problem::<L>(seed), [1e-6f32, 0.5][seed as usize % 2], 20.0f32);
    let got = run(on, &student, &teacher, 1.5, scale, epsilon);
    let wide = |values: &[L]| values.iter().map(|value| f64::from(value.to_f32())).collect::<Vec<_>>();
    let (s, t, n) = (wide(&student), wide(&teacher), student.len() as f64);
    let size = t.iter().map(|t| t * t).sum::<f64>() / n + f64::from(epsilon);
    let loss = s.iter().zip(&t).map(|(s, t)| (s - t).powi(2)).sum::<f64>() / n / size;
    assert!((f64::from(got.loss) - 1.5 - loss).abs() <= 2e-6 * (1.5 + loss), "seed {seed}: {} for {loss}", got.loss);
    for ((got, s), t) in got.gradient.iter().zip(s).zip(t) {
        let expected = f64::from(scale) * 2.0 * (s - t) / n / size;
        let slack = 4e-6 * expected.abs() + rounding::<L>(expected);
        assert!((f64::from(got.to_f32()) - expected).abs() <= slack, "seed {seed}: {got:?} for {expected}");
    }
}

#[test]
fn hidden_states_are_pulled_by_the_formula() {
    for_all!(pulled, COUNTS, any::<u64>());
}

/// 1025 blocks' worth and a few elements, which 1024 take.
fn states_of_many_blocks_are_all_there(on: &mut impl TestExecutor) {
    many::<bf16>(on, 1025 * 2048 + 5);
    many::<f16>(on, 257 * 2048 + 5);
    many::<f32>(on, 257 * 2048 + 5);
}

fn many<L: Float>(on: &mut impl TestExecutor, elements: usize) {
    let [student, teacher] = [3.0, 2.0].map(|state| vec![L::from_f32(state); elements]);
    let got = run(on, &student, &teacher, 0.0, elements as f32, 0.0);
    assert_eq!(got.loss, 0.25);
    assert!(got.gradient.iter().all(|gradient| gradient.to_f32() == 0.5));
}

fn states_that_are_no_numbers(on: &mut impl TestExecutor) {
    let got = run(on, &[1.0f32, f32::NAN, 3.0], &[1.0, 2.0, 3.0], 0.0, 1.0, 1.0);
    assert!(got.loss.is_nan() && got.gradient.iter().all(|gradient| gradient.is_nan()));
    let got = run(on, &[0.0f32; 3], &[0.0; 3], 0.0, 1.0, 0.0);
    assert!(got.loss.is_nan() && got.gradient.iter().all(|gradient| gradient.is_nan()));
    let got = run::<f32, _>(on, &[], &[], 2.5, 1.0, 0.0);
    assert_eq!(got.loss, 2.5);
    let got = run(on, &[1e25f32, 0.0], &[1.0, 1.0], 0.0, 1.0, 0.0);
    assert_eq!(got.loss, f32::INFINITY);
}

fn losses_of_layers_are_added(on: &mut impl TestExecutor) {
    let first = run(on, &[1.0f32, 0.0], &[0.0, 1.0], 0.0, 1.0, 0.0).loss;
    assert_eq!(first, 2.0);
    assert_eq!(run(on, &[1.0f32, 0.0], &[0.0, 1.0], first, 1.0, 0.5).loss, 3.0);
}
