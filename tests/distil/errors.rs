//! Every error that the arguments of `distil` can give, and that nothing is written then.

use crate::common::emulator::launches;
use twofour::device::Limits;
use twofour::distil::{Distil, Divergence, SquareHead, Tail, TopK};
use twofour::space::RawSlice;
use twofour::{Cpu, Error, Executor, Result, bf16};

fn what(result: Result<()>) -> &'static str {
    match result.unwrap_err() {
        Error::Length { what, .. } | Error::Missing { what, .. } | Error::Scalar { what, .. } => what,
        Error::Overflow { what, .. } => what,
        other => panic!("{other}"),
    }
}

#[test]
fn losses_are_checked() {
    let logits = [0.0f32; 6];
    macro_rules! pass {
        ($($method:ident($($argument:expr),*)),*) => {
            what(Cpu.run(Distil::loss(2, 3, &logits, &mut [0.0; 2])$(.$method($($argument),*))*))
        };
    }
    let forward = Divergence::Forward;
    assert_eq!(pass!(), "a loss");
    assert_eq!(pass!(weights(&[1.0, 1.0])), "a loss");
    assert_eq!(pass!(teacher(forward, 1.0, &logits[1..])), "teacher");
    for temperature in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-39] {
        assert_eq!(pass!(teacher(forward, temperature, &logits)), "temperature");
        assert_eq!(pass!(top_k(1, Tail::Lumped, temperature, &[0, 0], &[0.0; 2])), "temperature");
    }
    for beta in [-0.1, 1.1, f32::NAN] {
        assert_eq!(pass!(teacher(Divergence::Jsd(beta), 1.0, &logits)), "beta");
    }
    assert_eq!(pass!(labels(1.0, &[0])), "labels");
    for lambda in [-0.1, f32::NAN, f32::INFINITY] {
        assert_eq!(pass!(labels(lambda, &[0, 0])), "lambda");
    }
    assert_eq!(pass!(labels(1.0, &[0, 0]), weights(&[1.0])), "weights");
    assert_eq!(pass!(labels(1.0, &[0, 0]), scale(f32::NAN)), "scale");
    for k in [0, 4] {
        assert_eq!(pass!(top_k(k, Tail::Lumped, 1.0, &[0; 8][..2 * k], &[0.0; 8][..2 * k])), "k");
    }
    assert_eq!(pass!(top_k(2, Tail::Lumped, 1.0, &[0; 3], &[0.0; 4])), "tokens");
    assert_eq!(pass!(top_k(2, Tail::Lumped, 1.0, &[0; 4], &[0.0; 3])), "log_probs");
    assert_eq!(what(Cpu.run(Distil::loss(2, 3, &logits[1..], &mut [0.0; 2]).labels(1.0, &[0, 0]))), "student");
    assert_eq!(what(Cpu.run(Distil::gradient(2, 3, &mut [0.0f32; 7], &mut [0.0; 2]).labels(1.0, &[0, 0]))), "student");
    assert_eq!(what(Cpu.run(Distil::loss(2, 3, &logits, &mut [0.0; 3]).labels(1.0, &[0, 0]))), "loss");
    assert_eq!(what(Cpu.run(Distil::<_, f32>::loss(usize::MAX, 2, &[], &mut []).labels(1.0, &[]))), "logits");
    assert_eq!(what(Cpu.run(Distil::<_, f32>::loss(0, 1 << 32, &[], &mut []).labels(1.0, &[]))), "logits");
}

