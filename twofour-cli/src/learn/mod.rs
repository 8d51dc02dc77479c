//! `twofour learn`: 2:4 masks learnt on a language model's own loss, its weights frozen (MaskLLM, arXiv 2409.17481).
//!
//! `masked` has the model and its steps, `summed` the steps of several micro-batches; `prior` what is learnt from,
//! `text` what is seen; `state` saves and goes on; `curve` says how far it is; `run` is the command.

mod args;
mod curve;
mod heap;
mod masked;
mod prior;
mod room;
mod run;
mod settings;
mod state;
mod stop;
mod summed;
mod text;

pub use args::Args;
pub use curve::{Curve, Point};
pub use masked::{Learning, Masked};
pub use prior::Prior;
pub use run::run;
pub use settings::{Memory, Settings};
pub(crate) use stop::Stopped;
pub use text::Windows;

use crate::Failure;
use candle_core::{Device, Tensor};
use sha2::{Digest as _, Sha256};

/// Tokens that go through the model together where no gradient is wanted.
const TOGETHER: usize = 1024;

/// A sum over what a run is made of.
#[derive(Default)]
struct Digest(Sha256);

impl Digest {
    fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn add_tensor(&mut self, tensor: &Tensor) -> Result<(), Failure> {
        let values = tensor.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
        self.add(bytemuck::cast_slice(&values));
        Ok(())
    }

    fn of_tokens(tokens: &[u32]) -> String {
        let mut digest = Self::default();
        digest.add(bytemuck::cast_slice(tokens));
        digest.finish()
    }

    /// The first 64 bits.
    fn finish(self) -> String {
        self.0.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
