//! This crate's kernels, each on many problems and in parts as they are told, against products in `f64` (integers: `i64`) of
//! the weight before it was compressed.

mod case;
mod positions;
mod problems;
mod values;
