//! placeholder docs
pub mod device;
pub mod element;
pub mod error;
pub mod mask;
pub mod noise;
pub mod pattern;
pub mod shape;
pub mod space;

#[cfg(feature = "cuda")]
pub use cudarc;
pub use element::{DType, Element, Logit};
pub use error::{Error, Result};
pub use half::{bf16, f16};
pub use pattern::Pattern;
pub use shape::{Shape, Shard};
