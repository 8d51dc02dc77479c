//! The launches of the `distil` kernels. The structs mirror those of `cuda/distil/row.cuh`, `cuda/distil_known.cu` and
//! `cuda/distil_squares.cu`.

use super::{Distil, Divergence, SquareHead, Student, Tail, Teacher, TopK};
use crate::device::{Launch, Limits, Symbol};
use crate::element::Float;
use crate::error::{Error, Result, unsupported};
use crate::pass::{Binder, DeviceSpace, Queue};
use crate::sample::exponent;
use crate::space::Array;

/// Threads of a block that takes a row.
const THREADS: u32 = 512;
/// Such blocks that a multiprocessor holds.
const ROWS_PER_MULTIPROCESSOR: u32 = 2;
/// Shared memory that such a block has besides, at most.
const STATIC_SHARED: u64 = 1 << 10;
/// Threads of a block that takes a part of hidden states, elements that one takes at a time, and blocks.
const SQUARE_THREADS: u32 = 256;
const SQUARE_RUN: usize = 8;
const SQUARE_BLOCKS: usize = 1024;
/// What the blocks work in: a factor, and their shares of the sums.
pub(super) const SQUARE_SLOTS: usize = 1 + SQUARE_BLOCKS;

/// `DistilArgs`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct DistilArgs {
    student: u64,
    teacher: u64,
    loss: u64,
    labels: u64,
    weights: u64,
    rows: u64,
    vocab: u32,
    ignored: u32,
    exponent: f32,
    temperature: f32,
    lambda: f32,
    scale: f32,
    beta: f32,
    writes: u32,
}
const _: () = assert!(size_of::<DistilArgs>() == 80);

/// `KnownArgs`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct KnownArgs {
    row: DistilArgs,
    tokens: u64,
    log_probs: u64,
    k: u32,
    lumped: u32,
}
const _: () = assert!(size_of::<KnownArgs>() == 104);

/// `SquaresArgs`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct SquaresArgs {
    student: u64,
    teacher: u64,
    loss: u64,
    sums: u64,
    elements: u64,
    blocks: u32,
    epsilon: f32,
    scale: f32,
    unused: u32,
}
const _: () = assert!(size_of::<SquaresArgs>() == 56);

/// Blocks that go over so many rows: as many at a time as find their row in the level-2 cache again, but all of the
/// device.
fn blocks(limits: &Limits, rows: usize, row_bytes: u64) -> u32 {
    let [least, most] = [1, ROWS_PER_MULTIPROCESSOR].map(|each| limits.blocks(each));
    let held = u64::from(limits.l2_bytes / 2) / row_bytes.max(1);
    (rows as u64).min(held.clamp(least.into(), most.into())) as u32
}

/// One kernel, which the form of the loss chooses.
pub(super) fn distil<'g, S: DeviceSpace, L: Float>(
    pass: &'g mut Distil<'_, S, L>,
    binder: &mut Binder<'g, S>,
    queue: &mut Queue,
) -> Result<()> {
    let (student, writes) = match &mut pass.student {
        Student::Read(student) => (binder.input("student", student)?.address, 0),
        Student::Gradient(student) => (binder.output("student", student)?.address, 1),
    };
    let counts = pass.lambda != 0.0;
    let labels = binder.input_if("labels", &pass.labels)?;
    let row = DistilArgs {
        student,
        teacher: 0,
        loss: binder.output("loss", &mut pass.loss)?.address,
        labels: if counts { labels } else { 0 },
        weights: binder.input_if("weights", &pass.weights)?,
        rows: pass.rows as u64,
        vocab: pass.vocab as u32,
        ignored: pass.ignored,
        exponent: exponent(pass.temperature),
        temperature: pass.temperature,
        lambda: pass.lambda,
        scale: pass.scale,
        beta: 0.0,
        writes,
    };
    let (rows, bytes, dtype) = (pass.rows, pass.vocab as u64 * L::DTYPE.size() as u64, [L::DTYPE.name()]);
    let launch = match &pass.teacher {
        Teacher::None => {
            let blocks = blocks(queue.limits(), rows, bytes);
            Launch::new(Symbol::new("distil", "labels", &dtype), blocks, THREADS, &row)
        }
        Teacher::Logits { by, logits } => {
            let (variant, beta) = match by {
                Divergence::Forward => ("forward", 0.0),
                Divergence::Reverse => ("reverse", 0.0),
                Divergence::Jsd(beta) => ("jsd", *beta),
            };
            let args = DistilArgs { teacher: binder.input("teacher", logits)?.address, beta, ..row };
            let blocks = blocks(queue.limits(), rows, 2 * bytes);
            Launch::new(Symbol::new("distil", variant, &dtype), blocks, THREADS, &args)
        }
        Teacher::TopK { k, tail, tokens, log_probs } => {
            let tokens = binder.input("tokens", tokens)?.address;
            let log_probs = binder.input("log_probs", log_probs)?.address;
            let args = KnownArgs { row, tokens, log_probs, k: *k as u32, lumped: u32::from(*tail == Tail::Lumped) };
            let blocks = blocks(queue.limits(), rows, bytes);
            let symbol = Symbol::new("distil_known", "known", &dtype);
            Launch::new(symbol, blocks, THREADS, &args).shared_bytes(known_shared(queue.limits(), pass.vocab, *k)?)
        }
    };
    queue.launch(launch);
    Ok(())
}