#[test]
fn tokens_are_checked_before_anything_is_written() {
    let (mut student, mut loss) = ([1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], [7.0; 2]);
    let labels = Distil::gradient(2, 3, &mut student, &mut loss).labels(1.0, &[2, 3]);
    assert_eq!(Cpu.run(labels), Err(Error::Token { what: "labels", row: 1, token: 3, vocab: 3 }));
    let top_k = |tokens: &[u32; 4], student: &mut [f32; 6], loss: &mut [f32; 2]| {
        Cpu.run(Distil::gradient(2, 3, student, loss).top_k(2, Tail::Lumped, 1.0, tokens, &[-1.0; 4]))
    };
    let beyond = top_k(&[0, 1, 4, 4], &mut student, &mut loss);
    assert_eq!(beyond, Err(Error::Token { what: "tokens", row: 1, token: 4, vocab: 3 }));
    let twice = top_k(&[0, 1, 2, 2], &mut student, &mut loss);
    assert_eq!(twice, Err(Error::TokenTwice { row: 1, token: 2 }));
    assert!(twice.unwrap_err().to_string().contains("give each token once"));
    assert_eq!((student, loss), ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [7.0; 2]));
    // Labels that do not count are not looked at.
    assert_eq!(Cpu.run(Distil::gradient(2, 3, &mut student, &mut loss).labels(0.0, &[2, 3])), Ok(()));
}

#[test]
fn teachers_are_checked() {
    let logits = [0.0f32; 6];
    let run = |k: usize, temperature: f32, teacher: &[f32], lengths: [usize; 2]| {
        let (tokens, log_probs) = (&mut vec![0; lengths[0]], &mut vec![0.0; lengths[1]]);
        what(Cpu.run(TopK::new(2, 3, k, teacher, tokens, log_probs).temperature(temperature)))
    };
    assert_eq!(run(2, 1.0, &logits[1..], [4, 4]), "teacher");
    assert_eq!(run(2, 1.0, &logits, [3, 4]), "tokens");
    assert_eq!(run(2, 1.0, &logits, [4, 3]), "log_probs");
    assert_eq!(run(2, 0.0, &logits, [4, 4]), "temperature");
    assert_eq!(run(0, 1.0, &logits, [0, 0]), "k");
    assert_eq!(run(4, 1.0, &logits, [8, 8]), "k");
}

#[test]
fn hidden_states_are_checked() {
    let states = [0.0f32; 6];
    assert_eq!(what(Cpu.run(SquareHead::new(6, &mut [0.0; 5], &states, &mut [0.0]))), "student");
    assert_eq!(what(Cpu.run(SquareHead::new(6, &mut [0.0; 6], &states[1..], &mut [0.0]))), "teacher");
    assert_eq!(what(Cpu.run(SquareHead::new(6, &mut [0.0; 6], &states, &mut [0.0; 2]))), "loss");
    assert_eq!(what(Cpu.run(SquareHead::new(6, &mut [0.0; 6], &states, &mut [0.0]).epsilon(-1.0))), "epsilon");
    assert_eq!(what(Cpu.run(SquareHead::new(6, &mut [0.0; 6], &states, &mut [0.0]).scale(f32::INFINITY))), "scale");
}

#[test]
fn devices_have_further_needs() {
    fn at<T>(address: u64, elements: usize) -> RawSlice<T> {
        RawSlice::new(address, elements)
    }
    let misaligned = Distil::gradient(2, 3, at::<bf16>(64, 6), at(132, 2)).labels(1.0, at(256, 2));
    let expected = Error::Misaligned { what: "loss", address: 132, align: 16 };
    assert_eq!(launches(Limits::A100, misaligned), Err(expected));
    // A bit a token and a number for each of the k, beside a KiB.
    let known = |vocab: usize, k| {
        let pass = Distil::loss(1, vocab, at::<bf16>(64, vocab), at(128, 1));
        launches(Limits::A100, pass.top_k(k, Tail::Lumped, 1.0, at(256, k), at(512, k)))
    };
    assert!(known(128 << 10, 8192).is_ok() && known((160 << 13) + 31, 510).is_ok());
    for (vocab, k) in [((160 << 13) + 32, 510), ((160 << 13) + 31, 511), (1 << 20, 1 << 16)] {
        assert!(matches!(known(vocab, k), Err(Error::Unsupported { what: "a top-k teacher", .. })));
    }
    let states = |workspace| {
        let pass = SquareHead::new(8, at::<bf16>(64, 8), at(128, 8), at(256, 1));
        launches(Limits::A100, pass.workspace(at(512, workspace)))
    };
    let needed = SquareHead::workspace_bytes();
    assert!(states(needed).is_ok());
    assert_eq!(states(needed - 1), Err(Error::Workspace { needed: needed as u64, got: needed as u64 - 1 }));
}
