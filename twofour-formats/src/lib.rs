//! Compressed weights in files: written and read as [safetensors](https://github.com/huggingface/safetensors), and read
//! from `sparse-24-bitmask` and `sparse-bitmask` checkpoints. [`masks`] reads and writes masks without weights, as
//! MaskLLM and PATCH publish them.
//!
//! A file holds what does not depend on a device or a library: kept values and codes in canonical order
//! ([`Compressed`](twofour::compress::Compressed)). Layouts that a kernel or cuSPARSELt reads are made from it when it
//! is loaded, and never stored.
//!
//! ```
//! use twofour::compress::Compressed;
//! use twofour::{Shape, f16};
//! use twofour_formats::{Manifest, Reader, TensorType};
//!
//! # fn main() -> twofour_formats::Result<()> {
//! let shape = Shape::new(8, 16);
//! let dense: Vec<f16> = (0..shape.weights()).map(|i| f16::from_f32(i as f32 / 7.0)).collect();
//! let compressed = Compressed::by_magnitude(shape, &dense)?;
//!
//! // What will be in the file, and then the tensors in any order; `save` does the same to a path.
//! let mut manifest = Manifest::new();
//! manifest.weight("mlp.up.weight", compressed.value_type(), shape)?;
//! manifest.tensor("mlp.up.bias", TensorType::F16, &[8])?;
//! let bytes = manifest.to_bytes(|file| {
//!     file.weight("mlp.up.weight", &compressed)?;
//!     file.tensor("mlp.up.bias", &[0; 16])
//! })?;
//!
//! // `Reader::open` reads a file's header, and each tensor when it is asked for.
//! let reader = Reader::from_bytes(&bytes)?;
//! assert_eq!(reader.compressed::<f16>("mlp.up.weight")?, compressed);
//! assert_eq!(reader.tensor("mlp.up.bias")?.len(), 16);
//! # Ok(())
//! # }
//! ```
//!
//! # The format, version 1
//!
//! A safetensors file: 8 bytes with the length of the header, little-endian; the header, JSON, padded with blanks to a
//! multiple of 8; the tensors, little-endian, row-major, without gaps. A weight `W [N, K]` named `<name>` is two
//! tensors and an entry of the header's `__metadata__`; the file is marked by one more entry:
//!
//! | tensor | type | shape | holds |
//! | --- | --- | --- | --- |
//! | `<name>.values` | `F16`, `BF16`, `F32`, `I8`, `F8_E4M3` or `F8_E5M2` | `[N, K/2]` | kept values, row-major, in the order of their columns |
//! | `<name>.codes` | `U8` | `[ceil(G/2)]` | a code for each of the `G` groups, row-major, two a byte, the even one in the low half; an unused last half is 0 |
//!
//! | entry | value |
//! | --- | --- |
//! | `twofour.version` | `1` |
//! | `twofour.weight.<name>` | JSON: `{"shape":[N,K],"dtype":"bf16","sparsity":"2:4","axis":1}` |
//!
//! | field | |
//! | --- | --- |
//! | `shape` | that of the dense weight; K is a multiple of 4 |
//! | `dtype` | `f16`, `bf16`, `f32`, `i8`, `e4m3` or `e5m2`: the type of `<name>.values` |
//! | `sparsity` | `2:4`: a group is four consecutive values and keeps two. `1:2`, where values are `f32`: of two it keeps one, as tensor cores read tf32 |
//! | `axis` | along which groups run: 1, the last, is the only one in version 1 |
//!
//! A code is `i0 + 4·i1` for the kept positions `i0 < i1` of a group of four: 4, 8, C, 9, D or E; for a group of two, 4
//! keeps the first value and E the second. With an odd number of groups in a row, a row begins in the middle of a byte.
//! There are `G = N·K/4` groups, with `1:2` `N·K/2`.
//!
//! **Everything else is carried along**: a tensor that belongs to no weight (embeddings, norms, biases, scales) keeps
//! its name, type, shape and bytes, and other entries of `__metadata__` stay. No tensor has the name of a compressed
//! weight. [`Manifest`] orders tensors by type and then by name, as the `safetensors` library does, so that each is
//! aligned in the file; readers must not rely on that.
//!
//! **Versions.** A file with another version is refused with an error that says so. What a file of version 1 means will
//! not change; whatever cannot be said in it becomes version 2.
//!
//! # `sparse-24-bitmask` and `sparse-bitmask`
//!
//! Retired formats of `compressed-tensors` (written until 2026 by llm-compressor, vLLM read them). [`Reader`] knows
//! them by their tensors, so that `config.json` is not needed, and gives their weights as it gives others:
//!
//! | tensor | type | shape | holds |
//! | --- | --- | --- | --- |
//! | `<module>.compressed` | of the values | `[N, K/2]` | kept values, row-major |
//! | `<module>.bitmask` | `U8` | `[N, ceil(K/8)]` | bit `j % 8` (the lowest is 0) of byte `j / 8`: column `j` is kept |
//! | `<module>.shape` | `I64` | `[2, 1]` | N, K |
//! | `<module>.row_offsets` | `I64` | `[N]` | `sparse-bitmask` alone: how many values the rows before have; its kept values are a list |
//!
//! The weight is `<module>.weight`. See [`bitmask`] for groups that do not keep two, and for `f32`.
//!
//! # Files that are not what they say
//!
//! Every number of a header is checked against the bytes that are there before anything is allocated by it; opening
//! checks all shapes, types and lengths, reading a weight checks its codes. What is wrong is an [`Error`]
//! that names file, tensor or weight, and group. Reading allocates a small multiple of the file's size at most.
//!
//! Writing is atomic: into a new file beside, which is synced and then renamed. After an error the old file is
//! as it was; its permissions are kept, and a symbolic link stays and what it leads to is replaced. What is no regular
//! file (a device, a FIFO, a socket, a folder) is an error and left alone. [`Staged`] files take their places together.
//!
//! Of a model in shards the index decides which copy of a tensor counts; what else is in a file is left out.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod atomic;
pub mod bitmask;
mod check;
mod dtype;
mod error;
mod header;
pub mod masks;
mod reader;
mod record;
mod shards;
mod source;
pub mod state;
mod view;
mod weight;
mod writer;

pub use atomic::Staged;
pub use dtype::TensorType;
pub use error::{Error, Result};
pub use header::TensorInfo;
pub use reader::Reader;
pub use record::{Encoding, WeightInfo};
pub use shards::{Index, Model};
pub use twofour;
pub use view::WeightView;
pub use weight::Weight;
pub use writer::{Manifest, Writer};

use std::fmt::Display;

/// The README's code, compiled and run by `cargo test`.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;

/// The version of the format that is written, and the only one that is read.
pub const VERSION: u32 = 1;

/// Entries of `__metadata__` that belong to the format.
const RESERVED: &str = "twofour.";
const VERSION_ENTRY: &str = "twofour.version";
const WEIGHT_ENTRY: &str = "twofour.weight.";

/// The error of a file.
fn wrong(path: impl Display, problem: impl Display) -> Error {
    Error::File { path: path.to_string(), problem: problem.to_string() }
}

/// The error of a weight in a file.
fn in_weight(path: impl Display, name: &str, error: impl Into<Error>) -> Error {
    Error::InWeight { path: path.to_string(), name: name.to_owned(), error: Box::new(error.into()) }
}
