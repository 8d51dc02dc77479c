//! Language models of LLaMA's family, a block at a time.
//!
//! [`Model::open`] reads what a checkpoint says of itself and checks it; weights are read when they are asked for. A
//! run of the model is a walk over its blocks with the hidden states of all windows: [`embed`](Model::embed), then each
//! [`block`](Model::block), then the [`head`](Model::head). So one block is in memory, in f32, and the hidden states.
//!
//! ```no_run
//! # fn main() -> Result<(), twofour_cli::Failure> {
//! use candle_core::{Device, Tensor};
//! use twofour_cli::model::Model;
//!
//! let model = Model::open("SmolLM2-135M-Instruct.Q4_1.gguf", &Device::Cpu)?;
//! let tokens = Tensor::new(&[[504u32, 2365, 6354]], model.device())?; // [B, T]
//! let mut x = model.embed(&tokens)?; // [B, T, d]
//! for i in 0..model.blocks() {
//!     x = model.block(i)?.forward(&x, &mut |names, input| {
//!         println!("{names:?} read {:?}", input.shape()); // [B, T, K]
//!         Ok(())
//!     })?;
//! }
//! let losses = model.head()?.losses(&x.get(0)?.narrow(0, 0, 2)?, &[2365, 6354])?;
//! # let _ = losses;
//! # Ok(())
//! # }
//! ```
//!
//! Whatever a checkpoint's format, weights have the names that Hugging Face's libraries give them, shapes `[N, K]`, and
//! the rows of q and k stand as those libraries' rotary positions want them.

mod attention;
mod block;
mod config;
mod fused;
mod gguf;
mod head;
mod network;
mod rows;
mod save;
mod source;
mod spm;
mod tokenizer;

pub use block::{Block, Inputs, Linear};
pub use config::{Config, Kind, Scaling};
pub use head::Head;
pub(crate) use network::read;
pub use network::{Cache, Gradients, Network, Teaching};
pub use save::Saved;
pub(crate) use save::copy_beside;
pub(crate) use source::{dense, is_gguf};

use crate::Failure;
use attention::Positions;
use candle_core::{Device, Tensor};
use source::Source;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use twofour::Shape;
use twofour_formats::masks::Shapes;

const EMBEDDING: &str = "model.embed_tokens.weight";
const LAST_NORM: &str = "model.norm.weight";
const HEAD: &str = "lm_head.weight";

/// A checkpoint: a folder as of Hugging Face, or a GGUF file. See the [module](self).
#[derive(Debug)]
pub struct Model {
    path: PathBuf,
    config: Arc<Config>,
    source: Source,
    positions: Arc<Positions>,
    device: Device,
}

impl Model {
    /// Opens a folder with `config.json` and safetensors, or a GGUF file, and checks that all weights are there and of
    /// their shapes. Weights are read later, in f32, onto the device.
    ///
    /// # Errors
    /// What is wrong with the checkpoint, in a sentence: no model, a missing shard or weight, a wrong shape or type, an
    /// architecture, a scaling of positions or a quantisation that is not read.
    pub fn open(path: impl AsRef<Path>, device: &Device) -> Result<Self, Failure> {
        let path = path.as_ref();
        let (config, source) = source::open(path)?;
        let model = Self {
            path: path.to_owned(),
            positions: Arc::new(Positions::new(&config, device)),
            config: Arc::new(config),
            source,
            device: device.clone(),
        };
        for (name, shape) in model.config.tensors() {
            model.source.check(&name, &shape)?;
        }
        Ok(model)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sizes and kind.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The device that weights are put on.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The checkpoint's tokenizer.
    ///
    /// # Errors
    /// There is none, or it is of a kind that is not read.
    pub fn tokenizer(&self) -> Result<tokenizers::Tokenizer, Failure> {
        self.source.tokenizer(&self.path)
    }

    /// Number of blocks.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.config.blocks
    }

    /// Names and shapes `[N, K]` of all linear layers of the blocks, in the order of the walk: a block's q, k, v, o,
    /// gate, up, down. No weight is read.
    #[must_use]
    pub fn linears(&self) -> Vec<(String, Shape)> {
        (0..self.blocks()).flat_map(|i| self.config.linears(i)).collect()
    }

    /// Names of linear layers of the blocks that the checkpoint holds compressed.
    pub(crate) fn compressed(&self) -> Vec<String> {
        let is = |(name, _): (String, Shape)| self.source.is_compressed(&name).then_some(name);
        self.linears().into_iter().filter_map(is).collect()
    }

    /// The shapes of all matrices, embedding and head among them, for files of masks that hold none.
    #[must_use]
    pub fn shapes(&self) -> Shapes {
        let matrix = |(name, shape): (String, Vec<usize>)| match shape[..] {
            [rows, cols] => Some((name, Shape::new(rows, cols))),
            _ => None,
        };
        self.config.tensors().into_iter().filter_map(matrix).collect()
    }

    /// Checks that token ids are of the vocabulary.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check_tokens(&self, tokens: &[u32]) -> Result<(), Failure> {
        match tokens.iter().position(|&id| id as usize >= self.config.vocabulary) {
            None => Ok(()),
            Some(at) => Err(format!(
                "token {at} is {}, and the vocabulary of {} ends at {}: are the tokens of another model?",
                tokens[at],
                self.path.display(),
                self.config.vocabulary - 1
            )
            .into()),
        }
    }

    /// Hidden states `[B, T, d]`, f32, of token ids `[B, T]`, u32.
    ///
    /// # Errors
    /// As [`check_tokens`](Self::check_tokens); the weight cannot be read.
    pub fn embed(&self, tokens: &Tensor) -> Result<Tensor, Failure> {
        self.check_tokens(&tokens.flatten_all()?.to_vec1::<u32>()?)?;
        let (b, t) = tokens.dims2()?;
        let rows = self.tensor(EMBEDDING)?.index_select(&tokens.flatten_all()?.to_device(&self.device)?, 0)?;
        Ok(rows.reshape((b, t, self.config.hidden))?)
    }

    /// A block, with its weights.
    ///
    /// # Errors
    /// There is no such block, or a weight cannot be read.
    pub fn block(&self, i: usize) -> Result<Block, Failure> {
        if i >= self.blocks() {
            return Err(format!("{} has no block {i}: it has {}", self.path.display(), self.blocks()).into());
        }
        Block::load(self, i)
    }

    /// What follows the last block.
    ///
    /// # Errors
    /// A weight cannot be read.
    pub fn head(&self) -> Result<Head, Failure> {
        let weight = self.tensor(if self.config.tied { EMBEDDING } else { HEAD })?;
        Ok(Head::new(self.tensor(LAST_NORM)?, weight, self.config.eps))
    }

    /// A weight by its name, f32, on the device.
    ///
    /// # Errors
    /// There is none of this name, or it cannot be read.
    pub fn tensor(&self, name: &str) -> Result<Tensor, Failure> {
        Ok(self.source.read(name)?.to_device(&self.device)?)
    }
}
