#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod array;
mod claim;
mod compressed;
mod engine;
mod frozen;
mod fused;
mod learner;
mod masked;
mod number;
pub mod ops;
mod place;
mod relu_mlp;
mod sampler;
mod stepper;

pub use compressed::CompressedLinear;
pub use engine::Engine;
pub use frozen::FrozenMaskLinear;
pub use fused::FusedLinear;
pub use learner::{Learner, Moments};
pub use masked::MaskedLinear;
pub use relu_mlp::{ReluDecoder, ReluMlp};
pub use sampler::{Mode, Sampler, Settings};
pub use twofour;
pub use twofour_formats;
