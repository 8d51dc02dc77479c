//! The launches, as plain data, and offsets that 32 bits do not hold.

use crate::case::{Case, Teacher, logits, rng};
use crate::common::emulator::{Array, launches};
use crate::common::{Emulator, SMALL};
use twofour::device::{Launch, Limits};
use twofour::distil::{Distil, Divergence, SquareHead, Tail, TopK};
use twofour::space::{Raw, RawSlice};
use twofour::{Float, bf16, f16};
use twofour_emulator::Schedule;

fn at<T>(address: u64, elements: usize) -> RawSlice<T> {
    RawSlice::new(address, elements)
}

fn name(launch: &Launch) -> &str {
    &launch.symbol.name()["twofour_distil_".len()..]
}

#[test]
fn a_form_is_a_kernel() {
    let of = |pass| match launches(Limits::H200, pass).unwrap()[..] {
        [launch] => launch,
        _ => panic!("one launch"),
    };
    let pass = || Distil::<Raw, bf16>::gradient(4, 10, at(64, 40), at(128, 4));
    assert_eq!(name(&of(pass().labels(1.0, at(256, 4)))), "labels_bf16");
    for (by, expected) in [
        (Divergence::Forward, "forward_bf16"),
        (Divergence::Reverse, "reverse_bf16"),
        (Divergence::Jsd(0.5), "jsd_bf16"),
        (Divergence::Jsd(0.0), "forward_bf16"),
        (Divergence::Jsd(1.0), "reverse_bf16"),
    ] {
        assert_eq!(name(&of(pass().teacher(by, 1.0, at(512, 40)))), expected, "{by:?}");
    }
    let known = of(pass().top_k(2, Tail::Lumped, 1.0, at(512, 8), at(1024, 8)));
    assert_eq!((name(&known), known.shared_bytes, known.grid), ("known_bf16", 4 * (2 + 2), [4, 1, 1]));
    let pass = SquareHead::new(9, at::<f32>(64, 9), at(128, 9), at(256, 1));
    let all = launches(Limits::H200, pass.workspace(at(512, SquareHead::workspace_bytes()))).unwrap();
    assert_eq!(all.iter().map(name).collect::<Vec<_>>(), ["squares_f32", "share", "pull_f32"]);
}

/// As many rows at a time as the level-2 cache holds twice, but one a multiprocessor.
#[test]
fn rows_in_flight_fit_the_cache() {
    let blocks = |limits, rows: usize, vocab: usize| {
        let pass = Distil::<Raw, f32>::gradient(rows, vocab, at(64, rows * vocab), at(128, rows));
        let pass = pass.teacher(Divergence::Forward, 1.0, at(1 << 40, rows * vocab));
        launches(limits, pass).unwrap()[0].grid
    };
    assert_eq!(blocks(Limits::H200, 4096, 8192), [264, 1, 1]);
    assert_eq!(blocks(Limits::H200, 4096, 20_000), [196, 1, 1]);
    assert_eq!(blocks(Limits::H200, 4096, 131_072), [132, 1, 1]);
    assert_eq!(blocks(Limits::A100, 5, 131_072), [5, 1, 1]);
    assert_eq!(blocks(Limits::A100, 0, 131_072), [0, 1, 1]);
}

fn on() -> Emulator {
    Emulator::new(Schedule::RoundRobin)
}

/// Rows so many that 32 bits do not hold the number of a logit; of whole 16 bytes, so that the last is summed as one
/// alone.
const FAR: [usize; 2] = [1 << 20, 5008];

fn launch_last<L: Float>(pass: Distil<'_, Raw, L>) {
    launches(SMALL, pass).unwrap().iter().for_each(|launch| on().launch_last(launch, FAR[0]));
}

/// The last row, beside the same one alone.
fn far<L: Float>(case: Case<L>) {
    let [rows, vocab] = FAR;
    let expected = case.run(&mut on(), true);
    let mut student = Array::ending(rows * vocab, &case.student);
    let (mut loss, labels) = (Array::<f32>::reserved(rows), Array::ending(rows, case.labels.as_ref().unwrap()));
    let weights = Array::ending(rows, case.weights.as_ref().unwrap());
    let pass = Distil::<Raw, L>::gradient(rows, vocab, &mut student, &mut loss).labels(case.lambda, &labels);
    let pass = pass.weights(&weights).scale(case.scale);
    match &case.teacher {
        Teacher::None => launch_last(pass),
        Teacher::Logits(by, logits) => {
            let teacher = Array::ending(rows * vocab, logits);
            launch_last(pass.teacher(*by, case.temperature, &teacher));
        }
        Teacher::TopK { k, tail, tokens, log_probs } => {
            let (tokens, log_probs) = (Array::ending(rows * k, tokens), Array::ending(rows * k, log_probs));
            launch_last(pass.top_k(*k, *tail, case.temperature, &tokens, &log_probs));
        }
    }
    assert_eq!(loss.read_end(1), expected.loss);
    assert_eq!(Some(student.read_end(vocab)), expected.gradient);
}

