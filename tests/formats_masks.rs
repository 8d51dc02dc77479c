//! The suite of `formats::masks`: files that NumPy wrote, files that NumPy reads, every form into every other, and what
//! goes wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "formats_masks/archives.rs"]
mod archives;
#[path = "formats_masks/base6.rs"]
mod base6;
#[path = "formats_masks/forms.rs"]
mod forms;
#[path = "formats_masks/groups.rs"]
mod groups;
#[path = "formats_masks/make.rs"]
mod make;
#[path = "formats_masks/numpy.rs"]
mod numpy;
#[path = "formats_masks/tensors.rs"]
mod tensors;
#[path = "formats_masks/writing.rs"]
mod writing;
