//! Running a model over windows.

use super::Window;
use crate::Failure;
use crate::model::{Block, Model};
use candle_core::Tensor;

/// Tokens that go through a block together, at least, if windows are shorter.
const TOGETHER: usize = 512;
/// Bytes of hidden states at a time, at least; and of the model in f32 the part that they may take otherwise.
const LEAST: usize = 64 << 20;
const PART: usize = 8;

/// Negative log-likelihoods of the predicted tokens of windows, in nats, a list a window. `change` may change a block
/// before it is run, and is called for each block in order; if the hidden states of all windows are too large for the
/// memory that a model of this size may take, for all of them several times. `done` is called after each step of so
/// many.
///
/// # Errors
/// The model cannot be read; a token is not of its vocabulary; what `change` returns.
pub fn losses(
    model: &Model,
    tokens: &[u32],
    windows: &[Window],
    change: &mut dyn FnMut(&mut Block) -> Result<(), Failure>,
    done: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Vec<f32>>, Failure> {
    let longest = windows.iter().map(|window| window.tokens.len()).max().unwrap_or(1);
    let budget = LEAST.max(model.config().weights() * 4 / PART);
    let round = (budget / 4 / model.config().hidden / longest).max(1);
    let rounds = windows.chunks(round);
    let (mut step, steps) = (0, rounds.len() * (model.blocks() + 1));
    let mut all = Vec::with_capacity(windows.len());
    for windows in rounds {
        let mut batches = embed(model, tokens, windows)?;
        for i in 0..model.blocks() {
            let mut block = model.block(i)?;
            change(&mut block)?;
            for x in &mut batches {
                *x = block.run(x)?;
            }
            step += 1;
            done(step, steps);
        }
        let head = model.head()?;
        let rows = batches.iter().flat_map(|x| (0..x.dims()[0]).map(move |i| x.get(i)));
        for (x, window) in rows.zip(windows) {
            // The state of a token predicts the next.
            let (first, count) = (window.predicted.start - 1 - window.tokens.start, window.predicted.len());
            all.push(head.losses(&x?.narrow(0, first, count)?, &tokens[window.predicted.clone()])?);
        }
        step += 1;
        done(step, steps);
    }
    Ok(all)
}

/// Hidden states `[B, T, d]` of windows of a length, a few at a time.
fn embed(model: &Model, tokens: &[u32], windows: &[Window]) -> Result<Vec<Tensor>, Failure> {
    let alike = windows.chunk_by(|a, b| a.tokens.len() == b.tokens.len());
    let batches: Vec<&[Window]> =
        alike.flat_map(|same| same.chunks((TOGETHER / same[0].tokens.len()).max(1))).collect();
    let read: Vec<u32> = windows.iter().flat_map(|window| tokens[window.tokens.clone()].iter().copied()).collect();
    // The embedding is read once.
    let x = model.embed(&Tensor::new(read, model.device())?.unsqueeze(0)?)?;
    let mut start = 0;
    batches
        .into_iter()
        .map(|batch| {
            let (b, t) = (batch.len(), batch[0].tokens.len());
            let part = x.narrow(1, start, b * t)?.reshape((b, t, model.config().hidden))?;
            start += b * t;
            Ok(part)
        })
        .collect()
}