/// Shared memory of a block that takes a row with k known tokens: a bit a token, and the k logits.
fn known_shared(limits: &Limits, vocab: usize, k: usize) -> Result<u32> {
    let bytes = 4 * (vocab as u64 / 32 + 2 + k as u64);
    match bytes + STATIC_SHARED <= u64::from(limits.max_shared_bytes) {
        true => Ok(bytes as u32),
        false => Err(unsupported("a top-k teacher", "a bit a token and k numbers do not fit a block's shared memory")),
    }
}

/// One kernel.
pub(super) fn top_k<'g, S: DeviceSpace, L: Float>(
    pass: &'g mut TopK<'_, S, L>,
    binder: &mut Binder<'g, S>,
    queue: &mut Queue,
) -> Result<()> {
    let row = DistilArgs {
        student: binder.input("teacher", &pass.teacher)?.address,
        rows: pass.rows as u64,
        vocab: pass.vocab as u32,
        exponent: exponent(pass.temperature),
        temperature: pass.temperature,
        ..bytemuck::Zeroable::zeroed()
    };
    let tokens = binder.output("tokens", &mut pass.tokens)?.address;
    let log_probs = binder.output("log_probs", &mut pass.log_probs)?.address;
    let args = KnownArgs { row, tokens, log_probs, k: pass.k as u32, lumped: 0 };
    let blocks = blocks(queue.limits(), pass.rows, pass.vocab as u64 * L::DTYPE.size() as u64);
    let symbol = Symbol::new("distil_known", "top", &[L::DTYPE.name()]);
    queue.launch(Launch::new(symbol, blocks, THREADS, &args));
    Ok(())
}

/// The blocks' shares, their sum, and the gradient by it.
pub(super) fn squarehead<'g, S: DeviceSpace, L: Float>(
    pass: &'g mut SquareHead<'_, S, L>,
    binder: &mut Binder<'g, S>,
    queue: &mut Queue,
) -> Result<()> {
    let (needed, got) = (SquareHead::workspace_bytes(), pass.workspace.as_ref().map_or(0, Array::elements));
    if got < needed {
        return Err(Error::Workspace { needed: needed as u64, got: got as u64 });
    }
    let blocks = pass.elements.div_ceil(SQUARE_RUN * SQUARE_THREADS as usize).min(SQUARE_BLOCKS) as u32;
    let args = SquaresArgs {
        student: binder.output("student", &mut pass.student)?.address,
        teacher: binder.input("teacher", &pass.teacher)?.address,
        loss: binder.output("loss", &mut pass.loss)?.address,
        sums: binder.output_if("workspace", &mut pass.workspace)?,
        elements: pass.elements as u64,
        blocks,
        epsilon: pass.epsilon,
        scale: pass.scale,
        unused: 0,
    };
    let symbol = |variant, types: &[&str]| Symbol::new("distil_squares", variant, types);
    let dtype = [L::DTYPE.name()];
    queue.launch(Launch::new(symbol("squares", &dtype), blocks, SQUARE_THREADS, &args));
    queue.launch(Launch::new(symbol("share", &[]), blocks.min(1), SQUARE_THREADS, &args));
    queue.launch(Launch::new(symbol("pull", &dtype), blocks, SQUARE_THREADS, &args));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::constants::Cuda;
    use crate::distil::LEAST_REST;

    #[test]
    fn constants_are_those_of_the_kernels() {
        let cuda = Cuda::read("distil_known.cu");
        assert_eq!(u64::from(THREADS), cuda.constant("kThreads"));
        assert!(cuda.has("constexpr double kLeastRest = 1.0 / (1 << 20);"));
        assert_eq!(f64::from(LEAST_REST), 1.0 / f64::from(1 << 20));
        let of_a_row = [THREADS, ROWS_PER_MULTIPROCESSOR].map(u64::from);
        for variant in ["known", "top"] {
            assert_eq!(cuda.bounds(&format!("twofour_distil_{variant}_T")), of_a_row, "{variant}");
        }
        let cuda = Cuda::read("distil.cu");
        for variant in ["labels", "forward", "reverse", "jsd"] {
            assert_eq!(cuda.bounds(&format!("twofour_distil_{variant}_T")), of_a_row, "{variant}");
        }
        let cuda = Cuda::read("distil_squares.cu");
        assert_eq!(u64::from(SQUARE_THREADS), cuda.constant("kThreads"));
        assert_eq!(SQUARE_RUN as u64, cuda.constant("kRun"));
    }
}
