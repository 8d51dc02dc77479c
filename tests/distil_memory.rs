//! What `distil` allocates, by a global allocator that counts: nothing of the size of the logits.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "common/counted.rs"]
mod counted;

use twofour::distil::{Distil, Divergence, SquareHead, Tail, TopK};
use twofour::{Cpu, Executor, bf16};

/// Bytes allocated in all by a pass, given back or not; the first one wakes threads, so it is not counted.
fn allocated(mut run: impl FnMut() -> twofour::Result<()>) -> usize {
    run().unwrap();
    let (result, bytes) = counted::allocated(run);
    result.unwrap();
    bytes
}

/// One test, for all of the process is counted.
#[test]
fn nothing_of_the_logits_size_is_allocated() {
    let (rows, vocab, k) = (64, 20_011, 32);
    let teacher = vec![bf16::ONE; rows * vocab];
    let (mut student, mut loss) = (teacher.clone(), vec![0.0; rows]);
    let (mut tokens, mut log_probs) = (vec![0; rows * k], vec![0.0; rows * k]);
    let labels = vec![7; rows];
    let of_logits = 2 * rows * vocab;

    let of_teacher = allocated(|| Cpu.run(TopK::new(rows, vocab, k, &teacher, &mut tokens, &mut log_probs)));
    // The k best of a row at a time.
    assert!(of_teacher < rows * k * 32, "{of_teacher}");
    for by in [Divergence::Forward, Divergence::Reverse, Divergence::Jsd(0.5)] {
        let bytes = allocated(|| {
            let pass = Distil::gradient(rows, vocab, &mut student, &mut loss).teacher(by, 2.0, &teacher);
            Cpu.run(pass.labels(0.5, &labels))
        });
        assert!(bytes < of_logits / 500, "{by:?}: {bytes}");
    }
    let known = allocated(|| {
        let pass = Distil::gradient(rows, vocab, &mut student, &mut loss);
        Cpu.run(pass.top_k(k, Tail::Lumped, 1.0, &tokens, &log_probs).labels(0.5, &labels))
    });
    assert!(known < of_logits / 50, "{known}");
    let states = allocated(|| Cpu.run(SquareHead::new(rows * vocab, &mut student, &teacher, &mut loss[..1])));
    assert!(states < of_logits / 500, "{states}");
}
