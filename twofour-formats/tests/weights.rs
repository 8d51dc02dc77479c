//! The suite of compressed weights: golden files, files made by a writer of its own and by the `safetensors` crate, and what
//! goes wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)]
#[path = "../../tests/compress/any.rs"]
mod any;
#[path = "weights/bitmask.rs"]
mod bitmask;
#[path = "weights/golden.rs"]
mod golden;
#[path = "weights/hostile.rs"]
mod hostile;
#[path = "weights/make.rs"]
mod make;
#[path = "weights/places.rs"]
mod places;
#[path = "weights/roundtrip.rs"]
mod roundtrip;
#[path = "weights/shards.rs"]
mod shards;
#[path = "weights/weights.rs"]
mod weights;
#[path = "weights/writing.rs"]
mod writing;
