//! placeholder docs
pub mod element;
pub mod error;
pub mod device;
pub use error::{Error, Result};
