//! The suite of `formats`: golden files, files made by a writer of its own and by the `safetensors` crate, and what
//! goes wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)]
#[path = "compress/any.rs"]
mod any;
#[path = "formats/bitmask.rs"]
mod bitmask;
#[path = "formats/golden.rs"]
mod golden;
#[path = "formats/hostile.rs"]
mod hostile;
#[path = "formats/make.rs"]
mod make;
#[path = "formats/roundtrip.rs"]
mod roundtrip;
#[path = "formats/shards.rs"]
mod shards;
#[path = "formats/weights.rs"]
mod weights;
#[path = "formats/writing.rs"]
mod writing;