#[test]
fn rows_beyond_32_bits_are_right() {
    far_rows::<f32>();
    far_rows::<bf16>();
    far_rows::<f16>();
}

/// Every kernel of a type of logits.
fn far_rows<L: Float>() {
    let [rows, vocab] = FAR;
    assert!((rows * vocab) as u64 > 1 << 32);
    let case = |teacher| Case {
        rows: 1,
        vocab,
        student: logits::<L>(&mut rng(1), vocab, 2.0, 0.0),
        teacher,
        temperature: 2.0,
        lambda: 0.5,
        labels: Some(vec![5001]),
        weights: Some(vec![1.5]),
        scale: 3.0,
    };
    far(Case { temperature: 1.0, ..case(Teacher::None) });
    let teacher = logits::<L>(&mut rng(2), vocab, 2.0, 0.0);
    for by in [Divergence::Forward, Divergence::Reverse, Divergence::Jsd(0.4)] {
        far(case(Teacher::Logits(by, teacher.clone())));
    }
    // So many known that 32 bits do not hold the number of one either.
    let k = 4097;
    let (tokens, log_probs) = ((0..k as u32).rev().collect(), vec![-9.0; k]);
    far(case(Teacher::TopK { k, tail: Tail::Lumped, tokens, log_probs }));
}

#[test]
fn teachers_of_rows_beyond_32_bits_are_made() {
    far_teachers::<f32>();
    far_teachers::<bf16>();
    far_teachers::<f16>();
}

fn far_teachers<L: Float>() {
    let [rows, vocab] = FAR;
    let (teacher, k) = (logits::<L>(&mut rng(3), vocab, 2.0, 0.0), 4097);
    let made = |rows: usize, blocks: usize| {
        let teacher = Array::ending(rows * vocab, &teacher);
        let (mut tokens, mut log_probs) = (Array::<u32>::reserved(rows * k), Array::<f32>::reserved(rows * k));
        let pass = TopK::<Raw, L>::new(rows, vocab, k, &teacher, &mut tokens, &mut log_probs);
        on().launch_last(&launches(SMALL, pass).unwrap()[0], blocks);
        (tokens.read_end(k), log_probs.read_end(k))
    };
    assert_eq!(made(rows, rows), made(1, 1));
}

/// The last block's elements, which leave their share and are pulled by a factor.
#[test]
fn hidden_states_beyond_32_bits_are_right() {
    far_states::<f32>();
    far_states::<bf16>();
    far_states::<f16>();
}

fn far_states<H: Float>() {
    let (elements, blocks) = (1 << 33, 1 << 22);
    let [student, teacher] = [4, 5].map(|seed| logits::<H>(&mut rng(seed), 2048, 1.0, 0.0));
    let differences = || student.iter().zip(&teacher).map(|(s, t)| s.to_f32() - t.to_f32());
    let mut states = Array::ending(elements, &student);
    let (far, mut loss) = (Array::ending(elements, &teacher), Array::<f32>::reserved(1));
    let mut workspace = Array::<u8>::reserved(16 * (1 + blocks));
    let pass = SquareHead::new(elements, &mut states, &far, &mut loss);
    let [squares, _, pull] = launches(SMALL, pass.workspace(&mut workspace)).unwrap()[..] else { panic!("three") };
    on().launch_last(&squares, blocks);
    let shares: Vec<f64> =
        workspace.read_end(16).chunks(8).map(|share| f64::from_le_bytes(share.try_into().unwrap())).collect();
    let expected = differences().map(|d| f64::from(d).powi(2)).sum::<f64>();
    assert!((shares[0] / expected - 1.0).abs() < 1e-6, "{shares:?} for {expected}");
    workspace.write_at(0, &0.5f64.to_le_bytes());
    on().launch_last(&pull, blocks);
    let expected: Vec<H> = differences().map(|d| H::from_f32(d * 0.5)).collect();
    assert_eq!(states.read_end(2048), expected);
}
