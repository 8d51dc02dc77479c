//! A model that is in memory as a whole, its linear layers of any kind, with the gradient of its loss: what masks are
//! learnt on. All but the linear layers is frozen.

mod block;
mod decode;
mod loss;

pub use decode::Cache;
pub use loss::Teaching;

use super::attention::Positions;
use super::{Config, EMBEDDING, Head, Model};
use crate::Failure;
use block::{Block, Trace};
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use candle_nn::{Linear, Module};
use std::sync::Arc;

/// Gets each linear layer whose part of a backward pass was made, and the gradients that came of it.
pub type Gradients<'f, L> = dyn FnMut(&L, &mut GradStore) -> Result<(), Failure> + 'f;

/// A model with linear layers of a kind. Its weights are f32, on the device of the [`Model`] that it is made of.
#[derive(Debug)]
pub struct Network<L> {
    config: Arc<Config>,
    positions: Arc<Positions>,
    device: Device,
    /// `[vocabulary, d]`.
    embedding: Tensor,
    blocks: Vec<Block<L>>,
    head: Head,
    recompute: bool,
}

/// What is kept of a block until its backward pass.
enum Kept {
    Trace(Box<Trace>),
    /// What it read: its forward pass is made again.
    Input(Tensor),
}

impl<L: Module> Network<L> {
    /// Of a checkpoint; `layer` makes each linear layer, in the order of [`Model::linears`], from its name, weight and
    /// bias.
    ///
    /// # Errors
    /// A weight cannot be read; what `layer` returns.
    pub fn new(model: &Model, mut layer: impl FnMut(&str, Linear) -> Result<L, Failure>) -> Result<Self, Failure> {
        let config = Arc::clone(&model.config);
        let blocks = (0..config.blocks).map(|i| Block::new(model.block(i)?, &config, &mut layer));
        let blocks = blocks.collect::<Result<_, _>>()?;
        let embedding = model.tensor(EMBEDDING)?;
        let head = match config.tied {
            true => Head::new(model.tensor(super::LAST_NORM)?, embedding.clone(), config.eps),
            false => model.head()?,
        };
        let (positions, device) = (Arc::clone(&model.positions), model.device.clone());
        Ok(Self { config, positions, device, embedding, blocks, head, recompute: false })
    }

    /// Keeps of each block only what it read, and makes its forward pass once more when the backward pass comes to it:
    /// a third more work, and a fraction of the memory.
    #[must_use]
    pub fn recompute(self, recompute: bool) -> Self {
        Self { recompute, ..self }
    }

    /// Its linear layers by name, in the order of [`Model::linears`].
    pub fn linears(&self) -> impl Iterator<Item = (&str, &L)> {
        self.blocks.iter().flat_map(|block| block.linears.iter().map(|(name, layer)| (name.as_str(), layer)))
    }

    /// All weights beside the linear layers.
    pub(crate) fn frozen(&self) -> impl Iterator<Item = &Tensor> {
        let own = [Some(&self.embedding), Some(&self.head.norm), (!self.config.tied).then_some(&self.head.weight)];
        own.into_iter().flatten().chain(self.blocks.iter().flat_map(Block::norms))
    }

    /// Negative log-likelihoods, in nats, of all tokens of windows of a length but each one's first.
    ///
    /// # Errors
    /// The tokens are no whole windows; what a layer returns.
    pub fn losses(&self, tokens: &[u32], length: usize) -> Result<Vec<f32>, Failure> {
        let states = self.states(tokens, length)?;
        let mut losses = Vec::new();
        for (i, window) in tokens.chunks_exact(length).enumerate() {
            losses.extend(self.head.losses(&states.narrow(0, i * length, length - 1)?, &window[1..])?);
        }
        Ok(losses)
    }

    /// Hidden states `[B·T, d]` behind the last block, of tokens of windows of a length T.
    ///
    /// # Errors
    /// As [`losses`](Self::losses).
    pub fn states(&self, tokens: &[u32], length: usize) -> Result<Tensor, Failure> {
        let mut x = self.embed(tokens, length)?;
        for block in &self.blocks {
            x = block.forward(&x, length, &self.positions, false)?.0;
        }
        Ok(x)
    }

    /// The mean loss, in nats, of predicting each token's next, and its backward pass: `done` gets each linear layer
    /// with the gradients that its own part of the pass gave, from the last to the first. Windows have T + 1 tokens.
    ///
    /// # Errors
    /// The tokens are no whole windows; what a layer or `done` returns.
    pub fn backward(&self, windows: &[u32], length: usize, done: &mut Gradients<'_, L>) -> Result<f64, Failure> {
        self.backward_of(windows, length, None, done)
    }

    /// The same of what is taught by a teacher with the same head, whose hidden states `[B·T, d]` behind the last block
    /// are given.
    ///
    /// # Errors
    /// As [`backward`](Self::backward); a temperature or a share that is no number for it.
    pub fn backward_of(
        &self,
        windows: &[u32],
        length: usize,
        teacher: Option<(&Tensor, Teaching)>,
        done: &mut Gradients<'_, L>,
    ) -> Result<f64, Failure> {
        let (read, next) = split(windows, length)?;
        let mut x = self.embed(&read, length)?;
        let mut kept = Vec::new();
        for block in &self.blocks {
            let (next, trace) = block.forward(&x, length, &self.positions, !self.recompute)?;
            kept.push(if self.recompute { Kept::Input(x) } else { Kept::Trace(Box::new(trace)) });
            x = next;
        }
        let (loss, mut gradient) = self.head.gradient(&x, &next, teacher)?;
        for (block, kept) in self.blocks.iter().zip(kept).rev() {
            let trace = match kept {
                Kept::Trace(trace) => trace,
                Kept::Input(x) => Box::new(block.forward(&x, length, &self.positions, true)?.1),
            };
            gradient = block.backward(*trace, length, &self.positions, gradient, done)?;
        }
        Ok(loss)
    }

    fn embed(&self, tokens: &[u32], length: usize) -> Result<Tensor, Failure> {
        whole(tokens, length)?;
        self.rows(tokens)
    }

    /// The rows of the embedding.
    fn rows(&self, tokens: &[u32]) -> Result<Tensor, Failure> {
        if let Some(&id) = tokens.iter().find(|&&id| id as usize >= self.config.vocabulary) {
            return Err(format!("token {id} is not of the vocabulary, which ends at {}", self.config.vocabulary).into());
        }
        let ids = Tensor::from_slice(tokens, tokens.len(), &self.device)?;
        Ok(self.embedding.index_select(&ids, 0)?)
    }
}

/// Refuses tokens that are no whole windows of a length, from which something is predicted.
fn whole(tokens: &[u32], length: usize) -> Result<(), Failure> {
    match length < 2 || tokens.is_empty() || !tokens.len().is_multiple_of(length) {
        true => Err(format!("{} tokens are no windows of {length}", tokens.len()).into()),
        false => Ok(()),
    }
}

/// What is read of windows of T + 1 tokens, all but each one's last.
pub(crate) fn read(windows: &[u32], length: usize) -> Result<Vec<u32>, Failure> {
    Ok(split(windows, length)?.0)
}

/// What is read of windows of T + 1 tokens, and what follows each.
fn split(windows: &[u32], length: usize) -> Result<(Vec<u32>, Vec<u32>), Failure> {
    let of = length.saturating_add(1);
    whole(windows, of)?;
    let windows = windows.chunks_exact(of);
    let read = windows.clone().flat_map(|window| &window[..length]).copied().collect();
    Ok((read, windows.flat_map(|window| &window[1..]).copied().collect()))
}
